"""What the compiled engine tells of the layers in a minibatch is what the reference tells, with the same bits for all
numbers of threads."""

import itertools
import math

import numpy as np
import pytest
from conftest import assert_close, draw_parameters

from cymlp import _engine, activations, optimizers, reference
from cymlp.engine import MONITORED

HIDDEN = [name for name, definition in activations.ACTIVATIONS.items() if definition.hidden]
SIZES, ROWS = (7, 33, 18, 5), 300
# Rows of a minibatch: one, about a tile's, all of them.
BATCHES = [1, 31, 128, 129, 300]
NORMALIZATIONS = {"none": None, "batch": ("batch", 1e-5, 0.1), "layer": ("layer", 1e-5)}
# Which are shares, counted: of elements or units.
COUNTED = ("zero", "dead", "saturated", "twins")
SQUARED = ("activation", "gradient")


class Case:
    """A network in both engines, and data for it."""

    def __init__(self, rng, dtype, hidden="tanh", kind="none", rates=None, sizes=SIZES, flat=None):
        self.sizes, self.dtype = sizes, dtype
        kinds = [NORMALIZATIONS[kind]] * (len(sizes) - 2) + [None]
        layers = [(hidden, 0.2)] * (len(sizes) - 2) + [("softmax", 0.0)]
        self.networks = [
            engine.Network(sizes, layers, ("categorical_cross_entropy", 1.0), dtype, kinds)
            for engine in (_engine, reference)
        ]
        self.flat = self._parameters(rng, kinds) if flat is None else flat
        self.X = rng.standard_normal((ROWS, sizes[0])).astype(dtype)
        self.y = rng.integers(0, sizes[-1], ROWS)
        self.weight = rng.uniform(0.5, 2, ROWS).astype(dtype)
        self.order = rng.permutation(ROWS).astype(np.int64)
        self.rule = optimizers.SGD(0.05).rule()
        if rates is not None:
            self.rule |= {"dropout": rates, "seed": 11}

    def _parameters(self, rng, kinds):
        parts = []
        for (n_in, n_out), kind in zip(itertools.pairwise(self.sizes), kinds, strict=True):
            parts += [draw_parameters(rng, (n_in, n_out), self.dtype)]
            parts += [] if kind is None else [rng.uniform(0.5, 1.5, n_out).astype(self.dtype)]
        return np.concatenate(parts)

    def train(self, network, batch, batches, n_threads, order):
        """The records of one epoch of minibatches of so many rows."""
        network.set_parameters(self.flat)
        network.reset_optimizer()
        records = np.full((len(batches), len(self.sizes), len(MONITORED)), np.nan)
        watched = np.array(batches, dtype=np.int64), records
        network.train_epoch(self.X, self.y, self.weight, order, batch, self.rule, n_threads, watched=watched)
        return records

    def gradients(self, network, n_threads=1):
        network.set_parameters(self.flat)
        record = np.full((len(self.sizes), len(MONITORED)), np.nan)
        dropout = (11, 1, self.rule["dropout"]) if "dropout" in self.rule else None
        out = np.empty_like(self.flat)
        network.gradients(self.X, self.y, self.weight, out, n_threads, dropout=dropout, record=record)
        return record[np.newaxis]

    def check(self, ours, theirs, batch):
        """Errors are those of passes, relative to the largest number of the column."""
        length = sum(self.sizes) + batch
        for number, name in enumerate(MONITORED):
            got, expected = ours[:, :, number], theirs[:, :, number]
            if name in COUNTED:
                np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=name)
                # In float32 one element in a tile may be so near to where it counts that rounding decides.
                units = np.array(self.sizes) * (1 if name in ("dead", "twins") else batch)
                near = 1 if self.dtype == np.float32 and name in ("zero", "dead", "saturated") else 0
                assert (np.nan_to_num(np.abs(got - expected)) * units <= near + 1e-6).all(), (name, got, expected)
                continue
            if name in SQUARED:
                got, expected = np.sqrt(got), np.sqrt(expected)
            for layer in range(len(self.sizes)):
                assert_close(got[:, layer], expected[:, layer], length, kind="pass", dtype=self.dtype)


@pytest.mark.parametrize(
    ("kind", "rates"), [("none", None), ("none", [0.25, 0.5, 0.0]), ("batch", [0.0, 0.25, 0.5]), ("layer", None)]
)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_records_are_those_of_the_reference(isa, dtype, hidden, kind, rates, rng):
    case = Case(rng, dtype, hidden, kind, rates)
    compiled, oracle = case.networks
    for batch in BATCHES:
        order = case.order[:12] if batch == 1 else case.order
        n_batches = math.ceil(len(order) / batch)
        batches = [0, 1, n_batches // 2, n_batches - 1] if n_batches > 3 else range(n_batches)
        first = case.train(compiled, batch, batches, 1, order)
        case.check(first, case.train(oracle, batch, batches, 1, order), batch)
        for n_threads in (2, 3, -2):
            np.testing.assert_array_equal(case.train(compiled, batch, batches, n_threads, order), first)
    ours = case.gradients(compiled)
    case.check(ours, case.gradients(oracle), ROWS)
    for n_threads in (2, 7):
        np.testing.assert_array_equal(case.gradients(compiled, n_threads), ours)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_records_of_larger_networks(isa, dtype, kind, rng):
    """Whose steps are taken in stages: of tiles of rows, and of blocks of weights."""
    case = Case(rng, dtype, "relu", kind, [0.0, 0.5, 0.0], (40, 301, 130, 5))
    compiled, oracle = case.networks
    for batch, batches, order in [(1, [0, 4], case.order[:5]), (37, [0, 1, 8], case.order), (300, [0], case.order)]:
        theirs = case.train(oracle, batch, batches, 1, order)
        ours = [case.train(compiled, batch, batches, n_threads, order) for n_threads in (1, 2, 3, 7, -2)]
        case.check(ours[0], theirs, batch)
        for again in ours[1:]:
            np.testing.assert_array_equal(again, ours[0])


def test_watching_changes_no_bit(isa, dtype, n_threads, rng):
    for sizes in (SIZES, (40, 301, 130, 5)):
        case = Case(rng, dtype, "tanh", "batch", [0.0, 0.5, 0.25], sizes)
        network, results = case.networks[0], []
        for watched in ([], [0], [1, 2], range(10)):
            case.train(network, 31, watched, n_threads, case.order)
            after = np.empty_like(case.flat)
            network.get_parameters(after)
            results.append((after.tobytes(), network.get_optimizer()[1]))
        assert len(set(results)) == 1

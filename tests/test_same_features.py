"""What training may ask for, all of it together: the compiled engine against the reference, over a generated matrix.

Normalisation, dropout, clipping, penalties, max-norm, optimisers, weights, numbers for each minibatch, odd sizes: a
case draws one of each.  The reference computes in float64; the compiled engine has the same bits for any number of
threads.
"""

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import assert_close, draw_targets

from cymlp import _engine, optimizers, reference

THREADS = (1, 2, 3, 5)
EPOCHS = 2

# Rounding errors come through a normalisation times 1 / sqrt(epsilon) at most, and through Adam times 1 / epsilon.
NORMALIZATIONS = {"plain": None, "batch": ("batch", 0.1, 0.2), "layer": ("layer", 0.1)}
OPTIMIZERS = (
    optimizers.SGD(0.01),
    optimizers.SGD(0.01, momentum=0.8),
    optimizers.SGD(0.01, momentum=0.8, nesterov=True),
    optimizers.RMSprop(0.01, epsilon=0.1),
    optimizers.Adam(0.02, epsilon=0.1),
    optimizers.Adam(0.02, epsilon=0.1, epsilon_hat=True),
    optimizers.AdamW(0.02, epsilon=0.1, weight_decay=0.1),
)
PENALTIES = (
    {},
    {"l1": 1e-3},
    {"l2": 0.02, "alpha": 0.1},
    {"l1": 1e-3, "l2": 0.02, "weight_decay": 0.1},
    {"l1": 1e-3, "alpha": 0.1, "weight_decay": 0.1, "penalize_biases": True},
)
CLIPPING = ({}, {"clip_value": 0.01}, {"clip_norm": 0.2}, {"clip_layer_norm": 0.1}, {"clip_norm": np.inf})
MAX_NORM = ({}, {"max_norm": 0.9})
PAIRS = (
    ("categorical_cross_entropy", "softmax", True),
    ("squared_error", "identity", False),
    ("binary_cross_entropy", "sigmoid", False),
    ("huber", "tanh", False),
    ("poisson", "softplus", False),
)
HIDDEN = ("tanh", "relu", "gelu", "sigmoid", "leaky_relu", "softplus", "silu", "elu", "identity")
RATES = (0.0, 0.1, 0.5, 0.9, 1.0)
# About vectors of 4, 8 and 16 numbers, and panels of two, three and four vectors.
WIDTHS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 33, 47, 49, 65)
BATCHES = (2, 3, 7, 16, 17, 33, 64)
# Sizes, rows and minibatch for which a step is mirrored, or takes blocks of weights, or does so in parts.
ROUTES = (
    ((20, 33, 9, 3), 142, 47),
    ((20, 100, 3), 49, 16),
    ((130, 400, 410, 6), 67, 33),
    ((120, 330, 40), 1299, 649),
)


class Case(NamedTuple):
    sizes: tuple
    rows: int
    batch: int
    kinds: tuple  # of normalisation, for each hidden layer
    hidden: str
    pair: tuple  # loss, output activation, whether targets are labels
    weights: str
    rule: dict[str, Any]
    seed: int

    @property
    def n_batches(self):
        return -(-self.rows // self.batch)

    @property
    def terms(self):
        """The reduction length of `training`."""
        return 2 * (sum(self.sizes) + self.batch) * self.n_batches * EPOCHS

    def network(self, engine, dtype):
        layers = [(self.hidden, 0.2)] * len(self.kinds) + [(self.pair[1], 0.0)]
        normalizations = [*(NORMALIZATIONS[kind] for kind in self.kinds), None]
        return engine.Network(self.sizes, layers, (self.pair[0], 0.7), dtype, normalizations)

    def parameters(self):
        """With which sums of a layer are of the order of 1."""
        rng, pieces = np.random.default_rng(self.seed), []
        for (n_in, n_out), kind in zip(itertools.pairwise(self.sizes), (*self.kinds, "plain"), strict=True):
            pieces += [rng.normal(0, 1 / np.sqrt(n_in), n_in * n_out), rng.normal(0, 0.1, n_out)]
            pieces += [rng.uniform(0.5, 1.5, n_out)] if kind != "plain" else []
        return np.concatenate(pieces)

    @property
    def n_statistics(self):
        return 2 * sum(n for n, kind in zip(self.sizes[1:-1], self.kinds, strict=True) if kind == "batch")

    def data(self, dtype):
        """X, y, weights in a dtype; weights with rows, and a whole minibatch, of weight 0."""
        rng = np.random.default_rng(self.seed + 1)
        X = rng.standard_normal((self.rows, self.sizes[0])).astype(dtype)
        y = draw_targets(rng, self.pair[0], self.rows, self.sizes[-1], dtype, self.pair[2])
        w = rng.uniform(0.5, 2, self.rows).astype(dtype)
        if self.weights == "zeros":
            w[rng.random(self.rows) < 0.3] = 0
            w[self.batch : 2 * self.batch] = 0
        return X, y, None if self.weights == "none" else w


def _numbers(case, rng):
    """A rule whose numbers change from minibatch to minibatch."""
    rule = dict(case.rule)
    for key in ("learning_rate", "momentum", "beta1", "weight_decay"):
        if key in rule:
            rule[key] = rule[key] * rng.uniform(0.5, 1, case.n_batches)
    if "dropout" in rule:
        rates = np.tile(rule["dropout"], (case.n_batches, 1))
        rule["dropout"] = np.where(rng.random(rates.shape) < 0.2, 0, rates)
    return case._replace(rule=rule)


def _draw_case(number, route=None):
    rng = np.random.default_rng(1000 + number)

    def pick(choices):
        """Each of them comes as often, in an order of its own for each number of choices."""
        return choices[rng.integers(len(choices))]

    if route is None:
        depth = 1 + number % 3
        sizes = tuple(int(pick(WIDTHS)) for _ in range(depth + 2))
        batch = pick(BATCHES)
        # The last minibatch is a whole one, or of 1 or 2 rows, or of all but one.
        rows = batch * int(rng.integers(2, 6)) + int(pick((0, 1, 2, batch - 1)))
    else:
        sizes, rows, batch = route
    kinds = tuple(pick(("plain", "batch", "batch", "layer")) for _ in sizes[1:-1])
    pair = pick(PAIRS)
    if pair[1] == "softmax" and sizes[-1] == 1:
        pair = PAIRS[1]
    rule = {**pick(OPTIMIZERS).rule(), **CLIPPING[number % 5], **PENALTIES[number // 5 % 5], **pick(MAX_NORM)}
    if number % 3:
        # One large rate at most: 0.9 multiplies by 10.
        rates = [float(pick(RATES[:3])) for _ in sizes[:-1]]
        rates[rng.integers(len(rates))] = pick(RATES[2:])
        rule |= {"dropout": rates, "seed": int(rng.integers(2**63)) * 2 + 1}
    case = Case(sizes, rows, batch, kinds, pick(HIDDEN), pair, pick(("none", "positive", "zeros")), rule, number)
    return _numbers(case, rng) if number % 4 == 3 else case


CASES = [_draw_case(number) for number in range(50)]
# Three of each route.
LARGE = [_draw_case(number, ROUTES[number % 4]) for number in range(100, 112)]


def _run(case, engine, dtype, data, n_threads=1):
    """All that comes of a gradient and of epochs: {what: array}, in the dtype of the engine."""
    network, flat = case.network(engine, dtype), case.parameters().astype(data[0].dtype).astype(dtype)
    X, y, w = (
        None if array is None else array.astype(dtype if array.dtype.kind == "f" else np.int64) for array in data
    )
    rates = case.rule.get("dropout")
    drops = None if rates is None else (case.rule["seed"], 2**32 + 7, rates[0] if np.ndim(rates) == 2 else rates)
    first, found = slice(0, case.batch), {}
    network.set_parameters(flat)
    gradient = np.full_like(flat, np.nan)
    part = None if w is None else w[first]
    found["loss of gradients"] = np.array(network.gradients(X[first], y[first], part, gradient, n_threads, drops))
    found["gradients"] = gradient
    order = np.random.default_rng(case.seed).permutation(case.rows)
    for epoch in range(EPOCHS):
        losses, norms = np.full((case.n_batches, 2), np.nan), np.full(case.n_batches, np.nan)
        mean, failed = network.train_epoch(X, y, w, order, case.batch, case.rule, n_threads, losses, norms)
        assert failed == -1
        found |= {f"mean {epoch}": np.array(mean), f"losses {epoch}": losses, f"norms {epoch}": norms}
    end, statistics = np.empty_like(flat), np.empty(case.n_statistics, dtype)
    network.get_parameters(end)
    network.get_statistics(statistics)
    answers = np.empty((case.rows, case.sizes[-1]), dtype)
    network.predict(X, answers, n_threads)
    return found | {"parameters": end, "statistics": statistics, "predictions": answers}


@functools.cache
def _desired(number, large, dtype):
    case = (LARGE if large else CASES)[number]
    return _run(case, reference, np.dtype(np.float64), case.data(dtype))


def _assert_same(number, large, dtype):
    case = (LARGE if large else CASES)[number]
    data, desired = case.data(dtype), _desired(number, large, dtype)
    found = [_run(case, _engine, dtype, data, n_threads) for n_threads in THREADS]
    for key, array in found[0].items():
        assert np.isfinite(array).all(), key
        for other, n_threads in zip(found[1:], THREADS[1:], strict=True):
            assert other[key].tobytes() == array.tobytes(), (key, n_threads)
        scale = max(1.0, np.abs(desired[key]).max(initial=0.0))
        assert_close(array, desired[key], case.terms, scale, kind="training", dtype=dtype)


def test_the_cases_have_everything():
    """Each choice is drawn, and not by a few cases only."""
    drawn = [*CASES, *LARGE]
    rules = [case.rule for case in drawn]
    for name in {optimizer.rule()["name"] for optimizer in OPTIMIZERS}:
        assert sum(rule["name"] == name for rule in rules) >= 3, name
    for key in (
        "clip_value",
        "clip_norm",
        "clip_layer_norm",
        "l1",
        "l2",
        "alpha",
        "weight_decay",
        "max_norm",
        "dropout",
    ):
        assert sum(key in rule for rule in rules) >= 8, key
    for kind in NORMALIZATIONS:
        assert sum(kind in case.kinds for case in drawn) >= 8, kind
    for name in HIDDEN:
        assert sum(case.hidden == name for case in drawn) >= 2, name
    for pair in PAIRS:
        assert sum(case.pair == pair for case in drawn) >= 4, pair
    last = [(case.rows - 1) % case.batch + 1 for case in drawn]
    assert sum(n == 1 for n in last) >= 8
    assert sum(np.ndim(rule["learning_rate"]) == 1 for rule in rules) >= 8
    rates = np.concatenate([np.ravel(rule["dropout"]) for rule in rules if "dropout" in rule])
    assert min((rates == rate).sum() for rate in (0, 0.1, 0.5, 0.9, 1)) >= 8
    assert sum(case.rule.get("dropout") is not None and "batch" in case.kinds for case in drawn) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)))
def test_everything_together(isa, dtype, number):
    _assert_same(number, False, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(LARGE)))
def test_everything_together_in_large_networks(isa, dtype, number):
    _assert_same(number, True, dtype)

"""Where training ends, starts again or has nothing to do: what both engines promise of it, and to the bit.

Failed minibatches, resumed epochs, rates and limits at their ends, minibatches without a variance, mistakes.
"""

import itertools
import math

import numpy as np
import pytest
from conftest import assert_close

from cymlp import _engine, optimizers, reference

BATCH, LAYER = ("batch", 0.01, 0.2), ("layer", 0.01)
EVERYTHING = {
    "dropout": [0.2, 0.4, 0.3],
    "seed": 2**63 + 5,
    "l1": 1e-3,
    "alpha": 0.1,
    "max_norm": 1.5,
    "weight_decay": 0.1,
}
RULE = {**optimizers.Adam(0.02, epsilon=0.1).rule(), **EVERYTHING}
# Sizes, rows and a minibatch for which a step is mirrored, or takes blocks of weights, or does so in parts.
ROUTES = {
    "mirrored": ((20, 33, 9, 3), 142, 47),
    "blocks": ((70, 150, 160, 6), 67, 33),
    "parts": ((60, 130, 90, 10), 1299, 649),
}


def threads_of(engine):
    """Numbers of threads to try; the reference has its own."""
    return (1, 2, 3) if engine is _engine else (1,)


class Run:
    """A network of one engine with a batch-normalised and a layer-normalised layer, and data for it."""

    def __init__(self, engine, dtype=np.float64, route="mirrored", normalizations=(BATCH, LAYER), weighted=True):
        rng = np.random.default_rng(7)
        self.sizes, rows, self.batch = ROUTES[route]
        layers = [("tanh", 0.0), ("gelu", 0.0), ("softmax", 0.0)]
        loss = ("categorical_cross_entropy", 1.0)
        self.network = engine.Network(self.sizes, layers, loss, dtype, [*normalizations, None])
        pieces = []
        for (n_in, n_out), kind in zip(itertools.pairwise(self.sizes), (*normalizations, None), strict=True):
            pieces += [rng.normal(0, 1 / np.sqrt(n_in), n_in * n_out), rng.normal(0, 0.1, n_out)]
            pieces += [rng.uniform(0.5, 1.5, n_out)] if kind else []
        self.flat = np.concatenate(pieces).astype(dtype)
        kinds = [kind and kind[0] for kind in normalizations]
        n_statistics = 2 * sum(n for n, kind in zip(self.sizes[1:-1], kinds, strict=True) if kind == "batch")
        self.statistics_like = np.empty(n_statistics, dtype)
        self.network.set_parameters(self.flat)
        self.X, self.y = rng.standard_normal((rows, self.sizes[0])).astype(dtype), rng.integers(0, self.sizes[-1], rows)
        self.w = rng.uniform(0.5, 2, rows).astype(dtype) if weighted else None

    def train(self, rule=RULE, n_threads=1, order=None, w=None):
        """The answer of an epoch, the losses and the norms of its minibatches."""
        n_batches = -(-(len(self.X) if order is None else len(order)) // self.batch)
        losses, norms = np.full((n_batches, 2), np.nan), np.full(n_batches, np.nan)
        w = self.w if w is None else w
        answer = self.network.train_epoch(self.X, self.y, w, order, self.batch, rule, n_threads, losses, norms)
        return answer, losses, norms

    def parameters(self):
        out = np.empty_like(self.flat)
        self.network.get_parameters(out)
        return out

    def statistics(self):
        out = np.empty_like(self.statistics_like)
        self.network.get_statistics(out)
        return out

    def state(self):
        """All that training changes, as bits."""
        optimizer = self.network.get_optimizer()
        moments = () if optimizer is None else tuple(None if m is None else m.tobytes() for m in optimizer[2:])
        return self.parameters().tobytes(), self.statistics().tobytes(), optimizer and optimizer[:2], moments


# The reference has one way for all sizes.
ROUTE = pytest.mark.parametrize(
    ("engine", "route"),
    [
        pytest.param(reference, "mirrored", id="reference"),
        *(pytest.param(_engine, route, id=route) for route in ROUTES),
    ],
)


# ---- Failures ----


@ROUTE
@pytest.mark.parametrize("clipping", [{}, {"clip_norm": 0.5}, {"clip_value": 0.1}], ids=str)
def test_a_minibatch_with_a_bad_loss_changes_no_parameter(engine, dtype, route, clipping):
    short = Run(engine, dtype, route)
    rule = {**RULE, **clipping, "dropout": [0.0, 0.4, 0.3]}
    (_, good), losses_before, norms_before = short.train(rule, order=np.arange(short.batch))
    for n_threads in threads_of(engine):
        failing = Run(engine, dtype, route)
        failing.X[failing.batch + 3, 0] = np.nan
        (loss, failed), losses, norms = failing.train(rule, n_threads)
        assert (failed, good) == (1, -1)
        assert not math.isfinite(loss)
        assert failing.state()[0] == short.state()[0]
        assert failing.state()[2:] == short.state()[2:]
        assert losses[:1].tobytes() == losses_before.tobytes()
        assert norms[:1].tobytes() == norms_before.tobytes()
        assert not np.isfinite(losses[1, 0])
        assert np.isfinite(losses[1, 1])
        assert np.isnan(losses[2:]).all()
        assert np.isnan(norms[1:]).all()


@pytest.mark.parametrize("rows", [2, 300])
@pytest.mark.parametrize("clipping", ["none", "clip_value", "clip_norm", "clip_layer_norm"])
def test_a_norm_that_overflows_fails_where_it_clips(engine, clipping, rows):
    """A finite loss, at parameters of 0, in the second minibatch."""
    for n_threads in threads_of(engine):
        network = engine.Network((3, 5, 2), [("identity", 0.0)] * 2, ("squared_error", 1.0), np.float64)
        X, y = np.zeros((2 * rows, 3)), np.zeros((2 * rows, 2))
        X[rows:], y[rows:] = 1e200, 1.0
        flat = np.concatenate([np.zeros(20), np.full(10, 1e-3), np.zeros(2)])
        network.set_parameters(flat)
        losses, norms = np.full((2, 2), np.nan), np.full(2, np.nan)
        rule = {**optimizers.SGD(1e-300).rule(), **({} if clipping == "none" else {clipping: 1.0})}
        loss, failed = network.train_epoch(X, y, None, None, rows, rule, n_threads, losses, norms)
        fails = clipping in ("clip_norm", "clip_layer_norm")
        assert failed == (1 if fails else -1)
        assert loss == 0.5
        np.testing.assert_array_equal(losses, [[0, 0], [1, 0]])
        np.testing.assert_array_equal(norms, [0, np.inf])
        assert network.get_optimizer()[1] == (1 if fails else 2)
        after = np.empty_like(flat)
        network.get_parameters(after)
        assert (after.tobytes() == flat.tobytes()) == fails


# ---- Going on ----


@ROUTE
def test_an_epoch_in_pieces_and_in_another_network_has_the_same_bits(engine, dtype, route):
    """Exact resume: parameters, statistics and the optimiser's state are all there is; any number of threads."""
    whole = Run(engine, dtype, route)
    n_batches, order = -(-len(whole.X) // whole.batch), np.random.default_rng(1).permutation(len(whole.X))
    arrays = {
        "learning_rate": np.linspace(0.02, 0.01, n_batches),
        "beta1": np.linspace(0.9, 0.8, n_batches),
        "weight_decay": np.linspace(0.1, 0, n_batches),
        "dropout": np.linspace([0.0, 0.5, 0.2], [0.3, 0.0, 0.4], n_batches),
    }
    for extra in ({}, {"clip_norm": 0.5}):
        rule = {**RULE, **arrays, **extra}
        whole.network.reset_optimizer()
        whole.network.set_parameters(whole.flat)
        whole.network.set_statistics(np.linspace(0.5, 1.5, whole.statistics_like.size).astype(dtype))
        start, at = whole.state(), 0
        pieces = Run(engine, dtype, route)
        pieces.network.set_statistics(whole.statistics())
        assert pieces.state()[:2] == start[:2]
        _, losses, norms = whole.train(rule, 1, order)
        for n_threads, count in zip((1, 2, 3), (1, 1, n_batches), strict=True):
            rows = order[at * whole.batch : (at + count) * whole.batch]
            if not len(rows):
                break
            there = slice(at, at + -(-len(rows) // whole.batch))
            part = {key: value[there].copy() if key in arrays else value for key, value in rule.items()}
            _, some_losses, some_norms = pieces.train(part, n_threads, rows)
            assert some_losses.tobytes() == losses[there].tobytes()
            assert some_norms.tobytes() == norms[there].tobytes()
            at += count
            after = Run(engine, dtype, route)
            after.network.set_parameters(pieces.parameters())
            after.network.set_statistics(pieces.statistics())
            after.network.set_optimizer(pieces.network.get_optimizer())
            assert after.state() == pieces.state()
            pieces = after
        assert pieces.state() == whole.state()


@ROUTE
def test_constant_arrays_are_numbers(engine, dtype, route):
    numbers, arrays = Run(engine, dtype, route), Run(engine, dtype, route)
    n = -(-len(numbers.X) // numbers.batch)
    found = [numbers.train()]
    keys = ("learning_rate", "beta1", "weight_decay")
    rule = {**RULE, **{key: np.full(n, RULE[key]) for key in keys}, "dropout": np.tile(RULE["dropout"], (n, 1))}
    found.append(arrays.train(rule))
    assert found[0][0] == found[1][0]
    assert [array.tobytes() for array in found[0][1:]] == [array.tobytes() for array in found[1][1:]]
    assert numbers.state() == arrays.state()


@ROUTE
@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_without_momentum_leave_the_moments_as_they_are(engine, dtype, route, nesterov):
    """In an array as alone, so that it does not matter where an epoch is cut."""
    whole, pieces = Run(engine, dtype, route), Run(engine, dtype, route)
    momenta, n = np.array([0, 0.5, 0, 0.25]), -(-len(whole.X) // whole.batch)
    rule = {**optimizers.SGD(0.05, nesterov=nesterov).rule(), **EVERYTHING}
    for _ in range(2):
        whole.train({**rule, "momentum": momenta[:n].copy()})
        for number in range(n):
            rows = np.arange(len(whole.X))[number * whole.batch : (number + 1) * whole.batch]
            pieces.train({**rule, "momentum": float(momenta[number])}, order=rows)
    assert whole.state() == pieces.state()


def test_an_interrupt_while_a_step_is_planned_comes_through(dtype, monkeypatch):
    """It was lost, and the epoch went on without dropout."""

    def interrupted(array):
        raise KeyboardInterrupt

    run = Run(_engine, dtype)
    with monkeypatch.context() as patched:
        patched.setattr(np, "asarray", interrupted)  # what asks which layers drop anything
        with pytest.raises(KeyboardInterrupt):
            run.train()
    after = run.flat.copy()
    run.network.get_parameters(after)
    assert after.tobytes() == run.flat.tobytes()


# ---- Ends of ranges ----


@ROUTE
def test_rates_of_0_and_weight_decay_of_0_are_none(engine, dtype, route):
    rule = {**optimizers.Adam(0.02).rule()}
    runs = [Run(engine, dtype, route) for _ in range(2)]
    runs[0].train(rule)
    runs[1].train({**rule, "dropout": [0.0, 0.0, 0], "seed": 0, "l1": 0.0, "l2": 0.0, "weight_decay": 0.0})
    assert runs[0].state() == runs[1].state()


@ROUTE
def test_a_norm_below_all_normal_numbers_is_a_limit(engine, dtype, route):
    run = Run(engine, dtype, route)
    run.train({**RULE, "max_norm": 5e-324})
    parameters = run.flat.copy()
    run.network.get_parameters(parameters)
    n_weights = run.sizes[0] * run.sizes[1]
    assert np.abs(parameters[:n_weights]).max() <= np.finfo(dtype).tiny


@ROUTE
@pytest.mark.parametrize("clipping", ["clip_value", "clip_norm", "clip_layer_norm"])
def test_a_limit_that_is_not_reached_changes_no_bit(engine, dtype, route, clipping):
    runs = [Run(engine, dtype, route) for _ in range(3)]
    found = [
        run.train({**RULE, **extra}) for run, extra in zip(runs, ({}, {clipping: np.inf}, {clipping: 1e6}), strict=True)
    ]
    for run, (answer, losses, norms) in zip(runs[1:], found[1:], strict=True):
        assert answer == found[0][0]
        assert losses.tobytes() == found[0][1].tobytes()
        assert norms.tobytes() == found[0][2].tobytes()
        assert run.state() == runs[0].state()


@ROUTE
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_where_all_units_are_dropped_nothing_before_them_is_learned(engine, dtype, route, layer):
    for n_threads in threads_of(engine):
        run = Run(engine, dtype, route)
        rates = [0.2, 0.3, 0.1]
        rates[layer] = 1.0
        rule = {**optimizers.SGD(0.1, momentum=0.9).rule(), "dropout": rates, "seed": 5}
        for _ in range(2):
            (loss, failed), _, norms = run.train(rule, n_threads)
            assert failed == -1
            assert math.isfinite(loss)
            assert np.isfinite(norms).all()
        after, end = run.parameters(), 0
        for number, (n_in, n_out) in enumerate(itertools.pairwise(run.sizes[: layer + 2])):
            end += n_in * n_out + (2 * n_out if number < layer else 0)
        assert np.isfinite(after).all()
        assert run.network.is_finite()
        assert after[:end].tobytes() == run.flat[:end].tobytes()
        assert not np.array_equal(after[end:], run.flat[end:])


# ---- Minibatches without a variance ----


@ROUTE
@pytest.mark.parametrize("positive", [0, 1], ids=["no weight", "one row of weight"])
def test_minibatches_with_less_than_two_rows_of_weight_leave_statistics(engine, dtype, route, positive):
    """And are as if their statistics were constants: the loss is that of predictions."""
    for n_threads in threads_of(engine):
        run = Run(engine, dtype, route)
        statistics = np.linspace(0.5, 1.5, run.statistics_like.size).astype(dtype)
        run.network.set_statistics(statistics)
        w = np.zeros_like(run.w)
        w[: run.batch * (len(w) // run.batch) : run.batch] = 2.5 * positive
        w[-1] = 2.5 * positive
        answers = np.empty((len(run.X), run.sizes[-1]), dtype)
        run.network.predict(run.X, answers)
        rule = {**optimizers.SGD(0.5).rule(), "learning_rate": 1e-30}
        (loss, failed), losses, _ = run.train(rule, n_threads, w=w)
        assert failed == -1
        assert run.statistics().tobytes() == statistics.tobytes()
        rows = np.flatnonzero(w)
        desired = -np.log(answers[rows, run.y[rows]]).mean() if positive else 0.0
        assert_close(loss, desired, sum(run.sizes), 4, kind="pass", dtype=dtype)
        assert np.isfinite(losses).all()


def test_minibatches_of_one_row_train(engine, dtype):
    for n_threads in threads_of(engine):
        run = Run(engine, dtype)
        run.batch = 1
        before = run.statistics()
        (_, failed), losses, _ = run.train({**RULE, "clip_norm": 1.0}, n_threads)
        assert failed == -1
        assert np.isfinite(losses).all()
        assert run.statistics().tobytes() == before.tobytes()
        assert run.network.is_finite()


@pytest.mark.parametrize("light", [0.25, 1e-9, 1e-20, 1e-30])
def test_two_weights_that_differ_by_all_digits(engine, dtype, light):
    """The unbiased variance of two rows does not depend on their weights: 1 - sum of squares must not cancel."""
    network = engine.Network(
        (1, 1, 1), [("identity", 0.0)] * 2, ("squared_error", 1.0), dtype, [("batch", 0.1, 1.0), None]
    )
    network.set_parameters(np.array([1, 0, 1, 1, 0], dtype))
    X, statistics = np.array([[1], [4]], dtype), np.empty(2, dtype)
    for w in (np.array([1, light], dtype), np.array([light, 1], dtype)):
        network.train_epoch(X, X, w, None, 2, optimizers.SGD(1e-30).rule())
        network.get_statistics(statistics)
        assert_close(statistics, [np.average([1, 4], weights=w.astype(np.float64)), 4.5], 9)


@pytest.mark.parametrize("light", [1e-6, 1e-20, 1e-30])
def test_a_mean_that_one_row_makes_is_that_row(engine, dtype, light):
    """What the mean is off by rounding counts with all of the weight in the unbiased variance."""
    network = engine.Network(
        (1, 1, 1), [("identity", 0.0)] * 2, ("squared_error", 1.0), dtype, [("batch", 0.1, 1.0), None]
    )
    network.set_parameters(np.array([1, 0, 1, 1, 0], dtype))
    statistics, rng = np.empty(2, dtype), np.random.default_rng(0)
    for _ in range(20):
        X, w = rng.uniform(0.5, 3, (2, 1)).astype(dtype), np.array([rng.uniform(0.5, 1), light], dtype)
        network.train_epoch(X, X, w, None, 2, optimizers.SGD(1e-30).rule())
        network.get_statistics(statistics)
        assert_close(statistics[1], np.var(X.astype(np.float64), ddof=1), 9, 9)


# ---- Predictions ----


def test_parameters_and_statistics_are_set_at_once(engine, dtype):
    """Or neither of them, where one is of the wrong shape."""
    kinds = [("batch", 1e-5, 0.1), None]
    layers = [("tanh", 0.0), ("identity", 0.0)]
    together, apart = (
        engine.Network((3, 5, 2), layers, ("squared_error", 1.0), dtype, kinds) for _ in ("together", "apart")
    )
    flat, statistics = np.linspace(-1, 1, 37, dtype=dtype), np.linspace(0.5, 2, 10, dtype=dtype)
    together.set_parameters(flat, statistics)
    apart.set_statistics(statistics)
    apart.set_parameters(flat)
    for wrong in ((flat[:-1], 2 * statistics), (2 * flat, statistics[:-1])):
        with pytest.raises(ValueError, match="shape"):
            together.set_parameters(*map(np.ascontiguousarray, wrong))
    X = np.eye(3, dtype=dtype)
    outputs = np.empty((2, 3, 2), dtype)
    for network, out in zip((together, apart), outputs, strict=True):
        network.predict(X, out)
    np.testing.assert_array_equal(*outputs)
    kept = np.empty_like(statistics)
    together.get_statistics(kept)
    np.testing.assert_array_equal(kept, statistics)


@pytest.mark.parametrize("normalizations", [(BATCH, BATCH), (LAYER, BATCH), (BATCH, None)], ids=str)
def test_predictions_are_by_running_statistics(isa, dtype, n_threads, normalizations):
    for route in ROUTES:
        ours, oracle = Run(_engine, dtype, route, normalizations), Run(reference, np.float64, route, normalizations)
        rng = np.random.default_rng(2)
        statistics = rng.uniform(0.5, 1.5, ours.statistics_like.size).astype(dtype)
        oracle.network.set_parameters(ours.flat.astype(np.float64))
        # In either order, and twice: what is folded into weights follows both.
        for _ in range(2):
            ours.network.set_statistics(statistics)
            ours.network.set_parameters(ours.flat)
            oracle.network.set_statistics(statistics.astype(np.float64))
            out = np.empty((len(ours.X), ours.sizes[-1]), dtype)
            ours.network.predict(ours.X, out, n_threads)
            Zs, As = ours.network.forward(ours.X, n_threads)
            desired = oracle.network.forward(ours.X.astype(np.float64))
            for found, wanted in zip((*Zs, *As), (*desired[0], *desired[1]), strict=True):
                assert_close(found, wanted, sum(ours.sizes), max(1, np.abs(wanted).max()), kind="pass")
            assert As[-1].tobytes() == out.tobytes()
            assert ours.network.answer(ours.X, None, lambda flops: n_threads).tobytes() == out.tobytes()
            statistics = statistics[::-1].copy()


def test_statistics_go_in_and_out(engine, dtype):
    run = Run(engine, dtype, "blocks", (BATCH, BATCH))
    zeros_and_ones = np.concatenate([np.zeros(150), np.ones(150), np.zeros(160), np.ones(160)]).astype(dtype)
    assert run.statistics().tobytes() == zeros_and_ones.tobytes()
    new = np.random.default_rng(0).uniform(1, 2, 620).astype(dtype)
    run.network.set_statistics(new)
    run.network.set_parameters(run.flat)
    run.network.reset_optimizer()
    assert run.statistics().tobytes() == new.tobytes()
    for place, value in ((0, np.nan), (300, np.inf), (619, -np.inf)):
        assert run.network.is_finite()
        bad = new.copy()
        bad[place] = value
        run.network.set_statistics(bad)
        assert not run.network.is_finite()
        run.network.set_statistics(new)


# ---- Mistakes ----

NETWORK_MISTAKES = {
    "unknown": [("group", 0.1), None],
    "no momentum": [("batch", 0.1), None],
    "too much": [("layer", 0.1, 0.1), None],
    "epsilon": [("layer", 0.0), None],
    "epsilon nan": [("batch", math.nan, 0.1), None],
    "momentum": [("batch", 0.1, 1.5), None],
    "output": [None, ("layer", 0.1)],
    "too few": [None],
    "too many": [None, None, None],
}
RULE_MISTAKES = {
    "two clippings": {"clip_value": 1.0, "clip_norm": 1.0},
    "two norms": {"clip_layer_norm": 1.0, "clip_norm": 1.0},
    "clip 0": {"clip_norm": 0.0},
    "clip nan": {"clip_value": math.nan},
    "max_norm": {"max_norm": -1.0},
    "rates": {"dropout": [0.1], "seed": 1},
    "rate": {"dropout": [0.1, 1.5], "seed": 1},
    "rate nan": {"dropout": [0.1, math.nan], "seed": 1},
    "rates of batches": {"dropout": np.zeros((3, 2)), "seed": 1},
    "no seed": {"dropout": [0.1, 0.2]},
    "seed": {"dropout": [0.1, 0.2], "seed": -1},
    "large seed": {"dropout": [0.1, 0.2], "seed": 2**64},
    "learning rates": {"learning_rate": np.ones(3)},
    "float32": {"learning_rate": np.ones(2, np.float32)},
    "momentum": {"momentum": np.ones((2, 1))},
}


@pytest.mark.parametrize("mistake", NETWORK_MISTAKES)
def test_wrong_normalizations_are_errors(engine, mistake):
    with pytest.raises((ValueError, TypeError)):
        engine.Network((3, 4, 2), [("tanh", 0.0)] * 2, ("squared_error", 1.0), np.float64, NETWORK_MISTAKES[mistake])


@pytest.mark.parametrize("mistake", RULE_MISTAKES)
def test_wrong_rules_are_errors_and_nothing_is_trained(engine, mistake):
    network = engine.Network((3, 4, 2), [("tanh", 0.0)] * 2, ("squared_error", 1.0), np.float64)
    flat = np.linspace(-1, 1, 26)
    network.set_parameters(flat)
    rule = {**optimizers.SGD(0.1).rule(), **RULE_MISTAKES[mistake]}
    with pytest.raises((ValueError, TypeError)):
        network.train_epoch(np.ones((4, 3)), np.ones((4, 2)), None, None, 2, rule)
    after = np.empty(26)
    network.get_parameters(after)
    assert after.tobytes() == flat.tobytes()


@pytest.mark.parametrize(
    "drops", [0.5, (1, 1), (1, 1, [0.5]), (-1, 1, [0, 0]), (1, 0, [0, 0]), (1, 1, [0, 2])], ids=str
)
def test_wrong_dropout_of_gradients_is_an_error(engine, drops):
    network = engine.Network((3, 4, 2), [("tanh", 0.0)] * 2, ("squared_error", 1.0), np.float64)
    with pytest.raises((ValueError, TypeError)):
        network.gradients(np.ones((4, 3)), np.ones((4, 2)), None, np.empty(26), 1, drops)


@pytest.mark.parametrize("norms", [np.empty(3), np.empty(2, np.float32), np.empty(4)[::2], np.empty((2, 1))], ids=repr)
def test_wrong_norms_are_errors(engine, norms):
    network = engine.Network((3, 4, 2), [("tanh", 0.0)] * 2, ("squared_error", 1.0), np.float64)
    with pytest.raises((ValueError, TypeError), match="norms"):
        network.train_epoch(np.ones((4, 3)), np.ones((4, 2)), None, None, 2, optimizers.SGD().rule(), norms=norms)

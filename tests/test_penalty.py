"""Penalties on squares of weights, and what an epoch writes down for each minibatch.

By definition, by central differences, against scikit-learn, and with the same bits for any number of threads.
"""

import math
import warnings

import numpy as np
import pytest
from conftest import CENTRAL_DIFFERENCE, assert_close, draw_parameters, layer_views

from cymlp import _engine, optimizers, reference

CROSS_ENTROPY = ("categorical_cross_entropy", 1.0)
PENALTIES = {"alpha": {"alpha": 0.5}, "l2": {"l2": 0.03}, "both": {"alpha": 0.5, "l2": 0.03}}
ADAM = optimizers.Adam(0.01, epsilon=0.1).rule()
# Sizes, rows and a minibatch for which a step is mirrored, or takes blocks of weights, or does so in three parts.
RUNS = {
    "mirrored": ((20, 33, 9, 3), 150, 47),
    "blocks of few rows": ((20, 100, 3), 50, 16),
    "blocks": ((130, 400, 410, 6), 70, 33),
    "parts": ((120, 330, 40), 1300, 649),
}
MANY_THREADS = (2, 3, 7, -2)


class Run:
    """A classifier of one engine, and data for it."""

    def __init__(self, engine, sizes, dtype, rows, weighted=True):
        rng = np.random.default_rng(5)
        layers = [("tanh", 0.0)] * (len(sizes) - 2) + [("softmax", 0.0)]
        self.network = engine.Network(sizes, layers, CROSS_ENTROPY, dtype)
        self.sizes, self.flat = sizes, draw_parameters(rng, sizes, dtype)
        self.network.set_parameters(self.flat)
        self.X, self.y = rng.standard_normal((rows, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], rows)
        self.w = rng.uniform(0.5, 2, rows).astype(dtype) if weighted else None

    def train(self, batch, rule, n_threads=1, order=None):
        """The answer of an epoch, and what it writes for each minibatch."""
        used = len(self.X) if order is None else len(order)
        losses = np.full((-(-used // batch), 2), np.nan)
        return self.network.train_epoch(self.X, self.y, self.w, order, batch, rule, n_threads, losses), losses

    def parameters(self):
        out = np.empty_like(self.flat)
        self.network.get_parameters(out)
        return out

    def weight_of(self, rows):
        return float(len(self.X[rows])) if self.w is None else self.w[rows].sum(dtype=np.float64)

    def squares(self):
        """The sum of the squares of all weights, rounded once; and how many there are."""
        weights = np.concatenate([W.ravel() for W, _ in layer_views(self.parameters().astype(np.float64), self.sizes)])
        return math.fsum(weights**2), weights.size


# ---- The kernel ----


def test_sum_of_squares(isa, dtype, rng, widths):
    lanes = _engine.blocking(dtype)["lanes"]
    for n in (*widths, 63 * lanes, 64 * lanes, 64 * lanes + 1, 10_000):
        w = rng.standard_normal(n).astype(dtype)
        exact = math.fsum(w.astype(np.float64) ** 2)
        # Chains of 16 within a piece of 64 vectors, which are folded; pieces one after another.
        assert_close(_engine.sum_of_squares(w), exact, 16 + 6 + n // (64 * lanes), kind="product", dtype=dtype)
        assert_close(reference.sum_of_squares(w), exact, n, kind="product", dtype=np.float64)


# ---- By definition ----


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_step_is_the_gradient_of_loss_and_penalty(engine, penalty, weighted):
    """By central differences of what `losses` gets, in a step of plain gradient descent; biases included."""
    rule = {**optimizers.SGD(1.0).rule(), **PENALTIES[penalty]}
    run = Run(engine, (4, 5, 3), np.float64, 9, weighted)

    def loss_at(flat):
        run.network.set_parameters(flat)
        (loss, failed), losses = run.train(9, rule)
        assert failed == -1
        assert_close(loss, losses.sum(), 2, kind="sum", dtype=np.float64)
        return losses.sum()

    loss_at(run.flat)
    gradient = run.flat - run.parameters()
    for direction in np.eye(run.flat.size):
        coarse, fine = ((loss_at(run.flat + h * direction) - loss_at(run.flat - h * direction)) / (2 * h)
                        for h in (1e-3, 5e-4))  # fmt: skip
        assert abs(gradient @ direction - (4 * fine - coarse) / 3) <= CENTRAL_DIFFERENCE * np.linalg.norm(gradient)


@pytest.mark.parametrize("penalty", ["none", *PENALTIES])
@pytest.mark.parametrize("kind", RUNS)
def test_losses_are_those_of_the_parameters_that_each_minibatch_met(engine, dtype, kind, penalty):
    sizes, rows, batch = RUNS[kind]
    rule, order = {**ADAM, **PENALTIES.get(penalty, {})}, np.random.default_rng(1).permutation(rows)
    alpha, l2 = rule.get("alpha", 0), rule.get("l2", 0)
    whole, steps = Run(engine, sizes, dtype, rows), Run(engine, sizes, dtype, rows)
    (mean, failed), losses = whole.train(batch, rule, order=order)
    assert failed == -1
    total, unused = 0.0, np.empty_like(whole.flat)
    for number, start in enumerate(range(0, rows, batch)):
        chosen = order[start : start + batch]
        squares, n = steps.squares()
        weight = steps.weight_of(chosen)
        if start + batch <= rows:  # one step more, with minibatches of the same size
            expected = steps.network.gradients(
                np.ascontiguousarray(steps.X[chosen]), steps.y[chosen], steps.w[chosen], unused
            )
            assert_close(losses[number, 0], expected, sum(sizes) + batch, 1 + expected, kind="pass", dtype=dtype)
            steps.train(batch, rule, order=chosen)
        exact = (l2 + alpha / weight) / 2 * squares
        assert_close(losses[number, 1], exact, 16 + 6 + n // 64, kind="product", dtype=dtype)
        total += weight * losses[number].sum()
    assert_close(mean, total / steps.weight_of(order), len(losses), kind="sum", dtype=np.float64)


@pytest.mark.parametrize("kind", RUNS)
def test_engines_agree(isa, dtype, kind):
    sizes, rows, batch = RUNS[kind]
    rule = {**ADAM, **PENALTIES["both"], "epsilon_hat": True}
    compiled, oracle = Run(_engine, sizes, dtype, rows), Run(reference, sizes, np.float64, rows)
    oracle.network.set_parameters(compiled.flat.astype(np.float64))
    oracle.X, oracle.w = compiled.X.astype(np.float64), compiled.w.astype(np.float64)
    terms = 2 * (sum(sizes) + batch) * -(-rows // batch)
    for n_threads in (1, 2):
        for actual, desired in zip(compiled.train(batch, rule, n_threads), oracle.train(batch, rule), strict=True):
            assert_close(actual, desired, terms, kind="training", dtype=dtype)
    assert_close(compiled.parameters(), oracle.parameters(), terms, kind="training")


@pytest.mark.parametrize("optimizer", [optimizers.Adam, optimizers.AdamW])
def test_l2_beside_weight_decay(engine, optimizer, rng):
    """The gradient of the penalty enters the moments; decay is of the weights that the step met."""
    rule, w, g = optimizer(0.1, epsilon=0.1).rule(), rng.standard_normal(5), rng.standard_normal(5)
    results = []
    for step in ({**rule, "l2": 0.25}, g), (rule, g + 0.25 * w):
        moved, state = w.copy(), (np.zeros(5), np.zeros(5))
        engine.update(step[0], 1, moved, step[1], state)
        results.append((moved, *state))
    for got, want in zip(*results, strict=True):
        assert_close(got, want, 1, kind="update")


def test_sgd_under_a_constant_gradient_and_a_penalty(engine):
    """w + g / l2 shrinks by the factor 1 - learning_rate l2 in each step."""
    start, g = np.array([1.0, -2.0, 0.5]), np.array([0.5, -2.0, 1e-3])
    w, rule = start.copy(), {**optimizers.SGD(0.1).rule(), "l2": 0.25}
    for step in range(1, 21):
        engine.update(rule, step, w, g, (np.zeros(3), np.zeros(3)))
        assert_close(w, (1 - 0.1 * 0.25) ** step * (start + g / 0.25) - g / 0.25, step, 8, kind="update")


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_agrees_with_scikit_learn(engine, weighted, rng):
    """Its alpha, and its place of epsilon; its mean over an epoch is by rows, whatever they weigh."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    w = rng.uniform(0.5, 2, 20) if weighted else None
    theirs = MLPRegressor(
        hidden_layer_sizes=(6,),
        activation="tanh",
        alpha=0.7,
        epsilon=1e-2,
        batch_size=8,
        shuffle=False,
        warm_start=True,
        max_iter=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(X, y, sample_weight=w)
        pieces = zip(theirs.coefs_, theirs.intercepts_, strict=True)
        flat = np.concatenate([part.ravel() for pair in pieces for part in pair])
        theirs.set_params(max_iter=6).fit(X, y, sample_weight=w)
    ours = engine.Network((3, 6, 1), [("tanh", 0.0), ("identity", 0.0)], ("squared_error", 1.0), np.float64)
    ours.set_parameters(flat)
    rule, losses, curve = {**optimizers.Adam(epsilon=1e-2, epsilon_hat=True).rule(), "alpha": 0.7}, np.empty((3, 2)), []
    for _ in range(6):
        assert ours.train_epoch(X, y[:, np.newaxis], w, None, 8, rule, 1, losses)[1] == -1
        curve.append(losses.sum(axis=1) @ [8, 8, 4] / 20)
    ours.get_parameters(flat)
    assert_close(curve, theirs.loss_curve_[1:], 18 * (10 + 8), kind="training")
    for got, want in zip(
        layer_views(flat, (3, 6, 1)), zip(theirs.coefs_, theirs.intercepts_, strict=True), strict=True
    ):
        for ours_part, theirs_part in zip(got, want, strict=True):
            assert_close(ours_part, theirs_part, 18 * (10 + 8), kind="training")


# ---- Bits, failures, edges ----


@pytest.mark.parametrize("kind", RUNS)
def test_penalized_epochs_have_the_same_bits_for_any_number_of_threads(isa, dtype, kind):
    sizes, rows, batch = RUNS[kind]
    rule, order = {**ADAM, **PENALTIES["both"]}, np.random.default_rng(1).permutation(rows)
    expected = None
    for n_threads in (1, *MANY_THREADS):
        run = Run(_engine, sizes, dtype, rows)
        answers = [run.train(batch, rule, n_threads, order) for _ in range(2)]
        found = [(answer, losses.tobytes()) for answer, losses in answers], run.parameters().tobytes()
        assert expected is None or found == expected, n_threads
        expected = found


def test_many_short_steps(dtype):
    """More than constants are computed ahead for: what is left of a run of steps is not lost."""
    for sizes, batch in (((3, 5, 2), 32), ((3, 5, 2), 2)):
        rows = batch * 1030 + 1
        compiled, oracle = Run(_engine, sizes, dtype, rows), Run(reference, sizes, dtype, rows)
        rule = {**optimizers.SGD(1e-3).rule(), "alpha": 0.1}
        expected = oracle.train(batch, rule)
        for n_threads in (1, 2):
            compiled.network.set_parameters(compiled.flat)
            got = compiled.train(batch, rule, n_threads)
            assert got[0][1] == expected[0][1] == -1
            assert_close(got[1], expected[1], 2 * (10 + batch) * 1031, kind="training", dtype=dtype)


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_failed_minibatch_is_written_down(engine, dtype, kind, n_threads):
    sizes, rows, batch = RUNS[kind]
    rule = {**ADAM, **PENALTIES["both"]}
    run, short = Run(engine, sizes, dtype, rows), Run(engine, sizes, dtype, rows)
    run.X[batch + 3, 0] = np.nan
    (loss, failed), losses = run.train(batch, rule, n_threads)
    (_, good), rows_before = short.train(batch, rule, order=np.arange(batch))
    assert (failed, good) == (1, -1)
    assert not np.isfinite(loss)
    assert losses[0].tobytes() == rows_before[0].tobytes()
    assert run.parameters().tobytes() == short.parameters().tobytes()
    assert np.isnan(losses[1, 0])
    squares, n = short.squares()
    weight = run.weight_of(slice(batch, 2 * batch))
    assert_close(losses[1, 1], (0.03 + 0.5 / weight) / 2 * squares, 16 + 6 + n // 64, kind="product", dtype=dtype)
    assert np.isnan(losses[2:]).all()


@pytest.mark.parametrize("batch", [40, 10])
def test_minibatches_without_weight_have_no_penalty(engine, dtype, n_threads, batch):
    run = Run(engine, (5, 12, 3), dtype, 80)
    run.w[:] = 0
    answer, losses = run.train(batch, {**ADAM, **PENALTIES["both"]}, n_threads)
    assert answer == (0, -1)
    assert not losses.any()
    assert run.parameters().tobytes() == run.flat.tobytes()


def test_an_epoch_without_rows(engine):
    run = Run(engine, (5, 3), np.float64, 4)
    answer, losses = run.train(2, {**ADAM, "alpha": 1.0}, order=np.empty(0, np.int64))
    assert answer == (0, -1)
    assert losses.shape == (0, 2)


def test_an_infinite_penalty_shows_in_the_loss(engine):
    """Only the loss of the data ends an epoch."""
    run = Run(engine, (5, 3), np.float64, 4)
    flat = np.zeros_like(run.flat)
    flat[0] = 1e160
    run.network.set_parameters(flat)
    run.X[:, 0] = 0
    (loss, failed), losses = run.train(4, {**optimizers.SGD(1e-9).rule(), "l2": 1.0})
    assert failed == -1
    assert loss == losses[0, 1] == np.inf
    assert np.isfinite(losses[0, 0])


WRONG = {
    "shape": (np.empty((3, 2)), ValueError, "losses must have shape"),
    "dtype": (np.empty((2, 2), np.float32), TypeError, "losses must have dtype float64"),
    "order": (np.empty((2, 2), order="F"), ValueError, "losses must be .*C-contiguous"),
    "read-only": (np.frombuffer(bytes(32)).reshape(2, 2), (ValueError, BufferError), "losses must be .*writable"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_losses_are_named_and_nothing_is_trained(engine, wrong):
    losses, error, words = WRONG[wrong]
    run = Run(engine, (5, 3), np.float64, 4)
    with pytest.raises(error, match=words):
        run.network.train_epoch(run.X, run.y, None, None, 2, ADAM, 1, losses)
    assert run.parameters().tobytes() == run.flat.tobytes()

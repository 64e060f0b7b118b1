"""The passes of training: a small network's minibatches in two halves, and blocks of weights that threads take.

A run with minibatches of at least 32 rows, of a network whose parameters take at most 128 KiB, is mirrored: each of two
threads sums the gradient of its half, or one thread that of both.  Which way a step takes shows in no bit.
"""

import numpy as np
import pytest
from conftest import draw_parameters, draw_targets, run_python
from test_engine import CALM_RULES, HIDDEN, Passes

from cymlp import _engine, optimizers

CROSS_ENTROPY = "categorical_cross_entropy"
# Rows of an epoch and of a minibatch: about the least that is halved; about the most, 256, that one thread takes
# through all layers at once; several tiles a half; and last minibatches of 1 and 2 rows, with a half of no row.
BATCHES = [(62, 31), (65, 32), (68, 33), (257, 256), (259, 257), (601, 600)]
PAIRED = [("squared_error", "identity"), ("huber", "tanh"), ("poisson", "exp"), ("binary_cross_entropy", "sigmoid")]
PAIRED += [("absolute_error", "identity"), ("quantile", "softplus"), (CROSS_ENTROPY, "softmax")]
MANY_THREADS = (2, 3, 7, -2)
# Which rows have a weight of zero.
WEIGHTLESS = {
    "none": lambda i: i < 0,
    "every other": lambda i: i % 2 == 0,
    "first halves": lambda i: i % 40 < 20,
    "second halves": lambda i: i % 40 >= 20,
    "a minibatch": lambda i: i // 40 == 1,
}


def _rule_id(optimizer):
    return "-".join(map(str, optimizer.rule().values()))


class Run:
    """One compiled network, data for it, and a number of threads."""

    def __init__(self, sizes, dtype, rows, n_threads, hidden="relu", output="softmax", loss=CROSS_ENTROPY, start=3):
        rng = np.random.default_rng(start)
        self.sizes, self.n_threads = sizes, n_threads
        layers = [(hidden, 0.2)] * (len(sizes) - 2) + [(output, 0.0)]
        self.network = _engine.Network(sizes, layers, (loss, 0.7), dtype)
        self.flat = draw_parameters(rng, sizes, dtype)
        self.network.set_parameters(self.flat)
        self.X = rng.standard_normal((rows, sizes[0])).astype(dtype)
        self.y = draw_targets(rng, loss, rows, sizes[-1], dtype, loss == CROSS_ENTROPY)
        self.w = rng.uniform(0.5, 2, rows).astype(dtype)
        self.order = rng.permutation(rows).astype(np.int64)

    def train(self, batch, optimizer, order=None):
        return self.network.train_epoch(self.X, self.y, self.w, order, batch, optimizer.rule(), self.n_threads)

    def gradient(self):
        out = np.empty_like(self.flat)
        return self.network.gradients(self.X, self.y, self.w, out, self.n_threads), out.tobytes()

    def parameters(self):
        out = np.empty_like(self.flat)
        self.network.get_parameters(out)
        return out.tobytes()


# ---- Against the reference ----


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("rows", "batch"), BATCHES)
def test_halves_of_a_minibatch(isa, dtype, rows, batch, n_threads, rng):
    passes = Passes(rng, (9, 70, 5), "tanh", "softmax", CROSS_ENTROPY, dtype, rows, labels=True, weighted=True)
    order = rng.permutation(rows).astype(np.int64)
    passes.check_training(n_threads, optimizers.SGD(0.05).rule(), [(order, batch), (None, batch)])


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("optimizer", CALM_RULES, ids=_rule_id)
def test_halves_with_every_optimizer(isa, dtype, optimizer, n_threads, rng):
    """Gradients of more elements than the optimiser asks for at a time."""
    passes = Passes(rng, (9, 70, 5), "tanh", "softmax", CROSS_ENTROPY, dtype, 80, labels=True)
    passes.check_training(n_threads, optimizer.rule(), [(None, 40), (None, 40)])


@pytest.mark.parametrize("hidden", HIDDEN)
def test_halves_with_every_activation(isa, dtype, hidden, rng):
    for n_threads in (1, 2):
        passes = Passes(rng, (5, 12, 9, 3), hidden, "identity", "squared_error", dtype, 66, weighted=True)
        passes.check_training(n_threads, optimizers.SGD(0.01).rule(), [(None, 33), (None, 33)])


@pytest.mark.parametrize("weightless", WEIGHTLESS)
def test_halves_without_weight(isa, dtype, weightless, rng):
    for n_threads in (1, 2):
        passes = Passes(rng, (5, 12, 3), "tanh", "identity", "squared_error", dtype, 80, weighted=True)
        passes.w[WEIGHTLESS[weightless](np.arange(80))] = 0
        passes._measure()
        passes.check_training(n_threads, optimizers.SGD(0.01, momentum=0.5).rule(), [(None, 40), (None, 40)])


def test_an_epoch_without_weight_changes_nothing(isa, dtype, n_threads):
    run = Run((5, 12, 3), dtype, 80, n_threads)
    run.w[:] = 0
    assert run.train(40, optimizers.Adam()) == (0, -1)
    assert run.parameters() == run.flat.tobytes()


@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 5])
def test_gradients_of_few_columns(isa, dtype, outputs, rng):
    """Of whole layers, and of what is left of a layer beside full panels; more rows than a block of sums has, too."""
    panel = _engine.blocking(dtype)["panel"]
    for loss, output in PAIRED[:3]:
        for sizes in ((4, panel + 3, outputs), (4, 7, panel + outputs, outputs, 6, outputs)):
            for rows in (3, 33, 140):
                passes = Passes(rng, sizes, "tanh", output, loss, dtype, rows, weighted=True)
                passes.check_gradients(2)
                passes.check_training(2, optimizers.SGD(0.002).rule(), [(None, rows)])


# ---- Bits ----


def _same_for_all_threads(use, *arguments, **settings):
    """What `use(run)` returns has the same bits for every number of threads."""
    single = use(Run(*arguments, n_threads=1, **settings))
    for n_threads in MANY_THREADS:
        assert use(Run(*arguments, n_threads=n_threads, **settings)) == single, n_threads


@pytest.mark.parametrize(("rows", "batch"), BATCHES)
def test_halves_have_the_same_bits_for_any_number_of_threads(isa, dtype, rows, batch):
    def use(run):
        return [(run.train(batch, optimizers.Adam(), order), run.parameters()) for order in (run.order, None)]

    for hidden, outputs in (("relu", 2), ("gelu", 3), ("tanh", 17)):
        _same_for_all_threads(use, (20, 33, 9, outputs), dtype, rows, hidden=hidden)


@pytest.mark.parametrize(("loss", "output"), PAIRED)
def test_halves_have_the_same_bits_with_every_loss(isa, dtype, loss, output):
    def use(run):
        run.w[::3] = 0
        run.w[40:61] = 0
        return run.train(41, optimizers.SGD(0.01, momentum=0.5), run.order), run.parameters()

    for outputs in range(2 if output == "softmax" else 1, 6):
        _same_for_all_threads(use, (7, 12, outputs), dtype, 100, loss=loss, output=output)


def test_many_short_steps_have_the_same_bits(isa, dtype):
    """More steps than constants are computed ahead for, and than both choices of threads need to be tried."""

    def use(run):
        return run.train(32, optimizers.Adam()), run.parameters()

    _same_for_all_threads(use, (3, 5, 2), dtype, 32 * 1030 + 1)


@pytest.mark.parametrize("batch", [20, 150])
def test_blocks_of_weights_have_the_same_bits(isa, dtype, batch):
    """Too many weights for halves, and for a core's second cache."""

    def use(run):
        return [(run.train(batch, optimizers.Adam(), order), run.parameters()) for order in (run.order, None)]

    _same_for_all_threads(use, (130, 400, 410, 66), dtype, 151)


ADAM, SGD, MOMENTUM = optimizers.Adam(), optimizers.SGD(0.1), optimizers.SGD(0.1, momentum=0.9)
# What may happen between epochs, as (what, arguments): a mirror has to follow.
BETWEEN = {
    "parameters": [("train", 64, ADAM), ("set",), ("train", 64, ADAM)],
    "reset": [("train", 64, ADAM), ("reset",), ("train", 64, ADAM)],
    "another rule": [("train", 64, SGD), ("reset",), ("train", 64, ADAM), ("reset",), ("train", 64, MOMENTUM)],
    "a moment more": [("train", 64, SGD), ("train", 64, MOMENTUM), ("train", 64, SGD), ("train", 64, MOMENTUM)],
    "a gradient": [("train", 200, ADAM), ("gradient",), ("train", 200, ADAM), ("gradient",)],
    "other batches": [("train", batch, ADAM) for batch in (64, 200, 16, 33, 1, 64)],
    "a failure": [("train", 64, ADAM), ("fail", 64, ADAM), ("train", 64, ADAM)],
}


def _do(run, what, *arguments):
    if what == "set":
        run.network.set_parameters(run.flat)
    elif what == "reset":
        run.network.reset_optimizer()
    elif what == "gradient":
        return run.gradient()
    elif what == "train":
        return run.train(*arguments)
    else:
        kept, run.X[150, 0] = run.X[150, 0], np.inf
        assert run.train(*arguments)[1] == 150 // arguments[0]
        run.X[150, 0] = kept
    return None


@pytest.mark.parametrize("between", BETWEEN)
def test_what_happens_between_epochs_reaches_all_threads(dtype, between):
    def use(run):
        return [(_do(run, *each), run.parameters()) for each in BETWEEN[between]]

    _same_for_all_threads(use, (20, 30, 3), dtype, 200)


def test_another_number_of_threads_in_each_epoch(isa, dtype):
    results = set()
    for threads in ([1] * 6, [1, 2, 3, -2, 1, 2], [2, -2, 2, 1, 7, 2], [-2, -2, 1, 1, 2, 2]):
        run = Run((20, 30, 3), dtype, 200, 1)
        for run.n_threads in threads:
            run.train(33, ADAM, run.order)
        results.add(run.parameters())
    assert len(results) == 1


def test_a_moment_that_is_new_is_zero_for_all_threads():
    """Where memory is not zeros by chance."""
    code = """
        import numpy as np
        from cymlp import _engine, optimizers

        X, y = np.random.default_rng(0).standard_normal((64, 20)), np.arange(64) % 3
        layers, loss = [("relu", 0.0), ("softmax", 0.0)], ("categorical_cross_entropy", 1.0)
        for n_threads in (1, 2):
            network = _engine.Network((20, 30, 3), layers, loss, np.float64)
            network.set_parameters(np.random.default_rng(1).normal(0, 0.3, 723))
            for momentum in (0.0, 0.9):
                rule = optimizers.SGD(0.1, momentum=momentum).rule()
                print(repr(network.train_epoch(X, y, None, None, 32, rule, n_threads)))
    """
    lines = run_python(code, MALLOC_PERTURB_="190").splitlines()
    assert lines[:2] == lines[2:]
    assert len(lines) == 4


# ---- Divergence ----


def _diverge(sizes, dtype, batch, row, n_threads):
    """An epoch that fails at a row: the answer, and parameters."""
    run = Run(sizes, dtype, 200, n_threads)
    run.X[row] = np.inf
    return run.train(batch, ADAM), run.parameters()


@pytest.mark.parametrize(("sizes", "batch"), [((5, 9, 3), 40), ((5, 9, 3), 10), ((130, 400, 3), 40)])
@pytest.mark.parametrize("row", [0, 85, 119, 199])
def test_divergence_ends_after_the_last_good_step(isa, dtype, sizes, batch, row):
    good = row // batch
    run = Run(sizes, dtype, 200, 1)
    X, y, w = (array[: good * batch] for array in (run.X, run.y, run.w))
    run.network.train_epoch(X, y, w, None, batch, ADAM.rule())
    for n_threads in (1, *MANY_THREADS):
        (_, failed), parameters = _diverge(sizes, dtype, batch, row, n_threads)
        assert failed == good
        assert parameters == run.parameters()


@pytest.mark.parametrize("batch", [40, 10], ids=["halves", "blocks"])
@pytest.mark.parametrize("n_threads", [2, 3, -2])
def test_divergence_is_seen_at_one_step_by_all_threads(batch, n_threads):
    """Again and again, as threads that disagreed would do so seldom."""
    expected = repr(_diverge((5, 9, 3), np.float32, batch, 119, 1))
    assert {repr(_diverge((5, 9, 3), np.float32, batch, 119, n_threads)) for _ in range(300)} == {expected}

"""The compiled engine against the reference in float64: kernels and passes x type x instruction set x shape x threads.

Shapes come from the kernels' own constants: one less and one more than a vector, a panel, a block and a tile of rows.
Activations have test_activations.py, bits test_bits.py, and names and errors test_seam.py.
"""

import itertools

import numpy as np
import pytest
from conftest import PAIRS, assert_close, draw_parameters, draw_targets, layer_views
from hypothesis import given, settings
from hypothesis import strategies as st

from cymlp import _engine, activations, optimizers, reference

SLOPE, DELTA = 0.2, 0.7
HIDDEN = [name for name, definition in activations.ACTIVATIONS.items() if definition.hidden]
RULES = [
    optimizers.SGD(0.05),
    optimizers.SGD(0.05, momentum=0.9),
    optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    optimizers.RMSprop(),
    optimizers.Adam(),
    optimizers.Adam(epsilon_hat=True),
    optimizers.AdamW(weight_decay=0.1),
]
# In training, a division by the root of a small moment would make a large error of a small gradient's rounding.
CALM_RULES = [
    *RULES[:3],
    optimizers.RMSprop(0.01, epsilon=0.1),
    optimizers.Adam(0.01, epsilon=0.1),
    optimizers.Adam(0.01, epsilon=0.1, epsilon_hat=True),
    optimizers.AdamW(0.01, epsilon=0.1, weight_decay=1.0),
]
# Depths and heights around the blocks in which the products are summed, of 1024 inputs and of 128 rows.
LONG = (127, 128, 129, 257, 1023, 1024, 1025, 2500)


def _rule_id(optimizer):
    return "-".join(map(str, optimizer.rule().values()))


def _wide(array):
    """In float64, where it is not labels or None."""
    return array if array is None or array.dtype == np.int64 else array.astype(np.float64)


def _root(A, W):
    """The root of the sum of the squares of the products that make up each element of A W."""
    return np.sqrt(A.astype(np.float64) ** 2 @ W.astype(np.float64) ** 2)


# ---- Kernels ----


def _check_dense_layer(rng, rows, n_in, n_out, dtype):
    A, W = rng.standard_normal((rows, n_in)).astype(dtype), rng.standard_normal((n_in, n_out)).astype(dtype)
    b, dZ = rng.standard_normal(n_out).astype(dtype), rng.standard_normal((rows, n_out)).astype(dtype)
    desired = reference.dense_forward(_wide(A), _wide(W), _wide(b))
    assert_close(_engine.dense_forward(A, W, b), desired, n_in + 1, _root(A, W) + np.abs(b), kind="product")
    sizes = (_root(dZ, W.T), _root(A.T, dZ), _root(np.ones((1, rows)), dZ)[0])
    desired = reference.dense_backward(_wide(A), _wide(W), _wide(dZ))
    actual, terms = _engine.dense_backward(A, W, dZ), (n_out, rows, rows)
    for got, want, length, size in zip(actual, desired, terms, sizes, strict=True):
        assert_close(got, want, length, size, kind="product")


def test_dense_layer(isa, dtype, rng, widths):
    block = _engine.blocking(dtype)["block"]
    for shape in itertools.product((0, 1, 5, 6, 7, 13), (1, block - 1, block + 1, 131), widths):
        _check_dense_layer(rng, *shape, dtype)


@pytest.mark.parametrize("length", LONG)
def test_dense_layer_across_blocks_of_its_sums(isa, dtype, length, rng):
    _check_dense_layer(rng, 7, length, 9, dtype)
    _check_dense_layer(rng, length, 20, 9, dtype)
    _check_dense_layer(rng, 7, 9, length, dtype)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_loss_and_gradient(isa, dtype, loss, output, weighted, rng, widths):
    for rows, columns, labels in itertools.product((1, 7), widths, (False, True)):
        if labels and output != "softmax":
            continue
        Z = rng.normal(0, 2, (rows, columns)).astype(dtype)
        y = draw_targets(rng, loss, rows, columns, dtype, labels)
        w = rng.uniform(0, 2, rows).astype(dtype) if weighted else None
        actual = _engine.loss_and_gradient(loss, output, Z, y, w, DELTA, SLOPE)
        desired = reference.loss_and_gradient(loss, output, _wide(Z), _wide(y), _wide(w), DELTA, SLOPE)
        # A target may be far from the output: the largest numbers in a formula are Z, A or y, or their products.
        A = reference.activate(output, _wide(Z), SLOPE)
        target = np.eye(columns)[y] if labels else _wide(y)
        size = 1 + np.maximum(np.abs(Z), np.abs(A) + np.abs(target))
        share = np.ones(rows) / rows if w is None else w / w.sum(dtype=np.float64)
        assert_close(actual[0], desired[0], 1, share @ (size**2).sum(axis=1), kind="loss", dtype=dtype)
        if loss == "poisson":  # y / a has no bound
            size = np.maximum(size, target / A)
        if output in ("exp", "softmax"):  # (a - y) a; sums over a row of targets
            size = size * (1 + (A if output == "exp" else target.sum(axis=1, keepdims=True)))
        assert_close(actual[1], desired[1], 1, share[:, np.newaxis] * size, kind="loss")


@pytest.mark.parametrize("optimizer", RULES, ids=_rule_id)
def test_update(isa, dtype, optimizer, rng, widths):
    for size, l2 in itertools.product(widths, (0, 0.1)):
        rule = {**optimizer.rule(), "l2": l2}
        start, *gradients = (rng.standard_normal(size).astype(dtype) for _ in range(4))
        w, oracle = start.copy(), _wide(start)
        state = (np.zeros(size, dtype), np.zeros(size, dtype))
        oracle_state = (np.zeros(size), np.zeros(size))
        for step, g in enumerate(gradients, start=1):
            _engine.update(rule, step, w, g, state)
            reference.update(rule, step, oracle, _wide(g), oracle_state)
            assert_close(w, oracle, step, np.maximum(np.abs(w), np.abs(start)), kind="update")
            for got, want in zip(state, oracle_state, strict=True):
                assert_close(got, want, step, np.abs(gradients).max() ** 2, kind="update")


@pytest.mark.parametrize("output", ["sigmoid", "softplus", "exp"])
def test_poisson_loss_where_the_output_underflows(isa, dtype, output):
    """log a comes from z, so that neither the loss nor its gradient is lost with a."""
    Z, y = np.array([[-1000.0], [-60.0], [-30.0], [0.0]], dtype), np.array([[3.0], [2.0], [1.0], [0.0]], dtype)
    for rows in (slice(0, 1), slice(0, 4)):
        arguments = ("poisson", output, Z[rows].copy(), y[rows].copy())
        actual, desired = _engine.loss_and_gradient(*arguments), reference.loss_and_gradient(*arguments)
        assert np.isfinite(actual[0])
        assert_close(actual[0], desired[0], 1, kind="loss", dtype=dtype)
        assert_close(actual[1], desired[1], 1, kind="loss")


# ---- Passes ----


def _shapes(dtype):
    sizes = _engine.blocking(dtype)
    lanes, panel, block = sizes["lanes"], sizes["panel"], sizes["block"]
    return [
        (1, 1),
        (3, 1, 2),
        (lanes + 1, panel + 1, lanes - 1 or 1),
        (block + 1, panel - 1, 2 * panel + 3, 5),
        (7, 9, 1, 8, 3),
    ]


class Passes:
    """One network in both engines, data for it, and how large the terms of everything that passes compute are."""

    # Rows where a pre-activation or an error is closer than this to a kink are left out: rounding chooses the side.
    KINK = 1e-4

    def __init__(self, rng, sizes, hidden, output, loss, dtype, rows, labels=False, weighted=False):
        self.sizes, self.dtype, self.rows = sizes, np.dtype(dtype), rows
        self.layers = [(hidden, SLOPE)] * (len(sizes) - 2) + [(output, SLOPE)]
        self.loss = (loss, DELTA)
        self.flat = draw_parameters(rng, sizes, dtype)
        self.engine = _engine.Network(sizes, self.layers, self.loss, dtype)
        self.oracle = reference.Network(sizes, self.layers, self.loss, np.float64)
        self.engine.set_parameters(self.flat)
        self.oracle.set_parameters(_wide(self.flat))
        drawn = 2 * rows + 8
        X = rng.standard_normal((drawn, sizes[0])).astype(dtype)
        y = draw_targets(rng, loss, drawn, sizes[-1], dtype, labels)
        chosen = np.flatnonzero(self._distance_to_kinks(X, y) > self.KINK)[:rows]
        assert len(chosen) == rows
        self.X, self.y = np.ascontiguousarray(X[chosen]), np.ascontiguousarray(y[chosen])
        self.w = rng.uniform(0, 2, rows).astype(dtype) if weighted else None
        self.terms = sum(sizes) + rows
        self._measure()

    def _distance_to_kinks(self, X, y):
        Zs, As = self.oracle.forward(_wide(X))
        distance = np.full(len(X), np.inf)
        for Z, (name, _) in zip(Zs, self.layers, strict=True):
            if name in ("relu", "leaky_relu"):
                distance = np.minimum(distance, np.abs(Z).min(axis=1))
        if self.loss[0] in ("absolute_error", "quantile"):
            distance = np.minimum(distance, np.abs(As[-1] - y).min(axis=1))
        return distance

    def _measure(self):
        """Backpropagation with kernels of the reference, and the roots of sums of squares beside it."""
        weights = layer_views(_wide(self.flat), self.sizes)
        self.Zs, self.As = self.oracle.forward(_wide(self.X))
        inputs, self.size_Z, self.size_A, slopes = [_wide(self.X), *self.As], [], [], []
        for (W, b), A, Z, out, (name, slope) in zip(weights, inputs, self.Zs, self.As, self.layers, strict=False):
            slopes.append(out if name == "softmax" else reference.activation_gradient(name, Z, slope))
            self.size_Z.append((_root(A, W) + np.abs(b)).max())
            self.size_A.append(np.abs(out).max() + np.abs(slopes[-1]).max() * self.size_Z[-1])
        value, dZ = reference.loss_and_gradient(
            self.loss[0], self.layers[-1][0], self.Zs[-1], _wide(self.y), _wide(self.w), DELTA, SLOPE
        )
        self.size_loss = value + np.abs(dZ).sum() * self.size_Z[-1]
        size, ones, by_layer = np.abs(dZ), np.ones((1, self.rows)), []
        for layer in reversed(range(len(weights))):
            sums = inputs[layer].T @ dZ, dZ.sum(axis=0)  # where signs agree, sums are larger than the roots
            roots = _root(inputs[layer].T, size), _root(ones, size)
            by_layer.insert(0, [max(np.abs(total).max(), root.max()) for total, root in zip(sums, roots, strict=True)])
            if layer:
                W = weights[layer][0]
                size, dZ = (_root(dZ, W.T) * np.abs(slopes[layer - 1]), dZ @ W.T * slopes[layer - 1])
        self.size_gradient = self.spread(by_layer)

    def spread(self, by_layer):
        """A flat vector that has a number for the weights and one for the biases of each layer."""
        flat = np.empty(self.flat.size)
        for views, sizes in zip(layer_views(flat, self.sizes), by_layer, strict=True):
            for view, size in zip(views, sizes, strict=True):
                view[...] = size
        return flat

    def check_forward(self, n_threads):
        out = np.empty((self.rows, self.sizes[-1]), self.dtype)
        self.engine.predict(self.X, out, n_threads)
        assert_close(out, self.As[-1], self.terms, self.size_A[-1], kind="pass")
        actual = self.engine.forward(self.X, n_threads)
        for got, want, size in zip(
            itertools.chain(*actual), [*self.Zs, *self.As], [*self.size_Z, *self.size_A], strict=True
        ):
            assert_close(got, want, self.terms, size, kind="pass")

    def check_gradients(self, n_threads):
        actual, desired = np.empty_like(self.flat), np.empty(self.flat.size)
        got = self.engine.gradients(self.X, self.y, self.w, actual, n_threads)
        want = self.oracle.gradients(_wide(self.X), _wide(self.y), _wide(self.w), desired)
        assert_close(got, want, self.terms, self.size_loss, kind="pass", dtype=self.dtype)
        assert_close(actual, desired, self.terms, self.size_gradient, kind="pass")

    def check_training(self, n_threads, rule, epochs):
        """Epochs of (order, batch_size), and the parameters after the last."""
        steps, inexact = 0, _wide(self.w)
        for order, batch_size in epochs:
            steps += -(-self.rows // batch_size)
            got = self.engine.train_epoch(self.X, self.y, self.w, order, batch_size, rule, n_threads)
            want = self.oracle.train_epoch(_wide(self.X), _wide(self.y), inexact, order, batch_size, rule)
            assert got[1] == want[1] == -1
            assert_close(got[0], want[0], self.terms * steps, self.size_loss, kind="training", dtype=self.dtype)
        actual, desired = np.empty_like(self.flat), np.empty(self.flat.size)
        self.engine.get_parameters(actual)
        self.oracle.get_parameters(desired)
        largest = self.spread([[np.abs(view).max() for view in views] for views in layer_views(desired, self.sizes)])
        rate = rule["learning_rate"] / rule.get("epsilon", 1) / (1 - rule.get("momentum", 0))
        # A step rounds the parameters once, and takes over the errors of a gradient.
        size = largest / np.sqrt(self.terms) + rate * steps * self.size_gradient
        assert_close(actual, desired, self.terms * steps, size, kind="training")

    def check(self, rng, n_threads, momentum=0.0):
        self.check_forward(n_threads)
        self.check_gradients(n_threads)
        # Where curvature, or a step of more than a tenth, makes training diverge, it magnifies errors.
        rate = min(0.5 / sum(self.sizes), 0.1 / (float(self.size_gradient.max()) or 1.0))
        rule = optimizers.SGD(rate, momentum=momentum).rule()
        order = rng.permutation(self.rows).astype(np.int64)
        self.check_training(n_threads, rule, [(order, max(1, self.rows // 2 - 1)), (None, self.rows)])


@pytest.mark.parametrize("hidden", HIDDEN)
def test_passes_with_every_activation(isa, dtype, hidden, n_threads, rng):
    for sizes in _shapes(dtype):
        Passes(rng, sizes, hidden, "identity", "squared_error", dtype, 23, weighted=True).check(rng, n_threads, 0.5)


@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_passes_with_every_loss(isa, dtype, loss, output, n_threads, rng):
    for sizes, labels in itertools.product(_shapes(dtype)[2:], (False, True) if output == "softmax" else (False,)):
        Passes(rng, sizes, "tanh", output, loss, dtype, 14, labels).check(rng, n_threads)


@pytest.mark.parametrize("optimizer", CALM_RULES, ids=_rule_id)
def test_passes_with_every_optimizer(isa, dtype, optimizer, n_threads, rng):
    passes = Passes(rng, (9, 40, 5), "tanh", "softmax", "categorical_cross_entropy", dtype, 60, labels=True)
    passes.check_training(n_threads, optimizer.rule(), [(None, 16), (None, 16)])


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [*((rows, (5, 12, 3)) for rows in (127, 128, 129, 300)), (140, (1030, 12, 3)), (1300, (120, 330, 40))],
)
def test_passes_across_blocks(isa, dtype, rows, sizes, n_threads, rng):
    """Of rows, of inputs, and parts of minibatches: three, and of the last batch two of one row each."""
    Passes(rng, sizes, "relu", "identity", "huber", dtype, rows, weighted=True).check(rng, n_threads)


def test_a_batch_of_fewer_rows_than_parts(isa, dtype, n_threads, rng):
    passes = Passes(rng, (120, 330, 40), "relu", "identity", "squared_error", dtype, 1201)
    passes.check_training(n_threads, optimizers.SGD(1e-3).rule(), [(None, 1200)])


@pytest.mark.parametrize("alike", [False, True], ids=["random rows", "equal rows"])
def test_gradients_of_a_million_rows(isa, n_threads, alike, rng):
    """Positive terms, whose rounding errors do not cancel: float32 sums of 128 rows, and then of 7813 such sums."""
    rows = 1_000_000
    X = np.tile(np.float32([0.1, 0.7, 0.3]), (rows, 1)) if alike else rng.random((rows, 3), np.float32)
    y, flat = np.zeros((rows, 1), np.float32), np.float32([0.3, 0.5, 0.7, 0.1])
    network = _engine.Network((3, 1), [("identity", 0.0)], ("squared_error", 1.0), np.float32)
    network.set_parameters(flat)
    actual = np.empty(4, np.float32)
    value = network.gradients(X, y, None, actual, n_threads)
    outputs = X @ _wide(flat[:3]) + _wide(flat)[3]
    desired = np.append(outputs @ X / rows, outputs.mean())
    # Errors of equal terms are equal, too, and nothing like random.
    chain, kind = 128 + rows // 128, "sum" if alike else "product"
    assert_close(actual, desired, chain, desired, kind=kind)
    assert_close(value, (outputs**2).mean() / 2, 1, kind="loss", dtype=np.float32)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 140), min_size=2, max_size=5),
    rows=st.integers(1, 150),
    hidden=st.sampled_from(HIDDEN),
    pair=st.sampled_from(PAIRS),
    n_threads=st.sampled_from([1, 2, 3, 7]),
    dtype=st.sampled_from([np.float32, np.float64]),
    name=st.sampled_from(_engine.available_isas()),
)
def test_passes_of_any_shape(sizes, rows, hidden, pair, n_threads, dtype, name):
    before, rng = _engine.use_isa(name), np.random.default_rng(rows)
    try:
        passes = Passes(rng, tuple(sizes), hidden, pair[1], pair[0], dtype, rows, weighted=rows % 2 == 0)
        passes.check(rng, n_threads)
    finally:
        _engine.use_isa(before)

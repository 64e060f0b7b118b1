"""The compiled engine against the reference: every kernel and pass x type x instruction set x odd shape x threads.

Shapes come from the kernels' own constants: one less and one more than a vector, a panel, a block and a tile of rows.
"""

import itertools

import numpy as np
import pytest
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from cymlp import _engine, activations, losses, optimizers, reference

SLOPE, DELTA = 0.2, 0.7
ELEMENTWISE = [name for name in activations.ACTIVATIONS if name != "softmax"]
HIDDEN = [name for name, definition in activations.ACTIVATIONS.items() if definition.hidden]
RULES = [
    optimizers.SGD(0.05),
    optimizers.SGD(0.05, momentum=0.9),
    optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    optimizers.RMSprop(),
    optimizers.Adam(),
    optimizers.AdamW(weight_decay=0.1),
]


def _is_legal(loss, output):
    try:
        losses.check_pair(losses.Loss(loss), activations.Activation(output))
    except ValueError:
        return False
    return True


PAIRS = [pair for pair in itertools.product(losses.LOSSES, activations.ACTIVATIONS) if _is_legal(*pair)]


def _widths(dtype):
    sizes = _engine.blocking(dtype)
    lanes, panel = sizes["lanes"], sizes["panel"]
    return sorted({1, lanes - 1, lanes, lanes + 1, panel - 1, panel, panel + 1, panel + lanes + 1, 2 * panel + 3} - {0})


def _targets(rng, loss, rows, columns, dtype, labels=False):
    if labels:
        return rng.integers(0, columns, rows)
    if loss == "poisson":
        return rng.poisson(1.5, (rows, columns)).astype(dtype)
    return rng.random((rows, columns)).astype(dtype)


def _parameters(rng, sizes, dtype):
    """Parameters with which a layer's sums are of the order of 1."""
    pieces = []
    for n_in, n_out in itertools.pairwise(sizes):
        pieces += [rng.normal(0, 1 / np.sqrt(n_in), n_in * n_out), rng.normal(0, 0.1, n_out)]
    return np.concatenate(pieces).astype(dtype)


def _pair_of_networks(rng, sizes, hidden, output, loss, dtype):
    layers = [(hidden, SLOPE)] * (len(sizes) - 2) + [(output, SLOPE)]
    flat = _parameters(rng, sizes, dtype)
    networks = [module.Network(sizes, layers, (loss, DELTA), dtype) for module in (reference, _engine)]
    for network in networks:
        network.set_parameters(flat)
    return networks, flat.size


def _terms(sizes, rows):
    return sum(sizes) + rows


# ---- Kernels ----


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activation(isa, dtype, name, rng):
    for columns, scale in itertools.product(_widths(dtype), (0.1, 3, 15)):
        Z = rng.normal(0, scale, (3, columns)).astype(dtype)
        desired = reference.activate(name, Z, SLOPE)
        # exp(-z^2 / 2) carries the rounding of z^2 in the oracle's gelu: a relative error of z^2 / 2 eps.
        size = np.abs(desired) * (1 + Z**2 if name == "gelu" else 1)
        terms = columns if name == "softmax" else 1
        assert_close(_engine.activate(name, Z, SLOPE), desired, terms, scale=size, kind="activation")


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_gradient(isa, dtype, name, rng):
    for columns, scale in itertools.product(_widths(dtype), (0.1, 3, 15)):
        Z = rng.normal(0, scale, (3, columns)).astype(dtype)
        # Differences of numbers of the order of 1, such as 1 - a^2, which gelu and silu multiply by z.
        actual, desired = _engine.activation_gradient(name, Z, SLOPE), reference.activation_gradient(name, Z, SLOPE)
        assert_close(actual, desired, 1, scale=np.maximum(np.abs(desired), 1 + np.abs(Z)), kind="activation")


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_of_special_values(isa, dtype, name):
    Z = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30]], dtype)
    actual = _engine.activate(name, Z, SLOPE)[0]
    limits = {
        "identity": (np.inf, -np.inf), "sigmoid": (1, 0), "tanh": (1, -1), "relu": (np.inf, 0),
        "leaky_relu": (np.inf, -np.inf), "elu": (np.inf, -1), "gelu": (np.inf, 0), "silu": (np.inf, 0),
        "softplus": (np.inf, 0), "exp": (np.inf, 0),
    }  # fmt: skip
    assert np.isnan(actual[0])
    assert tuple(actual[1:3]) == limits[name]
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_allclose(actual[3:], reference.activate(name, Z, SLOPE)[0, 3:], rtol=4 * np.finfo(dtype).eps)


# float64 formulas that are exact enough to count float32's units in the last place by.
EXACT = {
    "exp": np.exp,
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "softplus": lambda z: np.logaddexp(0, z),
    "silu": lambda z: z * special.expit(z),
    "gelu": lambda z: z * special.ndtr(z),
}


def _ulps(actual, exact, dtype):
    """Largest |actual - exact| in units of the last place of exact in dtype; what may be flushed does not count."""
    limits = np.finfo(dtype)
    counted = (np.abs(exact) <= limits.max) & (np.abs(exact) >= 2 * limits.tiny)
    actual, exact = actual.astype(exact.dtype)[counted], exact[counted]
    unit = np.exp2(np.floor(np.log2(np.abs(exact)))) * limits.eps
    return (np.abs(actual - exact) / unit).max(initial=0)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    "stride", [pytest.param(99_991, id="coarse"), pytest.param(499, id="fine", marks=pytest.mark.slow)]
)
def test_activation_is_within_4_ulp_in_float32(isa, name, stride):
    bits = np.arange(0, 2**32, stride, dtype=np.uint64).astype(np.uint32)
    for piece in np.array_split(bits, max(1, bits.size // 2_000_000)):
        Z = piece.view(np.float32)
        Z = Z[np.isfinite(Z) & (np.abs(Z) >= np.finfo(np.float32).tiny)]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            exact = EXACT[name](Z.astype(np.float64))
        assert _ulps(_engine.activate(name, Z[np.newaxis])[0], exact, np.float32) <= 4


@pytest.mark.parametrize("name", ["exp", "sigmoid", "tanh", "elu", "softplus", "silu"])
def test_activation_is_within_4_ulp_in_float64(isa, name, rng):
    Z = np.concatenate([rng.uniform(-700, 700, 20_000), rng.normal(0, 3, 20_000), rng.normal(0, 1, 20_000) ** 21])
    wide = Z.astype(np.longdouble)
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("this machine has no type longer than float64 to measure float64 by")
    e = np.exp(-np.abs(wide))
    # Beyond float64's range on either side there is nothing to count.
    bounded = np.clip(wide, -800, 800)
    sigmoid = np.where(Z > 0, 1, e) / (1 + e)
    exact = {
        "exp": lambda: np.exp(bounded),
        "sigmoid": lambda: sigmoid,
        "tanh": lambda: np.tanh(wide),
        "elu": lambda: np.where(Z > 0, wide, np.expm1(np.minimum(wide, 0))),
        "softplus": lambda: np.maximum(wide, 0) + np.log1p(e),
        "silu": lambda: wide * sigmoid,
    }[name]()
    assert _ulps(_engine.activate(name, Z[np.newaxis])[0], exact, np.float64) <= 4


def test_dense_layer(isa, dtype, rng):
    sizes = _engine.blocking(dtype)
    depths = (1, sizes["block"] - 1, sizes["block"] + 1, 131)
    for rows, n_in, n_out in itertools.product((0, 1, 5, 6, 7, 13), depths, _widths(dtype)):
        A, W = rng.standard_normal((rows, n_in)).astype(dtype), rng.standard_normal((n_in, n_out)).astype(dtype)
        b, dZ = rng.standard_normal(n_out).astype(dtype), rng.standard_normal((rows, n_out)).astype(dtype)
        assert_close(
            _engine.dense_forward(A, W, b),
            reference.dense_forward(A, W, b),
            n_in + 1,
            scale=np.abs(A) @ np.abs(W) + np.abs(b),
        )
        actual, desired = _engine.dense_backward(A, W, dZ), reference.dense_backward(A, W, dZ)
        magnitudes = (
            np.abs(dZ) @ np.abs(W).T,
            np.abs(A).T @ np.abs(dZ),
            np.abs(dZ).sum(axis=0),
        )
        for got, want, terms, magnitude in zip(actual, desired, (n_out, rows, rows), magnitudes, strict=True):
            assert_close(got, want, terms, scale=magnitude)


def test_dense_layer_deeper_than_a_block_of_the_reduction(isa, dtype, rng):
    A, W = rng.standard_normal((7, 2500)).astype(dtype), rng.standard_normal((2500, 9)).astype(dtype)
    b, dZ = np.zeros(9, dtype), rng.standard_normal((7, 9)).astype(dtype)
    assert_close(_engine.dense_forward(A, W, b), reference.dense_forward(A, W, b), 2500, scale=np.abs(A) @ np.abs(W))
    rows = rng.standard_normal((700, 20)).astype(dtype)
    dZ = rng.standard_normal((700, 9)).astype(dtype)
    W = np.ones((20, 9), dtype)
    assert_close(
        _engine.dense_backward(rows, W, dZ)[1],
        reference.dense_backward(rows, W, dZ)[1],
        700,
        scale=np.abs(rows).T @ np.abs(dZ),
    )


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_loss_and_gradient(isa, dtype, loss, output, weighted, rng):
    for rows, columns, labels in itertools.product((1, 7), _widths(dtype), (False, True)):
        if labels and output != "softmax":
            continue
        Z = rng.normal(0, 2, (rows, columns)).astype(dtype)
        y = _targets(rng, loss, rows, columns, dtype, labels)
        w = rng.uniform(0, 2, rows).astype(dtype) if weighted else None
        arguments = (loss, output, Z, y, w, DELTA, SLOPE)
        actual, desired = _engine.loss_and_gradient(*arguments), reference.loss_and_gradient(*arguments)
        # A target may be far from the output: the largest number in a formula is that of Z, A or y, or its square.
        A = reference.activate(output, Z, SLOPE)
        size = 1 + max(np.abs(Z).max(), np.abs(A).max(), np.abs(y).max())
        assert_close(actual[0], desired[0], columns, scale=size**2, kind="loss", dtype=dtype)
        if loss == "poisson":  # y / a has no bound
            size = max(size, (np.abs(y) / A).max())
        assert_close(actual[1], desired[1], columns, scale=size, kind="loss")


@pytest.mark.parametrize("optimizer", RULES, ids=lambda rule: "-".join(map(str, rule.rule().values())))
def test_update(isa, dtype, optimizer, rng):
    for size in _widths(dtype):
        vectors = [rng.standard_normal(size).astype(dtype) for _ in range(4)]
        w = [vectors[0].copy() for _ in range(2)]
        state = [(np.zeros(size, dtype), np.zeros(size, dtype)) for _ in range(2)]
        for step in (1, 2, 3):
            for module, parameters, moments in zip((reference, _engine), w, state, strict=True):
                module.update(optimizer.rule(), step, parameters, vectors[step], moments)
            assert_close(w[1], w[0], 1, scale=np.abs(w[0]) + 1, kind="update")
            for i in range(2):
                assert_close(state[1][i], state[0][i], 1, scale=10, kind="update")


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


def _compare_passes(rng, sizes, hidden, output, loss, dtype, rows, n_threads, labels, weighted, optimizer):
    (oracle, engine), size = _pair_of_networks(rng, sizes, hidden, output, loss, dtype)
    X = rng.standard_normal((rows, sizes[0])).astype(dtype)
    y = _targets(rng, loss, rows, sizes[-1], dtype, labels)
    w = rng.uniform(0, 2, rows).astype(dtype) if weighted else None
    terms = _terms(sizes, rows)
    outputs = [np.empty((rows, sizes[-1]), dtype) for _ in range(2)]
    for network, out in zip((oracle, engine), outputs, strict=True):
        network.predict(X, out, n_threads)
    assert_close(outputs[1], outputs[0], terms, scale=1 + np.abs(outputs[0]).max(initial=0), kind="pass")
    for got, want in zip(
        itertools.chain(*engine.forward(X, n_threads)), itertools.chain(*oracle.forward(X)), strict=True
    ):
        assert_close(got, want, terms, scale=1 + np.abs(want).max(initial=0), kind="pass")
    gradients = [np.empty(size, dtype) for _ in range(2)]
    values = [
        network.gradients(X, y, w, out, n_threads) for network, out in zip((oracle, engine), gradients, strict=True)
    ]
    largest = 1 + np.abs(gradients[0]).max() + abs(values[0])
    assert_close(values[1], values[0], terms, scale=largest, kind="pass", dtype=dtype)
    assert_close(gradients[1], gradients[0], terms, scale=largest, kind="pass")
    order = rng.permutation(rows).astype(np.int64)
    batch = max(1, rows // 2 - 1)
    results = []
    for network in (oracle, engine):
        epochs = [
            network.train_epoch(X, y, w, order, batch, optimizer.rule(), n_threads),
            network.train_epoch(X, y, w, None, rows, optimizer.rule(), n_threads),
        ]
        flat = np.empty(size, dtype)
        network.get_parameters(flat)
        results.append((epochs, flat))
    for got, want in zip(results[1][0], results[0][0], strict=True):
        assert got[1] == want[1] == -1
        assert_close(got[0], want[0], terms, scale=largest, kind="training", dtype=dtype)
    assert_close(results[1][1], results[0][1], terms * 4, scale=largest, kind="training")


@pytest.mark.parametrize("hidden", HIDDEN)
def test_passes_with_every_activation(isa, dtype, hidden, n_threads, rng):
    optimizer = optimizers.SGD(0.05, momentum=0.5)
    for sizes in _shapes(dtype):
        _compare_passes(rng, sizes, hidden, "identity", "squared_error", dtype, 23, n_threads, False, True, optimizer)


@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_passes_with_every_loss(isa, dtype, loss, output, rng):
    for sizes, labels, n_threads in itertools.product(_shapes(dtype)[2:], (False, True), (1, 2)):
        if labels and output != "softmax":
            continue
        _compare_passes(rng, sizes, "tanh", output, loss, dtype, 14, n_threads, labels, False, optimizers.SGD(0.02))


@pytest.mark.parametrize("optimizer", RULES, ids=lambda rule: "-".join(map(str, rule.rule().values())))
def test_passes_with_every_optimizer(isa, dtype, optimizer, n_threads, rng):
    (oracle, engine), size = _pair_of_networks(rng, (9, 40, 5), "tanh", "softmax", "categorical_cross_entropy", dtype)
    X, y = rng.standard_normal((60, 9)).astype(dtype), rng.integers(0, 5, 60)
    flats = []
    for network in (oracle, engine):
        for _ in range(2):
            network.train_epoch(X, y, None, None, 16, optimizer.rule(), n_threads)
        flats.append(np.empty(size, dtype))
        network.get_parameters(flats[-1])
    assert_close(flats[1], flats[0], _terms((9, 40, 5), 16) * 8, scale=1 + np.abs(flats[0]).max(), kind="training")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 140), min_size=2, max_size=5),
    rows=st.integers(1, 150),
    hidden=st.sampled_from(HIDDEN),
    pair=st.sampled_from(PAIRS),
    n_threads=st.sampled_from([1, 2, 3]),
    use_float32=st.booleans(),
    name=st.sampled_from(_engine.available_isas()),
)
def test_passes_of_any_shape(sizes, rows, hidden, pair, n_threads, use_float32, name):
    before = _engine.use_isa(name)
    try:
        _compare_passes(
            np.random.default_rng(rows), tuple(sizes), hidden, pair[1], pair[0],
            np.float32 if use_float32 else np.float64, rows, n_threads, False, rows % 2 == 0, optimizers.SGD(0.01),
        )  # fmt: skip
    finally:
        _engine.use_isa(before)


# ---- The same bits ----


def _train_bits(sizes, hidden, dtype, rows, batch, n_threads, epochs=2):
    rng = np.random.default_rng(3)
    (_, engine), size = _pair_of_networks(rng, sizes, hidden, "softmax", "categorical_cross_entropy", dtype)
    X, y = rng.standard_normal((rows, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], rows)
    w = rng.uniform(0, 2, rows).astype(dtype)
    gradient = np.empty(size, dtype)
    history = [engine.gradients(X, y, w, gradient, n_threads)]
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(rows).astype(np.int64)
        history.append(engine.train_epoch(X, y, w, order, batch, optimizers.Adam().rule(), n_threads))
    flat = np.empty(size, dtype)
    engine.get_parameters(flat)
    return history, gradient.tobytes(), flat.tobytes()


@pytest.mark.parametrize("hidden", ["relu", "tanh", "gelu"])
def test_training_has_the_same_bits_for_any_number_of_threads(isa, dtype, hidden):
    for sizes, rows, batch in (((20, 100, 2), 150, 47), ((70, 33, 65, 10), 300, 128), ((5, 1, 3), 9, 4)):
        single = _train_bits(sizes, hidden, dtype, rows, batch, 1)
        for n_threads in (2, 3, 7, -2):
            assert _train_bits(sizes, hidden, dtype, rows, batch, n_threads) == single


def test_prediction_of_a_row_does_not_depend_on_the_other_rows(isa, dtype, rng):
    for sizes in _shapes(dtype):
        (_, engine), _ = _pair_of_networks(rng, sizes, "tanh", "softmax", "categorical_cross_entropy", dtype)
        X = rng.standard_normal((301, sizes[0])).astype(dtype)
        whole = np.empty((301, sizes[-1]), dtype)
        engine.predict(X, whole, 1)
        for first, last, n_threads in ((0, 1, 1), (150, 151, 2), (300, 301, 1), (3, 9, 3), (0, 128, 2), (129, 301, 7)):
            part = np.empty((last - first, sizes[-1]), dtype)
            engine.predict(X[first:last], part, n_threads)
            assert part.tobytes() == whole[first:last].tobytes()
        assert engine.forward(X, 3)[1][-1].tobytes() == whole.tobytes()


def test_order_of_rows_is_followed(isa, dtype, rng):
    """An epoch in an order has the bits of the epoch over rows that were put into this order before."""
    X, y = rng.standard_normal((50, 6)).astype(dtype), rng.integers(0, 3, 50)
    order = rng.permutation(50).astype(np.int64)
    results = []
    for arguments in ((X, y, None, order), (np.ascontiguousarray(X[order]), y[order], None, None)):
        (_, engine), size = _pair_of_networks(
            np.random.default_rng(1), (6, 10, 3), "relu", "softmax", "categorical_cross_entropy", dtype
        )
        loss = engine.train_epoch(*arguments, 8, optimizers.Adam().rule())
        flat = np.empty(size, dtype)
        engine.get_parameters(flat)
        results.append((loss, flat.tobytes()))
    assert results[0] == results[1]


# ---- The seam ----


def test_parameters_go_in_and_out(isa, dtype, rng):
    for sizes in _shapes(dtype):
        engine = _engine.Network(sizes, [("relu", 0.0)] * (len(sizes) - 1), ("squared_error", 1.0), dtype)
        flat = _parameters(rng, sizes, dtype)
        out = np.full_like(flat, np.nan)
        engine.get_parameters(out)
        assert not out.any()
        engine.set_parameters(flat)
        engine.get_parameters(out)
        assert out.tobytes() == flat.tobytes()


def test_an_epoch_ends_before_the_update_of_a_batch_without_a_finite_loss(engine, dtype, rng):
    network = engine.Network((3, 4, 1), [("relu", 0.0), ("identity", 0.0)], ("squared_error", 1.0), dtype)
    network.set_parameters(_parameters(rng, (3, 4, 1), dtype))
    X, y = rng.standard_normal((40, 3)).astype(dtype), np.zeros((40, 1), dtype)
    y[25] = np.inf
    loss, failed = network.train_epoch(X, y, None, None, 4, optimizers.SGD(0.01).rule())
    after = np.empty(21, dtype)
    network.get_parameters(after)
    assert failed == 6
    assert not np.isfinite(loss)
    assert np.isfinite(after).all()


def test_names_are_those_of_the_registries():
    assert tuple(activations.ACTIVATIONS) == _engine.ACTIVATIONS
    assert tuple(losses.LOSSES) == _engine.LOSSES


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda n, X, y: n.predict(X[:, :2].copy(), np.empty((4, 2))), ValueError, "X must have shape"),
        (lambda n, X, y: n.predict(X.astype(np.float32), np.empty((4, 2))), TypeError, "X must have dtype float64"),
        (lambda n, X, y: n.predict(X[::2], np.empty((2, 2))), ValueError, "X must be a C-contiguous"),
        (lambda n, X, y: n.predict(X, np.empty((4, 3))), ValueError, "out must have shape"),
        (
            lambda n, X, y: n.train_epoch(X, y, None, np.array([0, 4]), 2, optimizers.SGD().rule()),
            ValueError,
            "order must be in",
        ),
        (lambda n, X, y: n.train_epoch(X, y, None, None, 0, optimizers.SGD().rule()), ValueError, "batch_size"),
        (
            lambda n, X, y: n.train_epoch(X, np.array([0, 1, 2, 0]), None, None, 2, optimizers.SGD().rule()),
            ValueError,
            "y must be",
        ),
        (
            lambda n, X, y: n.train_epoch(X, y, np.ones(3), None, 2, optimizers.SGD().rule()),
            ValueError,
            "sample_weight",
        ),
        (lambda n, X, y: n.set_parameters(np.zeros(3)), ValueError, "parameters must have shape"),
    ],
)
def test_errors_name_the_argument(call, error, words):
    network = _engine.Network((3, 2), [("softmax", 0.0)], ("categorical_cross_entropy", 1.0), np.float64)
    with pytest.raises(error, match=words):
        call(network, np.zeros((4, 3)), np.zeros((4, 2)))


def test_rule_must_stay_until_the_optimizer_is_reset(engine, rng):
    network = engine.Network((3, 1), [("identity", 0.0)], ("squared_error", 1.0), np.float64)
    X, y = rng.standard_normal((4, 3)), np.zeros((4, 1))
    network.train_epoch(X, y, None, None, 2, optimizers.Adam().rule())
    with pytest.raises(ValueError, match="rule"):
        network.train_epoch(X, y, None, None, 2, optimizers.SGD().rule())
    network.reset_optimizer()
    network.train_epoch(X, y, None, None, 2, optimizers.SGD().rule())


def test_an_unknown_instruction_set_is_an_error():
    with pytest.raises(ValueError, match="isa must be one of"):
        _engine.use_isa("avx9")


@pytest.mark.parametrize("output", ["sigmoid", "softplus", "exp"])
def test_poisson_loss_where_the_output_underflows(isa, dtype, output):
    """log a comes from z, so that neither the loss nor its gradient is lost with a."""
    Z, y = np.array([[-1000.0], [-60.0], [-30.0], [0.0]], dtype), np.array([[3.0], [2.0], [1.0], [0.0]], dtype)
    for rows in (slice(0, 1), slice(0, 4)):
        arguments = ("poisson", output, Z[rows].copy(), y[rows].copy())
        actual, desired = _engine.loss_and_gradient(*arguments), reference.loss_and_gradient(*arguments)
        assert np.isfinite(actual[0])
        assert_close(actual[0], desired[0], 4, scale=3000, kind="loss", dtype=dtype)
        assert_close(actual[1], desired[1], 1, scale=3, kind="loss")

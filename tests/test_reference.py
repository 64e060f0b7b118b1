"""The reference's kernels and gradients against mathematics: closed forms and central differences; and its errors.

Cases come from the registries, so that a new activation or loss is tested by existing.
"""

import ast
import inspect
import itertools

import numpy as np
import pytest
from conftest import CENTRAL_DIFFERENCE, PAIRS, assert_close
from scipy import special

from cymlp import (
    _formulas,
    _reference_checks,
    _reference_kernels,
    _reference_records,
    activations,
    losses,
    optimizers,
    reference,
)

ELEMENTWISE = [name for name in activations.ACTIVATIONS if name != "softmax"]
HIDDEN = [name for name, definition in activations.ACTIVATIONS.items() if definition.hidden]
SLOPE, DELTA = 0.2, 0.7
# What the reference is made of.
PARTS = ("._formulas", "._reference_checks", "._reference_kernels", "._reference_records")

ILLEGAL_PAIRS = [pair for pair in itertools.product(losses.LOSSES, activations.ACTIVATIONS) if pair not in PAIRS]

# By other formulas than the reference's; each is accurate for |z| <= 20.
CLOSED_FORMS = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": lambda z: np.expm1(2 * z) / (np.expm1(2 * z) + 2),
    "relu": lambda z: (z + np.abs(z)) / 2,
    "leaky_relu": lambda z: (1 + SLOPE) / 2 * z + (1 - SLOPE) / 2 * np.abs(z),
    "elu": lambda z: np.where(z > 0, z, 2 * np.exp(z / 2) * np.sinh(np.minimum(z, 0) / 2)),
    "gelu": lambda z: z / 2 * special.erfc(-z / np.sqrt(2)),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "softplus": lambda z: np.log1p(np.exp(z)),
    "exp": lambda z: np.exp2(z / np.log(2)),
    "softmax": lambda z: special.softmax(z, axis=1),
}

# Loss of rows from z, by SciPy's functions or by definition.
LOSS_FORMS = {
    "squared_error": lambda z, a, y: ((a - y) ** 2).sum(axis=1) / 2,
    "absolute_error": lambda z, a, y: np.linalg.norm(a - y, ord=1, axis=1),
    "huber": lambda z, a, y: special.huber(DELTA, a - y).sum(axis=1),
    "quantile": lambda z, a, y: np.where(y > a, DELTA * (y - a), (1 - DELTA) * (a - y)).sum(axis=1),
    "poisson": lambda z, a, y: special.kl_div(y, a).sum(axis=1),
    "binary_cross_entropy": lambda z, a, y: -(y * special.log_expit(z) + (1 - y) * special.log_expit(-z)).sum(axis=1),
    "categorical_cross_entropy": lambda z, a, y: -(y * special.log_softmax(z, axis=1)).sum(axis=1),
}


def _targets(rng, loss, rows, columns, labels=False):
    """Targets in the range of a loss, float64, or int64 labels."""
    if labels:
        return rng.integers(0, columns, rows)
    if loss == "poisson":
        return rng.poisson(1.5, (rows, columns)).astype(np.float64)
    if losses.LOSSES[loss].output_activation is not None:
        return rng.uniform(0, 1, (rows, columns))  # rows that do not sum to 1, too
    return rng.normal(0, 1.5, (rows, columns))


def _network(sizes, hidden, output, loss, dtype=np.float64):
    layers = [(hidden, SLOPE)] * (len(sizes) - 2) + [(output, SLOPE)]
    return reference.Network(sizes, layers, (loss, DELTA), dtype)


def _size(sizes):
    return sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes))


def _draw(rng, sizes, dtype=np.float64):
    """Parameters with which sums of a layer are of the order of 1."""
    layers = [rng.normal(0, 1 / np.sqrt(n_in), (n_in + 1) * n_out) for n_in, n_out in itertools.pairwise(sizes)]
    return np.concatenate(layers).astype(dtype)


def _slope_of(function, h):
    """Derivative at 0: central differences, extrapolated once (Richardson), so that the error is O(h^4)."""
    coarse = (function(h) - function(-h)) / (2 * h)
    fine = (function(h / 2) - function(-h / 2)) / h
    return (4 * fine - coarse) / 3


def _gradients(network, *arguments):
    out = np.full(network._flat.shape, np.nan, network._flat.dtype)
    return network.gradients(*arguments, out), out


def _import_statements(module):
    """At the top of a module, and inside its functions."""
    tree = ast.parse(inspect.getsource(module))
    everywhere = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    at_once = [ast.unparse(node) for node in everywhere if node in tree.body]
    return at_once, [ast.unparse(node) for node in everywhere[len(at_once) :]]


def test_imports_numpy_alone():
    """When it is imported; scipy.special follows on first use, and nothing of cymlp but its own parts ever."""
    for module in (reference, _reference_kernels, _reference_records, _reference_checks, _formulas):
        at_once, later = _import_statements(module)
        assert {line.split()[1] for line in at_once} <= {"itertools", "math", "numpy", *PARTS}
        assert later == (["from scipy import special"] if module is _formulas else [])


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activation_is_its_closed_form(name, dtype):
    Z = np.linspace(-20, 20, 1203, dtype=dtype).reshape(3, 401)
    A = reference.activate(name, Z, np.float64(SLOPE))  # whose type must not win over float32
    z = Z.astype(np.float64)
    desired = CLOSED_FORMS[name](z)
    # Beside the rounding of a, that of z: it changes a by |z phi'(z)|, which softmax bounds by |z a|.
    condition = z * (desired if name == "softmax" else reference.activation_gradient(name, z, SLOPE))
    assert A.dtype == dtype
    assert_close(A, desired, 1, np.abs(desired) + np.abs(condition), kind="activation")


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_gradient_is_the_derivative(name):
    Z = np.linspace(-8, 8, 400).reshape(4, 100)  # an even number of points: none at 0, where some have a kink
    desired = _slope_of(lambda h: reference.activate(name, Z + h, SLOPE), 1e-3)
    error = np.abs(reference.activation_gradient(name, Z, SLOPE) - desired)
    assert (error <= CENTRAL_DIFFERENCE * np.maximum(np.abs(desired), 1)).all()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_gradient_keeps_float32(name):
    Z = np.linspace(-8, 8, 401, dtype=np.float32).reshape(1, 401)
    actual = reference.activation_gradient(name, Z, np.float64(SLOPE))
    assert actual.dtype == np.float32
    desired = reference.activation_gradient(name, Z.astype(np.float64), SLOPE)
    # 1 - a^2, 1 - a and z (1 - s) cancel from terms of size 1 and |z|.
    assert_close(actual, desired, 1, 1 + np.abs(Z) + np.abs(desired) * (1 + np.abs(Z)), kind="activation")


@pytest.mark.parametrize(
    ("name", "at_zero"), [("relu", 0.0), ("leaky_relu", SLOPE), ("elu", 1.0), ("gelu", 0.5), ("softplus", 0.5)]
)
def test_activation_gradient_at_zero(name, at_zero, dtype):
    actual = reference.activation_gradient(name, np.zeros((1, 1), dtype), SLOPE)
    np.testing.assert_array_equal(actual, np.array([[at_zero]], dtype))


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activation_far_out(name, dtype):
    far = {
        "identity": (-1000, 1000),
        "sigmoid": (0, 1),
        "tanh": (-1, 1),
        "leaky_relu": (-250, 1000),
        "elu": (-1, 1000),
        "exp": (0, np.inf),
        "softmax": (0, 1),
    }.get(name, (0, 1000))
    Z = np.array([[-1000, 1000]], dtype)
    np.testing.assert_array_equal(reference.activate(name, Z, 0.25), [far])
    if name in ELEMENTWISE:
        below = {"identity": 1, "leaky_relu": 0.25}.get(name, 0)
        above = {"sigmoid": 0, "tanh": 0, "exp": np.inf}.get(name, 1)
        np.testing.assert_array_equal(reference.activation_gradient(name, Z, 0.25), [[below, above]])


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activation_passes_nan_on(name, dtype):
    A = reference.activate(name, np.array([[np.nan], [1.0]], dtype))
    np.testing.assert_array_equal(np.isnan(A), [[True], [False]])


def test_softmax_rows_are_distributions_and_ignore_a_shift(rng, dtype):
    Z = rng.integers(-40, 40, (7, 5)).astype(dtype)  # integers: adding 512 is exact
    A = reference.activate("softmax", Z)
    assert_close(A.sum(axis=1), np.ones(7), 5, kind="sum")
    np.testing.assert_array_equal(reference.activate("softmax", Z + 512), A)


def test_dense_forward_is_the_sum_of_products(rng, dtype):
    A, W, b = (rng.normal(size=shape).astype(dtype) for shape in [(5, 7), (7, 3), (3,)])
    desired = np.einsum("ik,kj->ij", A.astype(np.longdouble), W.astype(np.longdouble)) + b
    actual = reference.dense_forward(A, W, b)
    assert actual.dtype == dtype
    assert_close(actual, desired, 8, np.abs(A) @ np.abs(W) + np.abs(b))


def test_dense_backward_is_the_transposed_sum(rng, dtype):
    A, W, dZ = (rng.normal(size=shape).astype(dtype) for shape in [(5, 7), (7, 3), (5, 3)])
    dA, dW, db = reference.dense_backward(A, W, dZ)
    assert dA.dtype == dW.dtype == db.dtype == dtype
    a, w, d = (array.astype(np.longdouble) for array in (A, W, dZ))
    assert_close(dA, np.einsum("ij,kj->ik", d, w), 3, np.abs(dZ) @ np.abs(W).T)
    assert_close(dW, np.einsum("ik,ij->kj", a, d), 5, np.abs(A).T @ np.abs(dZ))
    assert_close(db, d.sum(axis=0), 5, np.abs(dZ).sum(axis=0))


@pytest.mark.parametrize(("loss", "output"), PAIRS)
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_is_its_closed_form(loss, output, weighted, rng, dtype):
    Z = rng.normal(0, 2, (6, 4)).astype(dtype)
    y = _targets(rng, loss, 6, 4).astype(dtype)
    weight = np.array([1, 0, 2.5, 0.5, 3, 1], dtype) if weighted else None
    actual, dZ = reference.loss_and_gradient(loss, output, Z, y, weight, DELTA, SLOPE)
    z, target = Z.astype(np.float64), y.astype(np.float64)
    desired = LOSS_FORMS[loss](z, reference.activate(output, z, SLOPE), target)
    assert type(actual) is float
    assert dZ.dtype == dtype
    size = 1 + np.abs(reference.activate(output, z, SLOPE)) + np.abs(target)
    largest = (size * (size + np.abs(z))).max()  # no formula has larger terms: (|a| + |y|)^2, y |z|, y log y
    assert_close(actual, np.average(desired, weights=weight), 4, largest, kind="loss", dtype=dtype)


@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_loss_far_out_keeps_its_gradient(loss, output, dtype):
    """|z| = 1000: the loss is finite, or infinite where it must be, but never NaN, and nor is its gradient."""
    Z = np.array([[1000, -1000], [-1000, 1000]], dtype)
    y = np.array([[1, 0], [0, 1]], dtype)
    for targets in (y, 1 - y):
        loss_value, dZ = reference.loss_and_gradient(loss, output, Z, targets, None, DELTA, SLOPE)
        assert (np.isfinite(loss_value) and np.isfinite(dZ).all()) or output == "exp"
        assert not np.isnan(loss_value)
        assert not np.isnan(dZ).any()


def test_cross_entropies_far_out_are_exact(dtype):
    right, wrong = np.array([[1000, -1000]], dtype), np.array([[-1000, 1000]], dtype)
    y = np.array([[1, 0]], dtype)
    for loss, output, at_wrong in [
        ("binary_cross_entropy", "sigmoid", [[-1, 1]]),
        ("categorical_cross_entropy", "softmax", [[-1, 1]]),
    ]:
        value, dZ = reference.loss_and_gradient(loss, output, right, y)
        assert value == 0.0
        np.testing.assert_array_equal(dZ, [[0, 0]])
        value, dZ = reference.loss_and_gradient(loss, output, wrong, y)
        assert value == 2000.0
        np.testing.assert_array_equal(dZ, at_wrong)


def test_binary_cross_entropy_of_a_right_answer_is_not_rounded_to_zero(dtype):
    value, _ = reference.loss_and_gradient(
        "binary_cross_entropy", "sigmoid", np.array([[30]], dtype), np.array([[1]], dtype)
    )
    assert_close(value, np.log1p(np.exp(-30.0)), 1, kind="loss", dtype=dtype)


@pytest.mark.parametrize("output", ["sigmoid", "softplus", "exp"])
def test_poisson_far_below_pulls_with_full_strength(output, dtype):
    """a underflows, but (a - y) a' / a tends to -y: a unit that is off can come back."""
    y = np.array([[0, 1, 3]], dtype)
    value, dZ = reference.loss_and_gradient("poisson", output, np.full((1, 3), -1000, dtype), y)
    np.testing.assert_array_equal(dZ, -y)
    assert_close(value, (special.xlogy(y, y) + 1000 * y - y).sum(), 3, 3000, kind="loss", dtype=dtype)


def test_losses_are_summed_in_float64():
    Z = np.ones((2, 1000), np.float32)
    Z[:, 0] = 2**26  # to which float32 cannot add 1
    value, _ = reference.loss_and_gradient("absolute_error", "identity", Z, np.zeros_like(Z))
    assert value == 2**26 + 999


def test_poisson_with_exp_is_a_minus_y_and_zero_at_the_target(dtype):
    y = np.array([[0, 1, 2, 5]], dtype)
    Z = np.array([[-1, 0, 1, 2]], dtype)
    _, dZ = reference.loss_and_gradient("poisson", "exp", Z, y)
    np.testing.assert_array_equal(dZ, np.exp(Z) - y)
    value, dZ = reference.loss_and_gradient("poisson", "exp", np.zeros((1, 4), dtype), np.ones((1, 4), dtype))
    assert value == 0.0
    np.testing.assert_array_equal(dZ, np.zeros((1, 4)))


def test_losses_of_the_difference_at_their_kinks(dtype):
    Z = np.array([[0, -0.5, 0.5, 2]], dtype)
    y = np.zeros((1, 4), dtype)
    value, dZ = reference.loss_and_gradient("absolute_error", "identity", Z, y)
    np.testing.assert_array_equal(dZ, [[0, -1, 1, 1]])
    assert value == 3.0
    value, dZ = reference.loss_and_gradient("huber", "identity", Z, y, None, 0.5)
    np.testing.assert_array_equal(dZ, [[0, -0.5, 0.5, 0.5]])
    assert value == 2 * 0.125 + 0.5 * (2 - 0.25)
    value, dZ = reference.loss_and_gradient("quantile", "identity", Z, y, None, 0.25)
    np.testing.assert_array_equal(dZ, [[0, -0.25, 0.75, 0.75]])
    assert value == 0.25 * 0.5 + 0.75 * (0.5 + 2)


def test_quantile_of_one_half_is_half_the_absolute_error(rng, dtype):
    Z, y = rng.normal(size=(5, 3)).astype(dtype), rng.integers(-1, 2, (5, 3)).astype(dtype)
    half, dZ = reference.loss_and_gradient("quantile", "identity", Z, y, None, 0.5)
    whole, dZ_whole = reference.loss_and_gradient("absolute_error", "identity", Z, y)
    assert half == whole / 2
    np.testing.assert_array_equal(dZ, dZ_whole / 2)


@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_weights_are_repetitions(loss, output, rng, dtype):
    Z, y = rng.normal(size=(4, 3)).astype(dtype), _targets(rng, loss, 4, 3).astype(dtype)
    counts = np.array([2, 0, 1, 5])
    value, dZ = reference.loss_and_gradient(loss, output, Z, y, counts.astype(dtype), DELTA, SLOPE)
    rows = np.repeat(np.arange(4), counts)
    repeated, dZ_repeated = reference.loss_and_gradient(loss, output, Z[rows], y[rows], None, DELTA, SLOPE)
    assert_close(value, repeated, len(rows), kind="loss", dtype=dtype)
    summed = np.zeros((4, 3))
    np.add.at(summed, rows, dZ_repeated)
    assert_close(dZ, summed, len(rows), kind="loss")


@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_weights_that_sum_to_zero(loss, output, dtype):
    for rows in (0, 3):
        Z, y, weight = np.ones((rows, 2), dtype), np.ones((rows, 2), dtype), np.zeros(rows, dtype)
        value, dZ = reference.loss_and_gradient(loss, output, Z, y, weight)
        assert value == 0.0
        np.testing.assert_array_equal(dZ, np.zeros((rows, 2), dtype))


def test_labels_are_rows_with_one_one(rng, dtype):
    Z, labels = rng.normal(size=(5, 3)).astype(dtype), rng.integers(0, 3, 5)
    one_hot = np.eye(3, dtype=dtype)[labels]
    by_label = reference.loss_and_gradient("categorical_cross_entropy", "softmax", Z, labels)
    by_row = reference.loss_and_gradient("categorical_cross_entropy", "softmax", Z, one_hot)
    assert by_label[0] == by_row[0]
    np.testing.assert_array_equal(by_label[1], by_row[1])


def _problem(sizes, hidden, output, loss, labels, weighted):
    """A network, and data where no pre-activation or error is near a kink of any activation or loss."""
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        network, flat = _network(sizes, hidden, output, loss), _draw(rng, sizes)
        X, y = rng.normal(size=(4, sizes[0])), _targets(rng, loss, 4, sizes[-1], labels)
        weight = np.array([2, 0, 0.5, 1.0]) if weighted else None
        network.set_parameters(flat)
        Zs, As = network.forward(X)
        places = [z.ravel() for z in Zs]
        if not labels:
            d = np.abs(As[-1] - y).ravel()
            places += [d, d - DELTA]
        if min(np.abs(place).min() for place in places) > 0.02:
            return network, flat, X, y, weight
    raise AssertionError("no data away from kinks")


def _assert_gradient(network, flat, X, y, weight, directions):
    loss, gradient = _gradients(network, X, y, weight)
    scratch = np.empty_like(flat)

    def loss_along(direction, h):
        network.set_parameters(flat + h * direction)
        return network.gradients(X, y, weight, scratch)

    assert loss == loss_along(flat, 0.0)
    assert np.linalg.norm(gradient) > 0
    for direction in directions:
        desired = _slope_of(lambda h, direction=direction: loss_along(direction, h), 5e-4)
        assert abs(gradient @ direction - desired) <= CENTRAL_DIFFERENCE * np.linalg.norm(gradient)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(
    ("loss", "output", "labels"), [(*pair, False) for pair in PAIRS] + [("categorical_cross_entropy", "softmax", True)]
)
def test_gradient_by_central_differences(loss, output, labels, hidden, weighted):
    """Along vertices of the cube: an error in any element shows in full."""
    problem = _problem((3, 4, 3, 2), hidden, output, loss, labels, weighted)
    directions = np.random.default_rng(0).choice([-1.0, 1.0], (3, problem[1].size))
    _assert_gradient(*problem, directions)


@pytest.mark.parametrize("sizes", [(3, 2), (1, 1), (4, 1, 3), (2, 5, 1), (2, 2, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_gradient_of_every_parameter(sizes, hidden):
    problem = _problem(sizes, hidden, "identity", "squared_error", False, True)
    _assert_gradient(*problem, np.eye(problem[1].size))


def test_passes_agree(rng, dtype):
    """predict, forward and gradients from one set of parameters, which set_parameters copied."""
    sizes = (3, 5, 2)
    network, flat = _network(sizes, "tanh", "identity", "squared_error", dtype), _draw(rng, sizes, dtype)
    X, y = rng.normal(size=(6, 3)).astype(dtype), rng.normal(size=(6, 2)).astype(dtype)
    network.set_parameters(flat)
    kept, flat[:] = flat.copy(), 0
    out, parameters = np.empty((6, 2), dtype), np.empty_like(flat)
    network.predict(X, out, n_threads=2)
    network.get_parameters(parameters)
    Zs, As = network.forward(X)
    np.testing.assert_array_equal(parameters, kept)
    np.testing.assert_array_equal(out, As[-1])
    W1, b1, W2, b2 = kept[:15].reshape(3, 5), kept[15:20], kept[20:30].reshape(5, 2), kept[30:]
    np.testing.assert_array_equal(As[0], np.tanh(X @ W1 + b1))
    np.testing.assert_array_equal(Zs[1], As[0] @ W2 + b2)
    loss, gradient = _gradients(network, X, y, None)
    assert gradient.dtype == dtype
    assert loss == reference.loss_and_gradient("squared_error", "identity", Zs[1], y)[0]
    np.testing.assert_array_equal(network.forward(X[:0])[1][-1], np.empty((0, 2), dtype))


@pytest.mark.parametrize(("loss", "output"), ILLEGAL_PAIRS)
def test_pairs_that_cannot_be_computed_are_named(loss, output):
    with pytest.raises(ValueError, match=rf"^activation must be one of .* with loss '{loss}'; got '{output}'"):
        reference.loss_and_gradient(loss, output, np.ones((1, 2)), np.ones((1, 2)))


W0, G = np.zeros(3), np.ones(3)
ONES, RULE = np.ones((2, 3)), optimizers.SGD().rule()
NETWORK = _network((3, 2), "tanh", "identity", "squared_error")
READ_ONLY = np.frombuffer(bytes(64))
MISTAKES = {
    "name must be one of .*; got 'rel'": lambda: reference.activate("rel", ONES),
    "name must be one of .*exp; got 'softmax'": lambda: reference.activation_gradient("softmax", ONES),
    r"Z must have shape \(any, any\); got \(3,\)": lambda: reference.activate("relu", ONES[0]),
    "Z must have dtype float32 or float64; got int64": lambda: reference.activate("relu", ONES.astype(np.int64)),
    "Z must be a numpy.ndarray; got list": lambda: reference.activate("relu", [[1.0]]),
    "Z must be C-contiguous": lambda: reference.activate("relu", np.asfortranarray(ONES)),
    r"W must have shape \(3, any\)": lambda: reference.dense_forward(ONES, ONES, ONES[0]),
    "b must have dtype float64; got float32": lambda: reference.dense_forward(ONES, ONES.T.copy(), np.ones(2, "f4")),
    r"dZ must have shape \(2, 2\)": lambda: reference.dense_backward(ONES, ONES.T.copy(), ONES),
    "loss must be one of": lambda: reference.loss_and_gradient("mse", "identity", ONES, ONES),
    "y must have dtype int64": lambda: reference.loss_and_gradient(*PAIRS[-1], ONES, np.zeros(2, np.int32)),
    r"y must have shape \(2,\)": lambda: reference.loss_and_gradient(*PAIRS[-1], ONES, np.zeros(3, np.int64)),
    r"y must have shape \(2, 3\)": lambda: reference.loss_and_gradient(*PAIRS[0], ONES, ONES[:1]),
    r"sample_weight must have shape \(2,\)": lambda: reference.loss_and_gradient(*PAIRS[0], ONES, ONES, ONES[0]),
    r"rule\['name'\] must be one of": lambda: reference.update({"name": "lbfgs"}, 1, W0, G, (G, G)),
    "rule must be a dictionary": lambda: reference.update("sgd", 1, W0, G, (G, G)),
    "rule 'sgd' must have .*; got no learning_rate": lambda: reference.update({"name": "sgd"}, 1, W0, G, (G, G)),
    "step must be at least 1; got 0": lambda: reference.update(RULE, 0, W0, G, (G, G)),
    "step must be an integer": lambda: reference.update(RULE, 1.0, W0, G, (G, G)),
    "w must be writable": lambda: reference.update(RULE, 1, READ_ONLY, READ_ONLY, (READ_ONLY, READ_ONLY)),
    "state must be a pair": lambda: reference.update(RULE, 1, W0, G, (G,)),
    r"state\[1\] must have shape \(3,\)": lambda: reference.update(RULE, 1, W0, G, (G, G[:2])),
    "dtype must be float32 or float64; got int8": lambda: _network((3, 2), "relu", "relu", "huber", np.int8),
    "layer_sizes must have at least 2": lambda: _network((3,), "relu", "relu", "huber"),
    "layer_sizes must be at least 1; got 0": lambda: _network((3, 0, 2), "relu", "relu", "huber"),
    "activations must have 1 entries; got 0": lambda: reference.Network((3, 2), [], ("huber", 1.0), np.float64),
    "activations must be one of .*; got 'softmax'": lambda: _network((3, 4, 2), "softmax", "relu", "huber"),
    r"flat must have shape \(8,\)": lambda: NETWORK.set_parameters(G),
    r"out must have shape \(2, 2\)": lambda: NETWORK.predict(ONES, ONES),
    r"X must have shape \(any, 3\)": lambda: NETWORK.forward(ONES.T.copy()),
    "out must be writable": lambda: NETWORK.gradients(ONES, ONES[:, :2].copy(), None, READ_ONLY),
    "batch_size must be at least 1": lambda: NETWORK.train_epoch(ONES, ONES[:, :2].copy(), None, None, 0, RULE),
    "order must have dtype int64": lambda: NETWORK.train_epoch(ONES, ONES[:, :2].copy(), None, np.ones(2), 1, RULE),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(message):
    with pytest.raises((ValueError, TypeError), match="^" + message):
        MISTAKES[message]()

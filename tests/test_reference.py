"""The reference against mathematics: closed forms, central differences, and optimisers' steps worked out by hand.

Cases come from the registries, so that a new activation or loss is tested by existing.
"""

import ast
import inspect
import itertools

import numpy as np
import pytest
from conftest import CENTRAL_DIFFERENCE, assert_close
from scipy import special

from cymlp import activations, losses, optimizers, reference

ELEMENTWISE = [name for name in activations.ACTIVATIONS if name != "softmax"]
HIDDEN = [name for name, definition in activations.ACTIVATIONS.items() if definition.hidden]
SLOPE, DELTA = 0.2, 0.7


def _is_legal(loss, output):
    try:
        losses.check_pair(losses.Loss(loss), activations.Activation(output))
    except ValueError:
        return False
    return True


PAIRS = [pair for pair in itertools.product(losses.LOSSES, activations.ACTIVATIONS) if _is_legal(*pair)]
ILLEGAL_PAIRS = [pair for pair in itertools.product(losses.LOSSES, activations.ACTIVATIONS) if not _is_legal(*pair)]

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


def test_names_are_those_of_the_registries():
    assert list(reference.ACTIVATIONS) == list(activations.ACTIVATIONS)
    assert list(reference.LOSSES) == list(losses.LOSSES)
    with_rule = {name: kind for name, kind in optimizers.OPTIMIZERS.items() if hasattr(kind, "rule")}
    assert list(reference.RULES) == list(with_rule)
    for name, kind in with_rule.items():
        assert {"name", *reference.RULES[name]} == set(kind().rule())


def test_imports_numpy_alone():
    body = ast.parse(inspect.getsource(reference)).body
    names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    assert names == ["itertools", "math", "numpy"]
    assert "cymlp" not in inspect.getsource(reference).replace("of cymlp imported", "")
    assert not [node for node in ast.walk(ast.parse(inspect.getsource(reference))) if getattr(node, "level", 0)]


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activation_is_its_closed_form(name, dtype):
    Z = np.linspace(-20, 20, 1203, dtype=dtype).reshape(3, 401)
    A = reference.activate(name, Z, SLOPE)
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
    limits = {
        "sigmoid": (0, 1),
        "tanh": (-1, 1),
        "identity": (-1000, 1000),
        "leaky_relu": (-250, 1000),
        "elu": (-1, 1000),
    }
    low, high = {"exp": (0, np.inf), "softmax": (0, 1)}.get(name) or limits.get(name, (0, 1000))
    np.testing.assert_array_equal(reference.activate(name, np.array([[-1000, 1000]], dtype), 0.25), [[low, high]])
    if name in ELEMENTWISE:
        gradient = reference.activation_gradient(name, np.array([[-1000, 1000]], dtype), 0.25)
        below = {"identity": 1, "leaky_relu": 0.25}.get(name, 0)
        above = {"sigmoid": 0, "tanh": 0, "exp": np.inf}.get(name, 1)
        np.testing.assert_array_equal(gradient, [[below, above]])


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
    network, flat, X = _network(sizes, "tanh", "identity", "squared_error", dtype), _draw(rng, sizes, dtype), rng
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


W0, G = np.array([1.0, -2.0, 0.5]), np.array([0.5, -2.0, 1e-3])
TIMES = np.arange(1, 21)[:, np.newaxis]


def _steps(optimizer, gradients):
    """w after each step from W0."""
    w, state, rule = W0.copy(), (np.zeros(3), np.zeros(3)), optimizer.rule()
    path = []
    for step, g in enumerate(gradients, start=1):
        reference.update(rule, step, w, g, state)
        path.append(w.copy())
    return np.array(path)


# Under a constant gradient g, by summing geometric series; s = sign(g).
CONSTANT_GRADIENT = {
    "sgd": (optimizers.SGD(0.1), W0 - 0.1 * TIMES * G),
    "momentum": (  # v_t = -eta g (1 - mu^t) / (1 - mu)
        optimizers.SGD(0.1, momentum=0.8),
        W0 - 0.1 * G / 0.2 * (TIMES - 0.8 * (1 - 0.8**TIMES) / 0.2),
    ),
    "nesterov": (  # each step is mu v_t - eta g = v_{t+1}
        optimizers.SGD(0.1, momentum=0.8, nesterov=True),
        W0 - 0.1 * G / 0.2 * (TIMES + 1 - 0.8 * (1 - 0.8 ** (TIMES + 1)) / 0.2 - 1 + 0.8),
    ),
    "rmsprop": (  # s_t = (1 - rho^t) g^2
        optimizers.RMSprop(0.1, rho=0.8, epsilon=1e-3),
        W0 - 0.1 * np.cumsum(G / (np.sqrt(1 - 0.8**TIMES) * np.abs(G) + 1e-3), axis=0),
    ),
    "adam": (  # both corrected moments are g and g^2 at once
        optimizers.Adam(0.1, beta1=0.8, beta2=0.9, epsilon=1e-3),
        W0 - 0.1 * TIMES * G / (np.abs(G) + 1e-3),
    ),
    "adamw": (  # w_t = q w_{t-1} - step, q = 1 - eta lambda
        optimizers.AdamW(0.1, beta1=0.8, beta2=0.9, epsilon=1e-3, weight_decay=0.5),
        0.95**TIMES * W0 - 0.1 * G / (np.abs(G) + 1e-3) * (1 - 0.95**TIMES) / 0.05,
    ),
}


@pytest.mark.parametrize("case", CONSTANT_GRADIENT)
def test_steps_under_a_constant_gradient(case):
    optimizer, desired = CONSTANT_GRADIENT[case]
    assert_close(_steps(optimizer, [G] * len(TIMES)), desired, len(TIMES), np.abs(desired).max() + 1, kind="update")


def test_every_rule_has_a_constant_gradient_case():
    assert {optimizer.rule()["name"] for optimizer, _ in CONSTANT_GRADIENT.values()} == set(reference.RULES)


def test_second_step_after_a_changed_gradient():
    """g = 1, then h: the moments remember the first."""
    one, h = np.ones(3), np.array([1.0, -1.0, 2.0])
    desired = {
        optimizers.SGD(0.1, momentum=0.8): 0.1 + 0.1 * (0.8 + h),
        optimizers.SGD(0.1, momentum=0.8, nesterov=True): 0.18 + 0.1 * (0.64 + 0.8 * h + h),
        optimizers.RMSprop(0.1, rho=0.8): 0.1 / np.sqrt(0.2) + 0.1 * h / np.sqrt(0.16 + 0.2 * h**2),
        optimizers.Adam(0.1, beta1=0.8, beta2=0.9): 0.1
        + 0.1 * (0.8 + h) / 1.8 / np.sqrt((0.9 + h**2) / 1.9),  # (1 - beta^2) / (1 - beta) = 1 + beta
    }
    for optimizer, change in desired.items():
        fields = {**optimizer.rule(), "epsilon": 0.0}  # the moments alone
        w, state = W0.copy(), (np.zeros(3), np.zeros(3))
        reference.update(fields, 1, w, one, state)
        reference.update(fields, 2, w, h, state)
        assert_close(w, W0 - change, 2, 4, kind="update")


@pytest.mark.parametrize("name", reference.RULES)
def test_update_works_in_place_and_keeps_float32(name):
    rule = optimizers.OPTIMIZERS[name]().rule()
    w, g, state = W0.astype(np.float32), G.astype(np.float32), (np.zeros(3, np.float32), np.zeros(3, np.float32))
    reference.update(rule, 1, w, g, state)
    desired, state64 = W0.copy(), (np.zeros(3), np.zeros(3))
    reference.update(rule, 1, desired, G, state64)
    assert_close(w, desired, 1, 2, kind="update")
    for actual, vector in zip(state, state64, strict=True):
        assert_close(actual, vector, 1, kind="update")
    np.testing.assert_array_equal(g, G.astype(np.float32))


def _training_data(rng, dtype, rows=11):
    X, y = rng.normal(size=(rows, 3)).astype(dtype), rng.normal(size=(rows, 2)).astype(dtype)
    return X, y, rng.uniform(0, 2, rows).astype(dtype)


@pytest.mark.parametrize("case", CONSTANT_GRADIENT)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_train_epoch_is_gradients_and_updates(case, ordered, weighted, rng, dtype):
    """Two epochs of batches of 4, 4 and 3 rows, bit for bit; weight decay on weights alone."""
    sizes, rule = (3, 4, 2), CONSTANT_GRADIENT[case][0].rule()
    X, y, weight = _training_data(rng, dtype)
    weight = weight if weighted else None
    order = rng.permutation(11) if ordered else None
    flat = _draw(rng, sizes, dtype)
    trained, by_hand = (_network(sizes, "tanh", "identity", "squared_error", dtype) for _ in range(2))
    trained.set_parameters(flat)
    is_weight = np.r_[np.ones(12), np.zeros(4), np.ones(8), np.zeros(2)].astype(bool)
    state, step = (np.zeros_like(flat), np.zeros_like(flat)), 0
    for _ in range(2):
        loss, failed = trained.train_epoch(X, y, weight, order, 4, rule)
        total = 0.0
        for rows in np.split(np.arange(11) if order is None else order, [4, 8]):
            batch_weight = None if weight is None else weight[rows]
            by_hand.set_parameters(flat)
            batch_loss, gradient = _gradients(by_hand, X[rows], y[rows], batch_weight)
            total += batch_loss * (len(rows) if weight is None else batch_weight.sum(dtype=np.float64))
            step += 1
            flat[is_weight] -= rule["learning_rate"] * rule.get("weight_decay", 0.0) * flat[is_weight]
            reference.update({**rule, "weight_decay": 0.0}, step, flat, gradient, state)
        actual = np.empty_like(flat)
        trained.get_parameters(actual)
        np.testing.assert_array_equal(actual, flat)
        assert failed == -1
        assert_close(loss, total / (11 if weight is None else weight.sum(dtype=np.float64)), 11, dtype=np.float64)


@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e300])
def test_train_epoch_stops_before_the_update_of_a_failed_batch(bad, rng):
    sizes, rule = (3, 4, 2), optimizers.SGD(0.1).rule()
    X, y, _ = _training_data(rng, np.float64)
    y[8, 1] = bad  # in the third batch of 3
    networks = [_network(sizes, "tanh", "identity", "squared_error") for _ in range(2)]
    flat = _draw(rng, sizes)
    for network in networks:
        network.set_parameters(flat)
    loss, failed = networks[0].train_epoch(X, y, None, None, 3, rule)
    assert failed == 2
    assert not np.isfinite(loss)
    assert networks[1].train_epoch(X[:6], y[:6], None, None, 3, rule)[1] == -1
    actual, desired = np.empty_like(flat), np.empty_like(flat)
    networks[0].get_parameters(actual)
    networks[1].get_parameters(desired)
    np.testing.assert_array_equal(actual, desired)


def test_train_epoch_without_weight_or_rows(rng, dtype):
    network, rule = _network((3, 4, 2), "tanh", "identity", "squared_error", dtype), optimizers.SGD(0.1).rule()
    flat, actual = _draw(rng, (3, 4, 2), dtype), np.empty(26, dtype)
    network.set_parameters(flat)
    X, y, weight = _training_data(rng, dtype)
    assert network.train_epoch(X, y, 0 * weight, None, 4, rule) == (0.0, -1)
    assert network.train_epoch(X, y, None, np.empty(0, np.int64), 4, rule) == (0.0, -1)
    network.get_parameters(actual)
    np.testing.assert_array_equal(actual, flat)


def test_reset_optimizer_starts_again(rng):
    X, y, _ = _training_data(rng, np.float64)
    network, flat = _network((3, 4, 2), "tanh", "identity", "squared_error"), _draw(rng, (3, 4, 2))
    results = []
    for rule in (optimizers.Adam().rule(), optimizers.SGD(0.1, momentum=0.9).rule(), optimizers.Adam().rule()):
        network.reset_optimizer()
        network.set_parameters(flat)
        network.train_epoch(X, y, None, None, 4, rule)
        results.append(np.empty_like(flat))
        network.get_parameters(results[-1])
    np.testing.assert_array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[1])


def test_learns_xor(rng):
    X, y = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    network = _network((2, 8, 2), "tanh", "softmax", "categorical_cross_entropy")
    network.set_parameters(_draw(rng, (2, 8, 2)))
    for _ in range(200):
        loss, _ = network.train_epoch(X, y, None, None, 4, optimizers.Adam(0.05).rule())
    assert loss < 0.01
    np.testing.assert_array_equal(network.forward(X)[1][-1].argmax(axis=1), y)


def test_learns_the_least_squares_solution(rng):
    X, y, _ = _training_data(rng, np.float64, rows=40)
    network, actual = _network((3, 2), "identity", "identity", "squared_error"), np.empty(8)
    for _ in range(1000):
        network.train_epoch(X, y, None, None, 40, optimizers.SGD(0.3).rule())
    network.get_parameters(actual)
    desired = np.linalg.lstsq(np.c_[X, np.ones(40)], y, rcond=None)[0]
    assert_close(actual.reshape(4, 2), desired, 40 + 8, kind="pass")


@pytest.mark.parametrize(("loss", "output"), ILLEGAL_PAIRS)
def test_pairs_that_cannot_be_computed_are_named(loss, output):
    with pytest.raises(ValueError, match=rf"^activation must be one of .* with loss '{loss}'; got '{output}'"):
        reference.loss_and_gradient(loss, output, np.ones((1, 2)), np.ones((1, 2)))


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
    "n_threads must be at least 1": lambda: NETWORK.forward(ONES, n_threads=0),
    "out must be writable": lambda: NETWORK.gradients(ONES, ONES[:, :2].copy(), None, READ_ONLY),
    "batch_size must be at least 1": lambda: NETWORK.train_epoch(ONES, ONES[:, :2].copy(), None, None, 0, RULE),
    "order must have dtype int64": lambda: NETWORK.train_epoch(ONES, ONES[:, :2].copy(), None, np.ones(2), 1, RULE),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(message):
    with pytest.raises((ValueError, TypeError), match="^" + message):
        MISTAKES[message]()


def test_rule_stays_until_reset():
    network, y = _network((3, 2), "tanh", "identity", "squared_error"), ONES[:, :2].copy()
    network.train_epoch(ONES, y, None, None, 1, RULE)
    with pytest.raises(ValueError, match=r"rule must stay 'sgd' until reset_optimizer\(\); got 'adam'"):
        network.train_epoch(ONES, y, None, None, 1, optimizers.Adam().rule())

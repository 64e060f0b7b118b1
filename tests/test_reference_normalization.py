"""The reference's normalisation against its definition, central differences and what it is known to ignore."""

import math

import numpy as np
import pytest
from conftest import CENTRAL_DIFFERENCE, assert_close, draw_parameters

from cymlp import optimizers, reference

BATCH, LAYER = ("batch", 1e-3, 0.25), ("layer", 1e-3)
EPSILON = 1e-3


def _slope_of(function, h):
    """Derivative at 0: central differences, extrapolated once (Richardson), so that the error is O(h^4)."""
    coarse = (function(h) - function(-h)) / (2 * h)
    fine = (function(h / 2) - function(-h / 2)) / h
    return (4 * fine - coarse) / 3


def _draw(rng, rows=7, columns=5, dtype=np.float64):
    Z = (rng.normal(size=(rows, columns)) * rng.uniform(0.5, 2, columns) + rng.normal(size=columns)).astype(dtype)
    return Z, rng.normal(1, 0.5, columns).astype(dtype), rng.normal(size=columns).astype(dtype)


WEIGHTS = {"unweighted": None, "weighted": [2, 0, 0.5, 1, 0, 1.5, 3]}
WEIGHTED = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)


def _weights(weight, dtype=np.float64):
    return None if weight is None else np.array(weight, dtype)


# ---- Kernels ----


@WEIGHTED
def test_batch_norm_is_its_definition(weight, rng, dtype):
    Z, scale, shift = _draw(rng, dtype=dtype)
    Y, mean, variance = reference.batch_norm(Z, scale, shift, _weights(weight, dtype), EPSILON)
    z, w = Z.astype(np.longdouble), np.ones(7) if weight is None else np.array(weight)
    desired_mean = np.array([np.average(column, weights=w) for column in z.T])
    desired_variance = np.array([np.average((c - m) ** 2, weights=w) for c, m in zip(z.T, desired_mean, strict=True)])
    assert Y.dtype == mean.dtype == variance.dtype == dtype
    assert_close(mean, desired_mean, 7, np.abs(Z).max())
    assert_close(variance, desired_variance, 7, np.square(Z).max())
    desired = (z - desired_mean) / np.sqrt(desired_variance + EPSILON) * scale + shift
    assert_close(Y, desired, 7, np.abs(Z).max() * np.abs(scale / np.sqrt(variance)).max() + np.abs(shift).max())


def test_layer_norm_is_its_definition(rng, dtype):
    Z, scale, shift = _draw(rng, dtype=dtype)
    Y, z = reference.layer_norm(Z, scale, shift, EPSILON), Z.astype(np.longdouble)
    rows = [(row - row.mean()) / np.sqrt(((row - row.mean()) ** 2).mean() + EPSILON) for row in z]
    assert Y.dtype == dtype
    assert_close(Y, np.array(rows) * scale + shift, 5, 8 * np.abs(scale).max() + np.abs(shift).max())


def test_normalised_by_itself():
    """By hand: a column with mean 2 and variance 4, a row with mean 1 and variance 9."""
    one, zero = np.ones(1), np.zeros(1)
    Y, mean, variance = reference.batch_norm(np.array([[0.0], [4.0]]), 3 * one, one, None, 12.0)
    np.testing.assert_array_equal(Y, [[1 - 3 * 2 / 4], [1 + 3 * 2 / 4]])
    np.testing.assert_array_equal((mean, variance), [[2], [4]])
    Y = reference.layer_norm(np.array([[-2.0, 4.0]]), np.array([1.0, 2.0]), np.array([0.0, 1.0]), 16.0)
    np.testing.assert_array_equal(Y, [[-3 / 5, 1 + 2 * 3 / 5]])
    np.testing.assert_array_equal(reference.layer_norm(np.array([[7.0]]), one, zero + 2, 1e-5), [[2.0]])


def test_weights_are_repetitions(rng):
    Z, scale, shift = _draw(rng)
    counts = np.array([2, 0, 1, 1, 0, 3, 1])
    rows = np.repeat(np.arange(7), counts)
    weighted = reference.batch_norm(Z, scale, shift, counts.astype(np.float64))
    repeated = reference.batch_norm(Z[rows], scale, shift)
    for got, want in zip((weighted[0][rows], *weighted[1:]), repeated, strict=True):
        assert_close(got, want, 8)
    dY = rng.normal(size=Z.shape) * (counts > 0)[:, np.newaxis]
    dZ, dscale, dshift = reference.batch_norm_backward(dY, Z, scale, counts.astype(np.float64))
    share = (dY / np.maximum(counts, 1)[:, np.newaxis])[rows]  # each copy has its part of the row's gradient
    dZ_repeated, *others = reference.batch_norm_backward(share, Z[rows], scale)
    summed = np.zeros_like(Z)
    np.add.at(summed, rows, dZ_repeated)
    for got, want in zip((dZ, dscale, dshift), (summed, *others), strict=True):
        assert_close(got, want, 8, 8)


def test_scale_of_weights_does_not_matter(rng):
    Z, scale, shift = _draw(rng)
    w = rng.uniform(0.5, 2, 7)
    for got, want in zip(
        reference.batch_norm(Z, scale, shift, 2.0**-60 * w), reference.batch_norm(Z, scale, shift, w), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_a_shift_of_everything_is_ignored(rng, dtype):
    """Integers: sums are exact."""
    Z, scale, shift = rng.integers(-40, 40, (8, 4)).astype(dtype), np.ones(4, dtype), np.zeros(4, dtype)
    np.testing.assert_array_equal(
        reference.batch_norm(Z, scale, shift)[0], reference.batch_norm(Z + 512, scale, shift)[0]
    )
    np.testing.assert_array_equal(reference.layer_norm(Z, scale, shift), reference.layer_norm(Z + 512, scale, shift))


def test_a_large_mean_does_not_eat_the_variance(dtype):
    """The two-pass formula: E z^2 - (E z)^2 would have lost it."""
    large = dtype.type(2.0 ** (20 if dtype == np.float32 else 40))
    Z = np.array([[-1.0], [1.0], [1.0], [-1.0]], dtype) + large
    _, mean, variance = reference.batch_norm(Z, np.ones(1, dtype), np.zeros(1, dtype))
    np.testing.assert_array_equal((mean, variance), [[large], [1]])


def test_columns_and_rows_without_variance(dtype):
    """They become the shift, with a finite gradient; so does a single row, and a row of one unit."""
    scale, shift = np.full(3, 2, dtype), np.array([1, -1, 0], dtype)
    for rows in (1, 4):
        Z, dY = np.full((rows, 3), 0.125, dtype), np.ones((rows, 3), dtype)
        np.testing.assert_array_equal(reference.batch_norm(Z, scale, shift)[0], np.tile(shift, (rows, 1)))
        dZ, dscale, dshift = reference.batch_norm_backward(dY, Z, scale)
        assert_close(dZ, np.zeros((rows, 3)), 4, 4 * 2 / math.sqrt(1e-5))
        np.testing.assert_array_equal((dscale, dshift), [[0, 0, 0], [rows, rows, rows]])
        np.testing.assert_array_equal(reference.layer_norm(Z, scale, shift), np.tile(shift, (rows, 1)))
        dZ, dscale, dshift = reference.layer_norm_backward(dY, Z, scale)
        assert_close(dZ, np.zeros((rows, 3)), 4, 4 * 2 / math.sqrt(1e-5))
        np.testing.assert_array_equal((dscale, dshift), [[0, 0, 0], [rows, rows, rows]])


@WEIGHTED
@pytest.mark.parametrize("shape", [(7, 5), (7, 1), (7, 2)], ids=str)
def test_batch_norm_backward_by_central_differences(weight, shape, rng):
    """Of every element of dZ, dscale, dshift, for a function of Y with the gradient dY."""
    Z, scale, shift = _draw(rng, *shape)
    w, dY = _weights(weight), rng.normal(size=shape)
    arguments = {"Z": Z, "scale": scale, "shift": shift}

    def value(name, place, h):
        moved = {key: array.copy() for key, array in arguments.items()}
        moved[name][place] += h
        return (dY * reference.batch_norm(*moved.values(), w, EPSILON)[0]).sum()

    found = reference.batch_norm_backward(dY, Z, scale, w, EPSILON)
    largest = max(np.abs(part).max() for part in found)
    for name, gradient in zip(arguments, found, strict=True):
        for place in np.ndindex(gradient.shape):
            slope = _slope_of(lambda h, name=name, place=place: value(name, place, h), 1e-3)
            assert abs(gradient[place] - slope) <= CENTRAL_DIFFERENCE * largest


@pytest.mark.parametrize("shape", [(7, 5), (1, 5), (3, 2), (3, 1)], ids=str)
def test_layer_norm_backward_by_central_differences(shape, rng):
    Z, scale, shift = _draw(rng, *shape)
    dY = rng.normal(size=shape)
    arguments = {"Z": Z, "scale": scale, "shift": shift}

    def value(name, place, h):
        moved = {key: array.copy() for key, array in arguments.items()}
        moved[name][place] += h
        return (dY * reference.layer_norm(*moved.values(), EPSILON)).sum()

    found = reference.layer_norm_backward(dY, Z, scale, EPSILON)
    largest = max(np.abs(part).max() for part in found)
    for name, gradient in zip(arguments, found, strict=True):
        for place in np.ndindex(gradient.shape):
            slope = _slope_of(lambda h, name=name, place=place: value(name, place, h), 1e-3)
            assert abs(gradient[place] - slope) <= CENTRAL_DIFFERENCE * largest


@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_backward_keeps_float32(kind, rng):
    Z, scale, _ = _draw(rng)
    dY = rng.normal(size=Z.shape)
    backward = {"batch": reference.batch_norm_backward, "layer": reference.layer_norm_backward}[kind]
    short = backward(*(array.astype(np.float32) for array in (dY, Z, scale)))
    largest = np.abs(dY).max() * np.abs(scale).max() / Z.std(axis=0 if kind == "batch" else 1).min()
    for got, want in zip(short, backward(dY, Z, scale), strict=True):
        assert got.dtype == np.float32
        assert_close(got, want, 7, 8 * largest)


# ---- In a network ----

SIZES = (3, 5, 4, 2)
# Of a network with all hidden layers normalised, the same way: where W_1, b_1, scale_1, W_2, ... end.
ENDS = np.cumsum([15, 5, 5, 20, 4, 4, 8])
N_PARAMETERS = 63


def _network(first, second, dtype=np.float64, sizes=SIZES):
    layers = [("tanh", 0.0), ("tanh", 0.0), ("identity", 0.0)]
    return reference.Network(sizes, layers, ("squared_error", 1.0), dtype, [first, second, None])


def _flat(rng, dtype=np.float64):
    """Parameters where both hidden layers are normalised."""
    pieces = np.split(draw_parameters(rng, SIZES, np.float64), np.cumsum([20, 24]))
    return np.concatenate([pieces[0], rng.uniform(0.5, 1.5, 5), pieces[1], rng.uniform(0.5, 1.5, 4), pieces[2]]).astype(
        dtype
    )


def _data(rng, rows=9, dtype=np.float64):
    return rng.normal(size=(rows, 3)).astype(dtype), rng.normal(size=(rows, 2)).astype(dtype)


def _statistics(network, n=18, dtype=np.float64):
    out = np.full(n, np.nan, dtype)
    network.get_statistics(out)
    return out


def _parameters(network, n=N_PARAMETERS, dtype=np.float64):
    out = np.full(n, np.nan, dtype)
    network.get_parameters(out)
    return out


START = np.concatenate([np.zeros(5), np.ones(5), np.zeros(4), np.ones(4)])


def test_statistics_go_in_and_out(rng, dtype):
    network = _network(BATCH, BATCH, dtype)
    np.testing.assert_array_equal(_statistics(network, dtype=dtype), START)
    new = rng.uniform(1, 2, 18).astype(dtype)
    kept = new.copy()
    network.set_statistics(new)
    new[:] = 0
    network.reset_optimizer()
    network.set_parameters(np.ones(N_PARAMETERS, dtype))
    np.testing.assert_array_equal(_statistics(network, dtype=dtype), kept)
    for place, value in ((0, np.nan), (9, np.inf), (17, -np.inf)):
        assert network.is_finite()
        kept[place], before = value, kept[place]
        network.set_statistics(kept)
        assert not network.is_finite()
        kept[place] = before
        network.set_statistics(kept)


def test_only_batch_layers_have_statistics():
    assert _statistics(_network(LAYER, BATCH), 8).tolist() == [0] * 4 + [1] * 4
    assert _statistics(_network(BATCH, None), 10).tolist() == [0] * 5 + [1] * 5
    for network in (_network(None, LAYER), _network(None, None)):
        assert _statistics(network, 0).size == 0
        network.set_statistics(np.empty(0))


def test_predictions_are_by_running_statistics(rng, dtype):
    network, flat = _network(BATCH, LAYER, dtype), _flat(rng, dtype)
    X, _ = _data(rng, dtype=dtype)
    statistics = np.concatenate([rng.normal(size=5), rng.uniform(0.5, 2, 5)]).astype(dtype)
    network.set_parameters(flat)
    network.set_statistics(statistics)
    W1, b1, s1, W2, b2, s2, W3, b3 = np.split(flat.astype(np.float64), ENDS)
    mean, variance = np.split(statistics.astype(np.float64), 2)
    Z1 = (X @ W1.reshape(3, 5) - mean) / np.sqrt(variance + EPSILON) * s1 + b1
    Z2 = reference.layer_norm(np.tanh(Z1) @ W2.reshape(5, 4), s2, b2, EPSILON)
    Z3 = np.tanh(Z2) @ W3.reshape(4, 2) + b3
    Zs, As = network.forward(X)
    out = np.empty((9, 2), dtype)
    network.predict(X, out)
    for got, want in zip((*Zs, *As, out), (Z1, Z2, Z3, np.tanh(Z1), np.tanh(Z2), Z3, Z3), strict=True):
        assert got.dtype == dtype
        assert_close(got, want, sum(SIZES), 8, kind="pass")
    one_by_one = np.concatenate([network.forward(np.ascontiguousarray(x[np.newaxis]))[1][-1] for x in X])
    assert_close(one_by_one, out, sum(SIZES), kind="pass")


@WEIGHTED
def test_running_statistics_follow_each_minibatch(weight, rng):
    """Two steps of rate 0, by the definition of the unbiased variance; the second batch is of 2 rows."""
    network, flat = _network(BATCH, ("batch", EPSILON, 0.5)), _flat(rng)
    X, y = _data(rng, 9)
    w = np.ones(9) if weight is None else np.array([*weight, 2, 3.0])
    network.set_parameters(flat)
    W1, b1, s1, W2, _, _, _, _ = np.split(flat, ENDS)
    rule = {**optimizers.SGD(1e-300).rule()}
    network.train_epoch(X, y, None if weight is None else w, None, 7, rule)
    running = [(np.zeros(5), np.ones(5)), (np.zeros(4), np.ones(4))]
    for rows in (slice(0, 7), slice(7, 9)):
        A = X[rows]
        for layer, (W, momentum) in enumerate(((W1.reshape(3, 5), 0.25), (W2.reshape(5, 4), 0.5))):
            U, v = A @ W, w[rows] / w[rows].sum()
            mean = v @ U
            unbiased = v @ (U - mean) ** 2 / (1 - v @ v)
            if weight is None:
                assert_close(unbiased, U.var(axis=0, ddof=1), 9)
            old = running[layer]
            running[layer] = tuple(
                (1 - momentum) * o + momentum * n for o, n in zip(old, (mean, unbiased), strict=True)
            )
            A = np.tanh(reference.batch_norm(U, s1, b1, w[rows], EPSILON)[0]) if layer == 0 else None
    desired = np.concatenate([part for pair in running for part in pair])
    assert_close(_statistics(network), desired, 2 * (9 + 8), kind="pass")


def test_unbiased_variance_of_weights_that_differ_by_all_digits():
    """1 - sum of squares would be 0; the truth is (z_1 - z_2)^2 / 2 for any two weights."""
    for light in (1e-9, 1e-20, 1e-150, 1e-300):
        network = reference.Network(
            (1, 1, 1), [("identity", 0.0)] * 2, ("squared_error", 1.0), np.float64, [("batch", 1e-5, 1.0), None]
        )
        network.set_parameters(np.array([1.0, 0.0, 1.0, 1.0, 0.0]))
        X = np.array([[1.0], [4.0]])
        for w in (np.array([1.0, light]), np.array([light, 1.0])):
            network.train_epoch(X, X, w, None, 2, optimizers.SGD(1e-300).rule())
            assert_close(_statistics(network, 2)[1], 4.5, 9)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_at_its_ends(momentum, rng):
    network, flat = _network(("batch", EPSILON, momentum), None), _flat(rng)
    network.set_parameters(np.delete(flat, np.arange(ENDS[4], ENDS[5])))
    X, y = _data(rng)
    network.train_epoch(X, y, None, None, 9, optimizers.SGD(1e-300).rule())
    U = X @ flat[:15].reshape(3, 5)
    desired = np.concatenate([U.mean(axis=0), U.var(axis=0, ddof=1)]) if momentum else START[:10]
    assert_close(_statistics(network, 10), desired, 9)


def test_gradients_take_the_statistics_of_their_rows_and_leave_the_running_ones(rng):
    network, flat, (X, y) = _network(BATCH, BATCH), _flat(rng), _data(rng)
    first, second = np.empty_like(flat), np.empty_like(flat)
    network.set_parameters(flat)
    loss = network.gradients(X, y, None, first)
    np.testing.assert_array_equal(_statistics(network), START)
    network.set_statistics(rng.uniform(1, 2, 18))
    assert network.gradients(X, y, None, second) == loss
    np.testing.assert_array_equal(first, second)


SMALL = {
    "one row": (1, None),
    "one row of weight": (4, [0, 0, 2.5, 0]),
    "no weight": (4, [0, 0, 0, 0]),
}


@pytest.mark.parametrize(("rows", "weight"), SMALL.values(), ids=SMALL)
def test_minibatches_without_a_variance_take_the_running_statistics_as_constants(rows, weight, rng):
    """Their loss is that of predictions, the gradient its derivative, and the statistics stay."""
    network, flat, (X, y) = _network(BATCH, BATCH), _flat(rng), _data(rng, rows)
    w, statistics = _weights(weight), rng.uniform(0.5, 2, 18)
    network.set_statistics(statistics)
    gradient, scratch = np.empty_like(flat), np.empty_like(flat)
    network.set_parameters(flat)
    loss = network.gradients(X, y, w, gradient)
    share = np.ones(rows) if w is None else w
    errors = ((network.forward(X)[1][-1] - y) ** 2).sum(axis=1) / 2
    assert_close(loss, share @ errors / max(share.sum(), 1e-300), 9, kind="pass")
    for direction in np.eye(flat.size):

        def along(h, direction=direction):
            network.set_parameters(flat + h * direction)
            return network.gradients(X, y, w, scratch)

        assert abs(gradient @ direction - _slope_of(along, 1e-3)) <= CENTRAL_DIFFERENCE * np.linalg.norm(gradient)
    network.set_parameters(flat)
    assert network.train_epoch(X, y, w, None, 4, optimizers.SGD(0.1).rule())[1] == -1
    np.testing.assert_array_equal(_statistics(network), statistics)
    assert_close(_parameters(network), flat - 0.1 * gradient, 1)


def test_a_last_minibatch_of_one_row_leaves_statistics_alone_and_one_of_two_does_not(rng):
    network, flat, (X, y) = _network(BATCH, BATCH), _flat(rng), _data(rng)
    moved = []
    for rows in (4, 5, 6):
        network.set_parameters(flat)
        network.set_statistics(START)
        network.train_epoch(X[:rows], y[:rows], None, None, 4, optimizers.SGD(1e-300).rule())
        moved.append(_statistics(network))
    np.testing.assert_array_equal(moved[0], moved[1])
    assert not np.isclose(moved[0], moved[2]).any()


def test_a_batch_that_fails_leaves_statistics_as_they_were(rng):
    network, short, (X, y) = _network(BATCH, BATCH), _network(BATCH, BATCH), _data(rng)
    y[7, 0] = np.inf
    for each, rows in ((network, 9), (short, 4)):
        each.set_parameters(_flat(np.random.default_rng(3)))
        each.train_epoch(X[:rows], y[:rows], None, None, 4, optimizers.SGD(0.1).rule())
    np.testing.assert_array_equal(_statistics(network), _statistics(short))
    np.testing.assert_array_equal(_parameters(network), _parameters(short))


def test_a_bias_before_batch_normalisation_would_be_cancelled(rng):
    """A constant input is one: its weights have no gradient, and no effect in training."""
    network, flat, (X, y) = _network(BATCH, BATCH), _flat(rng), _data(rng)
    X[:, 2] = 1.0
    gradient, other = np.empty_like(flat), np.empty_like(flat)
    network.set_parameters(flat)
    loss = network.gradients(X, y, None, gradient)
    assert_close(gradient[10:15], np.zeros(5), 9, 1)
    flat[10:15] += 3.0
    network.set_parameters(flat)
    assert_close(network.gradients(X, y, None, other), loss, 9, kind="pass")


@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_the_scale_of_weights_before_a_normalisation_does_not_matter(kind, rng):
    """But for epsilon: the loss and other gradients stay, their own is divided (Ioffe & Szegedy (2015), 3.3)."""
    tiny = ("batch", 1e-30, 0.1) if kind == "batch" else ("layer", 1e-30)
    network, flat, (X, y) = _network(tiny, tiny), _flat(rng), _data(rng)
    gradient, other = np.empty_like(flat), np.empty_like(flat)
    network.set_parameters(flat)
    loss = network.gradients(X, y, None, gradient)
    assert abs(gradient[:15] @ flat[:15]) <= 1e-12 * np.linalg.norm(gradient)
    flat[:15] *= 4
    network.set_parameters(flat)
    assert_close(network.gradients(X, y, None, other), loss, 9, kind="pass")
    other[:15] *= 4
    assert_close(other, gradient, sum(SIZES) + 9, kind="pass")


@pytest.mark.parametrize("normalization", [BATCH, LAYER], ids=["batch", "layer"])
def test_it_learns_what_it_could_not_without(normalization):
    """Inputs of a size at which tanh is flat."""
    rng = np.random.default_rng(0)
    X = 1e4 * rng.normal(size=(64, 3)) + 1e5
    y = np.stack([X[:, 0] > X[:, 1], X[:, 0] <= X[:, 1]], axis=1).astype(np.float64)
    losses = []
    for kind in (None, normalization):
        network = _network(kind, kind)
        pieces = np.split(_flat(np.random.default_rng(1)), ENDS)
        network.set_parameters(np.concatenate(pieces if kind else [*pieces[:2], *pieces[3:5], *pieces[6:]]))
        for _ in range(300):
            loss, failed = network.train_epoch(X, y, None, None, 16, optimizers.Adam(0.01).rule())
            assert failed == -1
        losses.append(loss)
    assert losses[1] < losses[0] / 4


Z = np.ones((2, 3))
VECTOR = np.ones(3)
MISTAKES = {
    r"scale must have shape \(3,\)": lambda: reference.batch_norm(Z, VECTOR[:2], VECTOR),
    r"shift must have shape \(3,\)": lambda: reference.layer_norm(Z, VECTOR, VECTOR[:2]),
    "shift must have dtype float64": lambda: reference.batch_norm(Z, VECTOR, VECTOR.astype("f4")),
    r"sample_weight must have shape \(2,\)": lambda: reference.batch_norm(Z, VECTOR, VECTOR, VECTOR),
    r"dY must have shape \(2, 3\)": lambda: reference.batch_norm_backward(Z[:1], Z, VECTOR),
    "Z must have shape": lambda: reference.layer_norm_backward(Z, VECTOR, VECTOR),
    "epsilon must be greater than 0; got 0": lambda: reference.layer_norm(Z, VECTOR, VECTOR, 0),
    "epsilon must be greater than 0; got nan": lambda: _network(("batch", math.nan, 0.1), None),
    r"momentum must be in \[0, 1\]; got 2": lambda: _network(("batch", 1e-5, 2), None),
    "normalizations must be one of batch, layer; got 'group'": lambda: _network(("group", 1e-5), None),
    r"normalizations must be \('batch', epsilon, momentum\)": lambda: _network(("batch", 1e-5), None),
    r"normalizations must be \('batch', epsilon, momentum\), \('layer'": lambda: _network(("layer", 1e-5, 0.1), None),
    "normalizations must have 3 entries; got 2": lambda: reference.Network(
        SIZES, [("tanh", 0.0)] * 3, ("squared_error", 1.0), np.float64, [None, None]
    ),
    "normalizations must be None for the output": lambda: reference.Network(
        SIZES, [("tanh", 0.0)] * 3, ("squared_error", 1.0), np.float64, [None, None, LAYER]
    ),
    r"flat must have shape \(63,\)": lambda: _network(BATCH, LAYER).set_parameters(np.ones(54)),
    r"flat must have shape \(18,\)": lambda: _network(BATCH, BATCH).set_statistics(np.ones(17)),
    r"out must have shape \(10,\)": lambda: _network(BATCH, LAYER).get_statistics(np.ones(18)),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(message):
    with pytest.raises((ValueError, TypeError), match="^" + message):
        MISTAKES[message]()

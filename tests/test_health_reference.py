"""What the reference tells of the layers in a minibatch, against NumPy by hand: every activation, normalised layers,
dropout, weights of rows, every optimiser's step, units that are alike, and what is refused."""

import itertools

import numpy as np
import pytest
from conftest import assert_close, draw_parameters

from cymlp import _reference_records, activations, engine, initializers, optimizers, reference
from cymlp.engine import MONITORED

HIDDEN = [name for name, definition in activations.ACTIVATIONS.items() if definition.hidden]
SIZES, ROWS, LENGTH = (4, 9, 6, 3), 20, 4 + 9 + 6 + 3 + 20
WITH_RULES = [cls() for cls in optimizers.OPTIMIZERS.values() if hasattr(cls, "rule")]
KINDS = {"none": None, "batch": ("batch", 1e-5, 0.1), "layer": ("layer", 1e-5)}


@pytest.fixture(params=["reference", "compiled"])
def network(request):
    """Makes a network of an engine, with parameters."""

    def make(flat, hidden="tanh", kind="none", sizes=SIZES, output="identity", loss="squared_error", dtype=np.float64):
        kinds = [KINDS[kind]] * (len(sizes) - 2) + [None]
        layers = [(hidden, 0.2)] * (len(sizes) - 2) + [(output, 0.0)]
        network = engine.choose(request.param).Network(sizes, layers, (loss, 1.0), dtype, kinds)
        network.set_parameters(np.ascontiguousarray(flat, dtype))
        return network

    return make


@pytest.fixture
def data(rng):
    """X and y for SIZES."""
    return rng.standard_normal((ROWS, SIZES[0])), rng.standard_normal((ROWS, SIZES[-1]))


def _record(network, X, y, weight=None, dropout=None, sizes=SIZES, n_scales=0):
    record = np.full((len(sizes), len(MONITORED)), -1.0)
    n_parameters = sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes)) + n_scales
    network.gradients(X, y, weight, np.empty(n_parameters, X.dtype), dropout=dropout, record=record)
    return {name: record[:, number] for number, name in enumerate(MONITORED)}


def _layers(flat, sizes=SIZES, kind="none"):
    """(W, b, scale or None) of each layer."""
    layers, start = [], 0
    for number, (n_in, n_out) in enumerate(itertools.pairwise(sizes), start=1):
        has_scale = kind != "none" and number < len(sizes) - 1
        parts = []
        for size in (n_in * n_out, n_out, n_out if has_scale else 0):
            parts.append(flat[start : start + size])
            start += size
        layers.append((parts[0].reshape(n_in, n_out), parts[1], parts[2] if has_scale else None))
    return layers


def _draw(rng, kind="none", sizes=SIZES):
    parts = []
    for number, (n_in, n_out) in enumerate(itertools.pairwise(sizes), start=1):
        parts.append(draw_parameters(rng, (n_in, n_out), np.float64))
        if kind != "none" and number < len(sizes) - 1:
            parts.append(rng.uniform(0.5, 1.5, n_out))
    return np.concatenate(parts)


def _phi(name, Z):
    return reference.activate(name, Z, 0.2)


def _slope(name, Z):
    return reference.activation_gradient(name, Z, 0.2)


def _mean_square(x):
    return float(np.mean(x**2))


def test_names():
    assert MONITORED == _reference_records.COLUMNS


# ---- Activations and gradients ----


@pytest.mark.parametrize("hidden", HIDDEN)
def test_every_activation(network, rng, hidden, data):
    """By the chain rule: D_L = (Z_L - y) w / sum w, D_l = (D_{l+1} W_{l+1}^T) phi'(Z_l); here times sum w."""
    flat, (X, y), weight = _draw(rng), data, rng.uniform(0.5, 2, ROWS)
    told = _record(network(flat, hidden), X, y, weight)
    layers = _layers(flat)
    As, Zs = [X], []
    for W, b, _ in layers:
        Zs.append(As[-1] @ W + b)
        As.append(_phi(hidden, Zs[-1]))
    D, Ds = (Zs[-1] - y) * weight[:, np.newaxis], []
    for layer in reversed(range(len(layers))):
        Ds.insert(0, D)
        if layer > 0:
            D = (D @ layers[layer][0].T) * _slope(hidden, Zs[layer - 1])
    assert_close(told["activation"], [*map(_mean_square, As[:-1]), _mean_square(Zs[-1])], LENGTH, kind="pass")
    assert_close(told["gradient"][1:], [*map(_mean_square, Ds)], LENGTH, kind="pass")
    np.testing.assert_allclose(told["zero"][:-1], [np.mean(A == 0) for A in As[:-1]])
    np.testing.assert_allclose(told["dead"][:-1], [np.mean((A == 0).all(axis=0)) for A in As[:-1]])
    assert np.isnan([told[name][0] for name in ("gradient", "weight", "update", "twins")]).all()
    assert np.isnan([told[name][-1] for name in ("zero", "dead", "saturated")]).all()
    assert (told["update"][1:] == 0).all()
    assert (told["twins"][1:] == 0).all()


def test_gradients_do_not_depend_on_the_size_of_the_minibatch(network, rng, data):
    flat, (X, y) = _draw(rng), data
    once = _record(network(flat), X, y)["gradient"]
    twice = _record(network(flat), np.concatenate([X, X]), np.concatenate([y, y]))["gradient"]
    assert_close(twice[1:], once[1:], LENGTH + ROWS, kind="pass")
    weighted = _record(network(flat), X, y, np.full(ROWS, 0.5))["gradient"]
    assert_close(4 * weighted[1:], once[1:], LENGTH, kind="pass")


def test_a_minibatch_without_weight(network, rng, data):
    told = _record(network(_draw(rng)), *data, np.zeros(ROWS))
    assert (told["gradient"][1:] == 0).all()
    assert (told["activation"] > 0).all()


@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_normalised_layers(network, rng, kind, data):
    """D_l is the gradient by A W: dW_l = A_{l-1}^T D_l, which one example with one input shows."""
    flat, (X, y) = _draw(rng, kind), data
    net, layers = network(flat, "tanh", kind), _layers(flat, kind=kind)
    told = _record(net, X, y, n_scales=sum(SIZES[1:-1]))
    normalise = {
        "batch": lambda U, scale, b: reference.batch_norm(U, scale, b)[0],
        "layer": lambda U, scale, b: reference.layer_norm(U, scale, b),
    }[kind]
    backward = {"batch": reference.batch_norm_backward, "layer": reference.layer_norm_backward}[kind]
    Us, As = [], [X]
    for W, b, scale in layers[:-1]:
        Us.append(As[-1] @ W)
        As.append(np.tanh(normalise(Us[-1], scale, b)))
    Z = As[-1] @ layers[-1][0] + layers[-1][1]
    Ds = [Z - y]
    for layer in (1, 0):
        dA = Ds[0] @ layers[layer + 1][0].T
        Ds.insert(0, backward(dA * (1 - As[layer + 1] ** 2), Us[layer], layers[layer][2])[0])
    assert_close(told["activation"], [*map(_mean_square, As), _mean_square(Z)], LENGTH, kind="pass")
    assert_close(told["gradient"][1:], [*map(_mean_square, Ds)], LENGTH, kind="pass")


def test_dropout(network, rng, data):
    """A_l is what is handed on: after dropout, the inputs' too."""
    flat, (X, y), rates = _draw(rng), data, [0.25, 0.5, 0.0]
    told = _record(network(flat), X, y, dropout=(5, 3, rates))
    As, activated = [reference.dropout(X, rates[0], 5, 3, 0)], [X]
    for layer, (W, b, _) in enumerate(_layers(flat)[:-1], start=1):
        activated.append(np.tanh(As[-1] @ W + b))
        As.append(reference.dropout(activated[-1], rates[layer], 5, 3, layer))
    assert_close(told["activation"][:-1], [*map(_mean_square, As)], LENGTH, kind="pass")
    np.testing.assert_allclose(told["zero"][:-1], [np.mean(A == 0) for A in As])
    np.testing.assert_allclose(told["dead"][:-1], [np.mean((A == 0).all(axis=0)) for A in As])
    kept = [np.abs(before[A != 0]) > np.sqrt(0.95) for before, A in zip(activated[1:], As[1:], strict=True)]
    np.testing.assert_allclose(told["saturated"][1:-1], [np.mean(far) for far in kept])


def test_dropout_of_everything(network, rng, data):
    told = _record(network(_draw(rng), "sigmoid"), *data, dropout=(5, 3, [0.0, 1.0, 0.0]))
    assert told["zero"][1] == told["dead"][1] == 1
    assert told["saturated"][1] == told["activation"][1] == 0


# ---- Units ----


def _one_layer(network, Z, hidden):
    """The record of a network whose hidden layer has these sums, (n, m)."""
    rows, units = Z.shape
    flat = np.concatenate([Z.ravel(), np.zeros(units), np.ones(units), np.zeros(1)])
    sizes = (rows, units, 1)
    return _record(network(flat, hidden, sizes=sizes), np.eye(rows), np.zeros((rows, 1)), sizes=sizes)


def test_dead_units(network):
    Z = np.array([[-1.0, 2.0, -1.0, 0.0], [-2.0, -1.0, 1.0, -3.0]])
    told = _one_layer(network, Z, "relu")
    assert told["zero"][1] == 6 / 8
    assert told["dead"][1] == 2 / 4
    assert told["zero"][0] == 0.5  # the unit matrix
    assert told["dead"][0] == 0


@pytest.mark.parametrize(
    ("hidden", "edge"), [("tanh", np.arctanh(np.sqrt(0.95))), ("sigmoid", 2 * np.arctanh(np.sqrt(0.95)))]
)
def test_saturated_units(network, hidden, edge):
    """There phi' is 5 % of its maximum."""
    steepest = _slope(hidden, np.zeros((1, 1)))
    assert_close(_slope(hidden, np.array([[edge]])), 0.05 * steepest, 1, steepest, kind="activation")
    Z = edge * np.array([[1 + 1e-9, 1 - 1e-9, 0.5], [-1 - 1e-9, -1 + 1e-9, 30.0]])
    assert _one_layer(network, Z, hidden)["saturated"][1] == 3 / 6
    zeros = np.array([[0.0, 40.0, 0.0], [0.0, 0.0, -0.5]])
    assert _one_layer(network, zeros, "tanh")["saturated"][1] == 1 / 2


@pytest.mark.parametrize("hidden", [name for name in HIDDEN if name not in ("tanh", "sigmoid")])
def test_others_do_not_saturate(network, hidden, rng):
    assert _one_layer(network, 20 * rng.standard_normal((5, 4)), hidden)["saturated"][1] == 0


def _twins(network, W, b=None, kind="none", scale=None, dtype=np.float64):
    n_in, n_out = W.shape
    b = np.zeros(n_out) if b is None else b
    scale = np.ones(n_out) if scale is None else scale
    parts = [W.ravel(), b, *([] if kind == "none" else [scale]), np.ones(n_out), np.zeros(1)]
    sizes = (n_in, n_out, 1)
    net = network(np.concatenate(parts), "tanh", kind, sizes, dtype=dtype)
    record = np.empty((3, len(MONITORED)))
    X = np.ones((2, n_in), dtype)
    length = sum(map(np.size, parts))
    net.gradients(X, np.zeros((2, 1), dtype), None, np.empty(length, dtype), record=record)
    return record[1, MONITORED.index("twins")] * n_out


@pytest.mark.parametrize("n_out", [2, 3, 8, 33])
def test_twins(network, dtype, rng, n_out):
    W = rng.standard_normal((6, n_out))
    assert _twins(network, W, dtype=dtype) == 0
    W[:, -1] = W[:, 0]
    assert _twins(network, W, dtype=dtype) == 2
    b = np.zeros(n_out)
    b[0] = 0.01
    assert _twins(network, W, b, dtype=dtype) == 0
    assert _twins(network, W, np.full(n_out, 0.3), dtype=dtype) == 2
    scale = np.ones(n_out)
    assert _twins(network, W, kind="layer", scale=scale, dtype=dtype) == 2
    scale[0] = 1.01
    assert _twins(network, W, kind="layer", scale=scale, dtype=dtype) == 0
    W[:, -1] *= 1 + 1e-7  # what rounding makes of equal ones
    assert _twins(network, W, dtype=dtype) == 2
    W[0, -1] += 1e-2
    assert _twins(network, W, dtype=dtype) == 0


def test_twins_of_initializers(network, dtype, rng):
    for name in ("zeros", "constant"):
        W = initializers.INITIALIZERS[name](rng, 5, 7)
        assert _twins(network, W, dtype=dtype) == 7
    wide, narrow = (initializers.scaled_identity(rng, *shape) for shape in ((5, 12), (12, 5)))
    assert _twins(network, wide, dtype=dtype) == 12 - 5  # those beyond the inputs
    assert _twins(network, narrow, dtype=dtype) == 0
    assert _twins(network, initializers.scaled_identity(rng, 5, 6), dtype=dtype) == 0
    assert _twins(network, initializers.zeros(rng, 5, 1), dtype=dtype) == 0


@pytest.mark.parametrize(
    "name", [name for name in initializers.INITIALIZERS if name not in ("zeros", "constant", "scaled_identity")]
)
def test_no_twins_where_weights_are_drawn(network, dtype, rng, name):
    assert _twins(network, initializers.INITIALIZERS[name](rng, 40, 300), dtype=dtype) == 0


# ---- Weights and updates ----


def _train(network, data, rule, batch_size=8, batches=(0, 1, 2), weight=None):
    X, y = data
    records = np.full((len(batches), len(SIZES), len(MONITORED)), -1.0)
    watched = np.array(batches, np.int64), records
    outcome = network.train_epoch(X, y, weight, None, batch_size, rule, watched=watched)
    return outcome, {name: records[:, :, number] for number, name in enumerate(MONITORED)}


@pytest.mark.parametrize(
    "more",
    [{}, {"max_norm": 0.5}, {"l2": 0.1, "l1": 0.01}, {"clip_norm": 1e-3}, {"dropout": [0, 0.5, 0.5], "seed": 7}],
    ids=str,
)
@pytest.mark.parametrize("optimizer", WITH_RULES, ids=lambda one: type(one).__name__)
def test_weights_and_updates(network, rng, data, optimizer, more):
    """Of each minibatch: the norm of the weights before it, and of the difference to those after it."""
    flat = _draw(rng)
    rule = optimizer.rule() | more
    told = _train(network(flat), data, rule)[1]
    net, X, y = network(flat), *data
    for number in range(3):
        before, after = np.empty_like(flat), np.empty_like(flat)
        net.get_parameters(before)
        rows = slice(8 * number, 8 * number + 8)
        net.train_epoch(X[rows], y[rows], None, None, 8, rule)
        net.get_parameters(after)
        for layer, ((W, _, _), (V, _, _)) in enumerate(zip(_layers(before), _layers(after), strict=True), start=1):
            assert_close(told["weight"][number, layer], np.linalg.norm(W), W.size)
            assert_close(told["update"][number, layer], np.linalg.norm(V - W), W.size, np.linalg.norm(W))
            assert told["update"][number, layer] > 0


def test_records_are_those_of_gradients(network, rng, data):
    flat, (X, y) = _draw(rng), data
    told = _train(network(flat), data, optimizers.SGD().rule(), batches=[0])[1]
    alone = _record(network(flat), X[:8], y[:8])
    for name in set(MONITORED) - {"update"}:
        np.testing.assert_array_equal(told[name][0], alone[name])


def test_penalties_and_clipping_are_not_in_gradients(network, rng, data):
    flat, more = _draw(rng), {"l2": 1.0, "l1": 0.5, "clip_value": 1e-3}
    plain = _train(network(flat), data, optimizers.SGD().rule(), batches=[0])[1]
    changed = _train(network(flat), data, optimizers.SGD().rule() | more, batches=[0])[1]
    np.testing.assert_array_equal(plain["gradient"], changed["gradient"])
    assert (plain["update"][:, 1:] != changed["update"][:, 1:]).all()


# ---- What comes out is the same ----


@pytest.mark.parametrize("kind", KINDS)
def test_watching_changes_nothing(network, rng, data, kind):
    flat, (X, y) = _draw(rng, kind), data
    rule = optimizers.Adam().rule() | {"dropout": [0.1, 0.2, 0.3], "seed": 1}
    results = []
    for watched in (None, [], [1], [0, 1, 2]):
        net, out, losses = network(flat, kind=kind), np.empty_like(flat), np.empty((3, 2))
        optional = {}
        if watched is not None:
            records = np.empty((len(watched), len(SIZES), len(MONITORED)))
            optional = {"watched": (np.array(watched, np.int64), records)}
        outcome = net.train_epoch(X, y, None, None, 8, rule, losses=losses, **optional)
        net.get_parameters(out)
        results.append((outcome, out.tobytes(), losses.tobytes(), net.get_optimizer()[2].tobytes()))
    assert len(set(results)) == 1


def test_records_are_written_up_to_the_minibatch_that_fails(network, rng, data):
    X, y = data
    y[9] = np.inf
    (_, failed), told = _train(network(_draw(rng)), (X, y), optimizers.SGD().rule())
    assert failed == 1
    assert (told["update"][0, 1:] > 0).all()
    assert (told["update"][1, 1:] == 0).all()
    assert np.isfinite(told["activation"][1]).all()
    assert all((column[2] == -1).all() for column in told.values())


# ---- What is refused ----


def _arrays(batches=(0, 1), dtype=np.int64, shape=(2, 4, 8), of=np.float64):
    return np.array(batches, dtype), np.empty(shape, of)


@pytest.mark.parametrize(
    ("watched", "error"),
    [
        (7, TypeError),
        (_arrays(dtype=np.int32), TypeError),
        (_arrays(of=np.float32), TypeError),
        (_arrays(shape=(1, 4, 8)), ValueError),
        (_arrays(shape=(2, 3, 8)), ValueError),
        (_arrays(shape=(2, 4, 7)), ValueError),
        (_arrays([[0, 1]]), ValueError),
        (_arrays([1, 0]), ValueError),
        (_arrays([1, 1]), ValueError),
        (_arrays([-1, 0]), ValueError),
        (_arrays([0, 3]), ValueError),
    ],
)
def test_wrong_watched(network, rng, data, watched, error):
    flat = _draw(rng)
    net, out = network(flat), np.empty_like(flat)
    with pytest.raises(error):
        net.train_epoch(*data, None, None, 8, optimizers.SGD().rule(), watched=watched)
    net.get_parameters(out)
    np.testing.assert_array_equal(out, flat)


@pytest.mark.parametrize("shape", [(4, 8, 1), (3, 8), (4, 7)])
def test_wrong_record(network, rng, data, shape):
    flat = _draw(rng)
    with pytest.raises(ValueError, match="record"):
        network(flat).gradients(*data, None, flat, record=np.empty(shape))
    with pytest.raises(TypeError, match="record"):
        network(flat).gradients(*data, None, flat, record=np.empty((4, 8), np.float32))
    read_only = np.empty((4, 8))
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="record"):
        network(flat).gradients(*data, None, flat, record=read_only)

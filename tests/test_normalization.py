"""Normalised layers of an MLP: what is accepted, where scales and statistics are, what is computed, what is kept."""

import copy
import dataclasses
import itertools
import pickle

import joblib
import numpy as np
import pytest
from conftest import CENTRAL_DIFFERENCE, assert_close

from cymlp import MLP, activations, normalizations
from cymlp.normalizations import NORMALIZATIONS, BatchNorm, LayerNorm
from cymlp.training import DivergenceError

SIZES, LENGTH, ROWS = (4, 6, 5, 3), 4 + 6 + 5 + 3, 17
# Of each name in the registry, of all numbers its own, and of layers that differ.
SPECS = {name: name for name in NORMALIZATIONS} | {
    "numbers": [BatchNorm(0.25, 1e-3), LayerNorm(0.5)],
    "last": [None, "batch"],
    "first": ["layer", None],
}
HIDDEN = [name for name, definition in activations.ACTIVATIONS.items() if definition.hidden and name != "identity"]


def _net(engine_name, normalization, dtype=np.float64, hidden="tanh", sizes=SIZES, **options):
    return MLP(
        sizes, hidden, dtype=dtype, engine=engine_name, normalization=normalization, **{"random_state": 1} | options
    )


@pytest.fixture(params=SPECS)
def net(request, engine_name, dtype, rng):
    """A network whose numbers are not those it began with."""
    net = _net(engine_name, SPECS[request.param], dtype)
    _disturb(net, rng)
    return net


@pytest.fixture
def data(rng, dtype):
    return rng.normal(size=(ROWS, 4)).astype(dtype), rng.normal(size=(ROWS, 3)).astype(dtype)


def _disturb(net, rng):
    def draw(arrays, low, high):
        return [None if array is None else rng.uniform(low, high, array.shape) for array in arrays]

    net.biases = draw(net.biases, -0.5, 0.5)
    net.scales = draw(net.scales, 0.5, 1.5)
    net.running_means = draw(net.running_means, -0.5, 0.5)
    net.running_variances = draw(net.running_variances, 0.5, 1.5)


def _layers(net):
    """(W, b, scale, running mean, running variance, normalisation) of each layer, in float64."""
    columns = (net.weights, net.biases, net.scales, net.running_means, net.running_variances)
    wide = ([None if array is None else array.astype(np.float64) for array in column] for column in columns)
    return list(zip(*wide, (*net.normalizations, None), strict=True))


def _forward(net, X):
    """Z of each layer, for tanh, from the definition."""
    A, Zs = X.astype(np.float64), []
    for W, b, scale, mean, variance, normalization in _layers(net):
        U = A @ W
        if normalization is not None:
            if not normalization.has_statistics:
                mean, variance = U.mean(axis=1, keepdims=True), U.var(axis=1, keepdims=True)
            U = scale * (U - mean) / np.sqrt(variance + normalization.epsilon)
        Zs.append(U + b)
        A = np.tanh(Zs[-1])
    return Zs


def _vectors(net):
    """Parameters and statistics of the engine, which has to be there."""
    flat, statistics = np.empty_like(net.parameters), np.empty_like(net.statistics)
    net._network.get_parameters(flat)
    if statistics.size:
        net._network.get_statistics(statistics)
    return flat.tobytes(), statistics.tobytes()


def _shown(net):
    return net.parameters.tobytes(), net.statistics.tobytes()


# ---- What is accepted ----


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_registry(name):
    cls = NORMALIZATIONS[name]
    assert normalizations.get(name) == cls() == cls(**cls().numbers())
    assert normalizations.get(cls(epsilon=1e-3)) == cls(epsilon=1e-3) != cls()
    assert (cls.name, cls().pair()[0], str(cls())) == (name, name, name)
    assert str(cls(epsilon=0.001)) == f"{name}(epsilon=0.001)"
    assert sorted(cls().pair()[1:]) == sorted(cls().numbers().values())
    assert all(type(number) is float for number in cls(epsilon=1).pair()[1:])
    assert "Source: " in cls.__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().epsilon = 1.0


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize("wrong", [0, -1e-5, 1e-46, 1e39, np.nan, np.inf, True, "1", None])
def test_wrong_epsilon(name, wrong):
    cls = NORMALIZATIONS[name]
    with pytest.raises(ValueError, match=rf"^{cls.__name__}\.epsilon must be a number > 0 that float32 can hold; got "):
        cls(epsilon=wrong)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan, False, "0.1", None])
def test_wrong_momentum(wrong):
    with pytest.raises(ValueError, match=r"^BatchNorm\.momentum must be a number in \[0, 1\]; got "):
        BatchNorm(momentum=wrong)
    BatchNorm(momentum=0), BatchNorm(momentum=1)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, (None, None)),
        ("batch", (BatchNorm(), BatchNorm())),
        (LayerNorm(0.1), (LayerNorm(0.1), LayerNorm(0.1))),
        (["layer", None], (LayerNorm(), None)),
        ((None, BatchNorm(0.5)), (None, BatchNorm(0.5))),
    ],
)
def test_what_normalization_may_be(spec, expected, engine_name):
    assert _net(engine_name, spec).normalizations == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("group", r"^normalization must be None, one of batch, layer, or a BatchNorm or LayerNorm of .*; got 'group'"),
        (BatchNorm, r"^normalization must be None, one of .*; got <class"),
        (True, r"^normalization must be None, one of .*; got True"),
        (["batch"], r"^normalization must have 2 entries, one per hidden layer; got 1"),
        (["batch", None, None], r"^normalization must have 2 entries, one per hidden layer; got 3"),
        (["batch", 3], r"^normalization\[1\] must be None, one of .*; got 3"),
    ],
)
def test_what_normalization_must_not_be(spec, message, engine_name):
    with pytest.raises(ValueError, match=message):
        _net(engine_name, spec)


def test_without_hidden_layers(engine_name):
    net = _net(engine_name, "batch", sizes=(4, 3))
    assert (net.normalizations, net.scales, net.statistics.size) == ((), [None], 0)
    assert net.predict(np.ones((2, 4))).shape == (2, 3)
    with pytest.raises(ValueError, match="normalization must be None, one of batch, layer"):
        _net(engine_name, "bathc", sizes=(4, 3))


def test_linear_layers_are_warned_of_unless_rows_normalize_themselves(engine_name):
    with pytest.warns(UserWarning, match="hidden_activation 'identity'") as caught:
        _net(engine_name, ["layer", "batch"], hidden="identity")
    assert caught[0].filename == __file__
    _net(engine_name, "layer", hidden="identity")


# ---- Where the numbers are ----


def test_vectors_in_natural_order(net):
    pieces = [
        (net.weights[i].ravel(), net.biases[i], *([] if net.scales[i] is None else [net.scales[i]])) for i in range(3)
    ]
    np.testing.assert_array_equal(net.parameters, np.concatenate([*itertools.chain(*pieces)]))
    running = zip(net.running_means, net.running_variances, strict=True)
    vectors = [vector for vector in itertools.chain(*running) if vector is not None]
    np.testing.assert_array_equal(net.statistics, np.concatenate([np.empty(0), *vectors]))
    assert net.n_parameters == len(net.parameters) == sum(part.size for part in itertools.chain(*pieces))
    for i, normalization in enumerate((*net.normalizations, None)):
        assert (net.scales[i] is None) == (normalization is None)
        assert (net.running_means[i] is None) == (normalization is None or not normalization.has_statistics)
    for array in (*net.weights, *net.biases, *net.scales):
        assert array is None or np.shares_memory(array, net.parameters)
    for array in vectors:
        assert np.shares_memory(array, net.statistics)


def test_what_a_network_begins_with(engine_name, dtype):
    net, plain = (_net(engine_name, spec, dtype) for spec in ("batch", None))
    for ours, theirs in zip((*net.weights, *net.biases), (*plain.weights, *plain.biases), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for scale, mean, variance in zip(net.scales[:-1], net.running_means, net.running_variances, strict=False):
        assert (scale == 1).all()
        assert (mean == 0).all()
        assert (variance == 1).all()
    assert plain.scales == plain.running_means == plain.running_variances == [None] * 3
    assert plain.statistics.shape == (0,)
    assert "normalization" not in repr(plain) + plain.summary()


def test_views_are_read_only(net):
    for view in (net.statistics, *net.scales, *net.running_means, *net.running_variances):
        if view is not None and view.size:
            with pytest.raises(ValueError, match="read-only"):
                view[...] = 0
            with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
                view.flags.writeable = True


@pytest.mark.parametrize("used", [False, True])
def test_what_is_set_is_copied_and_used(used, net, data, rng):
    other = _net(net.engine, list(net.normalizations), net.dtype, random_state=2)
    if used:
        other.predict(data[0])
    for name in ("weights", "biases", "scales", "running_means", "running_variances"):
        value = copy.deepcopy(getattr(net, name))
        setattr(other, name, value)
        for array in value:
            if array is not None:
                array.flags.writeable = True
                array[...] = 0
    assert _shown(other) == _shown(net)
    np.testing.assert_array_equal(other.predict(data[0]), net.predict(data[0]))
    assert _vectors(other) == _shown(net)
    other = _net(net.engine, list(net.normalizations), net.dtype, random_state=3)
    other.parameters, other.statistics = net.parameters.tolist(), net.statistics.astype(np.float64)
    np.testing.assert_array_equal(other.predict(data[0]), net.predict(data[0]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scales", [np.ones(6), np.ones(5)], "scales must have 3 arrays, one for each layer; got 2"),
        ("scales", [np.ones(6), np.ones(4), None], r"scales\[1\] must have shape \(5,\); got \(4,\)"),
        ("scales", [np.ones(6), np.ones(5), [1, 1, 1]], r"scales\[2\] must be None, as layer 3 has none; got \[1, 1"),
        ("scales", [np.ones(6), None, None], r"scales\[1\] must hold real numbers; got dtype object"),
        ("scales", [np.ones(6), [1, 1, np.nan, 1, 1], None], r"scales\[1\] must be finite; got nan at position 2"),
        ("scales", 3, "scales must be a sequence of arrays, one for each layer; got int"),
        ("running_means", [np.ones(6), np.ones(5), None], r"running_means\[1\] must be None, as layer 2 has none"),
        ("running_variances", [[1, 1, 1, -1, 1, 1], None, None],
         "running_variances must have variances >= 0; got -1.0 for unit 3 of layer 1"),
        ("statistics", np.ones(13), r"statistics must have shape \(12,\); got \(13,\)"),
        ("statistics", np.r_[np.zeros(11), -2.0],
         "statistics must have variances >= 0; got -2.0 for unit 5 of layer 1"),
    ],
)  # fmt: skip
def test_what_must_not_be_set(name, value, message, engine_name):
    net = _net(engine_name, ["batch", "layer"])
    net.predict(np.ones((1, 4)))
    before = _shown(net)
    with pytest.raises((ValueError, TypeError), match="^" + message):
        setattr(net, name, value)
    assert _shown(net) == _vectors(net) == before


def test_the_first_data_decide_the_dtype_of_statistics(engine_name, rng):
    net = _net(engine_name, "batch", None)
    _disturb(net, rng)
    before = net.statistics.copy()
    assert before.dtype == np.float64
    net.predict(np.ones((1, 4), np.float32))
    assert net.statistics.dtype == net.scales[0].dtype == np.float32
    np.testing.assert_array_equal(net.statistics, before.astype(np.float32))
    assert _vectors(net) == _shown(net)
    net = _net(engine_name, "batch", None)
    net.statistics = np.r_[np.zeros(6), 1e300, np.ones(15)]
    with pytest.raises(ValueError, match=r"statistics must fit in float32; got 1e\+300 at position 6"):
        net.predict(np.ones((1, 4), np.float32))
    assert net.dtype == net.statistics.dtype == np.float64


def test_summary_and_repr(engine_name):
    net = _net(engine_name, [BatchNorm(momentum=0.2), None])
    assert [line.split() for line in net.summary().splitlines()] == [
        ["layer", "shape", "normalization", "activation", "parameters", "initializer"],
        ["1", "4", "x", "6", "batch(momentum=0.2)", "tanh", "36", "glorot_uniform"],
        ["2", "6", "x", "5", "tanh", "35", "glorot_uniform"],
        ["3", "5", "x", "3", "identity", "18", "glorot_uniform"],
        ["total", "89"],
    ]
    assert repr(net).endswith(f", engine={engine_name!r}, normalization=['batch(momentum=0.2)', None])")


# ---- What is computed ----


def test_predict_and_forward_are_the_formula(net, data):
    X = data[0]
    expected = _forward(net, X)
    Z, A = net.forward(X)
    for ours, theirs in zip(Z, expected, strict=True):
        assert_close(ours, theirs, reduction_length=LENGTH, kind="pass")
    assert_close(net.predict(X), expected[-1], reduction_length=LENGTH, kind="pass")
    assert_close(A[0], np.tanh(Z[0]), reduction_length=1, kind="activation")


def test_rows_of_a_prediction_do_not_depend_on_each_other(net, data):
    X = data[0]
    whole = net.predict(X)
    rows = np.concatenate([net.predict(X[i : i + 1]) for i in range(len(X))])
    if net.engine == "compiled":
        assert rows.tobytes() == whole.tobytes()
    assert_close(rows, whole, reduction_length=LENGTH, kind="pass")  # NumPy's BLAS promises no bits


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_gradients_are_those_of_the_loss(name, hidden, weighted, engine_name, rng):
    net = _net(engine_name, name, hidden=[hidden, "tanh"])
    _disturb(net, rng)
    X, y = rng.normal(size=(ROWS, 4)), rng.normal(size=(ROWS, 3))
    weight = rng.integers(0, 3, ROWS) / 2 if weighted else None
    gradient, start = net.gradients(X, y, weight)[1].flat, net.parameters.copy()
    direction = rng.normal(size=start.shape)

    def loss(shift):
        net.parameters = start + shift * direction
        return net.gradients(X, y, weight)[0]

    coarse, fine = ((loss(h) - loss(-h)) / (2 * h) for h in (1e-4, 5e-5))
    assert abs(gradient @ direction - (4 * fine - coarse) / 3) <= CENTRAL_DIFFERENCE * np.linalg.norm(gradient)


def test_gradients_are_shaped_as_the_parameters(net, data):
    _, gradients = net.gradients(*data)
    for name in ("weights", "biases", "scales"):
        shapes = [None if array is None else array.shape for array in getattr(net, name)]
        assert [None if array is None else array.shape for array in getattr(gradients, name)] == shapes
        assert all(array is None or np.shares_memory(array, gradients.flat) for array in getattr(gradients, name))


def test_gradients_and_evaluating_leave_statistics_alone(net, data):
    before = _shown(net)
    loss, _ = net.gradients(*data)
    evaluated = net.evaluate(*data)
    assert _shown(net) == _vectors(net) == before
    expected = np.mean(np.sum((net.predict(data[0]).astype(np.float64) - data[1]) ** 2, axis=1)) / 2
    assert_close(evaluated, expected, LENGTH + ROWS, kind="pass", dtype=net.dtype)
    if not net.statistics.size:
        assert_close(loss, evaluated, LENGTH + ROWS, kind="pass", dtype=net.dtype)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_moves_statistics_as_defined(weighted, engine_name, dtype, data, rng):
    net = _net(engine_name, [BatchNorm(0.25), None], dtype)
    _disturb(net, rng)
    X, y = data
    w = rng.integers(1, 4, ROWS) / 4 if weighted else np.ones(ROWS)
    mean, variance = net.running_means[0].astype(np.float64), net.running_variances[0].astype(np.float64)
    U, start = X.astype(np.float64) @ net.weights[0], net.parameters.copy()
    _, gradients = net.gradients(X, y, w)
    net.train(X, y, epochs=1, batch_size=ROWS, optimizer="sgd", learning_rate=0.5, sample_weight=w, shuffle=False)
    share = w / w.sum()
    found = share @ U, share @ (U - share @ U) ** 2 / (1 - share @ share)
    for running, old, new in zip(
        (net.running_means[0], net.running_variances[0]), (mean, variance), found, strict=True
    ):
        assert_close(running, 0.75 * old + 0.25 * new, LENGTH + ROWS, kind="pass")
    expected = start - dtype.type(0.5) * gradients.flat
    assert_close(net.parameters, expected, LENGTH + ROWS, kind="training")
    assert _vectors(net) == _shown(net)


def test_momentum_of_zero_leaves_statistics_alone(engine_name, data):
    net = _net(engine_name, BatchNorm(momentum=0))
    before = net.statistics.copy()
    net.train(*data, epochs=2, batch_size=5)
    np.testing.assert_array_equal(net.statistics, before)


def test_a_minibatch_of_one_row_is_normalized_with_running_statistics(engine_name, dtype, data, rng):
    net = _net(engine_name, "batch", dtype)
    _disturb(net, rng)
    before, (X, y) = net.statistics.copy(), data
    loss, _ = net.gradients(X[:1], y[:1])
    assert_close(loss, net.evaluate(X[:1], y[:1]), LENGTH, kind="pass", dtype=dtype)
    net.train(X, y, epochs=2, batch_size=1)
    np.testing.assert_array_equal(net.statistics, before)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("n_threads", [None, 2, 3])
def test_threads_do_not_change_a_bit(n_threads, spec, engine_name, dtype, rng):
    X, y = rng.normal(size=(300, 90)).astype(dtype), rng.normal(size=(300, 10)).astype(dtype)
    one, other = (_net(engine_name, spec, dtype, sizes=(90, 110, 40, 10), n_threads=n) for n in (1, n_threads))
    assert one.gradients(X, y)[1].flat.tobytes() == other.gradients(X, y)[1].flat.tobytes()
    for net in (one, other):
        net.train(X, y, epochs=2, batch_size=100, validation_data=(X, y))
    assert _shown(one) == _shown(other)
    assert one.history_.validation_loss == other.history_.validation_loss
    assert one.predict(X).tobytes() == other.predict(X).tobytes()


def test_lbfgs_trains_with_layer_normalization(engine_name, data):
    net = _net(engine_name, "layer", data[0].dtype)
    history = net.train(*data, epochs=20, optimizer="lbfgs")
    assert history.loss[-1] < 0.5 * history.loss[0]


def test_a_depth_that_does_not_train_plainly(engine_name, rng):
    """50 layers, through which small weights let no difference between rows pass."""
    X = rng.normal(size=(256, 4))
    y, losses = np.tanh(X.sum(axis=1, keepdims=True)), []
    for spec in (None, "batch"):
        net = _net(engine_name, spec, np.float32, sizes=[4, *[32] * 50, 1], gain=0.5)
        losses.append(min(net.train(X, y, epochs=20, batch_size=64, learning_rate=0.003).loss))
    assert losses[0] > 0.99 * np.var(y) / 2
    assert losses[1] < 0.5 * np.var(y) / 2


# ---- What is kept ----


def test_statistics_are_shown_after_each_epoch(net, data):
    kept = []
    net.train(*data, epochs=3, batch_size=5, callback=lambda event: kept.append((_shown(net), _vectors(net))))
    assert all(shown == inside for shown, inside in kept)
    assert len({shown[1] for shown, _ in kept}) == (3 if net.statistics.size else 1)
    assert _shown(net) == kept[-1][0]


def test_divergence_restores_statistics(net, data):
    kept = []

    def callback(event):
        kept.append(_shown(event.network))
        event.network.weights = [*event.network.weights[:-1], np.full((5, 3), np.finfo(net.dtype).max)]
        kept.append(_shown(event.network))

    with pytest.raises(DivergenceError), np.errstate(all="ignore"):
        net.train(*data, epochs=9, batch_size=5, callback=callback)
    assert _shown(net) == _vectors(net) == kept[-1]


def test_an_interrupted_epoch_leaves_nothing_of_itself(net, data, monkeypatch):
    net.train(*data, epochs=1, batch_size=5)
    before, real = _shown(net), net._network

    class Interrupted:
        def __getattr__(self, name):
            return getattr(real, name)

        def train_epoch(self, *arguments, **optional):
            real.train_epoch(*arguments, **optional)
            with pytest.raises(RuntimeError, match="statistics must not be set while this network is at work in this"):
                net.statistics = net.statistics
            raise KeyboardInterrupt

    monkeypatch.setattr(net, "_network", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        net.train(*data, epochs=1, batch_size=5)
    monkeypatch.undo()
    assert _shown(net) == _vectors(net) == before


DUPLICATES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda net, protocol=protocol: pickle.loads(pickle.dumps(net, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES)
def test_copies_are_whole_and_resume(duplicate, net, data):
    options = {"batch_size": 5, "resume": True}
    net.train(*data, epochs=2, batch_size=5)
    twin = duplicate(net)
    assert (_shown(twin), repr(twin), twin.summary()) == (_shown(net), repr(net), net.summary())
    assert twin.normalizations == net.normalizations
    before = _shown(net)
    twin.train(*data, epochs=2, **options)
    assert _shown(net) == _vectors(net) == before
    net.train(*data, epochs=2, **options)
    assert _shown(net) == _shown(twin)
    np.testing.assert_array_equal(twin.predict(data[0]), net.predict(data[0]))


@pytest.mark.parametrize("mode", [None, "r", "r+", "c"])
def test_files_that_joblib_maps(mode, net, data, tmp_path):
    path = tmp_path / "net.joblib"
    joblib.dump(net, path)
    content = path.read_bytes()
    twin = joblib.load(path, mmap_mode=mode)
    np.testing.assert_array_equal(twin.predict(data[0]), net.predict(data[0]))
    for each in (twin, net):
        each.train(*data, epochs=1, batch_size=5)
    assert _shown(twin) == _shown(net)
    assert mode == "r+" or path.read_bytes() == content

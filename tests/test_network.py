"""MLP without training: construction, parameters and their views, passes, copies, and what it says about itself."""

import copy
import pickle
import sys

import numpy as np
import pytest
from conftest import assert_close

from cymlp import MLP, _validation, activations, initializers, losses


def _data(rng, n=17, n_in=4, n_out=3, dtype=np.float64):
    return rng.normal(size=(n, n_in)).astype(dtype), rng.normal(size=(n, n_out)).astype(dtype)


def _net(engine_name, dtype=None, **options):
    return MLP(
        [4, 6, 5, 3], **{"hidden_activation": "tanh", "random_state": 1} | options, dtype=dtype, engine=engine_name
    )


def test_losses_have_a_parameter_of_their_own():
    assert [losses.huber(0.5).parameter, losses.quantile(0.9).parameter] == [0.5, 0.9]
    assert losses.get("quantile") == losses.quantile() == losses.Loss("quantile", level=0.5)
    assert [str(loss) for loss in (losses.huber(0.5), losses.quantile(0.9), losses.get("poisson"))] == [
        "huber(delta=0.5)", "quantile(level=0.9)", "poisson"
    ]  # fmt: skip
    for wrong in (0, 1, -0.5, np.nan, True, "0.5", None):
        with pytest.raises(ValueError, match=r"level must be a number in \(0, 1\)"):
            losses.quantile(wrong)


def test_learns_the_quantile_of_targets(engine_name, rng):
    """Of a constant input the output is a constant, and as many targets are below it as was asked for."""
    X, y = np.ones((101, 1)), rng.exponential(size=(101, 1))
    for level in (0.1, 0.5, 0.9):
        net = MLP([1, 1], loss=losses.quantile(level), random_state=0, engine=engine_name)
        net.train(X, y, epochs=3000, batch_size=101, optimizer="sgd", learning_rate=0.05)
        net.train(X, y, epochs=3000, batch_size=101, optimizer="sgd", learning_rate=0.001)
        below = (y < net.predict(X[:1])).mean()
        assert abs(below - level) <= 2 / 101


def test_properties(engine_name):
    net = MLP(
        np.array([4, 6, 5, 3]),
        ["tanh", activations.leaky_relu(0.2)],
        "sigmoid",
        losses.huber(0.5),
        n_threads=np.int64(2),
        engine=engine_name,
    )
    assert net.layer_sizes == (4, 6, 5, 3)
    assert net.hidden_activations == (activations.Activation("tanh"), activations.Activation("leaky_relu", 0.2))
    assert net.output_activation == activations.Activation("sigmoid")
    assert net.loss == losses.Loss("huber", 0.5)
    assert net.n_parameters == 5 * 6 + 7 * 5 + 6 * 3 == net.parameters.size
    assert (net.n_threads, net.engine, net.dtype, net.history_, net.metadata) == (2, engine_name, np.float64, None, {})
    with pytest.raises(AttributeError):
        net.dtype = np.float32


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        ("softmax", "categorical_cross_entropy"),
        ("sigmoid", "binary_cross_entropy"),
        ("exp", "poisson"),
        ("identity", "squared_error"),
        ("tanh", "squared_error"),
    ],
)
def test_default_loss(output, loss, engine_name):
    assert MLP([2, 2], output_activation=output, engine=engine_name).loss.name == loss


def test_initializer_auto_takes_each_layers_own(engine_name):
    net = MLP([40, 30, 20], "relu", "softmax", random_state=5, gain=2.0, engine=engine_name)
    rng = np.random.default_rng(5)
    np.testing.assert_array_equal(net.weights[0], initializers.he_normal(rng, 40, 30, gain=2.0))
    np.testing.assert_array_equal(net.weights[1], initializers.glorot_uniform(rng, 30, 20, gain=2.0))
    assert not any(b.any() for b in net.biases)


def test_initializer_of_the_users(engine_name):
    def ramp(rng, n_in, n_out, gain=1.0):
        return gain * np.arange(n_in * n_out).reshape(n_in, n_out, order="F")

    net = MLP([2, 3, 1], initializer=ramp, gain=0.5, engine=engine_name)
    np.testing.assert_array_equal(net.weights[0], [[0, 1, 2], [0.5, 1.5, 2.5]])
    assert "ramp" in net.summary()


def test_random_state_kinds_agree(engine_name):
    seeds = (7, np.int64(7), np.random.SeedSequence(7), np.random.default_rng(7))
    vectors = [_net(engine_name, random_state=seed).parameters for seed in seeds]
    for vector in vectors[1:]:
        np.testing.assert_array_equal(vector, vectors[0])
    unseeded = [_net(engine_name, random_state=None).parameters for _ in range(2)]
    assert (unseeded[0] != unseeded[1]).any()


def test_identity_hidden_layer_is_warned_about(engine_name):
    with pytest.warns(UserWarning, match="hidden_activation 'identity'") as caught:
        MLP([2, 3, 1], "identity", engine=engine_name)
    assert caught[0].filename == __file__
    MLP([2, 1], "identity", engine=engine_name)  # no hidden layer: filterwarnings turns a warning into an error


def test_parameters_in_natural_order(engine_name, rng):
    W = [rng.normal(size=(2, 3)), rng.normal(size=(3, 1))]
    b = [rng.normal(size=3), rng.normal(size=1)]
    net = MLP.from_weights(W, b, engine=engine_name)
    np.testing.assert_array_equal(net.parameters, np.concatenate([W[0].ravel(), b[0], W[1].ravel(), b[1]]))
    for view, given in zip([*net.weights, *net.biases], [*W, *b], strict=True):
        np.testing.assert_array_equal(view, given)
        assert np.shares_memory(view, net.parameters)


def test_views_are_read_only(engine_name):
    net = _net(engine_name)
    for view in (net.parameters, *net.weights, *net.biases):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0
        while isinstance(view, np.ndarray):
            with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
                view.flags.writeable = True
            view = view.base


def test_views_follow_the_parameters(engine_name, dtype, rng):
    net = _net(engine_name, dtype)
    views = [net.parameters, *net.weights, *net.biases]
    net.train(*_data(rng, dtype=dtype), epochs=1)
    net.parameters = net.parameters * 2
    for view, now in zip(views, [net.parameters, *net.weights, *net.biases], strict=True):
        np.testing.assert_array_equal(view, now)


def test_views_from_before_float32_was_decided_keep_what_was_then(engine_name):
    net = _net(engine_name)
    view = net.parameters
    before = view.copy()
    net.predict(np.ones((1, 4), np.float32))
    net.parameters = np.zeros(net.n_parameters)
    np.testing.assert_array_equal(view, before)
    assert not net.parameters.any()


def test_assigned_parameters_are_copied_and_used(engine_name, rng):
    net, other = _net(engine_name), _net(engine_name, random_state=2)
    X, _ = _data(rng)
    expected = other.predict(X)
    vector = other.parameters.copy()
    net.parameters = vector
    vector[:] = 0
    np.testing.assert_array_equal(net.predict(X), expected)
    net.parameters = net.parameters.astype(np.float32).tolist()
    np.testing.assert_array_equal(net.parameters, other.parameters.astype(np.float32))


def test_assigned_weights_and_biases(engine_name, rng):
    net, other = _net(engine_name), _net(engine_name, random_state=2)
    X, _ = _data(rng)
    other.biases = [rng.normal(size=n) for n in (6, 5, 3)]
    net.weights = [np.asfortranarray(W) for W in other.weights]
    assert not any(b.any() for b in net.biases)
    net.biases = other.biases
    np.testing.assert_array_equal(net.parameters, other.parameters)
    np.testing.assert_array_equal(net.predict(X), other.predict(X))


def test_a_wrong_layer_leaves_all_layers_alone(engine_name):
    net = _net(engine_name)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=r"weights\[2\] must have shape \(5, 3\)"):
        net.weights = [np.ones((4, 6)), np.ones((6, 5)), np.ones((5, 4))]
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize(
    ("kind", "expected"), [(np.float32, "float32"), (">f4", "float32"), (float, "float64"), (int, "float64")]
)
@pytest.mark.parametrize("call", ["predict", "forward", "gradients", "evaluate", "train"])
def test_first_data_decide_the_dtype(call, kind, expected, engine_name, rng):
    net = _net(engine_name)
    start = net.parameters.copy()
    assert net.dtype == start.dtype == np.float64
    X, y = (array.astype(kind) for array in _data(rng))
    getattr(net, call)(*((X,) if call in ("predict", "forward") else (X, y)))
    assert net.dtype == net.parameters.dtype == expected
    if call != "train":
        np.testing.assert_array_equal(net.parameters, start.astype(expected))
    net.predict(X.astype(np.float64 if expected == "float32" else np.float32))
    assert net.dtype == expected


def test_dtype_decision_refuses_parameters_that_do_not_fit(engine_name):
    net = _net(engine_name)
    net.parameters = np.full(net.n_parameters, 1e300)
    with pytest.raises(ValueError, match="parameters must fit in float32; got 1e\\+300 at position 0"):
        net.predict(np.ones((1, 4), np.float32))
    assert net.dtype == np.float64


def test_explicit_dtype_stays(engine_name, dtype, rng):
    net = _net(engine_name, dtype)
    X, _ = _data(rng)
    for kind in (np.float32, np.float64):
        assert net.predict(X.astype(kind)).dtype == net.dtype == dtype


@pytest.mark.parametrize(
    ("W", "b", "expected"), [("f4", "f4", "float32"), ("f4", "f8", "float64"), ("i4", "i4", "float64")]
)
def test_from_weights_takes_the_weights_dtype(W, b, expected, engine_name):
    net = MLP.from_weights([np.ones((2, 3), W)], [np.ones(3, b)], engine=engine_name)
    assert net.dtype == net.predict(np.ones((1, 2))).dtype == expected


def test_predict_is_the_formula(engine_name, dtype, rng):
    net = _net(engine_name, dtype)
    net.biases = [rng.normal(size=n) for n in (6, 5, 3)]
    X, _ = _data(rng, dtype=dtype)
    W, b = net.weights, net.biases
    expected = np.tanh(np.tanh(X @ W[0] + b[0]) @ W[1] + b[1]) @ W[2] + b[2]
    assert_close(net.predict(X), expected, reduction_length=4 + 6 + 5 + 3, kind="pass")


def test_rows_do_not_depend_on_each_other(engine_name, dtype, rng):
    net = _net(engine_name, dtype)
    X, _ = _data(rng, dtype=dtype)
    whole = net.predict(X)
    rows = np.concatenate([net.predict(X[i : i + 1]) for i in range(len(X))])
    if engine_name == "compiled":
        assert rows.tobytes() == whole.tobytes()
    assert_close(rows, whole, reduction_length=18, kind="pass")  # NumPy's BLAS promises no bits


def test_forward_ends_where_predict_does(engine_name, dtype, rng):
    net = _net(engine_name, dtype, output_activation="softmax")
    X, _ = _data(rng, dtype=dtype)
    Z, A = net.forward(X)
    assert [a.shape for a in A] == [z.shape for z in Z] == [(17, 6), (17, 5), (17, 3)]
    np.testing.assert_array_equal(A[-1], net.predict(X))
    assert_close(A[0], np.tanh(Z[0]), reduction_length=1, kind="activation")


@pytest.mark.parametrize("order", ["=", "<" if sys.byteorder == "little" else ">"])
def test_predict_into_out(order, engine_name, dtype, rng):
    net = _net(engine_name, dtype)
    X, _ = _data(rng, dtype=dtype)
    out = np.full((17, 3), np.nan, dtype.newbyteorder(order))
    assert net.predict(X, out=out) is out
    np.testing.assert_array_equal(out, net.predict(X))


def test_predict_into_its_input(engine_name, dtype, rng):
    net = MLP([3, 5, 3], dtype=dtype, random_state=0, engine=engine_name)
    for shift in (0, 1, 1000):  # the same rows, the next one, and far ahead of what is read
        memory = rng.normal(size=(3000, 3)).astype(dtype)
        X, out = memory[:2000], memory[shift : shift + 2000]
        expected = net.predict(X)
        np.testing.assert_array_equal(net.predict(X, out=out), expected)


@pytest.mark.parametrize("n_threads", [None, 1, 2, 3])
def test_threads_do_not_change_a_bit(n_threads, engine_name, dtype, rng):
    X, y = rng.normal(size=(300, 90)).astype(dtype), rng.normal(size=(300, 10)).astype(dtype)
    options = {"dtype": dtype, "random_state": 0, "engine": engine_name}
    one, other = (MLP([90, 110, 10], n_threads=n, **options) for n in (1, n_threads))
    assert one.gradients(X, y)[1].flat.tobytes() == other.gradients(X, y)[1].flat.tobytes()
    for net in (one, other):
        net.train(X, y, epochs=2, batch_size=100, validation_data=(X, y))
    assert one.history_.validation_loss == other.history_.validation_loss
    assert one.predict(X).tobytes() == other.predict(X).tobytes()


def test_wrong_out_does_not_decide_the_dtype(engine_name):
    net = _net(engine_name)
    with pytest.raises(TypeError, match="out must have dtype float32"):
        net.predict(np.ones((2, 4), np.float32), out=np.empty((2, 3)))
    assert net.dtype == np.float64
    net.predict(np.ones((2, 4)))
    assert net.dtype == np.float64


def test_gradients_are_shaped_as_the_parameters(engine_name, dtype, rng):
    net = _net(engine_name, dtype)
    X, y = _data(rng, dtype=dtype)
    loss, gradients = net.gradients(X, y)
    assert isinstance(loss, float)
    assert [g.shape for g in gradients.weights] == [W.shape for W in net.weights]
    assert [g.shape for g in gradients.biases] == [b.shape for b in net.biases]
    flat = [g.ravel() for pair in zip(gradients.weights, gradients.biases, strict=True) for g in pair]
    np.testing.assert_array_equal(gradients.flat, np.concatenate(flat))
    gradients.weights[0][...] = 0  # the caller's own
    assert not gradients.flat[:24].any()


def test_gradients_of_a_linear_network(engine_name, dtype, rng):
    X, y = _data(rng, dtype=dtype)
    weight = rng.uniform(0.5, 2, 17).astype(dtype)
    net = MLP([4, 3], dtype=dtype, random_state=0, engine=engine_name)
    loss, gradients = net.gradients(X, y, weight)
    D = X @ net.weights[0] - y
    assert_close(loss, weight @ (D**2).sum(axis=1) / 2 / weight.sum(), 17 + 4 + 3, kind="pass", dtype=dtype)
    assert_close(gradients.weights[0], X.T @ (D * weight[:, None]) / weight.sum(), 17 + 4 + 3, kind="pass")
    assert_close(gradients.biases[0], weight @ D / weight.sum(), 17 + 4 + 3, kind="pass")


OUTPUTS = ["identity", "softmax", "sigmoid", "exp", "tanh"]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_evaluate_is_the_loss_of_gradients(output, weighted, engine_name, dtype, rng, monkeypatch):
    X, _ = _data(rng, n=53, dtype=dtype)
    y = rng.dirichlet(np.ones(3), 53).astype(dtype)
    weight = rng.integers(0, 2, 53) * rng.uniform(1, 2, 53) if weighted else None
    net = _net(engine_name, dtype, output_activation=output)
    expected, _ = net.gradients(X, y, weight)
    length = 4 + 6 + 5 + 3 + 53
    assert_close(net.evaluate(X, y, weight), expected, length, kind="pass", dtype=dtype)
    monkeypatch.setattr("cymlp.computation._EVALUATION_ELEMENTS", 2 * 14 * 2)  # blocks of 2 rows, some of weight 0
    assert_close(net.evaluate(X, y, weight), expected, length, kind="pass", dtype=dtype)


@pytest.mark.parametrize("call", ["gradients", "evaluate", "train"])
@pytest.mark.parametrize(
    ("kind", "power"), [("f4", -149), ("f4", -140), ("f4", 127), ("f8", -1074), ("f8", -1000), ("f8", 1023)]
)
def test_only_ratios_of_sample_weights_matter(call, kind, power, engine_name, dtype, rng):
    """From the smallest number to the largest; for powers of two to the last bit."""
    X, y = _data(rng, dtype=dtype)
    weight, results = np.arange(17) % 2, []
    for scale in (0, power):
        net, scaled = _net(engine_name, dtype), np.ldexp(weight.astype(kind), scale)
        outcome = getattr(net, call)(X, y, sample_weight=scaled)
        loss = outcome.loss if call == "train" else outcome[0] if call == "gradients" else outcome
        results.append((loss, net.parameters.tobytes(), call == "gradients" and outcome[1].flat.tobytes()))
    assert results[0] == results[1]
    assert np.all(results[0][0])


def test_weights_far_below_the_largest_count_as_zero(engine_name, dtype, rng):
    X, y = _data(rng, n=2)
    net, tiny = _net(engine_name, dtype), float(np.finfo(dtype).tiny)
    assert net.evaluate(X, y, [1.0, tiny]) == net.evaluate(X, y, [1.0, 0.0])
    scaled = _validation.as_sample_weight([3.0, tiny, 4 * tiny], 3, dtype)
    np.testing.assert_array_equal(scaled, np.array([0.75, 0, tiny], dtype))
    assert scaled.dtype == dtype


def test_targets_in_either_shape(engine_name, rng):
    X, y = _data(rng, n_out=1)
    for output, targets in (("identity", y), ("sigmoid", (y > 0).astype(float)), ("exp", y**2)):
        net = MLP([4, 3, 1], output_activation=output, random_state=0, engine=engine_name)
        assert net.gradients(X, targets)[0] == net.gradients(X, targets[:, 0])[0]
    net = MLP([4, 3, 1], output_activation="sigmoid", random_state=0, engine=engine_name)
    assert net.gradients(X, y > 0)[0] == net.gradients(X, (y > 0).astype(float))[0]


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_duplicates_are_equal_and_independent(duplicate, engine_name, rng):
    X, y = _data(rng)
    net = _net(engine_name, output_activation=activations.leaky_relu(0.3), loss=losses.huber(0.7))
    net.train(X, y, epochs=1)
    net.metadata["columns"] = ["a"]
    twin = duplicate(net)
    assert repr(twin) == repr(net)
    assert twin.summary() == net.summary()
    assert twin.metadata == net.metadata
    assert twin.history_ == net.history_
    np.testing.assert_array_equal(twin.predict(X), net.predict(X))
    before, rest = net.parameters.copy(), (list(net.history_.loss), {"columns": ["a"]})
    twin.train(X, y, epochs=2)  # shuffled by its own copy of the generator
    twin.metadata["columns"].append("b")
    np.testing.assert_array_equal(net.parameters, before)
    assert (net.history_.loss, net.metadata) == rest
    net.train(X, y, epochs=2)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_an_undecided_dtype_survives_copying(engine_name):
    twin = copy.deepcopy(_net(engine_name))
    assert twin.predict(np.ones((1, 4), np.float32)).dtype == np.float32


def test_a_pickle_holds_plain_data(engine_name):
    data = pickle.dumps(_net(engine_name))
    assert b"_engine" not in data.replace(b"_engine\x94", b"")  # the attribute's name, not the module
    assert b"cymlp.reference" not in data


def test_summary(engine_name):
    net = MLP([784, 128, 10], activations.leaky_relu(0.2), "softmax", engine=engine_name)
    lines = net.summary().splitlines()
    assert [line.split() for line in lines] == [
        ["layer", "shape", "activation", "parameters", "initializer"],
        ["1", "784", "x", "128", "leaky_relu(slope=0.2)", "100,480", "he_normal"],
        ["2", "128", "x", "10", "softmax", "1,290", "glorot_uniform"],
        ["total", "101,770"],
    ]


def test_repr(engine_name):
    net = MLP([2, 3, 1], "tanh", "sigmoid", engine=engine_name)
    assert repr(net) == (
        "MLP([2, 3, 1], hidden_activation=['tanh'], output_activation='sigmoid', loss='binary_cross_entropy', "
        f"dtype=None, engine={engine_name!r})"
    )

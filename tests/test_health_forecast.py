"""forecast(): the course's cases exactly, initialisers of all kinds, verdicts, measuring, arguments."""

import functools
import math

import numpy as np
import pytest
from sklearn.datasets import load_digits

import cymlp
from cymlp import MLP, MLPClassifier, MLPRegressor, forecast, initializers
from cymlp.activations import ACTIVATIONS
from cymlp.health import forecasting, setups
from cymlp.health.forecasting import forecast_of

HIDDEN = [name for name, definition in ACTIVATIONS.items() if definition.hidden]
# Sums of up to 152 logarithms that come to 210 at most: 152 roundings of half of 2^-45, at random some 12 of them.
EXACT = 12 * 2.0**-45
# What the first order in 1 / n leaves where luck has no part: of orthogonal weights, say.
SECOND_ORDER = 0.01


def _kind(found):
    return found.verdict.partition(":")[0]


# ---- The course's cases ----


@pytest.mark.parametrize("depth", [1, 5, 152])
@pytest.mark.parametrize("gain", [1.5, 0.9, 0.5, 1.0])
def test_a_scaled_identity_gives_powers_of_its_gain_forward_and_backward(gain, depth):
    found = forecast([32] * (depth + 1), "identity", "scaled_identity", gain, dtype="float64", input_scale=2.0)
    layers = np.arange(depth + 1)
    np.testing.assert_allclose(found.activation_scale, 2.0 * gain**layers, rtol=EXACT)
    np.testing.assert_allclose(found.gradient_scale, gain ** (depth - layers), rtol=EXACT)
    np.testing.assert_allclose(found.forward_factors, gain, rtol=EXACT)
    np.testing.assert_allclose(found.backward_factors, gain, rtol=EXACT)


@pytest.mark.parametrize(
    ("gain", "kind"), [(1.5, "Exploding"), (0.9, "Vanishing"), (0.5, "Vanishing"), (1.0, "Healthy")]
)
def test_152_layers_of_a_scaled_identity(gain, kind):
    found = forecast([32] * 153, "identity", "scaled_identity", gain)
    assert _kind(found) == kind
    expected = math.inf if gain == 1 else 1 / abs(math.log(gain))
    assert found.forward_depth_scale == pytest.approx(expected)
    assert found.gradient_depth_scale == pytest.approx(expected)


@pytest.mark.parametrize("width", [64, 500])
@pytest.mark.parametrize("initializer", ["xavier", "he_normal", "he_uniform"])
def test_xavier_loses_half_of_the_squares_in_each_relu_layer_and_he_nothing(initializer, width):
    found = forecast([width] * 153, "relu", initializer, dtype="float64")
    half = math.sqrt(0.5) if initializer == "xavier" else 1.0
    np.testing.assert_allclose(found.activation_scale[:-1], half ** np.arange(152), rtol=EXACT)
    np.testing.assert_allclose(found.backward_factors[1:-1], half, rtol=EXACT)
    assert found.gradient_depth_scale == (math.inf if half == 1 else pytest.approx(2 / math.log(2)))
    assert _kind(found) == ("Vanishing" if half < 1 else "Healthy")


@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_zeros_and_constants_never_break_symmetry(activation, batch_norm):
    for initializer in ("zeros", "constant", functools.partial(initializers.constant, value=0.3)):
        found = forecast([8, 16, 16, 3], activation, initializer, batch_norm=batch_norm)
        assert _kind(found) == "Symmetric"
        assert "layer 1" in found.verdict


def test_zeros_give_no_gradient_to_any_layer_but_the_last():
    found = forecast([8, 16, 16, 3], "sigmoid", "zeros")
    np.testing.assert_allclose(found.activation_scale, [1, 0.5, 0.5, 0])
    np.testing.assert_array_equal(found.gradient_scale, [0, 0, 0, 1])
    np.testing.assert_array_equal(forecast([8, 16, 16, 3], "relu", "zeros").dead_share, [0, 1, 1, 0])


def test_units_beyond_an_identitys_inputs_are_alike():
    assert _kind(forecast([10, 64, 3], initializer="scaled_identity")) == "Symmetric"
    assert _kind(forecast([64, 10, 3], initializer="scaled_identity")) == "Healthy"
    assert _kind(forecast([10, 64, 3], initializer="scaled_identity", bias=0.1)) == "Healthy"


# ---- What networks begin with by default ----


@pytest.mark.parametrize(
    ("sizes", "more"),
    [
        ([784, 512, 512, 10], {"output_activation": "softmax"}),
        ([64, 100, 10], {"output_activation": "softmax"}),
        ([4, 32, 32, 3], {}),
        ([64] * 10 + [10], {}),
        ([64] * 6, {"activation": "tanh", "initializer": "glorot_uniform"}),
        ([13, 64, 64, 1], {"batch_norm": True}),
        ([13, 64, 64, 1], {"layer_norm": True, "dropout": 0.5}),
        ([20, 1], {}),
        *(([30, 50, 50, 2], {"activation": name}) for name in HIDDEN),
    ],
)
def test_usual_networks_are_healthy(sizes, more):
    found = forecast(sizes, **more)
    assert found.is_healthy
    assert found.underflow_layer is found.overflow_layer is None


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"activation": "sigmoid", "layer_sizes": [64] * 11}, "Vanishing"),
        ({"activation": "relu", "initializer": "normal", "layer_sizes": [64] * 5}, "Vanishing"),
        ({"activation": "relu", "gain": 0.5, "layer_sizes": [64] * 21}, "Vanishing"),
        ({"activation": "relu", "gain": 2.0, "layer_sizes": [64] * 21}, "Exploding"),
        ({"activation": "tanh", "gain": 5.0, "layer_sizes": [256] * 21}, "Exploding"),
        ({"activation": "relu", "batch_norm": True, "layer_sizes": [64] * 101}, "Exploding"),
        ({"activation": "relu", "dropout": 1.0, "layer_sizes": [64] * 4}, "Vanishing"),
        ({"activation": "relu", "layer_norm": True, "layer_sizes": [256] * 101}, "Healthy"),
    ],
)
def test_a_verdict_names_a_layer_and_numbers(arguments, kind):
    found = forecast(**arguments)
    assert _kind(found) == kind
    assert "layer" in found.verdict
    assert any(character.isdigit() for character in found.verdict)


def test_batch_norm_of_fifty_relu_layers_is_said_to_grow():
    """By about 1.2 for each layer, Yang et al. (2019): near the limit, and beyond what the theory calls trainable."""
    found = forecast([256] * 51, batch_norm=True)
    assert 50 < found.gradient_scale[1] < 1e5
    np.testing.assert_allclose(found.backward_factors[2:-1], math.sqrt(math.pi / (math.pi - 1)), rtol=0.08)
    assert found.trainable_depth < 50


def test_narrow_and_deep_networks_are_said_to_depend_on_luck():
    found = forecast([8] * 40, "relu", "he_normal", gain=1.0)
    assert found.gradient_band[1, 1] / found.gradient_band[0, 1] > 1e3
    wide = forecast([1000] * 40, "relu", "he_normal")
    assert wide.gradient_band[1, 1] / wide.gradient_band[0, 1] < 10


# ---- Limits of types ----


@pytest.mark.parametrize(("dtype", "layer"), [("float32", 127), ("float64", None)])
def test_underflow_is_where_the_normal_numbers_end(dtype, layer):
    assert forecast([16] * 153, "identity", "scaled_identity", 0.5, dtype=dtype).underflow_layer == layer


def test_overflow_is_where_the_numbers_end():
    found = forecast([16] * 153, "identity", "scaled_identity", 2.0)
    assert found.overflow_layer == 128
    assert "overflow float32 at layer 128" in found.verdict
    assert forecast([16] * 153, "identity", "scaled_identity", 2.0, dtype="float64").overflow_layer is None
    beyond = forecast([64] * 400, "identity", "constant", 2.0, dtype="float64")
    assert beyond.overflow_layer is not None


# ---- Initialisers ----


@pytest.mark.parametrize("name", initializers.INITIALIZERS)
def test_the_size_of_every_initialisers_weights_is_known(name):
    n_in, n_out, gain = 300, 200, 1.7
    weights = initializers.INITIALIZERS[name](np.random.default_rng(0), n_in, n_out, gain=gain)
    variance, bias = setups.variance(name, n_in, n_out, gain, None)
    # 60000 squares, of kurtosis 3 at most: their mean is within 4 sqrt(2 / 60000) of the truth.
    assert variance == pytest.approx(np.mean(weights**2), rel=0.025)
    assert bias == 0


@pytest.mark.parametrize("name", initializers.INITIALIZERS)
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
@pytest.mark.parametrize("sizes", [[64] * 5, [40, 64, 32, 64, 10]])
def test_every_initialiser_is_forecast(name, activation, sizes):
    gain = 0.05 if name == "constant" else 1.0
    found = forecast(sizes, activation, name, gain, dtype="float64").measure(random_state=1)
    for kind in ("activation", "gradient"):
        low, high = getattr(found, f"{kind}_band")
        measured = getattr(found, f"measured_{kind}_scale")
        # Twice as far as 95 % of networks are: one network in ten thousand has a layer outside.
        middle, reach = np.sqrt(low * high), np.divide(high, low, out=np.ones_like(low), where=low > 0)
        reach = reach + SECOND_ORDER
        inside = (measured >= middle / reach) & (measured <= middle * reach)
        assert inside.all(), (kind, low, measured, high)


def test_a_callable_is_as_large_as_it_draws():
    drawn = functools.partial(initializers.normal, std=math.sqrt(2 / 64))
    found, named = forecast([64] * 8, initializer=drawn), forecast([64] * 8, initializer="he_normal")
    np.testing.assert_allclose(found.activation_scale[:-1], named.activation_scale[:-1], rtol=0.05)
    assert found.initializers[0] in ("callable", "normal")


def test_each_layer_may_have_its_own_initialiser():
    names = ["he_normal", "glorot_uniform", "normal"]
    found = forecast([64, 64, 64, 64], initializer=names)
    assert found.initializers == tuple(names)
    np.testing.assert_allclose(found.forward_factors[:2] ** 2, [1.0, 0.5])
    assert found.forward_factors[2] ** 2 == pytest.approx(64 * 0.01**2)


# ---- Dropout, biases, dead units ----


def test_dropout_multiplies_mean_squares():
    kept = forecast([64] * 4, dropout=[0.5, 0.2, 0.0])
    squares = kept.activation_scale**2
    np.testing.assert_allclose(squares[:3], [2, 2 / 0.8, 2 / 0.8])
    assert forecast([64] * 40, dropout=0.5).gradient_scale[1] > 1e3


def test_biases_add_their_variance():
    found = forecast([64, 64, 64], "identity", "lecun_normal", bias=0.5)
    np.testing.assert_allclose(found.activation_scale**2, [1, 1.25, 1.5])


def test_dead_units_are_counted_on_a_batch():
    found = forecast([64] * 21, "relu", "he_normal")
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        A = rng.standard_normal((forecasting.ROWS, 64))
        dead = [0.0]
        for _ in range(20):
            A = np.maximum(A @ (rng.standard_normal((64, 64)) * math.sqrt(2 / 64)), 0)
            dead.append(np.mean(~A.any(axis=0)))
        shares.append(dead)
    measured = np.mean(shares, axis=0)[:-1]
    np.testing.assert_allclose(found.dead_share[:-1], measured, atol=0.08)
    assert not forecast([64] * 21, "leaky_relu").dead_share.any()


def test_networks_of_two_units_die_as_lu_et_al_say():
    """Lu et al. (2019), theorem 3.3: at most 1 - prod(1 - 2^-n) of networks are born dead."""
    depth, width = 10, 2
    found = forecast([1] + [width] * depth + [1], "relu", "he_normal")
    assert 0 < found.dead_network < 1 - (1 - 2.0**-width) ** depth
    assert forecast([64] * 11).dead_network < 1e-9
    assert found.gradient_band[0, 0] == 0


# ---- Measuring ----


@pytest.mark.filterwarnings("ignore:hidden_activation 'identity':UserWarning")
@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("normalization", [{}, {"batch_norm": True}, {"layer_norm": True}])
def test_measured_sizes_are_those_of_the_networks_own_gradients(activation, normalization):
    """The gradient of a sum of squares, by MLP: that of the first weights is A_0^T D_1."""
    sizes, n = [5, 8, 7, 3], 11
    found = forecast(sizes, activation, dtype="float64", **normalization)
    kind = "batch" if "batch_norm" in normalization else "layer" if normalization else None
    net = MLP(sizes, activation, random_state=0, dtype="float64", normalization=kind)
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((n, 5)), rng.standard_normal((n, 3))
    measured = found.measure(X, y, network=net)
    np.testing.assert_allclose(measured.measured_activation_scale[0], np.sqrt(np.mean(X**2)))
    # What one row's gradient is for a network that has this row alone; of batches, the mean over rows is enough.
    if kind != "batch":
        first = [net.gradients(X[i : i + 1], y[i : i + 1])[1].weights[0] for i in range(n)]
        D = np.array([np.linalg.norm(g) / np.linalg.norm(x) for g, x in zip(first, X, strict=True)])
        last = [net.gradients(X[i : i + 1], y[i : i + 1])[1].biases[-1] for i in range(n)]
        expected = np.sqrt(np.mean(D**2) / 8) / np.sqrt(np.mean(np.square(last)))
        assert measured.measured_gradient_scale[1] == pytest.approx(expected, rel=1e-9)
        np.testing.assert_allclose(
            measured.measured_activation_scale[1:],
            [*(np.sqrt(np.mean(A**2)) for A in net.forward(X).A[:-1]), np.sqrt(np.mean(net.forward(X).Z[-1] ** 2))],
        )


def test_measured_with_dropout_is_as_in_training():
    found = forecast([200, 200, 200], "identity", "orthogonal", dropout=[0.5, 0.5]).measure(random_state=0)
    np.testing.assert_allclose(found.measured_activation_scale**2, [2, 4, 4], rtol=0.05)


def test_the_same_seed_measures_the_same():
    first, second = (forecast([8, 16, 1]).measure(random_state=3) for _ in range(2))
    np.testing.assert_array_equal(first.measured_gradient_scale, second.measured_gradient_scale)
    other = forecast([8, 16, 1]).measure(random_state=4)
    assert (first.measured_activation_scale != other.measured_activation_scale).any()


def test_measuring_leaves_the_forecast_alone_and_fits_bands_to_the_rows():
    found = forecast([64, 64, 64, 3])
    few = found.measure(n_samples=2, random_state=0)
    assert found.measured_activation_scale is None
    assert few.rows == 2
    assert (few.activation_band[1] / few.activation_band[0] > found.activation_band[1] / found.activation_band[0]).all()


@pytest.mark.parametrize("network", [True, False])
def test_real_data_are_measured(network):
    X, y = load_digits(return_X_y=True)
    found = forecast([64, 100, 100, 10], output_activation="softmax", input_scale=float(np.sqrt(np.mean(X**2))))
    net = MLP([64, 100, 100, 10], output_activation="softmax", random_state=0) if network else None
    measured = found.measure(X, y, random_state=0, network=net)
    assert measured.rows == len(X)
    ratio = measured.measured_activation_scale / measured.activation_scale
    np.testing.assert_allclose(ratio, 1, atol=0.4)


# ---- Of models ----


def test_the_forecast_of_a_network_is_that_of_its_arguments():
    net = MLP([200, 300, 300, 10], "tanh", initializer="glorot_normal", gain=1.3, random_state=0, dtype="float32")
    found, named = cymlp.Forecast.of(net), forecast([200, 300, 300, 10], "tanh", "glorot_normal", 1.3)
    np.testing.assert_allclose(found.activation_scale, named.activation_scale, rtol=0.02)
    np.testing.assert_allclose(found.gradient_scale, named.gradient_scale, rtol=0.05)
    assert (found.layer_sizes, found.activations, found.initializers) == (
        named.layer_sizes, named.activations, named.initializers
    )  # fmt: skip
    assert _kind(forecast_of(MLP([8, 16, 16, 2], initializer="zeros"))) == "Symmetric"
    np.testing.assert_allclose(
        forecast_of(MLP([8] * 6, "tanh", initializer="scaled_identity", gain=0.5)).gradient_scale,
        forecast([8] * 6, "tanh", "scaled_identity", 0.5, dtype="float64").gradient_scale,
    )


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"activation": "logistic"},
        {"initializer": "he_normal", "gain": 0.5, "dropout": 0.2},
        {"batch_norm": True},
        {"layer_norm": True, "activation": ["tanh", "relu"]},
    ],
)
def test_the_forecast_of_an_estimator_is_that_of_its_parameters(cls, parameters):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 6)), rng.integers(0, 2, 40)
    estimator = cls(hidden_layer_sizes=(30, 20), max_iter=1, n_iter_no_change=1, random_state=0, **parameters)
    before = cymlp.Forecast.of(estimator, n_features=6, n_outputs=1)
    with pytest.warns(match="Maximum iterations"):
        estimator.fit(X, y)
    after = cymlp.Forecast.of(estimator)
    assert after.layer_sizes == before.layer_sizes == (6, 30, 20, 1)
    np.testing.assert_array_equal(after.activation_scale[:-1], before.activation_scale[:-1])
    measured = after.measure(X, random_state=0)
    low, high = measured.activation_band
    assert (measured.measured_activation_scale[1:3] > low[1:3] / 2).all()
    assert (measured.measured_activation_scale[1:3] < high[1:3] * 2).all()


def test_models_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match="n_features must be given"):
        forecast_of(MLPRegressor())
    with pytest.raises(ValueError, match="n_outputs must be given"):
        forecast_of(MLPRegressor(), n_features=3)
    with pytest.raises(TypeError, match="model must be"):
        forecast_of(3)


# ---- Faces and arguments ----


def test_it_can_be_read():
    found = forecast([8, 16, 2])
    assert "Healthy" in repr(found)
    assert "expected" in str(found).lower()
    assert "measured" in str(found.measure(random_state=0)).lower()
    assert found._repr_html_().count("<table") == 1
    assert found.rows == forecasting.ROWS


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layer_sizes": 5}, TypeError, "layer_sizes must be a sequence"),
        ({"layer_sizes": [5]}, ValueError, "layer_sizes must have at least 2"),
        ({"layer_sizes": [5, 0]}, ValueError, r"layer_sizes\[1\]"),
        ({"activation": "wrong"}, ValueError, "^activation must be one of"),
        ({"activation": ["relu", "relu"]}, ValueError, "^activation must have 1 entries"),
        ({"activation": ["softmax"]}, ValueError, r"^activation\[0\] must not be 'softmax'"),
        ({"initializer": "wrong"}, ValueError, "initializer must be"),
        ({"initializer": ["auto"]}, ValueError, "initializer must have 2 entries"),
        ({"gain": 0}, ValueError, "gain must be a finite number > 0"),
        ({"gain": math.nan}, ValueError, "gain must be a finite number"),
        ({"bias": -1}, ValueError, "bias must be a finite number >= 0"),
        ({"dropout": 1.5}, ValueError, "dropout must be a number in"),
        ({"dropout": [0.5]}, ValueError, "dropout must have 2 entries"),
        ({"batch_norm": "yes"}, ValueError, "batch_norm must be True, False"),
        ({"batch_norm": True, "layer_norm": True}, ValueError, "layer_norm must be False"),
        ({"dtype": "int8"}, ValueError, "dtype must be"),
        ({"output_activation": "wrong"}, ValueError, "output_activation must be"),
        ({"input_scale": 0}, ValueError, "input_scale must be a finite number > 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        forecast(**{"layer_sizes": [4, 8, 2], **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"X": np.ones((3, 2))}, ValueError, "X"),
        ({"X": np.empty((0, 4))}, ValueError, "X must have at least 1 row"),
        ({"n_samples": 0}, ValueError, "n_samples"),
        ({"network": 3}, TypeError, "network must be an MLP"),
        ({"network": MLP([4, 3, 2])}, ValueError, "network must have the layer sizes"),
        ({"random_state": "x"}, (TypeError, ValueError), "random_state"),
    ],
)
def test_wrong_arguments_of_measure_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        forecast([4, 8, 2]).measure(**arguments)

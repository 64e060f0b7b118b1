"""Moments of activations against quadrature, and the maps made of them against draws."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad

from cymlp import _formulas
from cymlp.activations import ACTIVATIONS, Activation
from cymlp.health import depths, propagation, theory
from cymlp.health.propagation import Layer

HIDDEN = [name for name, definition in ACTIVATIONS.items() if definition.hidden]
ALL = [*(Activation(name) for name in HIDDEN), Activation("leaky_relu", 0.3)]

# What cubic interpolation between the tables' entries leaves of log E: theory.py derives it.
TABLE = 6e-7
# Pairs are interpolated linearly: (1/8)^2 / 8 of a second derivative that is below 2.5.
PAIRS = 5e-3


def _functions(activation):
    phi, slope = _formulas.ACTIVATIONS[activation.name]

    def one(function):
        def value(z):
            with np.errstate(over="ignore"):  # of the side that np.where does not take
                return float(function(np.array([z]), activation.slope)[0])

        return value

    return one(phi), one(slope)


def _expected(f, q):
    """E[f(z)], z ~ N(0, q), in pieces, as kinks and curvature are at 0."""
    root = math.sqrt(q)
    edges = [-12.0, -3.0, -1.0, -1 / (1 + root), 0.0, 1 / (1 + root), 1.0, 3.0, 12.0]
    edges = sorted(set(edges))
    density = 1 / math.sqrt(2 * math.pi)

    def integrand(z):
        return f(root * z) * math.exp(-z * z / 2) * density

    pieces = itertools.pairwise(edges)
    return sum(quad(integrand, low, high, epsabs=1e-14, epsrel=1e-10, limit=200)[0] for low, high in pieces)


@pytest.mark.parametrize("activation", ALL, ids=str)
@pytest.mark.parametrize("q", [1e-6, 0.1, 1.0, 3.7, 100.0, 1e6])
def test_second_moments_are_those_of_quadrature(activation, q):
    phi, slope = _functions(activation)
    moments, x = theory.moments(activation), np.array([math.log(q)])
    assert math.exp(moments.value(x)[0]) == pytest.approx(_expected(lambda z: phi(z) ** 2, q), rel=TABLE)
    assert math.exp(moments.slope(x)[0]) == pytest.approx(_expected(lambda z: slope(z) ** 2, q), rel=TABLE)


@pytest.mark.parametrize("activation", ALL, ids=str)
@pytest.mark.parametrize("q", [0.3, 2.0])
def test_pairs_of_one_row_are_its_own_moments(activation, q):
    phi, slope = _functions(activation)
    moments, x = theory.moments(activation), math.log(q)
    pair = moments.pair(x, np.ones(1))
    m, d = (_expected(lambda z, f=f: f(z) ** 2, q) for f in (phi, slope))
    pull = _expected(lambda z: z * phi(z) * slope(z), q)
    expected = {
        "value": 1.0,
        "slope": 1.0,
        "square": _expected(lambda z: phi(z) ** 4, q) / m**2,
        "slope_square": _expected(lambda z: slope(z) ** 4, q) / d**2,
        "cross": _expected(lambda z: phi(z) ** 2 * slope(z) ** 2, q) / (m * d),
        "ratio": _expected(lambda z: (z * phi(z) * slope(z) / pull - phi(z) ** 2 / m) ** 2, q),
    }
    assert {name: getattr(pair, name)[0] for name in expected} == pytest.approx(expected, rel=PAIRS, abs=1e-3)
    assert moments.mean(x) == pytest.approx(_expected(phi, q) ** 2 / m, rel=PAIRS, abs=1e-12)


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_pairs_without_correlation_are_independent(activation):
    moments, x = theory.moments(activation), math.log(1.3)
    pair = moments.pair(x, np.zeros(1))
    for name in ("square", "slope_square", "cross"):
        assert getattr(pair, name)[0] == pytest.approx(1, rel=1e-6)
    assert pair.value[0] == pytest.approx(moments.mean(x), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("activation", ALL, ids=str)
@pytest.mark.parametrize("c", [-0.5, 0.3, 0.8])
def test_pairs_are_those_of_a_double_quadrature(activation, c):
    points, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    u, v = np.meshgrid(points, points)
    weight, q = np.outer(weights, weights), 1.7
    z = np.sqrt(q) * u, np.sqrt(q) * (c * u + math.sqrt(1 - c * c) * v)
    phi, slope = (
        [f(each.ravel(), activation.slope).reshape(u.shape) for each in z]
        for f in _formulas.ACTIVATIONS[activation.name]
    )
    pair = theory.moments(activation).pair(math.log(q), np.array([c]))
    m, d = (float((weight * f[0] ** 2).sum()) for f in (phi, slope))
    # Gauss's points see a jump between two of them: 200 of them are 0.2 apart.
    tolerance = 0.03 if activation.name in ("relu", "leaky_relu") else PAIRS
    assert pair.value[0] == pytest.approx((weight * phi[0] * phi[1]).sum() / m, rel=tolerance, abs=tolerance)
    square = (weight * phi[0] ** 2 * phi[1] ** 2).sum() / m**2
    assert pair.square[0] == pytest.approx(square, rel=tolerance)
    assert pair.slope_square[0] == pytest.approx((weight * slope[0] ** 2 * slope[1] ** 2).sum() / d**2, rel=tolerance)


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_closed_forms_are_what_tables_approach(slope):
    closed, table = theory._TwoLines(slope), theory._Table("leaky_relu", slope)
    x, c = np.array([-3.0, 0.1, 5.0]), np.array([-0.6, 0.0, 0.5, 1.0])
    np.testing.assert_allclose(closed.value(x), table.value(x), atol=TABLE)
    np.testing.assert_allclose(closed.slope(x), table.slope(x), atol=TABLE)
    for ours, theirs in zip(closed.pair(0.3, c), table.pair(0.3, c), strict=True):
        # 48 Hermite polynomials leave 48^(-3/2) of a jump.
        np.testing.assert_allclose(ours, theirs, atol=48**-1.5)
    assert closed.mean(0.3) == pytest.approx(table.mean(0.3), abs=1e-12)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "silu", "softplus"])
def test_beyond_the_tables_activations_are_powers_or_constant(name):
    moments = theory.moments(Activation(name))
    x = np.array([-60.0, -30.0, 30.0, 60.0])
    growth = np.diff(moments.value(x))[[0, 2]] / 30
    expected = {"tanh": (1, 0), "sigmoid": (0, 0), "silu": (1, 1), "softplus": (0, 1)}[name]
    np.testing.assert_allclose(growth, expected, atol=1e-4)


# ---- Maps ----


def _layers(name, n, depth, variance):
    return [Layer(n, n, variance / n, Activation(name)) for _ in range(depth)]


def test_the_variance_map_is_the_recursion():
    layers, q = _layers("tanh", 10**6, 20, 1.5), 1.0
    line = propagation.forward(layers, 1.0, 1.0, 256)[0].line
    phi, _ = _functions(Activation("tanh"))
    for l in range(1, 4):
        q = _expected(lambda z: phi(z) ** 2, 1.5 * q)
        assert math.exp(line[l]) == pytest.approx(q, rel=1e-5)


@pytest.mark.parametrize(("variance", "ratio"), [(1.0, 0.5), (2.0, 1.0), (3.0, 1.5)])
def test_relu_multiplies_squares_by_half_of_the_weights_variance(variance, ratio):
    layers = [*_layers("relu", 64, 30, variance), Layer(64, 64, 1 / 64, Activation("identity"))]
    forward, steps = propagation.forward(layers, 1.0, 1.0, 256)
    backward = propagation.backward(layers, steps, 1.0)
    np.testing.assert_allclose(np.diff(forward.line[:-1]), math.log(ratio), atol=1e-12)
    np.testing.assert_allclose(-np.diff(backward.line[1:-1]), math.log(ratio), atol=1e-12)


def test_rectangular_layers_have_the_factor_of_their_own_sizes():
    sizes = [7, 50, 20, 90, 3]
    layers = [Layer(a, b, 0.01, Activation("identity")) for a, b in itertools.pairwise(sizes)]
    forward, steps = propagation.forward(layers, 1.0, 1.0, 256)
    backward = propagation.backward(layers, steps, 1.0)
    np.testing.assert_allclose(np.exp(np.diff(forward.line)), [0.01 * n for n in sizes[:-1]])
    np.testing.assert_allclose(np.exp(-np.diff(backward.line)), [0.01 * n for n in sizes[1:]])


def test_batch_norm_of_relu_grows_gradients_by_pi_over_pi_minus_one():
    """Yang et al. (2019), A mean field theory of batch normalization, section 4: of ReLU, for large batches."""
    n = 10**7
    layers = [Layer(n, n, 2 / n, Activation("relu"), normalization="batch", epsilon=1e-12) for _ in range(10)]
    forward, steps = propagation.forward(layers, 1.0, 1.0, 10**7)
    backward = propagation.backward(layers, steps, 1.0)
    np.testing.assert_allclose(np.exp(forward.line[1:]), 0.5, rtol=1e-5)
    np.testing.assert_allclose(np.exp(-np.diff(backward.line[2:-1])), math.pi / (math.pi - 1), rtol=1e-4)


def test_layer_norm_of_relu_is_critical():
    n = 10**7
    layers = [Layer(n, n, 9 / n, Activation("relu"), normalization="layer", epsilon=1e-12) for _ in range(10)]
    forward, steps = propagation.forward(layers, 1.0, 1.0, 256)
    backward = propagation.backward(layers, steps, 1.0)
    np.testing.assert_allclose(np.exp(forward.line[1:]), 0.5, rtol=1e-5)
    np.testing.assert_allclose(np.diff(backward.line[2:-1]), 0, atol=1e-5)


def test_one_row_of_a_linear_layer_has_the_luck_of_chi_squared():
    """|x W|^2 / |x|^2 is chi squared of n over n: Hanin & Rolnick (2018) have the log of products of these."""
    n, depth = 16, 12
    line = propagation.forward(_layers("identity", n, depth, 1.0), 1.0, 1.0, 1)[0]
    drift, variance = propagation._luck(2 / n)
    assert variance == pytest.approx(np.var(np.log(np.random.default_rng(0).chisquare(n, 10**6))), rel=0.01)
    assert drift == pytest.approx(np.mean(np.log(np.random.default_rng(0).chisquare(n, 10**6) / n)), rel=0.01)
    total = line.of_batch(1)[1][-1] ** 2
    assert total == pytest.approx((depth + 1) * variance, rel=0.15)


def test_relu_has_five_over_n_of_luck_per_layer_when_rows_are_alike():
    """Hanin & Rolnick (2018), corollary 2: the variance of log |A_l|^2 is about 5 sum 1 / n."""
    n = 1000
    line = propagation.forward(_layers("relu", n, 200, 2.0), 1.0, 1.0, 10**9)[0]
    assert np.diff(line.common)[-20:] == pytest.approx(5 / n, rel=0.02)


# ---- Depth scales ----


def _depths(name, variance, bias=0.0, keep=1.0):
    layer = Layer(100, 100, variance / 100, Activation(name), bias=bias, keep=keep)
    return depths.depth_scales(layer, 0.0)


@pytest.mark.parametrize("variance", [0.5, 1.0, 3.0])
def test_linear_layers_change_by_the_root_of_their_variance(variance):
    found = _depths("identity", variance)
    expected = math.inf if variance == 1 else 2 / abs(math.log(variance))
    assert found.forward == pytest.approx(expected)
    assert found.gradient == pytest.approx(expected)
    assert found.correlation == math.inf


def test_he_is_critical_for_relu_and_xavier_is_not():
    assert _depths("relu", 2.0) == (math.inf, math.inf, math.inf)
    assert _depths("relu", 2.0).trainable == math.inf
    assert _depths("relu", 1.0).gradient == pytest.approx(2 / math.log(2))
    assert _depths("relu", 1.0).trainable == pytest.approx(6 / math.log(2))


def test_dropout_ends_what_he_began():
    """Schoenholz et al. (2017), section 5: with dropout no network is critical."""
    assert _depths("relu", 2.0, keep=0.9).correlation < 50
    assert _depths("tanh", 1.0, bias=0.2, keep=0.9).correlation < 50


def test_tanh_has_an_ordered_and_a_chaotic_phase():
    ordered, chaotic = (_depths("tanh", variance, bias=0.05) for variance in (0.8, 3.0))
    critical = max(_depths("tanh", variance, bias=0.05).correlation for variance in np.linspace(0.8, 3.0, 45))
    assert critical > 5 * max(ordered.correlation, chaotic.correlation)
    assert ordered.gradient == pytest.approx(2 * ordered.correlation, rel=1e-3)  # both by chi_1, of squares the one
    assert chaotic.gradient < math.inf

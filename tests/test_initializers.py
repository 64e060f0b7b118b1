"""Initialisers: moments, bounds, structure, choice by name, errors."""

import functools
import inspect
import math
import re

import numpy as np
import pytest
from conftest import STANDARD_ERRORS, assert_close

from cymlp import activations, initializers

# Variance of a weight for n_in = 120, n_out = 60, gain 1, by the formula in each docstring.
SHAPE = (120, 60)
NORMAL = {
    "normal": 0.01**2,
    "xavier": 1 / 120,
    "glorot_normal": 2 / 180,
    "he_normal": 2 / 120,
    "lecun_normal": 1 / 120,
}
UNIFORM = {"uniform": 0.05**2 / 3, "glorot_uniform": 2 / 180, "he_uniform": 2 / 120, "lecun_uniform": 1 / 120}
FIXED = {"zeros", "constant", "scaled_identity"}
SHAPES = [(7, 7), (9, 4), (4, 9), (1, 1), (1, 5), (5, 1)]


def _draw(name, rng, n_in, n_out, **options):
    return initializers.INITIALIZERS[name](rng, n_in, n_out, **options)


def test_every_initializer_has_a_test():
    assert {*NORMAL, *UNIFORM, *FIXED, "orthogonal"} == set(initializers.INITIALIZERS)
    for name, function in initializers.INITIALIZERS.items():
        assert getattr(initializers, name) is function
        assert name in initializers.__all__


@pytest.mark.parametrize("name", initializers.INITIALIZERS)
def test_every_docstring_begins_with_the_formula_and_names_its_source(name):
    docstring = inspect.getdoc(initializers.INITIALIZERS[name])
    assert re.match(r"(w|w_ij) [~=] .+: |(w|w_ij) ~ .+, |w_ij = .+ if .+: |gain Q, ", docstring)
    assert re.search(r"^Source: [A-Z].+ \((19|20)\d\d\), [A-Z]", docstring, re.MULTILINE)


@pytest.mark.parametrize("gain", [1.0, 3.0])
@pytest.mark.parametrize("name", [*NORMAL, *UNIFORM])
def test_mean_and_variance(name, gain, rng):
    """Of n draws the mean has variance v / n, and the mean square has (E w^4 - v^2) / n: 2 v^2 / n or 0.8 v^2 / n."""
    w = _draw(name, rng, *SHAPE, gain=gain)
    variance = gain**2 * {**NORMAL, **UNIFORM}[name]
    spread = 2 if name in NORMAL else 0.8
    assert abs(w.mean()) <= STANDARD_ERRORS * math.sqrt(variance / w.size)
    assert abs(np.mean(w**2) - variance) <= STANDARD_ERRORS * variance * math.sqrt(spread / w.size)


@pytest.mark.parametrize("name", NORMAL)
def test_normal_has_the_fourth_moment(name, rng):
    """E w^4 = 3 v^2, with E w^8 = 105 v^4; 1.8 v^2 would be the uniform distribution's."""
    u = _draw(name, rng, *SHAPE) / math.sqrt(NORMAL[name])
    assert abs(np.mean(u**4) - 3) <= STANDARD_ERRORS * math.sqrt((105 - 9) / u.size)


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_fills_its_interval(name, rng):
    """All n draws are within the limit r, and none beyond r (1 - t) has probability (1 - t)^n, here 1e-9."""
    w = np.abs(_draw(name, rng, *SHAPE, gain=2.0)) / (2 * math.sqrt(3 * UNIFORM[name]))
    assert w.max() <= 1
    assert w.max() >= 1e-9 ** (1 / w.size)


@pytest.mark.parametrize(("name", "option", "variance"), [("normal", "std", 0.25), ("uniform", "limit", 0.25 / 3)])
def test_own_parameters_set_the_width(name, option, variance, rng):
    w = _draw(name, rng, *SHAPE, **{option: 0.5})
    assert abs(np.mean(w**2) - variance) <= STANDARD_ERRORS * variance * math.sqrt(2 / w.size)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fixed_values(shape, rng):
    np.testing.assert_array_equal(_draw("zeros", rng, *shape, gain=2.0), np.zeros(shape))
    np.testing.assert_array_equal(_draw("constant", rng, *shape, gain=2.0), np.full(shape, 2.0))
    np.testing.assert_array_equal(_draw("constant", rng, *shape, gain=2.0, value=-0.5), np.full(shape, -1.0))
    i, j = np.indices(shape)
    np.testing.assert_array_equal(_draw("scaled_identity", rng, *shape, gain=2.0), np.where(i == j, 2.0, 0.0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_orthogonal_keeps_lengths(shape, gain, rng):
    Q = _draw("orthogonal", rng, *shape, gain=gain)
    product = Q.T @ Q if shape[0] >= shape[1] else Q @ Q.T
    # Householder QR: columns are orthonormal within a multiple of rows x columns (Higham (2002), theorem 19.4).
    assert_close(product, gain**2 * np.eye(min(shape)), Q.size, gain**2)


def test_orthogonal_is_uniform(rng):
    """Signs: a Q straight from Householder QR has a first column whose first element is never positive."""
    first = np.array([_draw("orthogonal", rng, 3, 3)[0, 0] for _ in range(400)])
    assert abs(first.mean()) <= STANDARD_ERRORS * math.sqrt(1 / 3 / 400)  # E q^2 = 1 / 3


@pytest.mark.parametrize("name", initializers.INITIALIZERS)
def test_result_is_a_new_c_contiguous_float64_array(name, rng):
    for shape in SHAPES:
        w = _draw(name, rng, *shape)
        assert w.dtype == np.float64
        assert w.shape == shape
        assert w.flags.c_contiguous
        assert w.flags.writeable
        assert np.isfinite(w).all()


@pytest.mark.parametrize("name", initializers.INITIALIZERS)
def test_gain_is_a_factor_and_seeds_reproduce(name):
    w, again, double = (_draw(name, np.random.default_rng(5), 6, 4, gain=gain) for gain in (1.5, 1.5, 3))
    np.testing.assert_array_equal(w, again)
    np.testing.assert_array_equal(double, 2 * w)  # a power of two: no rounding
    if name not in FIXED:
        assert not np.array_equal(w, _draw(name, np.random.default_rng(6), 6, 4, gain=1.5))


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_auto_goes_by_the_activation(name):
    definition = activations.ACTIVATIONS[name]
    rectifier = name in ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")
    expected = initializers.he_normal if rectifier else initializers.glorot_uniform
    assert initializers.get("auto", definition) is expected
    assert initializers.get("orthogonal", definition) is initializers.orthogonal


def test_callables_are_asked_with_the_gain(rng):
    wide = initializers.get(functools.partial(initializers.constant, value=4.0), activations.ACTIVATIONS["relu"])
    np.testing.assert_array_equal(wide(rng, 2, 3, gain=0.5), np.full((2, 3), 2.0))
    lists = initializers.get(lambda rng, n_in, n_out, gain: [[1] * n_out] * n_in, activations.ACTIVATIONS["relu"])
    w = lists(rng, 2, 3)
    assert w.dtype == np.float64
    np.testing.assert_array_equal(w, np.ones((2, 3)))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.ones((3, 2)), r"return an array of shape \(2, 3\); got \(3, 2\)"),
        (1.0, r"return an array of shape \(2, 3\); got \(\)"),
        (np.full((2, 3), np.nan), "return finite numbers; got nan"),
        (np.full((2, 3), -np.inf), "return finite numbers; got -inf"),
        (np.full((2, 3), 1j), "return real numbers; got dtype complex128"),
        (np.full((2, 3), "1"), "return real numbers; got dtype <U1"),
    ],
)
def test_results_of_callables_are_checked(result, message, rng):
    draw = initializers.get(lambda rng, n_in, n_out, gain: result, activations.ACTIVATIONS["relu"])
    with pytest.raises(ValueError, match=f"^initializer must {message}"):
        draw(rng, 2, 3)


@pytest.mark.parametrize("spec", ["he", "", None, 3, ["zeros"]], ids=repr)
def test_unknown_choice_is_named(spec):
    with pytest.raises(ValueError, match=r"^initializer must be 'auto', one of zeros, .* or a callable; got "):
        initializers.get(spec, activations.ACTIVATIONS["relu"])


@pytest.mark.parametrize("gain", [0, -1.0, np.nan, np.inf, 10**400, "2", None, True], ids=lambda gain: f"{gain!r:.9}")
@pytest.mark.parametrize("name", [*initializers.INITIALIZERS, "a callable"])
def test_gain_is_checked(name, gain, rng):
    spec = initializers.zeros if name == "a callable" else name
    with pytest.raises(ValueError, match=r"^gain must be a finite number"):
        initializers.get(spec, activations.ACTIVATIONS["relu"])(rng, 2, 3, gain=gain)


@pytest.mark.parametrize("gain", [1, np.float32(1), np.int64(1)], ids=repr)
def test_gain_may_be_any_real_number(gain, rng):
    np.testing.assert_array_equal(initializers.scaled_identity(rng, 2, 2, gain=gain), np.eye(2))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("normal", "std", 0),
        ("normal", "std", 10**400),
        ("uniform", "limit", -1),
        ("constant", "value", np.nan),
        ("constant", "value", -(10**400)),
    ],
    ids=lambda value: f"{value!r:.9}",
)
def test_own_parameters_are_checked(name, option, value, rng):
    with pytest.raises(ValueError, match=f"^{option} must be a finite number"):
        _draw(name, rng, 2, 3, **{option: value})


@pytest.mark.parametrize("name", initializers.INITIALIZERS)
def test_sizes_are_checked(name, rng):
    with pytest.raises(ValueError, match=r"^n_in must be an integer >= 1; got 0"):
        _draw(name, rng, 0, 3)
    with pytest.raises(TypeError, match=r"^n_out must be an integer >= 1; got 2\.5"):
        _draw(name, rng, 3, 2.5)

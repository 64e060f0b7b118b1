"""The compiled activations and their derivatives against the truth: units in the last place, special values, all tails.

The truth is computed in a type that is longer than the one under test: float64 for float32, the C compiler's long
double for float64.  What is allowed stands in conftest.ACCURACY.
"""

import itertools
import math

import numpy as np
import pytest
from conftest import ACCURACY, ULP_CEILING, assert_close, assert_ulps
from scipy import special

from cymlp import _engine, activations

SLOPE = 0.1875  # three bits: exact in any type
ELEMENTWISE = [name for name in activations.ACTIVATIONS if name != "softmax"]


def _longer(dtype):
    if dtype == np.float32:
        return np.float64
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("this machine has no type longer than float64 to measure float64 by")
    return np.longdouble


def _normal_density(z):
    """exp(-z^2 / 2) / sqrt(2 pi), the square of half of the digits, which is exact: exp would magnify its error."""
    head = z.astype(np.float32).astype(z.dtype)
    return np.exp(-head * head / 2) * np.exp(-(z - head) * (z + head) / 2) / np.sqrt(8 * np.arctan(z.dtype.type(1)))


def _upper_tail(w):
    """1 - Phi(w) for w >= 0: SciPy's in float64, else from the series of Phi up to 2.5 and Laplace's fraction beyond.

    Abramowitz & Stegun (1964), 26.2.11 and 26.2.14.
    """
    if w.dtype == np.float64:
        return special.ndtr(-w)
    near = np.minimum(w, 2.5)
    term = total = near
    for k in range(1, 60):
        term = term * near * near / (2 * k + 1)
        total = total + term
    fraction = far = np.maximum(w, 2.5)
    for k in range(300, 0, -1):
        fraction = far + k / fraction
    density = _normal_density(w)
    return np.where(w < 2.5, 0.5 - density * total, density / fraction)


@np.errstate(all="ignore")
def _truth(name, z):
    """phi(z) and phi'(z) in the type of z, finite or not; terms that vanish before their factor grows stay out."""
    e = np.exp(-np.abs(z))
    s, rest = np.where(z < 0, e, 1) / (1 + e), np.where(z < 0, 1, e) / (1 + e)  # sigmoid(z), 1 - sigmoid(z)
    below = np.minimum(z, 0)
    if name == "gelu":
        w = np.abs(z)
        tail = _upper_tail(np.minimum(w, 200))
        cdf, pull = np.where(z < 0, tail, 1 - tail), z * _normal_density(np.minimum(w, 200) * np.sign(z))
        return np.where(z == -np.inf, 0, z * cdf), np.where(np.isinf(z), cdf, cdf + pull)
    return {
        "identity": lambda: (z, np.ones_like(z)),
        "sigmoid": lambda: (s, s * rest),
        "tanh": lambda: (np.tanh(z), (2 * e / (1 + e * e)) ** 2),
        "relu": lambda: (np.where(z < 0, 0, z), np.where(z > 0, 1.0, 0)),
        "leaky_relu": lambda: (np.where(z < 0, SLOPE * z, z), np.where(z > 0, 1, SLOPE)),
        "elu": lambda: (np.where(z < 0, np.expm1(below), z), np.exp(below)),
        "softplus": lambda: (np.where(z < 0, 0, z) + np.log1p(e), s),
        "silu": lambda: (np.where(z == -np.inf, 0, z * s), np.where(np.isinf(z), s, s * (1 + z * rest))),
        "exp": lambda: (np.exp(z), np.exp(z)),
    }[name]()


def _check(name, Z):
    """Value and derivative of a matrix against what is allowed; numbers below the smallest normal one count as zero."""
    allowed, column = ACCURACY[name], 0 if Z.dtype == np.float32 else 1
    z = np.where(np.abs(Z) < np.finfo(Z.dtype).tiny, 0, Z).astype(_longer(Z.dtype))
    value, slope = _truth(name, z)
    assert_ulps(_engine.activate(name, Z, SLOPE), value, allowed.value[column])
    low, high = allowed.cancels
    absolute = np.where((low < Z) & (high > Z), allowed.absolute[column], 0.0)
    assert_ulps(_engine.activation_gradient(name, Z, SLOPE), slope, allowed.slope[column], absolute)


def test_table_has_every_activation_below_the_ceiling():
    assert set(ACCURACY) == set(ELEMENTWISE)
    assert all(figure <= ULP_CEILING for allowed in ACCURACY.values() for figure in (*allowed.value, *allowed.slope))


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize(
    "stride", [pytest.param(99_991, id="coarse"), pytest.param(1_999, id="fine", marks=pytest.mark.slow)]
)
def test_all_float32(isa, name, stride):
    """Patterns at a prime distance: all exponents of both signs, subnormals and NaN among them."""
    bits = np.arange(0, 2**32, stride, dtype=np.uint64).astype(np.uint32)
    with np.errstate(invalid="ignore"):  # signalling NaN
        for piece in np.array_split(bits, max(1, bits.size // 500_000)):
            _check(name, piece.view(np.float32)[np.newaxis])


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("count", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_all_magnitudes(isa, dtype, name, count, rng):
    limit = 2 * math.log(np.finfo(dtype).max)
    for Z in (
        rng.uniform(-limit, limit, count),
        rng.normal(0, 3, count),
        rng.uniform(-3, 0, count),  # zeros of the derivatives of SiLU and GELU
        rng.normal(0, 1, count) ** 15,
    ):
        _check(name, Z.astype(dtype)[np.newaxis])


def _special_patterns(dtype):
    """Numbers by their bits: infinities, zeros, all kinds of subnormals and of NaN, the ends of the normal range."""
    bits, unsigned, stored = (32, np.uint32, 23) if dtype == np.float32 else (64, np.uint64, 52)
    fractions = {0, 1, 2, 3, 2**stored - 1, 2 ** (stored - 1) - 1, 2 ** (stored - 1), 2 ** (stored - 1) + 1}
    fractions |= {2**k for k in range(stored)} | {2**stored - 2**k for k in range(stored)}
    top = 2 ** (bits - 1 - stored) - 1
    patterns = [
        sign << (bits - 1) | exponent << stored | fraction
        for sign in (0, 1)
        for exponent in (0, 1, 2, top - 1, top)
        for fraction in sorted(fractions)
    ]
    return np.array(patterns, unsigned).view(dtype)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_special_patterns(isa, dtype, name):
    Z = _special_patterns(dtype)
    assert np.isnan(Z).any()
    assert np.isinf(Z).any()
    with np.errstate(invalid="ignore"):
        _check(name, Z[np.newaxis])
        _check(name, Z[:, np.newaxis])  # each in the first lane, zeros behind it


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_width(isa, dtype, name, rng, widths):
    for rows, columns in itertools.product((1, 3), widths):
        _check(name, rng.normal(0, 3, (rows, columns)).astype(dtype))


def test_softmax(isa, dtype, rng, widths):
    for columns in widths:
        for scale in (0.1, 3, 15):
            Z = rng.normal(0, scale, (3, columns)).astype(dtype)
            z = Z.astype(_longer(dtype))
            below = z - z.max(axis=1, keepdims=True)
            truth = np.exp(below) / np.exp(below).sum(axis=1, keepdims=True)
            # exp multiplies the relative error of the difference by the difference.
            size = truth * (1 + np.abs(below))
            assert_close(_engine.activate("softmax", Z), truth, 1, size, kind="activation")


def test_softmax_of_special_values(isa, dtype):
    Z = np.array([[0, np.nan], [np.inf, 0], [0, -np.inf], [-np.inf, -np.inf], [1e30, 1e30]], dtype)
    with np.errstate(invalid="ignore"):
        A = _engine.activate("softmax", Z)
    np.testing.assert_array_equal(A, [[np.nan] * 2, [np.nan, np.nan], [1, 0], [np.nan] * 2, [0.5, 0.5]])

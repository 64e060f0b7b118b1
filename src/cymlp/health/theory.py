"""What an activation does to Gaussian sums: its moments, by the sums' variance q and the correlation c of two rows.

In a wide layer with random weights the weighted sums of a row are Gaussian, and those of two rows jointly so.  All that
the forecast needs of an activation phi are therefore moments of phi(z) and phi'(z) for z ~ N(0, q), and of pairs
(z_a, z_b) with the correlation c: Poole, Lahiri, Raghu, Sohl-Dickstein & Ganguli (2016), Exponential expressivity in
deep neural networks through transient chaos; Schoenholz, Gilmer, Ganguli & Sohl-Dickstein (2017), Deep information
propagation.

Where phi is linear on either side of 0 they have closed forms, the arc-cosine kernels: Cho & Saul (2009), Kernel
methods for deep learning.  Of all others they are tabulated by log q once, by quadrature on panels that shrink towards
0, where phi may have a kink and, seen from a large q, all of its curvature.  Pairs come from Hermite's polynomials h_k,
normalised: with f(sqrt(q) z) = sum_k f_k h_k(z), E[f(z_a) g(z_b)] = sum_k f_k g_k c^k (Mehler's formula).
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from .. import _formulas

__all__ = ["Pair", "moments"]

# Hermite's polynomials of an expansion.  What is left, the kinks, counts as of the next order: all of it where c = 1.
_ORDERS = 48

# Tables reach from q = e^-24 to e^24 in steps of 1/8: cubic interpolation is within (1/8)^4 / 384, or 6e-7, of log E
# as far as its fourth derivative is 1.  Beyond, activations are powers of z, or constant: log E is a line.
_STEP, _REACH = 0.125, 24.0

# Edges of panels on either side of 0, and Gauss's nodes in each: halved from 1/2 down to 2^-24, where sqrt(q) = e^12
# still sees a panel as short as its own scale; 1/2 wide, for the polynomials' waves of a length of 2 pi / sqrt(2 48),
# up to 12, where the normal density is 1e-32.
_EDGES = np.concatenate([[0.0], 2.0 ** np.arange(-24, 0), np.arange(1.0, 12.25, 0.5)])
_NODES = 8


class Pair(NamedTuple):
    """Moments of two rows' activations, (z_a, z_b) of variance q each and correlation c, relative to those of one row.

    Attributes
    ----------
    value : ndarray
        E[phi_a phi_b] / E[phi^2].
    square : ndarray
        E[phi_a^2 phi_b^2] / E[phi^2]^2.
    slope : ndarray
        E[phi'_a phi'_b] / E[phi'^2].
    slope_square : ndarray
        E[phi'_a^2 phi'_b^2] / E[phi'^2]^2.
    cross : ndarray
        E[phi_a^2 phi'_b^2] / (E[phi^2] E[phi'^2]).
    ratio : ndarray
        E[r_a r_b] with r = z phi phi' / E[z phi phi'] - phi^2 / E[phi^2]: how the effect of the length of z on that of
        phi differs between units.
    first, second : ndarray (3,)
        What of `square`, `slope_square` and `cross` is proportional to c, and to c^2: the first and the second Hermite
        polynomial's parts, which are not there where sum z, or sum z^2, is fixed.
    """

    value: np.ndarray
    square: np.ndarray
    slope: np.ndarray
    slope_square: np.ndarray
    cross: np.ndarray
    ratio: np.ndarray
    first: np.ndarray
    second: np.ndarray


class _TwoLines:
    """phi(z) = z for z > 0, else slope z: everything in closed form, and the same for every q.

    With theta = arccos c and [.] for "1 where true": E[[z_a > 0] [z_b > 0]] = (pi - theta) / 2 pi = J_0,
    E[z_a z_b [..]] = (sin theta + (pi - theta) cos theta) / 2 pi, E[z_a^2 [..]] = J_0 + sin theta cos theta / 2 pi and
    E[z_a^2 z_b^2 [..]] = (3 sin theta cos theta + (pi - theta) (1 + 2 cos^2 theta)) / 2 pi.
    """

    def __init__(self, slope):
        self._line = slope
        self._square = slope * slope
        self._half = (1 + self._square) / 2  # E[phi'^2], and E[phi^2] / q
        self.is_homogeneous = True

    def value(self, x):
        """log E[phi^2] for each log q of an array."""
        return x + math.log(self._half)

    def slope(self, x):
        """log E[phi'^2] for each log q of an array."""
        return np.full_like(x, math.log(self._half))

    def mean(self, x):
        """E[phi]^2 / E[phi^2] for a log q."""
        return (1 - self._line) ** 2 / (2 * math.pi) / self._half

    def pair(self, x, c):
        """The `Pair` for a log q and an array of correlations."""
        c = np.clip(c, -1.0, 1.0)
        sine, rest = np.sqrt(1 - c * c), math.pi - np.arccos(c)
        both = rest / (2 * math.pi)
        products = (sine + rest * c) / (2 * math.pi)
        squares = (3 * sine * c + rest * (1 + 2 * c * c)) / (2 * math.pi)
        one_square = both + sine * c / (2 * math.pi)
        line, square, half = self._line, self._square, self._half
        linear, jump = line * line + line * (1 - line), (1 - line) ** 2
        steep, bend = square * square + square * (1 - square), (1 - square) ** 2
        return Pair(
            (linear * c + jump * products) / half,
            (steep * (1 + 2 * c * c) + bend * squares) / half**2,
            (linear + jump * both) / half,
            (steep + bend * both) / half**2,
            (steep + bend * one_square) / half**2,
            np.zeros_like(c),
            bend / half**2 / math.pi * np.array([2.0, 0.5, 1.0]),
            np.array([2.0, 0.0, 0.0]),
        )

    def fourth(self, x):
        """By how much log E[phi^2] and log E[phi'^2] grow with the excess kurtosis of z, for a log q: not at all."""
        return 0.0, 0.0


def _half_line():
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    middle, half = (_EDGES[1:] + _EDGES[:-1]) / 2, np.diff(_EDGES) / 2
    z = (middle[:, None] + half[:, None] * points).ravel()
    return z, (half[:, None] * weights).ravel() * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


@functools.lru_cache(maxsize=1)
def gaussian_nodes():
    """Nodes and weights (n,) of E[f(z)] = sum w f(z), z ~ N(0, 1), for f smooth on either side of 0."""
    z, weight = _half_line()
    weight = np.concatenate([weight[::-1], weight])
    return np.concatenate([-z[::-1], z]), weight / weight.sum()


@functools.lru_cache(maxsize=1)
def _polynomials():
    """Normalised Hermite polynomials at the nodes, times the weights: (n, _ORDERS)."""
    z, weight = gaussian_nodes()
    found = [np.ones_like(z), z]
    for k in range(1, _ORDERS - 1):  # sqrt(k + 1) h_{k+1} = z h_k - sqrt(k) h_{k-1}
        found.append((z * found[k] - math.sqrt(k) * found[k - 1]) / math.sqrt(k + 1))
    return weight[:, None] * np.stack(found, axis=1)


class _Table:
    """Moments of any activation, by quadrature; interpolated by log q."""

    is_homogeneous = False

    def __init__(self, name, slope):
        self._x = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
        z, weight = gaussian_nodes()
        sums = np.exp(self._x / 2)[:, None] * z
        with np.errstate(over="ignore"):  # of the side that np.where does not take
            phi, derivative = (function(sums, slope) for function in _formulas.ACTIVATIONS[name])
        squares, slopes = phi * phi, derivative * derivative
        self._value, self._value_slope = self._logarithm(squares)
        self._slope, self._slope_slope = self._logarithm(slopes)
        m, d = np.exp(self._value)[:, None], np.exp(self._slope)[:, None]
        pull = sums * phi * derivative
        ratio = pull / (pull @ weight)[:, None] - squares / m
        a, b, s, e, r = (f @ _polynomials() for f in (phi, squares, derivative, slopes, ratio))
        totals = [phi * phi @ weight, squares * squares @ weight, slopes @ weight, slopes * slopes @ weight]
        totals += [squares * slopes @ weight, ratio * ratio @ weight]
        scales = [m, m * m, d, d * d, m * d, 1.0]
        # (len(x), 6, _ORDERS + 1): coefficients of powers of c.
        parts = [
            np.concatenate([product, total[:, None] - product.sum(axis=1, keepdims=True)], axis=1) / scale
            for product, total, scale in zip((a * a, b * b, s * s, e * e, b * e, r * r), totals, scales, strict=True)
        ]
        self._series = np.stack(parts, axis=1)
        self._fourth = np.stack([b[:, 4:5] / m, e[:, 4:5] / d]) / math.sqrt(24)

    def _logarithm(self, f):
        """log E[f] and its derivative by log q: q d/dq E[f(sqrt(q) z)] = E[f (z^2 - 1)] / 2."""
        z, weight = gaussian_nodes()
        mean = f @ weight
        return np.log(mean), f @ (weight * (z * z - 1)) / (2 * mean)

    def _interpolate(self, x, values, slopes):
        inner = np.clip(x, -_REACH, _REACH)
        i = np.minimum(((inner + _REACH) / _STEP).astype(int), len(self._x) - 2)
        t = (inner - self._x[i]) / _STEP
        low, high = values[i], values[i + 1]
        rise = _STEP * slopes[i], _STEP * slopes[i + 1]
        smooth = low + t * (rise[0] + t * (3 * (high - low) - 2 * rise[0] - rise[1]))
        smooth += t**3 * (2 * (low - high) + rise[0] + rise[1])
        return smooth + (x - inner) * np.where(x < 0, slopes[0], slopes[-1])

    def value(self, x):
        """log E[phi^2] for each log q of an array."""
        return self._interpolate(x, self._value, self._value_slope)

    def slope(self, x):
        """log E[phi'^2] for each log q of an array."""
        return self._interpolate(x, self._slope, self._slope_slope)

    def _coefficients(self, x):
        place = (min(max(x, -_REACH), _REACH) + _REACH) / _STEP
        i = min(int(place), len(self._x) - 2)
        return self._series[i] + (place - i) * (self._series[i + 1] - self._series[i])

    def mean(self, x):
        """E[phi]^2 / E[phi^2] for a log q."""
        return self._coefficients(x)[0, 0]

    def pair(self, x, c):
        """The `Pair` for a log q and an array of correlations."""
        coefficients = self._coefficients(x)
        powers = np.clip(c, -1.0, 1.0)[..., None] ** np.arange(_ORDERS + 1)
        squares = coefficients[[1, 3, 4]]
        return Pair(*(powers @ row for row in coefficients), squares[:, 1], squares[:, 2])

    def fourth(self, x):
        """By how much log E[phi^2] and log E[phi'^2] grow with the excess kurtosis of z, for a log q.

        A density with the excess k is that of the normal variable times 1 + k h_4 / sqrt(24), to the first order.
        """
        place = (min(max(x, -_REACH), _REACH) + _REACH) / _STEP
        i = min(int(place), len(self._x) - 2)
        return tuple((self._fourth[:, i] + (place - i) * (self._fourth[:, i + 1] - self._fourth[:, i]))[:, 0])


@functools.lru_cache(maxsize=64)
def moments(activation):
    """What the forecast needs of an activation.

    Parameters
    ----------
    activation : cymlp.activations.Activation

    Returns
    -------
    object
        With methods ``value(x)`` and ``slope(x)``, log E[phi^2] and log E[phi'^2] for an array of x = log q;
        and for one x ``mean(x)``, E[phi]^2 / E[phi^2]; ``pair(x, c)``, the `Pair` of an array of correlations; and
        ``fourth(x)``, the derivatives of both logarithms by the excess kurtosis of z.
    """
    lines = {"identity": 1.0, "relu": 0.0, "leaky_relu": activation.slope}
    if activation.name in lines:
        return _TwoLines(float(lines[activation.name]))
    return _Table(activation.name, activation.slope)

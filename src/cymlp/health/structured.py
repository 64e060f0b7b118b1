"""Forecasts of initial weights that are not random: zeros, one constant, a multiple of the identity.  These are exact.

Units or rows then do not mix as independent ones do, and no layer is Gaussian; but a unit's value is a function of one
number: of its own input under the identity, of the row's sum where all weights are equal.  The function is followed at
Gauss's points for this number.  Biases that differ make it one of several numbers, of which fixed samples are taken.
"""

import math

import numpy as np
from scipy.special import ndtri

from .. import _formulas
from .propagation import NOTHING, Line
from .theory import gaussian_nodes

__all__ = ["EXACT", "propagate"]

EXACT = ("zeros", "constant", "scaled_identity")

# phi(c z) = c phi(z) for c > 0.
_HOMOGENEOUS = ("identity", "relu", "leaky_relu")

# Samples where a quadrature over all biases is out of reach: a mean square is good to about 2 %.
_SAMPLES = 4096


def _log(x):
    with np.errstate(divide="ignore", over="ignore"):
        return np.maximum(np.log(x), NOTHING)


def _lines(log, luck, layers):
    """A `Line` of logarithms of mean squares, and of the variance that one row has relative to them.

    Rows have nothing in common but biases; where there are some, all of the luck is taken for theirs.
    """
    log, luck = np.maximum(log, NOTHING), np.log1p(np.maximum(luck, 0.0))
    none = np.zeros_like(log)
    return Line(log, log, *((luck, none) if any(layer.bias > 0 for layer in layers) else (none, luck)))


class _Samples:
    """Independent standard normal variables, all at the same points: Gauss's for one, fixed random ones for more."""

    def __init__(self, n_variables):
        if n_variables <= 1:
            self._points, self.weights = gaussian_nodes()
            self._rng = None
        else:
            self._rng = np.random.default_rng(0)
            self.weights = np.full(_SAMPLES, 1 / _SAMPLES)

    def normal(self):
        if self._rng is None:
            return self._points
        values = ndtri((self._rng.permutation(_SAMPLES) + 0.5) / _SAMPLES)
        return values / math.sqrt(np.mean(values * values))

    def kept(self, keep):
        """Dropout's factors."""
        if keep >= 1:
            return 1.0
        return (self._rng.random(_SAMPLES) < keep) / keep if keep > 0 else 0.0


def _functions(layer):
    phi, slope = _formulas.ACTIVATIONS[layer.activation.name]
    return lambda z: phi(z, layer.activation.slope), lambda z: slope(z, layer.activation.slope)


def _scaled(values):
    """Values without a power of two, and the logarithm of it: the fourth powers of what is left are in float64."""
    top = float(np.abs(values).max())
    power = math.frexp(top)[1] if 0 < top < math.inf else 0
    return np.ldexp(values, -power), power * math.log(2)


def _size(values, count, weights):
    """log of the mean square over units, and the variance that one row has relative to it."""
    values, log = _scaled(values)
    square, fourth = values * values @ weights, values**4 @ weights
    total = float(count @ square)
    luck = float(count @ (fourth - square**2)) / total**2 if 0 < total < math.inf else 0.0
    return float(_log(total / count.sum())) + 2 * log, luck


def _identity(layers, gain, input_scale, keep):
    """Unit j of a layer gets gain times unit j of the one before, if there is one.  Units of the same fate go together.

    Returns
    -------
    forward, backward : Line
    """
    widths = [layers[0].n_in, *(layer.n_out for layer in layers)]
    n_variables = 1 + sum((layer.bias > 0) + (layer.keep < 1) for layer in layers) + (keep < 1)
    samples = _Samples(n_variables)
    weights = samples.weights
    starts = np.array([0, *sorted(set(widths))[:-1]])
    ends = np.array(sorted(set(widths)))
    counts = [np.where(starts < n, ends - starts, 0) for n in widths]
    values = np.where(counts[0][:, None] > 0, input_scale * samples.normal(), 0.0) * samples.kept(keep)
    # Sizes that leave float64 are kept apart where activations do not depend on them.
    free = all(layer.activation.name in _HOMOGENEOUS and not layer.bias and not layer.normalization for layer in layers)
    sizes, backs, log = [_size(values, counts[0], weights)], [], 0.0
    for layer, count in zip(layers, counts[1:], strict=True):
        phi, derivative = _functions(layer)
        sums, scale = gain * values, 1.0
        if layer.normalization:
            mean, square = sums @ weights, sums * sums @ weights
            if layer.normalization == "layer":
                mean, square = (np.full(len(starts), each @ count / layer.n_out) for each in (mean, square))
            scale = np.sqrt(np.maximum(square - mean * mean, 0.0) + layer.epsilon)[:, None]
            sums = (sums - mean[:, None]) / scale
        z = sums + (layer.bias * samples.normal() if layer.bias > 0 else 0.0)
        mask = samples.kept(layer.keep)
        backs.append(derivative(z) * mask / scale)
        values = np.where(count[:, None] > 0, phi(z) * mask, 0.0)
        if free:
            values, power = _scaled(values)
            log += power
        size, luck = _size(values, count, weights)
        sizes.append((size + 2 * log, luck))
    forward = _lines(*zip(*sizes, strict=True), layers)

    sizes, log = [(0.0, 0.0)], 0.0
    d = np.where(counts[-1][:, None] > 0, np.ones_like(values), 0.0)
    for count, back in zip(counts[-2::-1], [*backs[-2::-1], 1.0], strict=True):
        d, power = _scaled(d * gain * back * (count[:, None] > 0))
        log += power
        size, spread = _size(d, count, weights)
        passed = count[np.any(d != 0, axis=1)].sum()
        sizes.append((size + 2 * log, 3 * spread + 2 * abs(1 / max(passed, 1) - 1 / layers[-1].n_out)))
    return forward, _lines(*zip(*sizes[::-1], strict=True), layers)


def _constant(layers, value, input_scale, keep):
    """All weights are `value`: a layer's units differ by their biases only, and get the same sum t of a row."""
    points, weights = gaussian_nodes()
    n_0 = layers[0].n_in
    b_points, b_weights = np.polynomial.hermite_e.hermegauss(15)
    b_weights = b_weights / b_weights.sum()
    scale = input_scale / math.sqrt(keep) if keep > 0 else 0.0
    squares, luck, slopes = [scale**2], [2 / n_0], []
    mean = math.sqrt(n_0) * scale * points / n_0  # of a row's units
    for layer in layers:
        phi, derivative = _functions(layer)
        t = value * layer.n_in * mean
        factor = 1.0
        if layer.normalization == "layer":
            t, factor = np.zeros_like(t), 0.0
        elif layer.normalization == "batch":
            center = t @ weights
            factor = 1 / math.sqrt((t - center) ** 2 @ weights + layer.epsilon)
            t = (t - center) * factor
        z = t[:, None] + layer.bias * b_points if layer.bias > 0 else t[:, None]
        share = b_weights if layer.bias > 0 else np.ones(1)
        a, d = phi(z), derivative(z)
        mean = a @ share if layer.keep > 0 else np.zeros_like(t)
        square = a * a @ share / max(layer.keep, 1e-300) if layer.keep > 0 else np.zeros_like(t)
        total = float(square @ weights)
        squares.append(total)
        luck.append(float(square**2 @ weights) / total**2 - 1 if 0 < total < 1e150 else 2.0)
        slopes.append((factor * (d @ share), factor**2 * (d * d @ share) / max(layer.keep, 1e-300)))
    forward = _lines(_log(squares), luck, layers)

    squares, luck = [1.0], [0.0]
    total = np.full_like(points, layers[-1].n_out)  # mean square of the sum of a row's gradients
    for l in range(len(layers) - 1, -1, -1):
        d = value * value * total
        first, second = slopes[l - 1] if l else (np.ones_like(points), np.ones_like(points))
        square = d * second
        mean = float(square @ weights)
        squares.append(mean)
        luck.append(3 * float(square**2 @ weights) / mean**2 - 1 if 0 < mean < 1e150 else 2.0)
        total = d * (layers[l].n_in * first) ** 2
    return forward, _lines(_log(squares[::-1]), luck[::-1], layers)


def propagate(name, layers, value, input_scale, keep):
    """Mean squares of activations and of gradients, as `propagation.forward` and `backward` give them.

    Parameters
    ----------
    name : str
        One of `EXACT`.
    layers : list of Layer
    value : float
        Of the weights that are not zero.
    input_scale : float
    keep : float
        1 - dropout of the inputs.

    Returns
    -------
    forward, backward : Line
    """
    with np.errstate(all="ignore"):
        if name == "scaled_identity":
            return _identity(layers, value, input_scale, keep)
        return _constant(layers, 0.0 if name == "zeros" else value, input_scale, keep)

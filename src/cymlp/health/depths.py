"""How far sizes, gradients and differences of rows reach, if all layers were as the last hidden one: depth scales.

Schoenholz, Gilmer, Ganguli & Sohl-Dickstein (2017), Deep information propagation, sections 3 and 4: what changes by the
factor f in a layer changes by e in 1 / |log f| layers, and networks train up to about six times the depth in which rows
come to look alike, or gradients vanish or explode.
"""

import math
from typing import NamedTuple

import numpy as np

from .propagation import NOTHING
from .theory import moments

__all__ = ["TRAINABLE", "Depths", "depth_scales", "reach"]

# Depths that train, in units of the depth scale: Schoenholz et al. (2017), figure 5, for MNIST and CIFAR-10.
TRAINABLE = 6.0

# A logarithm of a factor that counts as 0: the tables' error.  A million layers then.
_CRITICAL = 1e-6

_GRID = np.linspace(-24.0, 24.0, 385)


class Depths(NamedTuple):
    """Layers in which something changes by the factor e, or infinity.

    Attributes
    ----------
    forward, gradient : float
        Of the root mean square of activations; of gradients.
    correlation : float
        Of the difference between the correlation of two rows and what it tends to.
    """

    forward: float
    gradient: float
    correlation: float

    @property
    def trainable(self):
        """Depth up to which networks train; the theory has the mean square of gradients, so half of `gradient`."""
        return TRAINABLE * min(self.correlation, self.gradient / 2)


def reach(log_factor):
    """Layers in which a quantity changes by e that changes by exp(log_factor) in one."""
    if not math.isfinite(log_factor):
        return 0.0
    return math.inf if abs(log_factor) < _CRITICAL else 1 / abs(log_factor)


def _settled(step, x):
    """Where log q goes that begins at x and is changed by `step(x)` in each layer, and how it changes there."""
    change = float(step(np.array([x]))[0])
    if abs(change) < _CRITICAL:
        return x, 0.0
    grid = _GRID[x < _GRID] if change > 0 else _GRID[x > _GRID][::-1]
    if len(grid) == 0:
        return x, change
    changes = step(grid)
    turned = np.flatnonzero(np.sign(changes) != np.sign(change))
    if len(turned) == 0:
        return float(grid[-1]), float(changes[-1])
    low, high = (x if turned[0] == 0 else float(grid[turned[0] - 1])), float(grid[turned[0]])
    for _ in range(40):
        middle = (low + high) / 2
        if np.sign(step(np.array([middle]))[0]) == np.sign(change):
            low = middle
        else:
            high = middle
    return low, 0.0


def _attractor(correlation):
    """The correlation that pairs of rows tend to, from 0 upwards: the first that a layer does not make larger."""
    grid = 1 - np.concatenate([np.linspace(1, 0.01, 100), np.logspace(-2.1, -6, 40)])
    fixed = np.flatnonzero(correlation(grid) <= grid)
    return float(grid[fixed[0]]) if len(fixed) else 1.0


def depth_scales(layer, x):
    """Depth scales of a network all of whose layers are alike.

    Parameters
    ----------
    layer : Layer
        With as many inputs as outputs.
    x : float
        log q of its weighted sums.

    Returns
    -------
    Depths
    """
    phi, keep, bias = moments(layer.activation), layer.keep, layer.bias**2
    if keep <= 0 or (layer.variance <= 0 and not layer.normalization) or x < NOTHING / 2:
        return Depths(0.0, 0.0, 0.0)
    log_keep, strength = math.log(keep), layer.strength
    floor = math.log(bias) if bias else -math.inf
    if layer.normalization:
        x, change = math.log1p(bias), 0.0
    else:
        x, change = _settled(lambda x: np.logaddexp(strength + phi.value(x) - log_keep, floor) - x, x)
    here = np.array([x])
    value, slope = float(phi.value(here)[0]) - log_keep, float(phi.slope(here)[0])
    # Of what is squared, E[phi]^2 has no part in a batch's variance.
    center = phi.mean(x) * keep if layer.normalization == "batch" else 0.0
    if layer.normalization:
        chi = slope - log_keep - value - math.log1p(-min(center, 1 - 1e-9))
        share = 1 / (1 + bias)
    else:
        chi = slope - log_keep + strength
        share = math.exp(min(strength + value - float(np.logaddexp(strength + value, floor)), 0.0))

    def correlation(c):
        value = np.clip(phi.pair(x, c).value, -1.0, 1.0) * keep
        return share * (value - center) / (1 - center) + 1 - share

    c = 0.0 if layer.normalization == "batch" and not bias else _attractor(correlation)
    change_of_c = float(phi.pair(x, np.array([c])).slope[0]) * math.exp(slope + x - value) * share / (1 - center)
    return Depths(reach(change / 2), reach(chi / 2), reach(math.log(max(change_of_c, 1e-300))))

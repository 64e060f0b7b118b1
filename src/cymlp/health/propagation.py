"""How large activations and gradients become, layer by layer, in a network of random weights; and how far luck goes.

The line is what wide layers have: q_l = n v E[phi(z_{l-1})^2] + b^2, with v the variance of a weight, n the units that
are summed and b the deviation of biases; of the gradient, per layer, the factor n_{l+1} v E[phi'(z_l)^2] (Poole et al.
(2016), eq. 3; Schoenholz et al. (2017), eq. 17).

The band is what luck makes of it.  The mean square of a layer of n units is a mean of n random terms.  Given the layer
before these are independent, so that the logarithm of what passes is a sum of steps, nearly normal, with a variance of
about c / n for each layer: Hanin & Rolnick (2018), How to start training: the effect of initialization and
architecture; Hanin (2018), Which neural net architectures give rise to exploding and vanishing gradients?  For one row
c is E[phi^4] / E[phi^2]^2 - 1, 5 for ReLU.  But the rows of a batch share the weights: what they have in common of a
step is the mean over pairs of rows of E[phi_a^2 phi_b^2] / E[phi^2]^2 - 1, which depends on their correlation.

So these are followed, all of logarithms: mean and variance over networks (`common`), the variance between the rows of a
network (`own`), and mean and deviation of the correlation of two rows.  To the first order in 1 / n they are those of
Roberts, Yaida & Hanin (2022), The principles of deep learning theory, chapters 4 and 9.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, polygamma

from .theory import moments

__all__ = ["NOTHING", "Layer", "Line", "backward", "forward", "log_mean"]

# The logarithm of nothing: its exp is 0, and sums of it stay finite.
NOTHING = -1e6

# Gauss's points and weights for a normal variable: of the logarithms over networks, and of those of rows.
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_WEIGHTS /= _WEIGHTS.sum()

# The most that the variance between rows' gradients takes from that of their activations: derivatives say no more.
_LINEAR = 1.0

# Derivatives by log q are differences over twice this.
_DELTA = 0.05

_ONE = np.ones(1)


@dataclass(frozen=True)
class Layer:
    """The weights W_l, and what is done with their sums.

    Attributes
    ----------
    n_in, n_out : int
    variance : float
        Mean square of a weight.
    activation : Activation
        The identity for the output layer, whose Z counts.
    orthogonal : bool
        Whether rows or columns of the weights are orthogonal and of one length.
    excess : float
        Excess kurtosis of a weight.
    normalization : {None, "batch", "layer"}
    epsilon : float
        Of the normalisation.
    keep : float
        1 - dropout of what the layer hands on.
    bias : float
        Deviation of its biases.
    """

    n_in: int
    n_out: int
    variance: float
    activation: object
    orthogonal: bool = False
    excess: float = 0.0
    normalization: str | None = None
    epsilon: float = 0.0
    keep: float = 1.0
    bias: float = 0.0

    @property
    def strength(self):
        """log of the variance of its sums for inputs of mean square 1."""
        return math.log(self.n_in * self.variance) if self.variance > 0 else NOTHING

    @property
    def fixed(self):
        """The share of the variance of |x W|^2 that orthogonal weights do not have; that of |W d|^2.

        None is left for as many or more outputs than inputs; else |x W|^2 / |x|^2 is a beta variable, with the variance
        2 (n_in - n_out) / (n_out (n_in + 2)) relative to its mean in place of 2 / n_out.
        """
        if not self.orthogonal:
            return 0.0, 0.0
        more, less = max(self.n_in, self.n_out), min(self.n_in, self.n_out)
        part = 1 - (more - less) / (more + 2)
        return (1.0, part) if self.n_out >= self.n_in else (part, 1.0)


class Line(NamedTuple):
    """Mean squares of layers 0 .. L, in logarithms; each an ndarray (L + 1,).

    Attributes
    ----------
    line
        What wide layers have.
    mean, common
        Mean and variance over networks.
    own
        Variance between rows.
    """

    line: np.ndarray
    mean: np.ndarray
    common: np.ndarray
    own: np.ndarray

    def of_batch(self, rows):
        """Mean and deviation over networks of the logarithm for a batch: the mean of rows' own log-normal factors.

        Fenton (1960), The sum of log-normal probability distributions in scatter transmission systems, for that mean.
        """
        luck = np.log1p(np.expm1(np.minimum(self.own, 50.0)) / rows)
        return self.mean - luck / 2, np.sqrt(self.common + luck)


def _luck(relative):
    """Mean and variance of the logarithm of a positive variable of mean 1, from its relative variance.

    As of a gamma variable, which a mean of squares is or resembles: Satterthwaite (1946), An approximate distribution
    of estimates of variance components.
    """
    if relative < 1e-6:
        return -max(relative, 0.0) / 2, max(relative, 0.0)
    shape = 1 / relative
    return float(digamma(shape)) - math.log(shape), float(polygamma(1, shape))


def log_mean(weights, logs):
    """log of the weighted mean of exp(logs) along the last axis."""
    top = logs.max(axis=-1, keepdims=True)
    return (top + np.log(np.exp(logs - top) @ weights[:, None]))[..., 0]


def _add(x, constant):
    """log(exp(x) + constant)."""
    return np.logaddexp(x, math.log(constant)) if constant > 0 else x


# What Fisher's transformation makes of correlations that are 1 to all digits that matter.
_ALIKE = 12.0


def _fisher(c):
    """artanh(c): of the correlation of n pairs of normal variables it has the variance 1 / n, whatever c is.

    Fisher (1921), On the "probable error" of a coefficient of correlation deduced from a small sample.
    """
    return np.arctanh(np.clip(c, -1 + 1e-10, 1 - 1e-10))


def _spread(own):
    """Logarithms at Gauss's points of rows' factors, whose mean is 1 and whose logarithm has this variance."""
    points = math.sqrt(own) * _POINTS
    return points - log_mean(_WEIGHTS, points[None])[0]


def _variance(values):
    return float(_WEIGHTS @ (values - _WEIGHTS @ values) ** 2)


@dataclass
class _Step:
    """What a layer did on the way forward that matters on the way back.

    Attributes
    ----------
    gain, noise : float
        d log of what it hands on by d log of what it gets; the variance of the step that rows have in common.
    slope, slope_gain : float
        log of the factor of a gradient that goes back through it, and its derivative by log of what it gets.
    drift, slope_noise, slope_own : float
        What luck adds to the mean of that factor; luck of a normalisation to its variance, and between rows.
    doubt : float
        By how much, as a standard deviation that is the same for all layers, that mean is not known.
    common, own : float
        Variance of log of what it got: over networks, and between rows.
    pair : tuple
        Moments of pairs of rows: E[phi'_a phi'_b], E[phi'_a^2 phi'_b^2], E[phi_a^2 phi'_b^2] - 1 and `Pair.ratio`.
    alone : tuple
        The last two of one row.
    radial : tuple
        What `_radial` gives.
    x, correlation : float
        log q of its sums, and the mean correlation of two rows' sums.
    """

    gain: float
    noise: float
    slope: float
    slope_gain: float
    common: float
    own: float
    pair: tuple
    alone: tuple
    radial: tuple
    drift: float = 0.0
    slope_noise: float = 0.0
    slope_own: float = 0.0
    doubt: float = 0.0
    x: float = 0.0
    correlation: float = 0.0


def _radial(phi, x, share):
    """How the part of a gradient that changes the length of the sums passes a layer; for `_Back`.

    Parameters
    ----------
    phi
        Moments of the activation.
    x : float
        log q of its sums.
    share : float
        Of q that comes from weights, not biases.

    Returns
    -------
    pull, rest : float
        E[s_l^2] / (q_l T_l), s_l = z_l . D_l and T_l = |D_l|^2, is pull (that of l + 1, minus 1) + rest.
    pull_gain, rest_gain, along_gain : float
        Derivatives by log of what the layer gets of log s_l^2 where it comes from s_{l+1}, where it comes from T_{l+1},
        and of log T_l where it comes from s_{l+1}.
    """
    if phi.is_homogeneous:  # E[phi^2] = q E[phi'^2], which does not depend on q
        return share, 1.0, 0.0, share, -share
    points = np.array([x - _DELTA, x, x + _DELTA])
    value, slope = phi.value(points), phi.slope(points)
    eta, mu = (value[2] - value[0]) / (2 * _DELTA), (slope[2] - slope[0]) / (2 * _DELTA)
    bend = (value[2] - 2 * value[1] + value[0]) / _DELTA**2 / max(eta, 1e-9)
    crosses = [float(phi.pair(point, _ONE).cross[0]) for point in (x - _DELTA, x + _DELTA)]
    turn = math.log(crosses[1] / crosses[0]) / (2 * _DELTA)
    pull = math.exp(value[1] - slope[1] - x) * eta * eta * share
    rest = share * (1 + 2 * mu) + 1 - share
    return pull, rest, 2 * bend * share, (1 + mu) * share, (turn + mu - eta) * share


class _Way:
    """The way forward: state of rows, and a list of `_Step`."""

    def __init__(self, n_inputs, input_scale, keep, rows):
        self.rows = rows
        self.log = self.mean = 2 * math.log(input_scale)
        self.common, self.own = 0.0, math.log1p(2 / n_inputs)
        self.free = self.own  # of `own`, what changes the mean over rows
        self.fourth = 3.0 / max(keep, 1e-9)  # E[A^4] / E[A^2]^2
        # Correlations of pairs of rows have two values, as far from the mean as their deviation, by Fisher's measure.
        self.pairs = np.tanh(np.array([-1.0, 1.0]) / math.sqrt(max(n_inputs - 1, 0.1)))
        self.steps, self.lines = [], []
        self._hand_on(keep, 3.0, n_inputs)

    def _hand_on(self, keep, fourth, n):
        """Dropout, which is independent for rows, of n units whose E[A^4] / E[A^2]^2 is `fourth`; take note."""
        if keep < 1:
            shift = -math.log(keep) if keep > 0 else NOTHING
            self.log += shift
            self.mean += shift
            luck = math.log1p(fourth * (1 / keep - 1) / n) if keep > 0 else 0.0
            self.own += luck
            self.free += luck
            self.pairs = self.pairs * keep
        self.lines.append((self.log, self.mean, self.common, self.free))

    def layer(self, layer):
        (self._normalized if layer.normalization else self._plain)(layer)

    def _plain(self, layer):
        phi, strength, bias = moments(layer.activation), layer.strength, layer.bias**2
        networks, rows = math.sqrt(max(self.common, 1e-6)) * _POINTS, _spread(self.own)
        x = float(_add(self.log + strength, bias))
        line = _add(self.log + strength + rows, bias)
        nodes = _add((self.mean + strength + networks)[:, None] + rows, bias)
        share = math.exp(min(self.log + strength - x, 0.0)) if x > NOTHING / 2 else 1.0
        c = share * self.pairs + (1 - share)
        values, slopes = (log_mean(_WEIGHTS, f(nodes)) for f in (phi.value, phi.slope))
        gain, slope_gain = (float(_WEIGHTS @ (f * networks) / (_WEIGHTS @ networks**2)) for f in (values, slopes))
        # Of sums of n products, and of those with a column of orthogonal weights, a point of a sphere.
        excess = layer.excess * self.fourth / layer.n_in
        excess -= 6 / (max(layer.n_in, layer.n_out) + 2) if layer.orthogonal else 0.0
        bends = [share**2 * excess * each for each in phi.fourth(x)]
        slope = float(log_mean(_WEIGHTS, phi.slope(line)))
        step = _Step(gain, 0.0, slope, slope_gain, self.common, self.own, (), (), ())
        self.log = float(log_mean(_WEIGHTS, phi.value(line)))
        self.mean = float(_WEIGHTS @ values) + bends[0]
        step.drift = float(_WEIGHTS @ slopes) - slope + bends[1]
        self.common = _variance(values) * min(self.common / 1e-6, 1.0)
        self.own = self.free = _variance(phi.value(line))
        self._units(layer, phi, step, x, (c, self.pairs), share, 0.0, layer.fixed[0] * share**2)

    def _normalized(self, layer):
        """Sums are brought to mean 0 and variance 1, over the batch or over the units, before biases are added."""
        phi, n, batch = moments(layer.activation), layer.n_out, layer.normalization == "batch"
        doubt = 0.0
        if batch:
            # What the mean over rows takes is less where rows differ in size: by the square of the mean root of
            # log-normal sizes at most.  Of pairs, what normalising takes: the sums' eigenvalues over the batch, p_i of
            # their total, become p_i (1 - 2 p_i + 2 sum p^2), which lowers sum p^2 by its square where they are those
            # of a random matrix (Marchenko & Pastur (1967)).
            most = min(float(self.pairs.mean()), 1 - 1e-6)
            least = most * math.exp(-self.own / 4)
            center, doubt = (most + least) / 2, math.log((1 - least) / (1 - most)) / 4
            squares = min(float(self.pairs.var()) / (1 - center) ** 2, 1.0) + 1 / self.rows
            c = np.array([-1.0, 1.0]) * math.sqrt(max(squares - 1 / self.rows - squares**2, 0.0))
        else:
            center, c = 1 / n, self.pairs
            squares = 1 / n
        size = math.exp(min(self.log + layer.strength, 700.0)) * (1 - center)
        whole = size / (size + layer.epsilon)
        q = max(whole + layer.bias**2, math.exp(-600.0))
        x, share = math.log(q), whole / q
        # Of n units the backward pass removes two directions of n; of a batch, too, but there E[1 / variance] makes up
        # for it: (B - 2) / (B - 3), Yang et al. (2019), A mean field theory of batch normalization, for linear layers.
        slope = (0.0 if batch else math.log1p(-min(2 / n, 0.9))) - math.log(size + layer.epsilon)
        step = _Step(0.0, 0.0, slope, -whole, self.common, 0.0, (), (), ())
        step.drift = (self.log - self.mean) * whole
        if batch:
            # E[1 / variance] over units is more than 1 / E[variance] by 2 sum p^2, but so is what the backward pass
            # removes where gradients of rows are alike as the rows are: between nothing and all of it is left.
            step.drift += squares * whole
            step.doubt = squares * whole / 2 + abs(doubt)
        if not batch:
            step.slope_noise = 2 * float(np.mean(c * c)) / n * (1 - layer.fixed[0])
            step.slope_own = self.own + max(2 / n - step.slope_noise, 0.0)
            step.drift += (step.slope_own - _luck(step.slope_noise)[0]) * whole
        # n z / |z| has the excess kurtosis -6 sum p^2.
        bends = [-6 * share**2 * squares * each for each in phi.fourth(x)]
        line = _add(math.log(max(whole, 1e-300)) + _spread(min(self.own, 1.0) if batch else 0.0), layer.bias**2)
        step.slope += float(log_mean(_WEIGHTS, phi.slope(line))) + bends[1]
        self.log = self.mean = float(log_mean(_WEIGHTS, phi.value(line))) + bends[0]
        self.common = self.free = 0.0
        self.own = min(_variance(phi.value(line)), self.own) if batch else 0.0
        self._units(layer, phi, step, x, (share * c + (1 - share), c), share, share, share**2)

    def _units(self, layer, phi, step, x, correlations, share, first, second):
        """A layer's own luck.

        Parameters
        ----------
        correlations : tuple of ndarray (2,)
            Of pairs of rows: of their sums with biases, and of what these are from weights.
        first, second : float
            How much of sum z and sum z^2 is fixed, and so is no luck.
        """
        c, from_weights = correlations
        n, pair, alone = layer.n_out, phi.pair(x, c), phi.pair(x, _ONE)

        def of(which, moment, corr):
            return moment - first * pair.first[which] * corr - second * pair.second[which] * corr * corr

        square, slope, cross = (
            float(np.mean(of(i, m, from_weights))) for i, m in enumerate((pair.square, pair.slope_square, pair.cross))
        )
        batch = layer.normalization == "batch"  # of one row nothing is fixed
        lone = [float(m[0]) for m in (alone.square, alone.slope_square, alone.cross)]
        if not batch:
            lone[:2] = (float(of(i, lone[i], 1.0)) for i in range(2))
        together, single = max(square - 1, 0.0) / n, max(lone[0] - 1, 0.0) / n
        drift, step.noise = _luck(together)
        self.mean += drift
        self.common += step.noise
        own = max(math.log1p(single) - math.log1p(together), 0.0)
        self.own += own
        self.free += own
        step.pair = float(np.mean(pair.slope)), slope, cross - 1, float(np.mean(pair.ratio))
        step.alone = lone[1], lone[2]
        step.radial = _radial(phi, x, share)
        step.x, step.correlation = x, float(np.mean(c))
        self._correlate(pair, n)
        self.steps.append(step)
        self.fourth = float(alone.square[0]) / max(layer.keep, 1e-9)
        self._hand_on(layer.keep, float(alone.square[0]), n)

    def _correlate(self, pair, n):
        """Correlations of pairs of activations; those of n units differ from those of many by luck."""
        value = np.clip(pair.value, -1.0, 1.0)
        z, variance = _fisher(value), _correlation_luck(value, pair.square) / n
        z = z + variance * value / 2
        deviation = math.sqrt(float(z.var() + variance.mean()))
        self.pairs = np.tanh(np.clip(z.mean() + deviation * np.array([-1.0, 1.0]), -_ALIKE, _ALIKE))


def _correlation_luck(c, squares):
    """n times the variance, by Fisher's measure, of the correlation of n pairs (f_a, f_b); squares: E[f_a^2 f_b^2].

    1 for normal variables, and E[f_a^2 f_b^2] where c = 0.  The mean of the measure is off by c / 2 of the variance.
    """
    return np.maximum(squares - c * c, 0.0) / (1 + c * c)


def forward(layers, input_scale, keep, rows):
    """Mean squares of A_0 .. A_{L-1}, Z_L.

    Parameters
    ----------
    layers : list of Layer
    input_scale : float
    keep : float
        1 - dropout of the inputs.
    rows : int
        Of a batch, which batch normalisation sees.

    Returns
    -------
    Line
    list of _Step
        For `backward`.
    """
    way = _Way(layers[0].n_in, input_scale, keep, rows)
    for layer in layers:
        way.layer(layer)
    return Line(*(np.array(column) for column in zip(*way.lines, strict=True))), way.steps


def backward(layers, steps, keep):
    """Mean squares of D_L .. D_1 and D_1 W_1^T, for entries of D_L that are independent, normal, and of variance 1.

    A gradient y = W_{l+1} d has a part along A_l, that which changes the length of Z_{l+1} = A_l W_{l+1}: given Z, W is
    known in this direction, and y is A_l (Z_{l+1} . d) / |A_l|^2 there.  It is one of n_l directions and starts out as
    large as the others, but where the length of Z_l has a growing effect (d log E[phi^2] / d log q > 1, as of SiLU) it
    comes to be more than all of them.  `radial` is E[(Z . d)^2] relative to what it is at random, which stays 1 for
    ReLU.

    Parameters
    ----------
    layers : list of Layer
    steps : list of _Step
        From `forward`.
    keep : float
        1 - dropout of the inputs.

    Returns
    -------
    Line
    """
    n_last = layers[-1].n_out
    log = mean = 0.0
    own = doubt = 0.0  # rows whose D_L is large are so in what it is compared with, too
    angle = math.tanh(1 / math.sqrt(max(n_last - 1, 0.1))) ** 2  # of pairs of rows' gradients: squared correlation
    # Of log |D|^2 and log (Z . D)^2: the derivative by log of what the layer gets, and the covariance of their luck.
    radial, influence, luck = 1.0, np.array([0.0, 1.0]), np.diag([0.0, steps[-1].noise])
    lines = [(log, mean, 0.0, own)]
    for l in range(len(layers) - 1, -1, -1):
        above, n, step = layers[l], layers[l].n_in, steps[l - 1] if l else None
        ratio, square, cross, turn = step.pair if l else (1.0, 1.0, 0.0, 0.0)
        sharp, both = step.alone if l else (1.0, 1.0)
        kept = layers[l - 1].keep if l else keep
        shift = math.log(above.variance * above.n_out) if above.variance > 0 else NOTHING
        shift += (step.slope if l else 0.0) + (-math.log(kept) if kept > 0 else NOTHING)
        kept, fixed = max(kept, 1e-9), above.fixed[1]
        along = max((both / kept - fixed) * (radial - 1) / n, -0.9)
        part = min(both / kept * radial / n / (1 + along), 1.0)
        together = max(square * (1 + 2 * angle) - 1 - 2 * angle * fixed, 0.0) / n
        single = max(3 * sharp / kept - 1 - 2 * fixed, 0.0) / n
        drift, noise = _luck(together)
        log += shift
        mean += shift + drift + math.log1p(along)
        most = part**2 / (part**2 + (1 - part) ** 2)  # rows differ by (Z . D)^2 where that is most of |D|^2
        own = (1 - most) * (own + max(math.log1p(single) - math.log1p(together), 0.0)) + most * math.log(3)
        turned = math.sqrt(angle) * ratio * kept
        variance = float(_correlation_luck(turned, square * (1 + 2 * angle))) / n
        z = math.hypot(float(_fisher(turned)) + variance * turned / 2, math.sqrt(variance))
        angle = (1 - most) * math.tanh(min(z, _ALIKE)) ** 2 + most
        if l == 0:
            by_inputs = ((1 - part) * influence[0] + part * influence[1]) ** 2
            total = (1 - part) ** 2 * luck[0, 0] + noise + doubt**2 + by_inputs * steps[0].common
            lines.append((log, mean, total, own + min(by_inputs * steps[0].own, _LINEAR)))
            break
        pull, rest, pull_gain, rest_gain, along_gain = step.radial
        new = max(pull * (radial - 1) + rest, 1e-9)
        share = min(pull * radial / new, 1.0)
        mix = np.array([[1 - part, part], [1 - share, share]])
        of_noise, of_slope = mix @ influence - [part, 0.0], np.array([1 - part, 0.0])
        luck = mix @ luck @ mix.T
        luck += step.noise * np.outer(of_noise, of_noise) + noise * np.outer(of_slope, of_slope)
        luck += cross / n * (np.outer(of_noise, of_slope) + np.outer(of_slope, of_noise))
        luck[0, 0] += step.slope_noise
        luck[1, 1] += 4 * share**2 * turn / n
        influence = step.gain * (mix @ influence)
        influence += [(1 - part) * step.slope_gain + part * along_gain, share * pull_gain + (1 - share) * rest_gain]
        own += step.slope_own
        mean += step.drift
        radial = new / (1 + along)
        if layers[l - 1].normalization:
            influence = np.full(2, step.slope_gain)
            radial = 1.0 if layers[l - 1].normalization == "batch" else 0.0
        doubt += step.doubt
        total = max(luck[0, 0], 0.0) + influence[0] ** 2 * step.common + doubt**2
        lines.append((log, mean, total, own + min(influence[0] ** 2 * step.own, _LINEAR)))
    return Line(*(np.array(column) for column in zip(*reversed(lines), strict=True)))

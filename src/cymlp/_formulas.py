"""The formulas of the reference: activations and losses with their derivatives, statistics, random numbers, in NumPy.

One expression stands for a formula; order and sources of activations and losses are those of the registries,
activations.py and losses.py.  Nothing is checked here.
"""

import math

import numpy as np

__all__ = ["ACTIVATIONS", "LOSSES", "column_statistics", "philox", "row_statistics", "shares", "unbiased"]


def _special(name, *arguments):
    """A function of scipy.special, imported late: that takes longer than NumPy, and only this engine needs it."""
    from scipy import special

    return getattr(special, name)(*arguments)


def _sigmoid(z):
    """1 / (1 + exp(-z))."""
    return _special("expit", z)


def _normal_cdf(z):
    """Phi(z) = (1 + erf(z / sqrt(2))) / 2, without the cancellation for z < 0."""
    return _special("ndtr", z)


def _softmax(z):
    """exp(z_j) / sum_k exp(z_k) along rows; the same for z - max(z), where exp cannot overflow."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _choose(condition, z, yes, no):
    """np.where for two numbers, in z's dtype."""
    return np.where(condition, z.dtype.type(yes), z.dtype.type(no))


# name -> (phi(z), phi'(z)), each a function of z and leaky_relu's slope; order and sources are those of activations.py.
ACTIVATIONS = {
    "identity": (lambda z, slope: z.copy(), lambda z, slope: np.ones_like(z)),
    "sigmoid": (lambda z, slope: _sigmoid(z), lambda z, slope: _sigmoid(z) * (1 - _sigmoid(z))),
    "tanh": (lambda z, slope: np.tanh(z), lambda z, slope: 1 - np.tanh(z) ** 2),
    "relu": (lambda z, slope: np.maximum(z, 0), lambda z, slope: _choose(z > 0, z, 1, 0)),
    "leaky_relu": (lambda z, slope: np.where(z > 0, z, slope * z), lambda z, slope: _choose(z > 0, z, 1, slope)),
    "elu": (lambda z, slope: np.where(z > 0, z, np.expm1(z)), lambda z, slope: np.exp(np.minimum(z, 0))),
    "gelu": (
        lambda z, slope: z * _normal_cdf(z),
        lambda z, slope: _normal_cdf(z) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    ),
    "silu": (lambda z, slope: z * _sigmoid(z), lambda z, slope: _sigmoid(z) * (1 + z * (1 - _sigmoid(z)))),
    "softplus": (lambda z, slope: np.logaddexp(0, z), lambda z, slope: _sigmoid(z)),
    "exp": (lambda z, slope: np.exp(z), lambda z, slope: np.exp(z)),
    "softmax": (lambda z, slope: _softmax(z), None),
}


def _of_difference(loss, gradient):
    """A loss of d = a - y, with dloss/dz = gradient(d) phi'(z) by the chain rule; of quantile, delta is the level."""

    def value_and_gradient(z, y, activation, slope, delta):
        phi, phi_gradient = ACTIVATIONS[activation]
        d = phi(z, slope) - y
        return loss(d, delta), gradient(d, delta) * phi_gradient(z, slope)

    return value_and_gradient


def _log_and_its_gradient(z, activation):
    """log a and its derivative by z, without the underflow of a that would make 0 / 0 of the Poisson gradient.

    softplus(z) = e^z - e^2z / 2 + ..., so that log a = z and (log a)' = 1 to double precision from z = -40 down.
    """
    if activation == "exp":
        return z, np.ones_like(z)
    if activation == "sigmoid":
        return -np.logaddexp(0, -z), _sigmoid(-z)
    a = np.logaddexp(0, np.maximum(z, -40))
    return np.where(z < -40, z, np.log(a)), np.where(z < -40, z.dtype.type(1), _sigmoid(z) / a)


def _poisson(z, y, activation, slope, delta):
    """y log(y / a) - y + a;  dZ = (1 - y / a) a' = (a - y) (log a)', which is a - y behind exp."""
    a = ACTIVATIONS[activation][0](z, slope)
    log_a, gradient = _log_and_its_gradient(z, activation)
    return _special("xlogy", y, y) - y * log_a - y + a, (a - y) * gradient


def _binary_cross_entropy(z, y, activation, slope, delta):
    """-y log a - (1 - y) log(1 - a) with a = sigmoid(z), written in z."""
    return np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z))), _sigmoid(z) - y


def _categorical_cross_entropy(z, y, activation, slope, delta):
    """-sum_j y_j log a_j with a = softmax(z), written in z; y is a row of targets, or a label: a row with one 1."""
    if y.ndim == 1:
        y = np.eye(z.shape[1], dtype=z.dtype)[y]
    shifted = z - z.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return y * (log_sum - shifted), _softmax(z) * y.sum(axis=1, keepdims=True) - y


# name -> function giving the loss of each output and dloss/dz, both (n, m); order and sources are those of losses.py.
LOSSES = {
    "squared_error": _of_difference(lambda d, delta: d * d / 2, lambda d, delta: d),
    "absolute_error": _of_difference(lambda d, delta: np.abs(d), lambda d, delta: np.sign(d)),
    "huber": _of_difference(
        lambda d, delta: np.where(np.abs(d) <= delta, d * d / 2, delta * (np.abs(d) - delta / 2)),
        lambda d, delta: np.clip(d, -delta, delta),
    ),
    "quantile": _of_difference(
        lambda d, level: np.maximum(-level * d, (1 - level) * d),
        lambda d, level: _choose(d > 0, d, 1 - level, 0) - _choose(d < 0, d, level, 0),
    ),
    "poisson": _poisson,
    "binary_cross_entropy": _binary_cross_entropy,
    "categorical_cross_entropy": _categorical_cross_entropy,
}


def philox(counter, key):
    """Philox4x32-10: four random words of 32 bits for each counter, in uint64.

    Source: Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3, section 3.3.

    Parameters
    ----------
    counter : four uint64 arrays, or numbers, that broadcast, each below 2^32
    key : two of the same
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    (a, b, c, d), (k, l) = (tuple(np.asarray(word, np.uint64) for word in words) for words in (counter, key))
    for _ in range(10):
        ab, cd = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b, c, d = (cd >> half) ^ b ^ k, cd & low, (ab >> half) ^ d ^ l, ab & low
        k, l = (k + np.uint64(0x9E3779B9)) & low, (l + np.uint64(0xBB67AE85)) & low
    return a, b, c, d


def shares(sample_weight, rows):
    """Weights of rows, None for equal ones, scaled to the sum 1; in float64."""
    weight = np.ones(rows) if sample_weight is None else sample_weight.astype(np.float64)
    return weight / weight.sum()


def column_statistics(Z, share):
    """Mean and biased variance of each column of Z, in float64; `share`: weights of the rows, which sum to 1."""
    mean = share @ Z
    return mean, share @ (Z - mean) ** 2


def row_statistics(Z):
    """Mean and biased variance of each row of Z, columns in float64."""
    return Z.mean(axis=1, keepdims=True, dtype=np.float64), Z.var(axis=1, keepdims=True, dtype=np.float64)


def unbiased(variance, share):
    """variance / (1 - sum_i share_i^2), for two positive shares at least; n / (n - 1) variance where all are 1 / n.

    As shares sum to 1, the divisor is the sum of all products of two of them, each twice: a sum without cancellation.
    """
    return variance / (2 * (share[1:] @ np.cumsum(share)[:-1]))

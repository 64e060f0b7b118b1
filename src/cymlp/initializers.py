"""Initial weights by name.

Every initialiser is called ``f(rng, n_in, n_out, *, gain=1.0)``, some with parameters of their own, with a
`numpy.random.Generator`, and returns a new float64 array (n_in, n_out) in which `gain`, a finite number > 0, is a
factor of every weight, and so of the standard deviation.  All raise ValueError naming the argument that is out of its
range, and TypeError for a size that is not an integer.  Biases start at zero, scales of normalised layers at one; they
are not initialised here.

Weights must differ between the units of a layer.  Where they are all equal (`zeros`, `constant`), the units of a hidden
layer compute the same value, receive the same gradient and stay the same forever, as if the layer had one unit; with
zeros and an activation that has phi(0) = 0, every gradient but that of the output's bias is zero besides.

How large they are decides what happens over many layers: with weights of mean 0 and variance v, a layer multiplies the
mean square of what passes it forward by about n_in v E[phi^2], and that of gradients passing back by n_out v E[phi'^2].
The functions below choose v so that one of these factors is 1, or both nearly.  Where a layer is
normalised, the size of all its weights together matters no more, but for epsilon.
"""

import contextlib
import functools
import math
import numbers

import numpy as np

from ._validation import as_count

__all__ = [
    "INITIALIZERS",
    "constant",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "orthogonal",
    "scaled_identity",
    "uniform",
    "xavier",
    "zeros",
]


def _number(name, value):
    number = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # an integer beyond all floats
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number; got {value!r}")
    return number


def _positive(name, value):
    if _number(name, value) <= 0:
        raise ValueError(f"{name} must be a finite number > 0; got {value!r}")
    return float(value)


def _shape(n_in, n_out):
    return as_count(n_in, "n_in"), as_count(n_out, "n_out")


def _normal(rng, n_in, n_out, gain, std):
    return _positive("gain", gain) * std * rng.standard_normal((n_in, n_out))


def _uniform(rng, n_in, n_out, gain, std):
    limit = math.sqrt(3) * std  # the variance of U(-limit, limit) is limit^2 / 3
    return _positive("gain", gain) * limit * rng.uniform(-1, 1, (n_in, n_out))


def zeros(rng, n_in, n_out, *, gain=1.0):
    """w_ij = 0: for a network without hidden layers, or to watch how symmetry keeps a network with them from learning.

    Source: Rumelhart, Hinton & Williams (1986), Learning internal representations by error propagation, "Breaking
    symmetry": units that begin with equal weights can never learn unequal ones.
    """
    _positive("gain", gain)
    return np.zeros(_shape(n_in, n_out))


def constant(rng, n_in, n_out, *, gain=1.0, value=1.0):
    """w_ij = gain value: symmetric, as `zeros`, but not without gradients.

    Source: Rumelhart, Hinton & Williams (1986), Learning internal representations by error propagation, "Breaking
    symmetry".

    Parameters
    ----------
    value : float, default 1.0
        Finite.
    """
    return np.full(_shape(n_in, n_out), _positive("gain", gain) * _number("value", value))


def normal(rng, n_in, n_out, *, gain=1.0, std=0.01):
    """w ~ N(0, (gain std)^2), whatever the layer's size.

    Source: Krizhevsky, Sutskever & Hinton (2012), ImageNet classification with deep convolutional neural networks,
    section 5, for the default.

    Parameters
    ----------
    std : float, default 0.01
        Finite, above 0.
    """
    return _normal(rng, *_shape(n_in, n_out), gain, _positive("std", std))


def uniform(rng, n_in, n_out, *, gain=1.0, limit=0.05):
    """w ~ U(-gain limit, gain limit), whatever the layer's size; variance (gain limit)^2 / 3.

    Source: Thimm & Fiesler (1997), High-order and multilayer perceptron initialization, which compares intervals of
    fixed width; the default is that of Keras' ``RandomUniform``.

    Parameters
    ----------
    limit : float, default 0.05
        Finite, above 0.
    """
    return _uniform(rng, *_shape(n_in, n_out), gain, _positive("limit", limit) / math.sqrt(3))


def xavier(rng, n_in, n_out, *, gain=1.0):
    """w ~ N(0, gain^2 / n_in): the forward half of Glorot and Bengio's conditions, which many courses call Xavier.

    The same distribution as `lecun_normal`; what other libraries call Xavier is often `glorot_uniform`.

    Source: Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, eq. 10.
    """
    return lecun_normal(rng, n_in, n_out, gain=gain)


def glorot_normal(rng, n_in, n_out, *, gain=1.0):
    """w ~ N(0, gain^2 2 / (n_in + n_out)): a compromise between the forward and the backward condition for phi'(0) = 1.

    Source: Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, eq. 12.
    """
    n_in, n_out = _shape(n_in, n_out)
    return _normal(rng, n_in, n_out, gain, math.sqrt(2 / (n_in + n_out)))


def glorot_uniform(rng, n_in, n_out, *, gain=1.0):
    """w ~ U(-r, r), r = gain sqrt(6 / (n_in + n_out)): the variance of `glorot_normal`.

    Source: Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, eq. 16.
    """
    n_in, n_out = _shape(n_in, n_out)
    return _uniform(rng, n_in, n_out, gain, math.sqrt(2 / (n_in + n_out)))


def he_normal(rng, n_in, n_out, *, gain=1.0):
    """w ~ N(0, gain^2 2 / n_in): as ReLU drops half of the mean square, twice the variance of `lecun_normal`.

    Source: He, Zhang, Ren & Sun (2015), Delving deep into rectifiers, eq. 10.
    """
    n_in, n_out = _shape(n_in, n_out)
    return _normal(rng, n_in, n_out, gain, math.sqrt(2 / n_in))


def he_uniform(rng, n_in, n_out, *, gain=1.0):
    """w ~ U(-r, r), r = gain sqrt(6 / n_in): the variance of `he_normal`.

    Source: He, Zhang, Ren & Sun (2015), Delving deep into rectifiers, eq. 10.
    """
    n_in, n_out = _shape(n_in, n_out)
    return _uniform(rng, n_in, n_out, gain, math.sqrt(2 / n_in))


def lecun_normal(rng, n_in, n_out, *, gain=1.0):
    """w ~ N(0, gain^2 / n_in): standardised inputs give a unit a weighted sum of variance 1.

    Source: LeCun, Bottou, Orr & Müller (1998), Efficient BackProp, eq. 16.
    """
    n_in, n_out = _shape(n_in, n_out)
    return _normal(rng, n_in, n_out, gain, math.sqrt(1 / n_in))


def lecun_uniform(rng, n_in, n_out, *, gain=1.0):
    """w ~ U(-r, r), r = gain sqrt(3 / n_in): the variance of `lecun_normal`.

    Source: LeCun, Bottou, Orr & Müller (1998), Efficient BackProp, eq. 16.
    """
    n_in, n_out = _shape(n_in, n_out)
    return _uniform(rng, n_in, n_out, gain, math.sqrt(1 / n_in))


def orthogonal(rng, n_in, n_out, *, gain=1.0):
    """gain Q, Q uniform among matrices of orthonormal columns (n_in >= n_out) or rows: all singular values are gain.

    Source: Saxe, McClelland & Ganguli (2014), Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks, section 3; Mezzadri (2007), How to generate random matrices from the classical compact groups,
    section 5, for the signs that make Q uniform.
    """
    n_in, n_out = _shape(n_in, n_out)
    Q, R = np.linalg.qr(rng.standard_normal((max(n_in, n_out), min(n_in, n_out))))
    Q *= np.copysign(1.0, np.diagonal(R))
    return _positive("gain", gain) * (Q if n_in >= n_out else np.ascontiguousarray(Q.T))


def scaled_identity(rng, n_in, n_out, *, gain=1.0):
    """w_ij = gain if i = j else 0: each layer passes its input on, cut or filled up with zeros.

    Units beyond n_in have only zero weights and are alike; see `zeros`.

    Source: Le, Jaitly & Hinton (2015), A simple way to initialize recurrent networks of rectified linear units.
    """
    return _positive("gain", gain) * np.eye(*_shape(n_in, n_out))


INITIALIZERS = {
    "zeros": zeros,
    "constant": constant,
    "normal": normal,
    "uniform": uniform,
    "xavier": xavier,
    "glorot_normal": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "orthogonal": orthogonal,
    "scaled_identity": scaled_identity,
}


def _checked(function, rng, n_in, n_out, *, gain=1.0):
    weights = np.asarray(function(rng, n_in, n_out, gain=_positive("gain", gain)))
    if weights.shape != (n_in, n_out):
        raise ValueError(f"initializer must return an array of shape ({n_in}, {n_out}); got {weights.shape}")
    if weights.dtype.kind not in "fiu":
        raise ValueError(f"initializer must return real numbers; got dtype {weights.dtype}")
    finite = np.isfinite(weights)
    if not finite.all():
        raise ValueError(f"initializer must return finite numbers; got {weights[~finite][0]}")
    return weights.astype(np.float64)


def get(spec, activation_definition):
    """The initialiser that a user means for one layer.

    Parameters
    ----------
    spec : str or callable
        A key of `INITIALIZERS`; ``"auto"``, which takes the one that goes with the layer's activation; or a function
        ``f(rng, n_in, n_out, gain=...)`` returning finite real numbers of shape (n_in, n_out), such as
        ``functools.partial(cymlp.initializers.normal, std=0.1)``.
    activation_definition : cymlp.activations.Definition
        Of the layer that the weights are for.

    Returns
    -------
    callable
        ``f(rng, n_in, n_out, *, gain=1.0)``, returning a float64 array (n_in, n_out); it raises ValueError naming
        `initializer` where a user's function returned something else.

    Raises
    ------
    ValueError
        For anything else, naming `initializer`.
    """
    if isinstance(spec, str) and spec == "auto":
        spec = activation_definition.initializer
    if isinstance(spec, str) and spec in INITIALIZERS:
        return INITIALIZERS[spec]
    if callable(spec):
        return functools.partial(_checked, spec)
    raise ValueError(f"initializer must be 'auto', one of {', '.join(INITIALIZERS)}, or a callable; got {spec!r}")

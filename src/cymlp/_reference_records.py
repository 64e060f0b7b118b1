"""What the reference tells of a minibatch where it is asked to: one row for each layer, one number for each column.

engine.py says what the columns are.  Everything is summed in float64.
"""

import math

import numpy as np

__all__ = ["COLUMNS", "norm_of", "write_record"]

COLUMNS = ("activation", "gradient", "zero", "dead", "saturated", "weight", "update", "twins")

# Of a value a = phi(z): |a - middle| > reach where phi'(z) is less than 5 % of its maximum.  tanh' = 1 - a^2 has the
# maximum 1, and sigmoid' = a (1 - a) = (1 - (2 a - 1)^2) / 4 a quarter.
_SATURATED = {"tanh": (0.0, math.sqrt(0.95)), "sigmoid": (0.5, math.sqrt(0.95) / 2)}

# Units are alike where their projections differ by no more than this, relative to those of the layer.
_ALIKE = 1e-5


@np.errstate(all="ignore")
def norm_of(x):
    """The Euclidean norm of all elements."""
    return math.sqrt(np.square(x, dtype=np.float64).sum())


def _mean_square(x):
    return np.square(x, dtype=np.float64).sum() / x.size


@np.errstate(all="ignore")
def write_record(record, inputs, activated, Z, gradients, total, layers, names):
    """Fill in what a minibatch says of all layers; "update" becomes 0.

    Parameters
    ----------
    record : ndarray (L+1, 8) of float64
    inputs : list of ndarray (n, n_l)
        A_0 .. A_{L-1}, as the next layer gets them.
    activated : list of ndarray
        The same before dropout.
    Z : ndarray (n, n_L)
        Of the output.
    gradients : list of ndarray (n, n_l)
        D_1 .. D_L: dW_l = A_{l-1}^T D_l.
    total : float
        The sum of the rows' weights.
    layers : list of (W, b, scale or None)
    names : list of str
        The activations of layers 1 .. L.
    """
    columns = {name: record[:, number] for number, name in enumerate(COLUMNS)}
    record[:] = np.nan
    for layer, A in enumerate(inputs):
        zero = A == 0
        columns["activation"][layer] = _mean_square(A)
        columns["zero"][layer] = zero.sum() / zero.size
        columns["dead"][layer] = zero.all(axis=0).sum() / A.shape[1]
        columns["saturated"][layer] = 0
        if layer > 0 and names[layer - 1] in _SATURATED and not zero.all():
            middle, reach = _SATURATED[names[layer - 1]]
            columns["saturated"][layer] = (np.abs(activated[layer] - middle) > reach)[~zero].mean()
    columns["activation"][-1] = _mean_square(Z)
    for layer, (D, parameters) in enumerate(zip(gradients, layers, strict=True), start=1):
        columns["gradient"][layer] = _mean_square(D) * total**2
        columns["weight"][layer] = norm_of(parameters[0])
        columns["update"][layer] = 0
        columns["twins"][layer] = _twins(*parameters)


def _twins(W, b, scale):
    """The share of units with a twin, by two projections of what makes a unit: weights, bias, scale."""
    rows = [W, b[np.newaxis]] if scale is None else [W, b[np.newaxis], scale[np.newaxis]]
    units = np.concatenate(rows).astype(np.float64)
    projections = np.random.default_rng(0).standard_normal((2, len(units))) @ units
    alike = np.ones((len(b), len(b)), dtype=bool)
    for projection in projections:
        reach = _ALIKE * math.sqrt(_mean_square(projection))
        alike &= np.abs(projection[:, np.newaxis] - projection) <= reach
    return (alike.sum(axis=1) > 1).mean()

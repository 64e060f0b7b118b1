"""The reference's kernels, the unit of verification: one expression for a formula, each with its source.

Arrays are checked, computed with in their dtype, and never changed, but by `update`.  engine.py lists the kernels.
"""

import math

import numpy as np

from ._formulas import ACTIVATIONS, LOSSES, column_statistics, philox, row_statistics, shares
from ._reference_checks import (
    check_array,
    check_count,
    check_limit,
    check_name,
    check_number,
    check_pair,
    check_rule,
    check_seed,
    check_targets,
)

__all__ = [
    "activate",
    "activation_gradient",
    "batch_norm",
    "batch_norm_backward",
    "clip",
    "dense_backward",
    "dense_forward",
    "dropout",
    "layer_norm",
    "layer_norm_backward",
    "limit_columns",
    "loss_and_gradient",
    "sum_of_magnitudes",
    "sum_of_squares",
    "update",
]


@np.errstate(all="ignore")
def activate(name, Z, slope=0.01):
    """A = phi(Z) for Z (n, m), elementwise; "softmax" along the rows.  `slope` is read by "leaky_relu" alone."""
    check_name("name", name, ACTIVATIONS)
    check_array("Z", Z, (None, None))
    return ACTIVATIONS[name][0](Z, float(slope))


@np.errstate(all="ignore")
def activation_gradient(name, Z, slope=0.01):
    """phi'(Z) for Z (n, m), elementwise, not for "softmax".  At z = 0, "relu" has 0 and "leaky_relu" has `slope`."""
    check_name("name", name, tuple(key for key, (_, gradient) in ACTIVATIONS.items() if gradient is not None))
    check_array("Z", Z, (None, None))
    return ACTIVATIONS[name][1](Z, float(slope))


@np.errstate(all="ignore")
def dense_forward(A, W, b):
    """Z = A W + b, (n, n_out), for A (n, n_in), W (n_in, n_out), b (n_out,)."""
    check_array("A", A, (None, None))
    check_array("W", W, (A.shape[1], None), A.dtype)
    check_array("b", b, (W.shape[1],), A.dtype)
    return A @ W + b


@np.errstate(all="ignore")
def dense_backward(A, W, dZ):
    """dA = dZ W^T, dW = A^T dZ, db = sum of dZ over rows: the chain rule through Z = A W + b, dZ (n, n_out).

    Source: Rumelhart, Hinton & Williams (1986), Learning representations by back-propagating errors, eq. 5-8.
    """
    check_array("A", A, (None, None))
    check_array("W", W, (A.shape[1], None), A.dtype)
    check_array("dZ", dZ, (A.shape[0], W.shape[1]), A.dtype)
    return dZ @ W.T, A.T @ dZ, dZ.sum(axis=0)


@np.errstate(all="ignore")
def dropout(A, rate, seed, step, layer, first_row=0):
    """A (n, m) where each unit is 0 with probability p = `rate`, and else times 1 / (1 - p), so that its mean stays.

    Unit j of row i is dropped where word i mod 4 of Philox4x32-10 with the counter (j, i // 4, step mod 2^32, layer)
    and the key (seed mod 2^32, seed // 2^32) is less than floor(p 2^32).  What is dropped is 0 whatever it was.

    Sources: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov (2014), Dropout: a simple way to prevent neural
    networks from overfitting, section 10 (the scaling); Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers:
    as easy as 1, 2, 3 (Philox).

    Parameters
    ----------
    A : ndarray (n, m)
        Activations of a layer, or a gradient by them: the map is linear and its own transpose.
    rate : float, in [0, 1]
    seed : int, in [0, 2^64)
    step : int
        Of the optimiser, from 1.
    layer : int
        0: the inputs.
    first_row : int, default 0
        i of the first row of A: its position in the minibatch.
    """
    check_array("A", A, (None, None))
    check_number("rate", rate, 0, 1)
    check_seed(seed)
    check_count("step", step)
    check_count("layer", layer, least=0)
    check_count("first_row", first_row, least=0)
    rows, columns = np.arange(first_row, first_row + len(A))[:, np.newaxis], np.arange(A.shape[1])
    words = philox((columns, rows // 4, step % 2**32, layer), (seed % 2**32, seed // 2**32))
    dropped = np.choose(rows % 4, words) < int(rate * 2**32)
    return np.where(dropped, A.dtype.type(0), A * A.dtype.type(1 / (1 - rate) if rate < 1 else 0))


def _check_normalization(Z, scale, epsilon, sample_weight=None):
    check_array("Z", Z, (None, None))
    check_array("scale", scale, (Z.shape[1],), Z.dtype)
    if sample_weight is not None:
        check_array("sample_weight", sample_weight, (len(Z),), Z.dtype)
    check_limit("epsilon", epsilon)


@np.errstate(all="ignore")
def batch_norm(Z, scale, shift, sample_weight=None, epsilon=1e-5):
    """Y = scale N + shift with N = (Z - mean) / sqrt(variance + epsilon), by the statistics of the columns of Z (n, m).

    mean = sum_i w_i z_i / sum_i w_i;  variance = sum_i w_i (z_i - mean)^2 / sum_i w_i, the biased one.
    Source: Ioffe & Szegedy (2015), Batch normalization: accelerating deep network training by reducing internal
    covariate shift, algorithm 1.

    Parameters
    ----------
    Z : ndarray (n, m)
    scale, shift : ndarray (m,)
    sample_weight : ndarray (n,), or None for ones
        w, whose sum is greater than 0.
    epsilon : float, greater than 0

    Returns
    -------
    Y : ndarray (n, m)
    mean, variance : ndarray (m,)
    """
    _check_normalization(Z, scale, epsilon, sample_weight)
    check_array("shift", shift, scale.shape, Z.dtype)
    mean, variance = column_statistics(Z, shares(sample_weight, len(Z)))
    Y = scale * ((Z - mean) / np.sqrt(variance + epsilon)) + shift
    return Y.astype(Z.dtype), mean.astype(Z.dtype), variance.astype(Z.dtype)


@np.errstate(all="ignore")
def batch_norm_backward(dY, Z, scale, sample_weight=None, epsilon=1e-5):
    """dZ (n, m), dscale (m,), dshift (m,): the chain rule through `batch_norm`, its statistics included.

    dshift = sum_i dY_i;  dscale = sum_i dY_i N_i;
    dZ_i = scale / sqrt(variance + epsilon) (dY_i - w_i / (sum_k w_k) (dshift + N_i dscale)).
    Source: Ioffe & Szegedy (2015), section 3, with weights.
    """
    _check_normalization(Z, scale, epsilon, sample_weight)
    check_array("dY", dY, Z.shape, Z.dtype)
    share = shares(sample_weight, len(Z))
    mean, variance = column_statistics(Z, share)
    N = (Z - mean) / np.sqrt(variance + epsilon)
    dshift, dscale = dY.sum(axis=0, dtype=np.float64), (dY * N).sum(axis=0)
    dZ = scale / np.sqrt(variance + epsilon) * (dY - share[:, np.newaxis] * (dshift + N * dscale))
    return dZ.astype(Z.dtype), dscale.astype(Z.dtype), dshift.astype(Z.dtype)


@np.errstate(all="ignore")
def layer_norm(Z, scale, shift, epsilon=1e-5):
    """Y = scale N + shift with N = (Z - mean) / sqrt(variance + epsilon), by the statistics of each row of Z (n, m).

    The variance is the biased one; scale and shift are (m,).
    Source: Ba, Kiros & Hinton (2016), Layer normalization, eq. 3 and 4.
    """
    _check_normalization(Z, scale, epsilon)
    check_array("shift", shift, scale.shape, Z.dtype)
    mean, variance = row_statistics(Z)
    return (scale * ((Z - mean) / np.sqrt(variance + epsilon)) + shift).astype(Z.dtype)


@np.errstate(all="ignore")
def layer_norm_backward(dY, Z, scale, epsilon=1e-5):
    """dZ (n, m), dscale (m,), dshift (m,): the chain rule through `layer_norm`, its statistics included.

    dshift = sum_i dY_i;  dscale = sum_i dY_i N_i;  with dN = scale dY and means over each row,
    dZ = (dN - mean(dN) - N mean(dN N)) / sqrt(variance + epsilon).  Source: as for `layer_norm`, by differentiation.
    """
    _check_normalization(Z, scale, epsilon)
    check_array("dY", dY, Z.shape, Z.dtype)
    mean, variance = row_statistics(Z)
    N, dN = (Z - mean) / np.sqrt(variance + epsilon), scale * dY.astype(np.float64)
    dZ = dN - dN.mean(axis=1, keepdims=True) - N * (dN * N).mean(axis=1, keepdims=True)
    dscale, dshift = (dY * N).sum(axis=0), dY.sum(axis=0, dtype=np.float64)
    return (dZ / np.sqrt(variance + epsilon)).astype(Z.dtype), dscale.astype(Z.dtype), dshift.astype(Z.dtype)


@np.errstate(all="ignore")
def loss_and_gradient(loss, activation, Z, y, sample_weight=None, delta=1.0, slope=0.01, clip=0.0):
    """The mean loss sum_i w_i loss_i / sum_i w_i of rows whose output activation is phi(Z), and its derivative by Z.

    The loss of a row is the sum over its outputs.  Where the weights sum to zero, loss and gradient are zero.

    Parameters
    ----------
    loss : str
        A key of `LOSSES`.
    activation : str
        Of the output layer; Z is what it is applied to.
    Z : ndarray (n, m)
    y : ndarray (n, m), or (n,) of int64 labels in [0, m) behind "softmax"
        Rows of targets need not sum to 1.
    sample_weight : ndarray (n,), or None for ones
    delta : float
        Where "huber" turns from a square into a line; the level of "quantile".
    slope : float
        As in `activate`.
    clip : float
        Where > 0, the loss (not the gradient) of cross-entropies is that of probabilities which are at least `clip`,
        and behind a sigmoid computed from p and 1 - p as they are in the dtype: what others report.

    Returns
    -------
    mean_loss : float
    dZ : ndarray (n, m)
    """
    check_pair(loss, activation)
    check_array("Z", Z, (None, None))
    check_targets(y, sample_weight, *Z.shape, Z.dtype, activation)
    weight = np.ones(len(Z)) if sample_weight is None else sample_weight.astype(np.float64)
    total = weight.sum()
    if total == 0:
        return 0.0, np.zeros_like(Z)
    losses, dZ = LOSSES[loss](Z, y, activation, float(slope), float(delta))
    if clip > 0 and loss == "binary_cross_entropy":
        p, least = 1 / (1 + np.exp(-Z)), Z.dtype.type(clip)
        losses = -(y * np.log(np.maximum(p, least)) + (1 - y) * np.log(np.maximum(1 - p, least)))
    losses = losses.sum(axis=1, dtype=np.float64)
    if clip > 0 and loss == "categorical_cross_entropy":
        losses = np.minimum(losses, -math.log(clip))
    mean_loss = weight @ losses / total
    return float(mean_loss), dZ * (weight / total).astype(Z.dtype)[:, np.newaxis]


@np.errstate(all="ignore")
def update(rule, step, w, g, state):
    """One step of an optimiser on the parameters `w`, in place.

    With ``m, v = state``:

    - sgd: m <- momentum m - learning_rate g;  w <- w + m, with Nesterov w <- w + momentum m - learning_rate g.
      Sutskever et al. (2013), eq. 1-4; Bengio et al. (2013), eq. 7.  Without momentum, m is not touched.
    - rmsprop: v <- rho v + (1 - rho) g^2;  w <- w - learning_rate g / (sqrt(v) + epsilon).  Tieleman & Hinton (2012).
    - adam: m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
      w <- w - learning_rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon).
      Kingma & Ba (2015), algorithm 1.
      Where "epsilon_hat" is true, the last divisor is sqrt(v) + epsilon and the factor before m
      learning_rate sqrt(1 - beta2^t) / (1 - beta1^t): end of section 2 there.
    - adamw: adam with "weight_decay", which any rule may have.
    - "weight_decay": w <- w - learning_rate weight_decay w before the step.  Loshchilov & Hutter (2019), algorithm 2.
    - "l2", "l1": g + l2 w + l1 sign(w) takes the place of g, with the w before all this: the gradient of the loss and
      l2 / 2 sum_i w_i^2 + l1 sum_i |w_i|, where sign(0) = 0.

    Parameters
    ----------
    rule : dict
        ``"name"``, what `RULES` lists for it, and what it may have beside by `OPTIONS`.  What is not said above is
        read by `Network.train_epoch` alone.
    step : int
        t = 1, 2, ...
    w, g : ndarray (n,)
        Parameters, which change, and their gradient.
    state : pair of ndarray (n,)
        m and v, which change; zeros before step 1.
    """
    check_rule(rule)
    check_count("step", step)
    check_array("w", w, (None,), writable=True)
    check_array("g", g, w.shape, w.dtype)
    if len(state) != 2:
        raise ValueError(f"state must be a pair of arrays; got {len(state)}")
    for index, vector in enumerate(state):
        check_array(f"state[{index}]", vector, w.shape, w.dtype, writable=True)
    m, v = state
    name, learning_rate = rule["name"], rule["learning_rate"]
    if rule.get("l2", 0) != 0:
        g = g + rule["l2"] * w
    if rule.get("l1", 0) != 0:
        g = g + rule["l1"] * np.sign(w)
    if rule.get("weight_decay", 0) != 0:
        w -= learning_rate * rule["weight_decay"] * w
    if name == "sgd":
        momentum = rule["momentum"]
        if momentum == 0:
            w -= learning_rate * g
            return
        m[:] = momentum * m - learning_rate * g
        w += momentum * m - learning_rate * g if rule["nesterov"] else m
    elif name == "rmsprop":
        v[:] = rule["rho"] * v + (1 - rule["rho"]) * g * g
        w -= learning_rate * g / (np.sqrt(v) + rule["epsilon"])
    else:
        beta1, beta2 = rule["beta1"], rule["beta2"]
        m[:] = beta1 * m + (1 - beta1) * g
        v[:] = beta2 * v + (1 - beta2) * g * g
        if rule.get("epsilon_hat", False):
            w -= learning_rate * math.sqrt(1 - beta2**step) / (1 - beta1**step) * m / (np.sqrt(v) + rule["epsilon"])
        else:
            w -= learning_rate * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + rule["epsilon"])


@np.errstate(all="ignore")
def sum_of_squares(w):
    """sum_i w_i^2 of a vector, in float64."""
    check_array("w", w, (None,))
    return float(np.square(w, dtype=np.float64).sum())


@np.errstate(all="ignore")
def sum_of_magnitudes(w):
    """sum_i |w_i| of a vector, in float64."""
    check_array("w", w, (None,))
    return float(np.abs(w).sum(dtype=np.float64))


@np.errstate(all="ignore")
def clip(g, limit):
    """Each element of a vector to the nearest number in [-limit, limit], limit > 0; NaN stays NaN."""
    check_array("g", g, (None,))
    check_limit("limit", limit)
    return np.clip(g, -float(limit), float(limit))


@np.errstate(all="ignore")
def limit_columns(W, limit):
    """W (n_in, n_out) with each column whose Euclidean norm is above `limit` > 0 scaled down to it.

    A column has the incoming weights of a unit.  Source: Srebro & Shraibman (2005), Rank, trace-norm and max-norm; for
    networks Hinton et al. (2012), Improving neural networks by preventing co-adaptation of feature detectors.
    """
    check_array("W", W, (None, None))
    check_limit("limit", limit)
    norms = np.sqrt(np.square(W, dtype=np.float64).sum(axis=0))
    return W * np.where(norms > limit, limit / norms, 1).astype(W.dtype)

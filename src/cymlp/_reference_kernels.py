"""The reference's kernels, the unit of verification: one expression for a formula, each with its source.

Arrays are checked, computed with in their dtype, and never changed, but by `update`.  engine.py lists the kernels.
"""

import math

import numpy as np

from ._formulas import ACTIVATIONS, LOSSES
from ._reference_checks import check_array, check_count, check_name, check_pair, check_rule, check_targets

__all__ = [
    "activate",
    "activation_gradient",
    "dense_backward",
    "dense_forward",
    "loss_and_gradient",
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
    - adamw: w <- w - learning_rate weight_decay w, then adam.  Loshchilov & Hutter (2019), algorithm 2.
    - Where "l2" is not 0, g + l2 w takes the place of g: the gradient of the loss and l2 / 2 sum_i w_i^2.

    Parameters
    ----------
    rule : dict
        ``"name"``, what `RULES` lists for it, and what it may have beside by `OPTIONS`.  "alpha" is read by
        `Network.train_epoch` alone.
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
        if name == "adamw":
            w -= learning_rate * rule["weight_decay"] * w
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

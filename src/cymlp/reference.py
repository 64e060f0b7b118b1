"""The engine in NumPy: the oracle that the compiled engine is verified against, and the place to read the mathematics.

It has the interface that ``engine.py`` describes and is boring on purpose: one expression for a formula, nothing
optimised, nothing of cymlp imported but ``_formulas``.  `n_threads` is ignored; NumPy's BLAS has its own.

Rows are examples: ``Z = A W + b`` with ``A (n, n_in)``, ``W (n_in, n_out)``, ``b (n_out,)``.  Course notes that put
examples in columns read as ``X_notes = X.T``, ``W_notes = W.T``.  ``dW`` is the derivative of the loss by ``W``.

Arrays are float32 or float64, C-contiguous and of one dtype, in which everything is computed; only the loss is summed
in float64.  Every function raises ValueError for an unknown name, a wrong shape or a read-only output, and TypeError
for a wrong dtype or type; the message names the argument.  Overflow gives no warnings: `train_epoch` reports it.
"""

import itertools
import math

import numpy as np

from ._formulas import ACTIVATIONS, LOSSES

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "RULES",
    "Network",
    "activate",
    "activation_gradient",
    "dense_backward",
    "dense_forward",
    "loss_and_gradient",
    "sum_of_squares",
    "update",
]

# The output activations a loss can be computed behind; every elementwise one where it is not listed.
_OUTPUTS = {
    "poisson": ("sigmoid", "softplus", "exp"),
    "binary_cross_entropy": ("sigmoid",),
    "categorical_cross_entropy": ("softmax",),
}

# What an optimiser's rule holds.
RULES = {
    "sgd": ("learning_rate", "momentum", "nesterov"),
    "rmsprop": ("learning_rate", "rho", "epsilon"),
    "adam": ("learning_rate", "beta1", "beta2", "epsilon"),
    "adamw": ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay"),
}

# What it may hold beside.
OPTIONS = {
    "sgd": ("alpha", "l2"),
    "rmsprop": ("alpha", "l2"),
    "adam": ("epsilon_hat", "alpha", "l2"),
    "adamw": ("epsilon_hat", "alpha", "l2"),
}


def _check_name(argument, name, names):
    if name not in names:
        raise ValueError(f"{argument} must be one of {', '.join(names)}; got {name!r}")


def _check_pair(loss, activation):
    _check_name("loss", loss, LOSSES)
    _check_name("activation", activation, ACTIVATIONS)
    outputs = _OUTPUTS.get(loss, tuple(name for name in ACTIVATIONS if name != "softmax"))
    if activation not in outputs:
        raise ValueError(f"activation must be one of {', '.join(outputs)} with loss {loss!r}; got {activation!r}")


def _check_count(argument, value, least=1):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument} must be an integer; got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{argument} must be at least {least}; got {value}")


def _check_array(argument, array, shape, dtype=None, writable=False):
    """Raise unless `array` is C-contiguous, of `dtype` (None: float32 or float64) and `shape` (None: any length)."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{argument} must be a numpy.ndarray; got {type(array).__name__}")
    if array.dtype not in ((np.float32, np.float64) if dtype is None else (dtype,)):
        expected = "float32 or float64" if dtype is None else np.dtype(dtype).name
        raise TypeError(f"{argument} must have dtype {expected}; got {array.dtype}")
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        expected = str(tuple("any" if want is None else want for want in shape)).replace("'", "")
        raise ValueError(f"{argument} must have shape {expected}; got {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{argument} must be C-contiguous; got strides {array.strides} for shape {array.shape}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{argument} must be writable; got a read-only array")


def _check_targets(y, sample_weight, rows, columns, dtype, activation):
    if isinstance(y, np.ndarray) and y.ndim == 1 and activation == "softmax":
        _check_array("y", y, (rows,), np.int64)
    else:
        _check_array("y", y, (rows, columns), dtype)
    if sample_weight is not None:
        _check_array("sample_weight", sample_weight, (rows,), dtype)


@np.errstate(all="ignore")
def activate(name, Z, slope=0.01):
    """A = phi(Z) for Z (n, m), elementwise; "softmax" along the rows.  `slope` is read by "leaky_relu" alone."""
    _check_name("name", name, ACTIVATIONS)
    _check_array("Z", Z, (None, None))
    return ACTIVATIONS[name][0](Z, float(slope))


@np.errstate(all="ignore")
def activation_gradient(name, Z, slope=0.01):
    """phi'(Z) for Z (n, m), elementwise, not for "softmax".  At z = 0, "relu" has 0 and "leaky_relu" has `slope`."""
    _check_name("name", name, tuple(key for key, (_, gradient) in ACTIVATIONS.items() if gradient is not None))
    _check_array("Z", Z, (None, None))
    return ACTIVATIONS[name][1](Z, float(slope))


@np.errstate(all="ignore")
def dense_forward(A, W, b):
    """Z = A W + b, (n, n_out), for A (n, n_in), W (n_in, n_out), b (n_out,)."""
    _check_array("A", A, (None, None))
    _check_array("W", W, (A.shape[1], None), A.dtype)
    _check_array("b", b, (W.shape[1],), A.dtype)
    return A @ W + b


@np.errstate(all="ignore")
def dense_backward(A, W, dZ):
    """dA = dZ W^T, dW = A^T dZ, db = sum of dZ over rows: the chain rule through Z = A W + b, dZ (n, n_out).

    Source: Rumelhart, Hinton & Williams (1986), Learning representations by back-propagating errors, eq. 5-8.
    """
    _check_array("A", A, (None, None))
    _check_array("W", W, (A.shape[1], None), A.dtype)
    _check_array("dZ", dZ, (A.shape[0], W.shape[1]), A.dtype)
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
    _check_pair(loss, activation)
    _check_array("Z", Z, (None, None))
    _check_targets(y, sample_weight, *Z.shape, Z.dtype, activation)
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
    _check_rule(rule)
    _check_count("step", step)
    _check_array("w", w, (None,), writable=True)
    _check_array("g", g, w.shape, w.dtype)
    if len(state) != 2:
        raise ValueError(f"state must be a pair of arrays; got {len(state)}")
    for index, vector in enumerate(state):
        _check_array(f"state[{index}]", vector, w.shape, w.dtype, writable=True)
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
    _check_array("w", w, (None,))
    return float(np.square(w, dtype=np.float64).sum())


def _check_rule(rule):
    if not isinstance(rule, dict):
        raise TypeError(f"rule must be a dictionary; got {type(rule).__name__}")
    _check_name("rule['name']", rule.get("name"), RULES)
    missing = [key for key in RULES[rule["name"]] if key not in rule]
    if missing:
        raise ValueError(f"rule {rule['name']!r} must have {', '.join(RULES[rule['name']])}; got no {missing[0]}")


def _moments_of(rule):
    """Whether a rule keeps m, and whether it keeps v."""
    return (rule["momentum"] > 0, False) if rule["name"] == "sgd" else (rule["name"] != "rmsprop", True)


class Network:
    """Passes over all layers of a multilayer perceptron.

    Parameters
    ----------
    layer_sizes : sequence of int
        (n_0, ..., n_L), each at least 1, L at least 1.
    activations : sequence of (str, float)
        Name and slope for each of the L layers, the output's last; "softmax" at the output only.
    loss : (str, float)
        Name and delta, or the level of "quantile".
    dtype : float32 or float64

    Notes
    -----
    The parameters W_1 row by row, b_1, W_2, b_2, ... are one vector.  They are zeros until `set_parameters`.
    """

    def __init__(self, layer_sizes, activations, loss, dtype):
        self._dtype = np.dtype(dtype)
        if self._dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64; got {self._dtype}")
        if len(layer_sizes) < 2:
            raise ValueError(f"layer_sizes must have at least 2 entries; got {len(layer_sizes)}")
        for size in layer_sizes:
            _check_count("layer_sizes", size)
        self._sizes = tuple(layer_sizes)
        if len(activations) != len(layer_sizes) - 1:
            raise ValueError(f"activations must have {len(layer_sizes) - 1} entries; got {len(activations)}")
        for name, _ in activations[:-1]:
            _check_name("activations", name, tuple(key for key in ACTIVATIONS if key != "softmax"))
        self._activations = tuple(activations)
        self._loss, self._delta = loss
        self._clip = 0.0
        _check_pair(self._loss, activations[-1][0])
        # For each layer where its weights and its biases are in the vector of parameters.
        self._slices, start = [], 0
        for n_in, n_out in itertools.pairwise(layer_sizes):
            middle, end = start + n_in * n_out, start + n_in * n_out + n_out
            self._slices.append((slice(start, middle), slice(middle, end)))
            start = end
        self._flat = np.zeros(start, self._dtype)
        self.reset_optimizer()

    def _layers(self, flat):
        """Views (W, b) into a vector of parameters or of their gradient, for each layer."""
        shapes = itertools.pairwise(self._sizes)
        return [(flat[w].reshape(shape), flat[b]) for (w, b), shape in zip(self._slices, shapes, strict=True)]

    def set_parameters(self, flat):
        """Copy the vector `flat` into the parameters.  The optimiser's state is left alone."""
        _check_array("flat", flat, self._flat.shape, self._dtype)
        self._flat[:] = flat

    def get_parameters(self, out):
        """Copy the parameters into the vector `out`."""
        _check_array("out", out, self._flat.shape, self._dtype, writable=True)
        out[:] = self._flat

    def is_finite(self):
        """Whether no parameter is infinite or NaN."""
        return bool(np.isfinite(self._flat).all())

    def reset_optimizer(self):
        """Forget the moments and the count of steps, so that the next `train_epoch` may have another rule."""
        self._moments, self._step, self._rule_name = [None, None], 0, None

    def get_optimizer(self):
        """What `set_optimizer` takes: the rule's name, the steps done, and m and v of `update`; None without a rule.

        None stands also for a moment that the rule does not keep; the others are copies.
        """
        if self._rule_name is None:
            return None
        return (self._rule_name, self._step, *(None if vector is None else vector.copy() for vector in self._moments))

    def set_optimizer(self, state):
        """Go on from a state that `get_optimizer` returned; None is `reset_optimizer`."""
        if state is None:
            self.reset_optimizer()
            return
        if not isinstance(state, tuple) or len(state) != 4:
            raise TypeError(f"state must be None or a tuple (name, step, m, v); got {type(state).__name__}")
        name, step, *moments = state
        _check_name("state[0]", name, RULES)
        _check_count("state[1]", step, least=0)
        for index, vector in enumerate(moments, start=2):
            if vector is not None:
                _check_array(f"state[{index}]", vector, self._flat.shape, self._dtype)
        self._moments = [None if vector is None else vector.copy() for vector in moments]
        self._step, self._rule_name = int(step), name

    def _check_inputs(self, X):
        _check_array("X", X, (None, self._sizes[0]), self._dtype)

    def predict(self, X, out, n_threads=1):
        """Write A_L (n, n_L) for the rows of X (n, n_0) into `out`."""
        self._check_inputs(X)
        _check_array("out", out, (len(X), self._sizes[-1]), self._dtype, writable=True)
        out[:] = self._forward(X)[1][-1]

    def answer(self, X, out, threads):
        """None: `predict` has to be called."""

    def forward(self, X, n_threads=1):
        """Lists of Z_l = A_{l-1} W_l + b_l and A_l = phi_l(Z_l), arrays (n, n_l), l = 1 .. L; A_0 = X (n, n_0)."""
        self._check_inputs(X)
        return self._forward(X)

    def _forward(self, X):
        Zs, As = [], [X]
        for (W, b), (name, slope) in zip(self._layers(self._flat), self._activations, strict=True):
            Zs.append(dense_forward(As[-1], W, b))
            As.append(activate(name, Zs[-1], slope))
        return Zs, As[1:]

    def clip_loss(self, clip):
        """Have `gradients` and `train_epoch` report the loss with this `clip`, as in `loss_and_gradient`."""
        self._clip = clip

    def gradients(self, X, y, sample_weight, out, n_threads=1):
        """The mean loss of the rows; writes its gradient by all parameters into the vector `out`.

        dZ_L comes from the loss;  dA_{l-1}, dW_l, db_l from dZ_l by `dense_backward`;  dZ_l = dA_l phi_l'(Z_l).
        X is (n, n_0); y and sample_weight are as in `loss_and_gradient`.
        """
        self._check_inputs(X)
        _check_targets(y, sample_weight, len(X), self._sizes[-1], self._dtype, self._activations[-1][0])
        _check_array("out", out, self._flat.shape, self._dtype, writable=True)
        return self._gradients(X, y, sample_weight, out)

    @np.errstate(all="ignore")
    def _gradients(self, X, y, sample_weight, out):
        Zs, As = self._forward(X)
        name, slope = self._activations[-1]
        mean_loss, dZ = loss_and_gradient(self._loss, name, Zs[-1], y, sample_weight, self._delta, slope, self._clip)
        parameters, gradients = self._layers(self._flat), self._layers(out)
        for layer in reversed(range(len(Zs))):
            A = As[layer - 1] if layer > 0 else X
            dA, gradients[layer][0][:], gradients[layer][1][:] = dense_backward(A, parameters[layer][0], dZ)
            if layer > 0:
                name, slope = self._activations[layer - 1]
                dZ = dA * activation_gradient(name, Zs[layer - 1], slope)
        return mean_loss

    def train_epoch(self, X, y, sample_weight, order, batch_size, rule, n_threads=1, losses=None):
        """One step for each minibatch of `batch_size` rows, in `order`; the last one as it comes.

        Parameters
        ----------
        X : ndarray (n, n_0)
        y, sample_weight
            As in `loss_and_gradient`.
        order : ndarray (any length,) of int64 row numbers, or None for 0 .. n-1
        batch_size : int, at least 1
        rule : dict
            As in `update`, but weight decay and penalty apply to weights only, not to biases.  The penalty of a batch
            is (l2 + alpha / s) / 2 times the sum of the squares of all weights, where s is the sum of its sample
            weights, its rows without them; 0 where s is.  The rule's name stays the same until `reset_optimizer`.
        losses : ndarray (number of batches, 2) of float64, or None
            Gets the mean loss and the penalty of each batch, up to and including one that fails.

        Returns
        -------
        mean_loss : float
            Over the rows used, each with the parameters that its batch met, and with its batch's penalty; weighted by
            `sample_weight`.
        failed : int
            -1, or the number of the first batch whose loss (without the penalty) is not finite; the epoch ends there,
            before its update.
        """
        self._check_inputs(X)
        _check_targets(y, sample_weight, len(X), self._sizes[-1], self._dtype, self._activations[-1][0])
        order = np.arange(len(X), dtype=np.int64) if order is None else order
        _check_array("order", order, (None,), np.int64)
        _check_count("batch_size", batch_size)
        _check_rule(rule)
        if losses is not None:
            _check_array("losses", losses, (-(-len(order) // batch_size), 2), np.float64, writable=True)
        if self._rule_name not in (None, rule["name"]):
            raise ValueError(f"rule must stay {self._rule_name!r} until reset_optimizer(); got {rule['name']!r}")
        self._rule_name = rule["name"]
        for index, needed in enumerate(_moments_of(rule)):
            if needed and self._moments[index] is None:
                self._moments[index] = np.zeros_like(self._flat)
        loss_sum, weight_sum = 0.0, 0.0
        for number, start in enumerate(range(0, len(order), batch_size)):
            rows = order[start : start + batch_size]
            weight = None if sample_weight is None else sample_weight[rows]
            gradient = np.empty_like(self._flat)
            loss = self._gradients(X[rows], y[rows], weight, gradient)
            batch_weight = float(len(rows)) if weight is None else float(weight.sum(dtype=np.float64))
            l2 = rule.get("l2", 0) + rule.get("alpha", 0) / batch_weight if batch_weight > 0 else 0.0
            penalty = l2 / 2 * sum(sum_of_squares(self._flat[weights]) for weights, _ in self._slices) if l2 else 0.0
            if losses is not None:
                losses[number] = loss, penalty
            loss_sum += batch_weight * (loss + penalty)
            weight_sum += batch_weight
            if not math.isfinite(loss):
                return loss_sum / weight_sum, number
            self._step += 1
            self._apply({**rule, "l2": l2}, gradient)
        return (loss_sum / weight_sum if weight_sum > 0 else 0.0), -1

    def _apply(self, rule, gradient):
        for weights, biases in self._slices:
            for part, part_rule in ((weights, rule), (biases, {**rule, "weight_decay": 0.0, "l2": 0.0})):
                w, unused = self._flat[part], np.zeros_like(gradient[part])
                state = [unused if vector is None else vector[part] for vector in self._moments]
                update(part_rule, self._step, w, gradient[part], state)

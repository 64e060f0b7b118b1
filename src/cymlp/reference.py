"""The engine in NumPy: the oracle that the compiled engine is verified against, and the place to read the mathematics.

It has the interface that ``engine.py`` describes and is boring on purpose: one expression for a formula, nothing
optimised, nothing of cymlp imported but its own parts: ``_formulas``, ``_reference_kernels``, where the kernels are,
and ``_reference_checks``.  This file has the passes.  `n_threads` is ignored; NumPy's BLAS has its own.

Rows are examples: ``Z = A W + b`` with ``A (n, n_in)``, ``W (n_in, n_out)``, ``b (n_out,)``.  Course notes that put
examples in columns read as ``X_notes = X.T``, ``W_notes = W.T``.  ``dW`` is the derivative of the loss by ``W``.

Arrays are float32 or float64, C-contiguous and of one dtype, in which everything is computed; only losses, norms and
the statistics of normalisation are summed in float64.  Every function raises ValueError for an unknown name, a wrong shape or a read-only output, and TypeError
for a wrong dtype or type; the message names the argument.  Overflow gives no warnings: `train_epoch` reports it.
"""

import itertools
import math

import numpy as np

from ._formulas import ACTIVATIONS, LOSSES
from ._reference_checks import (
    OPTIONS,
    RULES,
    check_array,
    check_count,
    check_name,
    check_pair,
    check_rule,
    check_targets,
    moments_of,
)
from ._reference_kernels import (
    activate,
    activation_gradient,
    batch_norm,
    batch_norm_backward,
    clip,
    dense_backward,
    dense_forward,
    dropout,
    layer_norm,
    layer_norm_backward,
    limit_columns,
    loss_and_gradient,
    sum_of_magnitudes,
    sum_of_squares,
    update,
)

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "OPTIONS",
    "RULES",
    "Network",
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
            check_count("layer_sizes", size)
        self._sizes = tuple(layer_sizes)
        if len(activations) != len(layer_sizes) - 1:
            raise ValueError(f"activations must have {len(layer_sizes) - 1} entries; got {len(activations)}")
        for name, _ in activations[:-1]:
            check_name("activations", name, tuple(key for key in ACTIVATIONS if key != "softmax"))
        self._activations = tuple(activations)
        self._loss, self._delta = loss
        self._clip = 0.0
        check_pair(self._loss, activations[-1][0])
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
        check_array("flat", flat, self._flat.shape, self._dtype)
        self._flat[:] = flat

    def get_parameters(self, out):
        """Copy the parameters into the vector `out`."""
        check_array("out", out, self._flat.shape, self._dtype, writable=True)
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
        check_name("state[0]", name, RULES)
        check_count("state[1]", step, least=0)
        for index, vector in enumerate(moments, start=2):
            if vector is not None:
                check_array(f"state[{index}]", vector, self._flat.shape, self._dtype)
        self._moments = [None if vector is None else vector.copy() for vector in moments]
        self._step, self._rule_name = int(step), name

    def _check_inputs(self, X):
        check_array("X", X, (None, self._sizes[0]), self._dtype)

    def predict(self, X, out, n_threads=1):
        """Write A_L (n, n_L) for the rows of X (n, n_0) into `out`."""
        self._check_inputs(X)
        check_array("out", out, (len(X), self._sizes[-1]), self._dtype, writable=True)
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
        check_targets(y, sample_weight, len(X), self._sizes[-1], self._dtype, self._activations[-1][0])
        check_array("out", out, self._flat.shape, self._dtype, writable=True)
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
        check_targets(y, sample_weight, len(X), self._sizes[-1], self._dtype, self._activations[-1][0])
        order = np.arange(len(X), dtype=np.int64) if order is None else order
        check_array("order", order, (None,), np.int64)
        check_count("batch_size", batch_size)
        check_rule(rule)
        if losses is not None:
            check_array("losses", losses, (-(-len(order) // batch_size), 2), np.float64, writable=True)
        if self._rule_name not in (None, rule["name"]):
            raise ValueError(f"rule must stay {self._rule_name!r} until reset_optimizer(); got {rule['name']!r}")
        self._rule_name = rule["name"]
        for index, needed in enumerate(moments_of(rule)):
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

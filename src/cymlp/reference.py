"""The engine in NumPy: the oracle that the compiled engine is verified against, and the place to read the mathematics.

It has the interface that ``engine.py`` describes and is boring on purpose: one expression for a formula, nothing
optimised, nothing of cymlp imported but its own parts: ``_formulas``, ``_reference_kernels``, where the kernels are,
``_reference_records`` and ``_reference_checks``.  This file has the passes.  `n_threads` is ignored; NumPy's BLAS has
its own.

Rows are examples: ``Z = A W + b`` with ``A (n, n_in)``, ``W (n_in, n_out)``, ``b (n_out,)``.  Course notes that put
examples in columns read as ``X_notes = X.T``, ``W_notes = W.T``.  ``dW`` is the derivative of the loss by ``W``.

Arrays are float32 or float64, C-contiguous and of one dtype, in which everything is computed; only losses, norms and
the statistics of normalisation are summed in float64.  Every function raises ValueError for an unknown name, a wrong
shape or a read-only output, and TypeError for a wrong dtype or type; the message names the argument.  Overflow gives no
warnings: `train_epoch` reports it.
"""

import itertools
import math

import numpy as np

from ._formulas import ACTIVATIONS, LOSSES, shares, unbiased
from ._reference_checks import (
    OPTIONS,
    RULES,
    check_array,
    check_count,
    check_dropout,
    check_epoch_rule,
    check_name,
    check_normalizations,
    check_pair,
    check_record,
    check_targets,
    check_watched,
    moments_of,
    rule_of_batch,
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
from ._reference_records import COLUMNS, norm_of, write_record

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
    normalizations : sequence of L entries, or None
        For each layer None, ("batch", epsilon, momentum) or ("layer", epsilon); None for the output's.

    Notes
    -----
    Z_l = A_{l-1} W_l + b_l,  A_l = phi_l(Z_l);  where layer l is normalised, Z_l = scale_l norm(A_{l-1} W_l) + b_l, by
    `batch_norm` or `layer_norm`.  The bias is the shift: another one would be cancelled by the mean (Ioffe & Szegedy
    (2015), section 3.2).

    "batch" has running statistics x beside: predictions are normalised with them.  A minibatch in training moves them
    to (1 - momentum) x + momentum new, where new is its mean, or its variance, the unbiased one
    v / (1 - sum_i w_i^2 / (sum_i w_i)^2).  A minibatch in which fewer than 2 rows have a positive weight has no
    variance: it is normalised with running statistics, as constants, and leaves them alone.

    The parameters W_1 row by row, b_1, scale_1 where there is one, W_2, b_2, ... are one vector.  They are zeros until
    `set_parameters`.
    """

    def __init__(self, layer_sizes, activations, loss, dtype, normalizations=None):
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
        self._normalizations = check_normalizations(normalizations, len(activations))
        # For each layer where its weights, biases and scales (None without) are in the vector of parameters.
        self._slices, start = [], 0
        for (n_in, n_out), normalization in zip(itertools.pairwise(layer_sizes), self._normalizations, strict=True):
            ends = [start + n_in * n_out, start + (n_in + 1) * n_out, start + (n_in + 2) * n_out]
            scales = None if normalization is None else slice(ends[1], ends[2])
            self._slices.append((slice(start, ends[0]), slice(ends[0], ends[1]), scales))
            start = ends[1] if scales is None else ends[2]
        self._flat = np.zeros(start, self._dtype)
        # For each "batch" layer running means and variances, (n_l,) each.
        self._statistics = [
            (np.zeros(n_out, self._dtype), np.ones(n_out, self._dtype))
            if normalization and normalization[0] == "batch"
            else None
            for n_out, normalization in zip(layer_sizes[1:], self._normalizations, strict=True)
        ]
        self.reset_optimizer()

    def _layers(self, flat):
        """Views (W, b, scale or None) into a vector of parameters or of their gradient, for each layer."""
        shapes = itertools.pairwise(self._sizes)
        return [
            (flat[w].reshape(shape), flat[b], None if scales is None else flat[scales])
            for (w, b, scales), shape in zip(self._slices, shapes, strict=True)
        ]

    def set_parameters(self, flat, statistics=None):
        """Copy the vector `flat` into the parameters, and statistics likewise.  The optimiser's state is left alone."""
        check_array("flat", flat, self._flat.shape, self._dtype)
        if statistics is not None:
            self.set_statistics(statistics)
        self._flat[:] = flat

    def get_parameters(self, out):
        """Copy the parameters into the vector `out`."""
        check_array("out", out, self._flat.shape, self._dtype, writable=True)
        out[:] = self._flat

    def _running(self):
        """All running statistics in the order of their vector: means of a layer, its variances, the next layer's."""
        return [vector for pair in self._statistics if pair is not None for vector in pair]

    def get_statistics(self, out):
        """Copy the running statistics of all "batch" layers into `out`: means and variances of the first, ..."""
        check_array("out", out, (sum(map(len, self._running())),), self._dtype, writable=True)
        np.concatenate([out[:0], *self._running()], out=out)

    def set_statistics(self, flat):
        """Copy the vector `flat` into the running statistics; they are 0 and 1 before."""
        check_array("flat", flat, (sum(map(len, self._running())),), self._dtype)
        start = 0
        for vector in self._running():
            vector[:] = flat[start : start + len(vector)]
            start += len(vector)

    def is_finite(self):
        """Whether no parameter and no running statistic is infinite or NaN."""
        return all(bool(np.isfinite(vector).all()) for vector in (self._flat, *self._running()))

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

    @np.errstate(all="ignore")
    def _forward(self, X):
        Zs, As = [], [X]
        for layer, (name, slope) in enumerate(self._activations):
            Zs.append(self._normalize(layer, As[-1] @ self._layers(self._flat)[layer][0], None, False)[0])
            As.append(activate(name, Zs[-1], slope))
        return Zs, As[1:]

    def _normalize(self, layer, U, weight, by_batch):
        """Z of a layer from U = A W; and the statistics of this minibatch if it is they that normalise, else None."""
        _, b, scale = self._layers(self._flat)[layer]
        match self._normalizations[layer]:
            case None:
                return U + b, None
            case ("layer", epsilon):
                return layer_norm(U, scale, b, epsilon), None
            case ("batch", epsilon, _) if by_batch:
                Z, mean, variance = batch_norm(U, scale, b, weight, epsilon)
                return Z, (mean, variance)
            case ("batch", epsilon, _):
                mean, variance = self._statistics[layer]
                return scale * ((U - mean) / np.sqrt(variance + epsilon)) + b, None

    def _normalize_backward(self, layer, dZ, U, weight, by_batch):
        """dU, and the gradients by biases and scales (None without), from dZ."""
        _, _, scale = self._layers(self._flat)[layer]
        match self._normalizations[layer]:
            case None:
                return dZ, dZ.sum(axis=0), None
            case ("layer", epsilon):
                dU, dscale, db = layer_norm_backward(dZ, U, scale, epsilon)
            case ("batch", epsilon, _) if by_batch:
                dU, dscale, db = batch_norm_backward(dZ, U, scale, weight, epsilon)
            case ("batch", epsilon, _):
                mean, variance = self._statistics[layer]
                deviation = np.sqrt(variance + epsilon)
                dU, dscale, db = scale / deviation * dZ, (dZ * ((U - mean) / deviation)).sum(axis=0), dZ.sum(axis=0)
        return dU, db, dscale

    def clip_loss(self, clip):
        """Have `gradients` and `train_epoch` report the loss with this `clip`, as in `loss_and_gradient`."""
        self._clip = clip

    def gradients(self, X, y, sample_weight, out, n_threads=1, dropout=None, record=None):
        """The mean loss of the rows; writes its gradient by all parameters into the vector `out`.

        dZ_L comes from the loss;  dA_{l-1}, dW_l, db_l from dZ_l by `dense_backward`;  dZ_l = dA_l phi_l'(Z_l).
        Where a layer is normalised, `batch_norm_backward` or `layer_norm_backward` comes between.
        X is (n, n_0); y and sample_weight are as in `loss_and_gradient`.  The rows are a minibatch: "batch" layers
        use their statistics, and leave the running ones alone.  `dropout`: None, or (seed, step, rates) for what
        a step of `train_epoch` drops: the units of A_0 = X, A_1, ... by `dropout`, backwards the same.
        `record`: None, or float64 (L+1, 8) for what `_reference_records` tells of the layers.
        """
        self._check_inputs(X)
        check_targets(y, sample_weight, len(X), self._sizes[-1], self._dtype, self._activations[-1][0])
        check_array("out", out, self._flat.shape, self._dtype, writable=True)
        check_dropout(dropout, len(self._activations))
        if record is not None:
            check_record("record", record, len(self._sizes))
        return self._gradients(X, y, sample_weight, out, dropout, record)[0]

    @np.errstate(all="ignore")
    def _gradients(self, X, y, weight, out, drops, record=None):
        """The mean loss; and for each layer the statistics of this minibatch where it is they that normalise."""

        def drop(A, layer):
            return A if drops is None else dropout(A, drops[2][layer], drops[0], drops[1], layer)

        by_batch = (len(X) if weight is None else np.count_nonzero(weight > 0)) >= 2
        parameters, gradients = self._layers(self._flat), self._layers(out)
        activated, inputs, Us, Zs, dUs, statistics = [X], [drop(X, 0)], [], [], [], []
        for layer, (name, slope) in enumerate(self._activations):
            Us.append(inputs[-1] @ parameters[layer][0])
            Z, found = self._normalize(layer, Us[-1], weight, by_batch)
            Zs.append(Z)
            statistics.append(found)
            if layer + 1 < len(self._activations):
                activated.append(activate(name, Z, slope))
                inputs.append(drop(activated[-1], layer + 1))
        mean_loss, dZ = loss_and_gradient(self._loss, name, Zs[-1], y, weight, self._delta, slope, self._clip)
        for layer in reversed(range(len(Zs))):
            dU, gradients[layer][1][:], dscale = self._normalize_backward(layer, dZ, Us[layer], weight, by_batch)
            dUs.insert(0, dU)
            if dscale is not None:
                gradients[layer][2][:] = dscale
            dA, gradients[layer][0][:], _ = dense_backward(inputs[layer], parameters[layer][0], dU)
            if layer > 0:
                name, slope = self._activations[layer - 1]
                dZ = drop(dA, layer) * activation_gradient(name, Zs[layer - 1], slope)
        if record is not None:
            names = [name for name, _ in self._activations]
            write_record(record, inputs, activated, Zs[-1], dUs, _total(weight, len(X)), parameters, names)
        return mean_loss, statistics

    def train_epoch(
        self, X, y, sample_weight, order, batch_size, rule, n_threads=1, losses=None, norms=None, watched=None
    ):
        """One step for each minibatch of `batch_size` rows, in `order`; the last one as it comes.

        A step: gradient of the mean loss, its norm, clipping, `update` with penalties and decay, max-norm; then running
        statistics move.

        Parameters
        ----------
        X : ndarray (n, n_0)
        y, sample_weight
            As in `loss_and_gradient`.
        order : ndarray (any length,) of int64 row numbers, or None for 0 .. n-1
        batch_size : int, at least 1
        rule : dict
            As in `update`.  Decay and penalties apply to weights only, or with "penalize_biases" true to biases and
            scales, too.  The penalty of a batch is (l2 + alpha / s) / 2 sum w^2 + l1 sum |w|, where s is the sum of its
            sample weights, its rows without them; 0 where s is.  The rule's name stays the same until
            `reset_optimizer`.  Besides:

            - "max_norm": the limit for `limit_columns` of every W after each update.
            - "clip_value", "clip_norm", "clip_layer_norm": one of them, c > 0.  The gradient g without penalties is
              limited by `clip`; or times c / |g| where |g| > c, over all parameters, or over those of each layer.
              Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks, algorithm 1.
            - "dropout" and "seed": the rates of A_0 = X, A_1 .. A_{L-1} for `dropout`.
            - "learning_rate", "momentum", "beta1", "weight_decay" may be float64 arrays, one number for each batch;
              "dropout" such an array of one row for each batch.
        losses : ndarray (number of batches, 2) of float64, or None
            Gets the mean loss and the penalty of each batch, up to and including one that fails.
        norms : ndarray (number of batches,) of float64, or None
            Gets the Euclidean norm of the gradient of each batch's mean loss before clipping, without penalties; up to
            and including one that fails, whose norm is NaN if its loss is not finite.
        watched : (batches, records) or None
            batches: int64, increasing, numbers of minibatches whose records are wanted; records: (len(batches), L+1, 8)
            of float64, written up to and including one that fails.

        Returns
        -------
        mean_loss : float
            Over the rows used, each with the parameters that its batch met, and with its batch's penalty; weighted by
            `sample_weight`.
        failed : int
            -1, or the number of the first batch whose loss (without the penalty) is not finite, or the norm of whose
            gradient is not where that clips; the epoch ends there, before its update.
        """
        self._check_inputs(X)
        check_targets(y, sample_weight, len(X), self._sizes[-1], self._dtype, self._activations[-1][0])
        order = np.arange(len(X), dtype=np.int64) if order is None else order
        check_array("order", order, (None,), np.int64)
        check_count("batch_size", batch_size)
        n_batches = -(-len(order) // batch_size)
        check_epoch_rule(rule, n_batches, len(self._activations))
        if losses is not None:
            check_array("losses", losses, (n_batches, 2), np.float64, writable=True)
        if norms is not None:
            check_array("norms", norms, (n_batches,), np.float64, writable=True)
        wanted = {}
        if watched is not None:
            check_watched(watched, n_batches, len(self._sizes))
            wanted = dict(zip(watched[0].tolist(), watched[1], strict=True))
        if self._rule_name not in (None, rule["name"]):
            raise ValueError(f"rule must stay {self._rule_name!r} until reset_optimizer(); got {rule['name']!r}")
        self._rule_name = rule["name"]
        for index, needed in enumerate(moments_of(rule)):
            if needed and self._moments[index] is None:
                self._moments[index] = np.zeros_like(self._flat)
        clips_by_norm = rule.get("clip_norm") is not None or rule.get("clip_layer_norm") is not None
        loss_sum, weight_sum = 0.0, 0.0
        for number, start in enumerate(range(0, len(order), batch_size)):
            rows = order[start : start + batch_size]
            weight = None if sample_weight is None else sample_weight[rows]
            step, gradient = rule_of_batch(rule, number), np.empty_like(self._flat)
            drops = None if rule.get("dropout") is None else (rule["seed"], self._step + 1, step["dropout"])
            record = wanted.get(number)
            loss, statistics = self._gradients(X[rows], y[rows], weight, gradient, drops, record)
            batch_weight = _total(weight, len(rows))
            step["l1"] = rule.get("l1", 0) if batch_weight > 0 else 0.0
            step["l2"] = rule.get("l2", 0) + rule.get("alpha", 0) / batch_weight if batch_weight > 0 else 0.0
            penalty = self._penalty(step)
            if losses is not None:
                losses[number] = loss, penalty
            loss_sum += batch_weight * (loss + penalty)
            weight_sum += batch_weight
            norm = math.sqrt(sum_of_squares(gradient)) if math.isfinite(loss) else math.nan
            if norms is not None:
                norms[number] = norm
            if not math.isfinite(loss):
                return loss_sum / weight_sum, number
            if clips_by_norm and not math.isfinite(norm):
                return loss_sum / weight_sum, number
            self._step += 1
            before = None if record is None else self._flat.copy()
            self._apply(step, self._clipped(step, gradient))
            if record is not None:
                moved = self._layers(self._flat.astype(np.float64) - before)
                record[1:, COLUMNS.index("update")] = [norm_of(W) for W, _, _ in moved]
            self._move_statistics(statistics, weight, len(rows))
        return (loss_sum / weight_sum if weight_sum > 0 else 0.0), -1

    def _parts(self, rule):
        """The slices of a vector of parameters: [those with penalties], [those without]."""
        weights, *others = zip(*self._slices, strict=True)
        others = [part for parts in others for part in parts if part is not None]
        return ([*weights, *others], []) if rule.get("penalize_biases", False) else (list(weights), others)

    def _penalty(self, rule):
        """l2 / 2 sum w^2 + l1 sum |w|."""
        penalized = [self._flat[part] for part in self._parts(rule)[0]]
        squares = rule["l2"] / 2 * sum(map(sum_of_squares, penalized)) if rule["l2"] else 0.0
        return squares + (rule["l1"] * sum(map(sum_of_magnitudes, penalized)) if rule["l1"] else 0.0)

    def _clipped(self, rule, gradient):
        """The gradient as a rule limits it."""
        if rule.get("clip_value") is not None:
            return clip(gradient, rule["clip_value"])
        if rule.get("clip_norm") is not None:
            return _scaled_down(gradient, float(rule["clip_norm"]))
        if rule.get("clip_layer_norm") is not None:
            layers = (slice(parts[0].start, (parts[2] or parts[1]).stop) for parts in self._slices)
            return np.concatenate([_scaled_down(gradient[layer], float(rule["clip_layer_norm"])) for layer in layers])
        return gradient

    @np.errstate(all="ignore")
    def _apply(self, rule, gradient):
        """The update of all parameters, and max-norm."""
        bare = {**rule, "weight_decay": 0.0, "l2": 0.0, "l1": 0.0}
        for part_rule, parts in zip((rule, bare), self._parts(rule), strict=True):
            for part in parts:
                w, unused = self._flat[part], np.zeros_like(gradient[part])
                state = [unused if vector is None else vector[part] for vector in self._moments]
                update(part_rule, self._step, w, gradient[part], state)
        if rule.get("max_norm") is not None:
            for W, _, _ in self._layers(self._flat):
                W[:] = limit_columns(W, rule["max_norm"])

    @np.errstate(all="ignore")
    def _move_statistics(self, statistics, weight, rows):
        """Running ones towards those of a minibatch."""
        for running, found, normalization in zip(self._statistics, statistics, self._normalizations, strict=True):
            if found is not None:
                momentum, new = normalization[2], (found[0], unbiased(found[1], shares(weight, rows)))
                for old, vector in zip(running, new, strict=True):
                    old[:] = (1 - momentum) * old + momentum * vector


def _total(weight, rows):
    """The sum of the weights of rows, None for ones."""
    return float(rows) if weight is None else float(weight.sum(dtype=np.float64))


def _scaled_down(g, limit):
    """A vector times limit / |g| where its norm |g| is above `limit`."""
    norm = math.sqrt(sum_of_squares(g))
    return g * (limit / norm) if norm > limit else g

"""The seam: what an engine is, the choice of one, and how many threads a call may take.

Two modules implement the interface below with the same names, shapes and errors: ``reference`` in NumPy (the oracle)
and ``_engine`` (compiled).  Everything above this file talks to an engine through it and does not know which one it
has.

Arrays at the seam are C-contiguous, aligned, in native byte order and of one dtype (float32 or float64) that was
fixed when the network was made; rows are examples.  Whoever calls has checked the *content* (finite values, labels in
range); engines check *shapes and dtypes* only, and raise ValueError or TypeError.  Shapes: ``X (n, n_0)``,
``y (n, n_L)`` of the network's dtype, or ``y (n,)`` of int64 class labels behind a softmax output;
``sample_weight (n,)`` of the dtype or None.  A flat vector of parameters holds W_1 (n_0, n_1) row by row, b_1 (n_1,),
scale_1 (n_1,) if layer 1 is normalised, W_2, b_2, ... in this order.

n_threads is a number of threads, or -k for "at most k, whatever is faster": results have the same bits for all.  The
compiled Network lets Python threads take turns: a pass that changes something is alone, and using the network in the
thread of such a pass (from a signal handler) is a RuntimeError.  The reference leaves that to its caller.

Kernels, the unit of verification; all return new arrays::

    activate(name, Z, slope=0.01) -> A                       (n, m); "softmax" works along the rows
    activation_gradient(name, Z, slope=0.01) -> dA/dZ        (n, m); elementwise activations, not softmax
    dense_forward(A, W, b) -> Z                              Z = A W + b
    dense_backward(A, W, dZ) -> dA, dW, db                   dA = dZ W^T, dW = A^T dZ, db = sum of dZ over rows
    loss_and_gradient(loss, activation, Z, y, sample_weight=None, delta=1.0, slope=0.01, clip=0.0) -> mean loss, dZ
                                                             Z is the output layer before its activation; dZ = dloss/dZ;
                                                             delta: of "huber", or the level of "quantile"; clip: the
                                                             loss of cross-entropies, not dZ, is that of probabilities
                                                             no nearer to 0 and 1 than this
    dropout(A, rate, seed, step, layer, first_row=0) -> A'   (n, m): units to 0, or times 1 / (1 - rate); see below
    batch_norm(Z, scale, shift, sample_weight=None, epsilon=1e-5) -> Y, mean, variance
                                                             of a minibatch whose weights do not sum to 0, by columns:
                                                             Y = scale (Z - mean) / sqrt(variance + epsilon) + shift,
                                                             weighted mean and biased variance
    batch_norm_backward(dY, Z, scale, sample_weight=None, epsilon=1e-5) -> dZ, dscale, dshift
    layer_norm(Z, scale, shift, epsilon=1e-5) -> Y           the same by the mean and the biased variance of each row
    layer_norm_backward(dY, Z, scale, epsilon=1e-5) -> dZ, dscale, dshift
    update(rule, step, w, g, state) -> None                  one step of an optimiser on vectors, in place; step counts
                                                             from 1, state is a pair like w, zeros before step 1;
                                                             weight decay, "l2" and "l1" apply to all of w
    sum_of_squares(w), sum_of_magnitudes(w) -> float         of a vector
    clip(g, limit) -> g'                                     a vector's elements to [-limit, limit]
    limit_columns(W, limit) -> W'                            columns of a norm above `limit` scaled down to it

Passes, the unit of speed::

    class Network(layer_sizes, activations, loss, dtype, normalizations=None):
        # layer_sizes: (n_0, ..., n_L); activations: L pairs (name, slope), one for each layer, the output's last;
        # loss: (name, delta), or ("quantile", level); normalizations: None, or for each layer None,
        # ("batch", epsilon, momentum) or ("layer", epsilon), the output's None.  Parameters are zeros until set.
        #
        # Z_l = A_{l-1} W_l + b_l, A_l = phi_l(Z_l); of a normalised layer Z_l = scale_l norm(A_{l-1} W_l) + b_l: its
        # bias is the shift.  "batch" layers have running statistics, with which predictions are normalised.
        set_parameters(flat, statistics=None)                copies; the optimiser's state is left alone, and statistics
                                                             unless they are given, too: then both change at once
        get_parameters(out)                                  writes the flat vector into out
        set_statistics(flat)                                 copies running statistics: of each "batch" layer the means
                                                             (n_l,), the variances (n_l,); 0 and 1 before
        get_statistics(out)                                  writes this vector into out
        is_finite() -> bool                                  whether no parameter or statistic is infinite or NaN
        predict(X, out, n_threads=1)                         writes the output's activations, (n, n_L), into out
        answer(X, out, threads) -> A_L or None
            # predict for the usual case at the least cost: X and `out` (None: a new array) may be anything, of any
            # content, and threads(flops) returns an n_threads.  None where one of them has to be converted, or refused;
            # `out` then is as it was, and it takes checks and `predict` to go on.
        forward(X, n_threads=1) -> [Z_1 .. Z_L], [A_1 .. A_L]
        clip_loss(clip)                                      what `gradients` and `train_epoch` take for `clip`
        gradients(X, y, sample_weight, out, n_threads=1, dropout=None, record=None) -> mean loss (float)
            # writes the flat gradient into out.  The rows are a minibatch: "batch" layers take their statistics, and
            # running ones stay.  dropout: None, or (seed, step, rates): what a step of train_epoch would drop.
            # record: None, or float64 (L+1, 8), writable: gets what is told of the layers, see below.
        reset_optimizer()                                    forgets moments and the count of steps
        get_optimizer() -> None or (rule's name, step, m, v) a copy: steps done, moments as flat vectors, or None for
                                                             one that the rule does not keep; None before an epoch
        set_optimizer(state)                                 copies what get_optimizer returned, of any engine
        train_epoch(X, y, sample_weight, order, batch_size, rule, n_threads=1, losses=None, norms=None, watched=None)
                -> (loss, failed)
            # One step for each minibatch order[0:batch_size], order[batch_size:2 batch_size], ..., the last one as it
            # comes; order: int64 row numbers, or None for 0 .. n-1.  rule: the dictionary of
            # optimizers.<Class>.rule(), and what is said below; its name must stay the same until reset_optimizer().
            # loss: the mean over all rows of the loss each had when its batch was used, and of its batch's penalty,
            # weighted by sample_weight.  failed: -1, or the number of the first batch whose loss without the penalty
            # is not finite, or whose gradient's norm is not where "clip_norm" or "clip_layer_norm" asks for it; the
            # epoch ends there, before that batch's update; running statistics may have followed it.  A batch whose
            # weights sum to zero has loss 0, penalty 0 and gradient 0.  losses: float64 (number of batches, 2),
            # writable; for each batch, also for one that failed, its mean loss and its penalty.  norms: float64 (number
            # of batches,), writable; the Euclidean norm of the gradient of each batch's mean loss by all parameters,
            # before clipping, without penalties, also for one that failed: NaN if its loss is not finite.
            # watched: None, or (batches, records): batches, int64, increasing numbers of minibatches of this call, and
            # records, float64 (len(batches), L+1, 8), writable, which get what is told of the layers in these, see
            # below, up to and including one that failed.  Neither what comes out nor parameters differ in a bit from
            # those without it.
            # KeyboardInterrupt and other exceptions of signal handlers come through; parameters and statistics are then
            # those of some moment within the epoch, and the caller restores what it wants.

What a rule may have beside its own keys, with any optimiser.  A step goes in this order: gradient g of the batch's mean
loss, its norm, clipping, update with penalties and decay, max-norm::

    "l2", "alpha", "l1"     penalties: l2/2 sum w^2, alpha/2 sum w^2 / s and l1 sum |w| are added to the loss of each
                            batch; s: the sum of its sample weights (its rows without them); sign(0) = 0
    "weight_decay"          w <- w - learning_rate weight_decay w before the step ("adamw" must have it)
    "penalize_biases"       False: all these count for weights only; True: for biases and scales, too
    "max_norm"              c > 0: then columns of every W (incoming weights of a unit) are limited to the norm c
    "clip_value"            c > 0, also infinite: g is limited to [-c, c] element by element;
    "clip_norm"             or to g c / |g| where |g| > c;
    "clip_layer_norm"       or this for W_l, b_l, scale_l of each layer by itself.  More than one: ValueError
    "dropout", "seed"       L rates in [0, 1], of A_0 = X, A_1, ... A_{L-1}; an integer in [0, 2^64)

"learning_rate", "momentum" of "sgd", "beta1" and "weight_decay" may be float64 arrays (number of batches,), "dropout"
one (number of batches, L): numbers for each batch.  Each batch is as with these numbers alone: where its momentum is 0,
say, it leaves the moments as they are.

Dropout: unit j of row i (its position in the minibatch) of A_l is dropped in step t (the count of the optimiser's
steps, this one included) where word i mod 4 of Philox4x32-10 with the counter (j, i // 4, t mod 2^32, l) and the key
(seed mod 2^32, seed // 2^32) is less than floor(p 2^32).  The others are multiplied by 1 / (1 - p).

Running statistics: after each minibatch in training r <- (1 - momentum) r + momentum x, where x is its mean, or its
unbiased variance v / (1 - sum w_i^2 / (sum w_i)^2).  Where fewer than 2 rows have a positive weight, running statistics
normalise them, as constants for the gradient, too, and stay.

What is told of the layers in a minibatch: a table with a row for each layer, 0 for the inputs, L for the output, and a
column for each name in MONITORED.  A_l is what layer l hands on, after dropout; D_l the gradient of the minibatch's
mean loss with dW_l = A_{l-1}^T D_l: that by Z_l, or, where layer l is normalised, that by A_{l-1} W_l.  No clipping and
no penalty is in it.  All is of the parameters that the minibatch met, and summed in double::

    activation  the mean square of A_l over rows and units; l = L: of Z_L, before the output activation
    gradient    the mean square over rows and units of D_l times the sum of the rows' weights (their number without
                weights): of the gradient of each example's own weighted loss, whatever the size of the minibatch
    zero        the share of the elements of A_l that are exactly 0
    dead        the share of the units of A_l that are exactly 0 in every row
    saturated   of "tanh" and "sigmoid": the share, among the elements of A_l that are not exactly 0, of those with
                phi'(z) below 5 % of its maximum, |tanh| > sqrt(0.95) or |2 sigmoid - 1| > sqrt(0.95), before dropout's
                factor 1 / (1 - p); 0 where all elements are 0, for other activations and for l = 0
    weight      the Frobenius norm of W_l, without biases and scales
    update      the Frobenius norm of W_l after the step less W_l before it, as they are in the dtype, with decay and
                max-norm; 0 from `gradients`, and for a minibatch that failed
    twins       the share of the units of layer l that have a twin in it: another unit with the same incoming weights,
                bias and scale, as far as two projections on fixed vectors tell, which each engine chooses; a projection
                is the same where it differs by at most 1e-5 times the root mean square of the layer's

NaN in gradient, weight, update and twins for l = 0, and in zero, dead and saturated for l = L.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np

from . import _engine, reference

__all__ = ["ENGINES", "MONITORED", "available_cpus", "choose", "resolve_n_threads", "show_config"]

ENGINES = ("compiled", "reference")

# What engines tell of a layer in a minibatch: the columns of a record.
MONITORED = ("activation", "gradient", "zero", "dead", "saturated", "weight", "update", "twins")

# Below this much work for each thread a step is faster with fewer threads (docs/design.md has the measurement).
MIN_FLOPS_PER_THREAD = 250_000

# More threads than this are never started, whatever is asked for: OpenMP ends the process where it cannot start one.
MAX_THREADS = 256

# Where files of the system begin.
_ROOT = Path("/")


def choose(name):
    """The module that implements the interface: ``"compiled"`` or ``"reference"``."""
    if name == "compiled":
        return _engine
    if name == "reference":
        return reference
    raise ValueError(f"engine must be 'compiled' or 'reference'; got {name!r}")


def _cgroup_quota(root=_ROOT):
    """The smallest CPU quota (in CPUs, a float) of this process's control groups and their parents, or None."""
    quotas = []
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in memberships:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":  # version 2: one hierarchy, "max 100000" or "150000 100000"
            base, read = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):  # version 1
            base, read = root / "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            quota = read(base.joinpath(*parts[:depth]))
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(folder):
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder):
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None


@cache
def _own_quota():
    """Read once: a quota seldom changes, and reading it costs more than a small prediction."""
    return _cgroup_quota()


def available_cpus(root=_ROOT):
    """How many CPUs this process may use, and why: affinity, then a control group's quota (rounded up)."""
    if hasattr(os, "sched_getaffinity"):
        count, why = len(os.sched_getaffinity(0)), "CPU affinity"
    else:
        count, why = os.cpu_count() or 1, "CPU count"
    quota = _own_quota() if root is _ROOT else _cgroup_quota(root)
    if quota is not None and (limit := max(1, -int(-quota // 1))) < count:
        count, why = limit, "control group quota"
    return count, why


def _thread_limit():
    """The most threads that a call takes by itself, and why."""
    count, why = available_cpus()
    allowed = _engine.max_threads()
    if allowed < count:
        count, why = allowed, "OMP_NUM_THREADS or a limit by threadpoolctl" if _engine.openmp_version() else "no OpenMP"
    return count, why


def resolve_n_threads(n_threads, flops):
    """The number of threads that a pass is given: 1, or -k for at most k of them.

    Parameters
    ----------
    n_threads : int or None
        The most that the user allows.  None takes what affinity, control groups, OMP_NUM_THREADS and threadpoolctl
        allow, and one thread where the work is too little for a second to pay.
    flops : float
        Floating point operations of the call, or of one training step.
    """
    if n_threads is None:
        worth = int(flops / MIN_FLOPS_PER_THREAD)
        n_threads = 1 if worth < 2 else min(_thread_limit()[0], worth)
    return 1 if n_threads == 1 else -min(n_threads, MAX_THREADS)


def show_config():
    """What this installation runs on.

    Returns
    -------
    config : dict
        ``version``, ``instruction_set`` (in use) and ``instruction_sets`` (all that this machine can run),
        ``threads`` (the most that a call takes by itself) and ``threads_because``, ``openmp`` (date of the standard,
        or None), ``numpy``, ``python``.
    """
    import platform

    from . import __version__

    threads, why = _thread_limit()
    return {
        "version": __version__,
        "instruction_set": _engine.isa(),
        "instruction_sets": list(_engine.available_isas()),
        "threads": threads,
        "threads_because": why,
        "openmp": _engine.openmp_version() or None,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }

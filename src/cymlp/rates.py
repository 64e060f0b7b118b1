"""The learning-rate range test: the loss while the rate rises step by step, and the rate at which it falls best."""

import copy
import math
from dataclasses import dataclass

import numpy as np

from . import _scheduling, _validation, optimizers
from .network import MLP

__all__ = ["RangeTest", "learning_rate_range"]

# Steps whose losses are averaged on either side of one, as a share of all: with 200 steps from 1e-7 to 10, 0.4 powers
# of ten.  Shorter, and the steepest descent is where minibatches happen to be easy; longer, and it is flattened.
_WINDOW = 0.05

# The fewest steps of which a slope means something.
_MIN_STEPS = 10


@dataclass(frozen=True, slots=True, eq=False)
class RangeTest:
    """What `learning_rate_range` has found.

    Parameters
    ----------
    learning_rates : ndarray (n,)
        Of each step that was made, rising.
    losses : ndarray (n,)
        The mean loss of each step's minibatch, before its update.
    smoothed : ndarray (n,)
        Averages over neighbouring steps.
    suggestion : float or None
        The rate at which `smoothed` falls fastest, in relation to the logarithm of the rate; None where it never falls.

    Notes
    -----
    The suggestion is a rate to begin with, or the middle of a range to try: for `cymlp.schedules.OneCycle`, whose
    peak may be higher than a constant rate, up to where the curve is lowest.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None

    def plot(self, to=None, title=None):
        """Draw the losses by the rate.

        Parameters
        ----------
        to : path or matplotlib Axes, optional
            A .png, .svg or .pdf file to write, or where to draw; default: a new figure of pyplot's.
        title : str, optional
            Of the file's picture.

        Returns
        -------
        matplotlib Axes
            None where a file was written.
        """
        from . import plots

        if to is None or hasattr(to, "plot"):
            return plots.rate_curve(self, to)
        plots.save_rate_curve(to, self, title)
        return None


def learning_rate_range(
    network,
    X,
    y,
    *,
    lowest=1e-7,
    highest=10.0,
    steps=200,
    batch_size=32,
    optimizer="adam",
    sample_weight=None,
    limit=4.0,
):
    """Try learning rates on a copy of a network: one minibatch each, from the lowest to the highest.

    Parameters
    ----------
    network : MLP
        Stays exactly as it is, its random numbers and the state of its optimiser included.
    X, y, sample_weight
        As in `MLP.train`.
    lowest, highest : float
        The rates of the first and the last step, greater than 0; those between have equal ratios.
    steps : int, default 200
        At least 10.
    batch_size : int, default 32
        Rows of a minibatch, drawn without replacement until less than that are left, then anew.
    optimizer : str or optimiser, default "adam"
        A name from `cymlp.optimizers.OPTIMIZERS` other than "lbfgs", or an instance, whose learning rate is not read.
        It begins without moments.
    limit : float, default 4.0
        Greater than 1.  The test ends before the last step where the average loss has grown to that many times the
        least, and beyond the first one, or is not finite.

    Returns
    -------
    RangeTest

    Raises
    ------
    ValueError, TypeError
        For wrong arguments.
    ArithmeticError
        Where the loss stops being finite within the first steps.

    Notes
    -----
    Smith (2017), Cyclical learning rates for training neural networks, section 3.3, where the rate rises linearly; an
    exponential rise, and the steepest descent as suggestion, are what fast.ai made of it.

    The average of the loss at step i has the weights exp(-|i - j| / (steps / 20)) for all steps j.

    Examples
    --------
    >>> X = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> net = MLP([1, 1], random_state=0, engine="reference")
    >>> test = learning_rate_range(net, X, 3 * X + 1, optimizer="sgd", batch_size=8)
    >>> 0.01 < test.suggestion < 1
    True
    """
    if not isinstance(network, MLP):
        raise TypeError(f"network must be an MLP; got {type(network).__name__}")
    rates = _rates(lowest, highest, _validation.as_count(steps, "steps", _MIN_STEPS))
    batch_size = _validation.as_count(batch_size, "batch_size")
    if not (_scheduling.is_finite(limit) and limit > 1):
        raise ValueError(f"limit must be a finite number > 1; got {limit!r}")
    optimizer = optimizers.get(optimizer)
    if isinstance(optimizer, optimizers.LBFGS):
        raise ValueError("optimizer must be one that takes a learning rate; got 'lbfgs'")
    trial = copy.deepcopy(network)
    data = trial._check_data(X, y, sample_weight)
    if not trial._in_step:
        trial._bring_in_step(data[0].dtype)
    trial._network.reset_optimizer()
    decay = math.exp(-1 / (_WINDOW * len(rates)))
    losses = _rise(trial, data, batch_size, optimizer, rates, decay, limit)
    ceiling = _ceiling(_averages(losses, decay), limit)
    smoothed = _two_sided(np.minimum(losses, ceiling), decay)
    rates = rates[: len(losses)]
    return RangeTest(rates, losses, smoothed, _steepest(rates, smoothed))


def _rates(lowest, highest, steps):
    for name, value in (("lowest", lowest), ("highest", highest)):
        if not (_scheduling.is_finite(value) and value > 0):
            raise ValueError(f"{name} must be a finite number > 0; got {value!r}")
    if not lowest < highest:
        raise ValueError(f"highest must be above lowest, {lowest!r}; got {highest!r}")
    return np.geomspace(lowest, highest, steps)


def _rise(network, data, batch_size, optimizer, rates, decay, limit):
    """The loss of one minibatch after the other, as far as it is worth it."""
    X, y, sample_weight = data
    rows = np.arange(len(X)) if sample_weight is None else np.flatnonzero(sample_weight)
    batch_size = min(batch_size, len(rows))
    n_threads = network._threads(6.0 * network._n_weights * batch_size)
    rule = optimizer.rule()
    bound = {
        name: _scheduling.bind(rule[name], len(rates), f"{type(optimizer).__name__}.{name}")
        for name in optimizers.SCHEDULED
        if name in rule and name != "learning_rate"
    }
    order, losses, average, least, first = np.empty(0, np.int64), [], _Average(decay), math.inf, None
    for step, rate in enumerate(rates.tolist()):
        if len(order) < batch_size:
            order = network._rng.permutation(rows).astype(np.int64, copy=False)
        batch, order = order[:batch_size], order[batch_size:]
        rule |= {"learning_rate": rate, **{name: values.values(step, 1) for name, values in bound.items()}}
        loss, failed = network._network.train_epoch(X, y, sample_weight, batch, batch_size, rule, n_threads)
        if failed >= 0 or not math.isfinite(loss):
            break
        losses.append(loss)
        mean = average.add(loss)
        first, least = (mean, mean) if first is None else (first, min(least, mean))
        if mean > _ceiling((first, least), limit):
            break
    if len(losses) < _MIN_STEPS:
        raise ArithmeticError(
            f"the loss became infinite or NaN, or more than {limit:g} times the least, in step {len(losses)} of the "
            f"learning-rate range test, at {rates[max(0, len(losses) - 1)]:.3g}; try a lower `lowest`, or inputs and "
            "targets scaled to about 1"
        )
    return np.array(losses)


class _Average:
    """The average of what has been added, weighted by decay^age."""

    def __init__(self, decay):
        self.decay = decay
        self.total = self.weight = 0.0

    def add(self, value):
        self.total = self.decay * self.total + value
        self.weight = self.decay * self.weight + 1.0
        return self.total / self.weight


def _averages(losses, decay):
    average = _Average(decay)
    return [average.add(loss) for loss in losses.tolist()]


def _ceiling(averages, limit):
    """The average loss with which the test ends: never below the first, from which it can only have come down."""
    return max(averages[0], limit * min(averages))


def _two_sided(losses, decay):
    """Averages with weights decay^|i - j|: unlike those of the past alone, they do not come late."""
    before, after = _Average(decay), _Average(decay)
    forward = [(before.add(loss), before.weight) for loss in losses.tolist()]
    backward = [(after.add(loss), after.weight) for loss in losses[::-1].tolist()][::-1]
    sums = [a * n + b * m - loss for (a, n), (b, m), loss in zip(forward, backward, losses.tolist(), strict=True)]
    return np.array(sums) / [n + m - 1.0 for (_, n), (_, m) in zip(forward, backward, strict=True)]


def _steepest(rates, smoothed):
    """The rate with the steepest descent on the way to the least loss.

    That way begins where the loss is for the last time within a quarter of the whole fall from the first: before it,
    minibatches that happen to be easy can make it fall steeper than any rate does.
    """
    first, bottom = float(smoothed[0]), int(np.argmin(smoothed))
    near = np.flatnonzero(smoothed[: bottom + 1] >= first - 0.25 * (first - smoothed[bottom]))
    slopes = np.gradient(smoothed, np.log(rates))[near[-1] : bottom + 1]
    return float(rates[near[-1] + int(np.argmin(slopes))]) if bottom > 0 else None

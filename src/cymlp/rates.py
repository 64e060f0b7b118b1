"""The learning-rate range test: the loss while the rate rises step by step, and the rate at which it falls best."""

import contextlib
import copy
import inspect
import math
from dataclasses import dataclass, replace

import numpy as np

from . import _scheduling, _validation, optimizers, options
from .network import MLP
from .sources import open_source
from .training import Descent, DivergenceError, Run

__all__ = ["RangeTest", "learning_rate_range"]

# Steps whose losses are averaged on either side of one, as a share of all: with 200 steps from 1e-7 to 10, 0.4 powers
# of ten.  Shorter, and the steepest descent is where minibatches happen to be easy; longer, and it is flattened.
_WINDOW = 0.05

# The fewest steps of which a slope means something.
_MIN_STEPS = 10

# What `MLP.train` takes that decides what a step does.
_OF_A_STEP = (
    *("shuffle", "class_weight", "label_smoothing", "dropout", "alpha", "l1", "l2", "max_norm", "penalize_biases"),
    *("clip_value", "clip_norm", "clip_layer_norm"),
)


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
    y=None,
    *,
    lowest=1e-7,
    highest=10.0,
    steps=200,
    batch_size=32,
    optimizer="adam",
    sample_weight=None,
    limit=4.0,
    **training,
):
    """Try learning rates on a copy of a network: one minibatch each, from the lowest to the highest.

    Parameters
    ----------
    network : MLP
        Stays exactly as it is, its random numbers and the state of its optimiser included.
    X, y, batch_size, sample_weight
        As in `MLP.train`.
    lowest, highest : float
        The rates of the first and the last step, greater than 0; those between have equal ratios.
    steps : int, default 200
        At least 10; as many epochs are begun as these take.
    optimizer : str or optimiser, default "adam"
        A name from `cymlp.optimizers.OPTIMIZERS` other than "lbfgs", or an instance, whose learning rate is not read.
        It begins without moments.
    limit : float, default 4.0
        Greater than 1.  The test ends before the last step where the average loss has grown to that many times the
        least, and beyond the first one, or is not finite.
    **training
        What else `MLP.train` takes that decides what a step does: shuffle, class_weight, label_smoothing, dropout,
        alpha, l1, l2, max_norm, penalize_biases, clip_value, clip_norm, clip_layer_norm.

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
    if not (_scheduling.is_finite(limit) and limit > 1):
        raise ValueError(f"limit must be a finite number > 1; got {limit!r}")
    for name in training:
        if name not in _OF_A_STEP:
            raise TypeError(f"{name} must not be given: arguments of MLP.train that count here are {_OF_A_STEP}")
    optimizer = optimizers.get(optimizer)
    if isinstance(optimizer, optimizers.LBFGS):
        raise ValueError("optimizer must be one that takes a learning rate; got 'lbfgs'")
    trial = copy.deepcopy(network)
    defaults = {name: parameter.default for name, parameter in inspect.signature(MLP.train).parameters.items()}
    optimizer = replace(optimizer, learning_rate=lambda step: rates[step])
    given = defaults | training | {"epochs": len(rates), "batch_size": batch_size, "optimizer": optimizer}
    checked = options.check(trial, given, False)
    rise = _Rise(trial, open_source(trial, X, y, sample_weight, checked), checked, rates, limit)
    options.check_epsilon(optimizer, rise.source.dtype)
    if not trial._in_step:
        trial._bring_in_step(rise.source.dtype)
    with contextlib.suppress(DivergenceError):  # it ends there
        Run(trial, type(optimizer).__name__).go(rise)
    if len(rise.steps) < _MIN_STEPS:
        raise ArithmeticError(
            f"the learning-rate range test needs at least {_MIN_STEPS} steps, and ended after {len(rise.steps)}: there "
            "were no more batches, or the loss grew beyond the limit; try a lower `lowest`, or inputs and targets "
            "scaled to about 1"
        )
    made, losses = np.array(rise.steps).T.copy()
    smoothed = _two_sided(np.minimum(losses, rise.ceiling()), rise.average.decay)
    return RangeTest(made, losses, smoothed, _steepest(made, smoothed))


def _rates(lowest, highest, steps):
    for name, value in (("lowest", lowest), ("highest", highest)):
        if not (_scheduling.is_finite(value) and value > 0):
            raise ValueError(f"{name} must be a finite number > 0; got {value!r}")
    if not lowest < highest:
        raise ValueError(f"highest must be above lowest, {lowest!r}; got {highest!r}")
    return np.geomspace(lowest, highest, steps)


class _Rise(Descent):
    """Descent minibatch by minibatch, which ends with the last rate, or where the loss has grown.

    Parameters
    ----------
    network, source, options
        As for `Descent`.
    rates : ndarray
    limit : float

    Attributes
    ----------
    steps : list of (rate, loss)
    """

    def __init__(self, network, source, options, rates, limit):
        self.rates, self.limit, self.steps = rates, limit, []
        self.average = _Average(math.exp(-1 / (_WINDOW * len(rates))))
        self.first = self.least = None
        super().__init__(network, source, options)

    def _bind(self):
        scheduled = self.options.scheduled().items()
        self.bound = {name: _scheduling.bind(spec, len(self.rates), name) for name, spec in scheduled}

    def _most(self):
        return 1

    def _train(self, piece):
        losses = np.empty((1, 2))
        self.run.epoch(*piece.arguments, piece.batch_size, self._rule(piece), self.batch, losses=losses)
        if piece.weights()[0] > 0:  # else its loss is 0
            self._note(float(losses[0, 0]))
        self.loss_sum, self.weight_sum = self.loss_sum + losses.sum(), self.weight_sum + 1.0
        self.batch, self.step = self.batch + 1, self.step + 1
        self.rate = self.rates[self.step - 1]
        if self.step == len(self.rates) or (self.steps and self.mean > self.ceiling()):
            self.run.stop("range")

    def _note(self, loss):
        self.steps.append((self.rates[self.step], loss))
        self.mean = self.average.add(loss)
        self.first = self.mean if self.first is None else self.first
        self.least = self.mean if self.least is None else min(self.least, self.mean)

    def ceiling(self):
        """The average loss with which the test ends: never below the first, from which it can only have come down."""
        return max(self.first, self.limit * self.least)


class _Average:
    """The average of what has been added, weighted by decay^age."""

    def __init__(self, decay):
        self.decay = decay
        self.total = self.weight = 0.0

    def add(self, value):
        self.total = self.decay * self.total + value
        self.weight = self.decay * self.weight + 1.0
        return self.total / self.weight


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

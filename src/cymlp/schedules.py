"""Schedules: a learning rate, momentum, weight decay or dropout rate as a function of the step.

Wherever training takes one of these numbers it takes a schedule from here as well, or any callable that maps a step to
a number.  Steps are minibatches, counted from 0 at the first one of the run.  Values are absolute, not factors of
something else, and the first parameter of a schedule, `initial`, is its value at step 0.  Durations are numbers of
steps; where None is allowed, it means the run's length T, which is known before the first step unless batches come from
a stream.

``schedule(step)`` gives the value of a step, or of each in an array of steps; ``schedule(step, T)`` of a run of T
steps.  A callable of one's own should depend on the step alone: then a run that was interrupted and resumed takes the
steps of one that was not.

Examples
--------
>>> from cymlp import MLP, optimizers, schedules
>>> rate = schedules.WarmUp(schedules.CosineRestarts(0.1), 10)
>>> [round(rate(step, 110), 4) for step in (0, 5, 10, 60, 109)]
[0.0, 0.05, 0.1, 0.05, 0.0]
>>> optimizers.SGD(rate, momentum=lambda step: 0.5 if step < 20 else 0.9).momentum(30)
0.9
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._scheduling import MOST_STEPS, Bound, Schedule, bind, check, is_finite, is_number, values_of
from ._validation import as_count

__all__ = [
    "SCHEDULES",
    "Bound",
    "Constant",
    "CosineRestarts",
    "Exponential",
    "InverseScaling",
    "OneCycle",
    "Polynomial",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "bind",
    "check",
]


def _check_numbers(schedule, *names, positive=()):
    for name in (*names, *positive):
        value = getattr(schedule, name)
        label = f"{type(schedule).__name__}.{name}"
        if not is_finite(value):
            raise ValueError(f"{label} must be a finite number; got {value!r}")
        if name in positive and value <= 0:
            raise ValueError(f"{label} must be a finite number > 0; got {value!r}")


def _check_count(schedule, name, least=1, optional=False):
    value = getattr(schedule, name)
    if not (optional and value is None):
        label = f"{type(schedule).__name__}.{name}"
        if as_count(value, label, least) > MOST_STEPS:
            raise ValueError(f"{label} must be an integer <= 2^53; got {value}")


def _line(start, end, share):
    """From `start` to `end` as `share` goes from 0 to 1: both are met exactly, and rounding leads beyond neither."""
    return np.clip(start * (1.0 - share) + end * share, np.minimum(start, end), np.maximum(start, end))


def _cosine(start, end, share):
    """The same on half a period of the cosine."""
    return _line(start, end, 0.5 * (1.0 - np.cos(np.pi * share)))


@dataclass(frozen=True, slots=True)
class Constant(Schedule):
    """The same at every step.

    Parameters
    ----------
    initial : float
    """

    initial: float

    def __post_init__(self):
        _check_numbers(self, "initial")

    def _values(self, steps, total_steps, reductions):
        return np.full(len(steps), float(self.initial))


@dataclass(frozen=True, slots=True)
class StepDecay(Schedule):
    """initial factor^k, where k = floor(t / steps), or the number of given steps that are not after t.

    Source: Krizhevsky, Sutskever & Hinton (2012), ImageNet classification with deep convolutional neural networks,
    section 5: the rate divided by 10 three times.

    Parameters
    ----------
    initial : float
    steps : int or sequence of int
        The factor is applied every so many steps; or, with a sequence of rising numbers, at these.
    factor : float, default 0.1
        Greater than 0.
    """

    initial: float
    steps: Any
    factor: float = 0.1

    def __post_init__(self):
        _check_numbers(self, "initial", positive=("factor",))
        if not isinstance(self.steps, (tuple, list, np.ndarray)):
            _check_count(self, "steps")
            return
        steps = tuple(as_count(step, f"StepDecay.steps[{i}]") for i, step in enumerate(self.steps))
        if not steps or any(later <= step for step, later in itertools.pairwise(steps)):
            raise ValueError(f"StepDecay.steps must rise, and have at least one number; got {self.steps!r}")
        object.__setattr__(self, "steps", steps)

    def _values(self, steps, total_steps, reductions):
        if isinstance(self.steps, tuple):
            k = np.searchsorted(self.steps, steps, side="right")
        else:
            k = steps // self.steps
        return self.initial * np.power(float(self.factor), k.astype(np.float64))


@dataclass(frozen=True, slots=True)
class Exponential(Schedule):
    """initial factor^(t / steps).

    Source: Senior, Heigold, Ranzato & Yang (2013), An empirical study of learning rates in deep neural networks for
    speech recognition, section 3: exponential scheduling.

    Parameters
    ----------
    initial : float
    factor : float, default 0.01
        What is left of `initial` after so many steps; greater than 0.
    steps : int, optional
        None: the run's length.
    """

    initial: float
    factor: float = 0.01
    steps: int | None = None

    def __post_init__(self):
        _check_numbers(self, "initial", positive=("factor",))
        _check_count(self, "steps", optional=True)

    def _values(self, steps, total_steps, reductions):
        return self.initial * np.power(float(self.factor), steps / self._length(total_steps))


@dataclass(frozen=True, slots=True)
class InverseScaling(Schedule):
    """initial / (1 + t / steps)^power.

    With powers in (1/2, 1] the rates have an infinite sum and a finite sum of squares, as convergence of stochastic
    approximation asks for.  Source: Robbins & Monro (1951), A stochastic approximation method, section 2; in this form
    Bottou (2012), Stochastic gradient descent tricks, section 5.2.

    Parameters
    ----------
    initial : float
    power : float, default 0.5
        Greater than 0.
    steps : int, default 1
        After so many, the value is initial / 2^power.
    """

    initial: float
    power: float = 0.5
    steps: int = 1

    def __post_init__(self):
        _check_numbers(self, "initial", positive=("power",))
        _check_count(self, "steps")

    def _values(self, steps, total_steps, reductions):
        return self.initial / np.power(1.0 + steps / self.steps, float(self.power))


@dataclass(frozen=True, slots=True)
class Polynomial(Schedule):
    """final + (initial - final) (1 - t / steps)^power, and `final` from t = steps on; linear with power 1.

    Source: Liu, Rabinovich & Berg (2016), ParseNet: looking wider to see better, section 4 ("poly").

    Parameters
    ----------
    initial : float
    final : float, default 0.0
    power : float, default 1.0
        Greater than 0.
    steps : int, optional
        None: the run's length.
    """

    initial: float
    final: float = 0.0
    power: float = 1.0
    steps: int | None = None

    def __post_init__(self):
        _check_numbers(self, "initial", "final", positive=("power",))
        _check_count(self, "steps", optional=True)

    def _values(self, steps, total_steps, reductions):
        length = self._length(total_steps)
        left = 1.0 - np.minimum(steps, length) / length
        return _line(self.final, self.initial, np.power(left, float(self.power)))


@dataclass(frozen=True, slots=True)
class CosineRestarts(Schedule):
    """final + (initial - final) (1 + cos(pi t_i / T_i)) / 2 in cycle i = 0, 1, ..., of T_i = steps multiplier^i steps.

    t_i counts the steps of the cycle from 0.  As it is by default, one cycle takes the whole run: cosine annealing.

    Source: Loshchilov & Hutter (2017), SGDR: stochastic gradient descent with warm restarts, eq. 5.

    Parameters
    ----------
    initial : float
    final : float, default 0.0
    steps : int, optional
        Of the first cycle.  None: the run's length.
    multiplier : int, default 1
        How many times as long as the one before it each cycle is.
    restarts : int, optional
        After so many, and the cycle that follows, the value stays `final`.  None: for ever.
    """

    initial: float
    final: float = 0.0
    steps: int | None = None
    multiplier: int = 1
    restarts: int | None = None

    def __post_init__(self):
        _check_numbers(self, "initial", "final")
        _check_count(self, "steps", optional=True)
        _check_count(self, "multiplier")
        _check_count(self, "restarts", least=0, optional=True)

    def _values(self, steps, total_steps, reductions):
        length, cycles = self._length(total_steps), math.inf if self.restarts is None else self.restarts + 1
        if self.multiplier == 1:
            cycle, done = np.divmod(steps, length)
            return _cosine(self.initial, self.final, np.where(cycle < cycles, done / length, 1.0))
        starts = [0]  # of the cycles that these steps are in
        while len(starts) <= cycles and starts[-1] <= steps.max(initial=0):
            starts.append(starts[-1] + length * self.multiplier ** (len(starts) - 1))
        starts = np.array(starts, np.float64)
        cycle = np.minimum(np.searchsorted(starts, steps, side="right") - 1, len(starts) - 2)
        share = np.minimum((steps - starts[cycle]) / np.diff(starts)[cycle], 1.0)
        return _cosine(self.initial, self.final, share)


@dataclass(frozen=True, slots=True)
class OneCycle(Schedule):
    """From `initial` to `peak` within the first `rise` of all steps, then down to `final`, and `final` after that.

    With s = t / (rise steps) on the way up, and s = (t - rise steps) / (steps - rise steps) on the way down, the value
    goes from its start a to its end b as b + (a - b) (1 + cos(pi s)) / 2, or linearly as b + (a - b) (1 - s).  A
    momentum that goes the other way is ``OneCycle(0.95, peak=0.85, final=0.95)``.

    Source: Smith & Topin (2019), Super-convergence: very fast training of neural networks using large learning rates,
    section 3 (linear); Smith (2018), A disciplined approach to neural network hyper-parameters: part 1, section 4.3.
    The cosine and the defaults are those of fast.ai and PyTorch.

    Parameters
    ----------
    initial : float
    peak : float, optional
        None: 25 initial.
    final : float, optional
        None: initial / 10000.
    rise : float, default 0.3
        In [0, 1].
    steps : int, optional
        None: the run's length.
    shape : {"cosine", "linear"}, default "cosine"
    """

    initial: float
    peak: float | None = None
    final: float | None = None
    rise: float = 0.3
    steps: int | None = None
    shape: str = "cosine"

    def __post_init__(self):
        names = [name for name in ("peak", "final") if getattr(self, name) is not None]
        _check_numbers(self, "initial", "rise", *names)
        _check_count(self, "steps", optional=True)
        if not 0 <= self.rise <= 1:
            raise ValueError(f"OneCycle.rise must be a number in [0, 1]; got {self.rise!r}")
        if self.shape not in ("cosine", "linear"):
            raise ValueError(f"OneCycle.shape must be 'cosine' or 'linear'; got {self.shape!r}")

    def _values(self, steps, total_steps, reductions):
        length = self._length(total_steps)
        top = self.rise * length
        peak = 25 * self.initial if self.peak is None else self.peak
        final = self.initial / 10000 if self.final is None else self.final
        way = _cosine if self.shape == "cosine" else _line
        # One of the two ways may have no length; no step is on it then.
        up = way(self.initial, peak, np.minimum(steps, top) / max(top, 1.0))
        down = way(peak, final, np.clip((steps - top) / max(length - top, 1.0), 0.0, 1.0))
        return np.where(steps < top, up, np.where(steps < length, down, final))


@dataclass(frozen=True, slots=True)
class ReduceOnPlateau(Schedule):
    """initial factor^k, but not below `lowest`, after the k-th time that the loss has stopped falling.

    That is the validation loss where there are validation data, else the loss.  After `patience` epochs in a row, none
    of which was better by more than `min_change` than the best before it, the value is multiplied by the factor and
    the epochs are counted anew.  Called with a step, the object gives `initial`.

    Source: He, Zhang, Ren & Sun (2016), Deep residual learning for image recognition, section 3.4: the rate "divided by
    10 when the error plateaus".

    Parameters
    ----------
    initial : float
    factor : float, default 0.1
        In (0, 1).
    patience : int, default 10
        At least 1.
    min_change : float, default 0.0
        At least 0.
    lowest : float, default 0.0
    cooldown : int, default 0
        So many epochs after a reduction are not counted.
    """

    initial: float
    factor: float = 0.1
    patience: int = 10
    min_change: float = 0.0
    lowest: float = 0.0
    cooldown: int = 0

    _watches_losses = True

    def __post_init__(self):
        _check_numbers(self, "initial", "min_change", "lowest", positive=("factor",))
        _check_count(self, "patience")
        _check_count(self, "cooldown", least=0)
        if self.factor >= 1:
            raise ValueError(f"ReduceOnPlateau.factor must be a number in (0, 1); got {self.factor!r}")
        if self.min_change < 0:
            raise ValueError(f"ReduceOnPlateau.min_change must be a finite number >= 0; got {self.min_change!r}")
        if self.lowest > self.initial:
            raise ValueError(f"ReduceOnPlateau.lowest must not be above initial, {self.initial!r}; got {self.lowest!r}")

    def _values(self, steps, total_steps, reductions):
        return np.full(len(steps), max(float(self.lowest), self.initial * float(self.factor) ** reductions))


@dataclass(frozen=True, slots=True)
class WarmUp(Schedule):
    """start + (s - start) t / steps for t < steps, where s is what another schedule starts with; that one afterwards.

    The other schedule is called with t - steps, and a length of the run that it takes is what is left of the run.

    Source: Goyal et al. (2017), Accurate, large minibatch SGD: training ImageNet in 1 hour, section 2.2: gradual
    warmup.

    Parameters
    ----------
    schedule : schedule, float or callable
        What follows; anything but another `WarmUp`.
    steps : int
    start : float, default 0.0
    """

    schedule: Any
    steps: int
    start: float = 0.0

    def __post_init__(self):
        _check_numbers(self, "start")
        _check_count(self, "steps")
        if isinstance(self.schedule, WarmUp) or not (callable(self.schedule) or is_number(self.schedule)):
            expected = "a schedule other than WarmUp, a callable or a number"
            raise ValueError(f"WarmUp.schedule must be {expected}; got {self.schedule!r}")
        if is_number(self.schedule):
            _check_numbers(self, "schedule")

    @property
    def _follower(self):
        return self.schedule

    def _values(self, steps, total_steps, reductions):
        left = None if total_steps is None else max(1, total_steps - self.steps)
        later = np.maximum(steps - self.steps, 0)
        values = values_of(self.schedule, later, left, reductions)
        return _line(self.start, values, np.minimum(steps / self.steps, 1.0))


SCHEDULES = {
    "constant": Constant,
    "step": StepDecay,
    "exponential": Exponential,
    "inverse": InverseScaling,
    "polynomial": Polynomial,
    "cosine": CosineRestarts,
    "one-cycle": OneCycle,
    "plateau": ReduceOnPlateau,
}

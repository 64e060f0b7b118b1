"""What a schedule is, which values each number may have, and the values of one in a run, step by step."""

import math
import numbers
import re

import numpy as np

__all__ = ["MOST_STEPS", "Bound", "Schedule", "bind", "check", "is_finite", "is_number", "take_rates", "values_of"]

# What can be scheduled -> the range of its values, and how that is said.
_RANGES = {
    "learning_rate": (lambda v: v >= 0, "a finite number >= 0"),
    "weight_decay": (lambda v: v >= 0, "a finite number >= 0"),
    "momentum": (lambda v: (v >= 0) & (v <= 1), "a number in [0, 1]"),
    "beta1": (lambda v: (v >= 0) & (v < 1), "a number in [0, 1)"),
    "dropout": (lambda v: (v >= 0) & (v <= 1), "a number in [0, 1]"),
}

# Fields of schedules that are values of what is scheduled.
_VALUES = ("initial", "peak", "final", "start", "lowest")

# The largest integer such that float64 has all below it; a step a nanosecond, it takes three months.
MOST_STEPS = 2**53

# Steps are computed in whole blocks that begin at multiples of this: an element of a vectorised function may have other
# last bits in the rest of an array than in its middle, and values must not depend on where a run was interrupted.
_BLOCK = 64


def is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite(value):
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


class Schedule:
    """What all schedules of this module have in common: they are called with steps.

    A class of one's own need not derive from it; any callable of a step will do.
    """

    __slots__ = ()
    _watches_losses = False

    def __call__(self, step, total_steps=None):
        """The value at `step`, an int >= 0 or an array of them: a float, or an array of float64."""
        steps = np.asarray(step)
        if steps.dtype.kind not in "iu" or (steps.size and not 0 <= steps.min() <= steps.max() <= MOST_STEPS):
            raise ValueError(f"step must be an integer >= 0, or an array of them; got {step!r}")
        with np.errstate(all="ignore"):
            values = self._values(steps.astype(np.int64).reshape(-1), total_steps, 0)
        return float(values[0]) if steps.ndim == 0 else values.reshape(steps.shape)

    @property
    def _follower(self):
        """What comes after a warm-up; for any other schedule, itself."""
        return self

    def _length(self, total_steps):
        """`steps`, or the run's length in its place."""
        if self.steps is not None:
            return self.steps
        if total_steps is None:
            raise ValueError(
                f"{type(self).__name__}.steps must be given where the length of the run is not known, as for a stream "
                "of batches; got None"
            )
        return max(1, total_steps)

    def _values(self, steps, total_steps, reductions):
        """The values at an array of int64 steps; `reductions` is how often a plateau has been met."""
        raise NotImplementedError


def values_of(spec, steps, total_steps, reductions):
    """The values of anything that can be a schedule at an array of steps."""
    if isinstance(spec, Schedule):
        return spec._values(steps, total_steps, reductions)
    if is_number(spec):
        return np.full(len(steps), float(spec))
    return np.array([_call(spec, step) for step in steps.tolist()], np.float64)


def _call(function, step):
    value = function(step)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not is_number(value):
        raise TypeError(f"a schedule must give a number for each step; {function!r} gives {value!r} at step {step}")
    return float(value) if is_finite(value) or isinstance(value, float) else math.inf  # no float has an int that large


def _range(name):
    return _RANGES[re.search(r"(\w+)(?:\[\d+\])?$", name)[1]]


def check(spec, name):
    """Refuse what cannot be a schedule of `name`, as far as can be seen before the first step.

    Parameters
    ----------
    spec : schedule, callable or number
    name : str
        Such as ``"Adam.learning_rate"`` or ``"dropout[1]"``: the last word decides which values are allowed.

    Raises
    ------
    ValueError
        For what is neither callable nor a number, and for parameters of a schedule that are out of range.
    """
    allowed, expected = _range(name)
    if is_number(spec):
        if not (is_finite(spec) and allowed(spec)):
            raise ValueError(f"{name} must be {expected}; got {spec!r}")
    elif not callable(spec) or isinstance(spec, type):
        raise ValueError(f"{name} must be {expected}, a schedule, or a callable of the step; got {spec!r}")
    if isinstance(spec, Schedule):
        if spec._follower is not spec:
            check(spec._follower, name)
        for field in _VALUES:
            value = getattr(spec, field, None)
            if value is not None and not allowed(value):
                raise ValueError(f"{name} must be {expected} at each step; got {field}={value!r} in {spec!r}")


def bind(spec, total_steps, name):
    """The values of a schedule in a run.

    Parameters
    ----------
    spec : schedule, callable or number
    total_steps : int or None
        The run's length; None where it is not known.
    name : str
        What is scheduled, for the range of the values and for messages: see `check`.

    Returns
    -------
    Bound

    Raises
    ------
    ValueError
        As by `check`, and for a schedule that needs the run's length where that is not known.
    """
    check(spec, name)
    if isinstance(spec, Schedule):
        try:
            spec._values(np.zeros(0, np.int64), total_steps, 0)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return Bound(spec, total_steps, name)


def take_rates(values, rates, count):
    """The rates of dropout for some steps, taken out of the values of what is scheduled.

    Parameters
    ----------
    values : dict
        What `Bound.values` gives, by name: "dropout[i]" for each rate that has a schedule.
    rates : sequence
        Of each layer: a number, or what has a schedule.
    count : int
        Of steps.

    Returns
    -------
    list of float, or ndarray (count, n_layers) of float64
    """
    rates = [values.pop(f"dropout[{i}]", rate) for i, rate in enumerate(rates)]
    if any(isinstance(rate, np.ndarray) for rate in rates):
        return np.column_stack([np.broadcast_to(rate, count) for rate in rates]).astype(np.float64)
    return rates


class Bound:
    """A schedule in one run; made by `bind`.

    Parameters
    ----------
    spec, total_steps, name
        As for `bind`, which checks them.
    """

    def __init__(self, spec, total_steps, name):
        self.spec = spec
        self.total_steps = total_steps
        self.name = name
        self._allowed, self._expected = _range(name)
        follower = spec._follower if isinstance(spec, Schedule) else spec
        self._in_blocks = isinstance(follower, Schedule)  # no callable is asked for steps other than those wanted
        self._plateau = follower if self._in_blocks and follower._watches_losses else None
        self._reductions = self._waited = self._resting = 0
        self._best = None
        self._block = 0, 0, 0, None  # first step, end, reductions and values of what was computed last

    def values(self, first_step, count):
        """The values of steps first_step, first_step + 1, ...

        Parameters
        ----------
        first_step : int
            From 0.
        count : int
            At least 1.

        Returns
        -------
        ndarray (count,) of float64, or float
            A float where all are the same.  How a run is divided into calls does not change a bit.

        Raises
        ------
        ValueError
            For a value that is not finite or out of the range of what is scheduled.
        TypeError
            For a value that is not a number.
        """
        values = self._computed(first_step, first_step + count)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.isfinite(values) & self._allowed(values))
        if wrong.any():
            index = int(np.argmax(wrong))
            raise ValueError(
                f"{self.name} must be {self._expected} at each step; {self.spec!r} gives {float(values[index])!r} "
                f"at step {first_step + index}"
            )
        return float(values[0]) if (values == values[0]).all() else values

    def _computed(self, first, end):
        """The values of steps first .. end - 1, unchecked; they may be those of a block that is there."""
        start, stop, reductions, values = self._block
        if not (start <= first and end <= stop and reductions == self._reductions):
            start, stop = first, end
            if self._in_blocks:
                start, stop = first - first % _BLOCK, end + -end % _BLOCK
            with np.errstate(all="ignore"):
                values = values_of(self.spec, np.arange(start, stop), self.total_steps, self._reductions)
            if self._in_blocks:
                self._block = start, stop, self._reductions, values
        return values[first - start : end - start].copy()

    def end_epoch(self, loss, validation_loss=None):
        """Take notice of the losses of an epoch.

        Parameters
        ----------
        loss : float
        validation_loss : float, optional
        """
        plateau = self._plateau
        if plateau is None:
            return
        value = float(loss if validation_loss is None else validation_loss)
        better = self._best is None or value < self._best - plateau.min_change
        if better:
            self._best = value
        resting, self._resting = self._resting > 0, max(0, self._resting - 1)
        self._waited = 0 if better or resting else self._waited + 1
        if self._waited >= plateau.patience:
            self._reductions, self._waited, self._resting = self._reductions + 1, 0, plateau.cooldown

    def state(self):
        """What `restore` takes to go on as this one would.

        Returns
        -------
        dict
            Of what JSON can hold; empty where values depend on the step alone.
        """
        if self._plateau is None:
            return {}
        return {
            "best": self._best,
            "waited": self._waited,
            "resting": self._resting,
            "reductions": self._reductions,
        }

    def restore(self, state):
        """Go on from what `state` gave.

        Parameters
        ----------
        state : dict
        """
        if self._plateau is not None:
            self._best, self._waited = state["best"], state["waited"]
            self._resting, self._reductions = state["resting"], state["reductions"]

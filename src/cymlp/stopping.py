"""When training ends before its last epoch, and which epoch's parameters it leaves."""

import math
import sys
from dataclasses import dataclass

import numpy as np

from . import _validation

__all__ = ["EarlyStopping", "Watch"]

_MONITORS = ("auto", "loss", "validation_loss", "metric")
_MODES = ("auto", "min", "max")


def _is_number(value):
    if isinstance(value, np.generic):
        value = value.item()
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Stop where nothing gets better, and keep the best epoch's parameters: ``MLP.train(..., stopping=...)``.

    Source: Prechelt (1998), Early stopping - but when?, section 2.3: stop after a number of successive epochs that were
    no better.

    Parameters
    ----------
    patience : int or None, default 10
        Training stops after so many epochs in a row, at least 1, none of which was better by more than `min_change`
        than the best before them.  None: it does not stop for that.
    monitor : {"auto", "loss", "validation_loss", "metric"}, default "auto"
        What is compared; "auto" takes the validation loss where there are validation data, else the loss.  What is
        not finite is never better.
    min_change : float, default 0.0
        At least 0.  Epochs that are better by less in each case count together: what they are compared with stays.
    mode : {"auto", "min", "max"}, default "auto"
        Whether less or more is better; "auto" means more for "metric", else less.
    restore_best : bool, default True
        Whether the network is left, however training stops by itself, with the parameters (and running statistics) of
        the best epoch, the first of equal ones; the optimiser's state, which belongs to another epoch, is forgotten
        then.  Where an exception ends the call they are those of the last whole epoch.
    target : float, optional
        Training stops as soon as the value is that good.

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> import numpy as np
    >>> from cymlp import MLP
    >>> from cymlp.stopping import EarlyStopping
    >>> X = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> net = MLP([1, 1], random_state=0, engine="reference")
    >>> history = net.train(X, 3 * X + 1, epochs=999, optimizer="sgd", learning_rate=0.1,
    ...                     stopping=EarlyStopping(target=1e-6))
    >>> history.stopped, history.loss[-1] <= 1e-6
    ('target', True)
    """

    patience: int | None = 10
    monitor: str = "auto"
    min_change: float = 0.0
    mode: str = "auto"
    restore_best: bool = True
    target: float | None = None

    def __post_init__(self):
        if self.patience is not None:
            _validation.as_count(self.patience, "EarlyStopping.patience")
        for name, choices in (("monitor", _MONITORS), ("mode", _MODES)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                expected = ", ".join(repr(choice) for choice in choices)
                raise ValueError(f"EarlyStopping.{name} must be one of {expected}; got {value!r}")
        if not _is_number(self.min_change) or self.min_change < 0:
            raise ValueError(f"EarlyStopping.min_change must be a finite number >= 0; got {self.min_change!r}")
        if not isinstance(self.restore_best, (bool, np.bool_)):
            raise TypeError(f"EarlyStopping.restore_best must be True or False; got {self.restore_best!r}")
        if self.target is not None and not _is_number(self.target):
            raise ValueError(f"EarlyStopping.target must be None or a finite number; got {self.target!r}")


class Watch:
    """The record of an `EarlyStopping` in one run.

    Parameters
    ----------
    stopping : EarlyStopping
    has_validation, has_metric : bool
        What there is to be monitored.

    Attributes
    ----------
    monitor, mode : str
        As `History` has them.
    best_epoch : int or None
        From 1.
    best : tuple or None
        Copies of the parameters and the statistics of that epoch, where they are to be restored.

    Raises
    ------
    ValueError
        Where there is nothing of what is to be monitored.
    """

    def __init__(self, stopping, has_validation, has_metric):
        monitor = stopping.monitor
        if monitor == "auto":
            monitor = "validation_loss" if has_validation else "loss"
        if monitor == "validation_loss" and not has_validation:
            raise ValueError("stopping must monitor 'loss' where there is no validation_data; got 'validation_loss'")
        if monitor == "metric" and not has_metric:
            raise ValueError("stopping must monitor 'loss' or 'validation_loss' where there is no metric; got 'metric'")
        self.stopping, self.monitor = stopping, monitor
        self.mode = ("max" if monitor == "metric" else "min") if stopping.mode == "auto" else stopping.mode
        self.best_epoch, self.best = None, None
        self._best_value = self._compared = math.inf  # both as if less were better
        self._waited = 0

    def judge(self, epoch, value):
        """Take notice of an epoch.

        Parameters
        ----------
        epoch : int
            From 1.
        value : float
            Of what is monitored.

        Returns
        -------
        is_best : bool
            Whether it is the best so far.
        reason : str or None
            "target" or "patience" where training ends with it.
        """
        stopping, sign = self.stopping, -1.0 if self.mode == "max" else 1.0
        value = sign * value if math.isfinite(value) else math.nan
        is_best = value < self._best_value
        if is_best:
            self._best_value, self.best_epoch = value, epoch
        if value < self._compared - stopping.min_change:
            self._compared, self._waited = value, 0
        else:
            self._waited += 1
        if stopping.target is not None and value <= sign * stopping.target:
            return is_best, "target"
        return is_best, "patience" if stopping.patience is not None and self._waited >= stopping.patience else None

    def keep(self, parameters, statistics):
        """Copy the vectors of the best epoch; a copy that is there is written over.

        Parameters
        ----------
        parameters, statistics : ndarray
        """
        if not self.stopping.restore_best:
            return
        if self.best is None:
            self.best = np.empty_like(parameters), np.empty_like(statistics)
        for mine, theirs in zip(self.best, (parameters, statistics), strict=True):
            mine[:] = theirs

    def state(self):
        """What `restore` takes to go on as this one would, but for `best`.

        Returns
        -------
        dict
            Of what JSON can hold.
        """
        numbers = (self._best_value, self._compared)
        return {
            "best_epoch": self.best_epoch,
            "values": [None if math.isinf(value) else value for value in numbers],
            "waited": self._waited,
        }

    def restore(self, state):
        """Go on from what `state` gave.

        Parameters
        ----------
        state : dict
        """
        self.best_epoch, self._waited = state["best_epoch"], state["waited"]
        self._best_value, self._compared = (math.inf if value is None else value for value in state["values"])

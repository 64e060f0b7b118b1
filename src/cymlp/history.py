"""What is told of a training run: an event after each epoch, a history of all, an error where it diverges."""

import math
from dataclasses import dataclass, field
from typing import Any

__all__ = ["COLUMNS", "DivergenceError", "Event", "History"]

# What is known of an epoch.
COLUMNS = ("loss", "validation_loss", "metric", "learning_rate", "gradient_norm", "seconds")


class DivergenceError(ArithmeticError, ValueError):
    """The loss or the parameters stopped being finite; the network has the parameters of the last whole epoch.

    A ValueError, too, as that is what scikit-learn's estimators raise then.

    Attributes
    ----------
    epoch, batch : int
        Where it happened, both counted from 1.  ``batch`` is 1 for L-BFGS, which takes all rows at once.
    layer : int or None
        From 1: the first layer whose parameters, or Z of that minibatch, are not finite; the last layer where only the
        loss of its outputs is not, and None where no layer is to be named.
    """

    def __init__(self, message, epoch=None, batch=None, layer=None):
        super().__init__(message)
        self.epoch = epoch
        self.batch = batch
        self.layer = layer


@dataclass
class History:
    """What happened in the whole epochs of a call of `MLP.train`: a table, one number in each column for each epoch.

    Attributes
    ----------
    loss : list of float
        Mean over the epoch's rows, each taken when its minibatch was used, with penalties; for L-BFGS the loss after
        the iteration.
    validation_loss : list of float
        After each epoch, without penalties; empty without validation data.
    metric : list of float
        The same of `metric`; empty without one.
    learning_rate : list of float
        Of the epoch's last step; empty for L-BFGS.
    gradient_norm : list of float
        Mean over the minibatches of the gradient's Euclidean norm before it was clipped; empty unless it is clipped by
        a norm.
    seconds : list of float
        Wall-clock time of each epoch, validation included, callbacks not.
    stopped : str or None
        Why training ended: "epochs" (all were done), "patience" or "target" (`EarlyStopping`), "time", "callback",
        "stream" (no more batches), "converged" (L-BFGS), "diverged", or "interrupted" by another exception; None while
        it goes on.
    monitor, mode : str or None
        The column by which epochs are compared, and whether "min" or "max" is the best; for None the least validation
        loss where there is one, else the least loss.
    epochs : int
        Whole ones.
    best_epoch : int or None
        From 1: the first of the best epochs, in which what is not finite is never one; None before there is one.
    health : HealthReport or None
        What was seen of the layers, where ``train(health=True)`` asked for it, also while training goes on: what is
        wrong with them, and what to change.

    Examples
    --------
    >>> history = History(loss=[0.5, 0.25], learning_rate=[0.1, 0.1], seconds=[2.0, 3.0])
    >>> history.epochs, history.best_epoch
    (2, 2)
    >>> history.to_dict()
    {'epoch': [1, 2], 'loss': [0.5, 0.25], 'learning_rate': [0.1, 0.1], 'seconds': [2.0, 3.0]}
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stopped: str | None = None
    monitor: str | None = None
    mode: str | None = None

    # What collects the records of the layers, and the report that was made of them last: no columns of the table.
    _monitor = None
    _report = None

    @property
    def health(self):
        if self._monitor is None:
            return None
        version = self._monitor.version()
        if self._report is None or self._report[0] != version:
            # Here, as it takes longer to import than to train.
            from .health.report import HealthReport

            self._report = version, HealthReport(self._monitor.evidence())
        return self._report[1]

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_report"}  # which is made again

    @property
    def epochs(self):
        return len(self.loss)

    @property
    def best_epoch(self):
        values = getattr(self, self.monitor or ("validation_loss" if self.validation_loss else "loss"))
        known = [(-value if self.mode == "max" else value, i) for i, value in enumerate(values) if math.isfinite(value)]
        return min(known)[1] + 1 if known else None

    def last(self):
        """The numbers of the last epoch.

        Returns
        -------
        dict
            By column, None where a column is empty.
        """
        return {name: (getattr(self, name) or [None])[-1] for name in COLUMNS}

    def put(self, index, row):
        """Write the numbers of an epoch; doing it again does no harm.

        Parameters
        ----------
        index : int
            Of the epoch, from 0; what is there from that one on is dropped.
        row : dict
            By column, "loss" last, by whose length epochs are counted; None for what is not known.
        """
        for name, value in row.items():
            if value is not None:
                getattr(self, name)[index:] = [float(value)]

    def to_dict(self):
        """The table by its columns.

        Returns
        -------
        dict
            "epoch" (from 1), "loss", those of the other columns that are not empty, and "seconds".
        """
        columns = {name: list(getattr(self, name)) for name in COLUMNS}
        kept = {name: column for name, column in columns.items() if column or name in ("loss", "seconds")}
        return {"epoch": list(range(1, self.epochs + 1)), **kept}

    def to_pandas(self):
        """The same as a data frame, with a row for each epoch.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            Where pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(self.to_dict())


@dataclass(frozen=True, slots=True)
class Event:
    """What a callback is told: before the first epoch, after each one, and at the end; None for what is not known.

    Attributes
    ----------
    epoch : int
        Whole epochs so far, those of the processes before included where a run goes on from a checkpoint.
    epochs : int
        As many as there will be at most.
    step : int
        Updates so far, those of the calls included that this one resumes; for L-BFGS iterations.
    loss, validation_loss, metric, learning_rate, gradient_norm, seconds : float or None
        Of the last epoch, as in `History`.
    network : MLP
        With the parameters of that epoch; it can predict, and be given others.
    history : History
    """

    epoch: int
    epochs: int
    step: int
    loss: float | None
    validation_loss: float | None
    metric: float | None
    learning_rate: float | None
    gradient_norm: float | None
    seconds: float | None
    network: Any
    history: History

"""The fit loop: epochs in random order, validation, callbacks, history, and what is left behind when it ends early.

The parameters a network shows are those of the last whole epoch: the engine runs ahead of them by at most one epoch,
and is set back to them whenever something goes wrong.  An interrupt may come at any line, and another one while the
first is being dealt with; `parameters.py` says how that is seen to.
"""

import functools
import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _validation, optimizers

__all__ = ["DivergenceError", "Event", "History", "Run", "train"]


class DivergenceError(ArithmeticError, ValueError):
    """The loss or the parameters stopped being finite; the network has the parameters of the last whole epoch.

    A ValueError, too, as that is what scikit-learn's estimators raise then.

    Attributes
    ----------
    epoch, batch : int
        Where it happened, both counted from 1.  ``batch`` is 1 for L-BFGS, which takes all rows at once.
    """

    def __init__(self, message, epoch=None, batch=None):
        super().__init__(message)
        self.epoch = epoch
        self.batch = batch


@dataclass
class History:
    """What happened in the whole epochs of a call of `MLP.train`, one number for each.

    Attributes
    ----------
    loss : list of float
        Mean over the epoch's rows, each taken when its minibatch was used; for L-BFGS the loss after the iteration.
    validation_loss : list of float
        After each epoch; empty without validation data.
    seconds : list of float
        Wall-clock time of each epoch, validation included, callbacks not.
    epochs : int
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def epochs(self):
        return len(self.loss)


@dataclass(frozen=True, slots=True)
class Event:
    """What a callback is told after an epoch (counted from 1); `validation_loss` is None without validation data."""

    epoch: int
    loss: float
    validation_loss: float | None
    network: Any
    history: History


class _Stop(Exception):
    """The loop is left before its end."""


class Run:
    """One call that trains a network: what its loop needs, whoever wrote the loop.

    Parameters
    ----------
    network : MLP
        Whose engine is in step with it.
    keeps : str or None
        Name of the optimiser whose state the engine has afterwards, for a later call to resume; None for none.
    validation : tuple, optional
        Checked (X, y, sample_weight), whose mean loss is computed after each epoch.
    callback : callable, optional
        Called with an `Event` after each epoch.
    """

    def __init__(self, network, keeps, validation=None, callback=None):
        self.network = network
        self.engine = network._network
        self.keeps = keeps
        self.validation = validation
        self.callback = callback
        self.history = History()
        self.started = time.perf_counter()

    def go(self, loop, resume=False):
        """Do `loop(self)`, which calls `epoch` and `end_epoch`, alone with the network, and leave the network whole.

        Returns
        -------
        History

        Raises
        ------
        RuntimeError
            Where the network is being trained already.
        """
        try:
            if self.network._alone(functools.partial(self._begin, loop, resume), trains=True) is not None:
                raise RuntimeError(
                    "train() is running on this network already: neither its callback nor another thread can call it"
                )
        except _Stop:
            pass
        finally:
            # In the middle of an epoch, or of a line search.  Where an interrupt prevents this, the next user does it.
            if not self.network._in_step:
                self.network._bring_in_step(self.network.dtype)
        return self.history

    def _begin(self, loop, resume):
        network = self.network
        if resume and network._resumable not in (None, self.keeps):
            raise ValueError(f"resume needs the optimizer of the previous call, {network._resumable}; got {self.keeps}")
        network._history = self.history
        network._in_step = False
        if not resume:
            self.engine.reset_optimizer()
            network._resumable = None
        loop(self)

    def epoch(self, X, y, sample_weight, order, batch_size, rule, first=0, **optional):
        """One pass over the rows in `order`, or over all: arguments and mean loss of the engine's ``train_epoch``.

        `first` is the number of the first minibatch, where this is not the first piece of an epoch.
        """
        network = self.network
        n_threads = network._threads(6.0 * network._n_weights * batch_size)
        network._in_step = False
        loss, failed = self.engine.train_epoch(X, y, sample_weight, order, batch_size, rule, n_threads, **optional)
        if failed >= 0 or not math.isfinite(loss):
            n_batches = -(-len(X if order is None else order) // batch_size)
            raise self.diverged("the loss became infinite or NaN", first + (failed + 1 if failed >= 0 else n_batches))
        return loss

    def minimize(self, objective, start, options, end_iteration):
        """L-BFGS by SciPy over all rows, whose vector is float64 whatever the network's dtype.

        Parameters
        ----------
        objective : callable
            ``objective(vector) -> loss, gradient``.
        start : ndarray
        options : dict
            As for ``scipy.optimize.minimize(method="L-BFGS-B")``.
        end_iteration : callable
            Called as ``end_iteration(vector, loss)`` after each iteration.

        Returns
        -------
        scipy.optimize.OptimizeResult
        """
        from scipy import optimize

        def finite(vector):
            self.network._in_step = False
            loss, gradient = objective(vector)
            if not math.isfinite(loss) or not _validation.is_finite(gradient):
                raise self.diverged("the loss or its gradient became infinite or NaN", 1)
            return loss, gradient

        def callback(intermediate_result):
            end_iteration(intermediate_result.x, intermediate_result.fun)

        return optimize.minimize(finite, start, jac=True, method="L-BFGS-B", callback=callback, options=options)

    def diverged(self, what, batch):
        epoch = self.history.epochs + 1
        advice = "" if self.keeps is None else "a smaller learning rate, or "
        return DivergenceError(
            f"training diverged: {what} in epoch {epoch}, batch {batch}; the network keeps the parameters of "
            f"{f'epoch {epoch - 1}' if epoch > 1 else 'before the call'}.  Try {advice}inputs and "
            "targets scaled to about 1",
            epoch,
            batch,
        )

    def show(self, index, loss, validation_loss, seconds):
        """Show an epoch; doing it again does no harm, as `LayeredParameters._commit` asks."""
        history = self.history
        history.loss[index:] = [loss]
        history.seconds[index:] = [seconds]
        if validation_loss is not None:
            history.validation_loss[index:] = [validation_loss]
        self.network._take_from_engine()

    def stop(self):
        """Leave the loop; `go` returns."""
        raise _Stop

    def take_over(self):
        """Show the engine's parameters, which are finite, without an epoch to tell of."""
        self.network._commit(self.network._take_from_engine)
        self.network._in_step = True

    def end_epoch(self, loss, batch):
        """Take over the engine's parameters after a whole epoch, and tell the callback."""
        network, history = self.network, self.history
        if not self.engine.is_finite():
            raise self.diverged("parameters became infinite or NaN", batch)
        validation_loss = None if self.validation is None else network._mean_loss(*self.validation)
        seconds = time.perf_counter() - self.started
        network._commit(functools.partial(self.show, history.epochs, float(loss), validation_loss, seconds))
        network._resumable = self.keeps
        network._in_step = True
        if self.callback is not None:
            try:
                answer = self.callback(Event(history.epochs, history.loss[-1], validation_loss, network, history))
            except StopIteration as error:  # to SciPy and to generators it would mean something
                raise RuntimeError("callback raised StopIteration; to stop training, return True") from error
            if isinstance(answer, (bool, np.bool_)) and answer:
                self.stop()
        self.started = time.perf_counter()


def _gradient_descent(run, data, epochs, batch_size, shuffle, rule):
    n_rows, rng = len(data[0]), run.network._rng
    batch_size = min(batch_size, n_rows)
    for _ in range(epochs):
        order = rng.permutation(n_rows).astype(np.int64, copy=False) if shuffle else None
        run.end_epoch(run.epoch(*data, order, batch_size, rule), -(-n_rows // batch_size))


def _lbfgs(run, data, epochs, optimizer):
    """At most `epochs` iterations."""
    network, (X, y, sample_weight) = run.network, data
    gradient = np.empty_like(network._flat)
    n_threads = network._threads(6.0 * network._n_weights * len(X))

    def set_parameters(vector):
        network._in_step = False
        with np.errstate(over="ignore"):  # the loss, or end_epoch, finds what overflows
            run.engine.set_parameters(vector.astype(network.dtype))

    def objective(vector):
        set_parameters(vector)
        return run.engine.gradients(X, y, sample_weight, gradient, n_threads), gradient.astype(np.float64)

    def end_iteration(vector, loss):
        set_parameters(vector)
        run.end_epoch(loss, 1)

    options = {
        "maxcor": min(optimizer.memory, epochs),  # more corrections than iterations there are not
        "gtol": optimizer.gradient_tolerance,
        "ftol": optimizer.loss_tolerance,
        "maxiter": epochs,
        "maxls": 20,
        "maxfun": 1 + 21 * epochs,  # as many as maxls can ask for: only maxiter limits
    }
    run.minimize(objective, network._flat.astype(np.float64), options, end_iteration)


def _check_flag(value, name):
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def _length(value):
    return f" of length {len(value)}" if isinstance(value, (tuple, list)) else ""


def _check_validation(network, validation_data, dtype):
    if validation_data is None:
        return None
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
        raise TypeError(
            "validation_data must be a tuple (X, y) or (X, y, sample_weight); "
            f"got {type(validation_data).__name__}{_length(validation_data)}"
        )
    X, y, *weight = validation_data
    names = tuple(f"validation_data[{i}]" for i in range(3))
    return network._check_data(X, y, weight[0] if weight else None, dtype, names)


def _check_epsilon(optimizer, dtype):
    """Passes flush what is below the smallest normal number to zero, and where g is 0 the update would be 0 / 0.

    Adam's first step has the smallest divisor, epsilon sqrt(1 - beta2), where both corrections are in its rate: Kingma
    & Ba (2015), section 2.
    """
    epsilon = getattr(optimizer, "epsilon", None)
    factor = math.sqrt(1 - getattr(optimizer, "beta2", 0))
    smallest = float(np.finfo(dtype).tiny)
    if epsilon is not None and epsilon * factor < smallest:
        raise ValueError(
            f"{type(optimizer).__name__}.epsilon must be at least {smallest / factor:.3g}, below which it counts as 0 "
            f"in {dtype.name}; got {epsilon!r}"
        )


def train(network, data, epochs, batch_size, optimizer, learning_rate, shuffle, validation_data, callback, resume):
    """Fit the parameters of `network`, an `MLP`: what `MLP.train` does, with its arguments.

    Parameters
    ----------
    data : (X, y, sample_weight)
        The last one may be None.

    Returns
    -------
    History

    Raises
    ------
    ValueError, TypeError
        For wrong arguments, before anything has changed.
    DivergenceError
        Where the loss or the parameters stop being finite.
    RuntimeError
        Where `network` is being trained already.
    """
    epochs = _validation.as_count(epochs, "epochs")
    batch_size = _validation.as_count(batch_size, "batch_size")
    if isinstance(learning_rate, np.generic):
        learning_rate = learning_rate.item()
    optimizer = optimizers.get(optimizer, learning_rate)
    shuffle, resume = _check_flag(shuffle, "shuffle"), _check_flag(resume, "resume")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be None or callable; got {type(callback).__name__}")
    if resume and isinstance(optimizer, optimizers.LBFGS):
        raise ValueError("resume must be False for optimizer 'lbfgs', which keeps no state between calls; got True")
    rows = network._check_data(*data)
    dtype = rows[0].dtype
    validation = _check_validation(network, validation_data, dtype)
    _check_epsilon(optimizer, dtype)
    if not network._in_step and not network._bring_in_step(dtype):
        return train(
            network, data, epochs, batch_size, optimizer, None, shuffle, validation_data, callback, resume
        )  # checked again: another thread's data have decided for another dtype

    if isinstance(optimizer, optimizers.LBFGS):
        keeps, loop = None, functools.partial(_lbfgs, data=rows, epochs=epochs, optimizer=optimizer)
    else:
        keeps, rule = type(optimizer).__name__, optimizer.rule()
        loop = functools.partial(
            _gradient_descent, data=rows, epochs=epochs, batch_size=batch_size, shuffle=shuffle, rule=rule
        )
    return Run(network, keeps, validation, callback).go(loop, resume)

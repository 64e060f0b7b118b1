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

__all__ = ["DivergenceError", "Event", "History", "train"]


class DivergenceError(ArithmeticError):
    """The loss or the parameters stopped being finite; the network has the parameters of the last whole epoch.

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
    """The callback asked to stop."""


class _Run:
    """One call of `train`: its arguments, checked, and the steps that both loops below share."""

    def __init__(self, network, optimizer, data, validation, callback):
        self.network = network
        self.optimizer = optimizer
        # What a later call can resume.
        self.keeps = None if isinstance(optimizer, optimizers.LBFGS) else type(optimizer).__name__
        self.data = data
        self.validation = validation
        self.callback = callback
        self.history = History()
        self.started = time.perf_counter()

    def go(self, epochs, batch_size, shuffle, resume):
        """What has to be alone with the network."""
        network = self.network
        if resume and network._resumable not in (None, self.keeps):
            raise ValueError(f"resume needs the optimizer of the previous call, {network._resumable}; got {self.keeps}")
        network._history = self.history
        network._in_step = False
        if not resume:
            network._network.reset_optimizer()
            network._resumable = None
        if self.keeps is None:
            _lbfgs(self, epochs)
        else:
            _gradient_descent(self, epochs, batch_size, shuffle)

    def diverged(self, what, batch):
        epoch = self.history.epochs + 1
        return DivergenceError(
            f"training diverged: {what} in epoch {epoch}, batch {batch}; the network keeps the parameters of "
            f"{f'epoch {epoch - 1}' if epoch > 1 else 'before the call'}.  Try a smaller learning rate, or inputs and "
            "targets scaled to about 1",
            epoch,
            batch,
        )

    def show(self, index, loss, validation_loss, seconds):
        """Show an epoch; doing it again does no harm, as `LayeredParameters._commit` asks.

        The engine's parameters are written over those shown without a copy in between: they are known to be finite, and
        stay what they are until this is done.
        """
        history = self.history
        history.loss[index:] = [loss]
        history.seconds[index:] = [seconds]
        if validation_loss is not None:
            history.validation_loss[index:] = [validation_loss]
        self.network._network.get_parameters(self.network._flat)

    def end_epoch(self, loss, batch):
        """Take over the engine's parameters after a whole epoch, and tell the callback."""
        network, history = self.network, self.history
        if not network._network.is_finite():
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
                raise _Stop
        self.started = time.perf_counter()


def _gradient_descent(run, epochs, batch_size, shuffle):
    network, (X, y, sample_weight) = run.network, run.data
    rule = run.optimizer.rule()
    batch_size = min(batch_size, len(X))
    n_batches = -(-len(X) // batch_size)
    n_threads = network._threads(6.0 * network._n_weights * batch_size)
    for _ in range(epochs):
        order = network._rng.permutation(len(X)).astype(np.int64, copy=False) if shuffle else None
        network._in_step = False
        loss, failed = network._network.train_epoch(X, y, sample_weight, order, batch_size, rule, n_threads)
        if failed >= 0:
            raise run.diverged("the loss became infinite or NaN", failed + 1)
        if not math.isfinite(loss):
            raise run.diverged("the loss became infinite or NaN", n_batches)
        run.end_epoch(loss, n_batches)


def _lbfgs(run, epochs):
    """`epochs` iterations of L-BFGS; the vector of parameters is float64 in SciPy, whatever the network's dtype."""
    from scipy import optimize

    network, (X, y, sample_weight) = run.network, run.data
    engine_network = network._network
    gradient = np.empty_like(network._flat)
    n_threads = network._threads(6.0 * network._n_weights * len(X))

    def set_parameters(vector):
        network._in_step = False
        with np.errstate(over="ignore"):  # the loss, or end_epoch, finds what overflows
            engine_network.set_parameters(vector.astype(network.dtype))

    def objective(vector):
        set_parameters(vector)
        loss = engine_network.gradients(X, y, sample_weight, gradient, n_threads)
        if not math.isfinite(loss) or not _validation.is_finite(gradient):
            raise run.diverged("the loss or its gradient became infinite or NaN", 1)
        return loss, gradient.astype(np.float64)

    def end_iteration(intermediate_result):
        set_parameters(intermediate_result.x)
        run.end_epoch(intermediate_result.fun, 1)

    optimizer = run.optimizer
    options = {
        "maxcor": min(optimizer.memory, epochs),  # more corrections than iterations there are not
        "gtol": optimizer.gradient_tolerance,
        "ftol": optimizer.loss_tolerance,
        "maxiter": epochs,
        "maxls": 20,
        "maxfun": 1 + 21 * epochs,  # as many as maxls can ask for: only maxiter limits
    }
    start = network._flat.astype(np.float64)
    optimize.minimize(objective, start, jac=True, method="L-BFGS-B", callback=end_iteration, options=options)


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

    run = _Run(network, optimizer, rows, validation, callback)
    try:
        if network._alone(functools.partial(run.go, epochs, batch_size, shuffle, resume), trains=True) is not None:
            raise RuntimeError(
                "train() is running on this network already: neither its callback nor another thread can call it"
            )
    except _Stop:
        pass
    finally:
        # In the middle of an epoch, or of a line search.  Where an interrupt prevents this, the next user does it.
        if not network._in_step:
            network._bring_in_step(dtype)
    return run.history

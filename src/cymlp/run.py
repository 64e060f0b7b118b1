"""One call that trains a network, and what is left behind when it ends early.

The parameters a network shows are those of the last whole epoch: the engine runs ahead of them by at most one epoch,
and is set back to them whenever something goes wrong.  An interrupt may come at any line, and another one while the
first is being dealt with; `parameters.py` says how that is seen to.
"""

import functools
import math
import time

import numpy as np

from . import _validation
from .history import DivergenceError, Event, History

__all__ = ["Run", "Validation"]

# Elements of a layer's Z that are looked at in one go where something in them is not finite.
_SCAN_ELEMENTS = 2**20


class _Stop(Exception):
    """The loop is left before its end."""


class Validation:
    """Data that are not trained with, and what is computed of them after each epoch.

    Parameters
    ----------
    data : (X, y, sample_weight)
        Checked.
    y
        As the user gave them.
    metric : callable, optional
        ``metric(y, outputs) -> float``.
    """

    def __init__(self, data, y=None, metric=None):
        self.data, self.y, self.metric = data, y, metric

    def score(self, network):
        """By the engine's parameters.

        Returns
        -------
        dict
            The columns of `History` that these are.
        """
        X = self.data[0]
        outputs = None if self.metric is None else np.empty((len(X), network.layer_sizes[-1]), X.dtype)
        row = {"validation_loss": network._mean_loss(*self.data, outputs)}
        if self.metric is not None:
            value = self.metric(self.y, outputs)
            try:
                row["metric"] = float(value)
            except (TypeError, ValueError):
                raise TypeError(f"metric must return a number; got {value!r}") from None
        return row


class Run:
    """One call that trains a network: what its loop needs, whoever wrote the loop.

    Parameters
    ----------
    network : MLP
        Whose engine is in step with it.
    keeps : str or None
        Name of the optimiser whose state the engine has afterwards, for a later call to resume; None for none.
    epochs : int, optional
        As many as there are to be, for callbacks.
    validation : Validation, optional
    watch : Watch, optional
        Whether to stop, and which epoch was the best.
    callbacks : sequence of callables
        Called with an `Event` after each epoch; their methods ``begin`` and ``end``, where they have these, before the
        first one and at the end.
    monitor : Monitor, optional
        Collects what engines tell of the layers.
    """

    def __init__(self, network, keeps, epochs=None, validation=None, watch=None, callbacks=(), monitor=None):
        self.network = network
        self.engine = network._network
        self.keeps = keeps
        self.epochs = epochs
        self.validation = validation
        self.watch = watch
        self.callbacks = callbacks
        self.monitor = monitor
        self.history = History() if watch is None else History(monitor=watch.monitor, mode=watch.mode)
        self.step = 0
        self.started = time.perf_counter()
        self._begun = []  # callbacks whose `end` is to be called

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
            self._go(loop, resume)
        except BaseException as error:
            self.history.stopped = "diverged" if isinstance(error, DivergenceError) else "interrupted"
            if self.monitor is not None:
                self.monitor.end(error if isinstance(error, DivergenceError) else None)
            late = self._end()
            if not isinstance(late, (Exception, type(None))):
                raise late from error  # an interrupt
            raise
        if self.monitor is not None:
            self.monitor.end()
        if (error := self._end()) is not None:
            raise error
        return self.history

    def _go(self, loop, resume):
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

    def _begin(self, loop, resume):
        network = self.network
        if resume and network._resumable not in (None, self.keeps):
            raise ValueError(f"resume needs the optimizer of the previous call, {network._resumable}; got {self.keeps}")
        network._history = self.history
        if self.monitor is not None:
            self.monitor.begin(self.history, network)
        network._in_step = False
        if not resume:
            self.engine.reset_optimizer()
            network._resumable = None
        loop(self)

    # ---- Callbacks ----

    def _event(self):
        history = self.history
        return Event(history.epochs, self.epochs, self.step, network=self.network, history=history, **history.last())

    def begin(self):
        """Tell the callbacks that the first epoch is about to begin."""
        if not self.callbacks:
            return
        self.network._in_step = True  # the engine has what is shown
        started = time.perf_counter()
        for callback in self.callbacks:
            if (begin := getattr(callback, "begin", None)) is not None:
                begin(self._event())
            self._begun.append(callback)
        self.started += time.perf_counter() - started

    def _end(self):
        """Tell all of them that training has ended; an interrupt among theirs, else the first error, or None."""
        first = None
        while self._begun:
            try:
                if (end := getattr(self._begun.pop(0), "end", None)) is not None:
                    end(self._event())
            except BaseException as error:
                if first is None or (isinstance(first, Exception) and not isinstance(error, Exception)):
                    first = error
        return first

    def _tell(self):
        """Tell them of an epoch; whether one asks to stop."""
        return bool(self.callbacks) and self._ask()

    def _ask(self):
        """Call them with an epoch's event, all of them; whether one asks to stop."""
        event = self._event()
        try:
            answers = [callback(event) for callback in self.callbacks]
        except StopIteration as error:  # to SciPy and to generators it would mean something
            raise RuntimeError("a callback raised StopIteration; to stop training, return True") from error
        return any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers)

    # ---- Epochs ----

    def epoch(self, X, y, sample_weight, order, batch_size, rule, first=0, **optional):
        """One pass over the rows in `order`, or over all: arguments and mean loss of the engine's ``train_epoch``.

        `first` is the number of the first minibatch, where this is not the first piece of an epoch.
        """
        network, monitor = self.network, self.monitor
        n_threads = network._threads(6.0 * network._n_weights * batch_size)
        network._in_step = False
        watched = None
        if monitor is not None:
            n_batches = -(-len(X if order is None else order) // batch_size)
            if monitor.step + n_batches >= monitor.due:
                optional["watched"] = watched = monitor.watch(n_batches)
        loss, failed = self.engine.train_epoch(X, y, sample_weight, order, batch_size, rule, n_threads, **optional)
        if watched is not None:
            monitor.keep(n_batches, watched, failed)
        elif monitor is not None:
            monitor.step += n_batches
        if failed >= 0 or not math.isfinite(loss):
            n_batches = -(-len(X if order is None else order) // batch_size)
            failed = failed if failed >= 0 else n_batches - 1
            rows = slice(failed * batch_size, (failed + 1) * batch_size)
            rows = rows if order is None else order[rows]
            raise self._diverged_in(
                [None if part is None else part[rows] for part in (X, y, sample_weight)], loss, first + failed + 1
            )
        return loss

    def _diverged_in(self, batch, loss, number):
        if math.isfinite(loss):  # it was the gradient's norm, before it was to be clipped
            return self.diverged("the gradient became infinite or NaN", number, self._layer_of_gradient(*batch))
        return self.diverged("the loss became infinite or NaN", number, self.layer(batch[0]))

    def minimize(self, objective, start, options, end_iteration, X=None):
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
        X : ndarray, optional
            The rows, for a `DivergenceError` to name a layer.

        Returns
        -------
        scipy.optimize.OptimizeResult
        """
        from scipy import optimize

        if self.monitor is not None:
            self.monitor.iterate(self.network, is_first=True)

        def finite(vector):
            self.network._in_step = False
            loss, gradient = objective(vector)
            if not math.isfinite(loss) or not _validation.is_finite(gradient):
                raise self.diverged("the loss or its gradient became infinite or NaN", 1, self.layer(X))
            return loss, gradient

        def callback(intermediate_result):
            end_iteration(intermediate_result.x, intermediate_result.fun)

        return optimize.minimize(finite, start, jac=True, method="L-BFGS-B", callback=callback, options=options)

    def end_iteration(self):
        """Count an iteration of L-BFGS, whose parameters the engine has."""
        self.step += 1
        if self.monitor is not None:
            self.monitor.iterate(self.network)

    def diverged(self, what, batch, layer=None):
        """The `DivergenceError` that tells of this epoch, a minibatch (from 1) and a layer or None."""
        epoch = self.history.epochs + 1
        advice = "" if self.keeps is None else "a smaller learning rate, or "
        where = f"epoch {epoch}, batch {batch}" + ("" if layer is None else f", layer {layer}")
        return DivergenceError(
            f"training diverged: {what} in {where}; the network keeps the parameters of "
            f"{f'epoch {epoch - 1}' if epoch > 1 else 'before the call'}.  Try {advice}inputs and "
            "targets scaled to about 1",
            epoch,
            batch,
            layer,
        )

    def layer(self, X=None):
        """The first layer (from 1) whose numbers in the engine, or Z of the rows X, are not finite; then the last one.

        None where there are no rows, and all numbers are finite.
        """
        network = self.network
        flat, statistics = np.empty_like(network._flat), np.empty_like(network._statistics)
        self.engine.get_parameters(flat)
        if statistics.size:
            self.engine.get_statistics(statistics)
        parts = zip(*network._layout.views(flat), *network._layout.statistics(statistics), strict=True)
        good = [all(part is None or np.isfinite(part).all() for part in layer) for layer in parts]
        n_good = good.index(False) if False in good else len(good)
        if X is None:
            return None if n_good == len(good) else n_good + 1
        step = max(1, _SCAN_ELEMENTS // sum(network.layer_sizes))
        for start in range(0, len(X), step):
            Zs, _ = self.engine.forward(np.ascontiguousarray(X[start : start + step]), 1)
            finite = [bool(np.isfinite(Z).all()) for Z in Zs]
            n_good = min(n_good, finite.index(False) if False in finite else len(finite))
        return min(n_good + 1, len(good))

    def _layer_of_gradient(self, X, y, sample_weight):
        """The first layer that backpropagation comes to whose part of the gradient is not finite; None for none."""
        gradient = np.empty_like(self.network._flat)
        self.engine.gradients(X, y, sample_weight, gradient)
        layers = list(zip(*self.network._layout.views(gradient), strict=True))
        for number in range(len(layers), 0, -1):
            if not all(part is None or np.isfinite(part).all() for part in layers[number - 1]):
                return number
        return None

    def show(self, index, row):
        """Show an epoch; doing it again does no harm, as `LayeredParameters._commit` asks."""
        self.network._take_from_engine()
        self.history.put(index, row)

    def restore(self, shown, columns, seconds):
        """Show an epoch of a run that is gone on with.

        Parameters
        ----------
        shown : pair of ndarray
            Parameters and statistics.
        columns : dict of lists
            Of the history.
        seconds : float
            Spent in the epoch under way.
        """
        self.network._in_step = False
        self.network._commit(functools.partial(self._show_restored, shown, columns))
        self.network._put_in_step()
        self.started = time.perf_counter() - seconds

    def _show_restored(self, shown, columns):
        _copy((self.network._flat, self.network._statistics), shown)
        for name, column in columns.items():
            getattr(self.history, name)[:] = column

    def take_over(self):
        """Show the engine's parameters, which are finite, without an epoch to tell of."""
        self.network._commit(self.network._take_from_engine)
        self.network._in_step = True

    def end_epoch(self, loss, batch, **row):
        """Take over the engine's parameters after a whole epoch, and tell the callbacks.

        Parameters
        ----------
        loss : float
        batch : int
            The number of the last minibatch.
        **row
            Other columns of `History`; None for what is not known.

        Returns
        -------
        str or None
            Why training is to end: "target", "patience" or "callback".
        """
        network, history = self.network, self.history
        if not self.engine.is_finite():
            raise self.diverged("parameters became infinite or NaN", batch, self.layer())
        if self.validation is not None:
            row.update(self.validation.score(network))
        row["seconds"] = time.perf_counter() - self.started
        row["loss"] = loss
        network._commit(functools.partial(self.show, history.epochs, row))
        network._resumable = self.keeps
        network._in_step = True
        reason = None
        if self.watch is not None:
            is_best, reason = self.watch.judge(history.epochs, getattr(history, self.watch.monitor)[-1])
            if is_best:
                self.watch.keep(network._flat, network._statistics)
        if self._tell() and reason is None:
            reason = "callback"
        self.started = time.perf_counter()
        return reason

    # ---- The end ----

    def stop(self, reason=None):
        """Leave the loop; `go` returns.

        Parameters
        ----------
        reason : str, optional
            For `finish`.
        """
        if reason is not None:
            self.finish(reason)
        raise _Stop

    def finish(self, reason):
        """Note why training has ended, and show the best epoch if that is wanted.

        Parameters
        ----------
        reason : str
            As in `History`.
        """
        watch = self.watch
        if watch is not None and watch.best is not None and watch.best_epoch != self.history.epochs:
            self.take_back(watch.best)
        self.history.stopped = reason

    def take_back(self, vectors):
        """Show an earlier epoch; for a call that is alone with the network.

        Parameters
        ----------
        vectors : pair of ndarray
            Parameters and statistics.
        """
        network = self.network
        network._in_step = False
        network._commit(functools.partial(_copy, (network._flat, network._statistics), vectors))
        network._put_in_step()


def _copy(targets, vectors):
    for target, vector in zip(targets, vectors, strict=True):
        target[:] = vector

"""How scikit-learn's MLPs are fitted, number by number: minibatch descent with its rules for stopping, and L-BFGS.

What is computed here decides when to stop and with which rate to go on; gradients and updates are the engine's.
"""

import functools
import itertools
import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning

from .. import optimizers
from ..schedules import Schedule
from ..training import DivergenceError, Run
from .examples import dense_blocks
from .health import monitor_of

__all__ = ["Event", "Solver", "Validation", "fit_by_descent", "fit_by_lbfgs"]


@dataclass(frozen=True, slots=True)
class Event:
    """What a callback of an estimator is told after an epoch, or an iteration of L-BFGS.

    Attributes
    ----------
    epoch : int
        From 1, in this call of `fit`.
    loss : float
        As in ``loss_curve_``.
    validation_score, validation_loss : float or None
        None where they are not computed.
    estimator : MLPClassifier or MLPRegressor
        With the parameters that it has now: it can predict.
    epochs : int
        As many as there will be at most.
    step : int
        Minibatches so far, those of the calls of `partial_fit` before this one included; for L-BFGS iterations.
    learning_rate : float or None
        Of the epoch's last step; None for L-BFGS.
    gradient_norm : float or None
        As in ``gradient_norm_curve_``; None without ``clip_norm``.
    seconds : float
        Of the epoch, without scoring and callbacks.
    """

    epoch: int
    loss: float
    validation_score: float | None
    validation_loss: float | None
    estimator: Any
    epochs: int | None = None
    step: int | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    seconds: float | None = None


class Solver:
    """The rule of "adam" or "sgd" and the learning rate, which outlive a call of `partial_fit`.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Whose parameters are read now, as scikit-learn does.

    Attributes
    ----------
    optimizer : SGD or Adam
    learning_rate : float
        Of the next epoch; with a schedule from `cymlp.schedules`, of the last step.
    step : int
        Steps done.
    seed : int or None
        Of dropout's masks, where there was any.
    schedule_state : dict
        What schedules that watch losses have noted.
    """

    def __init__(self, estimator):
        self.name = estimator.solver
        self.step, self.seed, self.schedule_state = 0, None, {}
        self.initial_rate = self.learning_rate = float(estimator.learning_rate_init)
        self.schedule = estimator.learning_rate
        if self.name == "sgd":
            self.power_t = estimator.power_t
            momentum = estimator.momentum if callable(estimator.momentum) else float(estimator.momentum)
            optimizer = optimizers.SGD(self.learning_rate, momentum, bool(estimator.nesterovs_momentum))
        else:
            optimizer = optimizers.Adam(
                self.learning_rate,
                float(estimator.beta_1),
                float(estimator.beta_2),
                float(estimator.epsilon),
                epsilon_hat=True,
            )
        self.optimizer, self.constants = optimizer, optimizer.rule()

    def begin_epoch(self, progress):
        """Set the rate where the schedule is a function of the share of epochs that are done."""
        if callable(self.schedule) and not isinstance(self.schedule, Schedule):
            factor = self.schedule(progress)
            if not isinstance(factor, (int, float, np.number)) or not 0 <= factor < math.inf:
                raise ValueError(f"learning_rate must return a finite number >= 0; got {factor!r} at {progress:g}")
            self.learning_rate = self.initial_rate * float(factor)

    def rule(self, alpha, regularization, count):
        """What the engine reads for the next minibatches, so many."""
        rule = self.constants | {"learning_rate": self.learning_rate, "alpha": float(alpha)}
        rule |= regularization.rule(self.seed, self.step, count)
        self.learning_rate = float(np.ravel(rule["learning_rate"])[-1])
        return rule

    def end_epoch(self, t):
        """Set the rate after `t` examples."""
        if self.name == "sgd" and self.schedule == "invscaling":
            self.learning_rate = self.initial_rate / (t + 1) ** self.power_t

    def gives_up(self, message, verbose):
        """Whether training ends where it does not get better; "adaptive" divides its rate by 5 before it does."""
        ends, what = True, " Stopping."
        if self.name == "sgd" and self.schedule == "adaptive":
            if self.learning_rate > 1e-6:
                self.learning_rate /= 5.0
                ends, what = False, f" Setting learning rate to {self.learning_rate:f}"
            else:
                what = " Learning rate too small. Stopping."
        if verbose:
            print(message + what)
        return ends


class Validation:
    """Examples that are not trained with, and what is computed of them after each epoch.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    examples : Examples
    scoring : None, "loss" or a scorer
    with_loss : bool
        Whether the loss is wanted beside another score.
    """

    def __init__(self, estimator, examples, scoring, with_loss):
        self.estimator = estimator
        self.examples = examples
        self.scoring = scoring
        self.with_loss = with_loss or scoring == "loss"

    def __call__(self):
        """The score, of which more is better and which may be NaN, and the loss or None."""
        estimator, loss = self.estimator, None
        if self.with_loss:
            loss = estimator._data_loss(self.examples)
        if self.scoring == "loss":
            return -loss, loss
        if self.scoring is None:
            return estimator._default_score(self.examples), loss
        return float(estimator._score_by(self.scoring, self.examples)), loss


class _Progress(Run):
    """What both ways of fitting do after an epoch: keep the record, print, tell callbacks, look at the clock."""

    def __init__(self, estimator, keeps, epochs, callbacks, started, monitor):
        super().__init__(estimator.network_, keeps, epochs, callbacks=callbacks, monitor=monitor)
        self.estimator = estimator
        self.scores = None, None
        self.deadline = math.inf if estimator.max_time is None else started + estimator.max_time

    @property
    def time_is_up(self):
        return time.perf_counter() >= self.deadline

    def end_epoch(self, loss, n_batches, **row):
        estimator = self.estimator
        super().end_epoch(loss, n_batches, **row)
        estimator._handed_out = None  # it has the parameters of an epoch that is over
        estimator.n_iter_ += 1
        estimator.loss_ = loss
        estimator.loss_curve_.append(loss)
        if row.get("gradient_norm") is not None:
            estimator.gradient_norm_curve_.append(row["gradient_norm"])

    def _event(self):
        estimator, last = self.estimator, self.history.last()
        told = {name: last[name] for name in ("learning_rate", "gradient_norm", "seconds")}
        return Event(estimator.n_iter_, last["loss"], *self.scores, estimator, self.epochs, self.step, **told)

    def _tell(self):
        """Not before the epoch is judged: `asks_to_stop` does it."""
        return False

    def asks_to_stop(self, score=None, validation_loss=None):
        """Tell the callbacks; whether one of them asks to stop.  All are told."""
        self.scores = score, validation_loss
        if not self.callbacks:
            return False
        stops = self._ask()
        self.estimator._check_fitted()  # takes what they have written into coefs_
        return stops

    def show_best(self):
        """Take the best parameters back, after the call that trained."""
        best = self.estimator._best_parameters, self.estimator._best_statistics
        if self.network._alone(functools.partial(self.take_back, best)) is not None:
            raise RuntimeError("another thread has begun to train this network: the best parameters are not taken back")
        self.estimator._handed_out = None

    def layer(self, X=None):
        if not sparse.issparse(X):
            return super().layer(X)
        return min(super(_Progress, self).layer(block) for _, block in dense_blocks(X))

    def warn_of_time(self):
        warnings.warn(
            f"The time limit (max_time={self.estimator.max_time:g} seconds) was reached after {self.estimator.n_iter_} "
            "iterations, and the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=2,
        )


def fit_by_descent(estimator, order, batch_size, regularization, validation, incremental, callbacks, started):
    """Train `estimator.network_` with "adam" or "sgd".

    Parameters
    ----------
    order : Order
        Of the examples to train with.
    batch_size : int
        At most as many.
    regularization : Regularization
    validation : Validation or None
    incremental : bool
        One epoch, with the state of the optimiser that is there.
    callbacks : list of callables
        Of an `Event`.
    started : float
        When `fit` began, by `time.perf_counter`.
    """
    network, resume = estimator.network_, incremental and hasattr(estimator, "_optimizer")
    if not resume:
        estimator._optimizer = Solver(estimator)
    solver = estimator._optimizer
    if network._resumable is None:  # or the engine has forgotten its steps
        solver.step = 0
    if regularization.rates and solver.seed is None:
        solver.seed = int(estimator._random_state.randint(2**64, dtype=np.uint64))
    regularization.restore(solver.schedule_state)
    monitor = monitor_of(estimator, order.examples, order.rows, batch_size, regularization, incremental)
    run = _Progress(estimator, solver.name, 1 if incremental else estimator.max_iter, callbacks, started, monitor)
    estimator.n_iter_ = 0

    def loop(run):
        run.step = solver.step
        run.begin()
        _descend(estimator, run, order, batch_size, regularization, validation, incremental)

    try:
        run.go(loop, resume)
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=2)
    except DivergenceError as error:
        none_is_good = is_classifier(estimator) and estimator.best_validation_score_ == -math.inf
        if not estimator.early_stopping or none_is_good:
            raise _in_their_words(error) from None
        estimator.loss_curve_.append(math.nan)
        estimator.validation_scores_.append(math.nan)
        warnings.warn(f"{error}.  The best parameters so far are restored.", ConvergenceWarning, stacklevel=2)
    if estimator.early_stopping:
        run.show_best()


def _in_their_words(error):
    """A `DivergenceError` that begins as scikit-learn's ValueError."""
    message = (
        "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
        f"preprocessed: {error}"
    )
    return DivergenceError(message, error.epoch, error.batch, error.layer)


def _descend(estimator, run, order, batch_size, regularization, validation, incremental):
    solver, network = estimator._optimizer, estimator.network_
    counts = np.diff([*range(0, len(order), batch_size), len(order)])
    losses, norms = np.empty((len(counts), 2)), np.empty(len(counts) * regularization.measures_norms)
    timed = math.isfinite(run.deadline)
    flops = 6.0 * network._n_weights if timed else 0.0
    for epoch in range(estimator.max_iter):
        pieces = order.epoch(batch_size, flops)
        solver.begin_epoch(epoch / estimator.max_iter)
        done = len(counts)
        for batches, arguments in pieces:
            if timed and batches.start > 0 and run.time_is_up:
                done = batches.start
                break
            rule = solver.rule(estimator.alpha, regularization, batches.stop - batches.start)
            optional = {"norms": norms[batches]} if norms.size else {}
            run.epoch(*arguments, batch_size, rule, batches.start, losses=losses[batches], **optional)
            run.step = solver.step = solver.step + batches.stop - batches.start
        means = losses[:done, 0] * estimator._loss_factor + losses[:done, 1]
        n_rows = int(counts[:done].sum())
        norm = float(norms[:done].mean()) if norms.size else None
        run.end_epoch(
            float(counts[:done] @ means / n_rows), done, learning_rate=solver.learning_rate, gradient_norm=norm
        )
        estimator.t_ += n_rows
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        score, loss = _judge(estimator, validation)
        solver.end_epoch(estimator.t_)
        regularization.end_epoch(estimator.loss_, loss)
        solver.schedule_state = regularization.state()
        stops = run.asks_to_stop(score, loss)
        if estimator._no_improvement_count > estimator.n_iter_no_change:
            what = "Validation score" if estimator.early_stopping else "Training loss"
            message = (
                f"{what} did not improve more than tol={estimator.tol:f} for {estimator.n_iter_no_change} "
                "consecutive epochs."
            )
            if solver.gives_up(message, estimator.verbose):
                return
            estimator._no_improvement_count = 0
        if incremental or stops:
            return
        if estimator.n_iter_ == estimator.max_iter:
            if callable(estimator.learning_rate):
                return  # a schedule ends there by design
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({estimator.n_iter_}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )
        elif timed and run.time_is_up:
            run.warn_of_time()
            return


def _score(estimator, validation):
    """The score and the loss of the validation data, which are recorded, or None for each."""
    if validation is None:
        return None, None
    score, loss = validation()
    estimator.validation_scores_.append(score)
    if loss is not None:
        estimator.validation_loss_curve_.append(loss)
    return score, loss


def _judge(estimator, validation):
    """Whether this epoch was better than those before, by the score of the validation data or by the loss."""
    score, loss = _score(estimator, validation)
    if estimator.early_stopping:
        if estimator.verbose:
            print(f"Validation score: {score:f}")
        is_better = not score < estimator.best_validation_score_ + estimator.tol
        if score > estimator.best_validation_score_:
            estimator.best_validation_score_ = score
            estimator._keep_best()
    else:
        is_better = not estimator.loss_ > estimator.best_loss_ - estimator.tol
        estimator.best_loss_ = min(estimator.best_loss_, estimator.loss_)
    estimator._no_improvement_count = 0 if is_better else estimator._no_improvement_count + 1
    return score, loss


def fit_by_lbfgs(estimator, examples, validation, callbacks, started):
    """Train `estimator.network_` with L-BFGS over all rows of `examples`; else as `fit_by_descent`."""
    from sklearn.utils.optimize import _check_optimize_result

    network = estimator.network_
    monitor = monitor_of(estimator, examples, None, len(examples), None, False)
    run = _Progress(estimator, None, estimator.max_iter, callbacks, started, monitor)
    total, dtype = examples.total_weight, network.dtype
    # The vector that SciPy sees has all weights first, as scikit-learn's: sums over it round alike.
    numbers = np.arange(network.n_parameters)
    views = itertools.chain(*network._layout.views(numbers))
    packing = np.concatenate([part.ravel() for part in views if part is not None])
    n_weights = network._n_weights
    n_threads = network._threads(6.0 * n_weights * len(examples))
    flat, gradient, piece = np.empty_like(network._flat), np.empty(len(packing)), np.empty_like(network._flat)
    estimator.n_iter_ = 0

    def set_parameters(vector):
        network._in_step = False
        with np.errstate(over="ignore"):  # the loss, or end_epoch, finds what overflows
            flat[packing] = vector.astype(dtype)
        run.engine.set_parameters(flat)

    def objective(vector):
        set_parameters(vector)
        loss = 0.0
        gradient[:] = 0
        for X, targets, weight in examples.blocks():
            share = (len(X) if weight is None else float(weight.sum(dtype=np.float64))) / total
            loss += share * run.engine.gradients(X, targets, weight, piece, n_threads)
            gradient[:] += share * piece[packing]
        weights = vector[:n_weights]
        gradient[:n_weights] += estimator.alpha * weights / total
        penalty = 0.5 * estimator.alpha * np.dot(weights, weights) / total
        if estimator.l2:
            gradient[:n_weights] += estimator.l2 * weights
            penalty += 0.5 * estimator.l2 * np.dot(weights, weights)
        return loss * estimator._loss_factor + penalty, gradient.copy()

    def end_iteration(vector, loss):
        set_parameters(vector)
        run.end_iteration()
        run.end_epoch(float(loss), 1)
        estimator.best_loss_ = min(estimator.loss_curve_)
        stops = run.asks_to_stop(*_score(estimator, validation))
        if run.time_is_up and estimator.n_iter_ < estimator.max_iter:
            run.warn_of_time()
            stops = True
        if stops:
            run.stop()

    def loop(run):
        run.begin()
        options = {"maxfun": estimator.max_fun, "maxiter": estimator.max_iter, "gtol": estimator.tol}
        start = network._flat[packing].astype(np.float64)
        result = run.minimize(objective, start, options, end_iteration, examples.X)
        estimator.n_iter_ = _check_optimize_result("lbfgs", result, estimator.max_iter)
        estimator.loss_ = float(result.fun)
        set_parameters(result.x)
        run.take_over()

    try:
        run.go(loop)
    except DivergenceError as error:
        raise _in_their_words(error) from None

"""The course of an estimator's fit: validation, early stopping, schedules, time limits, and every way to end early."""

import math
import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from conftest import assert_close
from scipy import sparse
from sklearn import base, metrics
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from test_estimators import (
    KINDS,
    SOLVERS,
    Diary,
    assert_same_bits,
    draw,
    estimator,
    falling,
    outputs_of,
    standing_still,
)

from cymlp import DivergenceError
from cymlp.estimators import examples

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# ---- Validation ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_validation_data_are_scored_after_each_epoch(kind, solver, weighted):
    """By the estimator's own score and its loss, and training does not know of them."""
    X, y = draw(kind)
    validation = draw(kind, rows=40, seed=1)
    if weighted:
        validation = (*validation, np.linspace(0.5, 2, 40))
    scores, diary = [], Diary()

    def score(event):
        scores.append(event.estimator.score(*validation))

    model = estimator(kind, solver=solver, callbacks=[score, diary]).fit(X, y, validation_data=validation)
    assert_close(model.validation_scores_, scores, 40, kind="loss", dtype=np.float64)
    assert len(scores) == len(model.validation_loss_curve_) == model.n_iter_ == 4
    assert [event.validation_score for event in diary.events] == model.validation_scores_
    assert [event.validation_loss for event in diary.events] == model.validation_loss_curve_
    alone = estimator(kind, solver=solver).fit(X, y)
    assert alone.network_.parameters.tobytes() == model.network_.parameters.tobytes()
    assert alone.validation_loss_curve_ == []


SCORINGS = {
    "binary": ["loss", "roc_auc", "neg_log_loss", metrics.make_scorer(metrics.f1_score, pos_label="yes")],
    "multiclass": [
        "loss",
        "balanced_accuracy",
        lambda model, X, y, sample_weight=None: -float((model.predict(X) - y).max()),
    ],
    "multilabel": ["loss", "f1_macro"],
    "regression": ["loss", "neg_mean_absolute_error", metrics.make_scorer(metrics.max_error, greater_is_better=False)],
    "outputs": ["loss", "explained_variance"],
    "counts": ["loss", "neg_mean_poisson_deviance"],
}
EVERY_SCORING = [(kind, scoring) for kind in SCORINGS for scoring in SCORINGS[kind]]


@pytest.mark.parametrize(("kind", "scoring"), EVERY_SCORING, ids=str)
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_early_stopping_by_any_score_restores_the_best(kind, scoring, container):
    X, y = draw(kind)
    X_valid, y_valid = draw(kind, rows=40, seed=1)
    diary = Diary()
    params = {"early_stopping": True, "n_iter_no_change": 3, "max_iter": 30, "learning_rate_init": 0.1, "tol": 0.01}
    model = estimator(kind, **params, scoring=scoring, callbacks=diary)
    model.fit(container(X), y, validation_data=(container(X_valid), y_valid))
    scores = model.validation_scores_
    assert len(scores) == len(model.validation_loss_curve_) == model.n_iter_
    best = int(np.argmax(scores))
    assert model.best_validation_score_ == scores[best]
    assert model.best_loss_ is None
    assert model.network_.parameters.tobytes() == diary.parameters[best].tobytes()
    if scoring == "loss":
        assert scores == [-loss for loss in model.validation_loss_curve_]
    else:
        score = metrics.check_scoring(model, scoring)(model, X_valid, y_valid)
        assert_close(score, scores[best], 40, kind="loss", dtype=np.float64)
    with_split = base.clone(model).set_params(callbacks=None).fit(container(X), y)
    assert len(with_split.validation_scores_) == with_split.n_iter_
    assert len(with_split.validation_loss_curve_) == (with_split.n_iter_ if scoring == "loss" else 0)


def test_a_scorer_gets_weights_and_what_the_estimator_is_given():
    X, y = draw("multiclass")
    names = np.array(["rock", "paper", "scissors"])[y - 10]
    weight, calls = np.linspace(0.5, 2, 90), []

    def score(model, X, y, sample_weight=None):
        calls.append((X, y, sample_weight))
        return model.score(X, y, sample_weight)

    model = estimator("multiclass", scoring=score, early_stopping=True).fit(X, names, weight)
    assert (
        model.validation_scores_ == base.clone(model).set_params(scoring=None).fit(X, names, weight).validation_scores_
    )
    rows = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in calls[0][0]]
    assert len(rows) == 9
    for X_valid, y_valid, weight_valid in calls:
        np.testing.assert_array_equal(X_valid, X[rows])
        np.testing.assert_array_equal(y_valid, names[rows])
        np.testing.assert_array_equal(weight_valid, weight[rows])


def test_a_data_frame_for_validation():
    pandas = pytest.importorskip("pandas")
    X, y = draw("binary")
    frame = pandas.DataFrame(X, columns=list("abcde"))
    params = {"scoring": "roc_auc", "early_stopping": True}
    model = estimator("binary", **params).fit(frame, y, validation_data=(frame[:40], y[:40]))
    assert_same_bits(model, estimator("binary", **params).fit(X, y, validation_data=(X[:40], y[:40])))
    with pytest.raises(ValueError, match=r"validation_data: .*feature names"):
        model.fit(frame, y, validation_data=(frame.rename(columns={"e": "f"}), y))


def _refused(kind):
    """(what is wrong, parameters, arguments of fit, the error, what it names), for an estimator of that kind."""
    X, y = draw(kind)
    labels = kind in ("binary", "multiclass", "multilabel")
    other = np.where(y == y[0], "x", "y") if y.ndim == 1 else y[:, :2]
    pairs = {
        "no tuple": (3, TypeError, "validation_data must be a tuple .*; got int"),
        "one": ((X,), TypeError, "validation_data must be a tuple .*; got tuple of length 1"),
        "four": ([X, y, None, None], TypeError, "validation_data must be a tuple .*; got list of length 4"),
        "an array": (X, TypeError, "validation_data must be a tuple .*; got ndarray"),
        "features": ((X[:, :3], y), ValueError, "validation_data: X has 3 features, but"),
        "rows": ((X, y[:7]), ValueError, "validation_data: .*inconsistent numbers of samples"),
        "NaN": ((np.where(X > 1, np.nan, X), y), ValueError, "validation_data: Input X contains NaN"),
        "weights": ((X, y, np.ones(3)), ValueError, "validation_data: sample_weight"),
        "targets": ((X, other), (TypeError, ValueError), "validation_data: "),
        "outputs": ((X, np.column_stack([y, y])), ValueError, "validation_data: "),
    }
    for name, (pair, error, message) in pairs.items():
        yield name, {}, {"validation_data": pair}, error, message
    yield (
        "scoring",
        {"scoring": "speed", "early_stopping": True},
        {},
        ValueError,
        "'speed' is not a valid scoring value",
    )
    yield "callbacks", {"callbacks": [print, 3]}, {}, TypeError, r"callbacks\[1\] must be callable; got int"
    yield "activation", {"activation": ["relu", "relu"]}, {}, ValueError, "activation must have 1 entries"
    yield "initializer", {"initializer": lambda *args, **kwargs: 1 / 0}, {}, ZeroDivisionError, "division"
    yield "weights", {}, {"sample_weight": np.ones(3)}, ValueError, "sample_weight"
    yield (
        "layers",
        {"warm_start": True, "hidden_layer_sizes": (6,)},
        {},
        ValueError,
        "need the layers of the previous fit",
    )
    yield (
        "split",
        {"early_stopping": True, "validation_fraction": 0.01},
        {},
        ValueError,
        "test_size|validation set is too small",
    )
    if labels:
        yield "class_weight", {"class_weight": {5: 1}}, {}, ValueError, "class_weight"
    else:
        params = {"output_activation": "softplus", "target_scaling": "standard"}
        yield (
            "scaling",
            params,
            {},
            ValueError,
            "target_scaling must be None where the output activation is not 'identity'",
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_fit_that_is_refused_changes_nothing(kind, solver):
    X, y = draw(kind)
    for name, params, arguments, error, message in _refused(kind):
        if solver == "lbfgs" and name in ("scoring", "split"):
            continue
        model = estimator(kind, solver=solver)
        if name != "layers":
            with pytest.raises(error, match=message):
                base.clone(model).set_params(**params).fit(X, y, **arguments)
        model.fit(X, y)
        model.set_params(**params)
        before, state = outputs_of(model, X), {**model.__dict__}
        curve = list(model.loss_curve_)
        with pytest.raises(error, match=message):
            model.fit(X[::-1][:60], y[::-1][:60] if name != "weights" else y[:60], **arguments)
        assert set(model.__dict__) == set(state)
        assert all(model.__dict__[key] is state[key] for key in state)
        np.testing.assert_array_equal(outputs_of(model, X), before)
        assert model.loss_curve_ == curve


def test_an_estimator_whose_first_fit_is_refused_is_not_fitted():
    X, y = draw("binary")
    model = estimator("binary", activation=["relu", "tanh"])
    with pytest.raises(ValueError, match="activation must have 1 entries"):
        model.fit(X, y)
    for use in (model.predict, model.predict_proba, model.transform):
        with pytest.raises(NotFittedError, match="This MLPClassifier instance is not fitted yet"):
            use(X)
    assert not hasattr(model, "classes_")
    assert not hasattr(model, "coefs_")


# ---- Learning rates that are functions ----


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_a_schedule_is_asked_before_each_epoch(solver, kind):
    """A constant factor is the same as another rate; "constant" is the factor 1."""
    X, y = draw(kind)
    asked = []

    def half(progress):
        asked.append(progress)
        return np.float32(0.5)

    model = estimator(kind, solver=solver, learning_rate=half).fit(X, y)
    assert asked == [0, 0.25, 0.5, 0.75]
    assert_same_bits(model, estimator(kind, solver=solver, learning_rate_init=0.005).fit(X, y))
    one = estimator(kind, solver=solver, learning_rate=lambda progress: 1).fit(X, y)
    assert_same_bits(one, estimator(kind, solver=solver).fit(X, y))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_rate_may_be_0(solver, engine_name):
    X, y = draw("outputs")
    model = estimator("outputs", solver=solver, engine=engine_name, learning_rate=lambda progress: int(progress < 0.5))
    short = base.clone(model).set_params(learning_rate="constant", max_iter=2)
    for one in (model, short):
        one.set_params(momentum=0)
    np.testing.assert_array_equal(model.fit(X, y).predict(X), short.fit(X, y).predict(X))


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, None, "fast", [1.0], 1j])
def test_rates_that_there_are_not(value):
    """The error comes in the epoch that asks; what was learnt before stays."""
    X, y = draw("binary")
    model = estimator("binary", learning_rate=lambda progress: 1 if progress < 0.5 else value)
    with pytest.raises(ValueError, match=r"learning_rate must return a finite number >= 0; got .* at 0\.5"):
        model.fit(X, y)
    assert_same_bits(model, estimator("binary", max_iter=2).fit(X, y))


def test_the_end_of_a_schedule_is_no_failure_to_converge():
    X, y = draw("binary")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator("binary", learning_rate=falling).fit(X, y)
        with pytest.raises(ConvergenceWarning, match="Maximum iterations"):
            estimator("binary").fit(X, y)


# ---- Time limits ----


@pytest.mark.parametrize("solver", SOLVERS)
def test_training_ends_after_max_time(solver):
    X, y = draw("regression")
    endless = {"max_iter": 10**9, "max_fun": 10**9, "n_iter_no_change": np.inf, "tol": 0}
    slow = {"callbacks": lambda event: time.sleep(0.05)} if solver == "lbfgs" else {}  # which else is there sooner
    model = estimator("regression", solver=solver, max_time=0.2, **endless, **slow)
    started = time.monotonic()
    with pytest.warns(
        ConvergenceWarning, match=r"The time limit \(max_time=0.2 seconds\) was reached after \d+ iterations"
    ):
        model.fit(X, y)
    assert 0.2 <= time.monotonic() - started < 60
    assert len(model.loss_curve_) == model.n_iter_ > 1
    assert math.isfinite(model.loss_)
    if solver != "lbfgs":
        assert model.t_ == 90 * model.n_iter_


@pytest.mark.parametrize("solver", SOLVERS)
def test_more_time_than_is_needed(solver):
    X, y = draw("multiclass")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Stochastic Optimizer: Maximum|lbfgs failed to converge")
        model = estimator("multiclass", solver=solver, max_time=1e6).fit(X, y)
    assert_same_bits(model, estimator("multiclass", solver=solver).fit(X, y))


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_an_epoch_that_is_longer_than_max_time_is_cut(container, early_stopping, monkeypatch):
    """Between two minibatches; what they learnt counts as an epoch."""
    monkeypatch.setattr(examples, "_TIMED_FLOPS", 1.0)
    X, y = draw("regression")
    params = {"shuffle": False, "max_time": 1e-9, "early_stopping": early_stopping}
    model = estimator("regression", **params)
    with pytest.warns(ConvergenceWarning, match="was reached after 1 iterations"):
        model.fit(container(X), y)
    assert (model.n_iter_, model.t_, len(model.loss_curve_)) == (1, 16, 1)
    if not early_stopping:
        whole = estimator("regression", shuffle=False, max_iter=1).fit(X[:16], y[:16])
        assert_same_bits(model, whole)
    else:
        assert len(model.validation_scores_) == 1


@pytest.mark.parametrize("flops", [1.0, 1e4, 3e4])
@pytest.mark.parametrize("rows", [90, 96, 100])
def test_pieces_of_an_epoch_are_the_epoch(flops, rows, monkeypatch):
    monkeypatch.setattr(examples, "_TIMED_FLOPS", flops)
    X, y = draw("outputs", rows=rows)
    for params in ({}, {"shuffle": False}, {"early_stopping": True}, {"solver": "sgd"}):
        whole = estimator("outputs", **params).fit(X, y)
        assert_same_bits(whole, estimator("outputs", max_time=1e6, **params).fit(X, y))


@pytest.mark.parametrize("max_time", [0, -1, "long", math.nan])
def test_times_that_there_are_not(max_time):
    with pytest.raises(ValueError, match="'max_time' parameter of MLPRegressor must be"):
        estimator("regression", max_time=max_time).fit(*draw("regression"))


# ---- Interrupts ----


class Interrupt(threading.Thread):
    """Ctrl-C, some time after a callback has seen an epoch."""

    def __init__(self, epoch, seconds):
        super().__init__()
        self.epoch, self.seconds, self.seen = epoch, seconds, threading.Event()
        self.start()

    def __call__(self, event):
        if event.epoch == self.epoch:
            self.seen.set()

    def run(self):
        if self.seen.wait(60):
            time.sleep(self.seconds)
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_an_interrupted_fit_keeps_the_last_whole_epoch(early_stopping, container):
    X, y = draw("regression", rows=4000, columns=30)
    params = {"early_stopping": early_stopping, "batch_size": 4, "n_threads": 1}
    diary, interrupt = Diary(), Interrupt(2, 0.02)
    model = estimator("regression", **params, callbacks=[diary, interrupt], max_iter=10**6, n_iter_no_change=10**6)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(container(X), y)
    interrupt.join()
    # The last one may not have been scored yet: it then is not among those of which the best is kept.
    epochs = len(model.validation_scores_) if early_stopping else model.network_.history_.epochs
    assert epochs >= 2
    last = estimator("regression", **params, max_iter=epochs).fit(container(X), y)
    assert last.network_.parameters.tobytes() == model.network_.parameters.tobytes()
    np.testing.assert_array_equal(model.predict(X), last.predict(X))
    assert_same_bits(model.set_params(max_iter=2, callbacks=None).fit(X, y), last.set_params(max_iter=2).fit(X, y))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epoch", [0, 2])
def test_an_interrupt_between_two_minibatches(kind, epoch, monkeypatch):
    """Of the first epoch, too: the initial weights are kept then."""
    X, y = draw(kind)
    whole, seen = examples.Examples.pieces, []

    def pieces(self, *arguments):
        for number, piece in enumerate(whole(self, *arguments)):
            if len(seen) == epoch and number == 2:
                raise KeyboardInterrupt
            yield piece
        seen.append(number)

    monkeypatch.setattr(examples, "_TIMED_FLOPS", 1.0)
    monkeypatch.setattr(examples.Examples, "pieces", pieces)
    model = estimator(kind, max_time=1e6)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, y)
    assert len(seen) == epoch
    monkeypatch.undo()
    short = {"max_iter": epoch} if epoch else {"max_iter": 1, "learning_rate": standing_still}
    expected = estimator(kind, **short).fit(X, y)
    assert model.network_.parameters.tobytes() == expected.network_.parameters.tobytes()
    assert model.n_iter_ == epoch
    assert_same_bits(model.fit(X, y), estimator(kind).fit(X, y))


def test_an_interrupt_ends_lbfgs_with_an_error():
    """As in scikit-learn; the model has the last iteration's parameters."""
    X, y = draw("regression")
    model = estimator("regression", solver="lbfgs", callbacks=Diary(2, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert_same_bits(model, estimator("regression", solver="lbfgs", max_iter=2).fit(X, y))


# ---- Divergence ----


def _explode(progress):
    return 1.0 if progress < 0.5 else 1e200


@pytest.mark.parametrize("kind", ["multiclass", "regression", "outputs"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_training_that_diverges_keeps_the_last_whole_epoch(kind, solver, engine_name):
    X, y = draw(kind)
    model = estimator(kind, solver=solver, learning_rate=_explode, engine=engine_name, activation="identity")
    with pytest.raises(
        DivergenceError, match=r"Solver produced non-finite parameter weights.*: training diverged"
    ) as caught:
        model.fit(X, y)
    assert isinstance(caught.value, ValueError)
    assert (caught.value.epoch, caught.value.batch >= 1) == (3, True)
    short = base.clone(model).set_params(learning_rate="constant", max_iter=2).fit(X, y)
    assert_same_bits(model, short)
    np.testing.assert_array_equal(outputs_of(model, X), outputs_of(short, X))
    assert_same_bits(model.set_params(learning_rate="constant").fit(X, y), base.clone(model).fit(X, y))


def test_the_minibatch_of_a_divergence_counts_from_the_beginning_of_the_epoch(monkeypatch):
    X, y = draw("regression")
    errors = []
    for container, elements in ((np.asarray, 2**20), (sparse.csr_array, 2**20), (sparse.csr_array, 5 * 16)):
        monkeypatch.setattr(examples, "_TILE_ELEMENTS", elements)
        with pytest.raises(DivergenceError) as caught:
            estimator("regression", solver="sgd", learning_rate_init=1e60, activation="identity").fit(container(X), y)
        errors.append((caught.value.epoch, caught.value.batch, str(caught.value)))
    assert errors[0][1] > 1
    assert errors[1:] == errors[:1] * 2


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
@pytest.mark.parametrize("given", [False, True])
def test_early_stopping_outlives_a_divergence(kind, given):
    X, y = draw(kind)
    params = {"early_stopping": True, "activation": "identity", "learning_rate": _explode}
    arguments = {"validation_data": (X, y)} if given else {}
    model = estimator(kind, **params)
    with pytest.warns(ConvergenceWarning, match="The best parameters so far are restored"):
        model.fit(X, y, **arguments)
    short = estimator(kind, **{**params, "learning_rate": "constant"}, max_iter=2).fit(X, y, **arguments)
    assert model.network_.parameters.tobytes() == short.network_.parameters.tobytes()
    assert model.best_validation_score_ == short.best_validation_score_ == max(short.validation_scores_)
    assert model.loss_curve_[:2] == short.loss_curve_


@pytest.mark.parametrize("solver", SOLVERS)
def test_data_too_large_for_float32(solver):
    X, y = draw("regression")
    model = estimator("regression", solver=solver, early_stopping=False)
    with pytest.raises(DivergenceError, match="Solver produced non-finite parameter weights"):
        model.fit((X * 1e30).astype(np.float32), y)
    assert np.isfinite(model.network_.parameters).all()

"""The course of an estimator's fit: validation, early stopping, callbacks, time limits, and every way to end early."""

import io
import itertools
import math
import os
import pickle
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from conftest import assert_close
from scipy import sparse
from sklearn import base, metrics, model_selection, pipeline, preprocessing
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from test_estimators import KINDS, assert_same_bits, draw, estimator, falling, outputs_of, standing_still

from cymlp import DivergenceError, MLPClassifier, MLPRegressor, losses
from cymlp.estimators import examples
from cymlp.estimators.solvers import Event

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SOLVERS = ["adam", "sgd", "lbfgs"]


class Diary:
    """A callback that keeps what it is told, and the parameters."""

    def __init__(self, stop_after=math.inf, raises=None):
        self.events, self.parameters = [], []
        self.stop_after, self.raises = stop_after, raises

    def __call__(self, event):
        self.events.append(event)
        self.parameters.append(event.estimator.network_.parameters.copy())
        if len(self.events) >= self.stop_after:
            if self.raises is not None:
                raise self.raises
            return True
        return None


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
    rows = [int(np.flatnonzero((X == row).all(axis=1))[0]) for row in calls[0][0]]
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
    with pytest.raises(ValueError, match="validation_data: .*feature names"):
        model.fit(
            frame, y, validation_data=(frame[list("abcdf")] if "f" in frame else frame.rename(columns={"e": "f"}), y)
        )


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
            model.fit(X[::-1][:60], y[::-1][:60] if "weights" != name else y[:60], **arguments)
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


# ---- Callbacks ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_callbacks_are_told(kind, solver):
    X, y = draw(kind)
    seen, diary = [], Diary()

    def use(event):
        """In a callback an estimator is as fitted as it ever will be."""
        model = event.estimator
        seen.append(
            (event.epoch, event.loss, model.n_iter_, model.loss_, list(model.loss_curve_), outputs_of(model, X))
        )

    model = estimator(kind, solver=solver, callbacks=[use, diary]).fit(X, y)
    assert [event[0] for event in seen] == [event.epoch for event in diary.events] == [1, 2, 3, 4]
    assert [event[1] for event in seen] == model.loss_curve_
    for epoch, loss, n_iter, loss_now, curve, outputs in seen:
        assert (n_iter, loss_now, curve) == (epoch, loss, model.loss_curve_[:epoch])
        short = estimator(kind, solver=solver, max_iter=epoch).fit(X, y)
        np.testing.assert_array_equal(outputs, outputs_of(short, X))
    for event in diary.events:
        assert event.estimator is model
        assert event.validation_score is event.validation_loss is None
    np.testing.assert_array_equal(seen[-1][-1], outputs_of(model, X))
    assert_same_bits(model, estimator(kind, solver=solver).fit(X, y))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("answer", [True, np.True_])
def test_a_callback_can_stop_and_the_others_are_told(solver, answer):
    X, y = draw("multiclass")
    diary = Diary()
    model = estimator(
        "multiclass", solver=solver, callbacks=[lambda event: answer if event.epoch == 2 else False, diary]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, y)
    assert len(diary.events) == model.n_iter_ == len(model.loss_curve_) == 2
    assert_same_bits(model, estimator("multiclass", solver=solver, max_iter=2).fit(X, y))


@pytest.mark.parametrize("answer", [1, "stop", None, [True]])
def test_only_true_stops(answer):
    assert estimator("binary", callbacks=lambda event: answer).fit(*draw("binary")).n_iter_ == 4


def test_a_callback_stops_partial_fit_no_sooner_than_it_ends():
    X, y = draw("regression")
    diary = Diary(stop_after=1)
    model = estimator("regression", callbacks=diary)
    for calls in (1, 2, 3):
        model.partial_fit(X, y)
        assert len(diary.events) == len(model.loss_curve_) == calls
    assert {event.epoch for event in diary.events} == {1}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("error", [KeyError("mine"), ArithmeticError(), SystemExit(3), GeneratorExit()])
def test_an_exception_of_a_callback_comes_through(solver, error):
    """The model is that of the epochs before, and can go on."""
    X, y = draw("outputs")
    model = estimator("outputs", solver=solver, callbacks=Diary(2, error))
    with pytest.raises(type(error)) as caught:
        model.fit(X, y)
    assert caught.value is error
    short = estimator("outputs", solver=solver, max_iter=2).fit(X, y)
    assert_same_bits(model, short)
    np.testing.assert_array_equal(model.predict(X), short.predict(X))
    model.set_params(callbacks=None)
    assert_same_bits(model.partial_fit(X, y), short.set_params(max_iter=4).partial_fit(X, y))
    assert_same_bits(model.fit(X, y), estimator("outputs", solver=solver).fit(X, y))


@pytest.mark.parametrize("solver", SOLVERS)
def test_stop_iteration_is_an_error(solver):
    model = estimator("binary", solver=solver, callbacks=lambda event: next(iter(())))
    with pytest.raises(RuntimeError, match="a callback raised StopIteration; to stop training, return True"):
        model.fit(*draw("binary"))
    assert model.n_iter_ == 1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_callbacks_may_look_at_coefs_and_keep_them(solver, early_stopping):
    X, y = draw("binary")
    kept = []

    def look(event):
        kept.append((event.estimator.coefs_, event.estimator.intercepts_[0]))
        event.estimator.predict(X)

    params = {"solver": solver, "early_stopping": early_stopping}
    model = estimator("binary", **params, callbacks=look).fit(X, y)
    assert_same_bits(model, estimator("binary", **params).fit(X, y))
    assert len({coefs[0].tobytes() for coefs, _ in kept}) == len(kept) == 4
    np.testing.assert_array_equal(model.coefs_[0], kept[int(np.argmax(model.validation_scores_ or range(4)))][0][0])


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_what_a_callback_writes_into_coefs_is_trained_on(solver):
    X, y = draw("regression")

    def clip(event):
        for W in event.estimator.coefs_:
            np.clip(W, -0.05, 0.05, out=W)

    model, by_hand = (estimator("regression", solver=solver, random_state=np.random.RandomState(0)) for _ in range(2))
    model.set_params(callbacks=clip).fit(X, y)
    assert max(np.abs(W).max() for W in model.coefs_) == 0.05
    by_hand.set_params(max_iter=1).fit(X, y)
    for _ in range(3):  # in which the optimiser and the random state go on
        clip(Event(1, 0.0, None, None, by_hand))
        by_hand.partial_fit(X, y)
    clip(Event(1, 0.0, None, None, by_hand))
    np.testing.assert_array_equal(model.predict(X), by_hand.predict(X))
    assert model.loss_curve_ == by_hand.loss_curve_


# ---- scikit-learn's callbacks ----


class Recorder:
    """Of scikit-learn's protocol: what was called, with what, and what the model of that moment predicts."""

    def __init__(self, stop_after=math.inf, raises=None):
        self.calls, self.outputs = [], []
        self.stop_after, self.raises = stop_after, raises

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(f"begin {context.task_name} {context.task_id}")

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.calls.append(f"end {context.task_name} {context.task_id}")
        self.metadata = metadata
        self.outputs.append(outputs_of(fitted_estimator, X))
        if len(self.outputs) == self.stop_after and self.raises is not None:
            raise self.raises
        return len(self.outputs) >= self.stop_after


@pytest.fixture(scope="module")
def protocol():
    """scikit-learn's module of callbacks, from 1.9 on."""
    return pytest.importorskip("sklearn.callback")


@pytest.mark.parametrize("kind", ["multiclass", "counts"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_scikit_learn_callbacks_follow_the_fit(protocol, kind, solver):
    X, y = draw(kind)
    weight, recorder, diary = np.linspace(1, 2, 90), Recorder(), Diary()
    model = estimator(kind, solver=solver, callbacks=diary).set_callbacks(recorder)
    assert_same_bits(model.fit(X, y, weight), estimator(kind, solver=solver).fit(X, y, weight))
    epochs = [f"{what} epoch {i}" for i in range(4) for what in ("begin", "end")]
    assert recorder.calls == ["setup", "begin fit 0", *epochs, "end fit 0", "teardown"]
    assert recorder.metadata["sample_weight"] is weight
    for parameters, outputs in zip([*diary.parameters, diary.parameters[-1]], recorder.outputs, strict=True):
        model.network_.parameters = parameters
        np.testing.assert_array_equal(outputs, outputs_of(model, X))


@pytest.mark.parametrize("solver", SOLVERS)
def test_scikit_learn_callbacks_stop_and_fail(protocol, solver):
    X, y = draw("binary")
    model = estimator("binary", solver=solver).set_callbacks(Recorder(stop_after=2)).fit(X, y)
    assert_same_bits(model, estimator("binary", solver=solver, max_iter=2).fit(X, y))
    recorder = Recorder(2, KeyError("mine"))
    model = estimator("binary", solver=solver).set_callbacks(recorder)
    with pytest.raises(KeyError, match="mine"):
        model.fit(X, y)
    assert_same_bits(model, estimator("binary", solver=solver, max_iter=2).fit(X, y))
    assert recorder.calls[-1] == "teardown"
    recorder = Recorder()
    with pytest.raises(TypeError, match="validation_data must be a tuple"):
        base.clone(model).set_callbacks(recorder).fit(X, y, validation_data=3)
    assert recorder.calls == []
    with pytest.raises(TypeError, match="FitCallback protocol"):
        model.set_callbacks(print)


def test_scoring_monitor_and_progress_bar(protocol, capsys):
    pytest.importorskip("rich")
    X, y = draw("binary")
    scores = []
    monitor = protocol.ScoringMonitor(scoring="accuracy")
    model = estimator("binary", callbacks=lambda event: scores.append(event.estimator.score(X, y)))
    model.set_callbacks(monitor, protocol.ProgressBar()).fit(X, y)
    assert [row["accuracy"] for row in monitor.get_logs().data if row["task_name"] == "epoch"] == scores
    assert "MLPClassifier - fit" in capsys.readouterr().out
    again = pickle.loads(pickle.dumps(model.set_params(callbacks=None)))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_callbacks_in_meta_estimators(protocol, n_jobs, capsys):
    """A monitor belongs to the estimator, a progress bar to the outermost one."""
    pytest.importorskip("rich")
    X, y = draw("multiclass")
    monitor = protocol.ScoringMonitor(scoring="accuracy")
    inner = estimator("multiclass").set_callbacks(monitor)
    steps = pipeline.Pipeline([("scale", preprocessing.StandardScaler()), ("mlp", inner)])
    search = model_selection.GridSearchCV(steps, {"mlp__gain": [0.5, 1.0]}, cv=2, n_jobs=n_jobs)
    search.set_callbacks(protocol.ProgressBar(max_propagation_depth=None)).fit(X, y)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(rows) == (2 * 2 + 1) * 4
    alone = base.clone(search.best_estimator_).fit(X, y)
    np.testing.assert_array_equal(alone.predict_proba(X), search.predict_proba(X))

"""Callbacks of estimators: plain functions of an event, and those of scikit-learn's protocol."""

import math
import pickle
import threading
import warnings

import numpy as np
import pytest
from sklearn import base, model_selection, pipeline, preprocessing
from test_estimators import KINDS, SOLVERS, Diary, assert_same_bits, draw, estimator, outputs_of

from cymlp.estimators.solvers import Event

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


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


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("within_thread", [False, True])
def test_callbacks_cannot_fit_their_estimator(solver, within_thread):
    """Neither they nor a thread that they start; the fit that is going on keeps its record."""
    X, y = draw("regression")
    refused = []

    def attempt(model, method):
        with pytest.raises(RuntimeError, match="this estimator is being fitted"):
            getattr(model, method)(X, y)
        refused.append(method)

    def fit(event):
        for method in ("fit", "partial_fit"):
            if within_thread:
                thread = threading.Thread(target=attempt, args=(event.estimator, method))
                thread.start()
                thread.join()
            else:
                attempt(event.estimator, method)

    model = estimator("regression", solver=solver, callbacks=fit).fit(X, y)
    assert refused == ["fit", "partial_fit"] * 4
    other = estimator("regression", solver=solver).fit(X, y)
    assert_same_bits(model, other)
    assert (model.n_iter_, model.loss_curve_, model.t_) == (other.n_iter_, other.loss_curve_, other.t_)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_what_a_callback_writes_into_coefs_is_trained_on(solver):
    X, y = draw("regression")

    def clip(event):
        for W in event.estimator.coefs_:
            np.clip(W, -0.05, 0.05, out=W)

    model, by_hand = (estimator("regression", solver=solver, shuffle=False) for _ in range(2))
    model.set_params(callbacks=clip).fit(X, y)
    assert max(np.abs(W).max() for W in model.coefs_) == 0.05
    by_hand.set_params(max_iter=1).fit(X, y)
    for _ in range(3):  # in which the optimiser goes on
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

"""Estimators that are copied and shared: pickles of every stage, clones, threads, forks, joblib."""

import copy
import functools
import multiprocessing
import os
import pickle
import threading

import joblib
import numpy as np
import pytest
from sklearn import base
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

from cymlp import MLPClassifier, MLPRegressor, activations, losses, normalizations, schedules

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # Python 3.12 and later say this of every fork beside another thread.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]

SECONDS = 60

DUPLICATES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "oldest pickle": lambda model: pickle.loads(pickle.dumps(model, protocol=0)),
    "deepcopy": copy.deepcopy,
}


@pytest.fixture(params=DUPLICATES)
def duplicate(request):
    return DUPLICATES[request.param]


def classes_of(kind, y):
    """What partial_fit takes besides."""
    known = {"binary": ["no", "yes"], "multiclass": [10, 11, 12], "multilabel": [0, 1, 2]}
    return {"classes": known[kind]} if kind in known else {}


# ---- Pickles ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_copy_of_a_fitted_estimator(kind, solver, early_stopping, duplicate, dtype):
    """It predicts the same and goes on to learn the same, and neither changes the other."""
    X, y = draw(kind)
    X = X.astype(dtype)
    params = {"solver": solver, "early_stopping": early_stopping, "random_state": np.random.RandomState(0)}
    model = estimator(kind, **params).fit(X, y)
    again = duplicate(model)
    assert set(vars(again)) == set(vars(model))
    assert_same_bits(again, model)
    np.testing.assert_array_equal(outputs_of(again, X), outputs_of(model, X))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    for step in (lambda one: one.set_params(warm_start=True).fit(X, y), lambda one: one.fit(X, y)):
        before = outputs_of(again, X)
        step(model)
        np.testing.assert_array_equal(outputs_of(again, X), before)
        assert_same_bits(step(again), model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_copy_in_the_middle_of_a_stream(kind, solver, duplicate):
    """The optimiser's state and the random state go with it."""
    X, y = draw(kind)
    model = estimator(kind, solver=solver, learning_rate="adaptive", random_state=np.random.RandomState(0))
    extra, again = classes_of(kind, y), None
    for rows in (slice(0, 30), slice(30, 55), slice(55, 90), slice(0, 90)):
        model.partial_fit(X[rows], y[rows], **extra)
        again = duplicate(model) if again is None else duplicate(again.partial_fit(X[rows], y[rows]))
        assert_same_bits(again, model)


def test_copies_of_what_is_not_fitted(duplicate):
    for kind in KINDS:
        X, y = draw(kind)
        model = estimator(kind, activation=[activations.leaky_relu(0.3)], learning_rate=falling)
        again = duplicate(model)
        assert repr(again) == repr(model)
        assert_same_bits(again.fit(X, y), model.fit(X, y))


def test_callbacks_are_copied_with_what_they_have_seen(duplicate):
    X, y = draw("binary")
    model = estimator("binary", callbacks=[Diary()], learning_rate=falling, activation=["tanh"]).fit(X, y)
    again = duplicate(model)
    assert [event.loss for event in again.callbacks[0].events] == model.loss_curve_
    assert again.callbacks[0].events[0].estimator is again
    assert_same_bits(again.fit(X, y), model.fit(X, y))
    assert len(model.callbacks[0].events) == len(again.callbacks[0].events) == 8


def test_a_copy_made_in_a_callback():
    X, y = draw("outputs")
    copies = []

    def keep(event):
        copies.append(copy.copy(event.estimator).set_params(callbacks=None))
        copies[-1] = copy.deepcopy(copies[-1])

    estimator("outputs", callbacks=keep).fit(X, y)
    assert len(copies) == 4
    for epochs, made in enumerate(copies, 1):
        short = estimator("outputs", max_iter=epochs).fit(X, y)
        assert_same_bits(made, short)
        assert_same_bits(made.partial_fit(X, y), short.partial_fit(X, y))


# ---- Clones ----


def _score(model, X, y):
    return 1.0


BOTH = {
    "hidden_layer_sizes": [5, 4],
    "activation": ["tanh", activations.leaky_relu(0.2)],
    "solver": "sgd",
    "alpha": 0.01,
    "batch_size": 9,
    "learning_rate": falling,
    "learning_rate_init": 0.02,
    "power_t": 0.4,
    "max_iter": 3,
    "shuffle": False,
    "random_state": 5,
    "tol": 1e-3,
    "verbose": 1,
    "warm_start": True,
    "momentum": 0.8,
    "nesterovs_momentum": False,
    "early_stopping": True,
    "validation_fraction": 0.2,
    "beta_1": 0.8,
    "beta_2": 0.99,
    "epsilon": 1e-7,
    "n_iter_no_change": 4,
    "max_fun": 1000,
    "initializer": functools.partial(np.divide, 1.0),
    "gain": 0.7,
    "dropout": [0.1, 0.2, schedules.Constant(0.3)],
    "batch_norm": normalizations.BatchNorm(momentum=0.2),
    "layer_norm": normalizations.LayerNorm(epsilon=1e-4),
    "l1": 1e-4,
    "l2": 1e-3,
    "weight_decay": 0.01,
    "max_norm": 3.0,
    "penalize_biases": True,
    "clip_norm": 1.0,
    "clip_layer_norm": 1.5,
    "clip_value": 2.0,
    "scoring": _score,
    "callbacks": [print],
    "n_threads": 2,
    "max_time": 100.0,
    "health": 7,
    "engine": "reference",
}
OTHERS = {
    MLPClassifier: {**BOTH, "class_weight": {1: 2.0}, "label_smoothing": 0.1},
    MLPRegressor: {
        **BOTH,
        "loss": losses.quantile(0.8),
        "output_activation": activations.get("softplus"),
        "target_scaling": "standard",
    },
}


@pytest.mark.parametrize("cls", OTHERS)
def test_clones_have_every_parameter(cls):
    default, other = cls().get_params(), OTHERS[cls]
    assert set(default) == set(other)
    for name, value in other.items():
        assert default[name] is not value
        assert default[name] != value
    model = cls(**other)
    for again in (base.clone(model), cls().set_params(**other), pickle.loads(pickle.dumps(model))):
        assert {name: repr(value) for name, value in again.get_params().items()} == {
            name: repr(value) for name, value in other.items()
        }
        assert set(vars(again)) == set(default)
    assert repr(model).startswith(f"{cls.__name__}(")


@pytest.mark.parametrize("kind", KINDS)
def test_clones_of_the_fitted_are_not_fitted(kind):
    X, y = draw(kind)
    model = estimator(kind).fit(X, y)
    again = base.clone(model)
    assert set(vars(again)) == set(again.get_params())
    assert_same_bits(again.fit(X, y), model)


# ---- Python threads ----


def _digests(model, X):
    return outputs_of(model, X).tobytes()


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
@pytest.mark.parametrize("warm_start", [False, True])
def test_threads_predict_while_another_one_fits(kind, warm_start):
    """They get what the model was before, or after some whole epoch."""
    X, y = draw(kind, rows=600)
    model = estimator(kind, warm_start=warm_start, max_iter=30, n_iter_no_change=100).fit(X, y)
    whole, seen, done, errors = [_digests(model, X)], set(), threading.Event(), []
    if not warm_start:
        whole.append(_digests(base.clone(model).set_params(max_iter=1, learning_rate=standing_still).fit(X, y), X))
    model.callbacks = lambda event: whole.append(_digests(event.estimator, X))

    def predict():
        try:
            while not done.is_set():
                seen.add(_digests(model, X))
                model.transform(X[:3])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            model.fit(X, y)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert seen
    assert seen <= set(whole)


def test_threads_fit_estimators_of_their_own():
    X, y = draw("outputs", rows=300)
    models = [estimator("outputs", random_state=seed) for seed in range(4)]
    threads = [threading.Thread(target=model.fit, args=(X, y)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, model in enumerate(models):
        assert_same_bits(model, estimator("outputs", random_state=seed).fit(X, y))


# ---- Processes ----


def _fit(kind, seed):
    X, y = draw(kind, rows=200)
    return estimator(kind, random_state=seed, n_threads=2, max_iter=2).fit(X, y)


def _go_on(model, X, y):
    """What an estimator predicts, and after some more training."""
    return outputs_of(model, X), outputs_of(model.partial_fit(X, y), X), outputs_of(model.fit(X, y), X)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_forked_children_use_what_they_inherit(kind):
    model = _fit(kind, 0)
    X, y = draw(kind, rows=200)
    weights = model.coefs_[0]
    weights[0] = 0.5  # not predicted with yet
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(_go_on(model, X, y)))
    child.start()
    try:
        assert receiver.poll(SECONDS), "the child hangs"
        answers = receiver.recv()
    finally:
        child.join(1)
        child.kill()
    for answer, expected in zip(answers, _go_on(model, X, y), strict=True):
        np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib(backend):
    """Models come back from workers as they were there, and are sent to them."""
    X, y = draw("multiclass", rows=200)
    with joblib.parallel_config(backend, n_jobs=2):
        models = joblib.Parallel()(joblib.delayed(_fit)("multiclass", seed) for seed in range(4))
        # Arrays that are larger than max_nbytes are mapped from files, read-only.
        answers = joblib.Parallel(max_nbytes=100)(joblib.delayed(_go_on)(one, X, y) for one in copy.deepcopy(models))
    for seed, (model, answer) in enumerate(zip(models, answers, strict=True)):
        assert_same_bits(model, _fit("multiclass", seed))
        for got, expected in zip(answer, _go_on(model, X, y), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("mode", [None, "r", "r+", "c"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_joblib_files(mode, early_stopping, tmp_path):
    """Training changes no file that a model's arrays are mapped from."""
    X, y = draw("counts")
    model = estimator("counts", warm_start=True, early_stopping=early_stopping).fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    for _ in range(2):
        again = joblib.load(tmp_path / "model.joblib", mmap_mode=mode)
        assert_same_bits(again, model)
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
        assert_same_bits(again.fit(X, y), copy.deepcopy(model).fit(X, y))
        again.coefs_[0][0] = 1.0
        assert not np.array_equal(again.predict(X), model.predict(X))

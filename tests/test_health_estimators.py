"""``health`` of estimators and ``health_``: what is collected over `fit`, `partial_fit` and `warm_start`, that it
changes nothing, and what is told where there is none."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from conftest import assert_close
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from cymlp import DivergenceError, MLPClassifier, MLPRegressor, optimizers, schedules
from cymlp.health.monitor import EVERY, watched_steps
from cymlp.health.report import HealthReport

ROWS, BATCH, EPOCHS, EVERY_FIFTH = 60, 8, 6, 5
N_BATCHES = 8
STEPS = (watched_steps(EVERY_FIFTH, 0, N_BATCHES * EPOCHS) + 1).tolist()


@pytest.fixture
def data(rng):
    return rng.standard_normal((ROWS, 4)), rng.integers(0, 3, ROWS)


@pytest.fixture
def numbers(rng):
    return rng.standard_normal((ROWS, 4)), 3 + 2 * rng.standard_normal((ROWS, 2))


def _make(cls=MLPClassifier, engine="compiled", **parameters):
    given = {"hidden_layer_sizes": (7, 5), "batch_size": BATCH, "max_iter": EPOCHS, "random_state": 0, "engine": engine}
    return cls(**given | {"health": EVERY_FIFTH} | parameters)


def _fit(estimator, *data, **optional):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*data, **optional)


PARAMETERS = {
    "plain": {},
    "sgd": {"solver": "sgd", "learning_rate": "adaptive"},
    "lbfgs": {"solver": "lbfgs"},
    "early": {"early_stopping": True},
    "dropout": {"dropout": 0.25, "batch_norm": True},
    "clipped": {"clip_norm": 0.1, "class_weight": "balanced"},
    "timed": {"max_time": 1e6},
    "in order": {"shuffle": False},
    "stratified": {"shuffle": "stratified"},
    "schedule": {"learning_rate": schedules.Polynomial(0.01, 0.001)},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_watching_changes_nothing(engine_name, data, name):
    found = []
    for health in (True, False, 1, EVERY_FIFTH):
        estimator = _fit(_make(engine=engine_name, health=health, **PARAMETERS[name]), *data)
        state = estimator._random_state.get_state()
        found.append((estimator.network_.parameters.tobytes(), repr(estimator.loss_curve_), repr(state)))
    assert len(set(found)) == 1


@pytest.mark.parametrize("as_sparse", [False, True])
@pytest.mark.parametrize("name", PARAMETERS)
def test_records(engine_name, data, name, as_sparse):
    X, y = data
    estimator = _fit(_make(engine=engine_name, **PARAMETERS[name]), sparse.csr_matrix(X) if as_sparse else X, y)
    report = estimator.health_
    assert isinstance(report, HealthReport)
    assert report is estimator.health_
    n_batches = {"lbfgs": 1, "early": 7}.get(name, N_BATCHES)
    steps = watched_steps(EVERY_FIFTH, 0, n_batches * EPOCHS) + 1
    np.testing.assert_array_equal(report.records.steps, steps)
    np.testing.assert_array_equal(report.records.epochs, (steps - 1) // n_batches)
    assert np.isfinite(report.records.activation).all()
    assert (report.records.update[:, 1:] > 0).all()
    evidence = report.evidence
    assert evidence.history["loss"] == estimator.loss_curve_
    assert evidence.n_rows == (ROWS - 6 if name == "early" else ROWS)
    assert evidence.layer_sizes == (4, 7, 5, 3)
    assert evidence.initializers == ("scikit-learn's",) * 3
    assert evidence.data.n_rows == evidence.n_rows
    if name != "early":
        assert_close(evidence.data.input_mean, X.mean(axis=0), ROWS)
        np.testing.assert_allclose(evidence.data.class_shares, np.bincount(y) / ROWS)
        answers = estimator.predict(X)
        np.testing.assert_allclose(evidence.data.predicted_shares, np.bincount(answers, minlength=3) / ROWS)
    assert evidence.clipping == (name == "clipped")
    assert evidence.class_weight == (name == "clipped")
    first = {"lbfgs": None, "schedule": (evidence.history["learning_rate"] or [None])[0]}
    assert evidence.learning_rate == first.get(name, 0.001)


def test_the_optimizer_is_told(data):
    told = {
        name: _fit(_make(**PARAMETERS[name]), *data).health_.evidence.optimizer for name in ("plain", "sgd", "lbfgs")
    }
    assert told["plain"] == optimizers.Adam(0.001, epsilon_hat=True)
    assert told["sgd"] == optimizers.SGD(0.001, 0.9, True)
    assert isinstance(told["lbfgs"], optimizers.LBFGS)


def test_by_default_it_is_on(data):
    estimator = _fit(MLPClassifier((7,), max_iter=EPOCHS, random_state=0), *data)
    assert estimator.health is True
    assert estimator.health_.records.steps.tolist() == (watched_steps(EVERY, 0, EPOCHS) + 1).tolist()


def test_regressors(engine_name, numbers):
    X, y = numbers
    estimator = _fit(_make(MLPRegressor, engine_name), X, y)
    summary = estimator.health_.evidence.data
    assert_close(summary.target_mean, y.mean(axis=0), ROWS)
    assert summary.n_classes is None
    # As scikit-learn reports losses: the mean over outputs.
    assert_close(summary.base_loss, y.var(axis=0).mean() / 2, ROWS)
    scaled = _fit(_make(MLPRegressor, engine_name, target_scaling="standard"), X, y).health_.evidence.data
    assert_close(scaled.target_mean, np.zeros(2), ROWS, 1.0)
    assert_close(scaled.base_loss, 0.5, ROWS)


def test_multilabel_targets(engine_name, data, rng):
    y = rng.integers(0, 2, (ROWS, 3))
    summary = _fit(_make(engine=engine_name), data[0], y).health_.evidence.data
    assert summary.n_classes is None
    assert_close(summary.target_mean, y.mean(axis=0), ROWS)
    share = y.mean(axis=0)
    assert_close(summary.base_loss, -(share * np.log(share) + (1 - share) * np.log(1 - share)).sum(), ROWS)


# ---- Calls that go on ----


def test_partial_fit_goes_on(engine_name, data):
    """Calls for the minibatches one by one have the records of a fit that takes them in this order."""
    X, y = data
    whole = _fit(_make(engine=engine_name, shuffle=False), X, y)
    estimator = _make(engine=engine_name, shuffle=False)
    for _ in range(EPOCHS):
        for start in range(0, ROWS, BATCH):
            rows = slice(start, start + BATCH)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the last one is smaller than batch_size
                estimator.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    report = estimator.health_
    np.testing.assert_array_equal(report.records.steps, STEPS)
    np.testing.assert_array_equal(report.records.values, whole.health_.records.values)
    np.testing.assert_array_equal(report.records.epochs, report.records.steps - 1)  # each call is one
    evidence = report.evidence
    assert evidence.history["loss"] == estimator.loss_curve_
    assert evidence.n_rows is None
    assert ROWS <= evidence.data.n_rows <= 1000
    assert evidence.data.recall is not None


def test_partial_fit_of_many_calls_keeps_a_sample(rng):
    estimator = _make(health=50)
    for _ in range(300):
        estimator.partial_fit(rng.standard_normal((8, 4)), rng.integers(0, 3, 8), classes=[0, 1, 2])
    assert estimator.health_.records.steps.tolist() == [1, 2, 4, 8, 16, 32, 50, 100, 150, 200, 250, 300]
    assert 1000 <= estimator.health_.evidence.data.n_rows < 1008


def test_warm_start_goes_on_and_fit_begins_anew(engine_name, data):
    estimator = _make(engine=engine_name, warm_start=True)
    for call in (1, 2):
        _fit(estimator, *data)
        records = estimator.health_.records
        last = N_BATCHES * EPOCHS * call
        np.testing.assert_array_equal(records.steps, watched_steps(EVERY_FIFTH, 0, last) + 1)
        np.testing.assert_array_equal(records.epochs, (records.steps - 1) // N_BATCHES)
        assert estimator.health_.evidence.history["loss"] == estimator.loss_curve_
    assert estimator.health_.evidence.initializers == ("scikit-learn's",) * 3
    estimator.set_params(warm_start=False)
    assert _fit(estimator, *data).health_.records.steps.tolist() == STEPS


def test_health_may_change_between_calls(data):
    estimator = _make(warm_start=True)
    _fit(estimator, *data)
    before = len(estimator.health_.records)
    _fit(estimator.set_params(health=1), *data)
    assert len(estimator.health_.records) > before + N_BATCHES
    _fit(estimator.set_params(health=False), *data)
    with pytest.raises(AttributeError, match="was not watched: fit it with health=True"):
        estimator.health_  # noqa: B018
    _fit(estimator.set_params(health=True), *data)
    assert estimator.health_.records.steps.tolist() == (watched_steps(EVERY, 0, N_BATCHES * EPOCHS) + 1).tolist()


# ---- Where there is none ----


def test_no_health(data):
    estimator = _make(health=False)
    with pytest.raises(AttributeError, match=r"^this MLPClassifier is not fitted yet: it has no health_$"):
        estimator.health_  # noqa: B018
    _fit(estimator, *data)
    with pytest.raises(AttributeError, match=r"^this MLPClassifier was not watched: fit it with health=True"):
        estimator.health_  # noqa: B018
    assert not hasattr(estimator, "health_")


@pytest.mark.parametrize("health", [0, -1, 1.5, "yes", None])
def test_wrong_health(data, health):
    with pytest.raises(ValueError, match="The 'health' parameter of MLPClassifier must be"):
        _make(health=health).fit(*data)


def test_health_of_an_estimator_from_scikit_learn(data):
    import sklearn.neural_network

    theirs = _fit(sklearn.neural_network.MLPClassifier((7,), max_iter=3, random_state=0), *data)
    ours = MLPClassifier.from_sklearn(theirs)
    assert ours.health is True
    assert not hasattr(ours, "health_")
    ours.partial_fit(*data)
    assert len(ours.health_.records) == 1
    assert not hasattr(ours.to_sklearn(), "health_")


# ---- Fits that fail ----


def test_divergence(engine_name, numbers):
    X, y = numbers
    estimator = _make(MLPRegressor, engine_name, solver="sgd", learning_rate_init=1e6, health=1)
    with pytest.raises(DivergenceError) as caught:
        estimator.fit(1e3 * X, y)
    report = estimator.health_
    assert report.evidence.diverged.batch == caught.value.batch
    assert 1 <= len(report.records) <= N_BATCHES * EPOCHS


def test_a_fit_that_is_refused_keeps_the_report(data):
    estimator = _fit(_make(), *data)
    before = estimator.health_
    with pytest.raises(ValueError, match="NaN"):
        estimator.fit(np.full((ROWS, 4), np.nan), data[1])
    assert estimator.health_ is before


def test_an_interrupt(engine_name, data):
    def interrupt(event):
        if event.epoch == 3:
            raise KeyboardInterrupt

    estimator = _make(engine=engine_name, callbacks=interrupt, health=1)
    with pytest.warns(UserWarning, match="interrupted"):
        estimator.fit(*data)
    assert estimator.health_.records.steps.tolist() == list(range(1, 3 * N_BATCHES + 1))


# ---- Callbacks, copies ----


def test_a_callback_sees_what_has_been_so_far(engine_name, data):
    seen = []

    def look(event):
        seen.append(event.estimator.health_.records.steps.tolist())

    estimator = _fit(_make(engine=engine_name, callbacks=look), *data)
    assert seen == [[step for step in STEPS if step <= n * N_BATCHES] for n in range(1, EPOCHS + 1)]
    assert estimator.health_.evidence.data.recall is not None


@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_copies(engine_name, data, copied):
    estimator = _fit(_make(engine=engine_name), *data)
    again = copied(estimator)
    assert again.health_.records == estimator.health_.records
    assert again.health_.evidence.data.recall.tolist() == estimator.health_.evidence.data.recall.tolist()
    for one in (estimator, again):
        one.partial_fit(*data)
    assert again.health_.records == estimator.health_.records
    assert estimator.health_.evidence.history == again.health_.evidence.history
    assert not hasattr(clone(estimator), "health_")


def test_estimators_of_before(data):
    """Those that were pickled before there was `health` go on, and are watched from there on."""
    estimator = _fit(_make(), *data)
    state = {name: value for name, value in estimator.__getstate__().items() if name not in ("health", "_monitor")}
    old = type(estimator).__new__(type(estimator))
    old.__setstate__(state)
    with pytest.raises(AttributeError, match="not watched"):
        old.health_  # noqa: B018
    for one in (old, estimator):
        one.partial_fit(*data)
    assert (old.network_.parameters == estimator.network_.parameters).all()
    assert old.health_.records.steps[0] == 1
    assert clone(old).health is old.get_params()["health"] is True


def test_iterations_of_fits_that_go_on_are_counted_once(engine_name, data):
    """That which the last one of a fit looks ahead to is not one of the next fit."""
    estimator = _make(engine=engine_name, solver="lbfgs", batch_size="auto", warm_start=True, max_iter=3, health=1)
    for _ in range(3):
        _fit(estimator, *data)
    records = estimator.health_.records
    assert records.steps.tolist() == list(range(1, estimator._monitor.history.epochs + 7))
    assert records.epochs.tolist() == list(range(len(records)))
    assert (records.update[:, 1:] > 0).all()


def test_a_stream_keeps_little(data):
    """Of a call of partial_fit a few numbers are left, which a report has as a history."""
    X, y = data[0][:4], data[1][:4]
    estimator, sizes = _make(hidden_layer_sizes=(2,), batch_size="auto"), []
    for count in (300, 1000):
        while len(getattr(estimator, "loss_curve_", ())) < count:
            estimator.partial_fit(X, y, classes=[0, 1, 2])
        sizes.append(sum(past.itemsize * len(past) for past in estimator._monitor._past.values()))
    assert (sizes[1] - sizes[0]) / 700 == 16
    assert estimator.health_.evidence.history["loss"] == estimator.loss_curve_


def test_pickles_have_no_rows(data):
    X, y = data
    X[:, 1] = secret = 1234.5678
    lean, watched = (pickle.dumps(_fit(_make(health=health), X, y)) for health in (False, True))
    assert watched.count(np.float64(secret).tobytes()) <= 1  # its mean
    assert lean.count(np.float64(secret).tobytes()) == 0


def test_in_a_search_over_processes(data):
    search = GridSearchCV(_make(), {"hidden_layer_sizes": [(3,), (5,)]}, cv=2, n_jobs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(*data)
    assert search.best_estimator_.health_.records.steps.tolist() == STEPS

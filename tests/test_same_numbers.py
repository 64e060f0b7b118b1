"""For one random_state the estimators give scikit-learn's numbers: every loss, score, weight, message and warning.

The installed scikit-learn is the oracle.  `Pair` does the same to an estimator of each and compares what came of it.
"""

import contextlib
import copy
import io
import itertools
import re
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import SAME_NUMBERS, assert_close
from sklearn import datasets, neural_network
from sklearn.exceptions import ConvergenceWarning

import cymlp

CLASSES = {name: (getattr(cymlp, name), getattr(neural_network, name)) for name in ("MLPClassifier", "MLPRegressor")}
# Every fitted attribute that scikit-learn documents.
ATTRIBUTES = sorted(
    {
        name
        for _, theirs in CLASSES.values()
        for name in re.findall(r"^    (\w*[a-z]_) : ", theirs.__doc__, re.MULTILINE)
    }
)
PREDICTIONS = ["predict", "predict_proba", "predict_log_proba"]
# log(1 - p) has no digits left where p is so close to 1.
IMPROBABLE = {"float32": np.float32(np.log(0.1)), "float64": np.log(1e-9)}


class Outcome(NamedTuple):
    """What a call gave: its result or its exception, what it printed, and the warnings."""

    result: Any
    error: tuple
    printed: str
    warnings: list


def outcome(function, *args, **kwargs):
    """The Outcome of a call.

    Warnings of NumPy about overflow are left out: only an engine made of NumPy has them.
    """
    result, error, printed = None, (), io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try:
            result = function(*args, **kwargs)
        except Exception as exception:
            error = (type(exception), str(exception))
    kept = [(w.category, str(w.message)) for w in caught if w.category is not RuntimeWarning]
    return Outcome(result, error, printed.getvalue(), kept)


def assert_same_numbers(actual, desired, name="", terms=None):
    """Raise AssertionError unless `actual` has the type, the shape and the numbers of `desired`.

    `terms`: of the sums behind a number, where it was computed in float32 from numbers of the order of 1.
    """
    if isinstance(desired, list):
        assert isinstance(actual, list), name
        assert len(actual) == len(desired), name
        for i, (a, d) in enumerate(zip(actual, desired, strict=True)):
            assert_same_numbers(a, d, f"{name}[{i}]", terms)
        return
    if isinstance(desired, np.ndarray):
        assert isinstance(actual, np.ndarray), name
        assert (actual.shape, actual.dtype) == (desired.shape, desired.dtype), name
    elif isinstance(desired, (float, np.floating)):
        assert isinstance(actual, (float, np.floating)), name
    else:
        assert type(actual) is type(desired), name
    if np.asarray(desired).dtype.kind != "f":
        np.testing.assert_array_equal(actual, desired, err_msg=name)
        return
    largest = np.abs(desired[np.isfinite(desired)]).max(initial=0) if isinstance(desired, np.ndarray) else 0
    if terms is not None:
        assert_close(actual, desired, terms, max(1, largest), kind="training", dtype=np.float32)
    else:
        np.testing.assert_allclose(actual, desired, SAME_NUMBERS, SAME_NUMBERS * largest, err_msg=name)


class Pair:
    """An estimator of ours and one of scikit-learn's with the same parameters.

    `terms`: see `assert_same_numbers`.
    """

    def __init__(self, kind, terms=None, **params):
        self.ours, self.theirs = (cls(**copy.deepcopy(params)) for cls in CLASSES[kind])
        self.terms = terms

    def set_params(self, **params):
        for estimator in (self.ours, self.theirs):
            estimator.set_params(**copy.deepcopy(params))

    def assert_same_state(self):
        """Ours has all fitted attributes of scikit-learn's, with the same numbers.

        L-BFGS has a loss curve here, and in scikit-learn none or that of an earlier fit.
        """
        curves = {"loss_curve_", "best_loss_"} if self.theirs.solver == "lbfgs" else set()
        for name in ATTRIBUTES:
            if hasattr(self.theirs, name) and name not in curves:
                assert_same_numbers(getattr(self.ours, name), getattr(self.theirs, name), name, self.terms)

    def call(self, method, *args, **kwargs):
        """Call the method of both, compare what comes of it, and return scikit-learn's Outcome."""
        ours = outcome(getattr(self.ours, method), *args, **kwargs)
        theirs = outcome(getattr(self.theirs, method), *args, **kwargs)
        assert ours.error == theirs.error
        assert ours.printed == theirs.printed
        assert ours.warnings == theirs.warnings
        if theirs.error:
            return theirs
        if theirs.result is self.theirs:
            assert ours.result is self.ours
            self.assert_same_state()
        elif method == "predict_log_proba":
            lowest = IMPROBABLE[theirs.result.dtype.name]
            assert_same_numbers(*(np.maximum(done.result, lowest) for done in (ours, theirs)), method, self.terms)
        else:
            assert_same_numbers(ours.result, theirs.result, method, self.terms)
        return theirs

    def fit(self, *args, **kwargs):
        return self.call("fit", *args, **kwargs)

    def predict(self, X):
        """Compare all predictions."""
        for method in PREDICTIONS:
            assert hasattr(self.ours, method) == hasattr(self.theirs, method)
            if hasattr(self.theirs, method):
                assert self.call(method, X).error == ()


# ---- What is learnt ----


class Task(NamedTuple):
    kind: str
    X: np.ndarray
    y: np.ndarray
    params: dict


def _tasks():
    rng = np.random.default_rng(20240229)
    X = rng.normal(size=(110, 6))
    Z = np.tanh(X @ rng.normal(size=(6, 4))) + rng.normal(0, 0.3, (110, 4))
    names = np.array(["rock", "paper", "scissors"])
    return {
        "binary": Task("MLPClassifier", X, (Z[:, 0] > 0.1).astype(int), {}),
        "multiclass": Task("MLPClassifier", X, names[Z[:, :3].argmax(axis=1)], {}),
        "multilabel": Task("MLPClassifier", X, (Z > 0).astype(int), {}),
        "regression": Task("MLPRegressor", X, 3 * Z[:, 0] + 1, {}),
        "outputs": Task("MLPRegressor", X, Z[:, :3], {}),
        "counts": Task("MLPRegressor", X, rng.poisson(np.exp(Z[:, 0])), {"loss": "poisson"}),
        "rates": Task("MLPRegressor", X, np.exp(Z[:, :2]), {"loss": "poisson"}),
    }


TASKS = _tasks()
EPOCHS = 22
# So many epochs whatever the loss does.
WHOLE = {
    "max_iter": EPOCHS,
    "n_iter_no_change": np.inf,
    "random_state": 3,
    "hidden_layer_sizes": (9,),
    "batch_size": 32,
}
SOLVERS = {
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05, "momentum": 0},
    "momentum": {"solver": "sgd", "learning_rate_init": 0.02, "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.02},
    "invscaling": {"solver": "sgd", "learning_rate_init": 0.1, "learning_rate": "invscaling", "power_t": 0.3},
    # The tolerance asks for more than an epoch brings, so the rate is divided again and again.
    "adaptive": {
        "solver": "sgd",
        "learning_rate_init": 0.05,
        "learning_rate": "adaptive",
        "tol": 0.05,
        "n_iter_no_change": 1,
        "verbose": True,
    },
    "lbfgs": {"solver": "lbfgs"},
}
EVERY_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
EVERY_SOLVER = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
EARLY_STOPPING = pytest.mark.parametrize("early_stopping", [False, True], ids=["", "early_stopping"])


def fit(task, *args, X=None, y=None, terms=None, **params):
    """Fit a Pair for a task, compare it, and return it with scikit-learn's Outcome."""
    pair = Pair(task.kind, terms, **{**WHOLE, **task.params, **params})
    X = task.X if X is None else X
    done = pair.fit(X, task.y if y is None else y, *args)
    assert done.error == ()
    pair.predict(X)
    return pair, done


def test_the_attributes_are_read_from_the_documentation():
    assert {"best_loss_", "coefs_", "loss_curve_", "n_features_in_", "t_", "validation_scores_"} < set(ATTRIBUTES)


# ---- Every solver ----


@EARLY_STOPPING
@EVERY_SOLVER
@EVERY_TASK
def test_every_solver_learns_every_task(task, solver, early_stopping):
    pair, done = fit(task, **solver, early_stopping=early_stopping)
    if solver["solver"] == "lbfgs":
        assert not hasattr(pair.theirs, "loss_curve_")
    elif "verbose" not in solver:
        assert len(pair.theirs.loss_curve_) == EPOCHS
    else:
        assert done.printed.count("Setting learning rate to") > 1


@EVERY_SOLVER
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_activations(activation, solver):
    for name, sizes in itertools.product(["multiclass", "outputs"], [(9,), (8, 5, 4)]):
        fit(TASKS[name], **solver, activation=activation, hidden_layer_sizes=sizes)


LAYERS = [(), [], 5, np.int64(5), (5,), [9, 4], np.array([6, 5]), (8, 7, 6, 5), (1,), (70, 3)]


@pytest.mark.parametrize("hidden_layer_sizes", LAYERS, ids=repr)
def test_layers(hidden_layer_sizes):
    for name, solver in itertools.product(["binary", "multiclass", "outputs", "counts"], ["adam", "lbfgs"]):
        fit(TASKS[name], **SOLVERS[solver], hidden_layer_sizes=hidden_layer_sizes)


@EVERY_TASK
def test_every_iteration_of_lbfgs(task):
    """The weights and the loss where it is cut off, and scikit-learn's warning about that."""
    for max_iter in range(1, EPOCHS):
        pair, done = fit(task, solver="lbfgs", max_iter=max_iter, tol=0)
        assert pair.theirs.n_iter_ == max_iter
        assert [category for category, _ in done.warnings] == [ConvergenceWarning]


@EVERY_TASK
def test_lbfgs_to_the_end(task):
    pair, done = fit(task, solver="lbfgs", activation="tanh", max_iter=1000, tol=0.02, alpha=1)
    assert done.warnings == []
    assert pair.theirs.n_iter_ < 100


@pytest.mark.parametrize("max_fun", [1, 2, 9])
def test_lbfgs_counts_its_calls(max_fun):
    _, done = fit(TASKS["regression"], solver="lbfgs", max_iter=1000, max_fun=max_fun)
    assert [category for category, _ in done.warnings] == [ConvergenceWarning]


ADAM = [
    {"beta_1": 0.0},
    {"beta_1": 0.5, "beta_2": 0.9},
    {"beta_2": 0.6, "activation": "tanh"},
    {"epsilon": 1e-3},
    {"epsilon": 1e-14},
    {"learning_rate_init": 0.3},
    {"learning_rate": "adaptive"},  # what is for sgd alone
    {"learning_rate": "invscaling"},
    {"momentum": 0.0},
]


@pytest.mark.parametrize("params", ADAM, ids=repr)
def test_hyperparameters_of_adam(params):
    for name in ("multiclass", "regression"):
        fit(TASKS[name], **{**SOLVERS["adam"], **params})


@pytest.mark.parametrize("momentum", [0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("nesterovs_momentum", [False, True])
@pytest.mark.parametrize("power_t", [0, 0.5, 2])
@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
def test_hyperparameters_of_sgd(learning_rate, power_t, nesterovs_momentum, momentum):
    fit(
        TASKS["outputs"],
        solver="sgd",
        learning_rate=learning_rate,
        learning_rate_init=0.03,
        momentum=momentum,
        nesterovs_momentum=nesterovs_momentum,
        power_t=power_t,
    )


@EVERY_SOLVER
@pytest.mark.parametrize("alpha", [0, 1e-5, 1, 100])
def test_alpha(alpha, solver):
    for name in ("multilabel", "outputs"):
        fit(TASKS[name], **solver, alpha=alpha)


@EARLY_STOPPING
@pytest.mark.parametrize("solver", ["adam", "nesterov", "lbfgs"])
@pytest.mark.parametrize("name", ["binary", "multiclass", "multilabel"])
def test_losses_of_improbable_rows(name, solver, early_stopping):
    """Their probabilities are clipped to [eps, 1 - eps] before the logarithm is taken, as scikit-learn does."""
    task = TASKS[name]
    pair, _ = fit(task, X=100 * task.X, **SOLVERS[solver], alpha=0, early_stopping=early_stopping, max_iter=8)
    if solver != "lbfgs":  # each output may cost 36
        assert 1 < max(pair.theirs.loss_curve_) < -np.log(np.finfo(float).eps) * pair.theirs.n_outputs_


# ---- Minibatches ----


@pytest.mark.parametrize("batch_size", ["auto", 1, 7, 55, 109, 110, np.int64(32), 1000])
@pytest.mark.parametrize("shuffle", [False, True], ids=["", "shuffle"])
@EARLY_STOPPING
def test_minibatches(batch_size, shuffle, early_stopping):
    clipped = batch_size == 1000 or (early_stopping and batch_size in (109, 110))
    for name, solver in (("binary", "nesterov"), ("outputs", "adam")):
        params = {**SOLVERS[solver], "learning_rate_init": 0.005, "early_stopping": early_stopping}
        _, done = fit(TASKS[name], **params, batch_size=batch_size, shuffle=shuffle)
        assert ("clipped" in str(done.warnings)) == clipped


SETS = [
    pytest.param(name, params, marks=[pytest.mark.slow] if name in ("breast_cancer", "digits") and params else [])
    for name in ("breast_cancer", "diabetes", "digits", "iris", "wine")
    for params in ({}, {"early_stopping": True}, {"solver": "lbfgs"})
]


@pytest.mark.parametrize(("name", "params"), SETS)
def test_bundled_sets_as_they_are(name, params):
    """With default parameters, for more than 20 epochs, and nothing scaled."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    pair = Pair("MLPRegressor" if name == "diabetes" else "MLPClassifier", **params, random_state=0, max_iter=EPOCHS)
    assert pair.fit(X, y).error == ()
    pair.predict(X)


def test_more_rows_than_a_default_minibatch():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(437, 5))
    y = X[:, 0] * X[:, 1] + X[:, 2]
    for kind, target in (("MLPRegressor", y), ("MLPClassifier", y > 0)):
        pair = Pair(kind, random_state=0, max_iter=30)
        pair.fit(X, target)
        pair.predict(X)
        assert pair.theirs.t_ == 30 * 437


# ---- When training ends ----


@pytest.mark.parametrize("tol", [0, 1e-4, 1e-2, 0.1])
@pytest.mark.parametrize("n_iter_no_change", [1, 3, 10])
@pytest.mark.parametrize("name", ["adam", "invscaling", "adaptive"])
@EARLY_STOPPING
def test_ends_in_the_same_epoch(tol, n_iter_no_change, early_stopping, name):
    params = {"tol": tol, "n_iter_no_change": n_iter_no_change, "early_stopping": early_stopping, "verbose": True}
    for task in (TASKS["multiclass"], TASKS["regression"]):
        fit(task, **{**SOLVERS[name], **params, "max_iter": 60})


def test_adaptive_rate_becomes_too_small():
    _, done = fit(TASKS["multiclass"], **{**SOLVERS["adaptive"], "max_iter": 200, "tol": 10})
    assert done.printed.endswith("consecutive epochs. Learning rate too small. Stopping.\n")
    assert done.warnings == []


@EVERY_SOLVER
@pytest.mark.parametrize("verbose", [False, True, 0, 1, 10])
def test_what_is_printed(verbose, solver):
    for early_stopping in (False, True):
        _, done = fit(TASKS["binary"], **{**solver, "verbose": verbose}, early_stopping=early_stopping, max_iter=9)
        assert bool(done.printed) == (bool(verbose) and solver["solver"] != "lbfgs")


@pytest.mark.parametrize("validation_fraction", [0.05, 0.3, 0.7])
@EVERY_TASK
def test_validation_fraction(validation_fraction, task):
    for solver in ("adam", "adaptive"):
        pair, _ = fit(task, **SOLVERS[solver], early_stopping=True, validation_fraction=validation_fraction)
        assert len(pair.theirs.validation_scores_) == pair.theirs.n_iter_


# ---- Random numbers ----


@EVERY_SOLVER
@EVERY_TASK
def test_fits_share_a_random_state(task, solver):
    states = np.random.RandomState(8), np.random.RandomState(8)
    for params in ({}, {"early_stopping": True}, {"shuffle": False}, {"max_iter": 2}):
        pair = Pair(task.kind, **{**WHOLE, **task.params, **solver, **params})
        pair.ours.random_state, pair.theirs.random_state = states
        pair.fit(task.X, task.y)
        ours, theirs = (state.get_state(legacy=False)["state"] for state in states)
        assert ours["pos"] == theirs["pos"]
        np.testing.assert_array_equal(ours["key"], theirs["key"])


@EVERY_SOLVER
def test_without_a_random_state_it_is_that_of_numpy(solver):
    task = TASKS["multiclass"]
    pair, after = Pair(task.kind, **{**WHOLE, **solver, "random_state": None}), []
    for estimator in (pair.ours, pair.theirs):
        np.random.seed(11)  # noqa: NPY002
        outcome(estimator.fit, task.X, task.y)
        after.append(np.random.random())  # noqa: NPY002
    assert after[0] == after[1]
    pair.assert_same_state()


@EARLY_STOPPING
def test_no_epoch_is_drawn_that_is_not_trained(early_stopping):
    """Where training ends before max_iter, the generator stands where the last epoch left it."""
    params = {"random_state": np.random.RandomState(2), "n_iter_no_change": 2, "tol": 0.1}
    pair = Pair("MLPClassifier", **params, early_stopping=early_stopping)
    pair.fit(*TASKS["binary"][1:3])
    assert pair.theirs.n_iter_ < 30
    assert pair.ours.random_state.random() == pair.theirs.random_state.random()

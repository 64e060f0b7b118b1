"""Fits that go on from fits, fits that end in an error or an interrupt, and every error: as scikit-learn has them."""

import contextlib
import io
import operator
import re

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import InvalidParameterError, generate_invalid_param_val, make_constraint
from test_same_numbers import CLASSES, EARLY_STOPPING, EVERY_SOLVER, EVERY_TASK, SOLVERS, TASKS, WHOLE, Pair, outcome

RANDOM_STATES = {"int": lambda: 5, "RandomState": lambda: np.random.RandomState(5)}
RANDOM_STATE = pytest.mark.parametrize("random_state", RANDOM_STATES)


def _pair(task, **params):
    return Pair(task.kind, **{**WHOLE, **task.params, **params})


def _classes(task):
    """What the first partial_fit has to know."""
    if task.kind == "MLPRegressor":
        return {}
    return {"classes": np.arange(task.y.shape[1]) if task.y.ndim == 2 else np.unique(task.y)}


# ---- Training that goes on ----


@RANDOM_STATE
@EVERY_SOLVER
@EVERY_TASK
def test_warm_start(task, solver, random_state):
    """Curves, counters and the best loss go on; the optimizer and n_iter_ begin anew."""
    pair = _pair(task, **solver, random_state=RANDOM_STATES[random_state]())
    pair.set_params(warm_start=True, max_iter=4)
    for change in ({}, {"max_iter": 7}, {"learning_rate_init": 0.002}, {"alpha": 1.0}, {"batch_size": 50}):
        pair.set_params(**change)
        assert pair.fit(task.X, task.y).error == ()
        pair.predict(task.X)
    pair.set_params(warm_start=False)
    assert pair.fit(task.X, task.y).error == ()


@RANDOM_STATE
@EVERY_TASK
def test_warm_start_counts_epochs_without_improvement(task, random_state):
    """Across fits: one that goes on from one that had ended may be over after an epoch."""
    pair = _pair(task, tol=0.01, n_iter_no_change=4, max_iter=200, random_state=RANDOM_STATES[random_state]())
    pair.set_params(warm_start=True)
    for _ in range(3):
        pair.fit(task.X, task.y)
    assert pair.theirs.n_iter_ < len(pair.theirs.loss_curve_) < 3 * 200


@RANDOM_STATE
@EVERY_TASK
def test_warm_start_with_early_stopping(task, random_state):
    """As long as each fit finds a better score.

    Where none does, scikit-learn keeps the weights of the last epoch: it trained the arrays that it had put by as the
    best.  Here they are the best.
    """
    pair = _pair(task, **SOLVERS["adam"], random_state=RANDOM_STATES[random_state]())
    pair.set_params(warm_start=True, early_stopping=True, max_iter=4)
    best = -np.inf
    for _ in range(20):
        before = [array.copy() for array in getattr(pair.ours, "coefs_", [])]
        outcomes = [outcome(estimator.fit, task.X, task.y) for estimator in (pair.ours, pair.theirs)]
        assert [done.error for done in outcomes] == [(), ()]
        np.testing.assert_allclose(pair.ours.validation_scores_, pair.theirs.validation_scores_, rtol=1e-6)
        np.testing.assert_allclose(pair.ours.loss_curve_, pair.theirs.loss_curve_, rtol=1e-6)
        if not pair.theirs.best_validation_score_ > best:
            for actual, desired in zip(pair.ours.coefs_, before, strict=True):
                np.testing.assert_array_equal(actual, desired)
            return
        best = pair.theirs.best_validation_score_
        pair.assert_same_state()
        pair.predict(task.X)
    raise AssertionError("every fit found a better score: nothing was seen of one that does not")


def _in_order(error):
    """An error whose text does not depend on the order in which a set is printed."""
    if not error:
        return error
    return error[0], re.sub(r"\{(.*?)\}", lambda found: str(sorted(found[1].split(", "))), error[1])


@pytest.mark.parametrize("sparse", [False, True], ids=["", "sparse"])
@RANDOM_STATE
@EVERY_SOLVER
@EVERY_TASK
def test_partial_fit(task, solver, random_state, sparse):
    """An int is the seed of each call, so that each draws the same order; an instance goes on."""
    pair = _pair(task, **solver, max_iter=5, random_state=RANDOM_STATES[random_state]())
    assert hasattr(pair.ours, "partial_fit") == hasattr(pair.theirs, "partial_fit")
    if not hasattr(pair.theirs, "partial_fit"):
        return
    X, rows = (scipy.sparse.csr_array(task.X) if sparse else task.X), np.random.default_rng(0).permutation(len(task.y))
    classes = _classes(task)
    for size in (40, 5, 1, 110, 33, 64):  # some of them hold not every class
        chunk = rows[:size]
        weight = np.linspace(0.1, 2, size) if size == 33 else None
        assert pair.call("partial_fit", X[chunk], task.y[chunk], weight, **classes).error == ()
        classes = {}
        pair.predict(X)
    assert pair.fit(X, task.y).error == ()
    assert pair.call("partial_fit", X, task.y).error == ()
    assert pair.theirs.n_iter_ == 1 or solver["solver"] == "lbfgs"
    pair.set_params(warm_start=True)
    assert pair.fit(X, task.y).error == ()


@EVERY_TASK
def test_many_calls_of_partial_fit(task):
    for name in ("adam", "nesterov", "adaptive"):
        pair = _pair(task, **SOLVERS[name])
        for _ in range(30):
            assert pair.call("partial_fit", task.X, task.y, **_classes(task)).error == ()
        assert len(pair.theirs.loss_curve_) == 30


@EVERY_TASK
def test_solvers_take_turns(task):
    """With warm_start one goes on from what the other found; from L-BFGS scikit-learn itself cannot go back."""
    pair = _pair(task, **SOLVERS["adam"], warm_start=True)
    for solver in ("adam", "nesterov", "adaptive", "lbfgs", "lbfgs"):
        pair.set_params(**{"verbose": False, "tol": 1e-4, "max_iter": 4, **SOLVERS[solver]})
        assert pair.fit(task.X, task.y).error == ()
        pair.predict(task.X)


@EVERY_TASK
def test_users_write_into_coefs(task):
    """And predictions, and fits that go on, begin from there."""
    pair = _pair(task, **SOLVERS["adam"], max_iter=3, warm_start=True)
    pair.fit(task.X, task.y)
    for change in ("in place", "one array", "all"):
        for estimator in (pair.ours, pair.theirs):
            if change == "in place":
                estimator.coefs_[0][:, 1] = 0.5
                estimator.intercepts_[-1] += 0.25
            elif change == "one array":
                estimator.coefs_[1] = 0.5 * estimator.coefs_[1]
                estimator.intercepts_[0] = estimator.intercepts_[0] + 1
            else:
                estimator.coefs_ = [0.9 * array for array in estimator.coefs_]
                estimator.intercepts_ = [array - 0.1 for array in estimator.intercepts_]
        pair.predict(task.X)
        pair.fit(task.X, task.y)
        pair.predict(task.X)
        pair.call("partial_fit", task.X, task.y)


# ---- Training that ends otherwise ----


class _Interrupting(io.StringIO):
    """Where Ctrl-C comes while an epoch is printed."""

    def write(self, text):
        super().write(text)
        if text.startswith("Iteration 3"):
            raise KeyboardInterrupt
        return len(text)


@EARLY_STOPPING
@pytest.mark.parametrize("solver", ["adam", "nesterov"])
def test_an_interrupt_ends_training(solver, early_stopping):
    """What is learnt until then is kept, and the next fit goes on from there."""
    task = TASKS["multiclass"]
    pair = _pair(task, **SOLVERS[solver], verbose=True, early_stopping=early_stopping)
    for estimator in (pair.ours, pair.theirs):
        with contextlib.redirect_stdout(_Interrupting()), pytest.warns(UserWarning, match="interrupted by user"):
            assert estimator.fit(task.X, task.y) is estimator
    assert pair.theirs.n_iter_ == 3
    pair.assert_same_state()
    pair.predict(task.X)
    if not early_stopping:
        assert pair.call("partial_fit", task.X, task.y).error == ()


@pytest.mark.parametrize("solver", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("name", ["regression", "outputs", "counts", "multiclass"])
def test_training_diverges(name, solver):
    """The error says first what scikit-learn's says, and then where it was seen."""
    task, size = TASKS[name], 1e300 if solver == "adam" else 1e150
    pair = _pair(task, activation="identity", **{**SOLVERS[solver], "learning_rate_init": 1e6})
    ours, theirs = (outcome(estimator.fit, size * task.X, task.y) for estimator in (pair.ours, pair.theirs))
    if theirs.error:
        assert theirs.error[0] is ValueError
        assert issubclass(ours.error[0], ValueError)
        assert ours.error[1].startswith(theirs.error[1].removesuffix("."))
    assert theirs.error or solver == "adam"


@pytest.mark.parametrize("name", ["regression", "outputs"])
def test_training_diverges_with_early_stopping(name):
    """The validation score is NaN, and the best weights are those of before; scikit-learn goes on with NaN."""
    task = TASKS[name]
    pair = _pair(task, activation="identity", solver="sgd", learning_rate_init=1, early_stopping=True)
    ours, theirs = (outcome(estimator.fit, 50 * task.X, task.y) for estimator in (pair.ours, pair.theirs))
    assert ours.error == theirs.error == ()
    assert {category for category, _ in ours.warnings} == {ConvergenceWarning}
    n = len(pair.ours.validation_scores_)
    assert np.isnan(pair.ours.validation_scores_[-1])
    assert np.isnan(pair.theirs.validation_scores_[n - 1 :]).all()
    np.testing.assert_allclose(pair.ours.validation_scores_, pair.theirs.validation_scores_[:n], rtol=1e-6)
    pair.predict(task.X)


def test_a_classifier_of_which_no_epoch_was_good():
    """Is an error with early stopping, too: there is nothing to restore."""
    task = TASKS["multiclass"]
    pair = _pair(task, activation="identity", solver="sgd", learning_rate_init=1e6, early_stopping=True)
    ours, theirs = (outcome(estimator.fit, 1e150 * task.X, task.y) for estimator in (pair.ours, pair.theirs))
    assert "Solver produced non-finite parameter weights" in theirs.error[1]
    assert issubclass(ours.error[0], ValueError)
    assert ours.error[1].startswith(theirs.error[1].removesuffix("."))


# ---- Errors: of parameters ----

# Of which there is more than in scikit-learn, and so more in the text of the error.
EXTENDED = {"activation", "learning_rate", "loss", "momentum", "shuffle"}
VALUES = ["bad", "", "auto", -1, -0.5, 0, 0.0, 0.5, 1, 1.0, 1.5, 2**40, True, None, (), [], (0,), (3, -1), [2.5],
          object, np.nan, np.inf, -np.inf, np.int64(-3), np.float32(0.25), np.bool_(True), {"a": 1}, 1j]  # fmt: skip
PARAMETERS = [(kind, name) for kind, (_, theirs) in CLASSES.items() for name in theirs._parameter_constraints]


def _invalid(kind, name):
    for constraint in CLASSES[kind][1]._parameter_constraints[name]:
        with contextlib.suppress(NotImplementedError):
            yield generate_invalid_param_val(make_constraint(constraint))


@pytest.mark.parametrize(("kind", "name"), PARAMETERS)
def test_values_of_parameters(kind, name):
    """What scikit-learn takes is taken, and what it refuses is refused in the same words."""
    X, y = np.arange(40.0).reshape(20, 2) % 7, np.arange(20) % 2
    refused = 0
    for value in [*VALUES, *_invalid(kind, name)]:
        if name in ("max_iter", "max_fun", "hidden_layer_sizes") and value == 2**40:
            continue
        for method, solver in (("fit", "sgd"), ("fit", "lbfgs"), ("partial_fit", "adam")):
            params = {"solver": solver, "max_iter": 2, "random_state": 0, name: value}
            classes = {"classes": [0, 1]} if (method, kind) == ("partial_fit", "MLPClassifier") else {}
            ours, theirs = (
                outcome(operator.methodcaller(method, X, y, **classes), cls(**params)) for cls in CLASSES[kind]
            )
            refused += bool(theirs.error)
            if name in EXTENDED and theirs.error:
                start, _, got = theirs.error[1].partition(" must be ")
                if ours.error and ours.error[0] is InvalidParameterError:
                    assert ours.error[1].startswith(f"{start} must be "), value
                    assert ours.error[1].endswith(got[got.index(" Got ") :]), value
                else:
                    assert isinstance(value, (list, tuple)) or callable(value), value
            elif theirs.error and theirs.error[0] is AttributeError:  # there is no partial_fit of an unknown solver
                assert ours.error, value
            elif theirs.error and theirs.error[0] is TypeError:  # NumPy's
                assert ours.error[0] is TypeError, value
            else:
                assert _in_order(ours.error) == _in_order(theirs.error), value
                assert ours.warnings == theirs.warnings, value
    assert refused


# ---- Errors: of data ----

X, Y = TASKS["binary"].X, TASKS["binary"].y
BAD_FITS = {
    "NaN": lambda e: e.fit(np.where(X > 1, np.nan, X), Y),
    "infinity": lambda e: e.fit(np.where(X > 1, np.inf, X), Y),
    "NaN in sparse": lambda e: e.fit(scipy.sparse.csr_array(np.where(X > 1, np.nan, X)), Y),
    "too large for float32": lambda e: e.fit(X.astype(np.float32) * np.float32(3e38), Y),
    "one dimension": lambda e: e.fit(X[:, 0], Y),
    "three dimensions": lambda e: e.fit(X[:, :, None], Y),
    "no rows": lambda e: e.fit(X[:0], Y[:0]),
    "no columns": lambda e: e.fit(X[:, :0], Y),
    "a number": lambda e: e.fit(3.0, Y),
    "strings": lambda e: e.fit(np.full(X.shape, "a"), Y),
    "complex": lambda e: e.fit(X * 1j, Y),
    "ragged": lambda e: e.fit([[1, 2], [3]], [0, 1]),
    "dict": lambda e: e.fit({"a": 1}, Y),
    "more rows than targets": lambda e: e.fit(X, Y[:-1]),
    "no targets": lambda e: e.fit(X, None),
    "NaN in targets": lambda e: e.fit(X, np.where(X[:, 0] > 0, np.nan, 1.0)),
    "infinite targets": lambda e: e.fit(X, np.where(X[:, 0] > 0, np.inf, 1.0)),
    "continuous targets": lambda e: e.fit(X, X[:, 0]),
    "three dimensions of targets": lambda e: e.fit(X, X[:, :, None]),
    "classes of two kinds": lambda e: e.fit(X, np.array(["a", 1] * (len(X) // 2), dtype=object)),
    "two columns of classes": lambda e: e.fit(X, np.column_stack([Y, 2 * Y])),
    "empty list": lambda e: e.fit([], []),
    "weights too short": lambda e: e.fit(X, Y, np.ones(3)),
    "weights in two dimensions": lambda e: e.fit(X, Y, np.ones((len(X), 1))),
    "weights with NaN": lambda e: e.fit(X, Y, np.where(Y == 0, np.nan, 1.0)),
    "weights that are strings": lambda e: e.fit(X, Y, ["a"] * len(X)),
    "no weight at all": lambda e: e.fit(X, Y, np.zeros(len(X))),
    "no layer": lambda e: e.set_params(hidden_layer_sizes=(3, 0)).fit(X, Y),
    "validation set too small": lambda e: e.set_params(early_stopping=True).fit(X[:4], Y[:4]),
    "validation set of one": lambda e: e.set_params(early_stopping=True).fit(X[:9], np.arange(9) % 2),
    "validation set of none": lambda e: e.set_params(early_stopping=True, validation_fraction=0.0).fit(X, Y),
    "one of a class": lambda e: e.set_params(early_stopping=True).fit(X, np.arange(len(X)) == 7),
    "one row": lambda e: e.fit(X[:1], Y[:1]),
    "partial_fit of early stopping": lambda e: e.set_params(early_stopping=True).partial_fit(X, Y, **_first(e)),
    "partial_fit without classes": lambda e: e.partial_fit(X, Y),
    "partial_fit of other classes": lambda e: e.partial_fit(X, Y, **_first(e)).partial_fit(X, Y, None, [0, 2]),
    "partial_fit of a new class": lambda e: e.partial_fit(X, Y, **_first(e)).partial_fit(X, Y + 1),
    "partial_fit of one class": lambda e: e.partial_fit(X, Y, **({"classes": [1]} if _first(e) else {})),
    "partial_fit of more columns": lambda e: e.partial_fit(X, Y, **_first(e)).partial_fit(np.hstack([X, X]), Y),
    "partial_fit by lbfgs": lambda e: e.set_params(solver="lbfgs").partial_fit,
    "warm start with other classes": lambda e: e.set_params(warm_start=True).fit(X, Y).fit(X, 2 * Y),
    "warm start with fewer classes": lambda e: e.set_params(warm_start=True).fit(X, Y).fit(X, 0 * Y),
    "warm start with more columns": lambda e: e.set_params(warm_start=True).fit(X, Y).fit(np.hstack([X, X]), Y),
    "positional solver": lambda e: type(e)((3,), "relu", "adam", "sgd"),
    "predict first": lambda e: e.predict(X),
    "predict_proba first": lambda e: e.predict_proba(X),
    "predict_log_proba first": lambda e: e.predict_log_proba(X),
    "score first": lambda e: e.score(X, Y),
    "predict other columns": lambda e: e.fit(X, Y).predict(X[:, 1:]),
    "predict other columns of sparse": lambda e: e.fit(X, Y).predict(scipy.sparse.csr_array(X[:, 1:])),
    "predict one dimension": lambda e: e.fit(X, Y).predict(X[0]),
    "predict NaN": lambda e: e.fit(X, Y).predict(np.full((2, X.shape[1]), np.nan)),
    "predict infinity": lambda e: e.fit(X, Y).predict(np.full((2, X.shape[1]), -np.inf)),
    "predict nothing": lambda e: e.fit(X, Y).predict(X[:0]),
    "predict strings": lambda e: e.fit(X, Y).predict(np.full((2, X.shape[1]), "a")),
    "predict objects": lambda e: e.fit(X, Y).predict(np.full((2, X.shape[1]), None)),
    "predict complex": lambda e: e.fit(X, Y).predict(X * 1j),
    "predict_proba of NaN": lambda e: e.fit(X, Y).predict_proba(np.full((2, X.shape[1]), np.nan)),
    "score of other length": lambda e: e.fit(X, Y).score(X, Y[1:]),
    "score with NaN": lambda e: e.fit(X, Y).score(X, np.where(Y == 0, np.nan, 1.0)),
}


def _first(estimator):
    return {"classes": [0, 1]} if hasattr(estimator, "predict_proba") else {}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("call", BAD_FITS)
def test_errors_are_in_the_same_words(call, kind):
    """And what is no error for scikit-learn is none here."""
    params = {"max_iter": 2, "random_state": 0, "hidden_layer_sizes": (3,)}
    ours, theirs = (outcome(BAD_FITS[call], cls(**params)) for cls in CLASSES[kind])
    assert ours.error == theirs.error
    assert ours.warnings == theirs.warnings


def test_most_of_these_calls_are_errors():
    failed = [bool(outcome(call, cls(max_iter=2)).error) for call in BAD_FITS.values() for _, cls in CLASSES.values()]
    assert np.mean(failed) > 0.8

"""Whatever the rows, their targets and their weights are stored in, the estimators give scikit-learn's numbers."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from test_same_numbers import (
    EARLY_STOPPING,
    EPOCHS,
    EVERY_SOLVER,
    EVERY_TASK,
    SOLVERS,
    TASKS,
    WHOLE,
    Pair,
    assert_same_numbers,
    fit,
    outcome,
)

ROWS = len(TASKS["binary"].X)
SPARSE = scipy.sparse.random_array((ROWS, 23), density=0.2, rng=np.random.default_rng(9), format="csr")
FEW = ["multiclass", "outputs"]


def _fit_all(tasks, solvers, *args, **params):
    for task, solver in itertools.product(tasks, solvers):
        fit(TASKS[task], *args, **SOLVERS[solver], **params)


# ---- What rows weigh ----

WEIGHTS = {
    "random": np.random.default_rng(4).uniform(0.1, 3, ROWS),
    "integers": np.arange(ROWS) % 7,
    "ones": np.ones(ROWS),
    "list": [1.0, 2.0] * (ROWS // 2),
    "small": np.full(ROWS, 1e-3),
    "negative": np.where(np.arange(ROWS) % 10 == 0, -0.3, 1.0),
    "a number": 2.5,
    "float32": (4 + np.arange(ROWS) % 5).astype(np.float32) / 8,  # of which scikit-learn's sums are exact
}


@EARLY_STOPPING
@pytest.mark.parametrize("weight", WEIGHTS)
def test_sample_weight(weight, early_stopping):
    solvers = ["adam", "adaptive", "lbfgs"]
    if weight == "negative":  # there may be no minimum
        solvers.remove("lbfgs")
    _fit_all(["binary", "outputs"], solvers, WEIGHTS[weight], early_stopping=early_stopping)


@EVERY_SOLVER
@EVERY_TASK
def test_sample_weight_of_every_task(task, solver):
    fit(task, WEIGHTS["random"], **solver)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("name", TASKS)
def test_a_minibatch_without_weight(name, solver):
    """Has no mean loss, and scikit-learn divides by zero; here it adds nothing."""
    task, weight = TASKS[name], np.ones(ROWS)
    weight[:40] = 0
    params = {**WHOLE, **task.params, **SOLVERS[solver], "shuffle": False}
    pair = Pair(task.kind, **params)
    if solver == "lbfgs":
        assert pair.fit(task.X, task.y, weight).error == ()
        return
    assert outcome(pair.theirs.fit, task.X, task.y, weight).error[0] is ZeroDivisionError
    assert outcome(pair.ours.fit, task.X, task.y, weight).error == ()
    assert np.isfinite(pair.ours.loss_curve_).all()
    assert all(np.isfinite(array).all() for array in pair.ours.coefs_)


# ---- Sparse rows ----


def _unordered(X):
    """Rows that are not in order, with entries that are there twice, and with zeros that are stored."""
    rng, dense = np.random.default_rng(6), X.toarray()
    rows, columns = np.nonzero(dense)
    order = rng.permutation(np.repeat(np.arange(rows.size), 2))
    order = order[np.argsort(rows[order], kind="stable")]
    values = np.where(np.arange(order.size) % 7 == 0, 0.0, dense[rows[order], columns[order]] / 2)
    starts = np.searchsorted(rows[order], np.arange(X.shape[0] + 1))
    return scipy.sparse.csr_array((values, columns[order], starts), X.shape)


def _wide_indices(X):
    X = scipy.sparse.csr_array(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def _read_only(X):
    X = scipy.sparse.csr_array(X)
    for array in (X.data, X.indices, X.indptr):
        array.flags.writeable = False
    return X


CONTAINERS = {
    "csr_array": scipy.sparse.csr_array,
    "csc_array": scipy.sparse.csc_array,
    "csr_matrix": scipy.sparse.csr_matrix,
    "csc_matrix": scipy.sparse.csc_matrix,
    "coo_array": scipy.sparse.coo_array,  # scikit-learn makes it CSR
    "lil_matrix": scipy.sparse.lil_matrix,
    "unordered": _unordered,
    "int64 indices": _wide_indices,
    "read-only": _read_only,
    "integers": lambda X: scipy.sparse.csr_array((4 * X).astype(int)),
    "empty rows": lambda X: scipy.sparse.csr_array(X.multiply(np.arange(X.shape[0])[:, None] % 3 == 0)),
    "empty": lambda X: scipy.sparse.csr_array(X.shape),
}


@EARLY_STOPPING
@pytest.mark.parametrize("container", CONTAINERS)
def test_sparse(container, early_stopping):
    X = CONTAINERS[container](SPARSE)
    _fit_all(FEW, ["adam"], X=X, early_stopping=early_stopping)
    _fit_all(FEW[:1], ["lbfgs", "nesterov"], X=X, early_stopping=early_stopping)


@EVERY_SOLVER
@EVERY_TASK
def test_sparse_rows_of_every_task(task, solver):
    fit(task, WEIGHTS["random"], X=SPARSE, **solver, early_stopping=True)


@EVERY_TASK
def test_minibatches_of_sparse_rows(task):
    for batch_size, shuffle in itertools.product(["auto", 7, 109], [False, True]):
        fit(task, X=SPARSE, batch_size=batch_size, shuffle=shuffle)


@EVERY_TASK
def test_sparse_learns_what_dense_learns(task):
    pair = Pair(task.kind, **{**WHOLE, **task.params})
    pair.ours.set_params(max_iter=2 * EPOCHS)
    pair.theirs = type(pair.ours)(**pair.ours.get_params())
    with pytest.warns(UserWarning, match="Maximum iterations"):
        pair.ours.fit(SPARSE, task.y)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        pair.theirs.fit(SPARSE.toarray(), task.y)
    pair.assert_same_state()
    for X in (SPARSE, SPARSE.tocsc(), SPARSE.toarray()):
        pair.predict(X)


# ---- Dense rows ----

LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "columns of a wider one": lambda X: np.hstack([X, X])[:, : X.shape[1]],
    "backwards": lambda X: np.ascontiguousarray(X[::-1])[::-1],
    "broadcast": lambda X: np.broadcast_to(X[:, :1], X.shape),
    "list": lambda X: X.tolist(),
    "integers": lambda X: (10 * X).astype(int),
    "uint8": lambda X: (10 * np.abs(X)).astype(np.uint8),
    "bool": lambda X: X > 0,
    "float16": lambda X: X.astype(np.float16),
    "big-endian": lambda X: X.astype(">f8"),
    "object": lambda X: X.astype(object),
    "matrix of strings": lambda X: X.round(3).astype(str).astype(object),
    "unaligned": lambda X: np.frombuffer(b"\0" + X.tobytes(), dtype=np.uint8)[1:].view(np.float64).reshape(X.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_rows(layout):
    for task in FEW:
        X = LAYOUTS[layout](TASKS[task].X)
        _fit_all([task], ["adam", "lbfgs"], X=X)
        _fit_all([task], ["adam"], X=X, early_stopping=True)


def test_rows_and_targets_are_left_alone():
    task = TASKS["outputs"]
    X, y, weight = (np.array(array) for array in (task.X, task.y, WEIGHTS["random"]))
    for array in (X, y, weight):
        array.flags.writeable = False
    _fit_all(["outputs"], SOLVERS, weight, X=X, y=y)
    for array, before in ((X, task.X), (y, task.y), (weight, WEIGHTS["random"])):
        np.testing.assert_array_equal(array, before)


# ---- Targets ----

TARGETS = {
    "binary": {
        "bool": lambda y: y == 1,
        "strings": lambda y: np.array(["no", "yes"])[y],
        "floats": lambda y: np.array([2.0, -1.0])[y],
        "list": list,
        "one class": np.zeros_like,
    },
    "multiclass": {
        "objects": lambda y: y.astype(object),
        "column": lambda y: y[:, None],
        "int8": lambda y: np.unique(y, return_inverse=True)[1].astype(np.int8) - 1,
        "list": list,
    },
    "multilabel": {"bool": lambda y: y > 0, "floats": lambda y: y.astype(float), "uint8": lambda y: y.astype(np.uint8)},
    "regression": {
        "float32": lambda y: y.astype(np.float32),
        "integers": lambda y: y.astype(int),
        "column": lambda y: y[:, None],
        "longdouble": lambda y: y.astype(np.longdouble),
        "strings": lambda y: y.astype(str).astype(object),
        "constant": lambda y: np.full_like(y, 2.5),
    },
    "outputs": {
        "fortran": np.asfortranarray,
        "float32": lambda y: y.astype(np.float32),
        "list": lambda y: y.tolist(),
        "strided": lambda y: y[:, ::-2],
    },
    "counts": {
        "float32": lambda y: y.astype(np.float32),
        "uint8": lambda y: y.astype(np.uint8),
        "fractions": lambda y: y + 0.5,
        "zeros": lambda y: 0 * y,
    },
}


@EARLY_STOPPING
@pytest.mark.parametrize(("name", "change"), [(name, change) for name in TARGETS for change in TARGETS[name]])
def test_kinds_of_targets(name, change, early_stopping):
    """Labels are strings, numbers or objects; for a column of targets there is scikit-learn's warning."""
    y = TARGETS[name][change](TASKS[name].y)
    _fit_all([name], ["adam", "lbfgs"], y=y, early_stopping=early_stopping)


# ---- float32 ----

# The sums behind a number are those of a pass (widths, and rows of a minibatch), once in each step.
TERMS = (23 + 9 + 4 + 32) * EPOCHS * 4


# What is printed and when the rate is divided hang on the last digits; and so does on which side of 0 a relu is, and of
# a gradient that is only noise Adam makes a step like any other.
FLOAT32 = {
    name: {"activation": "tanh"}
    | {key: value for key, value in solver.items() if key not in ("verbose", "n_iter_no_change")}
    for name, solver in SOLVERS.items()
    if name != "lbfgs"
}


@EARLY_STOPPING
@pytest.mark.parametrize("solver", FLOAT32)
@EVERY_TASK
def test_float32_stays_float32(task, solver, early_stopping):
    for X in (task.X.astype(np.float32), SPARSE.astype(np.float32)):
        pair, _ = fit(task, X=X, terms=TERMS, **FLOAT32[solver], early_stopping=early_stopping)
        assert {array.dtype for array in pair.ours.coefs_ + pair.ours.intercepts_} == {np.dtype(np.float32)}


@EVERY_TASK
def test_float32_of_lbfgs(task):
    """scikit-learn goes on in float64; here the weights are float32, and the minimum is as good."""
    X = task.X.astype(np.float32)
    pair = Pair(task.kind, **{**WHOLE, **task.params, "solver": "lbfgs", "alpha": 10})
    for estimator in (pair.ours, pair.theirs):
        with pytest.warns(UserWarning, match="lbfgs failed to converge"):
            estimator.fit(X, task.y)
    assert {array.dtype for array in pair.ours.coefs_ + pair.ours.intercepts_} == {np.dtype(np.float32)}
    predict = pair.ours.predict if task.kind == "MLPRegressor" else pair.ours.predict_proba
    assert predict(X).dtype == np.float32
    np.testing.assert_allclose(pair.ours.loss_, pair.theirs.loss_, rtol=np.sqrt(np.finfo(np.float32).eps))


@EVERY_TASK
def test_predictions_have_the_type_of_the_model(task):
    """Whatever the type of the rows is; scikit-learn predicts in the longer of both."""
    for dtype in (np.float32, np.float64):
        pair, _ = fit(task, X=task.X.astype(dtype), terms=TERMS, activation="tanh")
        for other in (np.float32, np.float64, np.int64):
            X = (3 * task.X).astype(other)
            for method in {"predict", "predict_proba"} & set(dir(pair.theirs)):
                ours, theirs = (getattr(estimator, method)(X) for estimator in (pair.ours, pair.theirs))
                if theirs.dtype.kind != "f":
                    np.testing.assert_array_equal(ours, theirs)
                else:
                    assert ours.dtype == dtype
                    assert_same_numbers(ours, theirs.astype(dtype), method, TERMS if dtype == np.float32 else None)

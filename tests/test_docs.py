"""docs/migration.md: its code runs, its tables are the estimators', and what it says differs from scikit-learn does."""

import ast
import inspect
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.neural_network
from conftest import SAME_NUMBERS, assert_close, run_examples
from sklearn.base import RegressorMixin
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import _stochastic_optimizers
from sklearn.pipeline import make_pipeline
from sklearn.utils._param_validation import Interval, Options

import cymlp
from cymlp import training

PAGE = Path(__file__).parent.parent / "docs" / "migration.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
KINDS = {"classifier": "MLPClassifier", "regressor": "MLPRegressor"}
IRIS = load_iris(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


def _rows(section):
    """The cells of the first table in a section, without its head; code without its backticks."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def _of(kind, word):
    """Whether a table's word, "both", "classifier" or "regressor", includes a kind."""
    assert word in ("both", *KINDS)
    return word in ("both", kind)


def test_its_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(PAGE)


# ---- Tables ----


@pytest.mark.parametrize("kind", KINDS)
def test_the_parameters_are_those_of_the_constructor(kind):
    ours = inspect.signature(getattr(cymlp, KINDS[kind])).parameters
    listed = {name: ast.literal_eval(default) for name, default, of, *_ in _rows("Parameters") if _of(kind, of)}
    assert listed == {name: parameter.default for name, parameter in ours.items()}
    assert list(listed) == list(ours)


def _constraints(cls, name):
    """What a parameter may be, in a form that can be compared."""
    declared = cls._parameter_constraints[name]
    return [(type(one), vars(one)) if isinstance(one, (Interval, Options)) else one for one in declared]


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_the_same_extended_or_new_where_the_table_says_so(kind):
    ours, theirs = getattr(cymlp, KINDS[kind]), getattr(sklearn.neural_network, KINDS[kind])
    defaults = {name: parameter.default for name, parameter in inspect.signature(theirs).parameters.items()}
    for name, default, of, compared, _ in _rows("Parameters"):
        if not _of(kind, of):
            continue
        assert compared in ("same", "extended", "new")
        if compared == "new":
            assert name not in defaults
            assert inspect.signature(ours).parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        else:
            assert defaults.pop(name) == ast.literal_eval(default)
            assert (_constraints(ours, name) == _constraints(theirs, name)) == (compared == "same"), name
    assert defaults == {}


def _fitted(library, kind, **parameters):
    """An estimator with everything that fits set: names of features, scores of validation."""
    X, y = IRIS if kind == "classifier" else DIABETES
    frame = pd.DataFrame(X, columns=[f"column {i}" for i in range(X.shape[1])])
    return getattr(library, KINDS[kind])(hidden_layer_sizes=(4,), tol=1, random_state=0, **parameters).fit(frame, y)


def _attributes(estimator):
    return {name for name in dir(estimator) if re.fullmatch(r"[a-z]\w*_", name) and hasattr(estimator, name)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_attributes_are_those_of_fitted_estimators(kind):
    ours = _attributes(_fitted(cymlp, kind, early_stopping=True))
    theirs = _attributes(_fitted(sklearn.neural_network, kind, early_stopping=True))
    listed = {name: compared for name, of, compared, _ in _rows("Attributes") if _of(kind, of)}
    assert set(listed) == ours
    assert {name for name, compared in listed.items() if compared == "same"} == theirs


# ---- What differs: each item of the list has a test of its name, which runs both ----

THEIRS = sklearn.neural_network


def _make(library, kind, **parameters):
    return getattr(library, KINDS[kind])(
        **{"hidden_layer_sizes": (8,), "max_iter": 5, "n_iter_no_change": 5, "random_state": 0} | parameters
    )


def _fit(estimator, X=None, y=None, sample_weight=None):
    """Without a word about epochs that were too few."""
    data = DIABETES if isinstance(estimator, RegressorMixin) else IRIS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(data[0] if X is None else X, data[1] if y is None else y, sample_weight)


def test_every_difference_has_a_test():
    items = re.findall(r"^- \*\*(.+?)\*\*", SECTIONS["What differs, and why"], re.MULTILINE)
    names = ["test_" + "_".join(re.findall(r"[a-z0-9]+", item.lower())) for item in items]
    assert names
    assert [name for name in names if name not in globals()] == []


def test_a_fit_that_diverges():
    X, parameters = DIABETES[0] * 1e10, {"solver": "sgd", "learning_rate_init": 1e10}
    theirs, ours = (_make(library, "regressor", **parameters) for library in (THEIRS, cymlp))
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="non-finite parameter weights"):
        _fit(theirs, X)
    assert theirs.n_iter_ == 5
    assert np.isnan(theirs.coefs_[0]).all()
    with pytest.raises(cymlp.DivergenceError, match=r"non-finite parameter weights.* in epoch 1, batch"):
        _fit(ours, X)
    assert ours.n_iter_ == 0
    assert np.isfinite(ours.predict(X)).all()


def test_a_fit_that_diverges_with_early_stopping():
    X, parameters = DIABETES[0] * 1e10, {"solver": "sgd", "learning_rate_init": 1e10, "early_stopping": True}
    theirs, ours = (_make(library, "regressor", **parameters) for library in (THEIRS, cymlp))
    with np.errstate(all="ignore"):
        _fit(theirs, X)
        with pytest.warns(ConvergenceWarning, match="The best parameters so far are restored"):
            ours.fit(X, DIABETES[1])
    assert theirs.n_iter_ == 5 > ours.n_iter_
    assert np.isfinite(theirs.predict(DIABETES[0])).all()
    assert np.isfinite(ours.predict(DIABETES[0])).all()


def test_a_fit_that_diverges_with_lbfgs():
    X = DIABETES[0] * 1e200
    theirs, ours = (_make(library, "regressor", solver="lbfgs") for library in (THEIRS, cymlp))
    with np.errstate(all="ignore"):
        assert _fit(theirs, X).n_iter_ == 0
    with pytest.raises(cymlp.DivergenceError):
        _fit(ours, X)


def test_a_fit_that_is_refused():
    theirs, ours = (_fit(_make(library, "classifier")) for library in (THEIRS, cymlp))
    for estimator, stays in ((theirs, False), (ours, True)):
        before = estimator.predict_proba(IRIS[0])
        estimator.set_params(early_stopping=True)
        with pytest.raises(ValueError, match="The validation set is too small"):
            estimator.fit(IRIS[0][::25], IRIS[1][::25])
        assert np.array_equal(estimator.predict_proba(IRIS[0]), before) == stays


def _interrupted(monkeypatch, library, owner, method, count):
    """A fit in which Ctrl-C comes after the `count`-th call of a method."""
    original, calls = getattr(owner, method), []

    def then_interrupt(*arguments, **named):
        answer = original(*arguments, **named)
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return answer

    estimator = _make(library, "classifier", batch_size=50)
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, then_interrupt)
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            estimator.fit(*IRIS)
    return estimator


def test_ctrl_c(monkeypatch):
    """In the third epoch, of three minibatches: theirs after the first of them, ours after the last."""
    theirs = _interrupted(monkeypatch, THEIRS, _stochastic_optimizers.AdamOptimizer, "update_params", 7)
    ours = _interrupted(monkeypatch, cymlp, training.Run, "epoch", 3)
    assert theirs.n_iter_ == ours.n_iter_ == 2
    for library, interrupted, is_whole in ((THEIRS, theirs, False), (cymlp, ours, True)):
        two_epochs = _fit(_make(library, "classifier", batch_size=50, max_iter=2))
        assert np.array_equal(interrupted.coefs_[0], two_epochs.coefs_[0]) == is_whole


@pytest.mark.parametrize("sizes", [(9,), (8, 8)])
def test_layers_of_another_size(sizes):
    theirs, ours = (_fit(_make(library, "classifier", warm_start=True)) for library in (THEIRS, cymlp))
    for estimator in (theirs, ours):
        estimator.set_params(hidden_layer_sizes=sizes)
    if len(sizes) == 1:
        assert _fit(theirs).coefs_[0].shape == (4, 8)
    else:
        with pytest.raises(AttributeError):
            _fit(theirs)
    with pytest.raises(ValueError, match=r"\(4, 8, 3\); hidden_layer_sizes and the data make"):
        _fit(ours)
    with pytest.raises(ValueError, match=r"\(4, 8, 3\); hidden_layer_sizes and the data make"):
        ours.partial_fit(*IRIS)


def test_a_float32_model_is_computed_in_float32():
    single = DIABETES[0].astype(np.float32)
    for solver, kept in (("adam", np.float32), ("lbfgs", np.float64)):
        theirs, ours = (_fit(_make(library, "regressor", solver=solver), single) for library in (THEIRS, cymlp))
        assert theirs.coefs_[0].dtype == kept
        assert theirs.predict(DIABETES[0]).dtype == np.float64
        assert ours.coefs_[0].dtype == ours.predict(DIABETES[0]).dtype == np.float32
        np.testing.assert_array_equal(ours.predict(DIABETES[0]), ours.predict(single))


def test_the_logarithmic_loss_of_validation_data():
    X, y = IRIS[0] * 1e3, np.roll(IRIS[1], 50)
    parameters = {"hidden_layer_sizes": (), "solver": "sgd", "max_iter": 1}
    ours = _make(cymlp, "classifier", **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours.fit(X, y, validation_data=(X, y))
    theirs = _fit(_make(THEIRS, "classifier", **parameters), X, y)
    most = -np.log(np.finfo(np.float64).eps)
    assert theirs.loss_ < most < ours.validation_loss_curve_[-1]
    assert abs(ours.loss_ / theirs.loss_ - 1) < SAME_NUMBERS


def test_loss_curve_after_lbfgs():
    theirs, ours = (_fit(_make(library, "classifier", solver="lbfgs")) for library in (THEIRS, cymlp))
    assert not hasattr(theirs, "loss_curve_")
    assert len(ours.loss_curve_) == ours.n_iter_ == theirs.n_iter_
    assert ours.loss_curve_[-1] == ours.loss_


def test_coefs_and_intercepts():
    theirs, ours = (_fit(_make(library, "classifier")) for library in (THEIRS, cymlp))
    for estimator, follows in ((theirs, True), (ours, False)):
        before = estimator.predict_proba(IRIS[0])
        estimator.coefs_[0][:] *= 2
        assert not np.array_equal(estimator.predict_proba(IRIS[0]), before)
        weights, biases = estimator.coefs_[0], estimator.intercepts_[0]
        estimator.partial_fit(*IRIS)
        assert np.array_equal(weights, estimator.coefs_[0]) == follows
        assert np.array_equal(biases, estimator.intercepts_[0]) == follows
    ours.coefs_[0] = np.zeros((3, 3))
    with pytest.raises(ValueError, match=r"coefs_\[0\] must have shape"):
        ours.predict(IRIS[0])


def test_a_minibatch_without_weight():
    """The first of three has all that counts; the loss of the epoch, a mean over rows, is a third of its loss."""
    weight = np.repeat([1.0, 0.0], [50, 100])
    parameters = {"shuffle": False, "alpha": 0, "max_iter": 1}
    theirs, ours = (_make(library, "classifier", batch_size=50, **parameters) for library in (THEIRS, cymlp))
    with pytest.raises(ZeroDivisionError):
        theirs.fit(*IRIS, sample_weight=weight)
    whole = _fit(_make(cymlp, "classifier", batch_size=150, **parameters), sample_weight=weight)
    assert_close(3 * _fit(ours, sample_weight=weight).loss_, whole.loss_, len(weight), kind="pass")


def test_negative_targets_with_the_poisson_loss():
    theirs, ours = (_make(library, "regressor", loss="poisson") for library in (THEIRS, cymlp))
    _fit(theirs, y=-DIABETES[1])
    with pytest.raises(ValueError, match="y must be >= 0 for the Poisson loss"):
        _fit(ours, y=-DIABETES[1])


def test_transform_is_there():
    pipelines = [make_pipeline(_make(library, "classifier")) for library in (THEIRS, cymlp)]
    assert [hasattr(pipeline, "transform") for pipeline in pipelines] == [False, True]


def test_what_begins_with_an_underscore():
    theirs = pickle.loads(pickle.dumps(_fit(_make(THEIRS, "classifier"))))
    assert type(theirs) is THEIRS.MLPClassifier
    assert type(cymlp.from_sklearn(theirs)) is cymlp.MLPClassifier

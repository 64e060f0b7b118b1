"""What scikit-learn asks of an estimator, and what its tools do with one: as with scikit-learn's own perceptrons."""

import copy
import functools
import inspect
import pickle
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from conftest import run_python
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import AdaBoostClassifier, BaggingRegressor, StackingRegressor, VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    cross_val_predict,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import estimator_checks, get_tags
from test_same_numbers import CLASSES, SOLVERS, TASKS, WHOLE, Pair, assert_same_numbers, outcome

from cymlp import MLPClassifier, MLPRegressor

OURS = [ours for ours, _ in CLASSES.values()]
EVERY_CLASS = pytest.mark.parametrize("cls", OURS)
SHORT = {"hidden_layer_sizes": (7,), "max_iter": 15, "random_state": 2, "n_iter_no_change": np.inf}
NOT_CONVERGED = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# ---- Checks of scikit-learn ----

# As they are by default, and as scikit-learn checks its own; the oracle, too.
CHECKED = [
    cls(**params) for cls in OURS for params in ({}, {"max_iter": 100}, {"max_iter": 100, "engine": "reference"})
]


@NOT_CONVERGED
@estimator_checks.parametrize_with_checks(CHECKED)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "estimator", [MLPClassifier(solver="lbfgs"), MLPRegressor(solver="sgd", tol=1e-2, random_state=42)], ids=str
)
def test_rows_of_integer_weight_are_rows_repeated(estimator):
    """With the solvers that scikit-learn has for this check (sklearn/utils/_test_common/instance_generator.py)."""
    estimator_checks.check_sample_weight_equivalence_on_dense_data(type(estimator).__name__, estimator)


# Those that its test_common.py makes besides, each a function of a name and an estimator.
COMMON = [
    "check_dataframe_column_names_consistency",
    "check_param_validation",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_get_feature_names_out_error",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
]


@NOT_CONVERGED
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")  # frames after arrays, and back
@pytest.mark.parametrize("params", [{}, {"early_stopping": True, "n_iter_no_change": 1}], ids=["", "early_stopping"])
@pytest.mark.parametrize("check", COMMON)
@EVERY_CLASS
def test_common_checks_of_scikit_learn(cls, check, params):
    if "polars" in check:
        pytest.importorskip("polars", reason="polars is what this check is of")
    getattr(estimator_checks, check)(cls.__name__, cls(max_iter=20, **params))


def test_checks_that_need_the_array_api():
    """Which SciPy asks for before it is imported."""
    printed = run_python(
        """
        import warnings
        from cymlp import MLPClassifier, MLPRegressor
        from sklearn.utils.estimator_checks import check_array_api_input
        warnings.simplefilter("ignore")
        for cls in (MLPClassifier, MLPRegressor):
            name, estimator = cls.__name__, cls(max_iter=5)
            check_array_api_input(name, estimator, array_namespace="numpy", expect_only_array_outputs=False)
            print(name)
        """,
        SCIPY_ARRAY_API="1",
    )
    assert printed.split() == list(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_constructor_is_scikit_learns(kind):
    """Names, order, defaults and kinds; what is new comes after them, by name only."""
    ours, theirs = (list(inspect.signature(cls).parameters.values()) for cls in CLASSES[kind])
    assert ours[: len(theirs)] == theirs
    assert {parameter.kind for parameter in ours[len(theirs) :]} <= {inspect.Parameter.KEYWORD_ONLY}
    assert not {p.default for p in ours[len(theirs) :]} & {inspect.Parameter.empty}


@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "predict_proba", "predict_log_proba", "score"])
@pytest.mark.parametrize("kind", CLASSES)
def test_methods_take_what_scikit_learns_take(kind, method):
    ours, theirs = (
        list(inspect.signature(getattr(cls, method)).parameters.values()) if hasattr(cls, method) else None
        for cls in CLASSES[kind]
    )
    assert (ours is None) == (theirs is None)
    assert ours is None or ours[: len(theirs)] == theirs


@pytest.mark.parametrize("kind", CLASSES)
def test_constraints_and_tags_are_scikit_learns(kind):
    ours, theirs = (cls() for cls in CLASSES[kind])
    assert set(theirs._parameter_constraints) <= set(ours._parameter_constraints) == set(ours.get_params())
    assert theirs.get_params().items() <= ours.get_params().items()
    mine, desired = get_tags(ours), get_tags(theirs)
    for tags in (mine, desired):
        tags.transformer_tags = None
    assert mine == desired
    assert (is_classifier(ours), is_regressor(ours)) == (is_classifier(theirs), is_regressor(theirs))


@pytest.mark.parametrize("params", [{}, {"alpha": 1, "solver": "sgd"}, {"hidden_layer_sizes": (3, 4)}], ids=str)
@pytest.mark.parametrize("kind", CLASSES)
def test_estimators_show_themselves(kind, params):
    ours, theirs = (cls(**params) for cls in CLASSES[kind])
    assert repr(ours) == repr(theirs)
    html = ours._repr_html_()
    assert kind in html
    assert all(name in html for name in ours.get_params())
    ours.set_params(max_iter=1, random_state=0)
    with pytest.warns(ConvergenceWarning):
        ours.fit(TASKS["binary"].X, TASKS["binary"].y)
    assert "<span>Fitted</span>" in ours._repr_html_()
    assert "MLP" in make_pipeline(StandardScaler(), ours)._repr_html_()


# ---- Copies ----


def _joblib(estimator, path, mmap_mode=None):
    joblib.dump(estimator, path / "estimator")
    return joblib.load(path / "estimator", mmap_mode=mmap_mode)


COPIES = {
    **{
        f"pickle {protocol}": lambda estimator, path, protocol=protocol: pickle.loads(pickle.dumps(estimator, protocol))
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
    "joblib": _joblib,
    "joblib compressed": lambda estimator, path: joblib.load(joblib.dump(estimator, path / "file.gz")[0]),
    "deepcopy": lambda estimator, path: copy.deepcopy(estimator),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["multiclass", "outputs"])
@pytest.mark.parametrize("solver", ["adam", "nesterov", "invscaling", "adaptive"])
def test_a_copy_goes_on_with_the_same_numbers(solver, name, how, tmp_path):
    """Optimizer, rate, counters and generator are in it; and the original is left alone."""
    task = TASKS[name]
    params = {**WHOLE, **SOLVERS[solver], "verbose": False, "random_state": np.random.RandomState(1)}
    pair = Pair(task.kind, **params)
    classes = {"classes": np.unique(task.y)} if task.kind == "MLPClassifier" else {}
    for _ in range(3):
        pair.call("partial_fit", task.X, task.y, **classes)
    original, pair.ours = pair.ours, COPIES[how](pair.ours, tmp_path)
    weights = [array.copy() for array in original.coefs_]
    for _ in range(3):
        assert pair.call("partial_fit", task.X, task.y).error == ()
    pair.predict(task.X)
    pair.set_params(warm_start=True)
    assert pair.fit(task.X, task.y).error == ()
    for before, after in zip(weights, original.coefs_, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", TASKS)
def test_a_copy_in_memory_that_is_only_read_predicts(name, tmp_path):
    task = TASKS[name]
    pair = Pair(task.kind, **{**WHOLE, **task.params})
    pair.fit(task.X, task.y)
    pair.ours = _joblib(pair.ours, tmp_path, "r")
    pair.predict(task.X)
    pair.assert_same_state()


@EVERY_CLASS
def test_a_clone_has_the_parameters_and_nothing_else(cls):
    estimator = cls(**SHORT)
    with pytest.warns(ConvergenceWarning):
        estimator.fit(TASKS["binary"].X, TASKS["binary"].y)
    assert clone(estimator).get_params() == estimator.get_params()
    assert set(vars(clone(estimator))) == set(vars(cls()))


def test_threads_share_an_estimator():
    task = TASKS["multiclass"]
    with pytest.warns(ConvergenceWarning):
        estimator = MLPClassifier(**SHORT).fit(task.X, task.y)
    expected = estimator.predict_proba(task.X)
    with ThreadPoolExecutor(4) as pool:
        for actual in pool.map(estimator.predict_proba, [task.X] * 40):
            np.testing.assert_array_equal(actual, expected)


@EVERY_CLASS
def test_contiguous_rows_are_not_copied(cls):
    X = np.random.default_rng(0).normal(size=(20_000, 40))
    y = X[:, 0] > 0
    for method in ("fit", "partial_fit", "predict", "score"):
        estimator = cls(hidden_layer_sizes=(2,), max_iter=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(X[:300], y[:300])
            tracemalloc.start()  # counts what NumPy allocates
            getattr(estimator, method)(*[X, y][: 1 if method == "predict" else 2])
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < X.nbytes / 4, method


# ---- Frames ----


def _frames():
    """What makes (X, y) of a task something with columns."""

    def as_pandas(X, y):
        index = [f"row {i}" for i in range(len(X))]
        y = pd.DataFrame(y, index, columns=[f"t{i}" for i in range(y.shape[1])]) if y.ndim == 2 else pd.Series(y, index)
        return pd.DataFrame(X, index, columns=[f"x{i}" for i in range(X.shape[1])]), y

    def as_mixed(X, y):
        X, y = as_pandas(X, y)
        X = X.astype({"x0": np.float32}).round(2)
        return X.assign(x1=X["x1"].round().astype(int), x2=X["x2"] > 0, x3=X["x3"].astype("Float64")), y

    def as_numbered(X, y):
        return pd.DataFrame(X), pd.Series(y) if y.ndim == 1 else pd.DataFrame(y)

    def as_polars(X, y):
        polars = pytest.importorskip("polars", reason="polars is what this test is of")
        names = [f"x{i}" for i in range(X.shape[1])]
        return polars.DataFrame(X, names, orient="row"), polars.Series(y) if y.ndim == 1 else polars.DataFrame(y)

    return {"pandas": as_pandas, "mixed types": as_mixed, "without names": as_numbered, "polars": as_polars}


FRAMES = _frames()


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("name", ["binary", "multiclass", "regression", "outputs"])
@pytest.mark.parametrize("frame", FRAMES)
def test_frames(frame, name, early_stopping):
    """Are taken, their names kept and compared, in the words of scikit-learn."""
    task = TASKS[name]
    X, y = FRAMES[frame](task.X, task.y)
    pair = Pair(task.kind, **{**WHOLE, "early_stopping": early_stopping})
    done = pair.fit(X, y)
    assert done.error == ()
    assert [category for category, _ in done.warnings] == [ConvergenceWarning]
    assert hasattr(pair.ours, "feature_names_in_") == (frame != "without names")
    pair.predict(X)
    for other in (np.asarray(X, dtype=float), X[X.columns[::-1]], X[X.columns[1:]]):
        pair.call("predict", other)
        pair.call("score", other, y)
        if not early_stopping:
            pair.call("partial_fit", other, y)


@pytest.mark.parametrize("kind", CLASSES)
def test_categories_as_labels(kind):
    """And weights that are a Series."""
    task = TASKS["multiclass" if kind == "MLPClassifier" else "regression"]
    y = pd.Series(task.y).astype("category") if kind == "MLPClassifier" else pd.Series(task.y).astype("Float64")
    pair = Pair(kind, **WHOLE)
    assert pair.fit(pd.DataFrame(task.X), y, pd.Series(np.linspace(0.5, 2, len(y)))).error == ()
    pair.predict(task.X)


# ---- Tools ----


def _cv(task, estimator, tool, *args, **kwargs):
    return tool(estimator, task.X, task.y, *args, cv=3, **kwargs)


def _fitted(make, *methods):
    """A tool that fits a meta-estimator and gives what its methods give."""

    def use(estimator, task):
        meta = make(estimator).fit(task.X, task.y)
        return [getattr(meta, method)(task.X) for method in methods]

    return use


def _search(estimator, task):
    search = GridSearchCV(estimator, {"alpha": [1e-4, 10.0], "hidden_layer_sizes": [(3,), (8, 2)]}, cv=3, n_jobs=2)
    search.fit(task.X, task.y)
    return [search.cv_results_["mean_test_score"], search.predict(task.X), str(search.best_params_)]


def _score_of(results):
    return [value for name, value in results.items() if "time" not in name]


TOOLS = {
    "Pipeline": ("multiclass", _fitted(lambda e: make_pipeline(StandardScaler(), e), "predict", "predict_proba")),
    "GridSearchCV classifier": ("multiclass", _search),
    "GridSearchCV regressor": ("outputs", _search),
    "cross_val_predict": ("multiclass", lambda e, task: _cv(task, e, cross_val_predict, method="predict_log_proba")),
    "cross_validate": (
        "binary",
        lambda e, task: _score_of(_cv(task, e, cross_validate, scoring=["roc_auc", "neg_log_loss"])),
    ),
    "learning_curve": (
        "regression",
        lambda e, task: list(
            _cv(task, e, learning_curve, train_sizes=[0.3, 0.6, 1.0], exploit_incremental_learning=True)
        ),
    ),
    "validation_curve": (
        "counts",
        lambda e, task: list(_cv(task, e, validation_curve, param_name="alpha", param_range=[0.1, 1], n_jobs=2)),
    ),
    "CalibratedClassifierCV": ("binary", _fitted(lambda e: CalibratedClassifierCV(e, cv=3), "predict_proba")),
    "CalibratedClassifierCV isotonic": (
        "multiclass",
        _fitted(lambda e: CalibratedClassifierCV(e, cv=3, method="isotonic", ensemble=False), "predict_proba"),
    ),
    "FixedThresholdClassifier": ("binary", _fitted(lambda e: FixedThresholdClassifier(e, threshold=0.3), "predict")),
    "VotingClassifier": (
        "multiclass",
        _fitted(
            lambda e: VotingClassifier([("a", e), ("b", clone(e).set_params(alpha=5))], voting="soft"), "predict_proba"
        ),
    ),
    "StackingRegressor": (
        "regression",
        _fitted(lambda e: StackingRegressor([("a", e), ("b", Ridge())], cv=3, passthrough=True), "predict"),
    ),
    "MultiOutputRegressor": ("outputs", _fitted(MultiOutputRegressor, "predict")),
    "ClassifierChain": ("multilabel", _fitted(ClassifierChain, "predict", "predict_proba")),
    "OneVsRestClassifier": ("multiclass", _fitted(OneVsRestClassifier, "predict_proba")),
    "BaggingRegressor": (
        "outputs",
        _fitted(lambda e: BaggingRegressor(e, n_estimators=3, random_state=0, n_jobs=2), "predict"),
    ),
    "AdaBoostClassifier": (
        "multiclass",
        _fitted(lambda e: AdaBoostClassifier(e, n_estimators=3, random_state=0), "predict_proba"),
    ),
    "TransformedTargetRegressor": (
        "regression",
        _fitted(lambda e: TransformedTargetRegressor(e, transformer=StandardScaler()), "predict"),
    ),
    "SelfTrainingClassifier": (
        "binary",
        lambda e, task: SelfTrainingClassifier(e).fit(task.X, np.where(task.X[:, 1] > 0, task.y, -1)).predict(task.X),
    ),
    "SequentialFeatureSelector": (
        "regression",
        _fitted(lambda e: SequentialFeatureSelector(e, n_features_to_select=2, cv=2), "transform"),
    ),
    "FrozenEstimator": (
        "binary",
        lambda e, task: FrozenEstimator(e.fit(task.X, task.y)).fit(task.X, 1 - task.y).predict_proba(task.X),
    ),
    "permutation_importance": (
        "regression",
        lambda e, task: permutation_importance(e.fit(task.X, task.y), task.X, task.y, random_state=0)["importances"],
    ),
    "partial_dependence": (
        "binary",
        lambda e, task: partial_dependence(e.fit(task.X, task.y), task.X, [0], grid_resolution=7)["average"],
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_give_what_they_give_with_scikit_learns(tool):
    name, use = TOOLS[tool]
    task = TASKS[name]
    ours, theirs = (outcome(use, cls(**SHORT, **task.params), task) for cls in CLASSES[task.kind])
    assert ours.error == theirs.error == ()
    assert {category for category, _ in theirs.warnings} <= {ConvergenceWarning}
    assert_same_numbers(ours.result, theirs.result, tool)


def test_a_model_is_a_step_before_others():
    """Its last hidden layer is what comes after it sees."""
    task = TASKS["regression"]
    frame = FRAMES["pandas"](task.X, task.y)[0]
    union = FeatureUnion(
        [("a", MLPRegressor(**SHORT)), ("b", clone(MLPRegressor(**SHORT)).set_params(hidden_layer_sizes=(3, 4)))]
    )
    model = make_pipeline(make_column_transformer((union, ["x0", "x1", "x2"]), remainder="passthrough"), Ridge())
    model.set_output(transform="pandas")
    with pytest.warns(ConvergenceWarning):
        model.fit(frame, task.y)
    names = model[:-1].get_feature_names_out().tolist()
    assert names[:2] == ["featureunion__a__mlpregressor0", "featureunion__a__mlpregressor1"]
    assert len(names) == 7 + 4 + 3
    assert model[:-1].transform(frame).columns.tolist() == names


# ---- Metadata ----


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_routed(kind):
    requests = CLASSES[kind][0]().get_metadata_routing()
    assert set(requests.fit.requests) == {"sample_weight", "validation_data"}
    assert set(requests.partial_fit.requests) == {"sample_weight"} | ({"classes"} if kind == "MLPClassifier" else set())
    assert set(requests.score.requests) == {"sample_weight"}
    assert set(requests.predict.requests) == set()


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("wanted", [False, True])
def test_weights_are_routed(kind, wanted):
    """Through a pipeline in a search to fit and to score, where they are asked for."""
    task, weight = TASKS["binary"], np.linspace(0.1, 3, len(TASKS["binary"].X))

    def use(cls):
        estimator = cls(**SHORT).set_fit_request(sample_weight=wanted).set_score_request(sample_weight=wanted)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        search = GridSearchCV(make_pipeline(scaler, estimator), {f"{kind.lower()}__alpha": [0.1, 1.0]}, cv=3)
        search.fit(task.X, task.y, sample_weight=weight)
        return [search.cv_results_["mean_test_score"], search.predict(task.X)]

    ours, theirs = (outcome(functools.partial(use, cls)) for cls in CLASSES[kind])
    assert ours.error == theirs.error
    assert bool(theirs.error) != wanted
    assert ours.warnings == theirs.warnings
    assert_same_numbers(ours.result, theirs.result)


@pytest.mark.usefixtures("routing")
@EVERY_CLASS
def test_validation_data_is_routed(cls):
    task = TASKS["binary"]
    X, y, validation = task.X[:80], task.y[:80], (task.X[80:], task.y[80:])
    estimator = cls(**SHORT, early_stopping=True).set_fit_request(validation_data=True)
    with pytest.warns(ConvergenceWarning):
        alone = clone(estimator).fit(X, y, validation_data=validation)
    with pytest.warns(ConvergenceWarning):
        routed = make_pipeline(FrozenEstimator(StandardScaler().fit(X)), estimator).fit(
            X, y, validation_data=validation
        )
    assert len(alone.validation_loss_curve_) == len(routed[-1].validation_loss_curve_) == SHORT["max_iter"]
    assert alone.validation_loss_curve_ != routed[-1].validation_loss_curve_  # rows of the one are scaled


@EVERY_CLASS
def test_weights_are_passed_by_name_without_routing(cls):
    task, weight = TASKS["binary"], np.linspace(0.1, 3, len(TASKS["binary"].X))
    name = cls.__name__.lower()
    with pytest.warns(ConvergenceWarning):
        piped = make_pipeline(StandardScaler(), cls(**SHORT)).fit(task.X, task.y, **{f"{name}__sample_weight": weight})
    with pytest.warns(ConvergenceWarning):
        alone = cls(**SHORT).fit(StandardScaler().fit_transform(task.X), task.y, weight)
    np.testing.assert_array_equal(piped[-1].coefs_[0], alone.coefs_[0])

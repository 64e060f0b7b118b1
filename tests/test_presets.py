"""The tabular preset: its inputs, its networks, what it promises of the sets that scikit-learn brings."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_python
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.utils import estimator_checks

import cymlp
from cymlp import preprocessing, presets
from cymlp.presets import SmoothClip, TabularClassifier, TabularRegressor, coslog4, tabular

sys.path.insert(0, str(Path(__file__).parent.parent))  # the bench is part of a checkout, not of the package

from bench import accuracy

TASKS = ["classification", "regression"]
SHORT = {"hidden_layer_sizes": (8,), "max_iter": 4, "random_state": 0}


def _data(task, n=60):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    signal = X[:, 0] - X[:, 1] + 0.1 * rng.normal(size=n)
    return X, signal if task == "regression" else np.array(["low", "middle", "top"])[np.digitize(signal, [-1, 1])]


def _frame(n=120):
    """Columns of every kind, each with what may be missing, and targets that depend on categories alone."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "float": rng.normal(size=n),
            "integer": rng.integers(0, 5, n),
            "nullable": pd.array(rng.integers(0, 5, n), dtype="Int64"),
            "constant": 1.0,
            "empty": np.nan,
            "numbers as objects": pd.Series([1.5, None] * (n // 2), dtype=object),
            "text": rng.choice(["a", "b", "c"], n),
            "text as objects": pd.Series(rng.choice(["u", "v"], n), dtype=object),
            "category": pd.Categorical(rng.choice([1, 2, 3], n)),
            "boolean": rng.random(n) < 0.5,
            "nullable boolean": pd.array(rng.random(n) < 0.5, dtype="boolean"),
        }
    )
    y = (frame["text"] == "a") ^ frame["boolean"]
    for step, name in enumerate(["float", "nullable", "text as objects", "category", "nullable boolean"], start=7):
        frame.loc[::step, name] = pd.NA if name.startswith("nullable") else None
    return frame, y.to_numpy()


# ---- scikit-learn's contract ----

REASONS = {
    "check_sample_weight_equivalence_on_dense_data": "parts and minibatches are made of rows: a row of weight 2 is in "
    "one of them, where two rows may be in two",
}
CHECKED = [
    SmoothClip(),
    SmoothClip(dtype=np.float32),
    TabularClassifier(hidden_layer_sizes=(32,), max_iter=64, random_state=0),
    TabularRegressor(hidden_layer_sizes=(32,), max_iter=64, learning_rate_init=0.01, random_state=0),
]


@estimator_checks.parametrize_with_checks(
    CHECKED, expected_failed_checks=lambda estimator: {} if isinstance(estimator, SmoothClip) else REASONS
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("task", TASKS)
def test_a_fitted_preset_can_be_cloned_and_pickled(task):
    X, y = _data(task)
    fitted = tabular(task, **SHORT).fit(X, y)
    expected = fitted.predict(X)
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), expected)
    assert np.array_equal(clone(fitted).fit(X, y).predict(X), expected)
    with pytest.raises(NotFittedError):
        clone(fitted).predict(X)


@pytest.mark.parametrize("task", TASKS)
def test_results_depend_on_random_state_but_not_on_jobs_or_threads(task):
    X, y = _data(task)
    outputs = "predict" if task == "regression" else "predict_proba"

    def outcome(**parameters):
        return getattr(tabular(task, **(SHORT | parameters)).fit(X, y), outputs)(X)

    expected = outcome()
    assert np.array_equal(outcome(), expected)
    assert np.array_equal(outcome(n_jobs=2), expected)
    assert np.array_equal(outcome(n_threads=2), expected)
    assert not np.array_equal(outcome(random_state=1), expected)


def test_tabular_chooses_by_task():
    assert tabular(max_iter=7).get_params() == TabularClassifier(max_iter=7).get_params()
    assert tabular("regression", n_members=3).get_params() == TabularRegressor(n_members=3).get_params()
    with pytest.raises(ValueError, match="task must be 'classification' or 'regression'; got 'ranking'"):
        tabular("ranking")
    with pytest.raises(TypeError, match="epochs"):
        tabular(epochs=3)


def test_presets_are_loaded_when_they_are_asked_for():
    code = "import sys, cymlp; print('sklearn' in sys.modules, cymlp.presets.tabular(), 'sklearn' in sys.modules)"
    assert run_python(code).split() == ["False", "TabularClassifier()", "True"]


# ---- Inputs ----


def test_numbers_are_centred_scaled_and_bent():
    X = np.array([[1.0], [2.0], [4.0], [6.0], [1004.0]])  # quartiles 2, 4, 6
    clip = SmoothClip().fit(X)
    assert (clip.center_, clip.scale_) == (4.0, 0.25)
    z = (X - 4) / 4
    np.testing.assert_allclose(clip.transform(X), z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-15)


def test_where_quartiles_coincide_the_range_scales_and_constants_become_zeros():
    X = np.array([[5.0, 7.0]] * 9 + [[9.0, 7.0]])
    clip = SmoothClip().fit(X)
    assert clip.scale_.tolist() == [2 / 4, 0]
    assert clip.transform([[7.0, 100.0]]).tolist() == [[1 / np.sqrt(1 + 1 / 9), 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_number_is_too_large_or_too_close_to_another(dtype):
    limits = np.finfo(dtype)
    X = np.array([[-limits.max, 0, 1], [limits.max, limits.smallest_subnormal, 1], [0, 0, 1]], dtype)
    Z = SmoothClip().fit(X).transform(np.vstack([X, [[1, limits.max, -limits.max]]]).astype(dtype))
    assert Z.dtype == dtype
    assert np.isfinite(Z).all()
    assert np.abs(Z).max() <= 3
    assert Z[0, 0] < -0.5
    assert Z[1, 0] > 0.5
    assert (Z[:, 1:] == 0).all()
    narrow = SmoothClip(dtype=np.float32).fit(X).transform(X)
    assert narrow.dtype == np.float32
    np.testing.assert_array_equal(narrow, Z[:3].astype(np.float32))


@pytest.mark.parametrize("dtype", ["int32", np.float16, "numbers"])
def test_the_dtype_of_clipped_numbers_is_a_real_one(dtype):
    with pytest.raises((ValueError, TypeError), match=r"dtype|data type"):
        SmoothClip(dtype=dtype).fit([[1.0]])


def test_columns_of_a_frame_are_read_by_what_they_hold():
    frame, _ = _frame()
    inputs = preprocessing.table_inputs().fit(frame)
    numbers = ["float", "integer", "nullable", "constant", "empty", "numbers as objects"]
    missing = [f"missingindicator_{name}" for name in ("float", "nullable", "empty", "numbers as objects")]
    categories = [
        *("text_a", "text_b", "text_c", "text as objects_u", "text as objects_v", "text as objects_None"),
        *("category_1.0", "category_2.0", "category_3.0", "category_nan", "boolean_False", "boolean_True"),
        *("nullable boolean_0.0", "nullable boolean_1.0", "nullable boolean_nan"),
    ]
    assert [*inputs.get_feature_names_out()] == numbers + missing + categories
    Z = inputs.transform(frame)
    assert Z.dtype == np.float32
    assert np.isfinite(Z).all()
    assert (Z[:, numbers.index("constant")] == 0).all()
    assert set(np.unique(Z[:, len(numbers) + len(missing) :])) == {0, 1}


def test_names_of_columns_may_be_numbers():
    frame, _ = _frame()
    columns = frame[["text", "float"]]
    expected = preprocessing.table_inputs().fit_transform(columns)
    assert np.array_equal(preprocessing.table_inputs().fit_transform(columns.set_axis([1, 0], axis=1)), expected)


def test_columns_of_objects_are_read_one_by_one():
    """What becomes of a frame with texts in `to_numpy`, and of lists."""
    frame, y = _frame()
    columns = frame[["float", "text", "boolean"]]
    expected = TabularClassifier(**SHORT).fit(columns, y).predict_proba(columns)
    values = columns.to_numpy(dtype=object)
    assert np.array_equal(TabularClassifier(**SHORT).fit(values, y).predict_proba(values), expected)
    assert np.array_equal(TabularClassifier(**SHORT).fit(values.tolist(), y).predict_proba(values.tolist()), expected)


def test_new_and_missing_values_in_what_is_predicted():
    frame, y = _frame()
    fitted = TabularClassifier(**SHORT).fit(frame, y)
    strange = frame.assign(text="never seen", integer=np.nan, constant=2.0, category=None, empty=5.0)
    assert np.isfinite(fitted.predict_proba(strange)).all()
    assert np.array_equal(fitted.predict_proba(frame[frame.columns]), fitted.predict_proba(frame))


def test_an_identifier_makes_no_more_columns_than_there_may_be():
    names = np.array([f"customer {i}" for i in range(1000)], dtype=object)
    Z = preprocessing.table_inputs().fit_transform(names.reshape(-1, 1))
    assert Z.shape == (1000, preprocessing.MAX_CATEGORIES)
    assert (Z.sum(axis=1) == 1).all()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.DataFrame({"day": pd.date_range("2020-01-01", periods=60)}), "column 'day' holds dates or durations"),
        (np.full((60, 1), np.timedelta64(1, "D")), "column 0 holds dates or durations"),
        (np.full((60, 1), np.inf), "infinity"),
        (np.zeros((61, 1)), "inconsistent numbers of samples"),
        (np.zeros(60), "Expected 2D array"),
    ],
    ids=["dates", "durations", "infinite", "rows", "axes"],
)
def test_what_is_no_table_of_numbers_and_categories_is_refused(task, values, message):
    with pytest.raises(ValueError, match=message):
        tabular(task, **SHORT).fit(values, _data(task)[1])


# ---- Schedule ----


def test_the_schedule_has_four_cycles_each_twice_as_long_as_the_last():
    for start in (0, 1 / 15, 3 / 15, 7 / 15, 1):
        assert coslog4(start) == pytest.approx(0, abs=1e-12)
    for peak in np.sqrt(2) * np.array([1, 2, 4, 8]):
        assert coslog4((peak - 1) / 15) == pytest.approx(1)
    assert all(0 <= coslog4(t) <= 1 for t in np.linspace(0, 1, 1001))


# ---- Networks ----


@pytest.mark.parametrize("task", TASKS)
def test_each_row_is_held_out_once_with_alike_targets_in_all_parts(task, monkeypatch):
    X, y = _data(task)
    parts = []
    fit = presets._fit

    def fit_and_tell(member, inputs, targets, weight, held_out):
        parts.append(held_out)
        assert np.array_equal(weight, np.arange(1, 61))
        return fit(member, inputs, targets, weight, held_out)

    monkeypatch.setattr(presets, "_fit", fit_and_tell)
    fitted = tabular(task, n_members=4, **SHORT).fit(X, y, sample_weight=np.arange(1, 61))
    assert len(fitted.estimators_) == len(parts) == 4
    assert np.array_equal(np.sum(parts, axis=0), np.ones(60))
    if task == "classification":
        counts = np.array([[np.sum(y[part] == label) for label in fitted.classes_] for part in parts])
        assert np.ptp(counts, axis=0).max() <= 1
    else:
        ranks = np.argsort(np.argsort(y))
        assert all(np.array_equal(np.unique(ranks[part] // 4), np.arange(15)) for part in parts)


@pytest.mark.parametrize("task", TASKS)
def test_members_keep_their_best_epoch_and_are_averaged(task):
    X, y = _data(task)
    fitted = tabular(task, **(SHORT | {"max_iter": 30})).fit(X, y)
    assert fitted.n_iter_ == 30
    inputs = fitted.inputs_.transform(X)
    for member in fitted.estimators_:
        assert len(member.validation_scores_) == 30
        assert member.best_validation_score_ == max(member.validation_scores_)
        assert member.network_.dtype == np.float32
    assert len({member.coefs_[0].tobytes() for member in fitted.estimators_}) == 5
    if task == "regression":
        mean = np.mean([member.predict(inputs) for member in fitted.estimators_], axis=0, dtype=np.float64)
        values = np.clip(y.mean() + y.std() * mean, y.min(), y.max())
        np.testing.assert_allclose(fitted.predict(X), values, rtol=1e-12)
    else:
        powers = np.mean([member.predict_proba(inputs) for member in fitted.estimators_], axis=0, dtype=np.float64)
        powers **= 1 / fitted.temperature_
        expected = powers / powers.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(fitted.predict_proba(X), expected, rtol=1e-12)
        assert np.array_equal(fitted.predict(X), fitted.classes_[expected.argmax(axis=1)])


@pytest.mark.parametrize("task", TASKS)
def test_rows_without_weight_might_as_well_not_be_there(task):
    X, y = _data(task)
    weight = np.where(np.arange(60) % 3, 2.0, 0.0)
    X_strange, y_strange = X.copy(), y.copy()
    X_strange[weight == 0] = 1e6
    y_strange[weight == 0] = 1e6
    weighted = tabular(task, **SHORT).fit(X_strange, y_strange, weight)
    fewer = tabular(task, **SHORT).fit(X[weight > 0], y[weight > 0], weight[weight > 0])
    assert np.array_equal(weighted.predict(X), fewer.predict(X))
    with pytest.raises(ValueError, match="at least"):
        tabular(task, **SHORT).fit(X, y, np.zeros(60))


def test_a_class_of_one_row_is_trained_with_by_all():
    X, _ = _data("classification")
    y = np.arange(60) % 2
    y[17] = 5
    fitted = TabularClassifier(**SHORT).fit(X, y)
    assert fitted.predict_proba(X).shape == (60, 3)
    assert all(len(member.classes_) == 3 for member in fitted.estimators_)
    with pytest.raises(ValueError, match=r"at least 2 rows are needed .* n_samples=4 .*, each with a class of its own"):
        TabularClassifier(**SHORT).fit(X[:4], ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="y must have at least 2 classes; got 1 class"):
        TabularClassifier(**SHORT).fit(X, np.zeros(60))


@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_fewer_rows_than_members_make_fewer_members(n):
    X, y = _data("regression")
    assert len(TabularRegressor(**SHORT).fit(X[:n], y[:n]).estimators_) == min(n, 5)


@pytest.mark.parametrize("n_members", [1, 0, 2.0, True, None])
def test_there_are_several_members(n_members):
    with pytest.raises(ValueError, match=f"n_members must be an integer >= 2; got {n_members}"):
        TabularRegressor(n_members=n_members).fit(*_data("regression"))


def test_predictions_keep_within_the_range_of_targets_of_any_size():
    X, y = _data("regression")
    for offset, scale in ((0, 1), (1.7e9, 3600), (-5, 1e30), (3, 0)):
        targets = offset + scale * y
        fitted = TabularRegressor(hidden_layer_sizes=(32,), learning_rate_init=0.01, random_state=0).fit(X, targets)
        values = fitted.predict(100 * X)
        assert targets.min() <= values.min() <= values.max() <= targets.max()
        if scale:  # seconds since 1970 are further apart in float32 than an hour is long
            assert fitted.score(X, targets) > 0.9


def test_several_targets():
    X, y = _data("regression")
    Y = np.column_stack([y, 1000 - 50 * y, X[:, 2]])
    fitted = TabularRegressor(hidden_layer_sizes=(32,), learning_rate_init=0.01, random_state=0).fit(X, Y)
    assert fitted.predict(X).shape == Y.shape
    assert fitted.score(X, Y) > 0.8
    assert fitted.target_range_.shape == (2, 3)


def test_both_engines_agree():
    """Until rounding makes another epoch the best one."""
    X, y = _data("classification")
    ours, oracle = (TabularClassifier(**(SHORT | {"engine": engine})).fit(X, y) for engine in ("compiled", "reference"))
    np.testing.assert_allclose(ours.predict_proba(X), oracle.predict_proba(X), rtol=1e-3)


# ---- Probabilities ----


def test_the_temperature_undoes_a_known_one():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    codes = (rng.random((20_000, 1)) > true.cumsum(axis=1)).sum(axis=1)
    for known in (0.5, 1.0, 4.0):
        powers = true**known
        found = presets._temperature(powers / powers.sum(axis=1, keepdims=True), codes, None)
        assert found == pytest.approx(known, rel=0.05)
        weighted = presets._temperature(powers / powers.sum(axis=1, keepdims=True), codes, np.ones(20_000))
        assert weighted == pytest.approx(found)


def test_certainty_has_bounds():
    """With few rows, all right or all wrong."""
    certain = np.array([[1.0, 0.0]] * 4)
    assert 1 / 20 < presets._temperature(certain * 0.8 + 0.1, np.zeros(4, int), None) < 1
    assert 1 < presets._temperature(certain, np.ones(4, int), None) < 21


def test_probabilities_are_better_than_without_a_temperature():
    X, y = load_wine(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
    fitted = TabularClassifier(max_iter=40, random_state=0).fit(X_train, y_train)
    tempered = log_loss(y_test, fitted.predict_proba(X_test))
    fitted.temperature_ = 1.0
    assert tempered < log_loss(y_test, fitted.predict_proba(X_test))


# ---- Promises ----


@pytest.mark.parametrize(("load", "task", "goal"), [(load_iris, TASKS[0], 0.9), (load_diabetes, TASKS[1], 0.4)])
def test_it_learns_without_preparation(load, task, goal):
    X, y = load(return_X_y=True)
    assert tabular(task, random_state=0).fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > goal


def _plain(task, seed):
    """scikit-learn's default, by ours: the same numbers, sooner."""
    return (cymlp.MLPClassifier if task == "classification" else cymlp.MLPRegressor)(random_state=seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", accuracy.SETS)
def test_it_beats_the_plain_default_or_ties_within_the_standard_error(name):
    ours, plain = accuracy.scores(accuracy.MODELS["tabular preset"], name), accuracy.scores(_plain, name)
    mean, error = accuracy.difference(ours, plain)
    assert mean > -error
    if name == "diabetes":
        assert ours.mean() > 0.4
        assert plain.mean() < 0


def test_the_table_of_accuracies_has_a_row_for_each_set(monkeypatch):
    monkeypatch.setattr(accuracy, "SEEDS", (0,))
    models = {
        "tabular preset": lambda task, seed: tabular(task, **SHORT),
        "plain MLP": accuracy.MODELS["StandardScaler, linear"],
    }
    monkeypatch.setattr(accuracy, "MODELS", models)
    head, rule, *rows = accuracy.table(["iris", "diabetes"])
    assert head == "| set | tabular preset | plain MLP | preset - plain |"
    assert rule == "|---|---:|---:|---:|"
    assert [row.split(" | ")[0] for row in rows] == ["| iris", "| diabetes"]
    assert all(row.count("|") == head.count("|") for row in rows)


@pytest.mark.parametrize("task", TASKS)
def test_a_report_is_that_of_the_member_with_most_findings(task):
    X, y = _data(task)
    model = tabular(task, n_members=2, max_iter=20, learning_rate_init=1e-9, random_state=0)
    with pytest.raises(AttributeError, match=f"this {type(model).__name__} is not fitted yet: it has no health_"):
        _ = model.health_
    report = model.fit(X, y).health_
    assert report is model.estimators_[0].health_
    assert [finding.rule for finding in report.findings] == ["still layers"]
    changed = report.apply(model).model
    assert type(changed) is type(model)
    assert changed.learning_rate_init > 1e-5
    assert model.learning_rate_init == 1e-9
    assert changed.fit(X, y).score(X, y) > model.score(X, y)

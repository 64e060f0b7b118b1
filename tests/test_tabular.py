"""Tables and their encoding: what columns become, what is refused, and the schema that travels in model files."""

import copy
import json
import math

import numpy as np
import pandas as pd
import pytest

from cymlp.tabular import CategoricalColumn, NumericColumn, TabularEncoder, choose_task


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "height": [1.0, 2.0, 3.0, 6.0],
            "count": [4, 4, 4, 4],
            "member": [True, False, True, True],
            "city": ["Rome", "Oslo", "Rome", "Bern"],
            "species": ["b", "a", "b", "a"],
        }
    )


@pytest.fixture
def encoder(frame):
    with pytest.warns(UserWarning, match="'city' has 3 categories in 4 rows"):
        return TabularEncoder.fit(frame, "species")


def test_numbers_are_standardised_and_categories_one_hot(frame, encoder):
    X = encoder.transform(frame)
    assert X.shape == (4, encoder.n_inputs) == (4, 6)
    assert X.dtype == np.float64
    assert X.flags.c_contiguous
    np.testing.assert_array_equal(X[:, 0], (frame["height"] - 3) / math.sqrt(3.5))
    np.testing.assert_array_equal(X[:, 1], 0)  # constant: zeros, not a division by zero
    np.testing.assert_array_equal(X[:, 2], (np.array([1, 0, 1, 1]) - 0.75) / math.sqrt(0.1875))
    np.testing.assert_array_equal(X[:, 3:], [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]])  # Bern, Oslo, Rome
    assert encoder.transform(frame, np.float32).dtype == np.float32


def test_classes_are_sorted_and_come_back(frame, encoder):
    assert encoder.task == "classification"
    y = encoder.encode_target(frame)
    np.testing.assert_array_equal(y, [1, 0, 1, 0])
    assert y.dtype == np.int64
    assert encoder.decode_target(np.eye(2)[y]).tolist() == frame["species"].tolist()


@pytest.mark.parametrize(
    ("values", "kind"),
    [(["x", "y", "x", "y"], "text"), ([3, -1, 3, -1], "integer"), ([True, False, False, True], "boolean")],
)
def test_classes_keep_their_type(values, kind):
    table = {"a": np.arange(4.0), "y": np.array(values)}
    encoder = TabularEncoder.fit(table, "y")
    assert encoder.class_kind == kind
    back = TabularEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert back.decode_target(np.eye(2)[back.encode_target(table)]).tolist() == values
    assert type(back.classes.tolist()[0]) is type(values[0])


def test_numbers_with_names_asked_for_are_classes():
    table = {"a": np.arange(4.0), "y": np.array([0.5, 1.5, 0.5, 1.5])}
    encoder = TabularEncoder.fit(table, "y", "classification")
    np.testing.assert_array_equal(encoder.classes, [0.5, 1.5])
    np.testing.assert_array_equal(encoder.encode_target(table), [0, 1, 0, 1])


def test_regression_target_is_standardised_and_comes_back():
    table = {"a": np.arange(5.0), "y": np.array([1e6, 1e6 + 1, 1e6 + 2, 1e6 + 3, 1e6 + 4])}
    encoder = TabularEncoder.fit(table, "y")
    assert encoder.task == "regression"
    y = encoder.encode_target(table)
    np.testing.assert_array_equal(y, (np.arange(5) - 2) / math.sqrt(2))
    np.testing.assert_array_equal(encoder.decode_target(y[:, None]).round(6), table["y"])
    assert encoder.encode_target(table, np.float32).dtype == np.float32


@pytest.mark.parametrize(
    ("values", "task", "why"),
    [
        (["a", "b"], "classification", "names"),
        (pd.Series([1, 2, 1]).astype("category"), "classification", "names"),
        ([True, False], "classification", "booleans"),
        ([1, 2, 3, 1, 2, 3], "classification", "3 distinct integers"),
        (list(range(20)) * 2, "classification", "20 distinct integers"),
        (list(range(21)) * 2, "regression", "21 distinct integers"),
        ([1, 2, 3, 4], "regression", "4 distinct integers in 4 rows"),
        ([0.0, 1.0, 0.0, 1.0], "regression", "real numbers"),
    ],
)
def test_task_is_decided_by_the_target(values, task, why):
    decided, reason = choose_task({"y": values}, "y")
    assert decided == task
    assert why in reason


def test_statistics_come_from_the_rows_asked_for():
    table = {
        "a": np.array([0.0, 2.0, 100.0]),
        "b": np.array(["x", "x", "z"]),
        "y": np.array([0.0, 4.0, 1000.0]),
    }
    encoder = TabularEncoder.fit(table, "y", rows=[0, 1])
    assert encoder.features == (NumericColumn("a", 1.0, 1.0), CategoricalColumn("b", ("x",)))
    assert (encoder.target_mean, encoder.target_scale) == (2.0, 2.0)
    with pytest.warns(UserWarning, match="'b' has 1 categories that were not in the training data, in 1 row"):
        np.testing.assert_array_equal(encoder.transform(table), [[-1, 1], [1, 1], [99, 0]])


def test_classes_come_from_all_rows():
    table = {"a": np.arange(4.0), "y": np.array(["p", "p", "q", "r"])}
    assert TabularEncoder.fit(table, "y", rows=[0, 1]).classes.tolist() == ["p", "q", "r"]


def test_shared_scale_is_the_root_mean_square_of_deviations():
    table = {"a": np.array([0.0, 2.0]), "b": np.array([0.0, 14.0]), "y": np.array([0.0, 1.0])}
    encoder = TabularEncoder.fit(table, "y", scaling="shared")
    assert [feature.scale for feature in encoder.features] == [5.0, 5.0]  # sqrt((1 + 49) / 2)
    assert [feature.mean for feature in encoder.features] == [1.0, 7.0]


def test_numbers_may_stay_as_they_are():
    table = {"a": np.array([0.0, 2.0]), "b": np.array(["p", "q"]), "y": np.array([30.0, 10.0])}
    encoder = TabularEncoder.fit(table, "y", "regression", scaling="none")
    np.testing.assert_array_equal(encoder.transform(table), [[0, 1, 0], [2, 0, 1]])
    np.testing.assert_array_equal(encoder.encode_target(table), table["y"])
    np.testing.assert_array_equal(encoder.decode_target([[30.0], [10.0]]), table["y"])
    assert TabularEncoder.fit(table, "b", scaling="none").classes.tolist() == ["p", "q"]


def test_missing_values_are_refused_with_every_column_and_count(frame):
    frame.loc[[0, 2], "height"] = np.nan
    frame.loc[1, "city"] = None
    with pytest.raises(
        ValueError, match=r"missing values in 2 column\(s\): height \(2\), city \(1\); .*--missing impute"
    ):
        TabularEncoder.fit(frame, "species")


def test_missing_values_are_imputed_when_asked():
    table = {
        "a": np.array([1.0, np.nan, 3.0, 8.0]),
        "b": np.array(["u", None, "v", "v"], dtype=object),
        "y": np.array([0.0, 1.0, 2.0, 3.0]),
    }
    encoder = TabularEncoder.fit(table, "y", missing="impute")
    numeric, categorical = encoder.features
    assert numeric.fill == 3.0  # the median
    assert categorical.fill == "v"
    X = encoder.transform(table)
    np.testing.assert_array_equal(X[1, 0], (3.0 - numeric.mean) / numeric.scale)
    assert numeric.mean == (1 + 3 + 3 + 8) / 4
    np.testing.assert_array_equal(X[:, 1:], [[1, 0], [0, 1], [0, 1], [0, 1]])
    empty = encoder.transform({"a": [math.nan], "b": [None]})
    np.testing.assert_array_equal(empty, X[1:2])


def test_missing_values_in_the_target_are_always_refused(frame):
    frame.loc[0, "species"] = None
    message = r"^missing values in 1 column\(s\): species \(1\); rows without a target cannot be used; remove them$"
    for missing in ("error", "impute"):
        with pytest.raises(ValueError, match=message):
            TabularEncoder.fit(frame, "species", missing=missing)
    with pytest.raises(ValueError, match=message):
        choose_task(frame, "species")


def test_columns_without_any_value_are_named_together(frame):
    frame = frame.assign(height=math.nan, city=None)
    with pytest.raises(ValueError, match=r"^2 column\(s\) have no values: height, city; leave them out"):
        TabularEncoder.fit(frame, "species", missing="error")
    frame = frame.assign(height=[1.0, 2.0, math.nan, math.nan])
    with pytest.raises(ValueError, match="'height' has no values in the rows to learn from"):
        TabularEncoder.fit(frame.drop(columns="city"), "species", rows=[2, 3], missing="impute")


def test_text_among_numbers_is_shown(frame, encoder):
    with pytest.raises(ValueError, match="'height' must hold numbers; got text such as 'tall'"):
        encoder.transform(frame.assign(height=["1", "2", "tall", "4"]))


def test_prediction_refuses_missing_values_where_training_had_none(frame, encoder):
    frame.loc[2, "height"] = np.nan
    with pytest.raises(ValueError, match=r"height \(1\); the encoding was made without missing='impute'"):
        encoder.transform(frame)


def test_order_of_columns_is_free_and_others_are_not_looked_at(frame, encoder):
    shuffled = frame[["species", "city", "member", "count", "height"]].assign(when=pd.Timestamp("2024-01-01"))
    np.testing.assert_array_equal(encoder.transform(shuffled), encoder.transform(frame))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["height", "city"]), r"2 column\(s\) of the training data are missing: height, city"),
        (lambda t: t.assign(height="tall"), "'height' must hold numbers; got text such as 'tall'"),
        (lambda t: t.assign(height=np.inf), r"infinite values in 1 column\(s\): height \(4\)"),
        (lambda t: t.assign(height=pd.Timestamp("2024-01-01")), "'height' holds dates"),
        (lambda t: t.assign(height=[(1, 2)] * 4), "'height' must hold numbers, booleans or text only; got .* tuple"),
        (lambda t: t.assign(city=[1, "Rome", 2, "Oslo"]), "'city' must hold .*; got values of type int, str"),
    ],
)
def test_transform_refuses(frame, encoder, change, message):
    with pytest.raises(ValueError, match=message):
        encoder.transform(change(frame))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t, {"target": "weight"}, "target must be a column of the table: height, .*; got 'weight'"),
        (lambda t: t, {"missing": "drop"}, "missing must be one of error, impute; got 'drop'"),
        (lambda t: t, {"scaling": "rows"}, "scaling must be one of column, shared, none; got 'rows'"),
        (lambda t: t, {"task": "ranking"}, "task must be one of classification, regression; got 'ranking'"),
        (lambda t: t, {"task": "regression"}, "'species' must hold numbers; got text such as 'b'"),
        (lambda t: t[["species"]], {}, "a column beside the target"),
        (lambda t: t.iloc[:0], {}, "at least one row"),
        (lambda t: t.assign(species="a"), {}, "'species' must have at least two distinct values; all are 'a'"),
        (lambda t: t.assign(height=pd.Timedelta(1)), {}, "'height' holds dates or durations"),
        (
            lambda t: t.assign(height=math.nan),
            {"missing": "impute"},
            r"1 column\(s\) have no values: height; leave them out",
        ),
        (lambda t: t.assign(height=[0, 1, 2, math.inf]), {}, r"infinite values in 1 column\(s\): height \(1\)"),
        (lambda t: t.assign(height=[0, 1, 2, 1e300]), {}, "'height' must have numbers whose squares are finite"),
        (lambda t: pd.concat([t, t], axis=1), {}, "column names must differ; these are repeated: city"),
    ],
)
def test_fit_refuses(frame, change, options, message):
    with pytest.raises(ValueError, match=message):
        TabularEncoder.fit(change(frame.drop(columns="city").assign(city="Rome")), **{"target": "species", **options})


def test_too_many_categories_are_refused():
    names = np.array([f"name {i}" for i in range(1001)])
    with pytest.raises(ValueError, match=r"'name' must have at most 1000 categories; got 1001 .*--ignore"):
        TabularEncoder.fit({"name": names, "y": np.arange(1001.0)}, "y")
    with pytest.raises(ValueError, match="'y' must have at most 1000 classes; got 1001"):
        TabularEncoder.fit({"y": names, "a": np.arange(1001.0)}, "y")


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"same length; got lengths \[2, 3\]"):
        TabularEncoder.fit({"a": np.zeros(2), "y": np.array([0.0, 1.0, 2.0])}, "y")


def test_encode_target_refuses_unknown_classes(encoder):
    with pytest.raises(ValueError, match="target 'species' must be one of a, b; got z"):
        encoder.encode_target({"species": ["a", "z"]})


def test_decode_target_refuses_other_shapes(encoder):
    with pytest.raises(ValueError, match=r"output must have shape \(n, 2\); got \(4, 3\)"):
        encoder.decode_target(np.zeros((4, 3)))


def test_tiny_numbers_do_not_explode():
    table = {"a": np.array([0.0, 1e-300]), "y": np.array([0.0, 1.0])}
    assert np.abs(TabularEncoder.fit(table, "y").transform(table)).max() <= 1


def test_round_trip_through_json_is_exact(frame, encoder):
    frame["value"] = [0.1, 0.2, 0.3, 1 / 3]
    with pytest.warns(UserWarning, match="'city' has 3 categories"):
        regression = TabularEncoder.fit(frame, "value", missing="impute")
    for original in (encoder, regression):
        back = TabularEncoder.from_dict(json.loads(json.dumps(original.to_dict(), allow_nan=False)))
        assert back.to_dict() == original.to_dict()
        np.testing.assert_array_equal(back.transform(frame), original.transform(frame))


def _damages():
    """Paths into a valid dictionary, with values that must not be there."""
    yield from (((key,), value) for key in ("format", "version", "target", "features") for value in (None, "x", 2, []))
    yield from ((("version",), value) for value in (True, 1.0))
    yield from ((("target", "task"), value) for value in (None, "regression", ["classification"]))
    yield from ((("target", "kind"), value) for value in (None, "integer", ["text"], "other"))
    yield from ((("target", "classes"), value) for value in (None, [], ["a"], ["a", "a"], ["a", 1], "ab"))
    yield from ((("target", "name"), value) for value in (None, 3, "height"))
    yield from ((("features", 0, "name"), value) for value in (None, 3, "city", "species"))
    yield from ((("features", 0, "kind"), value) for value in (None, "categorical", "other", []))
    yield from ((("features", 0, "mean"), value) for value in (None, "1", True, math.nan, math.inf))
    yield from ((("features", 0, "scale"), value) for value in (None, 0.0, -1.0, math.nan))
    yield from ((("features", 0, "fill"), value) for value in ("1", math.nan, False))
    yield from ((("features", 3, "categories"), value) for value in (None, [], ["Rome", "Rome"], [1], "Rome"))
    yield from ((("features", 3, "fill"), value) for value in ("Paris", 1, ["Rome"]))


@pytest.mark.parametrize(("path", "value"), list(_damages()))
def test_from_dict_refuses_any_damage(encoder, path, value):
    data = copy.deepcopy(encoder.to_dict())
    *way, last = path
    place = data
    for step in way:
        place = place[step]
    place[last] = value
    with pytest.raises(ValueError, match="encoder"):
        TabularEncoder.from_dict(data)


@pytest.mark.parametrize("way", [(), ("target",), ("features", 0), ("features", 3)])
def test_from_dict_refuses_keys_that_are_missing_or_unknown(encoder, way):
    data = encoder.to_dict()
    place = data
    for step in way:
        place = place[step]
    place["extra"] = 1
    with pytest.raises(ValueError, match="must have the keys"):
        TabularEncoder.from_dict(data)
    del place["extra"]
    place.popitem()
    with pytest.raises(ValueError, match="encoder"):
        TabularEncoder.from_dict(data)


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_from_dict_refuses_what_is_no_dictionary(data):
    with pytest.raises(ValueError, match="encoder must be a dictionary"):
        TabularEncoder.from_dict(data)

"""From named columns to the arrays that a network takes, and back: the preprocessing that travels in a model file."""

import math
import warnings
from dataclasses import asdict, dataclass, replace

import numpy as np

from .tables import check_complete, check_finite, check_names, is_number, read_column, some

__all__ = ["CategoricalColumn", "NumericColumn", "TabularEncoder", "choose_task"]

TASKS = ("classification", "regression")
MISSING = ("error", "impute")
SCALINGS = ("column", "shared", "none")
MAX_CLASSES_OF_INTEGERS = 20  # more distinct whole numbers than this are a quantity, not names
MAX_CATEGORIES = 1000  # one input each: beyond it, a column is an identifier or free text, and no one-hot vector
# What classes are made of: in JSON and in arrays.
_LABELS = {"text": str, "integer": int, "boolean": bool, "real": float}
_LABEL_DTYPES = {"text": object, "integer": np.int64, "boolean": np.bool_, "real": np.float64}
_FORMAT = {"format": "cymlp.tabular", "version": 1}


@dataclass(frozen=True, slots=True)
class NumericColumn:
    """A column of numbers or booleans: x -> (x - mean) / scale; `fill`, if any, stands for a missing value."""

    name: str
    mean: float
    scale: float
    fill: float | None = None
    kind = "numeric"
    width = 1


@dataclass(frozen=True, slots=True)
class CategoricalColumn:
    """A column of texts: one input per category, 1 where it holds and else 0; `fill` stands for a missing value."""

    name: str
    categories: tuple[str, ...]
    fill: str | None = None
    kind = "categorical"

    @property
    def width(self):
        return len(self.categories)


def choose_task(table, target):
    """Classification or regression, by what the target holds.

    Text (and pandas categories), booleans, and at most 20 distinct integers with two rows each on the average are
    classes; other numbers are values.

    Parameters
    ----------
    table : mapping of str to columns
    target : str

    Returns
    -------
    task : {"classification", "regression"}
    why : str
        The reason, as the end of a sentence: "it holds names".

    Raises
    ------
    ValueError
        `target` is not a column, or has missing values.
    """
    check_names(table, target)
    kind, values, _ = _read_target(target, table)
    if kind == "text":
        return "classification", "it holds names"
    if values.dtype.kind == "b":
        return "classification", "it holds booleans"
    if values.dtype.kind == "f":
        return "regression", "it holds real numbers"
    distinct = len(np.unique(values))
    if distinct <= MAX_CLASSES_OF_INTEGERS and 2 * distinct <= len(values):
        return "classification", f"it holds {distinct} distinct integers"
    return "regression", f"it holds {distinct} distinct integers in {len(values)} rows"


class TabularEncoder:
    """Columns to inputs, a target to what a network learns, and a network's output back to classes or values.

    Numbers and booleans are standardised, categories are one-hot encoded, a regression target is standardised too
    (constant columns become zeros).  Made by `fit` or `from_dict`; immutable afterwards.

    Attributes
    ----------
    features : tuple of NumericColumn and CategoricalColumn
        In the order of the inputs they make.
    target : str
    task : {"classification", "regression"}
    classes : ndarray or None
        The classes in the order of the network's outputs; None for regression.
    target_mean, target_scale : float or None
        For regression: value = target_mean + target_scale * output.
    """

    def __init__(self, features, target, task, classes=None, class_kind=None, target_mean=None, target_scale=None):
        self.features = tuple(features)
        self.target = target
        self.task = task
        self.class_kind = class_kind
        self.classes = None if classes is None else _label_array(classes, class_kind)
        self.target_mean = target_mean
        self.target_scale = target_scale

    @property
    def n_inputs(self):
        return sum(feature.width for feature in self.features)

    @property
    def n_outputs(self):
        return 1 if self.classes is None else len(self.classes)

    @property
    def score_name(self):
        return "R²" if self.classes is None else "accuracy"

    @classmethod
    def fit(cls, table, target, task=None, rows=None, missing="error", scaling="column"):
        """Learn the encoding of a table.

        Parameters
        ----------
        table : mapping of str to columns
            A pandas frame, a dictionary of 1-D arrays, ...; all columns of one length.
        target : str
            The column to learn; all others become inputs.
        task : {"classification", "regression"}, optional
            Default: `choose_task`.
        rows : array of int, optional
            Take means, deviations, categories and fills from these rows only, so that held-out rows leave no trace;
            classes are those of all rows.  Default: all.
        missing : {"error", "impute"}
            ``"impute"`` puts the median of a numeric column, or the most frequent category, in place of a missing
            value.
        scaling : {"column", "shared", "none"}
            Divide each numeric column by its own standard deviation, or all by one (the root mean square of theirs):
            right for columns of one unit, such as pixels, where a column that hardly varies says little.  ``"none"``
            leaves numbers as they are, a target's, too: to see what that does.

        Raises
        ------
        ValueError
            Missing or infinite values (every column with its count), dates, mixed types, a column without values, a
            constant target, more than 1000 categories, an unknown `task`, `missing` or `scaling`.
        """
        for argument, value, allowed in (("missing", missing, MISSING), ("scaling", scaling, SCALINGS)):
            if value not in allowed:
                raise ValueError(f"{argument} must be one of {', '.join(allowed)}; got {value!r}")
        chosen, _ = choose_task(table, target)
        task = task or chosen
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}; got {task!r}")
        columns = {name: read_column(name, table[name]) for name in table}
        lengths = {len(c.values) for c in columns.values()}
        if len(lengths) > 1:
            raise ValueError(f"all columns must have the same length; got lengths {sorted(lengths)}")
        n_rows = lengths.pop()
        if n_rows == 0:
            raise ValueError("table must have at least one row; got 0")
        if len(columns) < 2:
            raise ValueError(f"table must have a column beside the target {target!r}")
        check_finite(columns)
        empty = [name for name, column in columns.items() if column.missing.all()]
        if empty:
            raise ValueError(f"{len(empty)} column(s) have no values: {some(empty)}; leave them out (--ignore)")
        if missing == "error":
            check_complete(columns, "remove them, or fill them in with missing='impute' (--missing impute)")
        goal = columns.pop(target)
        rows = np.arange(n_rows) if rows is None else np.asarray(rows)
        features = [_fit_feature(name, c, rows, missing == "impute") for name, c in columns.items()]
        learned = _fit_target(target, goal, task, rows)
        if scaling == "shared":
            features = _share_scale(features)
        elif scaling == "none":
            features = [replace(one, mean=0.0, scale=1.0) if one.kind == "numeric" else one for one in features]
            learned |= {"target_mean": 0.0, "target_scale": 1.0} if task == "regression" else {}
        return cls(features, str(target), task, **learned)

    def transform(self, table, dtype=np.float64):
        """The inputs of a network.

        Parameters
        ----------
        table : mapping of str to columns
            With the columns that were there at `fit`, in any order; others are not looked at.
        dtype : dtype, default float64

        Returns
        -------
        X : ndarray of shape (n_rows, n_inputs), C-contiguous

        Raises
        ------
        ValueError
            A column is missing or of another kind than at `fit`; a value is infinite, or missing where `fit` did not
            impute.

        Warns
        -----
        UserWarning
            A category was not there at `fit`: all its inputs are zero.
        """
        check_names(table)
        present = set(table)
        absent = [feature.name for feature in self.features if feature.name not in present]
        if absent:
            raise ValueError(f"{len(absent)} column(s) of the training data are missing: {some(absent)}")
        columns = {feature.name: read_column(feature.name, table[feature.name]) for feature in self.features}
        check_finite(columns)
        without_fill = {feature.name: columns[feature.name] for feature in self.features if feature.fill is None}
        check_complete(without_fill, "the encoding was made without missing='impute' (--missing impute)")
        lengths = {len(c.values) for c in columns.values()}
        if len(lengths) > 1:
            raise ValueError(f"all columns must have the same length; got lengths {sorted(lengths)}")
        inputs = np.zeros((self.n_inputs, lengths.pop()), dtype=dtype)  # an input per row: columns are written whole
        start = 0
        for feature in self.features:
            block = inputs[start : start + feature.width]
            encode = _encode_numeric if feature.kind == "numeric" else _encode_categorical
            encode(feature, columns[feature.name], block)
            start += feature.width
        return np.ascontiguousarray(inputs.T)

    def encode_target(self, table, dtype=np.float64):
        """What the network learns: class numbers, int64 of shape (n_rows,), or standardised values of `dtype`,
        (n_rows,).

        Raises ValueError for a class that `fit` has not seen, for text where numbers are needed, and for missing
        values.
        """
        check_names(table, self.target)
        column = _read_target(self.target, table)
        check_finite({self.target: column})
        if self.task == "regression":
            values = _numbers(self.target, column)
            return ((values - self.target_mean) / self.target_scale).astype(dtype)
        index = {label: i for i, label in enumerate(self.classes.tolist())}
        labels = _labels(self.target, column, self.class_kind)
        unknown = sorted(set(labels) - set(index))
        if unknown:
            raise ValueError(f"target {self.target!r} must be one of {some(self.classes)}; got {some(unknown)}")
        return np.array([index[label] for label in labels], dtype=np.int64)

    def decode_target(self, output):
        """From output (n_rows, n_outputs): classes of the largest output, or values in the target's unit, (n_rows,)."""
        output = np.asarray(output)
        if output.ndim != 2 or output.shape[1] != self.n_outputs:
            raise ValueError(f"output must have shape (n, {self.n_outputs}); got {output.shape}")
        if self.classes is None:
            return self.target_mean + self.target_scale * output[:, 0].astype(np.float64)
        return self.classes[output.argmax(axis=1)]

    def to_dict(self):
        """All of the encoding as a dictionary of strings, numbers and lists: what `from_dict` takes, ready for JSON."""
        target = {"name": self.target, "task": self.task}
        if self.classes is None:
            target |= {"mean": self.target_mean, "scale": self.target_scale}
        else:
            target |= {"kind": self.class_kind, "classes": self.classes.tolist()}
        features = []
        for feature in self.features:
            entry = {"kind": feature.kind, **asdict(feature)}
            features.append({key: list(value) if isinstance(value, tuple) else value for key, value in entry.items()})
        return {**_FORMAT, "target": target, "features": features}

    @classmethod
    def from_dict(cls, data):
        """The encoder that `to_dict` described; raises ValueError naming the place for what it cannot have written."""
        _keys("encoder", data, {*_FORMAT, "target", "features"})
        for key, value in _FORMAT.items():
            if type(data[key]) is not type(value) or data[key] != value:
                raise ValueError(f"encoder: {key} must be {value!r}; got {data[key]!r}")
        target = data["target"]
        _require("encoder: target", isinstance(target, dict), "a dictionary", target)
        task = target.get("task")
        _require("encoder: target.task", task in TASKS, f"one of {', '.join(TASKS)}", task)
        if task == "regression":
            _keys("encoder: target", target, {"name", "task", "mean", "scale"})
            _number("encoder: target.mean", target["mean"])
            _number("encoder: target.scale", target["scale"], positive=True)
            learned = {"target_mean": target["mean"], "target_scale": target["scale"]}
        else:
            _keys("encoder: target", target, {"name", "task", "kind", "classes"})
            kind = target["kind"]
            _require(
                "encoder: target.kind", isinstance(kind, str) and kind in _LABELS, f"one of {', '.join(_LABELS)}", kind
            )
            _distinct("encoder: target.classes", target["classes"], _LABELS[kind], at_least=2)
            learned = {"classes": target["classes"], "class_kind": kind}
        _require(
            "encoder: features", isinstance(data["features"], list) and data["features"], "a list", data["features"]
        )
        features = [_feature_from(f"encoder: features[{i}]", item) for i, item in enumerate(data["features"])]
        _distinct("encoder: names of columns", [target["name"], *(feature.name for feature in features)], str)
        return cls(features, target["name"], task, **learned)


def _read_target(name, table):
    """The target's `Column`, complete: no value can be put in the place of one that is missing."""
    column = read_column(name, table[name])
    check_complete({name: column}, "rows without a target cannot be used; remove them")
    return column


def _fit_feature(name, column, rows, impute):
    kind, values, missing = column
    values = values[rows][~missing[rows]]
    if len(values) == 0:
        raise ValueError(f"column {name!r} has no values in the rows to learn from; leave it out (--ignore)")
    if kind == "numeric":
        values = values.astype(np.float64)
        fill = float(np.median(values)) if impute else None
        if impute:  # what the network will see: fills count, as they do in transform
            values = np.concatenate([values, np.full(len(rows) - len(values), fill)])
        mean, scale = _mean_and_scale(name, values)
        return NumericColumn(str(name), mean, scale, fill)
    categories, counts = np.unique(values, return_counts=True)
    if len(categories) > MAX_CATEGORIES:
        raise ValueError(
            f"column {name!r} must have at most {MAX_CATEGORIES} categories; got {len(categories)} in {len(rows)} "
            f"rows: if it holds names or free text, leave it out (--ignore)"
        )
    if 2 * len(categories) > len(rows) > 2:
        warnings.warn(
            f"column {name!r} has {len(categories)} categories in {len(rows)} rows: names or free text teach nothing "
            f"and are better left out (--ignore)",
            stacklevel=3,
        )
    fill = str(categories[counts.argmax()]) if impute else None
    return CategoricalColumn(str(name), tuple(categories.tolist()), fill)


def _mean_and_scale(name, values):
    if values.min() == values.max():  # the deviation of equal numbers may come out as a rounding error instead of zero
        return float(values[0]), 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = float(values.mean()), float(values.std())
    if not (math.isfinite(mean) and math.isfinite(scale)):
        raise ValueError(f"column {name!r} must have numbers whose squares are finite; got {np.abs(values).max():g}")
    return mean, scale if scale > 0 else 1.0  # numbers so small that their squares vanish


def _share_scale(features):
    scales = [feature.scale for feature in features if feature.kind == "numeric"]
    if not scales:
        return features
    shared = math.sqrt(sum(scale**2 for scale in scales) / len(scales))
    return [replace(feature, scale=shared) if feature.kind == "numeric" else feature for feature in features]


def _fit_target(name, column, task, rows):
    kind, values, _ = column
    if task == "regression":
        mean, scale = _mean_and_scale(name, _numbers(name, column)[rows])
        learned = {"target_mean": mean, "target_scale": scale}
        distinct = len(np.unique(values))
    else:
        class_kind = "text" if kind == "text" else {"b": "boolean", "f": "real"}.get(values.dtype.kind, "integer")
        classes = sorted(set(_labels(name, column, class_kind)))
        learned = {"classes": classes, "class_kind": class_kind}
        distinct = len(classes)
        if distinct > MAX_CATEGORIES:
            raise ValueError(
                f"target {name!r} must have at most {MAX_CATEGORIES} classes; got {distinct}: is it a regression?"
            )
    if distinct < 2:
        raise ValueError(f"target {name!r} must have at least two distinct values; all are {values[:1].tolist()[0]!r}")
    return learned


def _numbers(name, column):
    if column.kind != "numeric":
        texts = column.values[~column.missing].tolist()
        example = next((text for text in texts if not is_number(text)), texts[0])
        raise ValueError(f"column {name!r} must hold numbers; got text such as {example!r}")
    return column.values.astype(np.float64)


def _labels(name, column, class_kind):
    """The classes of a complete column as Python objects of one type; text where the encoder has learned texts."""
    values = column.values.tolist()
    if class_kind == "text":
        return [value if isinstance(value, str) else str(value) for value in values]
    if column.kind == "text":
        raise ValueError(f"target {name!r} must hold numbers or booleans; got text such as {values[0]!r}")
    kind = _LABELS[class_kind]
    return [kind(value) if kind(value) == value else value for value in values]


def _label_array(classes, class_kind):
    array = np.empty(len(classes), dtype=_LABEL_DTYPES[class_kind])
    array[:] = classes
    return array


def _encode_numeric(feature, column, out):
    values = _numbers(feature.name, column) if not column.missing.all() else np.full(len(column.values), np.nan)
    if feature.fill is not None:
        values = np.where(column.missing, feature.fill, values)
    out[0] = (values - feature.mean) / feature.scale


def _encode_categorical(feature, column, out):
    index = {category: i for i, category in enumerate(feature.categories)}
    labels = [
        feature.fill if empty else str(value)
        for value, empty in zip(column.values.tolist(), column.missing, strict=True)
    ]
    codes = np.array([index.get(label, -1) for label in labels], dtype=np.intp)
    known = np.flatnonzero(codes >= 0)
    out[codes[known], known] = 1
    unknown = sorted(set(labels) - set(index))
    if unknown:
        warnings.warn(
            f"column {feature.name!r} has {len(unknown)} categories that were not in the training data, in "
            f"{len(labels) - len(known)} row(s): {some(unknown, 5)}; their inputs are zero",
            stacklevel=3,
        )


def _require(place, condition, expected, got):
    if not condition:
        raise ValueError(f"{place} must be {expected}; got {got!r}")


def _keys(place, data, keys):
    _require(place, isinstance(data, dict), "a dictionary", data)
    if set(data) != keys:
        raise ValueError(
            f"{place} must have the keys {', '.join(sorted(keys))}; got {', '.join(sorted(map(str, data)))}"
        )


def _number(place, value, positive=False):
    finite = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    _require(place, finite and (value > 0 or not positive), "a finite number" + (" > 0" if positive else ""), value)


def _distinct(place, values, kind, at_least=1):
    listed = isinstance(values, (list, tuple)) and all(type(value) is kind for value in values)
    _require(place, listed and len(values) >= at_least, f"a list of at least {at_least} {kind.__name__}", values)
    if kind is float:
        _require(place, all(map(math.isfinite, values)), "finite", values)
    if len(set(values)) < len(values):
        raise ValueError(f"{place} must differ; got {values!r}")


def _feature_from(place, data):
    _require(place, isinstance(data, dict), "a dictionary", data)
    if data.get("kind") == "numeric":
        _keys(place, data, {"kind", "name", "mean", "scale", "fill"})
        _number(f"{place}.mean", data["mean"])
        _number(f"{place}.scale", data["scale"], positive=True)
        if data["fill"] is not None:
            _number(f"{place}.fill", data["fill"])
        return NumericColumn(data["name"], data["mean"], data["scale"], data["fill"])
    _keys(place, data, {"kind", "name", "categories", "fill"})
    _require(f"{place}.kind", data["kind"] == "categorical", "numeric or categorical", data["kind"])
    _distinct(f"{place}.categories", data["categories"], str)
    _require(f"{place}.fill", data["fill"] is None or data["fill"] in data["categories"], "a category", data["fill"])
    return CategoricalColumn(data["name"], tuple(data["categories"]), data["fill"])

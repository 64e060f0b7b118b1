"""Tables: what a column holds, whether it is complete, and reading them from files.

A table is anything that gives its columns by name (a pandas frame, a dictionary of arrays).  Only ``read_table`` needs
more than NumPy: pandas, and pyarrow for parquet files.
"""

import contextlib
import csv
import math
import re
import warnings
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = [
    *("Column", "Table", "check_complete", "check_file", "check_finite", "check_names", "is_number", "read_column"),
    *("read_table", "some"),
]

_NUMBERS = (bool, int, float, Decimal, np.bool_, np.integer, np.floating)
_MAX_LENGTH = 60  # of a name or a category in a message
_SUFFIXES = (".csv", ".tsv", ".parquet", ".npz")


_SPACES = " '\u00a0\u202f"  # between thousands: French, Swiss, and typesetters' numbers


def _written_number(point, group):
    """A number with `point` before its fraction; between thousands `group`, a space, or nothing."""
    whole = rf"(?:[1-9]\d{{0,2}}(?:[{group}{_SPACES}]\d{{3}})+|\d+)"
    return re.compile(rf"[+-]?(?:{whole}(?:[{point}]\d*)?|[{point}]\d+)(?:[eE][+-]?\d+)?", re.ASCII)


_WITH_COMMA, _WITH_POINT = _written_number(",", "."), _written_number(".", ",")
_DATE = re.compile(r"\d{4}([-/.])\d{1,2}\1\d{1,2}([T ].*)?|\d{1,2}([-/.])\d{1,2}\3(\d{2}|\d{4})( .*)?", re.ASCII)


class Column(NamedTuple):
    """The content of a column of n rows, whatever held it.

    Attributes
    ----------
    kind : {"numeric", "text"}
    values : ndarray (n,)
        Numbers (booleans and integers stay what they are), or an object array of str; meaningless where missing.
    missing : ndarray (n,) of bool
    """

    kind: str
    values: np.ndarray
    missing: np.ndarray


def read_column(name, column):
    """A `Column` from an array, a list or a pandas series; a pandas categorical is text, whatever its categories are.

    Raises ValueError for dates, and for anything else that is not numbers, booleans or text.
    """
    array = np.asarray(column)
    if array.ndim != 1:
        raise ValueError(f"column {name!r} must be one-dimensional; got shape {array.shape}")
    if array.dtype.kind in "mM":
        raise ValueError(
            f"column {name!r} holds dates or durations ({array.dtype}); turn it into numbers or leave it out"
        )
    if hasattr(column, "isna"):
        missing = np.asarray(column.isna(), dtype=bool)
    elif array.dtype.kind == "f":
        missing = np.isnan(array)
    elif array.dtype.kind == "O":
        missing = np.array([value is None or value != value for value in array], dtype=bool)
    else:
        missing = np.zeros(len(array), dtype=bool)
    categorical = type(getattr(column, "dtype", None)).__name__ == "CategoricalDtype"
    if array.dtype.kind in "biuf" and not categorical:
        return Column("numeric", array, missing)
    present = array[~missing].tolist()
    if categorical:
        present = [str(value) for value in present]
    types = set(map(type, present))
    if all(issubclass(kind, _NUMBERS) for kind in types):
        if types in ({bool}, {int}) and not missing.any():
            whole = np.array(present)
            if whole.dtype.kind in "biu":  # not for integers beyond 64 bits
                return Column("numeric", whole, missing)
        values = np.full(len(array), np.nan)
        values[~missing] = [float(value) for value in present]
        return Column("numeric", values, missing)
    if all(issubclass(kind, str) for kind in types):
        values = np.full(len(array), None, dtype=object)
        values[~missing] = present
        return Column("text", values, missing)
    names = ", ".join(sorted(kind.__name__ for kind in types))
    raise ValueError(f"column {name!r} must hold numbers, booleans or text only; got values of type {names}")


def check_names(table, target=None):
    """Raise ValueError where names of columns are repeated, or the target is not among them."""
    names = list(table)
    repeated = sorted({str(name) for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise ValueError(f"column names must differ; these are repeated: {', '.join(repeated)}")
    if target is not None and target not in names:
        raise ValueError(f"target must be a column of the table: {some(names) or 'it has none'}; got {target!r}")


def some(names, limit=20):
    """The first names in one line, long ones cut, and how many there are besides."""
    names = list(names)
    shown = [" ".join(str(name).splitlines()) for name in names[:limit]]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name if len(name) <= _MAX_LENGTH else f"{name[:_MAX_LENGTH]}..." for name in shown) + more


def is_number(text):
    """Whether a text is a number as a table writes it, "1.5" or "-2e3"."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # between digits of Python's numbers only


def check_complete(columns, hint):
    """Raise one ValueError that lists every column with missing values, and how many; `hint` says what to do."""
    gaps = [f"{name} ({count})" for name, c in columns.items() if (count := int(c.missing.sum()))]
    if gaps:
        raise ValueError(f"missing values in {len(gaps)} column(s): {some(gaps)}; {hint}")


def check_finite(columns):
    """Raise one ValueError that lists every column with infinite values, and how many."""
    bad = []
    for name, (_, values, missing) in columns.items():
        if values.dtype.kind == "f" and (count := int(np.sum(~np.isfinite(values) & ~missing))):
            bad.append(f"{name} ({count})")
    if bad:
        raise ValueError(f"infinite values in {len(bad)} column(s): {some(bad)}; numbers must be finite")


class Table(NamedTuple):
    """What a file holds: columns by name, and whether they are pixels (8-bit numbers), which share a unit."""

    columns: dict
    pixels: bool = False


def check_file(path):
    """Raise ValueError for a folder, and for a file that is no table by its suffix; gives the suffix."""
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; give a file that ends in {', '.join(_SUFFIXES)}")
    if suffix not in _SUFFIXES:
        raise ValueError(f"file must end in .csv, .tsv, .parquet or .npz; got {path.name!r}")
    return suffix


def read_table(path, ignore=(), encoder=None):
    """The columns of a .csv, .tsv, .parquet or .npz file.

    A .csv or .tsv file is UTF-8 text with a header, separated by the comma, semicolon or tab that cuts the header into
    most names.  With another separator than the comma, columns with decimal commas (1.234,5) become numbers.

    Parameters
    ----------
    path : path
        In .npz files (read without pickle) one-dimensional arrays are columns, and an array ``X`` with more dimensions
        becomes the columns ``X[0]``, ``X[1]``, ...: first axis rows, the others flattened.
    ignore : collection of str
        Columns or arrays to leave out; each must be there.
    encoder : TabularEncoder, optional
        Where given, the file is read for prediction: columns that were text in the training data are read as text, and
        arrays of an .npz file that the encoder does not need are not read.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        Damaged content, an unknown suffix, repeated names of columns, numbers whose commas could mean two things,
        unequal lengths of arrays, a name in `ignore` that is not there, no rows to learn from.
    OSError
        The file cannot be opened.
    ImportError
        A parquet file, and pyarrow is not installed.

    Warns
    -----
    UserWarning
        Columns had decimal commas; for training also: a column has no name, holds dates, or mostly numbers.
    """
    path = Path(path)
    suffix = check_file(path)
    try:
        table = _read_npz(path, ignore, encoder) if suffix == ".npz" else _read_frame(path, suffix, ignore, encoder)
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # parsers raise what they like on damaged files
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read {path}: {first_line}") from error
    if encoder is None and any(len(column) == 0 for column in table.columns.values()):
        raise ValueError(f"{path} has no rows to learn from")
    return table


def _check_ignored(names, ignore):
    absent = [name for name in ignore if name not in names]
    if absent:
        raise ValueError(f"there is no {some(absent)} to ignore; the file has {some(names)}")


def _read_frame(path, suffix, ignore, encoder):
    import pandas as pd

    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ImportError('reading .parquet files needs pyarrow: pip install "cymlp[parquet]"') from None
        frame = pd.read_parquet(path, engine="pyarrow")
        frame.columns = [str(name) for name in frame.columns]
        check_names(frame)
        _check_ignored(list(frame), ignore)
        return Table({name: frame[name] for name in frame if name not in ignore})
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _read_text(file, suffix, ignore, encoder)
    except UnicodeDecodeError as error:
        raise ValueError(f"it must be UTF-8 text; got byte {error.object[error.start]:#04x}") from error


def _read_text(file, suffix, ignore, encoder):
    import pandas as pd

    separator, header = _read_header(file, "\t;," if suffix == ".tsv" else ",;\t")
    names = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
    check_names(names)  # here, as pandas would rename a repeated column, and a target's copy would give it away
    _check_ignored(names, ignore)
    codes = [feature.name for feature in encoder.features if feature.kind == "categorical"] if encoder else []
    form = {"sep": separator, "header": 0, "names": names, "index_col": False, "skipinitialspace": True}
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):  # where numbers may be off in the last bit
        form["float_precision"] = "round_trip"

    def read(**options):
        file.seek(0)
        return pd.read_csv(file, **form, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would be cut
        frame = read(dtype=dict.fromkeys(codes, "str"), low_memory=False)
    unnamed = [name for name, given in zip(names, header, strict=True) if not given]
    frame = frame.drop(columns=[name for name in unnamed if frame[name].isna().all()])  # separators at ends of lines
    frame = frame.drop(columns=list(ignore), errors="ignore")
    if encoder is None:
        for name in frame.columns.intersection(unnamed, sort=False):
            _warn(f"a column without a name is called {name!r}; if it numbers the rows, leave it out (--ignore)")
        looked_at = list(frame)
    else:
        looked_at = [item.name for item in encoder.features if item.kind == "numeric" and item.name in frame]
    numbers, commas = _numbers_in_text(frame[looked_at], separator, training=encoder is None)
    if commas:
        floats = [name for name in looked_at if frame[name].dtype.kind == "f"]
        raw = read(usecols=floats, dtype="str")  # as they were written: 1.234 beside a 0,5 may be meant as 1234
        points = [name for name in floats if raw[name].str.contains(".", regex=False, na=False).any()]
        if points:
            raise ValueError(
                f"numbers must have decimal commas or decimal points; got commas in {some(commas)}, and points in "
                f"{some(points)}: write them one way, or leave columns out (--ignore)"
            )
        _warn(f"decimal commas in {len(commas)} column(s): {some(commas)}")
    return Table({name: numbers.get(name, frame[name]) for name in frame})


def _numbers_in_text(frame, separator, training):
    """The numbers that pandas took for text, by name of column; and the names of those with decimal commas."""
    import pandas as pd

    numbers, commas = {}, []
    for name, column in frame.items():
        if pd.api.types.infer_dtype(column, skipna=True) != "string":
            continue
        texts = column.dropna().str.strip()
        if all(map(is_number, texts)):  # integers beyond 64 bits, to pandas before 3
            numbers[name] = texts.astype(np.float64).reindex(column.index)
        elif (values := _numbers_with_commas(name, texts, separator)) is not None:
            numbers[name] = values.reindex(column.index)
            commas.append(name)
        elif training:
            _warn_of_text(name, texts)
    return numbers, commas


def _read_header(file, separators):
    """The separator that finds most names in the first record that is not blank, and these names."""
    headers = {}
    for separator in separators:
        file.seek(0)
        records = csv.reader(file, delimiter=separator, skipinitialspace=True)
        with contextlib.suppress(csv.Error):  # a long header without this separator is a longer field than csv reads
            record = next((record for record in records if len(record) > 1 or "".join(record).strip()), [])
            headers[separator] = [name.strip() for name in record]
    separator = max(headers, key=lambda candidate: len(headers[candidate]), default=None)
    if separator is None:
        raise ValueError(f"a name in the header is longer than {csv.field_size_limit()} characters")
    if not headers[separator]:
        raise ValueError("the file is empty")
    return separator, headers[separator]


def _numbers_with_commas(name, texts, separator):
    """The numbers of a text column whose values all are numbers, some with commas; None for other columns.

    A comma is taken for a decimal one where it does not separate columns.  Points and spaces are then between
    thousands, which is certain only where a value has both: 1.234 beside 5,5 may be meant either way.
    """
    if separator != "," and not texts.str.contains(rf"[._{_SPACES}]").any():
        with contextlib.suppress(ValueError):  # the common case, without a loop in Python
            return texts.str.replace(",", ".", regex=False).astype(np.float64)
    distinct = texts.unique().tolist()
    if not all(_WITH_COMMA.fullmatch(text) or _WITH_POINT.fullmatch(text) for text in distinct):
        return None
    commas = [text for text in distinct if "," in text]
    groups = [text for text in distinct if any(mark in text for mark in "." + _SPACES)]
    certain = commas and (not groups or any("," in text for text in groups))
    if separator == "," or not certain or not all(map(_WITH_COMMA.fullmatch, distinct)):
        examples = " and ".join(dict.fromkeys(map(repr, [*commas[:1], *groups[:1]])))
        raise ValueError(
            f"column {name!r} holds numbers such as {examples}, which can be read in two ways: write them as 1234.5, "
            f"or leave the column out (--ignore)"
        )
    numbers = {text: float(re.sub(rf"[.{_SPACES}]", "", text).replace(",", ".")) for text in distinct}
    return texts.map(numbers).astype(np.float64)


def _warn_of_text(name, texts):
    """Tell of a column that is text, and was probably not meant so."""
    counts = texts.value_counts(sort=False)
    others = [text for text in counts.index if not is_number(text)]
    n_others = int(counts[others].sum())
    if all(map(_DATE.fullmatch, counts.index)):
        _warn(f"column {name!r} holds dates, read as categories; turn it into numbers or leave it out (--ignore)")
    elif 2 * n_others < len(texts):
        _warn(
            f"column {name!r} is read as categories, as {n_others} of its {len(texts)} values are no numbers: "
            f"{some(others, 5)}"
        )


def _warn(message):
    warnings.warn(message, stacklevel=6)


def _load_arrays(file):
    arrays = np.load(file, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError(f"it must hold named arrays, as np.savez writes; got one of shape {arrays.shape}")
    if not arrays.files:
        raise ValueError("it holds no arrays")
    return arrays


def _read_npz(path, ignore, encoder):
    columns, lengths, eight_bit = [], {}, []
    with open(path, "rb") as file, _load_arrays(file) as arrays:
        _check_ignored(arrays.files, ignore)
        wanted = [name for name in arrays.files if name not in ignore]
        if encoder is not None:
            used = {feature.name for feature in encoder.features}
            wanted = [name for name in wanted if name in used or f"{name}[0]" in used]
        for name in wanted:
            array = arrays[name]
            if array.ndim == 0:
                raise ValueError(f"array {name!r} must have rows; got a single number (leave it out with --ignore)")
            lengths[name] = len(array)
            if array.ndim == 1:
                columns.append((name, np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array))
                continue
            width = math.prod(array.shape[1:])
            if width == 0:
                raise ValueError(f"array {name!r} must have numbers in its rows; got shape {array.shape}")
            eight_bit.append(array.dtype == np.uint8)
            flat = array.reshape(len(array), width)
            columns += [(f"{name}[{i}]", flat[:, i]) for i in range(width)]
    check_names([name for name, _ in columns])
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} ({length})" for name, length in lengths.items())
        raise ValueError(f"arrays must have the same number of rows: {told}; leave some out with --ignore")
    return Table(dict(columns), pixels=bool(eight_bit) and all(eight_bit))

"""Tables: what a column holds, whether it is complete, and reading them from files.

A table is anything that gives its columns by name (a pandas frame, a dictionary of arrays).  Only ``read_table`` needs
more than NumPy: pandas, and pyarrow for parquet files.
"""

import warnings
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Column", "Table", "check_complete", "check_finite", "check_names", "read_column", "read_table", "some"]


_NUMBERS = (bool, int, float, Decimal, np.bool_, np.integer, np.floating)


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
            return Column("numeric", np.array(present), missing)
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
        raise ValueError(f"target must be a column of the table: {some(names)}; got {target!r}")


def some(names, limit=20):
    """The first names in one line, and how many there are besides."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


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


def read_table(path, ignore=(), encoder=None):
    """The columns of a .csv, .tsv, .parquet or .npz file.

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
        Damaged content, an unknown suffix, unequal lengths of arrays, a name in `ignore` that is not there.
    OSError
        The file cannot be opened.
    ImportError
        A parquet file, and pyarrow is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet", ".npz"):
        raise ValueError(f"file must end in .csv, .tsv, .parquet or .npz; got {path.name!r}")
    try:
        return _read_npz(path, ignore, encoder) if suffix == ".npz" else _read_frame(path, suffix, ignore, encoder)
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # parsers raise what they like on damaged files
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read {path}: {first_line}") from error


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
    else:
        with open(path, encoding="utf-8-sig") as file:
            header = file.readline()
        texts = [feature.name for feature in encoder.features if feature.kind == "categorical"] if encoder else []
        separator = max(",;\t", key=header.count)  # spreadsheets write ';' where the comma is the decimal point
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would be cut
            frame = pd.read_csv(
                path,
                sep=separator,
                dtype=dict.fromkeys(texts, "str"),
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
            )
    frame.columns = [str(name) for name in frame.columns]
    check_names(frame)
    _check_ignored(list(frame), ignore)
    return Table({name: frame[name] for name in frame if name not in ignore})


def _read_npz(path, ignore, encoder):
    columns, lengths, eight_bit = {}, {}, []
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
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
                columns[name] = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
            else:
                eight_bit.append(array.dtype == np.uint8)
                flat = array.reshape(len(array), -1)
                columns |= {f"{name}[{i}]": flat[:, i] for i in range(flat.shape[1])}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} ({length})" for name, length in lengths.items())
        raise ValueError(f"arrays must have the same number of rows: {told}; leave some out with --ignore")
    return Table(columns, pixels=bool(eight_bit) and all(eight_bit))

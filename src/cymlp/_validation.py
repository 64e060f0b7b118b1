"""Checks of what users hand in, made once, at the boundary: engines below see only finite arrays of the right kind.

Every function returns something checked or raises an error that names the argument, what came and what was expected.
"""

import math
import operator

import numpy as np

__all__ = [
    "as_count",
    "as_generator",
    "as_list",
    "as_matrix",
    "as_native",
    "as_output",
    "as_real_array",
    "as_sample_weight",
    "as_targets",
    "as_vector",
    "check_finite",
    "check_target_shape",
    "is_finite",
]

# Up to here a dot product of the array with itself is the cheapest reduction that NaN and infinity cannot leave finite.
# Beyond 10000 elements OpenBLAS would start threads for it, whose idle spinning disturbs the engine's own.
_DOT_LIMIT = 8192

# Elements looked at in one go where a bad value is known to be somewhere: bounds the temporary that np.isfinite makes.
_SCAN_LENGTH = 65536

# How far from 1 a row of probabilities may sum: float16 probabilities of a thousand classes are about this far off.
_PROBABILITY_SLACK = 1e-3


def as_count(value, name, least=1):
    """`value` as an int, at least `least`; TypeError for anything but an integer (bool is none), else ValueError."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer >= {least}; got {value!r}")
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer >= {least}; got {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be an integer >= {least}; got {count}")
    return count


def as_generator(random_state):
    """The numpy Generator that `random_state` means: None, an int >= 0, a SeedSequence, or a Generator (not copied)."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    if random_state is None or isinstance(random_state, np.random.SeedSequence):
        return np.random.default_rng(random_state)
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        return np.random.default_rng(as_count(random_state, "random_state", 0))
    raise TypeError(
        "random_state must be None, an integer >= 0, a numpy.random.SeedSequence or a numpy.random.Generator; "
        f"got {type(random_state).__name__}"
    )


def as_list(value, name):
    """`value`, one array for each layer, as a list; TypeError for what cannot be iterated."""
    try:
        return list(value)
    except TypeError:
        expected = "a sequence of arrays, one for each layer"
        raise TypeError(f"{name} must be {expected}; got {type(value).__name__}") from None


def as_real_array(value, name):
    """`value` as a numpy array of real numbers, not converted: bool, integers or floats of any size and byte order.

    Raises
    ------
    TypeError
        For complex numbers, strings, objects, dates, masked arrays and sparse matrices.
    ValueError
        For rows of different lengths.
    """
    if type(value) is not np.ndarray:
        if callable(getattr(value, "tocsr", None)):
            raise TypeError(f"{name} must be dense; got a sparse {type(value).__name__}: use {name}.toarray()")
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name} must not be a masked array, as values behind the mask would count; fill it first")
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} must be an array of numbers, its rows of one length; got: {error}") from error
    if value.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers; got dtype {value.dtype}")
    return value


def is_finite(array):
    """Whether a C-contiguous float array holds neither NaN nor infinity, without temporaries and without warnings."""
    if array.size <= _DOT_LIMIT:
        flat = array.reshape(-1)
        if math.isfinite(np.vdot(flat, flat)):
            return True
        # Squares overflow long before the values do, so that this verdict needs the exact look below.
    if array.size == 0:
        return True
    # Maximum and minimum pass NaN on.
    return math.isfinite(np.maximum.reduce(array, axis=None)) and math.isfinite(np.minimum.reduce(array, axis=None))


def check_finite(array, name, original=None):
    """Raise ValueError naming the first NaN or infinity in `array`, which was converted from `original`."""
    if is_finite(array):
        return
    flat = array.reshape(-1)
    for start in range(0, flat.size, _SCAN_LENGTH):
        bad = np.flatnonzero(~np.isfinite(flat[start : start + _SCAN_LENGTH]))
        if bad.size:
            index = np.unravel_index(start + int(bad[0]), array.shape)
            break
    place = _place(index)
    source = array[index] if original is None else original[index]
    if np.isfinite(source):
        raise ValueError(f"{name} must fit in {array.dtype.name}; got {source} {place}, which overflows")
    raise ValueError(f"{name} must be finite; got {source} {place}")


def _place(index):
    names = ("row", "column") if len(index) == 2 else ("position",)
    return "at " + ", ".join(f"{name} {int(i)}" for name, i in zip(names, index, strict=True))


def as_native(array, dtype):
    """`array` in native `dtype`, C-contiguous and aligned: itself where it already is, else a copy."""
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned:
        # A dtype made as "<f8" equals the native one, but its buffer does not say "native": engines read buffers.
        return array if array.dtype is dtype else array.view(dtype)
    with np.errstate(all="ignore"):  # what overflows is reported with its place by check_finite
        return array.astype(dtype, order="C")


def as_matrix(array, name, n_columns, dtype):
    """The real array `array`, checked to be a finite matrix of `n_columns` columns, in native `dtype`.

    Raises
    ------
    ValueError
        For another number of dimensions or columns, NaN, infinity, or a value beyond `dtype`'s range.
    """
    if array.ndim != 2:
        hint = f"; use {name}.reshape(1, -1) for one row, {name}.reshape(-1, 1) for one column" * (array.ndim == 1)
        raise ValueError(f"{name} must have 2 dimensions (n_samples, {n_columns}); got shape {array.shape}{hint}")
    if array.shape[1] != n_columns:
        raise ValueError(f"{name} must have {n_columns} columns; got {array.shape[1]} (shape {array.shape})")
    native = as_native(array, dtype)
    check_finite(native, name, array)
    return native


def as_vector(value, name, length, dtype):
    """`value`, any array-like of real numbers, checked to be a finite vector of `length` numbers, in native `dtype`."""
    array = as_real_array(value, name)
    if array.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},); got {array.shape}")
    native = as_native(array, dtype)
    check_finite(native, name, array)
    return native


def as_sample_weight(value, n_rows, dtype, name="sample_weight"):
    """Weights of rows, (n_rows,) in native `dtype`, finite, at least 0 and not all 0; None stays None.

    They are divided by a power of two, so that the largest is in [1/2, 1): weighted means do not change by that, not
    even in their last bits, and sums neither overflow nor vanish where numbers below the smallest normal one count as
    zero, as in compiled passes.  A weight that then is below it is 0 for both engines.
    """
    if value is None:
        return None
    weight = as_vector(value, name, n_rows, np.dtype(np.float64))
    if weight.min() < 0:
        row = int(np.argmax(weight < 0))
        raise ValueError(f"{name} must be >= 0; got {weight[row]} at position {row}")
    if not weight.any():
        raise ValueError(f"{name} must not be all zero; got {n_rows} zeros")
    with np.errstate(under="ignore"):
        scaled = np.ldexp(weight, -np.frexp(weight.max())[1])
    scaled[scaled < np.finfo(dtype).tiny] = 0
    return as_native(scaled, dtype)


def as_targets(y, n_rows, n_out, output_activation, loss, dtype, name="y"):
    """Targets as an engine takes them: (n_rows, n_out) of native `dtype`, or (n_rows,) int64 labels behind softmax.

    Parameters
    ----------
    y : array-like
        softmax: labels (n_rows,) in [0, n_out), or rows of probabilities (n_rows, n_out).  sigmoid: values in [0, 1],
        (n_rows, n_out), or (n_rows,) with one output, or labels (n_rows,) with more.  Else finite values
        (n_rows, n_out), or (n_rows,) with one output; at least 0 for the Poisson loss.
    output_activation, loss : str
        Names.
    """
    array = as_real_array(y, name)
    check_target_shape(array, n_rows, n_out, output_activation, name)
    takes_labels = _takes_labels(output_activation, n_out)
    if takes_labels and array.ndim == 1:
        labels = _as_labels(array, n_out, name)
        return labels if output_activation == "softmax" else np.eye(n_out, dtype=dtype)[labels]
    native = as_native(array, dtype)
    check_finite(native, name, array)
    native = native.reshape(n_rows, n_out)
    if output_activation in ("softmax", "sigmoid"):
        _check_interval(native, name, 0, 1, f"in [0, 1] behind a {output_activation} output")
    elif loss == "poisson":
        _check_interval(native, name, 0, math.inf, ">= 0 for the Poisson loss")
    if output_activation == "softmax":
        sums = native.sum(axis=1, dtype=np.float64)
        wrong = np.abs(sums - 1) > _PROBABILITY_SLACK
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(f"{name} must hold rows of probabilities that sum to 1; got {sums[row]:.6g} at row {row}")
    return native


def _takes_labels(output_activation, n_out):
    return output_activation == "softmax" or (output_activation == "sigmoid" and n_out > 1)


def check_target_shape(array, n_rows, n_out, output_activation, name="y"):
    """Raise ValueError where an array of targets has not the shape that `as_targets` asks for."""
    flat = _takes_labels(output_activation, n_out) or n_out == 1
    if array.ndim not in ((1, 2) if flat else (2,)) or array.shape[1:] not in ((), (n_out,)):
        expected = f"({n_rows},) or ({n_rows}, {n_out})" if flat else f"({n_rows}, {n_out})"
        raise ValueError(f"{name} must have shape {expected}; got {array.shape}")
    if array.shape[0] != n_rows:
        raise ValueError(f"{name} must have as many rows as X, {n_rows}; got {array.shape[0]} (shape {array.shape})")


def _as_labels(array, n_out, name):
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # NaN and infinity have no integer part; they fail the comparison
            wrong = ~(np.trunc(array) == array) | np.isinf(array)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(f"{name} must hold integer class labels 0 to {n_out - 1}; got {array[row]} at row {row}")
    # Compared before the conversion, in which labels beyond int64 would wrap around.
    wrong = (array < 0) | (array >= n_out) if array.dtype.kind != "b" else array & (n_out < 2)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{name} must hold class labels 0 to {n_out - 1}; got {array[row]} at row {row}")
    return as_native(array, np.dtype(np.int64))


def _check_interval(array, name, low, high, expected):
    if array.size and (array.min() < low or array.max() > high):
        row, column = np.unravel_index(int(np.argmax((array < low) | (array > high))), array.shape)
        raise ValueError(f"{name} must be {expected}; got {array[row, column]} at row {row}, column {column}")


def as_output(out, shape, dtype):
    """`out`, or a view of it, as an engine can write predictions of `shape` and `dtype` into it; else an error."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy.ndarray; got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype.name}, as the network; got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}; got {out.shape}")
    flags = out.flags
    if not flags.c_contiguous or not flags.aligned:
        raise ValueError(f"out must be C-contiguous and aligned; got strides {out.strides} for shape {shape}")
    if not flags.writeable:
        raise ValueError("out must be writable; got a read-only array")
    return as_native(out, dtype)

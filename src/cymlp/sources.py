"""What feeds the epochs of `MLP.train`: arrays, arrays that are read batch by batch, and iterables of batches.

A source hands out pieces of an epoch, each some whole minibatches as an engine's ``train_epoch`` takes them.
"""

import functools
import mmap
from typing import NamedTuple

import numpy as np

from . import _labels, _validation, orders

__all__ = ["Arrays", "Piece", "ReadArrays", "Stream", "open_source"]

# Elements of X that are gathered, converted and checked at a time where that is not done once for all: 1 MB in float64,
# some minibatches of most data; what a call of the engine costs beside its steps is little then.
_TILE_ELEMENTS = 2**17

# Bytes of a copy, in the network's dtype, that is made of a whole array in memory; larger ones are converted batch by
# batch, which takes a fifth to a quarter longer for each epoch of 784-128-10 and 784-512-10.
_COPY_BYTES = 2**28

_NOTHING = object()


class Piece(NamedTuple):
    """Some minibatches.

    Attributes
    ----------
    arguments : (X, y, sample_weight, order)
        What ``train_epoch`` takes first.
    batch_size, count : int
        Rows of a minibatch, and how many of these there are.
    exponent : int
        1.0 in `sample_weight` stands for 2 to this power.
    """

    arguments: tuple
    batch_size: int
    count: int
    exponent: int

    def weights(self):
        """The sum of the weights of each minibatch as they are here, or its number of rows, (count,) in float64."""
        X, _, weight, order = self.arguments
        n_rows = len(X) if order is None else len(order)
        if weight is None:
            sums = np.full(self.count, float(self.batch_size))
            sums[-1] = n_rows - (self.count - 1) * self.batch_size
            return sums
        weight = (weight if order is None else weight[order]).astype(np.float64)  # before it is summed: in one way
        whole = n_rows // self.batch_size
        sums = np.empty(self.count)
        sums[:whole] = weight[: whole * self.batch_size].reshape(whole, self.batch_size).sum(axis=1)
        sums[whole:] = weight[whole * self.batch_size :].sum()
        return sums


def _exponent(raw):
    """Of the power of two by which `_validation.as_sample_weight` has divided weights."""
    return 0 if raw is None else int(np.frexp(np.max(raw))[1])


# ---- Arrays ----


class Arrays:
    """Arrays as engines take them.

    Attributes
    ----------
    dtype : numpy.dtype
    n_rows, n_batches : int
    batch_size : int
        At most `n_rows`.
    draw : callable or None
        ``draw(rng)`` gives the order of an epoch; None where it is that of the rows.
    is_read : bool
        Whether rows are gathered, converted and checked as they are needed.
    reopen : callable
        ``reopen(dtype)`` gives the same source for another dtype.
    """

    is_read = False

    def __init__(self, X, y, weight, exponent, batch_size):
        self.X, self.y, self.weight, self.exponent = X, y, weight, exponent
        self.dtype, self.n_rows = X.dtype, len(X)
        self.batch_size = min(batch_size, self.n_rows)
        self.n_batches = -(-self.n_rows // self.batch_size)
        self.draw = None

    def piece(self, order, first, most=None):
        """The minibatches from number `first` on, at most `most` of them.

        Parameters
        ----------
        order : ndarray of int64, or None
            Of the epoch.
        first : int
        most : int, optional

        Returns
        -------
        Piece or None
            None at the end of the epoch.
        """
        count = self.n_batches - first if most is None else min(most, self.n_batches - first)
        if count == self.n_batches:
            return Piece((self.X, self.y, self.weight, order), self.batch_size, count, self.exponent)
        if count == 0:
            return None
        rows = slice(first * self.batch_size, (first + count) * self.batch_size)
        if order is not None:
            return Piece((self.X, self.y, self.weight, order[rows]), self.batch_size, count, self.exponent)
        weight = None if self.weight is None else self.weight[rows]
        return Piece((self.X[rows], self.y[rows], weight, None), self.batch_size, count, self.exponent)

    def take(self, rows):
        """Copies of some rows of X, y and the weights, or None, as engines take them.

        Parameters
        ----------
        rows : ndarray of int64
        """
        return self.X[rows], self.y[rows], None if self.weight is None else self.weight[rows]

    def begin(self):
        """What an epoch begins with, after `draw`."""


class ReadArrays(Arrays):
    """Memory maps, and arrays of which a converted copy would be large.

    Parameters
    ----------
    network : MLP
    X, y : ndarray
        As the user gave them.
    weight, exponent
        As `Arrays` has them.
    batch_size : int
    smoothing : float
    dtype : numpy.dtype
    """

    is_read = True

    def __init__(self, network, X, y, weight, exponent, batch_size, smoothing, dtype):
        super().__init__(X, y, weight, exponent, batch_size)
        self.network, self.smoothing, self.dtype = network, smoothing, dtype
        self.tile = max(1, _TILE_ELEMENTS // (max(X.shape[1], network.layer_sizes[-1]) * self.batch_size))

    def piece(self, order, first, most=None):
        count = min(self.n_batches - first, self.tile if most is None else min(most, self.tile))
        if count == 0:
            return None
        start, end = first * self.batch_size, min((first + count) * self.batch_size, self.n_rows)
        rows = slice(start, end) if order is None else order[start:end]
        return Piece((*self.take(rows), None), self.batch_size, count, self.exponent)

    def take(self, rows):
        X, y = self._read(rows)
        weight = None if self.weight is None else self.weight[rows]
        return X, _labels.smoothed_for(self.network, y, self.smoothing, self.dtype), weight

    def _read(self, rows):
        try:
            return self.network._check_data(self.X[rows], self.y[rows], None, self.dtype)[:2]
        except ValueError:
            for row in np.arange(self.n_rows)[rows].tolist():  # one of them is to be named
                one, names = slice(row, row + 1), (f"X[{row}:{row + 1}]", f"y[{row}:{row + 1}]", "")
                self.network._check_data(self.X[one], self.y[one], None, self.dtype, names)
            raise

    def targets(self):
        """The targets as engines take them, block by block."""
        step = max(1, _TILE_ELEMENTS // self.network.layer_sizes[-1])
        for start in range(0, self.n_rows, step):
            yield _check_targets(self.network, self.y[start : start + step], self.dtype)


def _check_targets(network, y, dtype):
    output, loss = network.output_activation.name, network.loss.name
    return _validation.as_targets(y, len(y), network.layer_sizes[-1], output, loss, dtype)


def _is_mapped(array):
    """Whether an array, or what it is a view of, is a file in memory."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return isinstance(array, mmap.mmap)


def _is_large_copy(array, dtype):
    flags = array.flags
    needs_copy = array.dtype != dtype or not flags.c_contiguous or not flags.aligned
    return needs_copy and array.size * dtype.itemsize > _COPY_BYTES


def _is_read(network, X, y, smoothing, dtype):
    """Whether arrays are to be read batch by batch."""
    y_dtype = np.dtype(np.int64) if y.ndim == 1 and network.output_activation.name == "softmax" else dtype
    smoothed = smoothing > 0 and len(y) * network.layer_sizes[-1] * dtype.itemsize > _COPY_BYTES
    return _is_mapped(X) or _is_mapped(y) or _is_large_copy(X, dtype) or _is_large_copy(y, y_dtype) or smoothed


def _open_arrays(network, X, y, sample_weight, options, dtype):
    X, y = _validation.as_real_array(X, "X"), _validation.as_real_array(y, "y")
    dtype = dtype or network._dtype_for(X)
    smoothing, batch_size = options.label_smoothing, options.batch_size
    read = X.ndim == 2 and len(X) > 0 and not options.is_lbfgs and _is_read(network, X, y, smoothing, dtype)
    if read:
        network._check_inputs(X[:0], "X", dtype)  # its shape
        _validation.check_target_shape(y, len(X), network.layer_sizes[-1], network.output_activation.name)
    else:
        X, y, _ = network._check_data(X, y, None, dtype)
    weight = _validation.as_sample_weight(sample_weight, len(X), dtype)
    exponent = 0 if weight is None else _exponent(sample_weight)
    if read:
        source = ReadArrays(network, X, y, weight, exponent, batch_size, smoothing, dtype)
    else:
        source = Arrays(X, _labels.smoothed_for(network, y, smoothing, dtype), weight, exponent, batch_size)
    blocks = source.targets if read else lambda: [y]
    if options.class_weight is not None:
        _weigh_classes(source, blocks, network, options.class_weight, sample_weight)
    _set_order(source, blocks, network, options.shuffle)
    return source


def _weigh_classes(source, blocks, network, class_weight, sample_weight):
    n_classes, counts = _labels.n_classes(network, "class_weight"), None
    if class_weight == "balanced":
        counts = sum(_labels.counts(targets, network, n_classes) for targets in blocks())
    table = _labels.table(class_weight, counts, n_classes)
    raw = np.concatenate([_labels.weights(targets, network, table) for targets in blocks()])
    if sample_weight is not None:
        raw *= np.asarray(sample_weight, np.float64)
    source.weight = _validation.as_sample_weight(raw, len(raw), source.dtype, "sample_weight times class_weight")
    source.exponent = _exponent(raw)


def _set_order(source, blocks, network, shuffle):
    if shuffle == "stratified":
        _labels.n_classes(network, "shuffle='stratified'")
        source.draw = orders.Stratified(np.concatenate([_labels.classes(targets, network) for targets in blocks()]))
    elif shuffle == "weighted":
        if source.weight is None:
            raise ValueError("shuffle must not be 'weighted' where there is neither sample_weight nor class_weight")
        source.draw = orders.Weighted(source.weight)
        source.weight, source.exponent = None, 0
    elif shuffle:
        source.draw = orders.Shuffled(source.n_rows)


# ---- Batches ----


class Stream:
    """Batches as an iterable gives them: each one step.

    Parameters
    ----------
    network : MLP
    batches : iterable
        Of ``(X, y)`` or ``(X, y, sample_weight)``.  It is asked for its first one here.
    table : ndarray or None
        Weights of classes.
    smoothing : float
    dtype : numpy.dtype or None
        None lets the first batch decide.
    """

    n_rows = None
    draw = None
    is_read = True

    def __init__(self, network, batches, table, smoothing, dtype):
        self.network, self.batches, self.table, self.smoothing = network, batches, table, smoothing
        self.n_batches = len(batches) if hasattr(batches, "__len__") else None  # where that is known
        self.batch_size = 1
        self._iterator, self._position = iter(batches), 0
        try:
            self._ahead = next(self._iterator)
        except StopIteration:
            raise ValueError("X must give at least 1 batch; got none") from None
        self.reopen(dtype)

    def reopen(self, dtype):
        """Itself, after a check of the first batch, which decides the dtype where that is None."""
        self.dtype = dtype
        X = self._checked(self._ahead).arguments[0]
        self.dtype, self.batch_size = X.dtype, len(X)
        return self

    def begin(self):
        """Begin a pass over the batches, but for the first one, which has begun."""
        if self._ahead is _NOTHING:
            self._iterator, self._position = iter(self.batches), 0

    def piece(self, order, first, most=None):
        """The batch of number `first`, as a `Piece`; None at the end."""
        item, self._ahead = self._ahead, _NOTHING
        while item is _NOTHING or self._position < first:  # a run that goes on from a checkpoint begins in the middle
            self._position += item is not _NOTHING
            try:
                item = next(self._iterator)
            except StopIteration:
                return None
        piece = self._checked(item)
        self._position += 1
        return piece

    def _checked(self, item):
        number = self._position + 1
        if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
            length = f" of length {len(item)}" if isinstance(item, (tuple, list)) else ""
            raise TypeError(
                "X must give batches (X, y) or (X, y, sample_weight) where y is None; "
                f"batch {number} is {type(item).__name__}{length}"
            )
        names = [f"{name} of batch {number}" for name in ("X", "y", "sample_weight")]
        X, y, _ = self.network._check_data(item[0], item[1], None, self.dtype, names)
        weight, exponent = self._weights(y, item[2] if len(item) == 3 else None, X.dtype, names[2])
        y = _labels.smoothed_for(self.network, y, self.smoothing, X.dtype)
        return Piece((X, y, weight, None), len(X), 1, exponent)

    def _weights(self, targets, given, dtype, name):
        """Those of rows times those of classes, and their exponent; a batch may be without any weight."""
        if given is None and self.table is None:
            return None, 0
        raw = (
            np.ones(len(targets)) if given is None else _validation.as_vector(given, name, len(targets), np.dtype("d"))
        )
        if self.table is not None:
            raw = raw * _labels.weights(targets, self.network, self.table)
        if not raw.any():
            return np.zeros(len(targets), dtype), 0
        return _validation.as_sample_weight(raw, len(raw), dtype, name), _exponent(raw)


def _open_stream(network, batches, sample_weight, options, dtype):
    if sample_weight is not None:
        raise ValueError("sample_weight must be None where X gives batches, which may have weights of their own")
    if options.is_lbfgs:
        raise ValueError("optimizer 'lbfgs' takes all rows at once: X must be an array, and y must be given")
    if isinstance(options.shuffle, str):
        raise ValueError(f"shuffle must be True or False where X gives batches; got {options.shuffle!r}")
    table = None
    if options.class_weight is not None:
        if options.class_weight == "balanced":
            raise ValueError("class_weight must be a dict where X gives batches; got 'balanced'")
        n_classes = _labels.n_classes(network, "class_weight")
        table = _labels.table(options.class_weight, None, n_classes)
    return Stream(network, batches, table, options.label_smoothing, dtype)


def open_source(network, X, y, sample_weight, options, dtype=None):
    """What feeds the epochs, all of it checked but for what is read batch by batch.

    Parameters
    ----------
    network : MLP
    X, y, sample_weight
        As `MLP.train` has them.
    options : Options
    dtype : numpy.dtype, optional
        None lets the data decide where the network has none.

    Returns
    -------
    Arrays, ReadArrays or Stream

    Raises
    ------
    ValueError, TypeError
    """
    if y is not None:
        source = _open_arrays(network, X, y, sample_weight, options, dtype)
        source.reopen = functools.partial(open_source, network, X, y, sample_weight, options)
        return source
    if hasattr(X, "__array__") or not hasattr(X, "__iter__"):
        raise TypeError(
            f"y must be given where X is an array; without y, X must be an iterable of batches; got {type(X).__name__}"
        )
    return _open_stream(network, X, sample_weight, options, dtype)

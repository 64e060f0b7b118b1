"""What a report on a run is made of beside the records of its layers: the configuration, the losses, the data."""

import pickle
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .. import _labels
from .._formulas import LOSSES

__all__ = ["DataSummary", "Evidence", "Sample", "sample_rows", "sample_size", "without_functions"]

# Rows that are kept of what is trained with, at most, and elements of their inputs: a megabyte in float32.
_ROWS = 1000
_ELEMENTS = 2**18


@dataclass
class DataSummary:
    """What a run was trained with, by a sample of its rows.

    Attributes
    ----------
    n_rows : int
        Of the sample.
    input_mean, input_std : ndarray (n_in,)
    n_constant : int
        Inputs that are the same in all rows.
    n_classes : int or None
        Classes that the outputs tell apart; None where targets are numbers.
    class_shares : ndarray (n_classes,) or None
        Of the rows, whatever they weigh.
    target_mean, target_std : ndarray (n_out,) or None
        None where targets are classes.
    base_loss : float
        Of the best prediction that is the same for all rows, without penalties: what is learned without any input.
    predicted_shares : ndarray (n_classes,) or None
        How the network answers after the run; None before, and where nobody has it or it has been trained since.
    recall : ndarray (n_classes,) or None
        The share of each class's rows that it answers right; NaN for a class without any.
    """

    n_rows: int
    input_mean: np.ndarray
    input_std: np.ndarray
    n_constant: int
    n_classes: int | None
    class_shares: np.ndarray | None
    target_mean: np.ndarray | None
    target_std: np.ndarray | None
    base_loss: float
    predicted_shares: np.ndarray | None = None
    recall: np.ndarray | None = None


@dataclass
class Evidence:
    """All that a `HealthReport` is made of.

    Attributes
    ----------
    records : Records
    history : dict of lists
        By epoch: "loss", "validation_loss", "learning_rate", "gradient_norm", each perhaps empty.
    layer_sizes : tuple of int
    activations : tuple of Activation
        Of the hidden layers and the output.
    initializers : tuple of str
        Of each layer, by name; "given" or "file" where they were not drawn.
    gain : float
    normalizations : tuple
        Of each hidden layer, None for none.
    loss : Loss
    dtype : numpy.dtype
    optimizer : instance of a class in `cymlp.optimizers`
    learning_rate : float or None
        The first one; None where there is none, as for L-BFGS.
    batch_size : int
        Rows of a minibatch; of the first one of a stream.
    n_rows : int or None
        Of the data; None for a stream.
    dropout : tuple
        Rates of the inputs and each hidden layer, some perhaps schedules; empty where nothing is dropped.
    class_weight, sample_weight, clipping : bool
        Whether there are any.
    diverged : DivergenceError or None
    data : DataSummary or None
        None where no rows are known.
    """

    records: Any
    history: dict
    layer_sizes: tuple
    activations: tuple
    initializers: tuple
    gain: float
    normalizations: tuple
    loss: Any
    dtype: np.dtype
    optimizer: Any
    learning_rate: float | None
    batch_size: int
    n_rows: int | None
    dropout: tuple
    class_weight: bool
    sample_weight: bool
    clipping: bool
    diverged: Exception | None
    data: DataSummary | None

    def __getstate__(self):
        return without_functions(self.__dict__)


@dataclass(frozen=True)
class _Function:
    """Stands in a copy for what was scheduled by something that cannot be copied, such as a lambda."""

    name: str

    def __call__(self, step):
        raise TypeError(f"{self.name} was not copied with the report on a run that had it")


def without_functions(facts):
    """Facts of `Evidence` of which copies can be made, whatever rates were scheduled by.

    Parameters
    ----------
    facts : dict

    Returns
    -------
    dict
    """
    optimizer, dropout = facts["optimizer"], tuple(map(_copyable, facts["dropout"]))
    rates = {one.name: _copyable(getattr(optimizer, one.name)) for one in fields(optimizer)}
    return facts | {"optimizer": replace(optimizer, **rates), "dropout": dropout}


def _copyable(rate):
    if callable(rate):
        try:
            pickle.dumps(rate)
        except Exception:  # pickle raises whatever it meets
            return _Function(repr(rate))
    return rate


def sample_size(n_in):
    """How many rows of so many inputs are kept."""
    return min(_ROWS, max(1, _ELEMENTS // n_in))


def sample_rows(n_rows, n_in):
    """The numbers of some rows, in order, all over the data: all of them, or multiples of the golden ratio.

    With a fixed distance between them they could all be of one class.

    Parameters
    ----------
    n_rows, n_in : int

    Returns
    -------
    ndarray of int64
    """
    size = sample_size(n_in)
    if n_rows <= size:
        return np.arange(n_rows)
    golden = (np.sqrt(5) - 1) / 2
    return np.sort((np.arange(size) * golden % 1 * n_rows).astype(np.int64))


class Sample:
    """Rows that are trained with, until they are summed up: later than they are seen, as that takes longer.

    Parameters
    ----------
    layer_sizes : tuple of int
    output : str
        The name of its activation.
    loss : Loss
    loss_factor : float
    """

    def __init__(self, layer_sizes, output, loss, loss_factor):
        self._n_out = layer_sizes[-1]
        self._output, self._loss, self._loss_factor = output, loss, loss_factor
        self._most = sample_size(layer_sizes[0])
        self._blocks, self._n, self._counts = [], 0, None
        self._found = self._answers = None
        # What outputs tell apart; None where they are numbers.
        self._n_classes = self._n_out if output == "softmax" else None
        if loss.name == "binary_cross_entropy" and self._n_out == 1:
            self._n_classes = 2

    @property
    def is_open(self):
        """Whether there are fewer rows than there might be."""
        return self._n < self._most

    @property
    def newest(self):
        """The rows that were added last, (X, y, weight); None where there are none."""
        return self._blocks[-1] if self._blocks else None

    def add(self, X, y, weight, counts=None):
        """Take some more rows, in place of the oldest where there are too many."""
        self._blocks, self._n = [*self._blocks, (X, y, weight)], self._n + len(X)
        while len(self._blocks) > 1 and self._n - len(self._blocks[0][0]) >= self._most:
            self._n -= len(self._blocks[0][0])
            self._blocks = self._blocks[1:]
        self._counts, self._found, self._answers = counts, None, None

    def forget_answers(self):
        """Training goes on."""
        self._answers = None
        if self._found is not None:
            self._found = replace(self._found, predicted_shares=None, recall=None)

    def answer(self, network):
        """Note what a network answers, once, where these are classes."""
        if self._n_classes is None or not self._blocks or self._answers is not None:
            return
        found = [_labels.classes_behind(self._output, network.predict(X)) for X, _, _ in self._blocks]
        self._answers, self._found = np.concatenate(found), None

    def summary(self):
        """`DataSummary`, or None where there are no rows.  It is made once."""
        if self._found is None and self._blocks:
            self._found = self._sum_up()
        return self._found

    def __getstate__(self):
        self.summary()
        return self.__dict__ | {"_blocks": [], "_n": 0, "_answers": None}

    @np.errstate(all="ignore")
    def _sum_up(self):
        blocks = self._blocks
        X = np.concatenate([X for X, _, _ in blocks])
        y = np.concatenate([y for _, y, _ in blocks])
        weight = np.concatenate([np.ones(len(X)) if w is None else w.astype(np.float64) for X, _, w in blocks])
        weight = weight / weight.sum() if weight.any() else np.full(len(X), 1 / len(X))
        low, high = X.min(axis=0), X.max(axis=0)
        n_classes, by_class = self._n_classes, self._n_classes is not None
        classes = _labels.classes_behind(self._output, y) if by_class else None
        counts = np.bincount(classes, minlength=n_classes) if by_class else None
        rows = self._rows(y)
        found = DataSummary(
            n_rows=len(X),
            input_mean=X.mean(axis=0, dtype=np.float64),
            input_std=X.std(axis=0, dtype=np.float64),
            n_constant=int((low == high).sum()),
            n_classes=n_classes,
            class_shares=_shares(counts if self._counts is None else self._counts) if by_class else None,
            target_mean=None if by_class else rows.mean(axis=0),
            target_std=None if by_class else rows.std(axis=0),
            base_loss=self._loss_factor * base_loss(self._loss, rows, weight),
        )
        if self._answers is not None:
            right = np.bincount(classes[classes == self._answers], minlength=n_classes)
            found.predicted_shares = _shares(np.bincount(self._answers, minlength=n_classes))
            found.recall = right / np.where(counts > 0, counts, np.nan)
        return found

    def _rows(self, y):
        """Targets as rows of numbers."""
        return np.eye(self._n_out)[y] if y.ndim == 1 else y.astype(np.float64)


def _shares(counts):
    return counts / counts.sum()


def base_loss(loss, y, weight):
    """The mean loss of the best prediction that is the same for all rows.

    Parameters
    ----------
    loss : Loss
    y : ndarray (n, n_out)
    weight : ndarray (n,)
        Whose sum is 1.

    Returns
    -------
    float
        Of each output by itself, summed: a mean for most losses, a quantile for absolute errors.
    """
    mean = weight @ y
    with np.errstate(all="ignore"):
        match loss.name:
            case "squared_error":
                return float((weight @ (y - mean) ** 2).sum() / 2)
            case "categorical_cross_entropy":
                return float(-_xlogy(mean, mean / mean.sum()).sum())
            case "binary_cross_entropy":
                return float(-(_xlogy(mean, mean) + _xlogy(1 - mean, 1 - mean)).sum())
            case "poisson":
                return float((weight @ _xlogy(y, y / mean)).sum())
    return float(_least(loss, y, weight).sum())


def _xlogy(x, y):
    """x log(y), which is 0 for x = 0."""
    return np.where(x == 0, 0.0, x * np.log(np.where(x == 0, 1.0, y)))


def _least(loss, y, weight):
    """The least mean loss of each output: these are convex in the prediction, between the least and the largest y."""

    def at(a):
        return weight @ LOSSES[loss.name](a, y, "identity", 0.0, loss.parameter)[0]

    low, high = y.min(axis=0), y.max(axis=0)
    for _ in range(100):  # a third less each time: 100 are more than double precision has
        a, b = low + (high - low) / 3, high - (high - low) / 3
        left = at(a) <= at(b)
        low, high = np.where(left, low, a), np.where(left, b, high)
    return at((low + high) / 2)

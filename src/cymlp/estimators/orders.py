"""In which order the epochs of an estimator take its rows."""

import dataclasses

import numpy as np

from .. import _labels, orders
from .._random import shuffle
from .._validation import as_sample_weight

__all__ = ["Order"]


class Order:
    """The rows of each epoch of a fit.

    True and False of `shuffle` are scikit-learn's, of whose random numbers the others take a seed only: what they draw
    goes on in later calls that go on with the network, as a sample of rows must not be the same in each of them.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        With the network that is trained.
    examples : Examples
    rows : ndarray of int64
        Those to train with; shuffled here.

    Attributes
    ----------
    examples, rows
        What was given.

    Raises
    ------
    ValueError
        Naming `shuffle`, where rows have no classes to be stratified by, or no weights to be drawn by.
    """

    def __init__(self, estimator, examples, rows):
        self.examples, self.rows, self._trained = examples, rows, examples
        self._shuffles, self._random_state = bool(estimator.shuffle), estimator._random_state
        self._draw = None
        if estimator.shuffle == "stratified":
            self._draw = orders.Stratified(_classes(estimator.network_, examples.targets[rows]))
        elif estimator.shuffle == "weighted":
            self._draw = orders.Weighted(_weights(examples.weight, rows))
            self._trained = dataclasses.replace(examples, weight=None)  # the draws have it
        if self._draw is not None and estimator._draws is None:
            estimator._draws = np.random.default_rng(self._random_state.randint(2**32, size=4, dtype=np.uint32))
        self._draws = estimator._draws

    def __len__(self):
        return len(self.rows)

    def epoch(self, batch_size, flops):
        """`Examples.pieces` of the next epoch."""
        rows = self.rows
        if self._draw is not None:
            rows = rows[self._draw(self._draws)]
        elif self._shuffles:
            shuffle(rows, self._random_state)
        elif len(rows) == len(self.examples):
            rows = None
        return self._trained.pieces(rows, batch_size, flops)


def _classes(network, targets):
    if network.output_activation.name == "sigmoid" and network.layer_sizes[-1] > 1:
        raise ValueError("shuffle must not be 'stratified' for multilabel targets, whose rows are of no one class")
    return _labels.classes(targets, network)


def _weights(weight, rows):
    if weight is None:
        raise ValueError(
            "shuffle must not be 'weighted' where rows have no weights: give fit a sample_weight, or a classifier a "
            "class_weight"
        )
    name = "with shuffle='weighted', weights of rows"
    weight = as_sample_weight(weight, len(weight), np.dtype(np.float64), name)
    return as_sample_weight(weight[rows], len(rows), weight.dtype, name)

"""Where things are in a network's two vectors.

Parameters: W_1 (n_0, n_1) row by row, b_1 (n_1,), scale_1 (n_1,) if layer 1 is normalised, W_2, b_2, ...
Statistics: for each batch-normalised layer its running mean (n_l,) and running variance (n_l,).
"""

import itertools
from typing import NamedTuple

import numpy as np

__all__ = ["Layout", "Statistics", "Views", "chained_sizes"]


class Views(NamedTuple):
    """Lists with an entry for each layer: views into a vector of parameters; a scale is None where there is none."""

    weights: list
    biases: list
    scales: list


class Statistics(NamedTuple):
    """Lists with an entry for each layer: views into a vector of statistics, or None."""

    means: list
    variances: list


class Layout:
    """What follows from the sizes of layers and their normalisations alone.

    Parameters
    ----------
    layer_sizes : sequence of int
    normalizations : sequence, optional
        For each layer None or an instance from `cymlp.normalizations`; None for none.

    Attributes
    ----------
    n_weights, n_parameters, n_statistics : int
    """

    def __init__(self, layer_sizes, normalizations=None):
        self.layer_sizes = tuple(layer_sizes)
        widths = self.layer_sizes[1:]
        self.normalizations = (None,) * len(widths) if normalizations is None else tuple(normalizations)
        normalized = [n for n, one in zip(widths, self.normalizations, strict=True) if one is not None]
        self.n_weights = sum(n_in * n_out for n_in, n_out in itertools.pairwise(self.layer_sizes))
        self.n_parameters = self.n_weights + sum(widths) + sum(normalized)
        self.n_statistics = 2 * sum(n for n, one in zip(widths, self.normalizations, strict=True) if _is_running(one))

    def views(self, flat):
        """The weights, biases and scales of each layer as views into a vector of parameters."""
        found, end = Views([], [], []), 0
        for (n_in, n_out), normalization in zip(itertools.pairwise(self.layer_sizes), self.normalizations, strict=True):
            start, end = end, end + n_in * n_out
            found.weights.append(flat[start:end].reshape(n_in, n_out))
            start, end = end, end + n_out
            found.biases.append(flat[start:end])
            if normalization is not None:
                start, end = end, end + n_out
            found.scales.append(None if normalization is None else flat[start:end])
        return found

    def statistics(self, vector):
        """The running means and variances of each layer as views into a vector of statistics."""
        found, end = Statistics([], []), 0
        for n_out, normalization in zip(self.layer_sizes[1:], self.normalizations, strict=True):
            for views in found:
                start = end
                end += n_out * _is_running(normalization)
                views.append(vector[start:end] if _is_running(normalization) else None)
        return found

    def first_statistics(self, dtype):
        """Statistics before any minibatch: means are 0, variances 1."""
        vector = np.zeros(self.n_statistics, dtype)
        for variance in self.statistics(vector).variances:
            if variance is not None:
                variance[:] = 1
        return vector

    def check_variances(self, vector, name):
        """Raise ValueError where a variance in a vector of statistics is below 0; `name` is what the user gave."""
        for i, variance in enumerate(self.statistics(vector).variances):
            if variance is not None and (variance < 0).any():
                unit = int(np.argmax(variance < 0))
                raise ValueError(
                    f"{name} must have variances >= 0; got {variance[unit]} for unit {unit} of layer {i + 1}"
                )


def _is_running(normalization):
    return normalization is not None and normalization.has_statistics


def chained_sizes(weights, name):
    """The layer sizes that weights (n_in, n_out) of successive layers stand for; ValueError where they do not chain."""
    if not weights:
        raise ValueError(f"{name} must hold at least 1 array; got none")
    for i, W in enumerate(weights):
        if W.ndim != 2:
            raise ValueError(f"{name}[{i}] must have 2 dimensions (n_in, n_out); got shape {W.shape}")
        if i > 0 and W.shape[0] != weights[i - 1].shape[1]:
            expected = weights[i - 1].shape[1]
            raise ValueError(f"{name}[{i}] must have {expected} rows, the columns of {name}[{i - 1}]; got {W.shape[0]}")
    return [weights[0].shape[0], *(W.shape[1] for W in weights)]

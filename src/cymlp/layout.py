"""Where things are in the flat vector of parameters: W_1 (n_0, n_1) row by row, b_1 (n_1,), W_2, b_2, ..."""

import itertools

__all__ = ["chained_sizes", "views"]


def views(flat, layer_sizes):
    """The weights and the biases of each layer as views into a flat vector in natural order."""
    weights, biases, start = [], [], 0
    for n_in, n_out in itertools.pairwise(layer_sizes):
        middle = start + n_in * n_out
        weights.append(flat[start:middle].reshape(n_in, n_out))
        start = middle + n_out
        biases.append(flat[middle:start])
    return weights, biases


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

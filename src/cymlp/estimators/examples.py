"""The examples of a fit: rows, dense or sparse, with targets and weights, in pieces that an engine can read."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

__all__ = ["Examples", "dense_blocks"]

# Elements of sparse rows that are made dense at a time: 8 MB in float64, many minibatches of most data.
_TILE_ELEMENTS = 2**20

# Floating point operations of a piece of an epoch, after each of which a time limit is looked at: some milliseconds.
_TIMED_FLOPS = 1e9


def dense_blocks(X, least=1):
    """X (n_samples, n_in) as pairs (slice of rows, dense array), in order: whole, or tiles of sparse rows."""
    if not sparse.issparse(X):
        yield slice(0, len(X)), X
        return
    n_rows, n_in = X.shape
    step = max(least, _TILE_ELEMENTS // n_in)
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        yield rows, X[rows].toarray(order="C")


@dataclass(frozen=True, slots=True)
class Examples:
    """Checked data of one dtype.

    Attributes
    ----------
    X : ndarray (n_samples, n_in), C-contiguous, or CSR matrix
    targets : ndarray (n_samples,) of int64 labels or (n_samples, n_out)
        As the engine takes them.
    weight : ndarray (n_samples,) or None
        What is trained with.
    sample_weight : ndarray (n_samples,) or None
        The same without weights of classes: what is scored with.
    """

    X: object
    targets: np.ndarray
    weight: np.ndarray | None = None
    sample_weight: np.ndarray | None = None

    def __len__(self):
        return self.X.shape[0]

    @property
    def total_weight(self):
        """Sum of the weights, or the number of rows."""
        return float(len(self) if self.weight is None else self.weight.sum(dtype=np.float64))

    def held_out(self, rows):
        """A copy of some rows, given by their numbers, to be scored."""
        weight = None if self.sample_weight is None else self.sample_weight[rows]
        return Examples(self.X[rows], self.targets[rows], weight, weight)

    def blocks(self):
        """Dense ``(X, targets, weight)``, in order, in as few pieces as memory allows."""
        for rows, X in dense_blocks(self.X):
            yield X, self.targets[rows], None if self.weight is None else self.weight[rows]

    def pieces(self, order, batch_size, flops=0.0):
        """What the engine's ``train_epoch`` takes for whole minibatches, one after another, in as few pieces as can be.

        Parameters
        ----------
        order : ndarray of int64 row numbers, or None for all rows as they are
        batch_size : int
            At most the number of rows.
        flops : float
            Of training with one row, where pieces are to be short in time; else 0.

        Yields
        ------
        batches : slice
            The numbers of its minibatches.
        arguments : tuple
            ``(X, targets, weight, order)``.  All pieces have at least one whole minibatch.
        """
        n_rows = len(self) if order is None else len(order)
        most = n_rows
        if sparse.issparse(self.X):
            most = _TILE_ELEMENTS // self.X.shape[1]
        if flops > 0:
            most = min(most, int(_TIMED_FLOPS / flops))
        step = max(1, most // batch_size) * batch_size
        if step >= n_rows and not sparse.issparse(self.X):
            yield slice(0, -(-n_rows // batch_size)), (self.X, self.targets, self.weight, order)
            return
        start = 0
        while start < n_rows:
            end = start + step if n_rows - start - step >= batch_size else n_rows
            rows = np.arange(start, end) if order is None else order[start:end]
            if sparse.issparse(self.X):
                weight = None if self.weight is None else self.weight[rows]
                arguments = (self.X[rows].toarray(order="C"), self.targets[rows], weight, None)
            else:
                arguments = (self.X, self.targets, self.weight, rows)
            yield slice(start // batch_size, -(-end // batch_size)), arguments
            start = end

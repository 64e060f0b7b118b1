"""In which order an epoch takes the rows: functions of a random generator, which return int64 row numbers."""

import numpy as np

__all__ = ["KINDS", "Shuffled", "Stratified", "Weighted"]

# What `shuffle` may be beside True and False.
KINDS = ("stratified", "weighted")


class Shuffled:
    """All rows, every order as likely as any other.

    Parameters
    ----------
    n_rows : int
    """

    def __init__(self, n_rows):
        self.n_rows = n_rows

    def __call__(self, rng):
        return rng.permutation(self.n_rows).astype(np.int64, copy=False)


class Stratified:
    """All rows, the n_c of each class c in a random order of their own, but evenly spread over the epoch.

    The i-th row of a class is put at the point (i + u_c) / n_c of [0, 1), with u_c at random in [0, 1): in any part of
    length s there are n_c s of them, rounded up or down.

    Parameters
    ----------
    classes : ndarray (n_rows,) of int
    """

    def __init__(self, classes):
        self.rows = np.argsort(classes, kind="stable").astype(np.int64, copy=False)
        counts = np.unique(classes, return_counts=True)[1]
        self.ends = np.cumsum(counts)

    def __call__(self, rng):
        rows, points, start = np.empty_like(self.rows), np.empty(len(self.rows)), 0
        for end in self.ends.tolist():
            rows[start:end] = rng.permutation(self.rows[start:end])
            points[start:end] = (np.arange(end - start) + rng.random()) / (end - start)
            start = end
        return rows[np.argsort(points, kind="stable")]


class Weighted:
    """As many draws with replacement as there are rows, each row as likely as its weight is large.

    Parameters
    ----------
    weight : ndarray (n_rows,)
        At least 0, not all 0.
    """

    def __init__(self, weight):
        sums = np.cumsum(weight, dtype=np.float64)
        self.sums = sums / sums[-1]

    def __call__(self, rng):
        # The first row whose sum is beyond the draw: never one of weight 0.
        return np.searchsorted(self.sums, rng.random(len(self.sums)), side="right").astype(np.int64, copy=False)

"""The networks that are timed, by name, and the work of one training step.  Imports nothing but NumPy."""

import itertools
from dataclasses import dataclass

import numpy as np

__all__ = ["CASES", "Case"]


@dataclass(frozen=True, slots=True)
class Case:
    """A network with relu in hidden layers and softmax at the output, trained in minibatches of `batch` rows.

    Attributes
    ----------
    sizes : tuple of int
        Inputs first, outputs last.
    batch : int
    """

    sizes: tuple[int, ...]
    batch: int

    def __str__(self):
        return f"{'-'.join(map(str, self.sizes))}@{self.batch}"

    @property
    def n_parameters(self):
        return sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(self.sizes))

    @property
    def flops_per_row(self):
        """Floating point operations of the matrix products for one row, forward."""
        return 2 * sum(n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes))

    @property
    def flops_per_step(self):
        """Of the three matrix products of a training step; the first layer needs no gradient of its input.

        Adam adds about 15 operations and 28 bytes of float32 memory traffic for each parameter, which is what small
        batches of wide networks are bound by.
        """
        first = 2 * self.sizes[0] * self.sizes[1]
        return self.batch * (3 * self.flops_per_row - first)

    def parameters(self, dtype=np.float32, seed=0):
        """A flat vector W_1, b_1, W_2, ... with weights N(0, 2 / n_in) and zero biases."""
        rng, parts = np.random.default_rng(seed), []
        for n_in, n_out in itertools.pairwise(self.sizes):
            parts += [rng.standard_normal(n_in * n_out) * np.sqrt(2 / n_in), np.zeros(n_out)]
        return np.concatenate(parts).astype(dtype)

    def layers(self, flat):
        """A flat vector of parameters as views [(W, b), ...]."""
        found, start = [], 0
        for n_in, n_out in itertools.pairwise(self.sizes):
            middle = start + n_in * n_out
            found.append((flat[start:middle].reshape(n_in, n_out), flat[middle : middle + n_out]))
            start = middle + n_out
        return found

    def data(self, rows, dtype=np.float32, seed=1):
        """Normal X (rows, n_0), and the labels (rows,) that a linear map with some noise gives: something to learn."""
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((rows, self.sizes[0]))
        scores = X @ rng.standard_normal((self.sizes[0], self.sizes[-1])) / np.sqrt(self.sizes[0])
        labels = np.argmax(scores + 0.1 * rng.standard_normal(scores.shape), axis=1)
        return X.astype(dtype), labels.astype(np.int64)


CASES = {
    str(case): case
    for case in (
        Case((4, 32, 32, 3), 32),
        Case((64, 64, 64, 10), 64),
        Case((20, 100, 2), 200),
        Case((784, 128, 10), 128),
        Case((784, 512, 512, 10), 256),
    )
}

"""What a network computes: predictions, every layer's numbers, gradients, the mean loss.

The boundary of the library: data are checked and converted here, once, and engines get what ``engine.py`` describes.
"""

from typing import NamedTuple

import numpy as np

from . import _validation, engine
from .parameters import LayeredParameters

__all__ = ["Computation", "Forward", "Gradients"]

# Elements of all layers' Z and A that evaluating holds at a time: 8 MB each in float64, large enough for full speed.
_EVALUATION_ELEMENTS = 2**20


class Forward(NamedTuple):
    """What `MLP.forward` returns: for each layer l = 1 .. L an array (n_samples, n_l).

    Attributes
    ----------
    Z : list of ndarray
        Z_l = A_{l-1} W_l + b_l, with A_0 = X; what a normalised layer makes of its sums, with running statistics.
    A : list of ndarray
        A_l = phi_l(Z_l); the last one is what `MLP.predict` returns.
    """

    Z: list
    A: list


class Gradients(NamedTuple):
    """What `MLP.gradients` returns: the derivative of the mean loss by the parameters.

    Attributes
    ----------
    flat : ndarray (n_parameters,)
        In the order of `MLP.parameters`.
    weights, biases, scales : list of ndarray
        Views into `flat`, (n_in, n_out), (n_out,) and (n_out,) for each layer; no scale, but None, for one that is not
        normalised.
    """

    flat: np.ndarray
    weights: list
    biases: list
    scales: list


class Computation(LayeredParameters):
    """What can be asked of a network that has layers and parameters; `MLP` adds how it is made, trained and kept."""

    def predict(self, X, out=None):
        """The activations of the output layer.

        Parameters
        ----------
        X : array-like (n_samples, n_in)
            Finite real numbers.  Not copied where it is a C-contiguous array of the network's dtype.
        out : ndarray (n_samples, n_out), optional
            Where to write the result: writable, C-contiguous and of the network's dtype.

        Returns
        -------
        ndarray (n_samples, n_out)
            `out` where that is given.  No row depends on the others, to the last bit.

        Raises
        ------
        ValueError, TypeError
            For X or `out` of the wrong kind, or values that are not finite; the message names the place.

        Examples
        --------
        >>> from cymlp import MLP
        >>> MLP.from_weights([[[2.0]]], [[1.0]], engine="reference").predict([[1.0], [2.0]])
        array([[3.],
               [5.]])
        """
        if (answer := self._answer(X, out)) is not None:
            return answer
        rows = self._check_inputs(X)
        shape = (len(rows), self._layer_sizes[-1])
        result = np.empty(shape, rows.dtype) if out is None else out
        target = _validation.as_output(result, shape, rows.dtype)
        if np.may_share_memory(rows, target):
            rows = rows.copy()  # rows are read after others were written
        if not self._in_step and not self._bring_in_step(rows.dtype):
            return self.predict(X, out)
        if len(rows) > 0:
            self._network.predict(rows, target, self._threads(2.0 * self._n_weights * len(rows)))
        return result

    def _answer(self, X, out=None):
        """`predict` where nothing has to be converted or refused, else None; `out` then is as it was."""
        return self._network.answer(X, out, self._threads) if self._in_step else None

    def forward(self, X):
        """Every layer's Z and A.

        Parameters
        ----------
        X : array-like (n_samples, n_in)

        Returns
        -------
        Forward
            Lists `Z` and `A` of arrays (n_samples, n_l), one for each layer.

        Raises
        ------
        ValueError, TypeError
            As in `predict`.

        Examples
        --------
        >>> from cymlp import MLP
        >>> Z, A = MLP.from_weights([[[2.0]]], [[-3.0]], output_activation="relu", engine="reference").forward([[1.0]])
        >>> Z[0], A[0]
        (array([[-1.]]), array([[0.]]))
        """
        rows = self._check_inputs(X)
        if not self._in_step and not self._bring_in_step(rows.dtype):
            return self.forward(X)
        if len(rows) == 0:
            return Forward(*([np.empty((0, size), rows.dtype) for size in self._layer_sizes[1:]] for _ in range(2)))
        Z, A = self._network.forward(rows, self._threads(2.0 * self._n_weights * len(rows)))
        return Forward(list(Z), list(A))

    def gradients(self, X, y, sample_weight=None):
        """The mean loss and its derivative by all parameters, by backpropagation.

        Parameters
        ----------
        X : array-like (n_samples, n_in)
            At least one row.
        y : array-like
            Behind a softmax output: labels (n_samples,) in [0, n_out), or one-hot rows or probabilities
            (n_samples, n_out).  Behind sigmoid: values in [0, 1], of shape (n_samples,) or (n_samples, 1) with one
            output; with more (n_samples, n_out), or labels (n_samples,).  Else (n_samples, n_out), or (n_samples,) with
            one output; at least 0 for the Poisson loss.
        sample_weight : array-like (n_samples,), optional
            At least 0, not all 0.  The mean is sum_i w_i loss_i / sum_i w_i: only ratios matter.  Divided by the power
            of two that brings the largest into [1/2, 1), what is below the smallest normal number counts as 0.

        Returns
        -------
        loss : float
        gradients : Gradients
            `flat` (n_parameters,), and lists of views `weights`, `biases`, `scales`.

        Raises
        ------
        ValueError, TypeError
            For arguments of the wrong kind, or values that are not finite or out of range.

        Notes
        -----
        Batch-normalised layers take the rows for a minibatch, as training does, and leave running statistics alone:
        the loss then is not that of `evaluate`.

        Rumelhart, Hinton & Williams (1986), Learning representations by back-propagating errors, eq. 5-8; Ioffe &
        Szegedy (2015), Batch normalization, section 3; Ba, Kiros & Hinton (2016), Layer normalization, section 3.

        Examples
        --------
        >>> from cymlp import MLP
        >>> loss, gradients = MLP.from_weights([[[2.0]]], [[0.0]], engine="reference").gradients([[3.0]], [5.0])
        >>> loss, gradients.flat
        (0.5, array([3., 1.]))
        """
        rows, targets, weight = self._check_data(X, y, sample_weight)
        if not self._in_step and not self._bring_in_step(rows.dtype):
            return self.gradients(X, y, sample_weight)
        flat = np.empty(self._n_parameters, self._dtype)
        loss = self._network.gradients(rows, targets, weight, flat, self._threads(6.0 * self._n_weights * len(rows)))
        return float(loss), Gradients(flat, *self._layout.views(flat))

    def evaluate(self, X, y, sample_weight=None):
        """The mean loss.

        Parameters
        ----------
        X, y, sample_weight
            As in `gradients`.

        Returns
        -------
        float

        Examples
        --------
        >>> from cymlp import MLP
        >>> MLP.from_weights([[[2.0]]], [[0.0]], engine="reference").evaluate([[3.0]], [5.0])
        0.5
        """
        data = self._check_data(X, y, sample_weight)
        if not self._in_step and not self._bring_in_step(data[0].dtype):
            return self.evaluate(X, y, sample_weight)
        return self._mean_loss(*data)

    def _mean_loss(self, X, y, sample_weight, outputs=None):
        """`evaluate` for checked data, with the engine's parameters; `outputs` gets what `predict` would give."""
        step = max(1, _EVALUATION_ELEMENTS // (2 * sum(self._layer_sizes[1:])))
        output, kernels = self.output_activation, engine.choose(self._engine)
        loss_sum = weight_sum = 0.0
        for start in range(0, len(X), step):
            rows = slice(start, start + step)
            weight = None if sample_weight is None else sample_weight[rows]
            total = float(len(X[rows]) if weight is None else weight.sum(dtype=np.float64))
            Z, A = self._network.forward(X[rows], self._threads(2.0 * self._n_weights * len(X[rows])))
            if outputs is not None:
                outputs[rows] = A[-1]
            mean, _ = kernels.loss_and_gradient(
                self._loss.name, output.name, Z[-1], y[rows], weight, delta=self._loss.parameter, slope=output.slope
            )
            loss_sum += mean * total
            weight_sum += total
        return loss_sum / weight_sum

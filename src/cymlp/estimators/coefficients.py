"""``coefs_`` and ``intercepts_``: arrays that users of scikit-learn write into, beside a network that has its own.

The arrays are handed out where they are asked for.  As long as somebody may have one, what was written into them is
looked for before the network is used; who never asks does not pay.
"""

import itertools
import operator
import sys

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..layout import Layout

__all__ = ["Coefficients"]


def _references(handed_out):
    """References to what is in `Coefficients._handed_out`: to the vector, the most to a list, the most to an array."""
    _, flat, *lists = handed_out
    arrays = list(itertools.chain(*lists))
    n_views = [getattr(array, "base", None) is flat for array in arrays].count(True)  # each has one
    return sys.getrefcount(flat) - n_views, max(map(sys.getrefcount, lists)), max(map(sys.getrefcount, arrays))


# What these are where nobody else has any; asked of Python, whose versions count differently.
_NOBODY = _references((lambda flat: (None, flat, *Layout((1, 1)).views(flat)[:2]))(np.zeros(2)))


class Coefficients:
    """An estimator's ``network_``, and its parameters as scikit-learn shows them."""

    _handed_out = None

    @property
    def coefs_(self):
        """List of ndarray (n_in, n_out): the weights of each layer.  What is written into them is predicted with."""
        return self._hand_out()[1]

    @coefs_.setter
    def coefs_(self, arrays):
        self._check_fitted()._set_views(0, arrays, "coefs_")
        self._handed_out = None

    @property
    def intercepts_(self):
        """List of ndarray (n_out,): the biases of each layer.  What is written into them is predicted with."""
        return self._hand_out()[2]

    @intercepts_.setter
    def intercepts_(self, arrays):
        self._check_fitted()._set_views(1, arrays, "intercepts_")
        self._handed_out = None

    @property
    def scales_(self):
        """List of read-only ndarray (n_out,), None for layers that are not normalised; settable by `network_`."""
        return self._shown("scales")

    @property
    def running_means_(self):
        """List of read-only ndarray (n_out,), None for layers without batch normalisation."""
        return self._shown("running_means")

    @property
    def running_variances_(self):
        """List of read-only ndarray (n_out,), None for layers without batch normalisation."""
        return self._shown("running_variances")

    def _shown(self, name):
        if "network_" not in self.__dict__:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet: it has no {name}_")
        return getattr(self._check_fitted(), name)

    def _hand_out(self):
        """A vector of parameters that its user can write into, and the lists of views into it."""
        if "network_" not in self.__dict__:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet: it has no coefs_ and intercepts_")
        handed_out, parameters = self._handed_out, self.network_.parameters
        if handed_out is not None and not np.array_equal(handed_out[0], parameters):
            self._take_back(handed_out)
            handed_out, parameters = self._handed_out, self.network_.parameters
        if handed_out is None:
            flat = parameters.copy()
            self._handed_out = handed_out = (flat.copy(), flat, *self.network_._layout.views(flat)[:2])
        return handed_out[1:]

    def _take_back(self, handed_out):
        """Give the network what was written into the arrays that were handed out.

        Where nothing was, but the network is another one by now, the arrays are not its parameters any more.
        """
        known, flat, *lists = handed_out
        written = flat.copy()
        mine = self.network_._layout.views(written)[:2]
        for name, arrays, copies in zip(("coefs_", "intercepts_"), lists, mine, strict=True):
            self.network_._fill(copies, arrays, name)
        if not np.array_equal(written, known):
            self.network_.parameters = written
            known[:] = written
        elif not np.array_equal(known, self.network_.parameters):
            self._handed_out = None

    def _check_fitted(self):
        """The network, with what its user has written into `coefs_`."""
        if "network_" not in self.__dict__:
            check_is_fitted(self, "network_")
        handed_out = self._handed_out  # another thread may put it away
        if handed_out is not None:
            self._take_back(handed_out)
            if all(map(operator.le, _references(handed_out), _NOBODY)):
                self._handed_out = None
        return self.network_

    def __getstate__(self):
        if (handed_out := self._handed_out) is not None:
            self._take_back(handed_out)
        state = super().__getstate__()
        return state | {"_handed_out": None} if "_handed_out" in state else state

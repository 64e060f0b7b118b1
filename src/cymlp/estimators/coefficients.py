"""``coefs_`` and ``intercepts_``: arrays that users of scikit-learn write into, beside a network that has its own.

The arrays are handed out where they are asked for.  As long as somebody may have one, what was written into them is
looked for before the network is used; who never asks does not pay.
"""

import itertools
import operator
import sys

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..parameters import views

__all__ = ["Coefficients"]


def _references(handed_out):
    """References to what is in `Coefficients._handed_out`: to the vector, the most to a list, the most to an array."""
    flat, *lists = handed_out
    arrays = list(itertools.chain(*lists))
    n_views = [getattr(array, "base", None) is flat for array in arrays].count(True)  # each has one
    return sys.getrefcount(flat) - n_views, max(map(sys.getrefcount, lists)), max(map(sys.getrefcount, arrays))


# What these are where nobody else has any; asked of Python, whose versions count differently.
_NOBODY = _references((lambda flat: (flat, *views(flat, (1, 1))))(np.zeros(2)))


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

    def _hand_out(self):
        """A vector of parameters that its user can write into, and the lists of views into it."""
        if "network_" not in self.__dict__:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet: it has no coefs_ and intercepts_")
        if self._handed_out is None:
            flat = self.network_.parameters.copy()
            self._handed_out = (flat, *views(flat, self.network_.layer_sizes))
        return self._handed_out

    def _take_back(self):
        """Give the network what was written into the arrays that were handed out."""
        flat, *lists = self._handed_out
        written = flat.copy()
        mine = views(written, self.network_.layer_sizes)
        for name, arrays, copies in zip(("coefs_", "intercepts_"), lists, mine, strict=True):
            self.network_._fill(copies, arrays, name)
        if not np.array_equal(written, self.network_.parameters):
            self.network_.parameters = written

    def _check_fitted(self):
        """The network, with what its user has written into `coefs_`."""
        if "network_" not in self.__dict__:
            check_is_fitted(self, "network_")
        if self._handed_out is not None:
            self._take_back()
            if all(map(operator.le, _references(self._handed_out), _NOBODY)):
                self._handed_out = None
        return self.network_

    def __getstate__(self):
        if self._handed_out is not None:
            self._take_back()
        return super().__getstate__() | {"_handed_out": None}

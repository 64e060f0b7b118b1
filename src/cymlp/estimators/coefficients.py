"""``coefs_`` and ``intercepts_``: arrays that users of scikit-learn write into, beside a network that has its own.

The arrays are handed out where they are asked for.  As long as somebody may have one, what was written into them is
looked for before the network is used; who never asks does not pay.
"""

import sys

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..parameters import views

__all__ = ["Coefficients"]


def _holders(handed_out):
    """The most references that one of the objects in `Coefficients._handed_out` has."""
    flat, *lists = handed_out
    most = sys.getrefcount(flat) - sum(map(len, lists))  # each view has one
    for arrays in lists:
        most = max(most, sys.getrefcount(arrays), *map(sys.getrefcount, arrays))
    return most


# What that is where nobody else has them; asked of Python, whose versions count differently.
_NOBODY = _holders((lambda flat: (flat, *views(flat, (1, 1))))(np.zeros(2)))


class Coefficients:
    """An estimator's ``network_``, and its parameters as scikit-learn shows them."""

    _handed_out = None

    @property
    def coefs_(self):
        """List of ndarray (n_in, n_out): the weights of each layer.  What is written into them is predicted with."""
        return self._hand_out()[1]

    @coefs_.setter
    def coefs_(self, arrays):
        self._check_fitted().weights = arrays
        self._handed_out = None

    @property
    def intercepts_(self):
        """List of ndarray (n_out,): the biases of each layer.  What is written into them is predicted with."""
        return self._hand_out()[2]

    @intercepts_.setter
    def intercepts_(self, arrays):
        self._check_fitted().biases = arrays
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
        for given, mine in zip(lists, views(flat, self.network_.layer_sizes), strict=True):
            for array, view in zip(given, mine, strict=True):
                if np.shape(array) != view.shape:
                    raise ValueError(
                        f"coefs_ and intercepts_ must keep their shapes; got {np.shape(array)}, not {view.shape}"
                    )
                if not np.may_share_memory(array, view):
                    view[...] = array
        if not np.array_equal(flat, self.network_.parameters):
            self.network_.parameters = flat

    def _check_fitted(self):
        """The network, with what its user has written into `coefs_`."""
        if "network_" not in self.__dict__:
            check_is_fitted(self)
        if self._handed_out is not None:
            self._take_back()
            if _holders(self._handed_out) <= _NOBODY:
                self._handed_out = None
        return self.network_

    def __getstate__(self):
        if self._handed_out is not None:
            self._take_back()
        return super().__getstate__() | {"_handed_out": None}

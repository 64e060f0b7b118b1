"""Tables to arrays that networks learn from easily: numbers that are nowhere far from 0, and one-hot categories."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["SmoothClip", "table_inputs"]

# Columns that a column of categories can make: a bound on memory where someone forgot to drop an identifier.
MAX_CATEGORIES = 256


class SmoothClip(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Columns centred by the median, scaled by the quartiles, and bent so that nothing is beyond 3.

    z = (x - median) / (upper - lower quartile);  z <- z / sqrt(1 + (z / 3)^2).

    The identity near the median, and outliers keep their order.  Where the quartiles coincide, half the range takes the
    place of their distance; a constant column becomes zeros.

    Source: Holzmüller, Grinsztajn & Steinwart (2024), Better by default: strong pre-tuned MLPs and boosted trees on
    tabular data, section 3.

    Parameters
    ----------
    dtype : {float32, float64} or None, default None
        Of the result, which is computed in the dtype of X and is small whatever X holds; None for that of X.

    Attributes
    ----------
    center_, scale_ : ndarray (n_features,)
        z = (x - center_) * scale_.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X has names for all columns.

    Examples
    --------
    >>> SmoothClip().fit_transform([[0.0], [1.0], [2.0], [3.0], [1000.0]]).ravel().round(2)
    array([-0.95, -0.49,  0.  ,  0.49,  3.  ])
    """

    def __init__(self, *, dtype=None):
        self.dtype = dtype

    def fit(self, X, y=None):
        """Learn medians and distances of quartiles.

        Parameters
        ----------
        X : array-like (n_samples, n_features)
            Finite numbers.
        y : object
            Not read.

        Returns
        -------
        self : object
        """
        X = self._check(X, reset=True)
        tiny = np.finfo(X.dtype).tiny
        low, lower, self.center_, upper, high = (part / 2 for part in np.percentile(X, (0, 25, 50, 75, 100), axis=0))
        self.center_ *= 2
        # Of halves, that they do not overflow; a distance below the smallest normal number has no finite inverse.
        spread = 2 * (upper - lower)
        spread = np.where(spread < tiny, high - low, spread)
        self.scale_ = np.where(spread < tiny, 0, 1 / np.maximum(spread, tiny)).astype(X.dtype)
        return self

    def transform(self, X):
        """Centre, scale and bend.

        Parameters
        ----------
        X : array-like (n_samples, n_features)
            Finite numbers.

        Returns
        -------
        ndarray (n_samples, n_features)
            Within [-3, 3].
        """
        check_is_fitted(self)
        X = self._check(X, reset=False)
        limit = np.sqrt(np.finfo(X.dtype).max)  # far beyond what rounds to 3
        with np.errstate(over="ignore"):
            Z = np.clip((X - self.center_) * self.scale_, -limit, limit)
        return (Z / np.hypot(1, Z / 3)).astype(self.dtype or X.dtype, copy=False)

    def _check(self, X, reset):
        if self.dtype is not None and np.dtype(self.dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32, float64 or None; got {self.dtype!r}")
        return validate_data(self, X, dtype=(np.float64, np.float32), reset=reset)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"] if self.dtype is None else []
        return tags


# ---- Columns of several kinds ----


def table_inputs():
    """A transformer of arrays and data frames with columns of numbers and of categories to one float32 array.

    Numbers: missing ones become the median, beside a column that tells where (for columns with some in `fit`), and then
    `SmoothClip`.  Categories are texts, booleans, a frame's categories, and objects of which one is neither a number
    nor None: one column each, missing is a category too, zeros for those that are new, and the rarest together where
    there are more than 256.

    Returns
    -------
    sklearn.compose.ColumnTransformer
        Its `fit` raises ValueError for a column of dates or durations.
    """
    numbers = Pipeline(
        [
            ("impute", SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)),
            ("clip", SmoothClip(dtype=np.float32)),
        ]
    )
    categories = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES, sparse_output=False, dtype=np.float32
    )
    return ColumnTransformer(
        [("numbers", numbers, _columns_of_numbers), ("categories", categories, _columns_of_categories)],
        verbose_feature_names_out=False,
    )


def _columns_of_numbers(X):
    return [i for i, is_category in enumerate(_are_categories(X)) if not is_category]


def _columns_of_categories(X):
    return [i for i, is_category in enumerate(_are_categories(X)) if is_category]


def _are_categories(X):
    if hasattr(X, "iloc"):  # names may be numbers, or not unique
        return [_is_category(X.iloc[:, i], name) for i, name in enumerate(X.columns)]
    if hasattr(X, "columns"):
        return [_is_category(X[name], name) for name in X.columns]
    return [_is_category(X[:, i], i) for i in range(X.shape[1])]


def _is_category(column, name):
    kind = getattr(column.dtype, "kind", None) or np.asarray(column).dtype.kind
    if kind in "Mm":
        raise ValueError(
            f"column {name!r} holds dates or durations ({column.dtype}): make numbers of them, such as days since the "
            "first one, or the month"
        )
    if column.dtype == object:
        return not all(value is None or (isinstance(value, Real) and not isinstance(value, bool)) for value in column)
    return kind in "bOSU"

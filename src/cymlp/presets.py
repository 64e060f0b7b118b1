"""Ready-made estimators: `tabular` is what to try first on a table.

The recipe follows RealMLP-TD-S: Holzmüller, Grinsztajn & Steinwart (2024), Better by default: strong pre-tuned MLPs and
boosted trees on tabular data.  What differs was chosen by cross-validation with other splits than those of the
published figures:

- 2 layers of 128 units, not 3 of 256; minibatches of 32 for 128 epochs, not of 256 for 256: as good, several times as
  fast, and enough steps where there are 100 rows.
- SiLU for SELU and Mish.  Small initial weights (gain 0.25) for a last layer of zeros.
- Plain parameters for "neural tangent" ones with factors by layer, hence another learning rate, 0.002.
- The validation loss, not the accuracy, chooses the epoch: less noise where few rows are held out.
- A temperature for the probabilities, which label smoothing makes too cautious.
- 5 members for one, so that every row is trained with: Krogh & Vedelsby (1995), Neural network ensembles, cross
  validation, and active learning.
"""

import functools
import math
from numbers import Integral

import numpy as np
from scipy import sparse
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import _safe_indexing, check_array, check_consistent_length, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from .estimators import MLPClassifier, MLPRegressor
from .estimators.documentation import documented
from .preprocessing import SmoothClip, table_inputs

__all__ = ["SmoothClip", "TabularClassifier", "TabularRegressor", "coslog4", "tabular"]

# What the members have in common that is no parameter here.
_RECIPE = {
    "beta_2": 0.95,
    "initializer": "auto",
    "gain": 0.25,
    "early_stopping": True,
    "scoring": "loss",
    "n_iter_no_change": np.inf,
}


def tabular(task="classification", **parameters):
    """An estimator for tables of numbers and categories that needs neither preparation nor tuning.

    Parameters
    ----------
    task : {"classification", "regression"}, default "classification"
    **parameters
        Of `TabularClassifier` or `TabularRegressor`.

    Returns
    -------
    TabularClassifier or TabularRegressor

    Raises
    ------
    ValueError
        For another task.

    Examples
    --------
    >>> tabular("regression", random_state=0)
    TabularRegressor(random_state=0)
    """
    if task not in ("classification", "regression"):
        raise ValueError(f"task must be 'classification' or 'regression'; got {task!r}")
    return (TabularClassifier if task == "classification" else TabularRegressor)(**parameters)


def coslog4(progress):
    """A factor on the learning rate: four cycles of a cosine from 0 to 1 and back, each twice as long as the last.

    Source: Holzmüller, Grinsztajn & Steinwart (2024), section 3: 1/2 - 1/2 cos(2 pi log2(1 + 15 t)).

    Parameters
    ----------
    progress : float
        The share t of the epochs that are done, in [0, 1].

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> [round(coslog4(t), 3) for t in (0, 1 / 15, 2 / 15, 1)]
    [0.0, 0.0, 0.93, 0.0]
    """
    return 0.5 - 0.5 * math.cos(2 * math.pi * math.log2(1 + 15 * progress))


_PARTS = {
    "parameters": """n_members : int, default 5
    Networks whose predictions are averaged, at least 2.  The rows are dealt into as many parts, with alike targets in
    each; a member keeps its best epoch by one part and is trained with the others.
hidden_layer_sizes : array-like of int, default (128, 128)
    Units of each hidden layer.
activation : str, Activation, or list of them, default "silu"
    Of the hidden layers, as for `MLPClassifier`.
alpha : float, default 0.0
    Strength of the L2 penalty, as for `MLPClassifier`.
batch_size : int, default 32
    Rows of a minibatch.
learning_rate_init : float, default 0.002
    The highest learning rate; `coslog4` is the factor on it.
max_iter : int, default 128
    Epochs.""",
    "more": """random_state : int, RandomState or None, default None
    Where parts, weights and minibatches come from.
n_jobs : int or None, default None
    How many members are trained at a time, in processes of their own; None is 1, or what joblib's context says.
n_threads : int or None, default None
    The most threads of a member; None decides by the machine and the work.  Results do not depend on it.
engine : {"compiled", "reference"}, default "compiled"
    "reference" computes with NumPy: slower, otherwise the same.""",
    "attributes": """n_iter_ : int
    Epochs that members were trained for.
health_ : cymlp.health.HealthReport
    Of the member with most findings, the first of equals.
inputs_ : sklearn.compose.ColumnTransformer
    What makes inputs of networks of the columns.
n_features_in_ : int
feature_names_in_ : ndarray of str
    Where X has names for all columns.""",
}
_documented = functools.partial(documented, parts=_PARTS)


class _Tabular(BaseEstimator):
    """What both estimators share."""

    def _keep(self, arguments):
        """Set every parameter of the constructor that calls this, from its ``locals()``; subclasses may have others."""
        for name, value in arguments.items():
            if name != "self":
                setattr(self, name, value)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags

    def _check_table(self, X, reset):
        """X as `inputs_` takes it: a frame as it is, anything else an array."""
        if not hasattr(X, "columns"):
            # Objects, as lists of texts and numbers would become texts.
            dtype = None if hasattr(X, "dtype") or sparse.issparse(X) else object
            X = check_array(X, dtype=dtype, ensure_all_finite=False, estimator=self, input_name="X")
        validate_data(self, X, reset=reset, skip_check_array=True)
        return X

    def _check(self, X, y, sample_weight, **checks):
        """X, y and weights, of the rows that count."""
        if isinstance(self.n_members, bool) or not isinstance(self.n_members, Integral) or self.n_members < 2:
            raise ValueError(f"n_members must be an integer >= 2; got {self.n_members!r}")
        y = validate_data(self, y=y, **checks)  # before X, whose names it would forget
        X = self._check_table(X, reset=True)
        check_consistent_length(X, y)
        if sample_weight is None:
            return X, y, None
        weight = _check_sample_weight(sample_weight, np.empty((len(y), 0)), ensure_non_negative=True)
        counts = np.flatnonzero(weight)
        return _safe_indexing(X, counts), y[counts], weight[counts]

    def _fit_members(self, make, X, y, weight, keys, can_be_held_out):
        """Set `inputs_` and `estimators_`; `keys` are what parts should have alike shares of.

        Returns, of each member, itself, the inputs that were held out, and a mask that tells which they are.
        """
        candidates = np.flatnonzero(can_be_held_out)
        if len(candidates) < 2:
            raise ValueError(
                f"at least 2 rows are needed that can be held out; got n_samples={len(y)} with a weight above 0"
                + (", each with a class of its own" if len(y) > 1 else "")
            )
        self.inputs_ = table_inputs()
        inputs = self.inputs_.fit_transform(X)
        rng = check_random_state(self.random_state)
        n_members = min(self.n_members, len(candidates))
        # Neighbours in the order of keys go to different parts; chance decides among equal ones.
        candidates = rng.permutation(candidates)
        part_of = np.full(len(y), -1)
        part_of[candidates[np.argsort(keys[candidates], kind="stable")]] = np.arange(len(candidates)) % n_members
        common = _RECIPE | {
            "hidden_layer_sizes": self.hidden_layer_sizes,
            "activation": self.activation,
            "alpha": self.alpha,
            "batch_size": self.batch_size,
            "learning_rate": coslog4,
            "learning_rate_init": self.learning_rate_init,
            "max_iter": self.max_iter,
            "n_threads": self.n_threads,
            "engine": self.engine,
        }
        members = [make(random_state=int(rng.randint(2**31 - 1)), **common) for _ in range(n_members)]
        self.estimators_ = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit)(member, inputs, y, weight, part_of == part) for part, member in enumerate(members)
        )
        self.n_iter_ = max(member.n_iter_ for member in self.estimators_)
        return [(member, inputs[part_of == part], part_of == part) for part, member in enumerate(self.estimators_)]

    @property
    def health_(self):
        """The `cymlp.health.HealthReport` of the member with most findings, the first of equals."""
        if "estimators_" not in self.__dict__:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet: it has no health_")
        return max((member.health_ for member in self.estimators_), key=lambda report: len(report.findings))

    def _mean(self, X, method):
        """The mean of what a method of the members returns, in float64."""
        check_is_fitted(self)
        inputs = self.inputs_.transform(self._check_table(X, reset=False))
        return np.mean([getattr(member, method)(inputs) for member in self.estimators_], axis=0, dtype=np.float64)


def _fit(member, X, y, weight, held_out):
    def rows(mask):
        return (X[mask], y[mask]) if weight is None else (X[mask], y[mask], weight[mask])

    train = rows(~held_out)
    if isinstance(member.batch_size, Integral):
        member.set_params(batch_size=min(member.batch_size, len(train[1])))  # scikit-learn warns of longer ones
    return member.fit(*train, validation_data=rows(held_out))


def _temper(probabilities, temperature):
    """Softmax of their logarithms over the temperature."""
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _temperature(probabilities, codes, weight):
    """The temperature with the least log loss, and not far from 1 where there are few rows or no wrong ones.

    The logarithm is taken to be normal with variance 1 beforehand, which weighs about as much as one row.
    """

    def loss(logarithm):
        likelihoods = _temper(probabilities, math.exp(logarithm))[np.arange(len(codes)), codes]
        logs = np.log(np.maximum(likelihoods, np.finfo(np.float64).tiny))
        return logarithm**2 / 2 - np.sum(logs if weight is None else weight * logs)

    return math.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)


@_documented
class TabularClassifier(ClassifierMixin, _Tabular):
    """Neural networks that classify the rows of a table, prepared, trained and combined so that it works untuned.

    Numbers are imputed by the median and scaled by `SmoothClip`, categories are one-hot; networks with label smoothing
    keep their best epoch, and their probabilities are averaged.  Smoothing makes them too cautious: a temperature for
    rows that a member was not trained with makes good for it, by Guo, Pleiss, Sun & Weinberger (2017), On calibration
    of modern neural networks, section 4.2.

    Parameters
    ----------
    {parameters}
    label_smoothing : float, default 0.1
        As for `MLPClassifier`.
    {more}

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    temperature_ : float
        Probabilities are proportional to the members' mean to the power of its inverse.
    estimators_ : list of MLPClassifier
        The members; their classes are positions in `classes_`.
    {attributes}

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import cross_val_score
    >>> X, y = load_wine(return_X_y=True)
    >>> bool(cross_val_score(TabularClassifier(random_state=0), X, y).mean() > 0.95)
    True
    """

    def __init__(
        self,
        *,
        n_members=5,
        hidden_layer_sizes=(128, 128),
        activation="silu",
        alpha=0.0,
        batch_size=32,
        learning_rate_init=0.002,
        max_iter=128,
        label_smoothing=0.1,
        random_state=None,
        n_jobs=None,
        n_threads=None,
        engine="compiled",
    ):
        self._keep(locals())

    def fit(self, X, y, sample_weight=None):
        """Train the members.

        Parameters
        ----------
        X : array-like or data frame (n_samples, n_features)
            Columns of numbers, of which some may be missing, and of categories; no infinite numbers and no dates.
        y : array-like (n_samples,)
            At least 2 classes.  Rows of a class that has no other row are trained with by all members.
        sample_weight : array-like (n_samples,), optional
            At least 0; rows of weight 0 might as well not be there.

        Returns
        -------
        self : object
        """
        X, y, weight = self._check(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least 2 classes; got {len(self.classes_)} class")
        make = functools.partial(MLPClassifier, label_smoothing=self.label_smoothing)
        fitted = self._fit_members(make, X, codes, weight, codes, counts[codes] > 1)
        held_out = np.concatenate([np.flatnonzero(rows) for _, _, rows in fitted])
        probabilities = np.concatenate([member.predict_proba(inputs) for member, inputs, _ in fitted])
        self.temperature_ = _temperature(
            probabilities, codes[held_out], None if weight is None else weight[held_out] / weight[held_out].mean()
        )
        return self

    def predict_proba(self, X):
        """The mean of the members' probabilities, as certain as `temperature_` makes it.

        Parameters
        ----------
        X : array-like or data frame (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_classes)
            In the order of `classes_`.
        """
        return _temper(self._mean(X, "predict_proba"), self.temperature_)

    def predict(self, X):
        """The most probable class of each row.

        Parameters
        ----------
        X : array-like or data frame (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,)
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]


@_documented
class TabularRegressor(RegressorMixin, _Tabular):
    """Neural networks that predict numbers from the rows of a table, prepared, trained and combined to work untuned.

    Numbers are imputed by the median and scaled by `SmoothClip`, categories are one-hot, targets are standardised;
    networks keep their best epoch, and the mean of their predictions is kept within the range of the targets seen.

    Parameters
    ----------
    {parameters}
    {more}

    Attributes
    ----------
    target_mean_, target_scale_ : float, or ndarray (n_outputs,)
        What targets are standardised by, in float64.
    target_range_ : ndarray (2,) or (2, n_outputs)
        The smallest and the largest target.
    estimators_ : list of MLPRegressor
        The members, of standardised targets.
    {attributes}

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.model_selection import cross_val_score
    >>> X, y = load_diabetes(return_X_y=True)
    >>> bool(cross_val_score(TabularRegressor(random_state=0), X, y).mean() > 0.45)
    True
    """

    def __init__(
        self,
        *,
        n_members=5,
        hidden_layer_sizes=(128, 128),
        activation="silu",
        alpha=0.0,
        batch_size=32,
        learning_rate_init=0.002,
        max_iter=128,
        random_state=None,
        n_jobs=None,
        n_threads=None,
        engine="compiled",
    ):
        self._keep(locals())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Train the members.

        Parameters
        ----------
        X : array-like or data frame (n_samples, n_features)
            Columns of numbers, of which some may be missing, and of categories; no infinite numbers and no dates.
        y : array-like (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like (n_samples,), optional
            At least 0; rows of weight 0 might as well not be there.

        Returns
        -------
        self : object
        """
        X, y, weight = self._check(X, y, sample_weight, multi_output=True, y_numeric=True)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        y = y.astype(np.float64)
        if len(y) > 0:
            self.target_range_ = np.stack([y.min(axis=0), y.max(axis=0)])
            self.target_mean_, scale = y.mean(axis=0), y.std(axis=0)
            self.target_scale_ = np.where(scale > 0, scale, 1.0)
            y = (y - self.target_mean_) / self.target_scale_
        keys = y.reshape(len(y), -1).sum(axis=1)
        self._fit_members(MLPRegressor, X, y, weight, keys, np.ones(len(y), dtype=bool))
        return self

    def predict(self, X):
        """The mean of the members' predictions, within the range of the targets seen.

        Parameters
        ----------
        X : array-like or data frame (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) or (n_samples, n_outputs)
        """
        return np.clip(self._mean(X, "predict") * self.target_scale_ + self.target_mean_, *self.target_range_)

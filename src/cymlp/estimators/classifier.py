"""MLPClassifier: labels in, probabilities out."""

from numbers import Real

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from .. import activations, losses
from .._labels import smoothed
from ..orders import KINDS
from .base import BaseMLP
from .documentation import documented
from .examples import dense_blocks

__all__ = ["MLPClassifier"]


def _is_stochastic(estimator):
    """For `available_if` around ``partial_fit``."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            f"partial_fit is only available for stochastic optimizers. {estimator.solver} is not stochastic."
        )
    return True


@documented
class MLPClassifier(ClassifierMixin, BaseMLP):
    """A multilayer perceptron that classifies: scikit-learn's ``MLPClassifier``, computed by compiled kernels.

    One `random_state` gives the numbers that scikit-learn gives, to rounding.  Binary, multiclass and multilabel
    targets.

    Parameters
    ----------
    {layers}
    {training}
    class_weight : dict, list of dict, "balanced" or None, default None
        Factors on the sample weights by class; "balanced" is n_samples / (n_classes * count of the class): King & Zeng
        (2001), Logistic regression in rare events data.  A list has a dict for each output of a multilabel target.
    label_smoothing : float, default 0.0
        In [0, 1): the share s of each target that is spread over all classes, y (1 - s) + s / n_classes; with one
        output or a multilabel target over 0 and 1.  Szegedy et al. (2016), Rethinking the Inception architecture,
        section 7.
    {more}

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
        The labels.
    {attributes}

    See Also
    --------
    MLPRegressor, cymlp.MLP

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = MLPClassifier((16,), max_iter=1000, learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> classifier.predict(X[:3])
    array([0, 0, 0])
    >>> classifier.score(X, y) > 0.95
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012  scikit-learn's name and form
        **BaseMLP._parameter_constraints,
        "shuffle": ["boolean", StrOptions(set(KINDS))],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }
    _checks = {}  # noqa: RUF012
    _loss_factor = 1.0

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        class_weight=None,
        label_smoothing=0.0,
        initializer=None,
        gain=1.0,
        dropout=0.0,
        batch_norm=False,
        layer_norm=False,
        l1=0.0,
        l2=0.0,
        weight_decay=0.0,
        max_norm=None,
        penalize_biases=False,
        clip_norm=None,
        clip_layer_norm=None,
        clip_value=None,
        scoring=None,
        callbacks=None,
        n_threads=None,
        max_time=None,
        health=True,
        engine="compiled",
    ):
        self._keep(locals())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # ---- Targets ----

    @property
    def _has_labels(self):
        return self._label_binarizer.y_type_ == "multiclass"

    def _output_activation(self):
        return activations.get("softmax" if self._has_labels else "sigmoid")

    def _loss(self, output):
        return losses.default_for(output)

    def _learn_targets(self, y, sample_weight, incremental):
        """Take the classes of a first fit, or check those of a later one."""
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        elif self.warm_start and set(unique_labels(y)) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {self.classes_}, `y` has {unique_labels(y)}"
            )

    def _encode(self, y, dtype):
        if y.ndim == 1 and y.dtype.kind == self.classes_.dtype.kind and y.dtype.kind in "biufUS":
            # The usual case, in a tenth of the time: minibatches of a stream are small.
            numbers = np.searchsorted(self.classes_, y)
            if np.array_equal(self.classes_.take(numbers, mode="clip"), y):
                return (
                    numbers.astype(np.int64, copy=False) if self._has_labels else (numbers[:, None] == 1).astype(dtype)
                )
        unseen = np.setdiff1d(unique_labels(y), self.classes_, assume_unique=True)
        if len(unseen):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. "
                f"'y' has {unique_labels(y)}."
            )
        if self._has_labels:
            return np.searchsorted(self.classes_, y).astype(np.int64, copy=False)
        return self._label_binarizer.transform(y).astype(dtype)

    def _smooth(self, targets, dtype):
        """What is trained with in place of certain targets."""
        return smoothed(targets, self.label_smoothing, self.n_outputs_, self._has_labels, dtype)

    def _exported(self, parameters):
        return parameters.copy()

    def _decode(self, targets):
        """Labels from what `_encode` returned, or from the network's outputs."""
        if self._label_binarizer.y_type_ == "binary" and len(self.classes_) == 2:
            return self.classes_[(targets[:, 0] > 0.5).astype(np.intp)]
        if self._has_labels:
            return self.classes_[targets if targets.ndim == 1 else targets.argmax(axis=1)]
        return self._label_binarizer.inverse_transform(targets)

    @staticmethod
    def _loss_clip(dtype):
        """scikit-learn takes no probability for less than this when it reports a loss; gradients are exact in both."""
        return float(np.finfo(dtype).eps)

    def _shape(self, y):
        return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _weigh(self, y, sample_weight, dtype, incremental):
        weights = self.class_weight
        if weights is None:
            return sample_weight
        if incremental and "balanced" in (weights if isinstance(weights, list) else [weights]):
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which does not see all data: pass a dict, "
                "such as sklearn.utils.class_weight.compute_class_weight gives for them"
            )
        # Those of all classes: some may be absent from this part of a stream, or from one of the outputs.
        if isinstance(weights, dict) and y.ndim == 1:
            every = compute_class_weight(weights, classes=self.classes_, y=self.classes_)
            weights = dict(zip(self.classes_.tolist(), every, strict=True))
        elif isinstance(weights, list) and y.ndim == 1:
            raise ValueError("class_weight must be a dict or 'balanced' where there is one output; got a list")
        elif isinstance(weights, list):
            weights = [{0: 1.0, 1: 1.0} | one if isinstance(one, dict) else one for one in weights]
        by_class = compute_sample_weight(weights, y).astype(dtype)
        return by_class if sample_weight is None else by_class * sample_weight

    def _strata(self, targets):
        """What scikit-learn stratifies the validation split by: the classes, where there is one output."""
        return (targets[:, 0] > 0.5).astype(str) if self.n_outputs_ == 1 else None

    def _default_score(self, examples):
        """The accuracy."""
        if len(self.classes_) == 1:
            return 1.0  # there is nothing else to answer
        right = np.empty(len(examples), dtype=bool)
        for rows, X in dense_blocks(examples.X):
            outputs, targets = self.network_.predict(X), examples.targets[rows]
            if self._has_labels:
                labels = targets if targets.ndim == 1 else targets.argmax(axis=1)
                right[rows] = outputs.argmax(axis=1) == labels
            else:
                right[rows] = ((outputs > 0.5) == (targets > 0.5)).all(axis=1)
        return float(np.average(right, weights=examples.weight))

    # ---- Faces ----

    @available_if(_is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, classes=None):
        """Train for one epoch, going on from what is there, the optimiser's state included.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array-like (n_classes,), optional
            All classes that will ever come; needed in the first call.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError, TypeError
            As for `fit`; for classes that are not known, or not those of an earlier call.
        """
        if _check_partial_fit_first_call(self, classes):
            labels = y if type_of_target(y).startswith("multilabel") else classes
            self._label_binarizer = LabelBinarizer().fit(labels)
        return self._fit(X, y, sample_weight, None, incremental=True)

    def predict(self, X):
        """The most probable class of each row; in a multilabel setting those with a probability above 1/2.

        Parameters
        ----------
        X : array-like, data frame or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,), or (n_samples, n_classes) of 0 and 1
        """
        return self._decode(self._outputs(X))

    def predict_proba(self, X):
        """The probability of each class.

        Parameters
        ----------
        X : array-like, data frame or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_classes)
            In the order of `classes_`, of the network's dtype.
        """
        outputs = self._outputs(X)
        if self.n_outputs_ > 1:
            return outputs
        both = np.empty((len(outputs), 2), outputs.dtype)
        both[:, 1] = outputs[:, 0]
        np.subtract(1, both[:, 1], out=both[:, 0])
        return both

    def predict_log_proba(self, X):
        """The logarithm of `predict_proba`.

        Parameters
        ----------
        X : array-like, data frame or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_classes)
        """
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

"""MLPRegressor: numbers in, numbers out."""

import numpy as np
from scipy import sparse
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions

from .. import activations, losses
from .base import BaseMLP
from .conversion import our_name
from .documentation import documented
from .examples import dense_blocks

__all__ = ["MLPRegressor"]

_LOSSES = {name for name, definition in losses.LOSSES.items() if definition.output_activation is None}
_OUTPUTS = {name for name in activations.ACTIVATIONS if name != "softmax"} | {"logistic"}


@documented
class MLPRegressor(RegressorMixin, BaseMLP):
    """A multilayer perceptron for regression: scikit-learn's ``MLPRegressor``, computed by compiled kernels.

    One `random_state` gives the numbers that scikit-learn gives, to rounding.  One or several outputs.

    Parameters
    ----------
    loss : str or Loss, default "squared_error"
        "squared_error" and "poisson" (half of each, as in scikit-learn), "absolute_error", "huber", "quantile" (the
        median), or a `cymlp.losses.Loss` such as ``cymlp.losses.quantile(0.9)``.  The mean over outputs is reported,
        and the gradient of the sum over them is followed; for "poisson" it is the sum in both.
    {layers}
    {training}
    output_activation : str, Activation or None, default None
        None is "exp" for the Poisson loss, else "identity"; or any activation for bounded targets, such as "logistic"
        or "softplus".
    target_scaling : {{"standard"}} or None, default None
        "standard" trains with targets of mean 0 and standard deviation 1 (weighted by the first fit's sample weights),
        and predicts in the units of y.  `loss_` and `coefs_` are those of the scaled targets.
    {more}

    Attributes
    ----------
    target_mean_, target_scale_ : ndarray (n_outputs,) or None
        What `target_scaling` subtracts and divides by.
    {attributes}

    See Also
    --------
    MLPClassifier, cymlp.MLP

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> regressor = MLPRegressor(
    ...     hidden_layer_sizes=16, target_scaling="standard", learning_rate_init=0.01, max_iter=300, random_state=0
    ... )
    >>> regressor.fit(X, y).score(X, y) > 0.5
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012  scikit-learn's name and form
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(_LOSSES), losses.Loss],
        "output_activation": [StrOptions(_OUTPUTS), activations.Activation, None],
        "target_scaling": [StrOptions({"standard"}), None],
    }
    _checks = {"y_numeric": True}  # noqa: RUF012

    def __init__(
        self,
        loss="squared_error",
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
        output_activation=None,
        target_scaling=None,
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

    # ---- Targets ----

    def _output_activation(self):
        if self.output_activation is None:
            return activations.get("exp" if losses.get(self.loss).name == "poisson" else "identity")
        return activations.get(our_name(self.output_activation), "output_activation")

    def _loss(self, output):
        loss = losses.get(self.loss)
        losses.check_pair(loss, output)
        if self.target_scaling is not None and output.name != "identity":
            raise ValueError(
                f"target_scaling must be None where the output activation is not 'identity'; got "
                f"{self.target_scaling!r} with {output.name!r}"
            )
        return loss

    @property
    def _loss_factor(self):
        """scikit-learn reports the mean over outputs, or for the Poisson loss the sum; the engine's is the sum."""
        return 1.0 if self.network_.loss.name == "poisson" else 1.0 / self.n_outputs_

    @staticmethod
    def _loss_clip(dtype):
        return 0.0

    def _shape(self, y):
        if sparse.issparse(y):
            y = y.toarray()
        if y.dtype.kind not in "fiub":
            raise TypeError(f"y must hold real numbers; got dtype {y.dtype}")
        return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _learn_targets(self, y, sample_weight, incremental):
        if hasattr(self, "network_") and (self.warm_start or incremental):
            return
        self.target_mean_ = self.target_scale_ = None
        if self.target_scaling is not None:
            columns = y.reshape(len(y), -1).astype(np.float64)
            self.target_mean_ = np.average(columns, axis=0, weights=sample_weight)
            scale = np.sqrt(np.average((columns - self.target_mean_) ** 2, axis=0, weights=sample_weight))
            # As far as the mean may be off by rounding, targets are constant.
            rounding = len(y) * np.finfo(np.float64).eps * np.abs(self.target_mean_)
            self.target_scale_ = np.where(scale > rounding, scale, 1.0)

    def _encode(self, y, dtype):
        columns = y.reshape(len(y), -1)
        if losses.get(self.loss).name == "poisson" and columns.min() < 0:
            row = int(np.argmax((columns < 0).any(axis=1)))
            raise ValueError(f"y must be >= 0 for the Poisson loss; got {columns[row].min()} at row {row}")
        if self.target_scale_ is not None:
            columns = (columns - self.target_mean_) / self.target_scale_
        return np.require(columns, dtype, ["C", "A"])

    def _decode(self, outputs):
        """Numbers in the units of y from what `_encode` returned, or from the network's outputs."""
        if self.target_scale_ is not None:
            outputs = (outputs * self.target_scale_ + self.target_mean_).astype(outputs.dtype, copy=False)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def _smooth(self, targets, dtype):
        return targets

    def _exported(self, parameters):
        """A copy of such parameters, in which the last layer predicts in the units of y."""
        flat = parameters.copy()
        if self.target_scale_ is not None:
            weights, biases, _ = self.network_._layout.views(flat)
            weights[-1] *= self.target_scale_
            biases[-1] *= self.target_scale_
            biases[-1] += self.target_mean_
        return flat

    def _weigh(self, y, sample_weight, dtype, incremental):
        return sample_weight

    def _strata(self, targets):
        return None

    def _default_score(self, examples):
        """R^2, the mean over outputs; NaN where an output is not finite."""
        targets = examples.targets.astype(np.float64, copy=False)
        outputs = np.empty_like(targets)
        for rows, X in dense_blocks(examples.X):
            outputs[rows] = self.network_.predict(X)
        if not np.isfinite(outputs).all():
            return float("nan")
        weight = np.ones(len(targets)) if examples.weight is None else examples.weight.astype(np.float64)
        residual = weight @ (targets - outputs) ** 2
        total = weight @ (targets - np.average(targets, axis=0, weights=weight)) ** 2
        # Of constant targets: 1 where they are met, else 0, as in sklearn.metrics.r2_score.
        ratio = np.divide(residual, total, out=(residual != 0).astype(np.float64), where=total != 0)
        return float(np.mean(1 - ratio))

    # ---- Faces ----

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch, going on from what is there, the optimiser's state included.

        With "lbfgs", as scikit-learn does, for up to `max_iter` iterations.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError, TypeError
            As for `fit`.
        """
        return self._fit(X, y, sample_weight, None, incremental=True)

    def predict(self, X):
        """The outputs, in the units of y.

        Parameters
        ----------
        X : array-like, data frame or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) or (n_samples, n_outputs)
            Of the network's dtype.
        """
        return self._decode(self._outputs(X))

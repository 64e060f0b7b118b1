"""Fitted models to scikit-learn's classes and back, with equal predictions."""

import copy

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .. import activations
from ..layout import chained_sizes
from ..network import MLP

__all__ = ["from_sklearn", "our_name", "their_name", "to_sklearn"]

# The activations of scikit-learn's MLPs by our names.
_THEIRS = {"identity": "identity", "sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}


def our_name(activation):
    """What `cymlp.activations.get` takes for an activation that may have scikit-learn's name."""
    return "sigmoid" if isinstance(activation, str) and activation == "logistic" else activation


def their_name(name):
    """What scikit-learn calls an activation of ours; our name where it has none."""
    return _THEIRS.get(name, name)


# Fitted attributes that both have and that mean the same.
_SHARED = (
    "best_loss_",
    "best_validation_score_",
    "classes_",
    "feature_names_in_",
    "loss_",
    "loss_curve_",
    "n_features_in_",
    "n_iter_",
    "n_layers_",
    "n_outputs_",
    "t_",
    "validation_scores_",
    "_label_binarizer",
    "_no_improvement_count",
    "_random_state",
)


def _their_class(name):
    import sklearn.neural_network

    return getattr(sklearn.neural_network, name)


def _copy_shared(source, target):
    for name in _SHARED:
        if name in source.__dict__:
            setattr(target, name, copy.deepcopy(source.__dict__[name]))


def _flat(coefs, intercepts):
    """All parameters as one vector in the order of `MLP.parameters`, float32 where all of them are."""
    parts = [part.ravel() for layer in zip(coefs, intercepts, strict=True) for part in layer]
    single = all(part.dtype == np.float32 for part in parts)
    return np.concatenate(parts, dtype=np.float32 if single else np.float64)


def from_sklearn(cls, source):
    """What `BaseMLP.from_sklearn` does."""
    if not isinstance(source, _their_class(cls.__name__)):
        raise TypeError(f"estimator must be a sklearn.neural_network.{cls.__name__}; got {type(source).__name__}")
    estimator = cls()
    estimator.set_params(**source.get_params(deep=False))
    if not hasattr(source, "coefs_"):
        return estimator
    sizes = chained_sizes(source.coefs_, "coefs_")
    flat = _flat(source.coefs_, source.intercepts_)
    estimator._begin_record()  # "lbfgs" of scikit-learn keeps none
    _copy_shared(source, estimator)
    estimator.target_mean_ = estimator.target_scale_ = None
    hidden = estimator._hidden_activations(len(sizes) - 2)
    output = activations.get(our_name(source.out_activation_))
    loss = estimator._loss(output)
    estimator.network_ = MLP._around(
        flat, sizes, [*hidden, output], loss, estimator.n_threads, estimator.engine, "scikit-learn's"
    )
    estimator._settle(output)
    if hasattr(source, "_best_coefs"):
        estimator._best_parameters = _flat(source._best_coefs, source._best_intercepts)
    return estimator


def _plain(estimator, parameters, statistics):
    """Weights and biases of each layer that predict the same without normalisation and scaling of targets.

    Batch normalisation predicts with running means m and variances v, and is linear then: with f = scale /
    sqrt(v + epsilon) the weights W f and the shift b - m f do the same.
    """
    layout = estimator.network_._layout
    flat = estimator._exported(parameters)
    weights, biases, scales = layout.views(flat)
    layers = zip(weights, biases, scales, layout.normalizations, *layout.statistics(statistics), strict=True)
    for W, b, scale, kind, mean, variance in layers:
        if kind is not None:
            factor = scale / np.sqrt(variance + variance.dtype.type(kind.epsilon))
            W *= factor
            b -= mean * factor
    return weights, biases


def to_sklearn(estimator):
    """What `BaseMLP.to_sklearn` does."""
    theirs = _their_class(type(estimator).__name__)
    network = estimator._check_fitted() if hasattr(estimator, "network_") else check_is_fitted(estimator)
    hidden = {activation.name for activation in network.hidden_activations}
    if len(hidden) > 1 or not hidden <= set(_THEIRS):
        raise ValueError(
            f"activation must be one of {', '.join(_THEIRS.values())} in all layers, as scikit-learn has no other; "
            f"got {', '.join(map(their_name, sorted(hidden)))}"
        )
    if any(one is not None and not one.has_statistics for one in network.normalizations):
        raise ValueError("layer_norm must be False, as scikit-learn has none, and it is no part of weights")
    output = network.output_activation.name
    if output not in _THEIRS and output not in ("softmax", "exp"):
        raise ValueError(f"output_activation must be one that scikit-learn has; got {output!r}")
    defaults = theirs().get_params()
    parameters = {name: value for name, value in estimator.get_params(deep=False).items() if name in defaults}
    if hidden or estimator.activation not in _THEIRS.values():
        parameters["activation"] = their_name(hidden.pop()) if hidden else "identity"
    if isinstance(parameters["shuffle"], str):
        parameters["shuffle"] = defaults["shuffle"]
    for name in ("learning_rate", "momentum"):
        if callable(parameters[name]):
            parameters[name] = defaults[name]
    if "loss" in parameters:
        parameters["loss"] = "poisson" if network.loss.name == "poisson" else "squared_error"
    model = theirs(**parameters)
    _copy_shared(estimator, model)
    model.coefs_, model.intercepts_ = _plain(estimator, network.parameters, network.statistics)
    best = _plain(estimator, estimator._best_parameters, estimator._best_statistics)
    model._best_coefs, model._best_intercepts = best
    model.out_activation_ = estimator.out_activation_
    return model

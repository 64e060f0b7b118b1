"""Models as setups, and setups as models: networks, estimators, presets, and pipelines that end with one of these."""

import copy
from dataclasses import dataclass, replace

import numpy as np

from .. import activations
from .remedies import Setup
from .setups import SKLEARN

__all__ = ["Standardization", "adapter", "kind_of"]


@dataclass(frozen=True)
class Standardization:
    """Columns less their means, over their standard deviations: ``standardize(X)``, and back with `inverse`.

    Attributes
    ----------
    mean, scale : ndarray (n_columns,)
        The scale of a column that is constant is 1.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, mean, std):
        """By means and standard deviations; what is rounding of the mean is no deviation."""
        mean, std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
        return cls(mean, np.where(std > 1e-7 * np.abs(mean), std, 1.0))

    def __call__(self, values):
        """Standardized values, of the dtype that they have, (n, n_columns), or (n,) of one column."""
        values = np.asarray(values)
        mean, scale = self._like(values)
        return ((values - mean) / scale).astype(_dtype(values), copy=False)

    def inverse(self, values):
        """The values that standardization makes these of."""
        values = np.asarray(values)
        mean, scale = self._like(values)
        return (values * scale + mean).astype(_dtype(values), copy=False)

    def _like(self, values):
        return (self.mean[0], self.scale[0]) if values.ndim == 1 else (self.mean, self.scale)


def _dtype(values):
    return values.dtype if values.dtype.kind == "f" else np.float64


def adapter(model, evidence):
    """What reads and makes models like this one.

    Parameters
    ----------
    model : MLP, MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor or Pipeline
    evidence : Evidence

    Returns
    -------
    object
        With ``setup``, ``possible(setup)``, which takes back what such a model cannot have, and ``make(setup)``, which
        gives a new model and the arguments of `MLP.train` that change.

    Raises
    ------
    TypeError
        For another kind of model.
    """
    kind = kind_of(model)
    if kind == "network":
        return _Network(model, evidence)
    if kind == "pipeline":
        return _Pipeline(model, evidence)
    if kind == "estimator":
        return _Estimator(model, evidence)
    if kind == "preset":
        return _Preset(model, evidence)
    raise TypeError(
        "model must be an MLP, an estimator or preset of cymlp, or a Pipeline whose last step is one of these; "
        f"got {type(model).__name__}"
    )


def kind_of(model):
    """What kind of model it is, without importing what it cannot be; None for one of others."""
    names = {f"{one.__module__}.{one.__qualname__}" for one in type(model).__mro__}
    if "cymlp.network.MLP" in names:
        return "network"
    if "cymlp.estimators.base.BaseMLP" in names:
        return "estimator"
    if "cymlp.presets._Tabular" in names:
        return "preset"
    if "sklearn.pipeline.Pipeline" in names and kind_of(model.steps[-1][1]) in ("estimator", "preset"):
        return "pipeline"
    return None


class _Network:
    def __init__(self, network, evidence):
        self.network, self.evidence = network, evidence
        mine = _as_network(evidence, network)
        self.setup = Setup.of(mine)

    def possible(self, setup):
        return setup

    def make(self, setup):
        network, before = self.network, self.setup
        new = type(network)(
            setup.layer_sizes,
            list(setup.activations),
            network.output_activation,
            network.loss,
            setup.initializer,
            setup.gain,
            network.dtype,
            network.n_threads,
            copy.deepcopy(network._rng),
            network.engine,
            list(setup.normalizations),
        )
        training = {}
        if setup.learning_rate != before.learning_rate:
            # None for what a caller gave beside the optimizer's name.
            optimizer = replace(self.evidence.optimizer, learning_rate=setup.learning_rate)
            training |= {"optimizer": optimizer, "learning_rate": None}
        if setup.clip_norm != before.clip_norm:
            training |= {"clip_norm": setup.clip_norm, "clip_value": None, "clip_layer_norm": None}
        if setup.dropout != before.dropout and any(before.dropout):
            training["dropout"] = list(setup.dropout)
        if setup.class_weight != before.class_weight:
            training["class_weight"] = setup.class_weight
        return new, training


def _as_network(evidence, network):
    """The evidence of another network that was trained the same."""
    return replace(
        evidence,
        layer_sizes=network.layer_sizes,
        activations=(*network.hidden_activations, network.output_activation),
        initializers=tuple(network._initializers),
        gain=network._gain,
        normalizations=network.normalizations,
        dtype=network.dtype,
    )


class _Estimator:
    def __init__(self, estimator, evidence):
        from ..estimators.regularization import normalization

        self.estimator = estimator
        sizes = estimator._hidden_sizes()
        n = len(sizes)
        rates = estimator.dropout
        rates = tuple(rates) if isinstance(rates, (list, tuple)) else (0.0, *[rates] * n)
        self.setup = replace(
            Setup.of(evidence),
            layer_sizes=(evidence.layer_sizes[0], *sizes, evidence.layer_sizes[-1]),
            activations=tuple(estimator._hidden_activations(n)),
            initializer=SKLEARN if estimator.initializer is None else estimator.initializer,
            gain=float(estimator.gain),
            normalizations=(normalization(estimator),) * n,
            dropout=tuple(rate if isinstance(rate, (int, float)) else 0.0 for rate in rates),
            learning_rate=None if estimator.solver == "lbfgs" else float(estimator.learning_rate_init),
            clip_norm=estimator.clip_norm,
            targets=getattr(estimator, "target_scaling", None),
            class_weight=getattr(estimator, "class_weight", None),
        )

    def possible(self, setup):
        estimator, before = self.estimator, self.setup
        if estimator.solver == "lbfgs":  # takes neither
            kept = {"clip_norm": before.clip_norm}
            if setup.normalizations != before.normalizations[: len(setup.normalizations)]:
                kept["normalizations"] = before.normalizations[: len(setup.normalizations)]
            setup = replace(setup, **kept)
        if not hasattr(estimator, "target_scaling"):
            setup = replace(setup, targets=before.targets)
        if not hasattr(estimator, "class_weight"):
            setup = replace(setup, class_weight=before.class_weight)
        return setup

    def make(self, setup):
        from sklearn.base import clone

        before, changed = self.setup, {}
        if setup.layer_sizes != before.layer_sizes:
            changed["hidden_layer_sizes"] = setup.layer_sizes[1:-1]
        if (setup.initializer, setup.gain) != (before.initializer, before.gain):
            changed |= {"initializer": setup.initializer, "gain": setup.gain}
        if setup.dropout != before.dropout and any(before.dropout):
            changed["dropout"] = list(setup.dropout)
        changed |= _activation(before, setup)
        if setup.normalizations != before.normalizations[: len(setup.normalizations)]:
            changed |= {"batch_norm": any(setup.normalizations), "layer_norm": False}
        for ours, theirs in _PARAMETERS.items():
            if getattr(setup, ours) != getattr(before, ours):
                changed[theirs] = getattr(setup, ours)
        if "clip_norm" in changed:
            changed |= {"clip_value": None, "clip_layer_norm": None}
        return _scaled(clone(self.estimator).set_params(**changed), setup.inputs), {}


_PARAMETERS = {
    "learning_rate": "learning_rate_init",
    "clip_norm": "clip_norm",
    "targets": "target_scaling",
    "class_weight": "class_weight",
}


def _activation(before, setup):
    """The estimators' parameter, where another one is wanted, or a list became too long."""
    if setup.activations == before.activations:
        return {}
    kinds = dict.fromkeys(setup.activations)
    if len(kinds) == 1:
        (one,) = kinds
        plain = one == type(one)(one.name)
        return {"activation": one.name if plain else one}
    return {"activation": list(setup.activations)}


def _scaled(estimator, inputs):
    if inputs is None:
        return estimator
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), estimator)


class _Preset:
    """Whose members are prepared, drawn and trained by a recipe: little is left to change."""

    def __init__(self, preset, evidence):
        self.preset = preset
        sizes = tuple(preset.hidden_layer_sizes)
        named = preset.activation
        listed = list(named) if isinstance(named, (list, tuple)) else [named] * len(sizes)
        self.setup = replace(
            Setup.of(evidence),
            layer_sizes=(evidence.layer_sizes[0], *sizes, evidence.layer_sizes[-1]),
            activations=tuple(activations.get(one) for one in listed),
            initializer="auto",
            gain=0.25,
            normalizations=(None,) * len(sizes),
            dropout=(0.0,) * (len(sizes) + 1),
            learning_rate=float(preset.learning_rate_init),
            inputs="standard",
            targets="standard",
        )

    def possible(self, setup):
        before = self.setup
        kept = {name: getattr(before, name) for name in ("initializer", "gain", "clip_norm", "class_weight")}
        return replace(setup, normalizations=(None,) * len(setup.activations), **kept)

    def make(self, setup):
        from sklearn.base import clone

        before, changed = self.setup, _activation(self.setup, setup)
        if setup.layer_sizes != before.layer_sizes:
            changed["hidden_layer_sizes"] = setup.layer_sizes[1:-1]
        if setup.learning_rate != before.learning_rate:
            changed["learning_rate_init"] = setup.learning_rate
        return clone(self.preset).set_params(**changed), {}


class _Pipeline:
    def __init__(self, pipeline, evidence):
        self.pipeline = pipeline
        self.last = adapter(pipeline.steps[-1][1], evidence)
        self.setup, self.possible = self.last.setup, self.last.possible

    def make(self, setup):
        from sklearn.base import clone
        from sklearn.preprocessing import StandardScaler

        scales = setup.inputs != self.setup.inputs
        estimator, training = self.last.make(replace(setup, inputs=None) if scales else setup)
        new = clone(self.pipeline)
        new.steps[-1] = (new.steps[-1][0], estimator)
        if scales:
            names, name = {name for name, _ in new.steps}, "standardscaler"
            while name in names:
                name += "_"
            new.steps.insert(len(new.steps) - 1, (name, StandardScaler()))
        return new, training

"""What to change: for each rule the smallest change that should help, as one `Setup` made of another.

A `Setup` is what a network and its training are described by, wherever they come from; `applying.py` makes models of
it.  Of changes to the network the first one is taken whose forecast is healthy.
"""

import functools
import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..activations import Activation
from ..initializers import INITIALIZERS
from ..normalizations import BatchNorm
from .forecasting import forecast
from .setups import SKLEARN

__all__ = ["Setup", "change", "describe", "forecast_of"]

# What a step is to be of the weights at its fastest: the middle of what is usual, 0.001 to 0.01.
_USUAL = 3e-3

# The largest gradient norm that clipping leaves: Pascanu, Mikolov & Bengio (2013), section 5; also what clipping by
# norm is set to most often.
_CLIP = 1.0

# Of a layer; Srivastava et al. (2014), Dropout, section 7.3: 0.2 to 0.6 are as good as each other, 0.9 underfits.
_MOST_DROPPED = 0.8


@dataclass(frozen=True)
class Setup:
    """A network and how it is trained.

    Attributes
    ----------
    layer_sizes : tuple of int
    activations : tuple of Activation
        Of the hidden layers.
    output_activation : str
    initializer : str or callable
        As in `MLP`, or `SKLEARN`.
    gain : float
    normalizations : tuple
        Of the hidden layers.
    dropout : tuple of float
        Of the inputs and the hidden layers.
    dtype : str
    learning_rate : float or None
        None where there is none to be changed.
    clip_norm : float or None
    inputs, targets : None or "standard"
    class_weight : None or "balanced"
    """

    layer_sizes: tuple
    activations: tuple
    output_activation: str
    initializer: Any
    gain: float
    normalizations: tuple
    dropout: tuple
    dtype: str
    learning_rate: float | None = None
    clip_norm: float | None = None
    inputs: str | None = None
    targets: str | None = None
    class_weight: str | None = None

    @classmethod
    def of(cls, evidence):
        """That of a run."""
        names = set(evidence.initializers)
        known = names <= {*INITIALIZERS, SKLEARN}
        auto = [one.definition.initializer for one in evidence.activations]
        if list(evidence.initializers) == auto:
            initializer = "auto"
        elif known and len(names) == 1:
            initializer = evidence.initializers[0]
        else:
            initializer = _as_measured(evidence)
        dropout = tuple(rate if isinstance(rate, (int, float)) else 0.0 for rate in evidence.dropout)
        return cls(
            layer_sizes=tuple(evidence.layer_sizes),
            activations=tuple(evidence.activations[:-1]),
            output_activation=evidence.activations[-1].name,
            initializer=initializer,
            gain=evidence.gain if known else 1.0,
            normalizations=tuple(evidence.normalizations),
            dropout=dropout or (0.0,) * (len(evidence.layer_sizes) - 1),
            dtype=np.dtype(evidence.dtype).name,
            learning_rate=evidence.learning_rate,
        )


def _as_measured(evidence):
    """An initializer that draws weights of the sizes that the first record saw."""
    sizes = evidence.layer_sizes
    deviations = {}
    if len(evidence.records):
        for layer, norm in enumerate(evidence.records.weight[0][1:], start=1):
            shape = sizes[layer - 1], sizes[layer]
            deviations.setdefault(shape, []).append(float(norm) / math.sqrt(shape[0] * shape[1]))
    means = {shape: float(np.mean(found)) for shape, found in deviations.items()}
    return functools.partial(_draw_as_measured, deviations=means)


def _draw_as_measured(rng, n_in, n_out, *, gain=1.0, deviations):
    return gain * deviations.get((n_in, n_out), 0.0) * rng.standard_normal((n_in, n_out))


def forecast_of(setup, input_scale=1.0):
    """The `Forecast` of a setup, for inputs of some size."""
    kinds = {None if one is None else one.name for one in setup.normalizations}
    return forecast(
        setup.layer_sizes,
        list(setup.activations),
        setup.initializer,
        setup.gain,
        dropout=list(setup.dropout) if any(setup.dropout) else 0.0,
        batch_norm="batch" in kinds,
        dtype=setup.dtype,
        output_activation=setup.output_activation,
        layer_norm="layer" in kinds,
        input_scale=input_scale,
    )


# ---- Changes ----


def change(setup, rule, signs):
    """The setup that should do without a finding.

    Parameters
    ----------
    setup : Setup
    rule : str
        A key of `RULES`.
    signs : Signs
        Of the run.

    Returns
    -------
    Setup
        The same one where nothing is to be changed any more.
    """
    return _REMEDIES[rule](setup, signs)


def _redrawn(setup, signs):
    """The first network whose forecast is healthy: drawn well, with another activation, normalized, shorter."""
    tried = setup
    for candidate in _networks(setup):
        tried = candidate
        if forecast_of(candidate).verdict.startswith("Healthy"):
            return candidate
    return tried


def _networks(setup):
    n = len(setup.activations)
    drawn = replace(setup, initializer="auto", gain=1.0)
    if drawn != setup:
        yield drawn
    lively = replace(drawn, activations=tuple(_lively(one) for one in setup.activations))
    if lively != drawn:
        yield lively
    if all(one is None for one in setup.normalizations):
        yield replace(lively, normalizations=(BatchNorm(),) * n)
    elif any(isinstance(one, BatchNorm) for one in setup.normalizations):
        yield replace(lively, normalizations=(None,) * n)  # its gradients grow with depth: Yang et al. (2019)
    while n > 1:
        n = -(-n // 2)
        yield _shorter(lively, n)


def _lively(activation):
    """ReLU for what flattens on both sides, or is a line."""
    return Activation("relu") if activation.name in ("sigmoid", "tanh", "identity") else activation


def _shorter(setup, n):
    """With the first n hidden layers."""
    sizes = (*setup.layer_sizes[: n + 1], setup.layer_sizes[-1])
    rest = (setup.activations[:n], setup.normalizations[:n], setup.dropout[: n + 1])
    activations, normalizations, dropout = rest
    return replace(setup, layer_sizes=sizes, activations=activations, normalizations=normalizations, dropout=dropout)


def _drawn(setup, signs):
    return replace(setup, initializer="auto", gain=1.0)


def _leaky(setup, signs):
    relu = [one.name == "relu" for one in setup.activations]
    activations = [
        Activation("leaky_relu") if is_relu else one for is_relu, one in zip(relu, setup.activations, strict=True)
    ]
    return replace(setup, activations=tuple(activations))


def _desaturated(setup, signs):
    """Drawn well where units were saturated at birth, else slower."""
    drawn = _drawn(setup, signs)
    first = signs.first(signs.records.saturated)
    if drawn != setup and np.nan_to_num(first).max() > 0.5:
        return _redrawn(setup, signs)
    return _slower(setup, signs)


def _calmed(setup, signs):
    """Of a network that explodes at birth another one; else clipping."""
    if np.nan_to_num(signs.gradient[0]).max() > 10 or forecast_of(setup).verdict.startswith("Exploding"):
        return _redrawn(setup, signs)
    return replace(setup, clip_norm=_CLIP)


def _slower(setup, signs):
    """A tenth of the rate, or what makes the first steps usual ones."""
    if setup.learning_rate is None:
        return setup
    known = np.nan_to_num(signs.ratio).max(axis=1)
    first = known[known > 0]
    factor = min(0.1, _USUAL / float(first[0])) if len(first) else 0.1
    return replace(setup, learning_rate=_round(setup.learning_rate * factor))


def _faster(setup, signs):
    """Ten times the rate, or what makes steps usual ones."""
    if setup.learning_rate is None:
        return setup
    ratio = signs.first(signs.ratio)[1:]
    middle = float(np.median(np.nan_to_num(ratio)))
    factor = max(10.0, _USUAL / middle) if middle > 0 else 10.0
    return replace(setup, learning_rate=_round(setup.learning_rate * factor))


def _round(rate):
    """One digit."""
    return float(f"{rate:.0e}")


def _unstuck(setup, signs):
    """Less dropout where most is dropped; ReLU for what flattens; else faster where steps are small, or slower."""
    if max(setup.dropout) > _MOST_DROPPED:
        return replace(setup, dropout=tuple(min(rate, 0.5) for rate in setup.dropout))
    lively = _nonlinear(setup, signs)
    if lively.activations != setup.activations:
        return lively
    middle = float(np.median(np.nan_to_num(signs.first(signs.ratio)[1:])))
    return _faster(setup, signs) if middle < _USUAL else _slower(setup, signs)


def _nonlinear(setup, signs):
    return _drawn(replace(setup, activations=tuple(_lively(one) for one in setup.activations)), signs)


_REMEDIES = {
    "symmetric units": _redrawn,
    "inputs not scaled": lambda setup, signs: replace(setup, inputs="standard"),
    "targets not scaled": lambda setup, signs: replace(setup, targets="standard"),
    "saturated units": _desaturated,
    "dead units": _leaky,
    "exploding gradients": _calmed,
    "vanishing gradients": _redrawn,
    "restless layers": _slower,
    "still layers": _faster,
    "linear layers": _nonlinear,
    "class imbalance": lambda setup, signs: replace(setup, class_weight="balanced"),
    "stuck at base rate": _unstuck,
}


# ---- In words ----


def describe(before, after):
    """What is another one in a setup than before.

    Parameters
    ----------
    before, after : Setup

    Returns
    -------
    tuple of str
        One for each change, empty for none.
    """
    changed = {field.name for field in fields(Setup) if getattr(before, field.name) != getattr(after, field.name)}
    words = []
    if changed & {"initializer", "gain"}:
        words.append(f"initializer {after.initializer!r} with gain {after.gain:g}")
    n, m = len(before.activations), len(after.activations)
    if before.activations[:m] != after.activations:
        names = dict.fromkeys(str(one) for one in after.activations)
        words.append(f"activation {', '.join(names)}")
    if before.normalizations[:m] != after.normalizations:
        words.append("batch normalization" if any(after.normalizations) else "no batch normalization")
    if before.dropout[: m + 1] != after.dropout:
        words.append(f"dropout {max(after.dropout):g}")
    if m < n:
        words.append(f"{m} hidden layer{'s' if m > 1 else ''} instead of {n}")
    if "learning_rate" in changed:
        words.append(f"learning rate {after.learning_rate:g} instead of {before.learning_rate:g}")
    if "clip_norm" in changed:
        words.append(f"gradients clipped to the norm {after.clip_norm:g}")
    if "inputs" in changed:
        words.append("standardized inputs")
    if "targets" in changed:
        words.append("standardized targets")
    if "class_weight" in changed:
        words.append("rows weighted by class (class_weight='balanced')")
    return tuple(words)

"""Normalisations of hidden layers by name: what they are and their numbers.  The arithmetic is in the engines.

A layer with one has Z_l = scale_l * N_l + b_l, where N_l are its weighted sums A_{l-1} W_l brought to mean 0 and
variance 1, and A_l = phi_l(Z_l): the bias, which would be lost before, is the shift behind.  Scales start at one.
"""

import sys
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

__all__ = ["NORMALIZATIONS", "BatchNorm", "LayerNorm", "choose", "get"]

# The smallest normal and the largest number of float32: an epsilon that each dtype has.
_SMALLEST, _LARGEST = 2.0**-126, 2.0**128 - 2.0**104


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


class _Normalization:
    """What all have in common; `name` is the key in `NORMALIZATIONS`."""

    __slots__ = ()

    def __post_init__(self):
        for field in fields(self):
            value, label = getattr(self, field.name), f"{type(self).__name__}.{field.name}"
            if field.name == "epsilon":
                if not (_is_number(value) and _SMALLEST <= value <= _LARGEST):
                    raise ValueError(f"{label} must be a number > 0 that float32 can hold; got {value!r}")
            elif not (_is_number(value) and 0 <= value <= 1):
                raise ValueError(f"{label} must be a number in [0, 1]; got {value!r}")

    def __str__(self):
        values = {field: float(getattr(self, field.name)) for field in fields(self)}
        own = [f"{field.name}={value!r}" for field, value in values.items() if value != field.default]
        return f"{self.name}({', '.join(own)})" if own else self.name

    def numbers(self):
        """Its fields as a dictionary of floats."""
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class BatchNorm(_Normalization):
    """Each unit's sums over a minibatch: n = (z - mean) / sqrt(variance + epsilon), both weighted by sample weights.

    Predictions take running statistics instead.  Each minibatch of training moves them towards its own, the variance
    unbiased: r <- (1 - momentum) r + momentum s.  One with fewer than two rows of positive weight has none: it is
    normalised with the running ones, which then stay as they are.

    Source: Ioffe & Szegedy (2015), Batch normalization: accelerating deep network training by reducing internal
    covariate shift, algorithms 1 and 2.

    Parameters
    ----------
    momentum : float, default 0.1
        In [0, 1].
    epsilon : float, default 1e-05
        Greater than 0, and not beyond the normal numbers of float32.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    name: ClassVar[str] = "batch"
    has_statistics: ClassVar[bool] = True

    def pair(self):
        """What engines read."""
        return self.name, float(self.epsilon), float(self.momentum)


@dataclass(frozen=True, slots=True)
class LayerNorm(_Normalization):
    """The sums of each row over the layer's units: n = (z - mean) / sqrt(variance + epsilon).

    No row depends on others, in training or prediction.  A layer of one unit is constant.

    Source: Ba, Kiros & Hinton (2016), Layer normalization, eq. 3 and 4.

    Parameters
    ----------
    epsilon : float, default 1e-05
        Greater than 0, and not beyond the normal numbers of float32.
    """

    epsilon: float = 1e-5

    name: ClassVar[str] = "layer"
    has_statistics: ClassVar[bool] = False

    def pair(self):
        """What engines read."""
        return self.name, float(self.epsilon)


NORMALIZATIONS = {"batch": BatchNorm, "layer": LayerNorm}


def choose(batch_norm, layer_norm):
    """The normalisation of hidden layers that two flags, or instances in their places, ask for; None for none.

    Parameters
    ----------
    batch_norm : bool or BatchNorm
    layer_norm : bool or LayerNorm

    Raises
    ------
    ValueError
        Where both are asked for.
    """
    if batch_norm and layer_norm:
        raise ValueError(f"layer_norm must be False where batch_norm is {batch_norm!r}; got {layer_norm!r}")
    if batch_norm:
        return batch_norm if isinstance(batch_norm, BatchNorm) else BatchNorm()
    if layer_norm:
        return layer_norm if isinstance(layer_norm, LayerNorm) else LayerNorm()
    return None


def get(spec, argument="normalization"):
    """The normalisation that a user means for one layer.

    Parameters
    ----------
    spec : None, str, BatchNorm or LayerNorm
        A key of `NORMALIZATIONS` stands for an instance with defaults, None for no normalisation.
    argument : str
        What the error names.

    Returns
    -------
    BatchNorm, LayerNorm or None

    Raises
    ------
    ValueError
        Where `spec` is none of these.
    """
    if spec is None or isinstance(spec, tuple(NORMALIZATIONS.values())):
        return spec
    if isinstance(spec, str) and spec in NORMALIZATIONS:
        return NORMALIZATIONS[spec]()
    raise ValueError(
        f"{argument} must be None, one of {', '.join(NORMALIZATIONS)}, or a BatchNorm or LayerNorm of "
        f"cymlp.normalizations; got {spec!r}"
    )

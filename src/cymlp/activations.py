"""Activation functions by name: what they are, what they pair with.  No arrays here.

The formulas are computed in two places that are tested against each other: ``reference.py`` (NumPy) and
``pyx/kernels/activation_template.h`` (compiled).  This registry is what the rest of the library knows about an
activation.
"""

import sys
from dataclasses import dataclass

__all__ = ["ACTIVATIONS", "Activation", "Definition", "get", "leaky_relu"]


@dataclass(frozen=True, slots=True)
class Definition:
    """What is known about an activation.

    Attributes
    ----------
    formula, derivative : str
        a = phi(z) and phi'(z).
    initializer : str
        The initialiser that ``initializer="auto"`` takes for a layer with this activation.
    hidden : bool
        False where it only makes sense at the output.
    positive : bool
        True where a > 0 for every z, as the Poisson loss needs.
    source : str
    """

    formula: str
    derivative: str
    initializer: str
    source: str
    hidden: bool = True
    positive: bool = False


ACTIVATIONS = {
    "identity": Definition("z", "1", "glorot_uniform", "linear unit"),
    "sigmoid": Definition("1 / (1 + exp(-z))", "a (1 - a)", "glorot_uniform", "logistic function", positive=True),
    "tanh": Definition("tanh(z)", "1 - a^2", "glorot_uniform", "LeCun et al. (1998), Efficient BackProp, section 4.4"),
    "relu": Definition("max(z, 0)", "1 if z > 0 else 0", "he_normal", "Nair & Hinton (2010)"),
    "leaky_relu": Definition("z if z > 0 else slope z", "1 if z > 0 else slope", "he_normal", "Maas et al. (2013)"),
    "elu": Definition(
        "z if z > 0 else exp(z) - 1", "1 if z > 0 else a + 1", "he_normal", "Clevert et al. (2016), eq. 16"
    ),
    "gelu": Definition(
        "z Phi(z), Phi the normal distribution function", "Phi(z) + z phi(z)", "he_normal", "Hendrycks & Gimpel (2016)"
    ),
    "silu": Definition("z sigmoid(z)", "s + a (1 - s), s = sigmoid(z)", "he_normal", "Elfwing et al. (2018), eq. 4"),
    "softplus": Definition(
        "log(1 + exp(z))",
        "sigmoid(z)",
        "he_normal",
        "Dugas et al. (2001), Incorporating second-order ...",
        positive=True,
    ),
    "exp": Definition("exp(z)", "a", "glorot_uniform", "the inverse link of Poisson regression", False, True),
    "softmax": Definition(
        "exp(z_j) / sum_k exp(z_k)", "da_i/dz_j = a_i (1[i = j] - a_j)", "glorot_uniform", "Bridle (1990)", False
    ),
}


@dataclass(frozen=True, slots=True)
class Activation:
    """A choice of activation.

    Parameters
    ----------
    name : str
        One of `ACTIVATIONS`.
    slope : float, default 0.01
        Factor for z < 0, at least 0; only ``leaky_relu`` reads it.

    Raises
    ------
    ValueError
    """

    name: str
    slope: float = 0.01

    def __post_init__(self):
        if self.name not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {self.name!r}")
        slope = self.slope
        if isinstance(slope, bool) or not isinstance(slope, (int, float)) or not 0 <= slope <= sys.float_info.max:
            raise ValueError(f"slope must be a finite number >= 0; got {slope!r}")

    @property
    def definition(self):
        """The `Definition` of that name."""
        return ACTIVATIONS[self.name]

    def __str__(self):
        return f"leaky_relu(slope={self.slope:g})" if self.name == "leaky_relu" else self.name


def leaky_relu(slope=0.01):
    """Leaky ReLU with a slope of its own: ``MLP(..., hidden_activation=cymlp.activations.leaky_relu(0.2))``.

    Parameters
    ----------
    slope : float, default 0.01
        Factor for z < 0; at least 0, so that the sign of the output tells the sign of z.
    """
    return Activation("leaky_relu", slope)


def get(spec, argument="activation"):
    """The `Activation` that a user means.

    Parameters
    ----------
    spec : str or Activation
    argument : str
        What the error names.

    Raises
    ------
    ValueError
        Where `spec` is neither.
    """
    if isinstance(spec, Activation):
        return spec
    if isinstance(spec, str) and spec in ACTIVATIONS:
        return Activation(spec)
    raise ValueError(
        f"{argument} must be one of {', '.join(ACTIVATIONS)}, or a cymlp.activations.Activation; got {spec!r}"
    )

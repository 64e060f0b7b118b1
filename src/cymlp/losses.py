"""Loss functions by name: what they are, which output activations they go with.  No arrays here.

A loss is a sum over the outputs of one row, and the mean over rows, weighted by ``sample_weight`` where it is given.
"""

import sys
from dataclasses import dataclass

__all__ = ["LOSSES", "Definition", "Loss", "default_for", "get", "huber", "quantile"]


@dataclass(frozen=True, slots=True)
class Definition:
    """What is known about a loss.

    Attributes
    ----------
    formula, gradient : str
        The loss of one output `a` with target `y`, and its derivative by `a` (by `z` where the output activation is
        fixed).
    output_activation : str or None
        The only output activation it takes, as the pair is computed from z to be stable; None for any.
    source : str
    """

    formula: str
    gradient: str
    source: str
    output_activation: str | None = None


LOSSES = {
    "squared_error": Definition("(a - y)^2 / 2", "a - y", "Gauss (1809)"),
    "absolute_error": Definition("|a - y|", "sign(a - y)", "Laplace (1774)"),
    "huber": Definition(
        "d^2 / 2 if |d| <= delta else delta (|d| - delta / 2), d = a - y", "clip(d, -delta, delta)", "Huber (1964)"
    ),
    "quantile": Definition(
        "max(q (y - a), (q - 1) (y - a)), q = level",
        "-q where y > a, 1 - q where y < a, 0 where y = a",
        "Koenker & Bassett (1978)",
    ),
    "poisson": Definition(
        "y log(y / a) - y + a", "1 - y / a", "half the Poisson deviance; McCullagh & Nelder (1989), 2.3"
    ),
    "binary_cross_entropy": Definition(
        "max(z, 0) - z y + log(1 + exp(-|z|))", "sigmoid(z) - y (by z)", "Cox (1958)", "sigmoid"
    ),
    "categorical_cross_entropy": Definition(
        "sum_j y_j (logsumexp(z) - z_j)", "softmax(z) sum_j y_j - y (by z)", "Bridle (1990)", "softmax"
    ),
}


@dataclass(frozen=True, slots=True)
class Loss:
    """A choice of loss.

    Parameters
    ----------
    name : str
        One of `LOSSES`.
    delta : float, default 1.0
        Greater than 0: where the square turns into a line; only ``huber`` reads it.
    level : float, default 0.5
        In (0, 1): the part of the targets that is to be below the output; only ``quantile`` reads it.

    Raises
    ------
    ValueError
    """

    name: str
    delta: float = 1.0
    level: float = 0.5

    def __post_init__(self):
        if self.name not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {self.name!r}")
        delta = self.delta
        if isinstance(delta, bool) or not isinstance(delta, (int, float)) or not 0 < delta <= sys.float_info.max:
            raise ValueError(f"delta must be a finite number > 0; got {delta!r}")
        level = self.level
        if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
            raise ValueError(f"level must be a number in (0, 1); got {level!r}")

    @property
    def definition(self):
        """The `Definition` of that name."""
        return LOSSES[self.name]

    @property
    def parameter(self):
        """What engines read beside the name: `level` for ``quantile``, else `delta`, which may mean nothing."""
        return float(self.level if self.name == "quantile" else self.delta)

    def __str__(self):
        if self.name == "quantile":
            return f"quantile(level={self.level:g})"
        return f"huber(delta={self.delta:g})" if self.name == "huber" else self.name


def huber(delta=1.0):
    """Huber's loss with a threshold of its own: ``MLP(..., loss=cymlp.losses.huber(0.5))``.

    Parameters
    ----------
    delta : float, default 1.0
        Greater than 0: errors beyond it count linearly.
    """
    return Loss("huber", delta)


def quantile(level=0.5):
    """The quantile loss, also called pinball loss: what is learnt is a quantile of the targets rather than their mean.

    Parameters
    ----------
    level : float, default 0.5
        In (0, 1): the part of the targets that is to be below the output.  0.5 learns the median, and is half the
        absolute error.
    """
    return Loss("quantile", level=level)


def get(spec, argument="loss"):
    """The `Loss` that a user means.

    Parameters
    ----------
    spec : str or Loss
    argument : str
        What the error names.

    Raises
    ------
    ValueError
        Where `spec` is neither.
    """
    if isinstance(spec, Loss):
        return spec
    if isinstance(spec, str) and spec in LOSSES:
        return Loss(spec)
    raise ValueError(f"{argument} must be one of {', '.join(LOSSES)}, or a cymlp.losses.Loss; got {spec!r}")


def default_for(output_activation):
    """The loss whose gradient by z is a - y for an output activation (its canonical pair), else the squared error.

    Parameters
    ----------
    output_activation : Activation
    """
    pairs = {"softmax": "categorical_cross_entropy", "sigmoid": "binary_cross_entropy", "exp": "poisson"}
    return Loss(pairs.get(output_activation.name, "squared_error"))


def check_pair(loss, output_activation):
    """Raise where a loss cannot be computed behind an output activation.

    Parameters
    ----------
    loss : Loss
    output_activation : Activation

    Raises
    ------
    ValueError
    """
    needed = loss.definition.output_activation
    if needed is not None and output_activation.name != needed:
        raise ValueError(f"loss {loss.name!r} needs output_activation={needed!r}; got {output_activation.name!r}")
    if output_activation.name == "softmax" and needed != "softmax":
        raise ValueError(f"output_activation 'softmax' needs loss='categorical_cross_entropy'; got {loss.name!r}")
    if loss.name == "poisson" and not output_activation.definition.positive:
        raise ValueError(
            f"loss 'poisson' needs an output activation that is positive ('exp', 'softplus' or 'sigmoid'); "
            f"got {output_activation.name!r}"
        )

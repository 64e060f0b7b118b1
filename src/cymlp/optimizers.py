"""Optimisers by name: their parameters, defaults and update rules.  The arithmetic is in the engines.

``rule()`` gives the plain dictionary that both engines read; ``LBFGS`` has none, as scipy.optimize drives it.  In place
of a number, `SCHEDULED` parameters may be schedules from `cymlp.schedules`, or any callable of the step; the rule then
has the schedule, and whoever trains puts its values there.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields

from . import _scheduling

__all__ = ["LBFGS", "OPTIMIZERS", "SCHEDULED", "SGD", "Adam", "AdamW", "RMSprop", "get"]


# The parameters that may change from step to step.
SCHEDULED = ("learning_rate", "momentum", "beta1", "weight_decay")


def _check(optimizer, positive=(), fractions=(), closed_fractions=(), non_negative=(), flags=()):
    for name in (*positive, *fractions, *closed_fractions, *non_negative, *flags):
        value = getattr(optimizer, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        label = f"{type(optimizer).__name__}.{name}"
        if name in SCHEDULED and callable(value):
            _scheduling.check(value, label)
            continue
        if name in positive and not (number and value > 0):
            raise ValueError(f"{label} must be a finite number > 0; got {value!r}")
        if name in fractions and not (number and 0 <= value < 1):
            raise ValueError(f"{label} must be a number in [0, 1); got {value!r}")
        if name in closed_fractions and not (number and 0 <= value <= 1):
            raise ValueError(f"{label} must be a number in [0, 1]; got {value!r}")
        if name in non_negative and not (number and value >= 0):
            raise ValueError(f"{label} must be a finite number >= 0; got {value!r}")
        if name in flags and not isinstance(value, bool):
            raise ValueError(f"{label} must be True or False; got {value!r}")


def _rule(optimizer, name):
    """The optimiser's name and its parameters; without a weight decay of 0, which only AdamW's rule needs."""
    rule = {"name": name, **{field.name: getattr(optimizer, field.name) for field in fields(optimizer)}}
    if name != "adamw" and rule.get("weight_decay") == 0:
        del rule["weight_decay"]
    return rule


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent, with momentum and Nesterov's variant of it.

    v <- momentum v - learning_rate g;  w <- w + v;  with Nesterov w <- w + momentum v - learning_rate g.
    Before that, with a weight decay, w <- w - learning_rate weight_decay w, for weights only.

    Source: Sutskever, Martens, Dahl & Hinton (2013), On the importance of initialization and momentum, eq. 1-4
    (Nesterov in the form of Bengio et al. (2013), Advances in optimizing recurrent networks, eq. 7).  The decay is that
    of Loshchilov & Hutter (2019), Decoupled weight decay regularization, algorithm 1.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.01
        Greater than 0; values of schedules may be 0.
    momentum : float or schedule, default 0.0
        In [0, 1].  With 1 nothing is ever forgotten: what scikit-learn allows, too.
    nesterov : bool, default False
    weight_decay : float or schedule, default 0.0
        At least 0.
    """

    learning_rate: float | Callable = 0.01
    momentum: float | Callable = 0.0
    nesterov: bool = False
    weight_decay: float | Callable = 0.0

    def __post_init__(self):
        _check(
            self,
            positive=("learning_rate",),
            closed_fractions=("momentum",),
            non_negative=("weight_decay",),
            flags=("nesterov",),
        )

    def rule(self):
        """The dictionary that engines read: the optimiser's name and its parameters."""
        return _rule(self, "sgd")


@dataclass(frozen=True, slots=True)
class RMSprop:
    """s <- rho s + (1 - rho) g^2;  w <- w - learning_rate g / (sqrt(s) + epsilon).

    Before that, with a weight decay, w <- w - learning_rate weight_decay w, for weights only.

    Source: Tieleman & Hinton (2012), Neural networks for machine learning, lecture 6.5.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
        Greater than 0; values of schedules may be 0.
    rho : float, default 0.9
        In [0, 1).
    epsilon : float, default 1e-8
        Greater than 0; `train` asks for the smallest normal number of its dtype, below which passes take it for 0.
    weight_decay : float or schedule, default 0.0
        At least 0.
    """

    learning_rate: float | Callable = 0.001
    rho: float = 0.9
    epsilon: float = 1e-8
    weight_decay: float | Callable = 0.0

    def __post_init__(self):
        _check(self, positive=("learning_rate", "epsilon"), fractions=("rho",), non_negative=("weight_decay",))

    def rule(self):
        """The dictionary that engines read: the optimiser's name and its parameters."""
        return _rule(self, "rmsprop")


@dataclass(frozen=True, slots=True)
class Adam:
    """m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2, in step t = 1, 2, ...
    w <- w - learning_rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon);  or with `epsilon_hat`
    w <- w - learning_rate sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon).

    Source: Kingma & Ba (2015), Adam: a method for stochastic optimization, algorithm 1; the other form is at the end of
    its section 2.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
        Greater than 0; values of schedules may be 0.
    beta1 : float or schedule, default 0.9
        In [0, 1).
    beta2 : float, default 0.999
        In [0, 1).
    epsilon : float, default 1e-8
        Greater than 0; `train` asks that epsilon sqrt(1 - beta2) be at least the smallest normal number of its dtype.
    epsilon_hat : bool, default False
        Whether epsilon is added to the root of v as it is, as scikit-learn does, rather than of the corrected v.
    """

    learning_rate: float | Callable = 0.001
    beta1: float | Callable = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_hat: bool = False

    def __post_init__(self):
        _check(self, positive=("learning_rate", "epsilon"), fractions=("beta1", "beta2"), flags=("epsilon_hat",))

    def rule(self):
        """The dictionary that engines read: the optimiser's name and its parameters."""
        return _rule(self, "adam")


@dataclass(frozen=True, slots=True)
class AdamW:
    """Adam with decoupled weight decay: w <- w - learning_rate weight_decay w before Adam's step, for weights only.

    Source: Loshchilov & Hutter (2019), Decoupled weight decay regularization, algorithm 2.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon : float
        As for `Adam`.
    weight_decay : float or schedule, default 0.01
        At least 0.
    epsilon_hat : bool, default False
        As for `Adam`.
    """

    learning_rate: float | Callable = 0.001
    beta1: float | Callable = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float | Callable = 0.01
    epsilon_hat: bool = False

    def __post_init__(self):
        _check(
            self,
            positive=("learning_rate", "epsilon"),
            fractions=("beta1", "beta2"),
            non_negative=("weight_decay",),
            flags=("epsilon_hat",),
        )

    def rule(self):
        """The dictionary that engines read: the optimiser's name and its parameters."""
        return _rule(self, "adamw")


@dataclass(frozen=True, slots=True)
class LBFGS:
    """Limited-memory BFGS over the whole batch, by ``scipy.optimize.minimize(method="L-BFGS-B")``.

    `epochs` of the training call bounds its iterations.  Source: Byrd, Lu, Nocedal & Zhu (1995), A limited memory
    algorithm for bound constrained optimization.

    Parameters
    ----------
    memory : int, default 10
        Corrections that stand for the Hessian, at least 1.
    gradient_tolerance : float, default 1e-5
        Training ends when no element of the gradient is larger.
    loss_tolerance : float, default 1e-9
        Training ends when an iteration lowers the loss by less than this part of it.
    """

    memory: int = 10
    gradient_tolerance: float = 1e-5
    loss_tolerance: float = 1e-9

    def __post_init__(self):
        _check(self, non_negative=("gradient_tolerance", "loss_tolerance"))
        if isinstance(self.memory, bool) or not isinstance(self.memory, int) or self.memory < 1:
            raise ValueError(f"LBFGS.memory must be an integer >= 1; got {self.memory!r}")


OPTIMIZERS = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW, "lbfgs": LBFGS}


def get(spec, learning_rate=None):
    """The optimiser that a user means.

    Parameters
    ----------
    spec : str or instance of a class in this module
    learning_rate : float or schedule, optional
        Replaces the default of a name.

    Raises
    ------
    ValueError
        For anything else, and for a learning rate beside an instance, which has its own.
    """
    if isinstance(spec, str) and spec in OPTIMIZERS:
        if learning_rate is None:
            return OPTIMIZERS[spec]()
        if spec == "lbfgs":
            raise ValueError("learning_rate has no meaning for optimizer='lbfgs'; leave it None")
        return OPTIMIZERS[spec](learning_rate=learning_rate)
    if isinstance(spec, tuple(OPTIMIZERS.values())):
        if learning_rate is not None:
            raise ValueError("learning_rate must be None where optimizer is an instance: the instance has its own")
        return spec
    raise ValueError(
        f"optimizer must be one of {', '.join(OPTIMIZERS)}, or an instance from cymlp.optimizers; got {spec!r}"
    )

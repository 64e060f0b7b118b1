"""What estimators have against overfitting and for deep networks, as `MLP` and engines take it; schedules of numbers.

Where all of it is left as it is, an estimator computes what scikit-learn's does.
"""

import math
from numbers import Real

from sklearn.utils._param_validation import Interval

from .. import normalizations, options
from .._scheduling import Schedule, bind, take_rates
from ..normalizations import BatchNorm, LayerNorm

__all__ = ["CONSTRAINTS", "Regularization", "normalization", "refuse_for_lbfgs"]

_not_negative = Interval(Real, 0, None, closed="left")

# Of the parameters, in scikit-learn's form.
CONSTRAINTS = {
    "dropout": [Interval(Real, 0, 1, closed="both"), "array-like", callable],
    "batch_norm": ["boolean", BatchNorm],
    "layer_norm": ["boolean", LayerNorm],
    "l1": [_not_negative],
    "l2": [_not_negative],
    "weight_decay": [_not_negative, callable],
    "max_norm": [Interval(Real, 0, None, closed="neither"), None],
    "penalize_biases": ["boolean"],
    "clip_norm": [Interval(Real, 0, None, closed="right"), None],
    "clip_layer_norm": [Interval(Real, 0, None, closed="right"), None],
    "clip_value": [Interval(Real, 0, None, closed="right"), None],
}

# What an engine's rule has by the same names, where it is not the default.
_CLIPS = ("clip_norm", "clip_layer_norm", "clip_value")
_PENALTIES = {
    **dict.fromkeys(("l1", "l2", "weight_decay"), 0.0),
    **dict.fromkeys(("max_norm", *_CLIPS)),
    "penalize_biases": False,
}


def normalization(estimator):
    """The normalisation of hidden layers, or None."""
    return normalizations.choose(estimator.batch_norm, estimator.layer_norm)


def _rates(estimator, n_hidden):
    """Of dropout, for the inputs and each hidden layer; () for none."""
    given = estimator.dropout
    return options.dropout_rates(list(given) if hasattr(given, "__iter__") else given, n_hidden + 1)


def refuse_for_lbfgs(estimator, n_hidden):
    """ValueError for what L-BFGS, which takes all rows at once and searches along lines, cannot do."""
    refused = {name: default for name, default in _PENALTIES.items() if name != "l2"}
    wrong = [name for name, default in refused.items() if getattr(estimator, name) != default]
    if wrong:
        name = wrong[0]
        raise ValueError(f"{name} must be {refused[name]} for solver 'lbfgs'; got {getattr(estimator, name)!r}")
    if _rates(estimator, n_hidden):
        raise ValueError(
            "dropout must be 0.0 for solver 'lbfgs', which needs a loss that is always the same; "
            f"got {estimator.dropout!r}"
        )
    if estimator.batch_norm:
        raise ValueError(
            f"batch_norm must be False for solver 'lbfgs', which has no minibatches; got {estimator.batch_norm!r}"
        )
    _refuse_momentum(estimator)
    if isinstance(estimator.shuffle, str):
        raise ValueError(
            f"shuffle must be True or False for solver 'lbfgs', which takes all rows at once; got {estimator.shuffle!r}"
        )
    if isinstance(estimator.learning_rate, Schedule):
        raise ValueError(
            "learning_rate must not be a schedule for solver 'lbfgs', which has no rate; "
            f"got {estimator.learning_rate!r}"
        )


def _refuse_momentum(estimator):
    if callable(estimator.momentum):
        raise ValueError(
            f"momentum must not be a schedule for solver {estimator.solver!r}, which has none; "
            f"got {estimator.momentum!r}"
        )


class Regularization:
    """What one call adds to the rule of "adam" or "sgd": penalties, clipping, dropout, and numbers by schedules.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Checked but for what cannot be said by constraints.
    n_hidden : int
        Hidden layers.
    solver : Solver or None
        That of the calls before where this one goes on with it.
    total_steps : int or None
        Minibatches of the call; None where others will follow.

    Raises
    ------
    ValueError
        For what does not go together, or with the network, and for schedules out of range.
    """

    def __init__(self, estimator, n_hidden, solver, total_steps):
        clips = [name for name in _CLIPS if getattr(estimator, name) is not None]
        if len(clips) > 1:
            raise ValueError(f"{clips[1]} must be None where {clips[0]} is given; got {getattr(estimator, clips[1])!r}")
        self.rates = _rates(estimator, n_hidden)
        given = {name: getattr(estimator, name) for name in _PENALTIES}
        specs = {name: value for name, value in given.items() if callable(value)}
        given = {name: value for name, value in given.items() if value != _PENALTIES[name] and name not in specs}
        self._rule = {name: float(value) for name, value in given.items()}
        if estimator.penalize_biases:
            self._rule["penalize_biases"] = True
        if solver is None:
            learning_rate, momentum = estimator.learning_rate, estimator.momentum
            if estimator.solver != "sgd":
                _refuse_momentum(estimator)
        else:
            learning_rate, momentum = solver.schedule, solver.constants.get("momentum")
        if isinstance(learning_rate, Schedule):
            specs["learning_rate"] = learning_rate
        if callable(momentum):
            specs["momentum"] = momentum
        specs |= {f"dropout[{i}]": rate for i, rate in enumerate(self.rates) if callable(rate)}
        self._bound = {name: bind(spec, total_steps, name) for name, spec in specs.items()}

    @property
    def schedules_rate(self):
        """Whether a schedule gives the learning rate."""
        return "learning_rate" in self._bound

    @property
    def clips(self):
        """Whether gradients are limited."""
        return any(self._rule.get(name, math.inf) < math.inf for name in _CLIPS)

    @property
    def measures_norms(self):
        """Whether the gradient's norm is computed."""
        return "clip_norm" in self._rule or "clip_layer_norm" in self._rule

    def rule(self, seed, step, count):
        """What the rule gets for some minibatches.

        Parameters
        ----------
        seed : int or None
            Of dropout.
        step : int
            Steps done before.
        count : int
            Minibatches.

        Returns
        -------
        dict
            "learning_rate" is in it where that has a schedule.
        """
        values = {name: bound.values(step, count) for name, bound in self._bound.items()}
        rates = take_rates(values, self.rates, count)
        dropout = {"dropout": rates, "seed": seed} if self.rates else {}
        return self._rule | values | dropout

    def end_epoch(self, loss, validation_loss):
        """Have schedules that watch it take notice of an epoch."""
        for bound in self._bound.values():
            bound.end_epoch(loss, validation_loss)

    def state(self):
        """What `restore` takes to go on as this one would."""
        return {name: bound.state() for name, bound in self._bound.items()}

    def restore(self, state):
        """Go on from what `state` gave, as far as it tells of the same schedules."""
        for name, bound in self._bound.items():
            if state.get(name):
                bound.restore(state[name])

"""The arguments of `MLP.train`, checked before anything has changed, and what engines are told of them."""

import math
import sys
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from . import _scheduling, _validation, optimizers
from .health.monitor import as_every
from .orders import KINDS
from .stopping import EarlyStopping

__all__ = ["Options", "check", "check_epsilon", "describe", "dropout_rates"]

# At most one of these.
_CLIPS = ("clip_value", "clip_norm", "clip_layer_norm")


@dataclass(slots=True)
class Options:
    """What `MLP.train` is asked for beside data, all of it checked.

    Attributes
    ----------
    optimizer : instance of a class in `cymlp.optimizers`
    dropout : tuple
        For the inputs and each hidden layer a number, a schedule or a callable; empty where nothing is dropped.
    penalties : dict
        What the engine's rule has beside the optimiser's keys, ``dropout`` and ``seed``: only what is not the default.
    callbacks : tuple of callables
    health : int
        Every how many steps one is watched, 0 for never.
    """

    epochs: int
    batch_size: int
    optimizer: Any
    shuffle: bool | str
    class_weight: Any
    label_smoothing: float
    metric: Any
    dropout: tuple
    penalties: dict
    stopping: EarlyStopping | None
    max_time: float | None
    callbacks: tuple
    checkpoint: Any
    resume: bool
    health: int

    @property
    def is_lbfgs(self):
        return isinstance(self.optimizer, optimizers.LBFGS)

    @property
    def norm_of_clipping(self):
        """Whether the gradient's norm is computed."""
        return "clip_norm" in self.penalties or "clip_layer_norm" in self.penalties

    @property
    def clips(self):
        """Whether gradients are limited."""
        return any(self.penalties.get(name, math.inf) < math.inf for name in _CLIPS)

    def scheduled(self):
        """What changes from step to step.

        Returns
        -------
        dict
            Of schedules and callables by name, such as "Adam.learning_rate" or "dropout[1]".
        """
        if self.is_lbfgs:
            return {}
        found = {}
        for name in optimizers.SCHEDULED:
            if callable(spec := getattr(self.optimizer, name, None)):
                found[f"{type(self.optimizer).__name__}.{name}"] = spec
        for i, rate in enumerate(self.dropout):
            if callable(rate):
                found[f"dropout[{i}]"] = rate
        return found


def _number(value, name, expected, allowed, finite=True):
    """`value` as a float; ValueError where it is none, or not allowed."""
    number = value.item() if isinstance(value, np.generic) else value
    good = isinstance(number, (int, float)) and not isinstance(number, bool) and allowed(number)
    if not good or not (abs(number) <= sys.float_info.max or (not finite and number == math.inf)):
        raise ValueError(f"{name} must be {expected}; got {value!r}")
    return float(number)


def _non_negative(value, name):
    if type(value) is float and 0 <= value <= sys.float_info.max:
        return value
    return _number(value, name, "a finite number >= 0", lambda v: v >= 0)


def _flag(value, name):
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def _shuffle(value):
    if isinstance(value, str):
        if value not in KINDS:
            expected = " or ".join(repr(kind) for kind in KINDS)
            raise ValueError(f"shuffle must be True or False, {expected}; got {value!r}")
        return value
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"shuffle must be True or False, {' or '.join(map(repr, KINDS))}; got {value!r}")
    return bool(value)


def _class_weight(value):
    if value is None or (isinstance(value, str) and value == "balanced"):
        return value
    if isinstance(value, str):
        raise ValueError(f"class_weight must be None, 'balanced' or a dict label -> weight; got {value!r}")
    if not isinstance(value, dict):
        raise TypeError(f"class_weight must be None, 'balanced' or a dict label -> weight; got {type(value).__name__}")
    return {label: _non_negative(weight, f"class_weight[{label!r}]") for label, weight in value.items()}


def _smoothing(value, network):
    smoothing = _number(value, "label_smoothing", "a number in [0, 1)", lambda v: 0 <= v < 1)
    output = network.output_activation.name
    if smoothing > 0 and output not in ("softmax", "sigmoid"):
        raise ValueError(f"label_smoothing must be 0.0 but behind a softmax or sigmoid output; got {value!r}")
    return smoothing


def dropout_rates(value, n_layers):
    """A rate for the inputs and each hidden layer; () where all are 0.

    Parameters
    ----------
    value : float, schedule, callable, or sequence of them
        Not a sequence: of the hidden layers.
    n_layers : int
        Of weights: one more than there are hidden ones.

    Returns
    -------
    tuple

    Raises
    ------
    ValueError
        For a sequence of another length, and for what is neither a rate nor a schedule of rates.
    """
    if type(value) is float and value == 0:
        return ()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        if len(value) != n_layers:
            raise ValueError(
                f"dropout must have {n_layers} entries, one for the inputs and one for each hidden layer; "
                f"got {len(value)}"
            )
        rates = tuple(value)
        for i, rate in enumerate(rates):
            _scheduling.check(rate, f"dropout[{i}]")
    else:
        _scheduling.check(value, "dropout")
        rates = (0.0,) + (value,) * (n_layers - 1)
    rates = tuple(rate if callable(rate) else float(rate) for rate in rates)
    return rates if any(callable(rate) or rate > 0 for rate in rates) else ()


def _penalties(given):
    """What a rule has beside the optimiser's keys; what has its default is left out."""
    found = {}
    for name in ("alpha", "l1", "l2"):
        value = _non_negative(given[name], name)
        if value > 0:
            found[name] = value
    if _flag(given["penalize_biases"], "penalize_biases"):
        found["penalize_biases"] = True
    if given["max_norm"] is not None:
        found["max_norm"] = _number(given["max_norm"], "max_norm", "None or a finite number > 0", lambda v: v > 0)
    for name in _CLIPS:
        if given[name] is not None:
            found[name] = _number(given[name], name, "None or a number > 0", lambda v: v > 0, finite=False)
    clips = [name for name in _CLIPS if name in found]
    if len(clips) > 1:
        raise ValueError(f"{clips[1]} must be None where {clips[0]} is given; got {given[clips[1]]!r}")
    return found


def _callbacks(value):
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        for i, callback in enumerate(value):
            if not callable(callback):
                raise TypeError(f"callback[{i}] must be callable; got {type(callback).__name__}")
        return tuple(value)
    if not callable(value):
        raise TypeError(f"callback must be None, callable, or a list of callables; got {type(value).__name__}")
    return (value,)


def _refuse_for_lbfgs(options, network):
    """ValueError for what L-BFGS, which takes all rows at once and searches along lines, cannot do."""
    if options.resume:
        raise ValueError("resume must be False for optimizer 'lbfgs', which keeps no state between calls; got True")
    if isinstance(options.shuffle, str):
        raise ValueError(f"shuffle must be True or False for optimizer 'lbfgs'; got {options.shuffle!r}")
    if options.dropout:
        raise ValueError("dropout must be 0.0 for optimizer 'lbfgs', which needs a loss that is always the same")
    if network._layout.n_statistics:
        raise ValueError("optimizer 'lbfgs' must not be used with batch normalization, which needs minibatches")
    if options.checkpoint is not None:
        raise ValueError("checkpoint must be None for optimizer 'lbfgs', whose state is SciPy's")
    for name in ("l1", "max_norm", *_CLIPS):
        if name in options.penalties:
            default = "0.0" if name == "l1" else "None"
            raise ValueError(f"{name} must be {default} for optimizer 'lbfgs'; got {options.penalties[name]!r}")


def check(network, given, has_validation):
    """The `Options` that the arguments of `MLP.train` mean, data aside.

    Parameters
    ----------
    network : MLP
    given : dict
        By name.
    has_validation : bool

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what came and what was expected.
    """
    epochs = _validation.as_count(given["epochs"], "epochs")
    batch_size = _validation.as_count(given["batch_size"], "batch_size")
    learning_rate = given["learning_rate"]
    if isinstance(learning_rate, np.generic):
        learning_rate = learning_rate.item()
    optimizer = optimizers.get(given["optimizer"], learning_rate)
    shuffle, resume = _shuffle(given["shuffle"]), _flag(given["resume"], "resume")
    metric, stopping, checkpoint, max_time = (given[k] for k in ("metric", "stopping", "checkpoint", "max_time"))
    if metric is not None and not callable(metric):
        raise TypeError(f"metric must be None or callable; got {type(metric).__name__}")
    if metric is not None and not has_validation:
        raise ValueError("metric must be None without validation_data, of which it is computed")
    if stopping is not None and not isinstance(stopping, EarlyStopping):
        raise TypeError(f"stopping must be None or an EarlyStopping; got {type(stopping).__name__}")
    if max_time is not None:
        max_time = _number(max_time, "max_time", "None or a number of seconds > 0", lambda v: v > 0, finite=False)
    if checkpoint is not None and not callable(getattr(checkpoint, "recorder", None)):
        raise TypeError(f"checkpoint must be None or a cymlp.Checkpoint; got {type(checkpoint).__name__}")
    options = Options(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        shuffle=shuffle,
        class_weight=_class_weight(given["class_weight"]),
        label_smoothing=_smoothing(given["label_smoothing"], network),
        metric=metric,
        dropout=dropout_rates(given["dropout"], len(network.layer_sizes) - 1),
        penalties=_penalties(given),
        stopping=stopping,
        max_time=max_time,
        callbacks=_callbacks(given["callback"]),
        checkpoint=checkpoint,
        resume=resume,
        health=as_every(given["health"]),
    )
    if options.is_lbfgs:
        _refuse_for_lbfgs(options, network)
    return options


def check_epsilon(optimizer, dtype):
    """Passes flush what is below the smallest normal number to zero, and where g is 0 the update would be 0 / 0.

    Adam's first step has the smallest divisor, epsilon sqrt(1 - beta2), where both corrections are in its rate: Kingma
    & Ba (2015), section 2.
    """
    epsilon = getattr(optimizer, "epsilon", None)
    factor = math.sqrt(1 - getattr(optimizer, "beta2", 0))
    smallest = float(np.finfo(dtype).tiny)
    if epsilon is not None and epsilon * factor < smallest:
        raise ValueError(
            f"{type(optimizer).__name__}.epsilon must be at least {smallest / factor:.3g}, below which it counts as 0 "
            f"in {dtype.name}; got {epsilon!r}"
        )


def describe(options):
    """The options that decide what a run computes, as texts: two runs that differ in none are the same.

    Returns
    -------
    dict of str
        By the names of the arguments.  Of functions it has only the names.
    """
    names = ("optimizer", "epochs", "batch_size", "shuffle", "class_weight", "label_smoothing", "dropout", "metric")
    texts = {name: _text(getattr(options, name)) for name in (*names, "stopping")}
    if options.health:  # which a checkpoint without it does not name
        texts["health"] = _text(options.health)
    return texts | {name: _text(value) for name, value in options.penalties.items()}


def _text(value):
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(key)}: {_text(item)}' for key, item in value.items())}}}"
    if hasattr(value, "__dataclass_fields__"):
        arguments = (f"{field.name}={_text(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__name__}({', '.join(arguments)})"
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value)

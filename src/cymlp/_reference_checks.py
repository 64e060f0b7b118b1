"""What the reference asks of arguments: names, shapes, dtypes, and what an optimiser's rule holds.

Messages name the argument.  Content (finite values, labels in range) is checked by whoever calls an engine.
"""

import numpy as np

from ._formulas import ACTIVATIONS, LOSSES

__all__ = [
    "OPTIONS",
    "OUTPUTS",
    "RULES",
    "check_array",
    "check_count",
    "check_limit",
    "check_name",
    "check_number",
    "check_pair",
    "check_rule",
    "check_seed",
    "check_targets",
    "moments_of",
]

# The output activations a loss can be computed behind; every elementwise one where it is not listed.
OUTPUTS = {
    "poisson": ("sigmoid", "softplus", "exp"),
    "binary_cross_entropy": ("sigmoid",),
    "categorical_cross_entropy": ("softmax",),
}

# What an optimiser's rule holds.
RULES = {
    "sgd": ("learning_rate", "momentum", "nesterov"),
    "rmsprop": ("learning_rate", "rho", "epsilon"),
    "adam": ("learning_rate", "beta1", "beta2", "epsilon"),
    "adamw": ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay"),
}

# What it may hold beside.
OPTIONS = {
    "sgd": ("alpha", "l2"),
    "rmsprop": ("alpha", "l2"),
    "adam": ("epsilon_hat", "alpha", "l2"),
    "adamw": ("epsilon_hat", "alpha", "l2"),
}


def check_name(argument, name, names):
    if name not in names:
        raise ValueError(f"{argument} must be one of {', '.join(names)}; got {name!r}")


def check_pair(loss, activation):
    check_name("loss", loss, LOSSES)
    check_name("activation", activation, ACTIVATIONS)
    outputs = OUTPUTS.get(loss, tuple(name for name in ACTIVATIONS if name != "softmax"))
    if activation not in outputs:
        raise ValueError(f"activation must be one of {', '.join(outputs)} with loss {loss!r}; got {activation!r}")


def check_count(argument, value, least=1):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument} must be an integer; got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{argument} must be at least {least}; got {value}")


def check_number(argument, value, least, most):
    """Raise unless `value` is a number in [least, most]."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{argument} must be a number; got {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{argument} must be in [{least}, {most}]; got {value}")


def check_seed(seed):
    check_count("seed", seed, least=0)
    if seed >= 2**64:
        raise ValueError(f"seed must be less than 2**64; got {seed}")


def check_limit(argument, value):
    """Raise unless `value` is a number above 0; infinity is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{argument} must be a number; got {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{argument} must be greater than 0; got {value}")


def check_array(argument, array, shape, dtype=None, writable=False):
    """Raise unless `array` is C-contiguous, of `dtype` (None: float32 or float64) and `shape` (None: any length)."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{argument} must be a numpy.ndarray; got {type(array).__name__}")
    if array.dtype not in ((np.float32, np.float64) if dtype is None else (dtype,)):
        expected = "float32 or float64" if dtype is None else np.dtype(dtype).name
        raise TypeError(f"{argument} must have dtype {expected}; got {array.dtype}")
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        expected = str(tuple("any" if want is None else want for want in shape)).replace("'", "")
        raise ValueError(f"{argument} must have shape {expected}; got {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{argument} must be C-contiguous; got strides {array.strides} for shape {array.shape}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{argument} must be writable; got a read-only array")


def check_targets(y, sample_weight, rows, columns, dtype, activation):
    if isinstance(y, np.ndarray) and y.ndim == 1 and activation == "softmax":
        check_array("y", y, (rows,), np.int64)
    else:
        check_array("y", y, (rows, columns), dtype)
    if sample_weight is not None:
        check_array("sample_weight", sample_weight, (rows,), dtype)


def check_rule(rule):
    if not isinstance(rule, dict):
        raise TypeError(f"rule must be a dictionary; got {type(rule).__name__}")
    check_name("rule['name']", rule.get("name"), RULES)
    missing = [key for key in RULES[rule["name"]] if key not in rule]
    if missing:
        raise ValueError(f"rule {rule['name']!r} must have {', '.join(RULES[rule['name']])}; got no {missing[0]}")


def moments_of(rule):
    """Whether a rule keeps m, and whether it keeps v."""
    return (rule["momentum"] > 0, False) if rule["name"] == "sgd" else (rule["name"] != "rmsprop", True)

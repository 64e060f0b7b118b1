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
    "check_dropout",
    "check_epoch_rule",
    "check_limit",
    "check_name",
    "check_normalizations",
    "check_number",
    "check_pair",
    "check_record",
    "check_rule",
    "check_seed",
    "check_targets",
    "check_watched",
    "moments_of",
    "rule_of_batch",
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
_COMMON = (
    "alpha",
    "l2",
    "l1",
    "weight_decay",
    "penalize_biases",
    "max_norm",
    "clip_value",
    "clip_norm",
    "clip_layer_norm",
    "dropout",
    "seed",
)
OPTIONS = {
    "sgd": _COMMON,
    "rmsprop": _COMMON,
    "adam": ("epsilon_hat", *_COMMON),
    "adamw": ("epsilon_hat", *(key for key in _COMMON if key != "weight_decay")),
}

# Of these at most one.
_CLIPPING = ("clip_value", "clip_norm", "clip_layer_norm")

# Numbers that may be arrays in `Network.train_epoch`, one for each minibatch.
_SCHEDULED = ("learning_rate", "momentum", "beta1", "weight_decay")


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


def check_rates(rates, n_layers):
    """Raise unless these are rates of dropout, one for the inputs and for each hidden layer."""
    if len(rates) != n_layers:
        raise ValueError(f"dropout must have {n_layers} rates; got {len(rates)}")
    for rate in rates:
        check_number("dropout", rate, 0, 1)


def check_dropout(dropout, n_layers):
    """Raise unless this is None or (seed, step, rates)."""
    if dropout is None:
        return
    if not isinstance(dropout, tuple) or len(dropout) != 3:
        raise TypeError(f"dropout must be None or a tuple (seed, step, rates); got {type(dropout).__name__}")
    check_seed(dropout[0])
    check_count("step", dropout[1])
    check_rates(dropout[2], n_layers)


def check_epoch_rule(rule, n_batches, n_layers):
    """Raise unless `Network.train_epoch` can follow the rule for so many minibatches."""
    check_rule(rule)
    for key in _SCHEDULED:
        if isinstance(rule.get(key), np.ndarray):
            check_array(f"rule[{key!r}]", rule[key], (n_batches,), np.float64)
    found = [key for key in _CLIPPING if rule.get(key) is not None]
    if len(found) > 1:
        raise ValueError(f"rule must have at most one of {', '.join(_CLIPPING)}; got {', '.join(found)}")
    for key in ("max_norm", *found):
        if rule.get(key) is not None:
            check_limit(f"rule[{key!r}]", rule[key])
    rates = rule.get("dropout")
    if rates is not None:
        if "seed" not in rule:
            raise ValueError("rule must have 'seed' beside 'dropout'")
        check_seed(rule["seed"])
        if np.ndim(rates) == 2:
            check_array("rule['dropout']", rates, (n_batches, n_layers), np.float64)
        for row in rates if np.ndim(rates) == 2 else [rates]:
            check_rates(row, n_layers)


def check_record(argument, record, n_layers):
    """Raise unless there is a row for each layer, inputs included, and a column for each number of engine.MONITORED."""
    check_array(argument, record, (n_layers, 8), np.float64, writable=True)


def check_watched(watched, n_batches, n_layers):
    """Raise unless this is (batches, records) as `Network.train_epoch` takes them."""
    if not isinstance(watched, tuple) or len(watched) != 2:
        raise TypeError(f"watched must be None or a tuple (batches, records); got {type(watched).__name__}")
    batches, records = watched
    check_array("watched[0]", batches, (None,), np.int64)
    check_array("watched[1]", records, (len(batches), n_layers, 8), np.float64, writable=True)
    if len(batches) and (batches[0] < 0 or batches[-1] >= n_batches or (np.diff(batches) <= 0).any()):
        raise ValueError(f"watched[0] must be increasing numbers from 0 to {n_batches - 1}; got {batches.tolist()}")


def rule_of_batch(rule, number):
    """The rule with its numbers for one minibatch."""
    numbers = {key: float(rule[key][number]) for key in _SCHEDULED if isinstance(rule.get(key), np.ndarray)}
    if np.ndim(rule.get("dropout")) == 2:
        numbers["dropout"] = rule["dropout"][number]
    return {**rule, **numbers}


def moments_of(rule):
    """Whether a rule keeps m, and whether it keeps v."""
    if rule["name"] == "sgd":
        return bool(np.any(np.asarray(rule["momentum"]) > 0)), False
    return rule["name"] != "rmsprop", True


def check_normalizations(normalizations, n_layers):
    """A tuple with one entry for each layer: None, ("batch", epsilon, momentum) or ("layer", epsilon)."""
    if normalizations is None:
        return (None,) * n_layers
    if len(normalizations) != n_layers:
        raise ValueError(f"normalizations must have {n_layers} entries; got {len(normalizations)}")
    for entry in normalizations:
        if entry is not None:
            check_name("normalizations", entry[0], ("batch", "layer"))
            if len(entry) != (3 if entry[0] == "batch" else 2):
                raise ValueError(
                    f"normalizations must be ('batch', epsilon, momentum), ('layer', epsilon) or None; got {entry}"
                )
            check_limit("epsilon", entry[1])
            if entry[0] == "batch":
                check_number("momentum", entry[2], 0, 1)
    if normalizations[-1] is not None:
        raise ValueError(f"normalizations must be None for the output layer; got {normalizations[-1]}")
    return tuple(None if entry is None else (entry[0], *map(float, entry[1:])) for entry in normalizations)

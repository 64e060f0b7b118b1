"""What a training step does, from the dictionaries and tuples that ``engine.py`` describes: optimisers, clipping, dropout."""
from libc.math cimport INFINITY, pow, sqrt
from libc.stdint cimport uint64_t

import numpy as np

from cymlp._boundary cimport Array, check_name
from cymlp._storage cimport plan_t
from cymlp._tiles cimport CLIP_LAYER_NORM, CLIP_NORM, CLIP_VALUE, NO_CLIP, regime_t
from cymlp.kernels cimport *

# What an optimiser's rule holds.
RULES = {
    "sgd": ("learning_rate", "momentum", "nesterov"),
    "rmsprop": ("learning_rate", "rho", "epsilon"),
    "adam": ("learning_rate", "beta1", "beta2", "epsilon"),
    "adamw": ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay"),
}

# What it may hold beside.
COMMON = (
    *("alpha", "l2", "l1", "weight_decay", "penalize_biases", "max_norm", "clip_value", "clip_norm", "clip_layer_norm"),
    *("dropout", "seed"),
)
OPTIONS = {
    "sgd": COMMON,
    "rmsprop": COMMON,
    "adam": ("epsilon_hat", *COMMON),
    "adamw": ("epsilon_hat", *(key for key in COMMON if key != "weight_decay")),
}

cdef dict CLIPPING = {"clip_value": CLIP_VALUE, "clip_norm": CLIP_NORM, "clip_layer_norm": CLIP_LAYER_NORM}


cdef double limit_of(str argument, value) except -1:
    """A number above 0; infinity is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{argument} must be a number; got {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{argument} must be greater than 0; got {value}")
    return value


cdef uint64_t seed_of(seed) except? 0:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer; got {type(seed).__name__}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2**64); got {seed}")
    return seed


cdef Array rates_of(rates, int depth, Py_ssize_t n_steps):
    """Rates of dropout (depth,), or (n_steps, depth), in [0, 1]."""
    table = np.ascontiguousarray(rates, np.float64)
    if table.shape not in ((depth,), (n_steps, depth)):
        raise ValueError(f"dropout must have shape ({depth},) or ({n_steps}, {depth}); got {table.shape}")
    if not np.all((table >= 0) & (table <= 1)):
        raise ValueError(f"dropout must be in [0, 1]; got values from {table.min()} to {table.max()}")
    return Array(table, "dropout", "d", table.shape)


cdef int plan_dropout(Array rates, int depth, plan_t *plan) except -1:
    """What has to be stored for these rates: derivatives of layers, inputs."""
    table = np.asarray(rates.view.obj).reshape(-1, depth)
    plan.drops_inputs = bool(table[:, 0].any())
    plan.drops = bool(table[:, 1:].any())
    return 0


cdef tuple dropout_of(dropout, int depth, plan_t *plan):
    """The seed, the step from 1 on and the rates of a tuple (seed, step, rates)."""
    if not isinstance(dropout, tuple) or len(dropout) != 3:
        raise TypeError(f"dropout must be None or a tuple (seed, step, rates); got {type(dropout).__name__}")
    seed, step, rates = dropout
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
        raise TypeError(f"dropout[1] must be an integer; got {type(step).__name__}")
    if step < 1:
        raise ValueError(f"dropout[1] must be at least 1; got {step}")
    held = rates_of(rates, depth, 1)
    plan_dropout(held, depth, plan)
    return seed_of(seed), step, held


cdef tuple check_state(state, str kind, Py_ssize_t n):
    """What `Network.get_optimizer` returned: the rule's name, the count of steps, and each moment as an `Array` or None."""
    if not isinstance(state, tuple) or len(state) != 4:
        raise TypeError(f"state must be None or a tuple (name, step, m, v); got {type(state).__name__}")
    name, step, *moments = state
    check_name("state[0]", name, RULES)
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
        raise TypeError(f"state[1] must be an integer; got {type(step).__name__}")
    if step < 0:
        raise ValueError(f"state[1] must be at least 0; got {step}")
    return name, step, [None if m is None else Array(m, f"state[{i}]", kind, (n,)) for i, m in enumerate(moments, 2)]


cdef inline double at(const number_t *number, size_t step) noexcept:
    return number.each[step] if number.each else number.value


cdef class Rule:
    """The numbers of a rule, after a check that it is complete.

    Parameters
    ----------
    rule : dict
    depth : int
        Layers of the network.
    n_steps : int
        Minibatches of the epoch.
    """

    def __cinit__(self, rule, int depth, Py_ssize_t n_steps):
        if not isinstance(rule, dict):
            raise TypeError(f"rule must be a dictionary; got {type(rule).__name__}")
        name = rule.get("name")
        check_name("rule['name']", name, RULES)
        for key in RULES[name]:
            if key not in rule:
                raise ValueError(f"rule {name!r} must have {', '.join(RULES[name])}; got no {key}")
        self.name, self.depth, self.held = name, depth, []
        self.rate = self.number(rule, "learning_rate", 0, n_steps)
        self.decay = self.number(rule, "weight_decay", 0, n_steps)
        self.epsilon, self.epsilon_hat = rule.get("epsilon", 0), rule.get("epsilon_hat", False)
        self.alpha, self.l1, self.l2 = rule.get("alpha", 0), rule.get("l1", 0), rule.get("l2", 0)
        if name == "sgd":
            self.beta1 = self.number(rule, "momentum", 0, n_steps)
            self.keeps_first = bool(np.any(np.greater(rule["momentum"], 0)))
            self.kind = (CYMLP_NESTEROV if rule["nesterov"] else CYMLP_MOMENTUM) if self.keeps_first else CYMLP_SGD
        elif name == "rmsprop":
            self.kind, self.beta2, self.keeps_second = CYMLP_RMSPROP, rule["rho"], True
        else:
            self.beta1 = self.number(rule, "beta1", 0, n_steps)
            self.kind, self.beta2, self.keeps_first, self.keeps_second = CYMLP_ADAM, rule["beta2"], True, True
        self.take_regime(rule, n_steps)

    cdef int take_regime(self, dict rule, Py_ssize_t n_steps) except -1:
        """What a step does beside the optimiser's update."""
        self.regime.limit, self.regime.clipping, self.regime.max_norm = INFINITY, NO_CLIP, INFINITY
        kinds = [key for key in CLIPPING if rule.get(key) is not None]
        if len(kinds) > 1:
            raise ValueError(f"rule must have at most one of {', '.join(CLIPPING)}; got {' and '.join(kinds)}")
        for key in kinds:
            self.regime.clipping, self.regime.limit = CLIPPING[key], limit_of(f"rule[{key!r}]", rule[key])
        self.regime.of_biases = rule.get("penalize_biases", False)
        if rule.get("max_norm") is not None:
            self.regime.max_norm = limit_of("rule['max_norm']", rule["max_norm"])
        if rule.get("dropout") is not None:
            if "seed" not in rule:
                raise ValueError("rule must have 'seed' beside 'dropout'")
            self.dropout = rates_of(rule["dropout"], self.depth, n_steps)
            self.dropout_stride = self.depth if self.dropout.view.ndim == 2 else 0
            self.regime.seed = seed_of(rule["seed"])
        return 0

    cdef number_t number(self, dict rule, str key, double default, Py_ssize_t n_steps) except *:
        """One of the rule's numbers; an array of them is held as long as this object lives."""
        cdef number_t number = number_t(default, NULL)
        cdef Array each
        value = rule.get(key)
        if isinstance(value, np.ndarray) and value.ndim > 0:
            each = Array(value, f"rule[{key!r}]", "d", (n_steps,))
            self.held.append(each)
            number.each = <const double *>each.data
        elif value is not None:
            number.value = value
        return number

    cdef int plan(self, plan_t *plan, bint with_norms) except -1:
        """What a workspace needs room for; a mirrored one has no place of its own for a gradient that is only read."""
        if self.dropout is not None:
            plan_dropout(self.dropout, self.depth, plan)
        plan.gathers = with_norms or self.regime.clipping in (CLIP_NORM, CLIP_LAYER_NORM)
        if plan.mirrored and self.regime.clipping == CLIP_VALUE:
            plan.gathers = True
        return 0

    cdef const double *rates(self, size_t first) noexcept:
        """Of dropout, from minibatch `first` on."""
        return <const double *>self.dropout.data + first * self.dropout_stride if self.dropout is not None else NULL

    cdef int fill(self, size_t done, size_t first, size_t count, const double *scale, cymlp_step *steps) except -1:
        """The constants of steps done + 1 .. done + count, with minibatches from `first` on.

        scale: 1 / sum of the weights of each step's minibatch, or 0 where that is 0; NULL for a step without a minibatch.
        """
        cdef double rate, beta1, correction
        cdef size_t i
        for i in range(count):
            rate, beta1 = at(&self.rate, first + i), at(&self.beta1, first + i)
            steps[i] = cymlp_step(self.kind, rate, beta1, self.beta2, self.epsilon, rate * at(&self.decay, first + i), self.l2,
                                  self.l1)
            if self.name == "sgd" and beta1 == 0:
                steps[i].kind = CYMLP_SGD  # in this step
            if scale:
                steps[i].l2 = self.l2 + self.alpha * scale[i] if scale[i] > 0 else 0
                steps[i].l1 = self.l1 if scale[i] > 0 else 0
            if self.kind == CYMLP_ADAM:
                correction = sqrt(1 - pow(self.beta2, done + i + 1))
                steps[i].rate = rate * correction / (1 - pow(beta1, done + i + 1))
                steps[i].epsilon = self.epsilon if self.epsilon_hat else self.epsilon * correction
        return 0

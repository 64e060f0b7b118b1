"""What a rule is, and how it is written down."""

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["HARM", "UNLEARNED", "Limit", "Rule", "Seen", "number", "rule", "standing"]

# Of most rules.
HARM = (0.5, "the last loss over that of a constant prediction: networks that learn half of it are left alone")

# What a network that does not learn shows at the end, whatever the cause.
UNLEARNED = ("class imbalance", "stuck at base rate")


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that a rule compares with, and why it is this one."""

    value: float
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule has found: words, layers, the step since when it is so (0: before training), and numbers by name."""

    message: str
    layers: tuple
    since: int | None
    numbers: dict


@dataclass(frozen=True, slots=True)
class Rule:
    """What is looked for.

    Attributes
    ----------
    name, title : str
        A key of `RULES`, and what it says in a sentence.
    limits : dict of Limit
    reason : str
        Why it matters.
    source : str
    check : callable
        ``check(signs, limits) -> Seen or None``, `limits` by name, plain numbers.
    explains : frozenset of str
        Rules whose findings follow from one of this rule.
    """

    name: str
    title: str
    limits: dict
    reason: str
    source: str
    check: Callable
    explains: frozenset = frozenset()

    @property
    def thresholds(self):
        """The numbers of `limits` by name."""
        return {name: limit.value for name, limit in self.limits.items()}


def rule(name, title, limits, reason, source, explains=()):
    """Make the function below, a `check`, a `Rule`."""

    def make(check):
        limited = {key: Limit(*value) for key, value in limits.items()}
        return Rule(name, title, limited, reason, source, check, frozenset(explains))

    return make


# ---- Words ----


def number(value):
    """Three digits at most."""
    size = abs(value)
    return f"{value:.3g}" if size == 0 or not math.isfinite(size) or 1e-3 <= size < 1e5 else f"{value:.1e}"


def standing(signs):
    """How the loss stands, as a clause."""
    if signs.diverged:
        return "training diverged"
    if not len(signs.losses):
        return "no epoch was whole"
    known = "" if math.isnan(signs.base) else f", that of a constant prediction {number(signs.base)}"
    return f"the loss is {number(signs.losses[-1])}{known}"

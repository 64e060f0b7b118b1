"""The rules by which a run is judged: what each looks for, from which numbers on, and why these.

A rule tells what harms: most ask for a sign in the layers and for a loss that shows it, so that a network that learns
is left alone however odd it looks.  `RULES` has them in the order of causes before consequences; a finding takes those
with it that it explains.
"""

from . import rules_of_layers, rules_of_learning
from .signs import Signs

__all__ = ["RULES", "judge"]

_ORDER = (
    rules_of_layers.symmetric,
    rules_of_learning.inputs,
    rules_of_learning.targets,
    rules_of_layers.saturated,
    rules_of_layers.exploding,
    rules_of_layers.dead,
    rules_of_layers.vanishing,
    rules_of_layers.restless,
    rules_of_layers.still,
    rules_of_learning.linear,
    rules_of_learning.imbalance,
    rules_of_learning.stuck,
)

RULES = {one.name: one for one in _ORDER}


def judge(evidence):
    """What the rules find in a run.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    list of (Rule, Seen)
        Causes first; without what one before it explains.
    """
    signs = Signs(evidence)
    seen = [(rule, found) for rule in RULES.values() if (found := rule.check(signs, rule.thresholds)) is not None]
    born = signs.step(0) if len(signs) else 0
    # Within each of them in the order of RULES: what was there from the first step on, and what came later.
    seen.sort(key=lambda pair: pair[1].since is None or pair[1].since > born)
    kept = []
    for rule, found in seen:
        if not any(rule.name in cause.explains for cause, _ in kept):
            kept.append((rule, found))
    return kept

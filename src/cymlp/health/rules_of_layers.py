"""Rules about what passes through the layers, and how fast they move."""

import math

import numpy as np

from .rulebook import HARM, UNLEARNED, Seen, number, rule, standing

__all__ = ["dead", "exploding", "restless", "saturated", "still", "symmetric", "vanishing"]

# A step over the weights from which on it forgets: a tenth in each step turns over in ten what was learned.
RESTLESS = 0.1

RISE = (1.5, "times the least loss is the last one: lost for good, as half of it is left at the least")


@rule(
    "symmetric units",
    "Units of a layer are the same",
    {
        "share": (
            0.5,
            "half of a layer at the start and at the end: drawn weights have no twins at all, and equal units stay "
            "equal unless dropout parts them",
        )
    },
    "Units with the same weights compute the same value, get the same gradient and stay the same forever: the layer is "
    "as good as one unit.",
    "Rumelhart, Hinton & Williams (1986), Learning internal representations by error propagation",
    (
        *("saturated units", "dead units", "exploding gradients", "vanishing gradients", "restless layers"),
        *("still layers", *UNLEARNED),
    ),
)
def symmetric(signs, limits):
    if not len(signs):
        return None
    twins = np.where(np.isnan(signs.records.twins), 0, signs.records.twins)
    known = np.isfinite(signs.records.twins[:, 1:]).any(axis=1)
    last = np.flatnonzero(known)[-1] if known.any() else 0
    share = np.minimum(twins[0], twins[last])
    layers = tuple(layer for layer in signs.hidden if signs.sizes[layer] > 1 and share[layer] >= limits["share"])
    if not layers:
        return None
    most = max(float(share[layer]) for layer in layers)
    still = "still are" if last else "are"
    return Seen(
        f"{100 * most:.0f} % of the units have a twin with the same weights and bias; they {still} the same in step "
        f"{signs.step(last)}",
        layers,
        signs.step(0),
        {"share of units": most},
    )


@rule(
    "saturated units",
    "Sigmoid or tanh units are in their flat parts",
    {
        "share": (
            0.75,
            "of a layer's outputs have less than 5 % of the largest slope; of a new, well-scaled layer 4 %, of trained "
            "ones up to 30 %",
        ),
        "left": HARM,
    },
    "Where the slope is almost 0 no gradient passes: what is below such a layer hardly learns, and neither do its "
    "weights.",
    "Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, section 3",
    ("exploding gradients", "vanishing gradients", "dead units", "still layers", *UNLEARNED),
)
def saturated(signs, limits):
    return _units(signs, signs.records.saturated, limits, "of the outputs are saturated")


@rule(
    "dead units",
    "Units are 0 for all rows",
    {
        "share": (
            0.75,
            "of a layer's units; deep layers of a good new network have up to half, as rows become alike with depth",
        ),
        "left": HARM,
        "most": (0.95, "of a layer's units at the end: the layer is a twentieth of what it seems, harm or not"),
        "rows": (8.0, "of a minibatch that dropout leaves: fewer tell little of a unit that is seldom on"),
    },
    "A ReLU that is 0 for all rows has no gradient: its incoming weights never change again.",
    "Lu, Shin, Su & Karniadakis (2019), Dying ReLU and initialization",
    ("vanishing gradients", "still layers", *UNLEARNED),
)
def dead(signs, limits):
    dead, zero = signs.records.dead, signs.zero
    # Of few rows many units are 0 in all of them by chance; what is 0 in every row is no more than what is 0 at all.
    share = np.where(signs.rows >= limits["rows"], dead, np.where(zero > 0.99, np.fmin(dead, zero), np.nan))
    seen = _units(signs, share, limits, "of the units are 0 for every row of a minibatch")
    if seen is not None:
        return seen
    most = dict(limits, share=limits["most"], left=-math.inf)
    return _units(signs, share, most, "of the units are 0 for every row of a minibatch", late=True)


def _units(signs, shares, limits, what, late=False):
    """A share of a layer's units, at the beginning or at the end."""
    if not len(signs) or not signs.hidden or (not signs.harmed(limits["left"]) and not late):
        return None
    first, last = signs.first(shares), signs.last(shares)
    known = [layer for layer in signs.hidden if max(np.nan_to_num([first[layer], last[layer]])) >= limits["share"]]
    if late:
        known = [layer for layer in known if last[layer] >= limits["share"]]
    if not known:
        return None
    worst = max(known, key=lambda layer: max(np.nan_to_num([first[layer], last[layer]])))
    share = float(np.fmax.reduce([first[worst], last[worst]]))
    over = np.flatnonzero((shares[:, known] >= limits["share"]).any(axis=1))
    return Seen(
        f"in layer {worst} {100 * share:.0f} % {what}; {standing(signs)}",
        tuple(known),
        signs.step(int(over[0])) if len(over) else None,
        {"share": share},
    )


@rule(
    "exploding gradients",
    "Gradients or activations grow from layer to layer",
    {
        "growth": (
            100.0,
            "of the gradient from the output to any layer, or of activations from the first layer on, in the first "
            "step; good new networks stay within 10",
        ),
        "later": (1000.0, "of the gradient since the first step, where the loss was lost"),
        "ratio": (
            RESTLESS,
            "of a step to the weights, from which on it is the learning rate: then layers are restless",
        ),
        "rise": RISE,
        "left": HARM,
    },
    "Each layer multiplies what passes it by its weights: above 1 this grows exponentially with depth, and outputs, "
    "loss and steps are far too large.",
    "Glorot & Bengio (2010), section 4.2; Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent "
    "neural networks",
    ("dead units", "restless layers", "still layers", *UNLEARNED),
)
def exploding(signs, limits):
    if not len(signs) or not signs.hidden or not signs.harmed(limits["left"]):
        return None
    back, forth = signs.gradient[0], signs.activation[0]
    grown = [layer for layer in signs.hidden if back[layer] > limits["growth"]]
    with np.errstate(all="ignore"):
        growth = forth / (forth[1] or math.nan)  # of a dead layer there is nothing to tell
    larger = [layer for layer in range(2, signs.n_layers + 1) if growth[layer] > limits["growth"]]
    broken = [layer for layer in range(1, signs.n_layers + 1) if not np.isfinite(forth[layer])]
    if grown or larger or broken:
        return Seen(
            _growth(signs, back, growth, grown, larger, broken),
            tuple(sorted({*grown, *larger, *broken})),
            signs.step(0),
            {"gradient": float(np.fmax.reduce(back[1:])), "activation": float(growth[-1])},
        )
    size = signs.gradient_size
    later = np.flatnonzero(size > limits["later"] * size[0])
    if len(later) and (signs.diverged or signs.rose(limits["rise"])) and not signs.fast(limits["ratio"]):
        at = signs.step(int(later[0]))
        factor = float(size[later[0]] / size[0])
        message = f"the gradient is {number(factor)} times that of the first step; {standing(signs)}"
        return Seen(message, tuple(range(1, signs.n_layers + 1)), at, {"gradient since": factor})
    return None


def _growth(signs, back, growth, grown, larger, broken):
    parts = []
    if grown:
        top = int(np.nanargmax(back[1:])) + 1
        times = float(back[top])
        factor = times ** (1 / max(1, signs.n_layers - top))
        parts.append(
            f"the gradient of layer {top} is {number(times)} times that of the output in the first step, "
            f"{number(factor)} times as much from layer to layer"
        )
    if larger and not broken:
        parts.append(f"the outputs are {number(float(growth[-1]))} times as large as layer 1")
    if broken:
        parts.append(f"from layer {broken[0]} on outputs are not finite")
    return "; ".join([*parts, standing(signs)])


@rule(
    "vanishing gradients",
    "Gradients shrink on their way back",
    {
        "ratio": (
            1e-3,
            "a layer's gradient over the output's; 4 layers of sigmoid have 4e-3 and learn, 5 have 9e-4 and stand "
            "still for epochs",
        ),
        "left": HARM,
    },
    "Layers near the inputs get almost no gradient: they stay what chance made them, and what is above learns from "
    "noise, or from nothing.",
    "Hochreiter (1991), Untersuchungen zu dynamischen neuronalen Netzen; Glorot & Bengio (2010), section 4.2",
    ("dead units", "saturated units", "still layers", *UNLEARNED),
)
def vanishing(signs, limits):
    if not len(signs) or not signs.hidden or not signs.harmed(limits["left"]):
        return None
    relative = signs.gradient
    if signs.records.weight[0, -1] == 0:  # an output that begins at 0 passes nothing back in its first steps
        top = max(signs.hidden)
        with np.errstate(all="ignore"):
            relative = relative / relative[:, top : top + 1]
    for values, is_first in ((signs.first(relative), True), (signs.last(relative), False)):
        small = [layer for layer in signs.hidden if values[layer] < limits["ratio"]]
        if not small:
            continue
        begins, least = max(small), min(small, key=lambda layer: values[layer])
        below = (relative[:, small] < limits["ratio"]).any(axis=1)
        since = signs.step(0) if is_first else signs.since(below)
        factor = float(values[least]) ** (1 / (signs.n_layers - least))
        how = f", {number(factor)} times as much from layer to layer" if factor > 0 and least < begins else ""
        return Seen(
            f"from layer {begins} down the gradient is below {limits['ratio']:g} of the output's, in layer {least} "
            f"{number(float(values[least]))}{how}; {standing(signs)}",
            tuple(small),
            since,
            {"ratio": float(values[least]), "factor of a layer": factor},
        )
    return None


@rule(
    "restless layers",
    "Steps are too large for the weights",
    {
        "ratio": (
            RESTLESS,
            "of the step to the weights, the median of three records; 0.001 to 0.01 is usual, a tenth in each step "
            "forgets what was learned in ten",
        ),
        "left": HARM,
        "rise": RISE,
        "jump": (2.0, "times the loss of a constant prediction in some epoch, and"),
        "late": (0.9, "of it is left: bad first epochs are forgotten otherwise"),
        "spoiled": (0.5, "of a layer's units dead, or outputs saturated, that were not in the first step"),
        "epochs": (2.0, "unless it diverged: the first one may be bad and the rest good"),
    },
    "The learning rate is too high: each step overshoots, weights are thrown about, ReLU units die or sigmoid units "
    "saturate, and the loss jumps or is infinite.",
    "Bottou (2012), Stochastic gradient descent tricks, section 5; LeCun et al. (1998), section 4.7",
    ("dead units", "saturated units", "vanishing gradients", "still layers", *UNLEARNED),
)
def restless(signs, limits):
    if not len(signs) or not signs.harmed(limits["left"]):
        return None
    jumped = signs.jumped(limits["jump"]) and signs.harmed(limits["late"])
    shown = jumped or signs.rose(limits["rise"]) or signs.spoiled(limits["spoiled"])
    if not signs.diverged and not (shown and len(signs.losses) >= limits["epochs"]):
        return None
    fast = signs.fast(limits["ratio"])
    if fast:
        most = max(fast.values())
        over = np.flatnonzero((signs.ratio > limits["ratio"]).any(axis=1))
        message = f"a step is {number(most)} times as large as the weights; {standing(signs)}"
        return Seen(message, tuple(fast), signs.step(int(over[0])), {"ratio": most})
    if signs.diverged:  # faster than records tell
        layer = signs.evidence.diverged.layer
        most = float(np.nan_to_num(signs.ratio).max())
        return Seen(
            f"training diverged in epoch {signs.evidence.diverged.epoch}",
            () if layer is None else (layer,),
            signs.step(-1),
            {"ratio": most},
        )
    return None


@rule(
    "still layers",
    "Steps are too small to matter",
    {
        "ratio": (1e-4, "of the step to the weights, in the layer in the middle at its fastest: 10 000 steps to move"),
        "steps": (300.0, "before them a network may be slow to begin"),
        "tiny": (1e-5, "of the step to the weights: 100 000 steps to move, which no start explains"),
        "few steps": (10.0, "before them nobody can tell"),
        "left": (0.9, "the last loss over that of a constant prediction: little has been learned"),
    },
    "The learning rate is too low for the number of steps: the weights stay where they were drawn.",
    "Bottou (2012), section 5; LeCun et al. (1998), section 4.7",
    UNLEARNED,
)
def still(signs, limits):
    if signs.steps < limits["few steps"] or not signs.harmed(limits["left"]) or signs.diverged:
        return None
    fastest = np.nan_to_num(signs.ratio[:, 1:]).max(axis=0)
    middle = float(np.median(fastest))
    if not middle < limits["ratio" if signs.steps >= limits["steps"] else "tiny"]:
        return None
    layers = tuple(int(layer) + 1 for layer in np.flatnonzero(fastest < limits["ratio"]))
    message = f"a step is at most {number(middle)} times as large as the weights; {standing(signs)}"
    return Seen(message, layers, signs.step(0), {"ratio": middle})

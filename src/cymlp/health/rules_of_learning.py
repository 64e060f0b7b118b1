"""Rules about what a network is given, and what it has made of that."""

import math

import numpy as np

from .rulebook import HARM, UNLEARNED, Seen, number, rule, standing

__all__ = ["imbalance", "inputs", "linear", "stuck", "targets"]


@rule(
    "inputs not scaled",
    "Inputs are large, small, or of very different sizes",
    {
        "large": (
            100.0,
            "root mean square of an input; weights are drawn for 1, the first sums are then as large; pixels up to "
            "255 are above",
        ),
        "large left": (
            0.1,
            "the last loss above a tenth of that of a constant prediction, or the first epoch's above 3 times that",
        ),
        "doubtful": (30.0, "with more harm; pixels up to 16 are below, years of age above"),
        "small": (0.01, "all inputs below a hundredth: the first layer's weights have to grow a hundredfold"),
        "spread": (
            100.0,
            "standard deviation of an input over the median of all: one input outweighs the others' sum",
        ),
        "left": HARM,
    },
    "Weights are drawn for inputs of about 1.  Larger ones saturate or dominate the first layer and make the first "
    "outputs, and the loss, far too large; with unequal ones there is no learning rate that fits all.",
    "LeCun, Bottou, Orr & Müller (1998), Efficient BackProp, section 4.3",
    (
        *("saturated units", "dead units", "exploding gradients", "vanishing gradients", "restless layers"),
        *("still layers", *UNLEARNED),
    ),
)
def inputs(signs, limits):
    data = signs.evidence.data
    if data is None:
        return None
    with np.errstate(all="ignore"):
        size = np.hypot(data.input_mean, data.input_std)
    varying = data.input_std > 0
    if not varying.any():
        return None
    largest, smallest = float(size.max()), float(size[varying].max())
    worst, median = int(np.argmax(size)), float(np.median(data.input_std[varying]))
    spread = float(data.input_std.max()) / median
    first = float(signs.losses[0]) if len(signs.losses) else math.nan
    is_normalized = bool(signs.evidence.normalizations) and signs.evidence.normalizations[0] is not None
    numbers = {"largest": largest, "spread": spread}
    late = signs.harmed(limits["left"])
    early = signs.harmed(limits["large left"]) or first > 3 * signs.base
    said = None
    if not is_normalized and ((largest > limits["large"] and early) or (largest > limits["doubtful"] and late)):
        numbers["input"] = worst
        said = f"input {worst} has a root mean square of {number(largest)}"
    elif spread > limits["spread"] and late:
        numbers["input"] = widest = int(np.argmax(data.input_std))
        said = f"input {widest} has {number(spread)} times the standard deviation of most others"
    elif not is_normalized and smallest < limits["small"] and late:
        said = f"no input has a root mean square above {number(smallest)}"
    return None if said is None else Seen(f"{said}; {standing(signs)}", (0,), 0, numbers)


@rule(
    "targets not scaled",
    "Targets are far from what a new network says",
    {
        "large": (10.0, "mean or standard deviation; a new network's outputs are about 1"),
        "small": (0.01, "all of both below a hundredth: outputs of a new network are noise a hundred times as large"),
        "left": HARM,
    },
    "A network begins with outputs of about 1.  It spends its steps on reaching the targets' size, or overshoots, "
    "before it learns what they depend on; the rate that fits depends on their unit.",
    "Bishop (1995), Neural networks for pattern recognition, section 8.2",
    ("dead units", "saturated units", "exploding gradients", "restless layers", "still layers", *UNLEARNED),
)
def targets(signs, limits):
    evidence, data = signs.evidence, signs.evidence.data
    if data is None or data.target_mean is None or evidence.activations[-1].name != "identity":
        return None
    sizes = np.maximum(np.abs(data.target_mean), data.target_std)
    worst = int(np.argmax(sizes))
    size = float(sizes[worst])
    if not (size > limits["large"] or 0 < size < limits["small"]) or not signs.harmed(limits["left"]):
        return None
    mean, std = number(float(data.target_mean[worst])), number(float(data.target_std[worst]))
    which = "the target" if len(sizes) == 1 else f"target {worst}"
    return Seen(
        f"{which} has mean {mean} and standard deviation {std}; {standing(signs)}",
        (signs.n_layers,),
        0,
        {"mean": float(data.target_mean[worst]), "standard deviation": float(data.target_std[worst])},
    )


@rule(
    "linear layers",
    "All hidden layers are linear",
    {},
    "Linear layers together are one linear layer: depth and width add nothing to what the network can say.",
    "Minsky & Papert (1969), Perceptrons",
    ("stuck at base rate",),
)
def linear(signs, limits):
    evidence = signs.evidence
    layers = list(zip(evidence.activations[:-1], evidence.normalizations, strict=True))
    if not layers or not all(one.name == "identity" and (n is None or n.has_statistics) for one, n in layers):
        return None
    n = len(layers)
    what = "the hidden layer is" if n == 1 else f"all {n} hidden layers are"
    return Seen(f"{what} linear: the network can do no more than one without hidden layers", tuple(signs.hidden), 0, {})


@rule(
    "class imbalance",
    "A rare class is ignored",
    {
        "rare": (0.1, "rows of the class over those of the most frequent one"),
        "recall": (0.2, "of its rows are found at the end: a fifth of what there is"),
        "steps": (100.0, "before them rare classes wait for the others in good runs, too"),
    },
    "To answer the frequent classes costs a rare one little loss.  The mean of all rows looks good; of the rare class "
    "nothing is learned.",
    "He & Garcia (2009), Learning from imbalanced data",
    ("stuck at base rate",),
)
def imbalance(signs, limits):
    evidence, data = signs.evidence, signs.evidence.data
    if data is None or data.recall is None or evidence.class_weight or evidence.sample_weight:
        return None
    if signs.steps < limits["steps"]:
        return None
    shares, recall = np.asarray(data.class_shares), np.asarray(data.recall)
    ignored = np.flatnonzero((shares > 0) & (shares < limits["rare"] * shares.max()) & (recall < limits["recall"]))
    if not len(ignored):
        return None
    rarest = int(ignored[np.argmin(shares[ignored])])
    share, found = 100 * shares[rarest], 100 * recall[rarest]
    return Seen(
        f"class {rarest} is {share:.2g} % of the rows, and {found:.0f} % of these are found",
        (signs.n_layers,),
        signs.step(-1) if len(signs) else None,
        {"class": rarest, "share": float(shares[rarest]), "recall": float(recall[rarest])},
    )


@rule(
    "stuck at base rate",
    "The loss is that of a constant prediction",
    {
        "left": (
            0.99,
            "of a constant prediction's loss was the least in the last half of the epochs: less is a beginning",
        ),
        "fall": (0.05, "of the loss in that half, of validation rows where there are any: it is on its way"),
        "epochs": (5.0, "before them there is no half to look at"),
        "steps": (
            700.0,
            "before them networks that learn later stand on a plateau, too, small ones of sigmoid longest",
        ),
    },
    "The network answers the same for every row: it has learned how frequent the answers are, and nothing of the "
    "inputs.",
    "scikit-learn issue 31235",
)
def stuck(signs, limits):
    losses = signs.losses
    if len(losses) < limits["epochs"] or signs.steps < limits["steps"] or signs.diverged or math.isnan(signs.base):
        return None
    half = losses[len(losses) // 2 :]
    # With dropout losses are of networks with units missing, and may fall where those of the whole one stand still.
    shown = np.asarray(signs.evidence.history["validation_loss"], dtype=float)
    shown = shown[len(losses) // 2 :] if len(shown) == len(losses) else half
    if not np.fmin.reduce(half) > limits["left"] * signs.base or shown[-1] < (1 - limits["fall"]) * shown[0]:
        return None
    since = signs.records.steps[signs.records.epochs >= len(losses) // 2]
    return Seen(
        f"since epoch {len(losses) // 2 + 1} {standing(signs)}",
        (signs.n_layers,),
        int(since[0]) if len(since) else signs.steps,
        {"left": float(np.fmin.reduce(half)) / signs.base},
    )

"""What a forecast comes to: one word, and the layer and numbers that are its reason."""

import numpy as np

__all__ = ["EXPLODING", "SYMMETRIC", "VANISHING", "flows", "verdict"]

# A gradient, as the length of a row's D_l, of a thousandth of the last layer's moves the first layers a thousand times
# less than the last ones in plain gradient descent: what the last ones learn in an epoch takes these a thousand.  The
# same factor the other way round makes a rate that moves the last layer throw the first ones about.  Activations are
# the other factor of a weight's gradient, and have the same limits against the inputs.
VANISHING, EXPLODING = 1e-3, 1e3

# From this share of a hidden layer's units that start alike, and so stay alike, most of the layer is not there.
SYMMETRIC = 0.5


def flows(forward, backward, dtype):
    """The first layers at which numbers leave a dtype: forward layers 1 .. L, then backward L - 1 .. 0.

    Parameters
    ----------
    forward, backward : ndarray (L + 1,)
        Root mean squares.
    dtype : numpy.dtype

    Returns
    -------
    underflow, overflow : (str, int) or None
        "activations" or "gradients", and the layer.
    """
    limits = np.finfo(dtype)
    tiny = float(limits.tiny) * (1 - 1e-9)  # 0.5^126 is a normal float32, and may be rounded to less
    path = [("activations", l, forward[l]) for l in range(len(forward))]
    path += [("gradients", l, backward[l]) for l in range(len(backward) - 1, -1, -1)]
    under = next(((what, l) for what, l, size in path if size < tiny), None)
    over = next(((what, l) for what, l, size in path if not size <= float(limits.max)), None)
    return under, over


def _number(x):
    return f"{x:.2g}"


def verdict(sizes, forward, backward, alike, under, over, dtype):
    """Healthy, Vanishing, Exploding or Symmetric, and why.

    Parameters
    ----------
    sizes : tuple of int
    forward, backward : ndarray (3, L + 1)
        Root mean squares: lower end of the band, middle, upper end.
    alike : list of float
        For each hidden layer the share of units that start alike.
    under, over : (str, int) or None
        From `flows`.
    dtype : numpy.dtype

    Returns
    -------
    str
    """
    last = len(sizes) - 1
    for l, share in enumerate(alike, 1):
        if share >= SYMMETRIC and sizes[l] > 1:
            units = "all" if share == 1 else f"{share:.0%} of the"
            return (
                f"Symmetric: {units} {sizes[l]} units of layer {l} start with equal weights, so that they get equal "
                "gradients and stay equal: draw them at random"
            )
    if over is not None:
        return f"Exploding: {over[0]} overflow {dtype.name} at layer {over[1]}"
    lengths = backward * np.sqrt(np.array(sizes) / sizes[-1])
    hidden = slice(1, last)
    if last > 1:
        low, high = 1 + int(np.argmin(lengths[1, hidden])), 1 + int(np.argmax(lengths[1, hidden]))
        if lengths[1, low] < VANISHING:
            rest = ""
            if under is not None:
                rest = f"; {under[0]} underflow {dtype.name} at layer {under[1]}"
            first = last - 1 - int(np.argmax(lengths[1, hidden][::-1] < VANISHING))
            return (
                f"Vanishing: a row's gradient at layer {low} is {_number(lengths[1, low])} of the output's, "
                f"below {VANISHING:g} from layer {first} down{rest}"
            )
        if lengths[1, high] > EXPLODING:
            first = last - 1 - int(np.argmax(lengths[1, hidden][::-1] > EXPLODING))
            return (
                f"Exploding: a row's gradient at layer {high} is {_number(lengths[1, high])} times the output's, "
                f"above {EXPLODING:g} from layer {first} down"
            )
    relative = forward / forward[1, 0]
    small = np.flatnonzero(~(relative[1] >= VANISHING))
    if len(small):
        return (
            f"Vanishing: activations of layer {small[0]} are {_number(relative[1, small[0]])} of the inputs, below "
            f"{VANISHING:g}, and so are all gradients of weights that they go into"
        )
    large = np.flatnonzero(relative[1] > EXPLODING)
    if len(large):
        return (
            f"Exploding: activations of layer {large[0]} are {_number(relative[1, large[0]])} times the inputs, above "
            f"{EXPLODING:g}"
        )
    if last == 1:
        return f"Healthy: one layer of weights, whose outputs are {_number(relative[1, 1])} times the inputs"
    text = (
        f"Healthy: a row's gradient at layer 1 is {_number(lengths[1, 1])} of the output's, and outputs are "
        f"{_number(relative[1, last])} times the inputs"
    )
    if lengths[0, 1] < VANISHING or lengths[2, 1] > EXPLODING:
        text += (
            f"; but layers are narrow for their number: 95 % of networks have between {_number(lengths[0, 1])} and "
            f"{_number(lengths[2, 1])}"
        )
    return text

"""What is made of targets that are classes: weights of rows by class, smoothed labels."""

import numpy as np

__all__ = ["classes", "classes_behind", "counts", "smoothed", "smoothed_for", "table", "weights"]


def _shares(targets, output):
    """Labels (n,) as they are; else the share of each class in each row, (n, n_classes)."""
    if output == "softmax":
        return targets
    return np.hstack([1 - targets, targets])


def n_classes(network, what):
    """The number of classes that `network` tells apart; ValueError naming `what` where it does not."""
    output, n_out = network.output_activation.name, network.layer_sizes[-1]
    if output == "softmax":
        return n_out
    if output == "sigmoid" and n_out == 1:
        return 2
    raise ValueError(
        f"{what} needs classes: a softmax output, or a sigmoid output of one unit; got {output} of {n_out}"
    )


def classes(targets, network):
    """The class of each row, (n,): the largest share where it is not one alone."""
    return classes_behind(network.output_activation.name, targets)


def classes_behind(output, targets):
    """The same of targets, or outputs, of an output activation with this name."""
    shares = _shares(targets, output)
    return shares if shares.ndim == 1 else shares.argmax(axis=1)


def counts(targets, network, n_classes):
    """How many rows of each class there are, shares summed, (n_classes,)."""
    shares = _shares(targets, network.output_activation.name)
    if shares.ndim == 1:
        return np.bincount(shares, minlength=n_classes).astype(np.float64)
    return shares.sum(axis=0, dtype=np.float64)


def table(class_weight, counts, n_classes):
    """The weight of each class, (n_classes,).

    Parameters
    ----------
    class_weight : "balanced" or dict label -> weight
        "balanced" means n / (k n_c) for n_c of n rows, where k classes occur, as in scikit-learn: King & Zeng (2001),
        Logistic regression in rare events data, section 4.2.  A label that is not in a dict has weight 1.
    counts : ndarray (n_classes,) or None
        None for a dict.
    n_classes : int
    """
    if counts is not None:
        occurring = counts > 0
        weights = np.zeros(n_classes)
        weights[occurring] = counts.sum() / (np.count_nonzero(occurring) * counts[occurring])
        return weights
    weights = np.ones(n_classes)
    for label, weight in class_weight.items():
        if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or not 0 <= label < n_classes:
            raise ValueError(f"class_weight must have labels 0 to {n_classes - 1} as keys; got {label!r}")
        weights[label] = weight
    return weights


def weights(targets, network, table):
    """The weight of each row, (n,) in float64."""
    shares = _shares(targets, network.output_activation.name)
    return table[shares] if shares.ndim == 1 else shares @ table


def smoothed(targets, smoothing, n_out, are_exclusive, dtype):
    """(1 - e) y + e / k for k classes: Szegedy et al. (2016), section 7.

    Parameters
    ----------
    targets : ndarray
        Labels (n,), or (n, n_out).
    smoothing : float
        e.
    n_out : int
        Outputs.
    are_exclusive : bool
        Whether each stands for a class, as behind a softmax; else for two.
    dtype : numpy.dtype
    """
    if smoothing == 0:
        return targets
    kept, share = 1 - smoothing, smoothing / (n_out if are_exclusive else 2)
    if targets.ndim == 1:
        rows = np.full((len(targets), n_out), share, dtype)
        rows[np.arange(len(targets)), targets] += kept
        return rows
    return (kept * targets + share).astype(dtype, copy=False)


def smoothed_for(network, targets, smoothing, dtype):
    """The same, for what a network's outputs are."""
    return smoothed(targets, smoothing, network.layer_sizes[-1], network.output_activation.name == "softmax", dtype)

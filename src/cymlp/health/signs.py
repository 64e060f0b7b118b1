"""What rules read: the evidence of a run as sizes and ratios that mean the same for every network.

Numbers of diverged runs may be infinite or NaN, and small ones may have become zero: here that is given a meaning once.
"""

import math
from functools import cached_property

import numpy as np

__all__ = ["Signs"]

# Records that "at the beginning" and "at the end" are the median of: one minibatch may be odd.
_FEW = 3


class Signs:
    """An `Evidence`, looked at.

    Parameters
    ----------
    evidence : Evidence

    Attributes
    ----------
    n_layers : int
        L: layers with weights.
    hidden : range
        Numbers of the hidden layers.
    """

    def __init__(self, evidence):
        self.evidence, self.records = evidence, evidence.records
        self.sizes = np.asarray(evidence.layer_sizes)
        self.n_layers = len(self.sizes) - 1
        self.hidden = range(1, self.n_layers)

    def __len__(self):
        return len(self.records)

    def step(self, index):
        """The step of a record."""
        return int(self.records.steps[index])

    @property
    def steps(self):
        """Steps that are known of: those to the last record."""
        return int(self.records.steps[-1]) if len(self) else 0

    # ---- The loss ----

    @cached_property
    def losses(self):
        return np.asarray(self.evidence.history["loss"], dtype=float)

    @cached_property
    def base(self):
        """The loss of the best constant prediction, by which progress is measured; NaN where there is none."""
        data = self.evidence.data
        if data is None:
            return math.nan
        weighted = self.evidence.class_weight and data.n_classes is not None
        # Weights by class make up for shares that differ.
        base = math.log(data.n_classes) if weighted else data.base_loss
        return base if base > 0 and math.isfinite(base) else math.nan

    @cached_property
    def left(self):
        """The last loss over that of a constant prediction: 1 for a network that has learned nothing, 0 for all."""
        return float(self.losses[-1]) / self.base if len(self.losses) else math.nan

    @property
    def diverged(self):
        return self.evidence.diverged is not None

    def rose(self, factor):
        """Whether the last loss is as many times the least one."""
        losses = self.losses
        return len(losses) > 1 and not losses[-1] <= factor * np.fmin.reduce(losses)

    def jumped(self, factor):
        """Whether an epoch's loss was as many times that of a constant prediction."""
        return len(self.losses) > 0 and not np.fmax.reduce(self.losses) <= factor * self.base

    def spoiled(self, share):
        """Whether as many of a layer's units died, or outputs saturated, since the first step."""
        with np.errstate(all="ignore"):
            return any((self.last(one) - one[0] > share).any() for one in (self.records.dead, self.records.saturated))

    def harmed(self, share):
        """Whether the run diverged, or its last loss is above this share of that of a constant prediction."""
        return self.diverged or (len(self.losses) > 0 and not self.left <= share and not math.isnan(self.base))

    # ---- Layers ----

    @cached_property
    def activation(self):
        """RMS of what each layer hands on, (n, L+1)."""
        with np.errstate(all="ignore"):
            return np.sqrt(self.records.activation)

    @cached_property
    def gradient(self):
        """Size of each layer's gradient, of a row's loss by all units together, over that of the output: (n, L+1).

        By all units, as random weights keep that sum where a layer is wider than the next one.  Of a normalized layer
        by its sums over their deviation, as the gradient by the sums themselves tells the size of these alone.
        NaN where the output has no gradient, as where the loss is 0, or where one is not finite.
        """
        values, weight = self.records.gradient, self.records.weight
        with np.errstate(all="ignore"):
            size = np.sqrt(values * self.sizes)
            for layer in self.hidden:
                if self.evidence.normalizations[layer - 1] is not None:
                    deviation = self.activation[:, layer - 1] * weight[:, layer] / math.sqrt(self.sizes[layer])
                    size[:, layer] *= deviation
            relative = size / size[:, -1:]
        return np.where(np.isfinite(relative), relative, np.nan)

    @cached_property
    def gradient_size(self):
        """The largest gradient of a layer, (n,); infinite where one is not finite."""
        with np.errstate(all="ignore"):
            size = np.sqrt(self.records.gradient[:, 1:] * self.sizes[1:])
        return np.where(np.isfinite(size), size, np.inf).max(axis=1)

    @cached_property
    def ratio(self):
        """Step over weights of each layer, (n, L+1); NaN where there are no weights to compare with."""
        ratio = self.records.update_ratio
        return np.where(np.isfinite(ratio), ratio, np.nan)

    @cached_property
    def rows(self):
        """Rows of each record's minibatch that count for a unit: those that dropout leaves, (n, L+1)."""
        evidence = self.evidence
        rows = np.full(len(self), float(evidence.batch_size))
        if evidence.n_rows is not None:
            rows = np.minimum(rows, evidence.n_rows)
            per_epoch = -(-evidence.n_rows // evidence.batch_size)
            rest = evidence.n_rows - (per_epoch - 1) * evidence.batch_size
            rows[(self.records.steps % per_epoch) == 0] = rest  # the last minibatch takes what is left
        return rows[:, None] * self.kept

    @cached_property
    def kept(self):
        """Share of each layer that dropout leaves, (L+1,)."""
        kept = np.ones(self.n_layers + 1)
        for layer, rate in enumerate(self.evidence.dropout):
            kept[layer] = 1 - (rate if isinstance(rate, (int, float)) else 0)
        return kept

    @cached_property
    def zero(self):
        """Share of zeros among what dropout leaves, (n, L+1)."""
        with np.errstate(all="ignore"):
            return 1 - np.minimum((1 - self.records.zero) / self.kept, 1)

    # ---- Beginning and end ----

    def first(self, values):
        """Median of the first records."""
        return _median(values[:_FEW])

    def last(self, values):
        """Median of the last records."""
        return _median(values[-_FEW:])

    def fast(self, limit):
        """Layers whose steps are more than a share of their weights, as a median of three records; with that share."""
        if not len(self):
            return {}
        windows = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(self.ratio), min(_FEW, len(self)), axis=0)
        peak = np.median(windows, axis=-1).max(axis=0)
        return {layer: float(peak[layer]) for layer in range(1, self.n_layers + 1) if peak[layer] > limit}

    def since(self, mask):
        """The step of the first record from which on all are so; None where the last one is not."""
        if not len(mask) or not mask[-1]:
            return None
        wrong = np.flatnonzero(~mask)
        return self.step(0 if len(wrong) == 0 else int(wrong[-1]) + 1)


def _median(values):
    """Along the records, of what is no NaN; NaN where there is none."""
    values = np.asarray(values, dtype=float)
    known = ~np.isnan(values)
    if not known.any():
        return np.full(values.shape[1:], np.nan)
    result = np.full(values.shape[1:], np.nan)
    some = known.any(axis=0)
    if values.ndim == 1:
        return float(np.median(values[known]))
    result[some] = np.nanmedian(values[:, some], axis=0)
    return result

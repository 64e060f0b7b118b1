"""The networks that are timed, by name, and the work of a training step and of a prediction.  Needs only NumPy."""

import dataclasses
import itertools
import re
from dataclasses import dataclass

import numpy as np

__all__ = [
    "ACTIVATIONS",
    "FEATURED",
    "FEATURES",
    "FEATURE_GOALS",
    "PREDICTED",
    "PREDICTED_FEATURES",
    "PREDICTED_ROWS",
    "RATES",
    "TRAINED",
    "Case",
    "parse",
]

# Layers from which on plain random weights are no start: see `Case.parameters`.
DEEP = 20

# phi'(0): what a layer multiplies small differences by, for weights that neither grow nor shrink them.
ACTIVATIONS = {"relu": 1.0, "tanh": 1.0, "sigmoid": 0.25}

RATES = {"adam": 0.001, "sgd": 0.01}


def _look(event):
    """A callback that does nothing: what it costs to call one."""


# What a step may have beside the plain one, as arguments of `MLP` and of `MLP.train`.  The limits are such that they
# are met: columns of the first weights have a norm of about the root of 2, gradients of 1.
FEATURES = {
    "plain": {},
    "dropout": {"dropout": 0.5},
    "batch-norm": {"normalization": "batch"},
    "layer-norm": {"normalization": "layer"},
    "clip-norm": {"clip_norm": 1.0},
    "l1-max-norm": {"l1": 1e-5, "max_norm": 1.4},
    "callback": {"callback": _look},
    "health": {"health": True},
}
# Those that a trained network keeps: the others are of training alone.
PREDICTED_FEATURES = ("plain", "batch-norm", "layer-norm")
FEATURED = ("64-64-64-10@64", "784-128-10@128", "784-512-512-10@256")

# The most that a step may take over the plain one, on this network where one is named.
FEATURE_GOALS = {
    "dropout": (1.1, None),
    "batch-norm": (1.25, "784-512-512-10"),
    "clip-norm": (1.1, None),
    "health": (1.01, None),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A network with softmax at the output (with one output: sigmoid), and how it is trained.

    Attributes
    ----------
    sizes : tuple of int
        Inputs first, outputs last.
    batch : int
        Rows of a minibatch.
    activation : {"relu", "tanh", "sigmoid"}
        Of hidden layers.
    optimizer : {"adam", "sgd"}
        SGD without momentum.
    dtype : {"float32", "float64"}
    feature : str
        What the step has beside the plain one, from FEATURES.
    """

    sizes: tuple[int, ...]
    batch: int
    activation: str = "relu"
    optimizer: str = "adam"
    dtype: str = "float32"
    feature: str = "plain"

    def __str__(self):
        return f"{self.network}@{self.batch}"

    @property
    def network(self):
        """Its sizes with hyphens; many equal ones as layers x width."""
        if len(self.sizes) > 8 and len(set(self.sizes)) == 1:
            return f"{self.depth}x{self.sizes[0]}"
        return "-".join(map(str, self.sizes))

    @property
    def depth(self):
        """Layers of weights."""
        return len(self.sizes) - 1

    @property
    def output_activation(self):
        return "sigmoid" if self.sizes[-1] == 1 else "softmax"

    @property
    def rate(self):
        """Adam moves every weight by the rate in the first step: a tenth of it where 100 layers of them add up."""
        return RATES[self.optimizer] / (10 if self.depth > DEEP else 1)

    @property
    def options(self):
        """Arguments of `MLP` and of `MLP.train`."""
        return FEATURES[self.feature]

    @property
    def goal(self):
        """The most that a step may take over the plain one, or None."""
        most, network = FEATURE_GOALS.get(self.feature, (None, None))
        return most if network in (None, self.network) else None

    @property
    def steps(self):
        """Minibatches of an epoch: enough for what is done once an epoch not to count, few enough for a short epoch."""
        return int(min(64, max(4, 5e10 // self.flops_per_step)))

    # ---- Work ----

    @property
    def real(self):
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def n_parameters(self):
        """Weights and biases; what else a feature has is left out here and below, as are its operations."""
        return sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(self.sizes))

    @property
    def flops_per_row(self):
        """Floating point operations of the matrix products for one row, forward."""
        return 2 * sum(n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes))

    @property
    def flops_per_step(self):
        """Of the three matrix products of a training step; the first layer needs no gradient of its input.

        What activations, loss and optimiser compute is not counted: 10 to 20 operations for each activation and, with
        Adam, for each parameter and step.
        """
        first = 2 * self.sizes[0] * self.sizes[1]
        return self.batch * (3 * self.flops_per_row - first)

    @property
    def bytes_per_step(self):
        """The least that a training step reads and writes: a minibatch, the parameters and the optimiser's moments.

        Parameters and moments (two with Adam, none with SGD) are read and written once; rows and labels are read once.
        """
        copies = {"adam": 3, "sgd": 1}[self.optimizer]
        return self.real * (2 * copies * self.n_parameters + self.batch * (self.sizes[0] + 1))

    @property
    def state_bytes(self):
        """Parameters and moments: what a training run comes back to in each step."""
        return self.real * {"adam": 3, "sgd": 1}[self.optimizer] * self.n_parameters

    def prediction_bytes(self, rows):
        """The least that a prediction reads and writes: rows, parameters, result."""
        return self.real * (self.n_parameters + rows * (self.sizes[0] + self.sizes[-1]))

    # ---- Weights and data ----

    def parameters(self, seed=0):
        """A flat vector W_1, b_1, W_2, ..., the same in each dtype up to rounding.

        Weights N(0, 2 / n_in) and zero biases; in deep networks, where 100 random matrices one after another make all
        rows alike, what keeps rows apart: see `_isometric`.
        """
        rng, parts = np.random.default_rng(seed), []
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(self.sizes)):
            if self.depth > DEEP:
                W, b = _isometric(rng, n_in, n_out, self.activation, layer == 0, layer == self.depth - 1)
            else:
                W, b = rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in), np.zeros(n_out)
            parts += [W.ravel(), b]
        return np.concatenate(parts).astype(self.dtype)

    def layers(self, flat):
        """A flat vector of parameters as views [(W, b), ...]."""
        found, start = [], 0
        for n_in, n_out in itertools.pairwise(self.sizes):
            middle = start + n_in * n_out
            found.append((flat[start:middle].reshape(n_in, n_out), flat[middle : middle + n_out]))
            start = middle + n_out
        return found

    def normalizers(self, seed=2):
        """(scale, mean, variance) of each hidden layer, as a trained network may have them: what a prediction is of."""
        rng, found = np.random.default_rng(seed), []
        for n in self.sizes[1:-1]:
            (scale, variance), mean = rng.uniform(0.5, 1.5, (2, n)), rng.standard_normal(n)
            found.append(tuple(numbers.astype(self.dtype) for numbers in (scale, mean, variance)))
        return found

    def data(self, rows, seed=1):
        """Normal X (rows, n_0), and the labels (rows,) that a linear map with some noise gives: something to learn.

        Every class has a row, as scikit-learn wants, where there are rows enough.
        """
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((rows, self.sizes[0]))
        scores = X @ rng.standard_normal((self.sizes[0], max(2, self.sizes[-1]))) / np.sqrt(self.sizes[0])
        labels = np.argmax(scores + 0.1 * rng.standard_normal(scores.shape), axis=1)
        found, first = np.unique(labels, return_index=True)
        missing = np.setdiff1d(np.arange(scores.shape[1]), found)
        spare = np.setdiff1d(np.arange(rows), first)[: len(missing)]
        labels[spare] = missing[: len(spare)]
        return X.astype(self.dtype), labels.astype(np.int64)

    def logistic(self):
        """The network with one sigmoid output that scikit-learn makes of one with two classes; else this one."""
        return dataclasses.replace(self, sizes=(*self.sizes[:-1], 1)) if self.sizes[-1] == 2 else self


def _orthogonal(rng, n_in, n_out):
    """Orthonormal rows or columns, whichever are fewer."""
    Q, _ = np.linalg.qr(rng.standard_normal((max(n_in, n_out), min(n_in, n_out))))
    return Q if n_in >= n_out else Q.T


def _isometric(rng, n_in, n_out, activation, is_first, is_last):
    """W and b of a layer that neither stretches nor shrinks: the network begins as an orthogonal map, however deep.

    For relu units come in pairs that carry relu(z) and relu(-z), whose difference is z: W = [[O, -O], [-O, O]], the
    "looks linear" initialisation of Balduzzi et al. (2017), The shattered gradients problem, section 4.  For the others
    W = O / phi'(0), and b so that a = phi(0) gives z = 0.
    """
    b = np.zeros(n_out)
    if activation != "relu":
        W = _orthogonal(rng, n_in, n_out)
        if not is_first:
            W /= ACTIVATIONS[activation]
            b -= (0.5 if activation == "sigmoid" else 0.0) * W.sum(axis=0)
        return W, b
    W = np.zeros((n_in, n_out))
    ins, outs = (n_in if is_first else n_in // 2), (n_out if is_last else n_out // 2)
    W[:ins, :outs] = _orthogonal(rng, ins, outs)
    if not is_first:
        W[ins : 2 * ins, :outs] = -W[:ins, :outs]
    if not is_last:
        W[:, outs : 2 * outs] = -W[:, :outs]
    return W, b


def parse(text, **options):
    """The Case of a name: 784-128-10@128, or 152x64@128 for 152 layers of 64; without @ a minibatch of 1 row."""
    network, _, batch = text.partition("@")
    if re.fullmatch(r"[1-9]\d*x[1-9]\d*", network):
        depth, width = map(int, network.split("x"))
        sizes = (width,) * (depth + 1)
    elif re.fullmatch(r"[1-9]\d*(-[1-9]\d*)+", network):
        sizes = tuple(map(int, network.split("-")))
    else:
        raise ValueError(f"a network is named like 784-128-10@128 or 152x64@128; got {text!r}")
    return Case(sizes, int(batch or 1), **options)


TRAINED = (
    "4-32-32-3@32",
    "64-64-64-10@64",
    "20-100-2@200",
    "784-128-10@128",
    "784-512-512-10@256",
    "1024-2048-2048-1000@1024",
    "152x64@128",
)

PREDICTED = ("4-32-32-3", "64-64-64-10", "784-128-10", "784-512-512-10", "1024-2048-2048-1000")
PREDICTED_ROWS = (1, 32, 1024, 8192)

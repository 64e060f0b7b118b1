"""What an MLP is before it computes anything: layers, one flat vector of parameters, and an engine that has the same.

The vector holds W_1 (n_0, n_1) row by row, b_1 (n_1,), W_2, b_2, ...; every layer's weights and biases are views into
it.  It equals the engine's parameters whenever code of the user's can run.
"""

import copy
import itertools
import warnings

import numpy as np

from . import _validation, activations, engine, losses

__all__ = ["LayeredParameters", "as_dtype", "chained_sizes", "views"]


def views(flat, layer_sizes):
    """The weights and the biases of each layer as views into a flat vector in natural order."""
    weights, biases, start = [], [], 0
    for n_in, n_out in itertools.pairwise(layer_sizes):
        middle = start + n_in * n_out
        weights.append(flat[start:middle].reshape(n_in, n_out))
        start = middle + n_out
        biases.append(flat[middle:start])
    return weights, biases


def as_dtype(dtype):
    for known in (np.dtype(np.float32), np.dtype(np.float64)):
        try:
            if np.dtype(dtype) == known:
                return known
        except TypeError:
            break
    raise ValueError(f"dtype must be None, float32 or float64; got {dtype!r}")


def chained_sizes(weights, name):
    """The layer sizes that weights (n_in, n_out) of successive layers stand for; ValueError where they do not chain."""
    if not weights:
        raise ValueError(f"{name} must hold at least 1 array; got none")
    for i, W in enumerate(weights):
        if W.ndim != 2:
            raise ValueError(f"{name}[{i}] must have 2 dimensions (n_in, n_out); got shape {W.shape}")
        if i > 0 and W.shape[0] != weights[i - 1].shape[1]:
            expected = weights[i - 1].shape[1]
            raise ValueError(f"{name}[{i}] must have {expected} rows, the columns of {name}[{i - 1}]; got {W.shape[0]}")
    return [weights[0].shape[0], *(W.shape[1] for W in weights)]


class LayeredParameters:
    """Layers, their parameters, and the engine's network in step with them; `MLP` adds what they compute.

    Whoever makes one calls `_configure`, then `_install`.
    """

    def _configure(self, layer_sizes, hidden_activation, output_activation, loss, n_threads, random_state, engine_name):
        """Check and set everything but dtype and parameters."""
        try:
            sizes = tuple(layer_sizes)
        except TypeError:
            raise TypeError(f"layer_sizes must be a sequence of integers; got {layer_sizes!r}") from None
        if len(sizes) < 2:
            raise ValueError(f"layer_sizes must have at least 2 numbers (inputs, outputs); got {layer_sizes!r}")
        sizes = tuple(_validation.as_count(size, f"layer_sizes[{i}]") for i, size in enumerate(sizes))
        hidden = self._resolve_hidden(hidden_activation, len(sizes) - 2)
        output = activations.get(output_activation, "output_activation")
        self._loss = losses.default_for(output) if loss is None else losses.get(loss)
        losses.check_pair(self._loss, output)
        self._layer_sizes = sizes
        self._activations = (*hidden, output)
        self._n_weights = sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
        self._n_parameters = self._n_weights + sum(sizes[1:])
        self._n_threads = None if n_threads is None else _validation.as_count(n_threads, "n_threads")
        self._rng = _validation.as_generator(random_state)
        engine.choose(engine_name)
        self._engine = engine_name
        self._training = False
        self._resumable = None  # the name of the optimiser whose state the engine holds
        self.history_ = None
        self.metadata = {}

    @staticmethod
    def _resolve_hidden(spec, n_hidden):
        """One Activation for each hidden layer."""
        if isinstance(spec, (str, activations.Activation)):
            specs, names = [spec] * n_hidden, ["hidden_activation"] * n_hidden
            activations.get(spec, "hidden_activation")  # a wrong name is one without hidden layers, too
        elif isinstance(spec, (list, tuple)):
            specs, names = list(spec), [f"hidden_activation[{i}]" for i in range(len(spec))]
        else:
            raise TypeError(f"hidden_activation must be a name, an Activation, or a list of them; got {spec!r}")
        if len(specs) != n_hidden:
            raise ValueError(f"hidden_activation must have {n_hidden} entries, one per hidden layer; got {len(specs)}")
        hidden = [activations.get(one, name) for one, name in zip(specs, names, strict=True)]
        for activation, name in zip(hidden, names, strict=True):
            if not activation.definition.hidden:
                raise ValueError(f"{name} must not be {activation.name!r}, which is for the output")
        return hidden

    def _warn_of_linear_layers(self):
        if any(activation.name == "identity" for activation in self.hidden_activations):
            warnings.warn(
                "hidden_activation 'identity' makes a layer linear: it and the next layer together can do no more than "
                "one layer",
                UserWarning,
                stacklevel=3,
            )

    def _install(self, flat):
        """Take `flat`, finite and of the network's dtype, as the parameters, with an engine network of that dtype."""
        pairs = [(activation.name, float(activation.slope)) for activation in self._activations]
        loss = (self._loss.name, float(self._loss.delta))
        network = engine.choose(self._engine).Network(self._layer_sizes, pairs, loss, self._dtype)
        network.set_parameters(flat)
        self._network = network
        self._flat = flat
        self._resumable = None

    def _fill(self, targets, arrays, name):
        """Check arrays given by the user and copy them into views of a flat vector of the network's dtype."""
        if len(arrays) != len(targets):
            raise ValueError(f"{name} must have {len(targets)} arrays, one for each layer; got {len(arrays)}")
        for i, (target, array) in enumerate(zip(targets, arrays, strict=True)):
            array = _validation.as_real_array(array, f"{name}[{i}]")
            if array.shape != target.shape:
                raise ValueError(f"{name}[{i}] must have shape {target.shape}; got {array.shape}")
            native = _validation.as_native(array, self._dtype)
            _validation.check_finite(native, f"{name}[{i}]", array)
            target[...] = native

    @property
    def layer_sizes(self):
        """Tuple of int: inputs first, outputs last."""
        return self._layer_sizes

    @property
    def hidden_activations(self):
        """Tuple of `cymlp.activations.Activation`, one for each hidden layer."""
        return self._activations[:-1]

    @property
    def output_activation(self):
        """`cymlp.activations.Activation` of the output layer."""
        return self._activations[-1]

    @property
    def loss(self):
        """`cymlp.losses.Loss`."""
        return self._loss

    @property
    def dtype(self):
        """numpy.dtype of the parameters; float64 as long as the first data have not decided."""
        return self._dtype

    @property
    def n_parameters(self):
        """Number of weights and biases."""
        return self._n_parameters

    @property
    def n_threads(self):
        """What was asked for: an int, or None."""
        return self._n_threads

    @property
    def engine(self):
        """ "compiled" or "reference"."""
        return self._engine

    @property
    def parameters(self):
        """All parameters, (n_parameters,): W_1 (n_in, n_out) row by row, b_1, W_2, b_2, ...

        A read-only view that follows training; assign a vector of finite numbers to set them, which copies it.
        """
        view = self._flat.view()
        view.flags.writeable = False
        return view

    @parameters.setter
    def parameters(self, vector):
        self._set(_validation.as_vector(vector, "parameters", self._n_parameters, self._dtype))

    @property
    def weights(self):
        """List of read-only views (n_in, n_out), one for each layer; assign a list of arrays to set them."""
        return views(self.parameters, self._layer_sizes)[0]

    @weights.setter
    def weights(self, arrays):
        self._set_views(0, arrays, "weights")

    @property
    def biases(self):
        """List of read-only views (n_out,), one for each layer; assign a list of arrays to set them."""
        return views(self.parameters, self._layer_sizes)[1]

    @biases.setter
    def biases(self, arrays):
        self._set_views(1, arrays, "biases")

    def _set_views(self, which, arrays, name):
        flat = self._flat.copy()
        self._fill(views(flat, self._layer_sizes)[which], list(arrays), name)
        self._set(flat)

    def _set(self, flat):
        """Set parameters that are finite and of the network's dtype, here and in the engine."""
        self._network.set_parameters(flat)
        self._flat[:] = flat

    def _dtype_for(self, X):
        """The dtype that the network has, or will have if X is the first data it gets."""
        if self._dtype_decided:
            return self._dtype
        return np.dtype(np.float32 if X.dtype.kind == "f" and X.dtype.itemsize == 4 else np.float64)

    def _check_inputs(self, X, name="X", dtype=None):
        array = _validation.as_real_array(X, name)
        return _validation.as_matrix(array, name, self._layer_sizes[0], dtype or self._dtype_for(array))

    def _check_data(self, X, y, sample_weight, dtype=None, names=("X", "y", "sample_weight")):
        """Rows, targets and weights as engines take them; at least one row."""
        X = self._check_inputs(X, names[0], dtype)
        if len(X) == 0:
            raise ValueError(f"{names[0]} must have at least 1 row; got shape {X.shape}")
        output, loss = self.output_activation.name, self._loss.name
        y = _validation.as_targets(y, len(X), self._layer_sizes[-1], output, loss, X.dtype, names[1])
        return X, y, _validation.as_sample_weight(sample_weight, len(X), X.dtype, names[2])

    def _decide_dtype(self, dtype):
        """Fix the dtype, called once all arguments of the call that brought the first data were found good."""
        if self._dtype_decided:
            return
        if dtype != self._dtype:
            flat = _validation.as_native(self._flat, dtype)
            _validation.check_finite(flat, "parameters", self._flat)
            self._dtype = dtype
            self._install(flat)
        self._dtype_decided = True

    def _threads(self, flops):
        return engine.resolve_n_threads(self._n_threads, flops)

    def summary(self):
        """A table of the layers: index, shape of the weights, activation, number of parameters, initialiser; the total.

        Returns
        -------
        str

        Examples
        --------
        >>> from cymlp import MLP
        >>> print(MLP([4, 8, 3], "tanh", "softmax", engine="reference").summary())
        layer  shape  activation  parameters     initializer
            1  4 x 8        tanh          40  glorot_uniform
            2  8 x 3     softmax          27  glorot_uniform
        total                             67
        """
        rows = [("layer", "shape", "activation", "parameters", "initializer")]
        for layer, weights in enumerate(self.weights):
            n_in, n_out = weights.shape
            size = f"{(n_in + 1) * n_out:,}"
            activation, initializer = str(self._activations[layer]), self._initializers[layer]
            rows.append((str(layer + 1), f"{n_in} x {n_out}", activation, size, initializer))
        rows.append(("total", "", "", f"{self._n_parameters:,}", ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self):
        hidden = [str(activation) for activation in self.hidden_activations]
        return (
            f"MLP({list(self._layer_sizes)}, hidden_activation={hidden}, output_activation='{self.output_activation}', "
            f"loss='{self._loss}', dtype={self._dtype.name if self._dtype_decided else None}, engine={self._engine!r})"
        )

    def __getstate__(self):
        # The generator and the mutable rest are copied, so that copy.copy, too, gives an independent network.
        state = {name: value for name, value in self.__dict__.items() if name not in ("_network", "_rng", "_flat")}
        state["_resumable"], state["_training"] = None, False
        return copy.deepcopy(state) | {"_rng": copy.deepcopy(self._rng), "_flat": self._flat.copy()}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._install(self._flat)

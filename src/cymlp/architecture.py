"""What an MLP is described by: sizes, activations and normalisations of layers, the loss, an engine; no numbers yet."""

import sys
import warnings

import numpy as np

from . import _validation, activations, engine, losses, normalizations
from .layout import Layout

__all__ = ["Architecture", "as_dtype"]

# As many float64 numbers as a process can address.
_MOST_PARAMETERS = sys.maxsize // 8


def as_dtype(dtype):
    for known in (np.dtype(np.float32), np.dtype(np.float64)):
        try:
            if np.dtype(dtype) == known:
                return known
        except TypeError:
            break
    raise ValueError(f"dtype must be None, float32 or float64; got {dtype!r}")


class Architecture:
    """Layers, loss and engine, all checked; `LayeredParameters` adds the numbers."""

    def _configure(
        self,
        layer_sizes,
        hidden_activation,
        output_activation,
        loss,
        n_threads,
        random_state,
        engine_name,
        normalization=None,
    ):
        """Check and set all of it."""
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
        self._layout = Layout(sizes, (*self._resolve_normalization(normalization, len(hidden)), None))
        self._n_weights, self._n_parameters = self._layout.n_weights, self._layout.n_parameters
        if self._n_parameters > _MOST_PARAMETERS:
            raise ValueError(
                f"layer_sizes must make at most {_MOST_PARAMETERS:,} parameters, which memory can hold; "
                f"got {list(sizes)}, which make {self._n_parameters:,}"
            )
        self._n_threads = None if n_threads is None else _validation.as_count(n_threads, "n_threads")
        self._rng = _validation.as_generator(random_state)
        engine.choose(engine_name)
        self._engine = engine_name

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

    @staticmethod
    def _resolve_normalization(spec, n_hidden):
        """One normalisation, or None, for each hidden layer."""
        if not isinstance(spec, (list, tuple)):
            return [normalizations.get(spec)] * n_hidden
        if len(spec) != n_hidden:
            raise ValueError(f"normalization must have {n_hidden} entries, one per hidden layer; got {len(spec)}")
        return [normalizations.get(one, f"normalization[{i}]") for i, one in enumerate(spec)]

    def _warn_of_linear_layers(self):
        layers = zip(self._activations[:-1], self.normalizations, strict=True)
        # What normalises with numbers of the row itself is not linear; batch normalisation is, when it predicts.
        if any(layer.name == "identity" and (one is None or one.has_statistics) for layer, one in layers):
            warnings.warn(
                "hidden_activation 'identity' makes a layer linear: it and the next layer together can do no more than "
                "one layer",
                UserWarning,
                stacklevel=3,
            )

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
    def normalizations(self):
        """Tuple, for each hidden layer a `cymlp.normalizations.BatchNorm` or `LayerNorm`, or None."""
        return self._layout.normalizations[:-1]

    @property
    def loss(self):
        """`cymlp.losses.Loss`."""
        return self._loss

    @property
    def n_parameters(self):
        """Number of weights, biases and scales."""
        return self._n_parameters

    @property
    def n_threads(self):
        """What was asked for: an int, or None."""
        return self._n_threads

    @property
    def engine(self):
        """ "compiled" or "reference"."""
        return self._engine

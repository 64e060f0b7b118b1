"""What a forecast is made of: its arguments, checked as those of `MLP`, and the layers that they make."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from .. import initializers, normalizations, options
from ..activations import Activation
from ..architecture import Architecture, as_dtype
from ..network import MLP
from . import structured
from .propagation import Layer

__all__ = ["SKLEARN", "VARIANCES", "Setup", "alike", "check", "exact", "layers_of", "setup_of", "variance"]

# Numbers that a callable initialiser is drawn for, at least: its mean square is known to 0.6 % then.
_DRAWN, _MOST_DRAWS = 2**16, 256

# What estimators call scikit-learn's initial weights, which have biases of the same size.
SKLEARN = "scikit-learn's"

# Mean squares of weights for gain 1, by the initialiser's name: what their docstrings say.
VARIANCES = {
    "zeros": lambda n_in, n_out: 0.0,
    "constant": lambda n_in, n_out: 1.0,
    "normal": lambda n_in, n_out: 0.01**2,
    "uniform": lambda n_in, n_out: 0.05**2 / 3,
    "xavier": lambda n_in, n_out: 1 / n_in,
    "glorot_normal": lambda n_in, n_out: 2 / (n_in + n_out),
    "glorot_uniform": lambda n_in, n_out: 2 / (n_in + n_out),
    "he_normal": lambda n_in, n_out: 2 / n_in,
    "he_uniform": lambda n_in, n_out: 2 / n_in,
    "lecun_normal": lambda n_in, n_out: 1 / n_in,
    "lecun_uniform": lambda n_in, n_out: 1 / n_in,
    "orthogonal": lambda n_in, n_out: 1 / max(n_in, n_out),
    "scaled_identity": lambda n_in, n_out: 1 / max(n_in, n_out),
}


def _is(spec, name):
    return isinstance(spec, str) and spec == name


@dataclass(frozen=True)
class Setup:
    """The arguments of a forecast, checked; `specs`: the initialiser of each layer of weights, a name or a function."""

    sizes: tuple
    activations: tuple
    output: Activation
    specs: tuple
    gain: float
    bias: float
    dropout: tuple
    normalizations: tuple
    dtype: np.dtype
    input_scale: float

    def is_of_sklearn(self, layer):
        """Whether the weights with this index are drawn as scikit-learn does, biases with them."""
        return _is(self.specs[layer], SKLEARN)

    def names(self):
        """Of the initialisers."""
        return tuple(spec if isinstance(spec, str) else getattr(spec, "__name__", "callable") for spec in self.specs)


class OfSize:
    """An initialiser of weights as large as given ones, called as these were drawn."""

    def __init__(self, name, weights):
        self.__name__ = name
        self.variance = float(np.mean(np.square(weights, dtype=np.float64)))

    def __call__(self, rng, n_in, n_out, *, gain=1.0):
        if self.__name__ == "orthogonal":
            return initializers.orthogonal(rng, n_in, n_out, gain=gain * math.sqrt(self.variance * max(n_in, n_out)))
        return gain * math.sqrt(self.variance) * rng.standard_normal((n_in, n_out))


def _check_number(value, name, least, strict):
    number = initializers._number(name, value)
    if number < least or (strict and number == least):
        raise ValueError(f"{name} must be a finite number {'>' if strict else '>='} {least:g}; got {value!r}")
    return number


def _check_normalization(batch_norm, layer_norm):
    """None, or an instance from `cymlp.normalizations`."""
    kinds = {"batch_norm": (batch_norm, normalizations.BatchNorm), "layer_norm": (layer_norm, normalizations.LayerNorm)}
    for name, (value, kind) in kinds.items():
        if not isinstance(value, (bool, np.bool_, kind)):
            raise ValueError(f"{name} must be True, False or a {kind.__name__}; got {value!r}")
    return normalizations.choose(batch_norm, layer_norm)


def _check_initializers(spec, architecture):
    """A name or a callable for each layer of weights, "auto" resolved."""
    chosen = (*architecture.hidden_activations, architecture.output_activation)
    if isinstance(spec, (list, tuple)):
        if len(spec) != len(chosen):
            raise ValueError(f"initializer must have {len(chosen)} entries, one per layer of weights; got {len(spec)}")
        specs = list(spec)
    else:
        specs = [spec] * len(chosen)
    found = []
    for one, activation in zip(specs, chosen, strict=True):
        if not _is(one, SKLEARN):
            initializers.get(one, activation.definition)
        found.append(activation.definition.initializer if _is(one, "auto") else one)
    return tuple(found)


def check(
    layer_sizes,
    activation,
    initializer,
    gain,
    bias,
    dropout,
    batch_norm,
    dtype,
    output_activation,
    layer_norm,
    input_scale,
):
    """The `Setup` of the arguments of `forecast`; ValueError or TypeError naming the one that is wrong."""
    architecture, normalization = Architecture(), _check_normalization(batch_norm, layer_norm)
    try:
        architecture._configure(layer_sizes, activation, output_activation, None, None, None, "reference")
    except (ValueError, TypeError) as error:
        raise type(error)(str(error).replace("hidden_activation", "activation")) from None
    n_layers = len(architecture.layer_sizes) - 1
    rates = options.dropout_rates(dropout, n_layers) or (0.0,) * n_layers
    return Setup(
        architecture.layer_sizes,
        architecture.hidden_activations,
        architecture.output_activation,
        _check_initializers(initializer, architecture),
        _check_number(gain, "gain", 0, True),
        _check_number(bias, "bias", 0, False),
        tuple(float(rate(0)) if callable(rate) else rate for rate in rates),
        (normalization,) * (n_layers - 1),
        as_dtype(dtype),
        _check_number(input_scale, "input_scale", 0, True),
    )


def variance(spec, n_in, n_out, gain, activation):
    """Mean square of the weights, and deviation of the biases that come with them."""
    if _is(spec, SKLEARN):
        square = (2.0 if activation.name == "sigmoid" else 6.0) / (n_in + n_out) / 3 * gain * gain
        return square, math.sqrt(square)
    if isinstance(spec, str):
        return min(VARIANCES[spec](n_in, n_out) * gain * gain, 1e300), 0.0  # infinity has no logarithm to go on with
    if isinstance(spec, OfSize):
        return spec.variance * gain * gain, 0.0
    draw, rng = initializers.get(spec, activation.definition), np.random.default_rng(0)
    total = drawn = 0
    for _ in range(_MOST_DRAWS):
        weights = draw(rng, n_in, n_out, gain=gain)
        total, drawn = total + float(np.sum(weights * weights)), drawn + weights.size
        if drawn >= _DRAWN:
            break
    return total / drawn, 0.0


def _are_equal(spec, n_in, n_out, activation):
    """Whether a callable gives all units of a layer the same weights."""
    if isinstance(spec, (str, OfSize)) or n_out < 2:
        return False
    weights = initializers.get(spec, activation.definition)(np.random.default_rng(0), n_in, n_out)
    return bool(np.all(weights == weights[:, :1]))


def layers_of(setup):
    identity, known, layers = Activation("identity"), {}, []
    chosen = (*setup.activations, setup.output)
    # scikit-learn's output is drawn as the layer below.
    drawn_as = (*setup.activations, setup.activations[-1] if setup.activations else setup.output)
    for l, (n_in, n_out) in enumerate(itertools.pairwise(setup.sizes)):
        last, spec = l == len(chosen) - 1, setup.specs[l]
        key = (
            spec if isinstance(spec, str) else id(spec),
            n_in,
            n_out,
            drawn_as[l] if setup.is_of_sklearn(l) else chosen[l],
        )
        if key not in known:
            known[key] = variance(spec, n_in, n_out, setup.gain, key[3])
        square, own = known[key]
        layer = Layer(n_in, n_out, square, identity if last else chosen[l], setup.names()[l] == "orthogonal")
        if setup.names()[l].endswith("uniform") or setup.is_of_sklearn(l):
            layer = replace(layer, excess=-1.2)  # 9 / 5 - 3
        layer = replace(layer, bias=math.hypot(setup.bias, own))
        if not last:
            kind = setup.normalizations[l]
            norm = {} if kind is None else {"normalization": kind.name, "epsilon": kind.epsilon}
            layer = replace(layer, keep=1 - setup.dropout[l + 1], **norm)
        layers.append(layer)
    return layers


def exact(setup):
    """The name of the initialiser of all layers, where that is one without randomness."""
    names = {spec if isinstance(spec, str) else None for spec in setup.specs}
    return setup.specs[0] if len(names) == 1 and names <= set(structured.EXACT) else None


def alike(setup):
    """For each hidden layer, the share of units that start alike."""
    sizes, name, shares = setup.sizes, exact(setup), []
    for l, activation in enumerate(setup.activations, 1):
        spec, share = setup.specs[l - 1], 0.0
        if setup.bias == 0 and not setup.dropout[l]:
            if _is(spec, "zeros") or _is(spec, "constant") or _are_equal(spec, sizes[l - 1], sizes[l], activation):
                share = 1.0
            elif name == "scaled_identity" and sizes[l] - min(sizes[: l + 1]) > 1:
                share = 1 - min(sizes[: l + 1]) / sizes[l]
        shares.append(share)
    return shares


# ---- Models ----


def setup_of(model, n_features=None, n_outputs=None, input_scale=1.0):
    """The `Setup` of an `MLP` or an estimator; for the arguments see `forecasting.forecast_of`."""
    if isinstance(model, MLP):
        return _setup_of_network(model, input_scale)
    if not hasattr(model, "_hidden_activations"):
        raise TypeError(f"model must be an MLP, an MLPClassifier or an MLPRegressor; got {type(model).__name__}")
    network = getattr(model, "network_", None)
    sizes = (n_features, n_outputs) if network is None else (network.layer_sizes[0], network.layer_sizes[-1])
    for name, size in zip(("n_features", "n_outputs"), sizes, strict=True):
        if size is None:
            raise ValueError(f"{name} must be given for an estimator that has not been fitted")
    hidden = model.hidden_layer_sizes
    hidden = tuple(hidden) if hasattr(hidden, "__iter__") else (hidden,)
    rates = model.dropout
    return check(
        (sizes[0], *hidden, sizes[1]),
        model._hidden_activations(len(hidden)),
        SKLEARN if model.initializer is None else model.initializer,
        model.gain,
        0.0,
        list(rates) if hasattr(rates, "__iter__") else rates,
        model.batch_norm,
        "float64" if network is None else network.dtype,
        "identity" if network is None else network.output_activation,
        model.layer_norm,
        input_scale,
    )


def _setup_of_network(network, input_scale):
    """Initialisers that have a law of their own as they are, of others the size that the weights have."""
    names, weights = network._initializers, network.weights
    if len(set(names)) == 1 and names[0] in structured.EXACT and network.history_ is None:
        specs, gain = tuple(names), float(np.abs(weights[0]).max()) or 1.0
    else:
        specs, gain = tuple(OfSize(name, W) for name, W in zip(names, weights, strict=True)), 1.0
    biases = [np.mean(np.square(b, dtype=np.float64)) for b in network.biases]
    return Setup(
        network.layer_sizes,
        network.hidden_activations,
        network.output_activation,
        specs,
        gain,
        math.sqrt(float(np.mean(biases))),
        (0.0,) * len(weights),
        network.normalizations,
        network.dtype,
        _check_number(input_scale, "input_scale", 0, True),
    )

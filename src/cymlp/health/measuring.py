"""One network, one batch: what activations and gradients are, to be compared with a forecast."""

import math
from typing import NamedTuple

import numpy as np

from .. import _validation, engine, initializers, losses
from ..layout import Layout
from ..network import MLP

__all__ = ["Sizes", "draw", "measure"]


class Sizes(NamedTuple):
    """Root mean squares of layers 0 .. L, ndarrays (L + 1,), gradients against the output's; the number of rows."""

    activation: np.ndarray
    gradient: np.ndarray
    rows: int


def _root_mean_square(array):
    # By the largest element, as squares of small ones are nothing and those of large ones infinite.
    largest = float(np.abs(array).max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(np.mean(np.square(array / largest, dtype=np.float64)))


def draw(setup, rng):
    """A network of a forecast's setup, with biases of its deviation."""
    kinds = setup.normalizations
    chosen, layout = (*setup.activations, setup.output), Layout(setup.sizes, (*kinds, None))
    flat = np.empty(layout.n_parameters, setup.dtype)
    views = layout.views(flat)
    below = (*setup.activations, setup.activations[-1] if setup.activations else setup.output)
    with np.errstate(over="ignore"):
        for l, (weights, biases, scale) in enumerate(zip(*views, strict=True)):
            if setup.is_of_sklearn(l):
                limit = setup.gain * math.sqrt((2.0 if below[l].name == "sigmoid" else 6.0) / sum(weights.shape))
                weights[:], biases[:] = (rng.uniform(-limit, limit, one.shape) for one in (weights, biases))
            else:
                initializer = initializers.get(setup.specs[l], chosen[l].definition)
                weights[:], biases[:] = initializer(rng, *weights.shape, gain=setup.gain), 0
            biases += (setup.bias * rng.standard_normal(biases.shape)).astype(flat.dtype)
            if scale is not None:
                scale[:] = 1
    _validation.check_finite(flat, "initializer's weights")
    loss = losses.default_for(setup.output)
    return MLP._around(flat, setup.sizes, chosen, loss, None, "compiled", "given", list(kinds))


def _check(network, setup):
    if not isinstance(network, MLP):
        raise TypeError(f"network must be an MLP; got {type(network).__name__}")
    if network.layer_sizes != setup.sizes:
        raise ValueError(f"network must have the layer sizes {setup.sizes}; got {network.layer_sizes}")
    return network


def _output_gradient(kernels, network, Z, y, rng):
    if y is None:
        return rng.standard_normal(Z.shape).astype(Z.dtype)
    output, loss = network.output_activation, network.loss
    _, dZ = kernels.loss_and_gradient(loss.name, output.name, Z, y, None, delta=loss.parameter, slope=output.slope)
    return dZ * dZ.dtype.type(len(dZ))  # of each row's own loss, not of the mean


def measure(setup, X, y, n_samples, random_state, network):
    """`Forecast.measure` but for the forecast; the arguments are its own."""
    rng = _validation.as_generator(random_state)
    network = draw(setup, rng) if network is None else _check(network, setup)
    dtype = network.dtype
    if X is None:
        X = (setup.input_scale * rng.standard_normal((n_samples, setup.sizes[0]))).astype(dtype)
    if y is None:
        X = network._check_inputs(X, dtype=dtype)
        if len(X) == 0:
            raise ValueError(f"X must have at least 1 row; got shape {X.shape}")
    else:
        X, y, _ = network._check_data(X, y, None, dtype)
    kernels, seed = engine.choose(network.engine), int(rng.integers(2**63))
    rates, kinds = setup.dropout, (*network.normalizations, None)
    chosen = (*network.hidden_activations, network.output_activation)

    def drop(values, layer):
        return kernels.dropout(values, rates[layer], seed, 1, layer) if rates[layer] else values

    activations, sums, A = [], [], drop(X, 0)
    with np.errstate(all="ignore"):
        activations.append(_root_mean_square(A))
        parameters = zip(network.weights, network.biases, network.scales, kinds, chosen, strict=True)
        for l, (W, b, scale, kind, activation) in enumerate(parameters, 1):
            if kind is None:
                before = Z = kernels.dense_forward(A, W, b)
            else:
                before = kernels.dense_forward(A, W, np.zeros_like(b))
                if kind.has_statistics:
                    Z, _, _ = kernels.batch_norm(before, scale, b, None, kind.epsilon)
                else:
                    Z = kernels.layer_norm(before, scale, b, kind.epsilon)
            sums.append((before, Z))
            if l < len(chosen):
                A = drop(kernels.activate(activation.name, Z, activation.slope), l)
                activations.append(_root_mean_square(A))
        activations.append(_root_mean_square(Z))
        D = _output_gradient(kernels, network, Z, y, rng)
        gradients = [_root_mean_square(D)]
        for l in range(len(chosen) - 1, -1, -1):
            D = drop(np.ascontiguousarray(D @ network.weights[l].T), l)
            if l:
                (before, Z), activation, kind = sums[l - 1], chosen[l - 1], kinds[l - 1]
                D = D * kernels.activation_gradient(activation.name, Z, activation.slope)
                if kind is not None and kind.has_statistics:
                    D, _, _ = kernels.batch_norm_backward(D, before, network.scales[l - 1], None, kind.epsilon)
                elif kind is not None:
                    D, _, _ = kernels.layer_norm_backward(D, before, network.scales[l - 1], kind.epsilon)
            gradients.append(_root_mean_square(D))
        gradients = np.array(gradients[::-1])
        return Sizes(np.array(activations), gradients / gradients[-1], len(X))

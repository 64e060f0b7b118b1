"""forecast(): how large the activations and gradients of a network will be, said before it has seen any data."""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_ndtr

from .. import _formulas, _validation
from . import propagation, structured, text
from .depths import Depths, depth_scales, reach
from .measuring import measure
from .setups import alike, check, exact, layers_of, setup_of, variance
from .verdicts import flows, verdict

__all__ = ["ROWS", "Forecast", "forecast", "forecast_of"]

# Rows of the batch that bands are for, and that `Forecast.measure` draws.
ROWS = 256

# 95 % of a normal variable are within so many deviations.
_SIGMAS, _TAIL = 1.959963984540054, 0.025

# What float32's rounding does to a mean square in the layers of a deep network; no band is narrower.
_ROUNDING = 1e-5


@dataclass(frozen=True, eq=False, repr=False)
class Forecast:
    """What `forecast` says: numbers for each layer, 0 the inputs and L the output, and a verdict.

    Parameters
    ----------
    layer_sizes : tuple of int
        Inputs first, outputs last: L + 1 numbers.
    activations, initializers : tuple of str
        Of layers 1 .. L.
    dtype : numpy.dtype
    activation_scale : ndarray (L + 1,)
        Root mean square of what each layer hands on, after dropout as in training; of the output before its
        activation.  That of a wide network.
    gradient_scale : ndarray (L + 1,)
        Root mean square of the gradient by each layer's weighted sums, relative to the output's, which is 1; entry 0 is
        that by the inputs.
    activation_band, gradient_band : ndarray (2, L + 1)
        What 95 % of networks of these sizes lie between, on one batch of independent normal inputs.
    forward_factors, backward_factors : ndarray (L,)
        By which layer l multiplies activations, and W_l gradients: activation_scale[l] / activation_scale[l - 1] and
        gradient_scale[l - 1] / gradient_scale[l].
    forward_depth_scale, gradient_depth_scale : float
        Layers like the last hidden one in which activations, and gradients, change by the factor e; infinity where they
        do not.
    correlation_depth_scale : float
        The same of what is left of the difference between two rows.
    trainable_depth : float
        Layers up to which such networks train by Schoenholz et al. (2017): 6 times the depth scale of correlations, or
        of squared gradients.
    dead_share : ndarray (L + 1,)
        Expected share of units that are 0 for each row of a batch; 0 for the inputs and the output.
    dead_network : float
        Probability that a whole layer is so, which then gives a constant and gets no gradient.
    underflow_layer, overflow_layer : int or None
        Where numbers first leave the normal ones of `dtype`, on the way forward and back, for gradients of 1 at the
        output.
    verdict : str
        Begins with Healthy, Vanishing, Exploding or Symmetric; the reason follows.
    rows : int
        Of the batch.
    measured_activation_scale, measured_gradient_scale : ndarray (L + 1,), optional
        From `measure`.
    setup : object
        The arguments, from which `measure` draws.

    Notes
    -----
    Schoenholz, Gilmer, Ganguli & Sohl-Dickstein (2017), Deep information propagation; Hanin & Rolnick (2018), How to
    start training; Lu, Shin, Su & Karniadakis (2019), Dying ReLU and initialization; Yang et al. (2019), A mean field
    theory of batch normalization.  docs/forecasts.md has the rest, and what measurements say.
    """

    layer_sizes: tuple
    activations: tuple
    initializers: tuple
    dtype: np.dtype
    activation_scale: np.ndarray
    gradient_scale: np.ndarray
    activation_band: np.ndarray
    gradient_band: np.ndarray
    forward_factors: np.ndarray
    backward_factors: np.ndarray
    forward_depth_scale: float
    gradient_depth_scale: float
    correlation_depth_scale: float
    trainable_depth: float
    dead_share: np.ndarray
    dead_network: float
    underflow_layer: int | None
    overflow_layer: int | None
    verdict: str
    rows: int
    measured_activation_scale: np.ndarray | None = None
    measured_gradient_scale: np.ndarray | None = None
    setup: object = None

    @classmethod
    def of(cls, model, **sizes):
        """The forecast of an `MLP` or an estimator, as it is configured.

        Parameters
        ----------
        model : MLP, MLPClassifier or MLPRegressor
        **sizes
            `n_features`, `n_outputs` and `input_scale`, as in `forecast_of`.

        Returns
        -------
        Forecast
        """
        return forecast_of(model, **sizes)

    @property
    def is_healthy(self):
        """Whether the verdict is Healthy."""
        return self.verdict.startswith("Healthy")

    def measure(self, X=None, y=None, n_samples=ROWS, random_state=None, network=None):
        """Draw a network, pass one batch through it forward and back, and note what came out beside what was forecast.

        Parameters
        ----------
        X : array-like (n_samples, n_in), optional
            Inputs; None for independent normal ones of the deviation `input_scale`.
        y : array-like, optional
            Targets as for `MLP.gradients`: gradients are then those of each row's loss.  None for those of a random
            linear function of the output, with independent normal coefficients for each row and unit.
        n_samples : int, default 256
            Rows, where X is None.
        random_state : int, SeedSequence or Generator, optional
            Of the weights, inputs, coefficients and dropout.
        network : MLP, optional
            To be measured in place of a new one; of the same layers.

        Returns
        -------
        Forecast
            A new one, with `measured_activation_scale` and `measured_gradient_scale`, and bands for these rows.

        Raises
        ------
        ValueError, TypeError
            For data of the wrong kind.

        Examples
        --------
        >>> import cymlp
        >>> measured = cymlp.forecast([64, 256, 256, 10]).measure(random_state=0)
        >>> low, high = measured.gradient_band
        >>> bool(low[1] <= measured.measured_gradient_scale[1] <= high[1])
        True
        """
        n_samples = _validation.as_count(n_samples, "n_samples")
        sizes = measure(self.setup, X, y, n_samples, random_state, network)
        found = self if sizes.rows == self.rows else _forecast(self.setup, sizes.rows)
        return replace(found, measured_activation_scale=sizes.activation, measured_gradient_scale=sizes.gradient)

    def __str__(self):
        return text.forecast_text(self)

    def _repr_html_(self):
        return text.forecast_html(self)

    def __repr__(self):
        return f"<Forecast of {list(self.layer_sizes)}: {self.verdict}>"


def forecast(
    layer_sizes,
    activation="relu",
    initializer="auto",
    gain=1.0,
    bias=0.0,
    dropout=0.0,
    batch_norm=False,
    dtype="float32",
    *,
    output_activation="identity",
    layer_norm=False,
    input_scale=1.0,
):
    """Say how large a network's activations and gradients will be, and whether it can learn; no data, no weights.

    Parameters
    ----------
    layer_sizes : sequence of int
        At least 2 numbers >= 1: inputs first, outputs last.
    activation : str, Activation, or list of them, default "relu"
        Of the hidden layers, as `hidden_activation` of `MLP`.
    initializer : str, callable, or list of them, default "auto"
        As in `MLP`, or one for each layer of weights.  Of a callable, weights are drawn to learn their size.
    gain : float, default 1.0
        Factor that the initialiser puts on the weights.
    bias : float, default 0.0
        Standard deviation of the biases, at least 0.
    dropout : float or list of them, default 0.0
        As in `MLP.train`; of a schedule, its first rate.
    batch_norm : bool or BatchNorm, default False
        Whether hidden layers are normalised over the batch.
    dtype : {float32, float64}, default "float32"
    output_activation : str or Activation, default "identity"
        Its initialiser is that of the last weights, where `initializer` is "auto".
    layer_norm : bool or LayerNorm, default False
        Whether hidden layers are normalised over their units.
    input_scale : float, default 1.0
        Root mean square of the inputs.

    Returns
    -------
    Forecast

    Raises
    ------
    ValueError, TypeError
        For an argument that is none of the above.

    Examples
    --------
    >>> import cymlp
    >>> deep = cymlp.forecast([100] * 153, "identity", "scaled_identity", gain=0.9)
    >>> f"{deep.activation_scale[-1]:.6g} {0.9**152:.6g}"
    '1.10882e-07 1.10882e-07'
    >>> print(cymlp.forecast([784, 512, 512, 10], output_activation="softmax").verdict)
    Healthy: a row's gradient at layer 1 is 0.99 of the output's, and outputs are 1.4 times the inputs
    """
    setup = check(
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
    )
    return _forecast(setup, ROWS)


# ---- Units that are dead at birth ----


def _is_dead_below_zero(activation):
    """Whether phi(z) = 0 for z <= 0."""
    z = np.array([-3.0, -1.0, 0.0])
    return not _formulas.ACTIVATIONS[activation.name][0](z, activation.slope).any()


def _dead(c, rows):
    """Probability that a Gaussian unit is at most 0 for all rows, whose sums have the pairwise correlation c.

    With z = sqrt(c) u + sqrt(1 - c) e_a it is E[Phi(-sqrt(c / (1 - c)) u)^rows].
    """
    c = min(max(c, 0.0), 1 - 1e-12)
    u = np.linspace(-8, 8, 801)
    density = np.exp(-u * u / 2)
    return float(np.exp(rows * log_ndtr(-math.sqrt(c / (1 - c)) * u)) @ density / density.sum())


def _dead_shares(setup, layers, steps, name, rows):
    """Of layers 0 .. L, and the probabilities that not all units of one are dead; Lu et al. (2019), theorem 3.3."""
    shares, alive = np.zeros(len(setup.sizes)), np.ones(len(setup.sizes))
    for l, layer in enumerate(layers[:-1], 1):
        if layer.keep <= 0:
            share, whole = 1.0, 1.0
        elif not _is_dead_below_zero(layer.activation):
            share, whole = 0.0, 0.0
        elif name is None:
            share = _dead(steps[l - 1].correlation, rows)
            whole = share**layer.n_out
        elif name == "scaled_identity":
            carried = min(setup.sizes[: l + 1])
            share = (1 - carried / layer.n_out) * (1.0 if layer.bias == 0 else 0.5) + 0.5**rows * carried / layer.n_out
            whole = share if share == 1 else 0.0
        else:
            share = whole = (1.0 if name == "zeros" else 0.5**rows) if layer.bias == 0 else 0.5
            whole = whole if layer.bias == 0 else share**layer.n_out
        shares[l] = share
        alive[l] = 1 - whole
    return shares, alive


# ---- All of it ----


def _depths(setup, layers, steps, name, forward, backward):
    if not setup.activations:
        return Depths(math.inf, math.inf, math.inf)
    if name is None:
        last, spec = layers[-2], setup.specs[-2]
        n = last.n_out
        square, own = variance(spec, n, n, setup.gain, setup.activations[-1])
        square = replace(last, n_in=n, variance=square, bias=math.hypot(setup.bias, own))
        return depth_scales(square, steps[-2].x)
    # These have no law of their own: what the hidden layers do on average.
    n = len(layers) - 2
    if n < 1:
        return Depths(math.inf, math.inf, math.inf)
    return Depths(reach((forward[-2] - forward[1]) / (2 * n)), reach((backward[1] - backward[-2]) / (2 * n)), math.inf)


def _band(line, rows, dead):
    """(3, L + 1) logarithms: lower end, middle, upper end; `dead`: probabilities that there is nothing."""
    mean, deviation = line.of_batch(rows)
    deviation = np.hypot(deviation, _ROUNDING)
    band = np.stack([mean + k * _SIGMAS * deviation for k in (-1, 0, 1)])
    band[0, dead > _TAIL] = propagation.NOTHING
    return band


def _root(logs):
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(np.asarray(logs) / 2)


def _factors(logs):
    with np.errstate(invalid="ignore"):  # of infinities
        return _root(np.diff(logs))


def _forecast(setup, rows):
    layers, name, keep = layers_of(setup), exact(setup), 1 - setup.dropout[0]
    steps = None
    if name is None:
        forward, steps = propagation.forward(layers, setup.input_scale, keep, rows)
        backward = propagation.backward(layers, steps, keep)
    else:
        forward, backward = structured.propagate(name, layers, setup.gain, setup.input_scale, keep)
    depths = _depths(setup, layers, steps, name, forward.line, backward.line)
    ahead, back = _root(forward.line), _root(backward.line)
    shares, layer_alive = _dead_shares(setup, layers, steps, name, rows)
    dead = 1 - np.cumprod(layer_alive), 1 - np.cumprod(layer_alive[::-1])[::-1]
    # A row counts for as much as its gradient at the output is large: the squares of its n_L entries.
    like = rows, rows / (1 + 2 / setup.sizes[-1])
    bands = [_root(_band(*each)) for each in zip((forward, backward), like, dead, strict=True)]
    bands[1][:, -1] = 1.0
    under, over = flows(ahead, back, setup.dtype)
    sentence = verdict(setup.sizes, *bands, alike(setup), under, over, setup.dtype)
    return Forecast(
        layer_sizes=setup.sizes,
        activations=tuple(map(str, (*setup.activations, setup.output))),
        initializers=setup.names(),
        dtype=setup.dtype,
        activation_scale=ahead,
        gradient_scale=back,
        activation_band=bands[0][[0, 2]],
        gradient_band=bands[1][[0, 2]],
        forward_factors=_factors(forward.line),
        backward_factors=_factors(-backward.line),
        forward_depth_scale=depths.forward,
        gradient_depth_scale=depths.gradient,
        correlation_depth_scale=depths.correlation,
        trainable_depth=depths.trainable,
        dead_share=shares,
        dead_network=float(dead[0][-1]),
        underflow_layer=under and under[1],
        overflow_layer=over and over[1],
        verdict=sentence,
        rows=rows,
        setup=setup,
    )


def forecast_of(model, n_features=None, n_outputs=None, input_scale=1.0):
    """The forecast of an `MLP` or an estimator, as it is configured.

    Parameters
    ----------
    model : MLP, MLPClassifier or MLPRegressor
        Of an `MLP`, which does not keep its gain, the weights are as large as they are now.  Of an estimator, the
        parameters count: what `fit` would begin with.
    n_features, n_outputs : int, optional
        Of an estimator that has not been fitted.
    input_scale : float, default 1.0
        Root mean square of the inputs.

    Returns
    -------
    Forecast

    Raises
    ------
    ValueError
        Where numbers of inputs and outputs are not known.
    TypeError
        For a model of another kind.

    Examples
    --------
    >>> import cymlp
    >>> forecast_of(cymlp.MLP([8, 32, 32, 1], "tanh", random_state=0)).is_healthy
    True
    """
    return _forecast(setup_of(model, n_features, n_outputs, input_scale), ROWS)

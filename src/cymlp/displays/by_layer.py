"""Pictures with the layers along the axis: how large activations and gradients are from the inputs to the outputs."""

import numpy as np

from .. import _drawing
from .base import ReportDisplay, report_of

__all__ = ["ActivationDisplay", "ForecastDisplay", "GradientFlowDisplay"]

_MAX_MARKERS = 20  # more would hide the line


def _layer_axis(ax, first, last):
    margin = max(0.2, 0.02 * (last - first)) if last > first else 0.5
    ax.set_xlim(first - margin, last + margin)
    _drawing.integers(ax.xaxis)
    ax.set_xlabel(f"layer ({'0: inputs, ' if first == 0 else ''}{last}: outputs)")


def _line(ax, x, values, slot, **style):
    """A line with a mark for each layer where these are few; crosses where a number is not finite."""
    style = {"linewidth": 1.6, "markersize": 4.5, "zorder": 2 + 0.1 * slot, **style}
    if style.get("linestyle") != "none" and len(x) > _MAX_MARKERS:
        step = len(x) // 10
        style["markevery"] = (slot * step // 4, step)  # not those of all lines at the same layers
    (line,) = ax.plot(x, np.where(np.isfinite(values), values, np.nan), **style)
    _drawing.mark_unfinite(ax, x, values, line.get_color())
    return line


class _LayerDisplay(ReportDisplay):
    """A line for each of a few records, over the layers; classes name their column, its first layer and its label."""

    def plot(self, ax=None, *, n_lines=3, line_kw=None):
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; default: a new figure of pyplot's.
        n_lines : int, default 3
            Records to show, evenly from the first to the last.
        line_kw : dict, optional
            Of matplotlib's ``plot``, for all lines.

        Returns
        -------
        display
            Itself.
        """
        if n_lines < 1:
            raise ValueError(f"n_lines must be at least 1; got {n_lines}")
        ax = _drawing.new_axes(ax)
        values = np.asarray(getattr(self, self._column), dtype=float)
        layers = np.arange(self._first, self._first + values.shape[1])
        # Distinct records, the first and the last among them; of one line the last.
        n = min(n_lines, len(values))
        shown = [len(values) - 1] if n == 1 else [round(i * (len(values) - 1) / (n - 1)) for i in range(n)]
        self.lines_ = []
        colors, widths = _drawing.shades(n, ax), _drawing.widths(n)
        for slot, i in enumerate(shown):
            style = {"color": colors[slot], "linewidth": widths[slot], **(line_kw or {})}
            style.setdefault("marker", _drawing.MARKERS[slot % len(_drawing.MARKERS)])
            self.lines_.append(_line(ax, layers, values[i], slot, label=f"step {self.steps[i]}", **style))
        _drawing.log_axis(ax, [])
        _layer_axis(ax, layers[0], layers[-1])
        ax.set_ylabel(self._label)
        _drawing.frame_below_legend(ax, 4)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class GradientFlowDisplay(_LayerDisplay):
    """How large the gradient is by layer, in the first, a middle and the last record of a training.

    Create it with `from_estimator`, `from_report` or `from_history`.

    Parameters
    ----------
    steps : array-like of shape (n,)
        Optimizer steps that were watched.
    gradient : array-like of shape (n, L)
        Root mean square over examples and units of the gradient of an example's loss by the layer's outputs before its
        activation, for the layers 1 to L.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One for each record that is drawn.

    Notes
    -----
    A line that falls towards the first layers by a constant factor is a vanishing gradient, one that rises is an
    exploding one.  Where it is exactly 0, the logarithmic axis has a 0.
    """

    _column, _first, _label = "gradient", 1, "gradient dLoss/dZ (RMS)"

    def __init__(self, *, steps, gradient):
        self.steps = steps
        self.gradient = gradient

    @classmethod
    def _data(cls, report):
        records = cls._records(report)
        return {"steps": records.steps, "gradient": np.sqrt(records.gradient[:, 1:])}


class ActivationDisplay(_LayerDisplay):
    """How large outputs of layers are, in the first, a middle and the last record of a training.

    Create it with `from_estimator`, `from_report` or `from_history`.

    Parameters
    ----------
    steps : array-like of shape (n,)
        Optimizer steps that were watched.
    activation : array-like of shape (n, L + 1)
        Root mean square over examples and units of what a layer hands on: the inputs, the hidden layers' activations
        (after dropout), and the outputs before their activation.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One for each record that is drawn.
    """

    _column, _first, _label = "activation", 0, "activation (RMS)"

    def __init__(self, *, steps, activation):
        self.steps = steps
        self.activation = activation

    @classmethod
    def _data(cls, report):
        records = cls._records(report)
        return {"steps": records.steps, "activation": np.sqrt(records.activation)}


class ForecastDisplay:
    """What is forecast of activations and gradients by layer, with its band, and what was measured.

    Create it with `from_forecast`, or with `from_estimator`, which measures by the first step of the training.

    Parameters
    ----------
    forecast : Forecast
    activation, gradient : array-like of shape (L + 1,), optional
        What was measured, as `Forecast` has it; NaN where nothing was.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        Activations and gradients as forecast.
    points_ : list of matplotlib Line2D
        What was measured of these; empty where nothing was.
    bands_ : list of matplotlib collections
        The bands: 95 % of networks drawn like this one are expected to be inside at each layer.
    """

    def __init__(self, *, forecast, activation=None, gradient=None):
        self.forecast = forecast
        self.activation = activation
        self.gradient = gradient

    @classmethod
    def from_forecast(cls, forecast, *, ax=None, **kwargs):
        """Draw a forecast, and what it has measured where `Forecast.measure` was called.

        Parameters
        ----------
        forecast : Forecast
        ax : matplotlib Axes, optional
            Where to draw; default: a new figure of pyplot's.
        **kwargs
            Of `plot`.

        Returns
        -------
        ForecastDisplay
        """
        measured = (getattr(forecast, f"measured_{kind}_scale", None) for kind in ("activation", "gradient"))
        return cls(forecast=forecast, **dict(zip(("activation", "gradient"), measured, strict=True))).plot(ax, **kwargs)

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Draw the forecast for a fitted estimator's network, and what its first training step has measured.

        Parameters
        ----------
        estimator : MLPClassifier, MLPRegressor, or what holds one
            Fitted with ``health`` on, as it is by default.
        ax : matplotlib Axes, optional
            Where to draw; default: a new figure of pyplot's.
        **kwargs
            Of `plot`.

        Returns
        -------
        ForecastDisplay

        Raises
        ------
        NotFittedError
            The estimator is not fitted.
        AttributeError
            It was not watched.
        TypeError
            It is none of cymlp's.
        """
        return cls.from_report(report_of(estimator), ax=ax, **kwargs)

    @classmethod
    def from_report(cls, report, *, ax=None, **kwargs):
        """The same of a health report.

        Parameters
        ----------
        report : HealthReport
        ax, **kwargs
            As of `from_estimator`.

        Returns
        -------
        ForecastDisplay

        Notes
        -----
        The forecast is the one for inputs as large as those of the training; that of the report is for a size of 1.
        """
        records, measured = report.records, {}
        if len(records) and records.steps[0] == 1:  # that step meets the network as it was drawn
            gradient = np.sqrt(records.gradient[0])
            with np.errstate(divide="ignore", invalid="ignore"):
                measured = {"activation": np.sqrt(records.activation[0]), "gradient": gradient / gradient[-1]}
        return cls(forecast=cls._forecast(report), **measured).plot(ax, **kwargs)

    @staticmethod
    def _forecast(report):
        data = report.evidence.data
        if data is None:
            return report.forecast
        from ..health.remedies import Setup, forecast_of

        return forecast_of(Setup.of(report.evidence), float(np.sqrt(np.mean(data.input_mean**2 + data.input_std**2))))

    def plot(self, ax=None, *, line_kw=None, band_kw=None):
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; default: a new figure of pyplot's.
        line_kw : dict, optional
            Of matplotlib's ``plot``, for the lines of the forecast.
        band_kw : dict, optional
            Of matplotlib's ``fill_between``, for the bands.

        Returns
        -------
        ForecastDisplay
            Itself.
        """
        ax = _drawing.new_axes(ax)
        forecast = self.forecast
        layers = np.arange(len(forecast.layer_sizes))
        self.lines_, self.bands_, self.points_, drawn = [], [], [], []
        kinds = (("activation", _drawing.BLUE, "-", "o"), ("gradient", _drawing.VERMILION, "--", "s"))
        for slot, (kind, color, dashes, marker) in enumerate(kinds):
            low, high = np.asarray(getattr(forecast, f"{kind}_band"), dtype=float)
            fill = {"color": color, "alpha": 0.18, "linewidth": 0, "zorder": 1, **(band_kw or {})}
            self.bands_.append(ax.fill_between(layers, low, high, **fill))
            drawn += [low, high]
            style = {"color": color, "linestyle": dashes, "label": f"{kind}, forecast", **(line_kw or {})}
            self.lines_.append(_line(ax, layers, np.asarray(getattr(forecast, f"{kind}_scale"), float), slot, **style))
            if getattr(self, kind) is not None:
                measured = np.asarray(getattr(self, kind), dtype=float)
                self.points_.append(self._points(ax, layers, measured, slot + 2, kind, color, marker))
            # Here, for a legend with a column for each kind.
            name = ("underflow", "overflow")[slot]
            layer = getattr(forecast, f"{name}_layer")
            if layer is not None:
                ax.axvline(layer, color=_drawing.GRAY, linewidth=1, linestyle=":", label=f"{name}: layer {layer}")
        _drawing.log_axis(ax, np.concatenate(drawn))
        _layer_axis(ax, 0, layers[-1])
        ax.set_ylabel("RMS (of gradients: the output's is 1)")
        _drawing.frame_below_legend(ax, 2)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @staticmethod
    def _points(ax, layers, values, slot, kind, color, marker):
        known = ~np.isnan(values) | (layers > 0)  # no gradient of the inputs is measured while training
        style = {
            "linestyle": "none",
            "marker": marker,
            "markerfacecolor": ax.get_facecolor(),
            "color": color,
            "linewidth": 1,
        }
        if len(layers) > 60:
            style |= {"markersize": 2.5, "markerfacecolor": color}
        return _line(ax, layers[known], values[known], slot, label=f"{kind}, measured", **style)

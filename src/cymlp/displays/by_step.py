"""Pictures with the steps of a training along the axis: how fast weights move, how many units are dead, the loss."""

from types import SimpleNamespace

import numpy as np

from .. import _drawing, plots
from .base import ReportDisplay, estimator_inside

__all__ = ["DeadUnitsDisplay", "LossCurveDisplay", "UpdateRatioDisplay"]

_MAX_LINES = 8  # of more layers a picture of colors is read faster than lines
_MAX_MARKERS = 30  # of fewer records it is seen which steps were watched
_EARLY = 0.2  # where half of the records are in this share of the steps, the axis is logarithmic


class _StepDisplay(ReportDisplay):
    """A line over the steps for each layer; a column of colors for each step where there are many layers."""

    def _draw(self, ax, values, line_kw, mesh_kw, norm, label):
        """`values` (n, layers), of the layers from 1; gives whether it drew lines."""
        ax = _drawing.new_axes(ax)
        self.ax_, self.figure_, self.lines_, self.mesh_, self.colorbar_ = ax, ax.figure, [], None, None
        steps = np.asarray(self.steps)
        by_lines = values.shape[1] <= _MAX_LINES
        log = len(steps) > 2 and np.median(steps) < _EARLY * steps[-1]
        if by_lines:
            n = values.shape[1]
            widths = [width / (1 if len(steps) <= 2 * _MAX_MARKERS else 2) for width in _drawing.widths(n)]
            styles = zip(_drawing.shades(n, ax)[::-1], widths, values.T, strict=True)
            for slot, (color, width, column) in enumerate(styles):
                style = {"color": color, "linewidth": width, "label": f"layer {slot + 1}", "zorder": 2}
                if len(steps) <= _MAX_MARKERS:
                    style |= {"marker": "o", "markersize": 3.5}
                style |= line_kw or {}
                self.lines_ += ax.plot(steps, np.where(np.isfinite(column), column, np.nan), **style)
                _drawing.mark_unfinite(ax, steps, column, color)
            ax.set_ylabel(label)
        else:
            self._draw_mesh(ax, steps, values, norm, label, log, mesh_kw or {})
        if log:
            ax.set_xscale("log")
        elif len(steps) == 1:
            ax.set_xticks(steps)
        else:
            _drawing.integers(ax.xaxis)
        ax.set_xlabel("optimizer step")
        return by_lines

    def _draw_mesh(self, ax, steps, values, norm, label, log, mesh_kw):
        from matplotlib import colormaps
        from matplotlib.patches import Patch

        zero, broken = "white", _drawing.VERMILION
        colors = colormaps["viridis"].with_extremes(under=zero, bad=broken)
        # What is exactly 0 has no place on a logarithmic scale of colors: below it.
        low = norm.vmin if norm.vmin > 0 else None
        shown = np.ma.masked_invalid(
            values if low is None else np.where(values == 0, low / 10, np.maximum(values, low))
        )
        layers = np.arange(1, values.shape[1] + 2) - 0.5
        kw = {"cmap": colors, "norm": norm, "rasterized": True, **mesh_kw}
        self.mesh_ = ax.pcolormesh(_drawing.edges(steps, log), layers, shown.T, **kw)
        self.colorbar_ = ax.figure.colorbar(self.mesh_, ax=ax, label=label)
        notes = [("exactly 0", zero, low is not None and (values == 0).any())]
        notes += [(_drawing.NOT_FINITE, broken, np.ma.getmaskarray(shown).any())]
        handles = [Patch(facecolor=color, edgecolor=_drawing.GRAY, label=name) for name, color, there in notes if there]
        if handles:  # above the picture, which fills its axes
            ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderpad=0)
        _drawing.integers(ax.yaxis)
        ax.set_ylabel("layer")


class UpdateRatioDisplay(_StepDisplay):
    """How far steps move the weights of each layer, in relation to these, over a training.

    Create it with `from_estimator`, `from_report` or `from_history`.

    Parameters
    ----------
    steps : array-like of shape (n,)
        Optimizer steps that were watched.
    ratio : array-like of shape (n, L)
        Norm of the step that a layer's weights take, divided by that of the weights, for the layers 1 to L.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One for each layer; empty where there are more than 8 layers.
    mesh_, colorbar_ : matplotlib QuadMesh, Colorbar or None
        The picture of colors for more layers.
    band_ : matplotlib patch or None
        What is usual: between the limits of the rules "still layers" and "restless layers".

    Notes
    -----
    Between 0.001 and 0.01 is most usual while a network learns; far below, layers hardly move, far above they forget.
    """

    def __init__(self, *, steps, ratio):
        self.steps = steps
        self.ratio = ratio

    @classmethod
    def _data(cls, report):
        records = cls._records(report)
        return {"steps": records.steps, "ratio": records.update_ratio[:, 1:]}

    def plot(self, ax=None, *, line_kw=None, mesh_kw=None):
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; default: a new figure of pyplot's.
        line_kw : dict, optional
            Of matplotlib's ``plot``, for all lines.
        mesh_kw : dict, optional
            Of matplotlib's ``pcolormesh``.

        Returns
        -------
        UpdateRatioDisplay
            Itself.
        """
        from matplotlib.colors import LogNorm

        from ..health.rules import RULES

        values = np.asarray(self.ratio, dtype=float)
        positive = values[np.isfinite(values) & (values > 0)]
        low, high = (positive.min(), positive.max()) if len(positive) else (1e-4, 1e-2)
        norm = LogNorm(low / 1.2, high * 1.2)
        self.band_ = None
        if self._draw(ax, values, line_kw, mesh_kw, norm, "step / weights (norms)"):
            _drawing.log_axis(self.ax_, [])
            usual = [RULES[rule].thresholds["ratio"] for rule in ("still layers", "restless layers")]
            self.band_ = self.ax_.axhspan(*usual, color="#808080", alpha=0.14, linewidth=0, label="usual", zorder=0)
            _drawing.frame_below_legend(self.ax_, 4)
        return self


class DeadUnitsDisplay(_StepDisplay):
    """How many units of each hidden layer are dead, over a training.

    Create it with `from_estimator`, `from_report` or `from_history`.

    Parameters
    ----------
    steps : array-like of shape (n,)
        Optimizer steps that were watched.
    dead : array-like of shape (n, L - 1)
        Share of the units that are 0 for all rows of the minibatch, for the hidden layers.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One for each layer; empty where there are more than 8 layers.
    mesh_, colorbar_ : matplotlib QuadMesh, Colorbar or None
        The picture of colors for more layers.

    Notes
    -----
    A unit that is 0 for a small minibatch is not yet dead: it may answer to other rows.
    """

    def __init__(self, *, steps, dead):
        self.steps = steps
        self.dead = dead

    @classmethod
    def _data(cls, report):
        records = cls._records(report)
        return {"steps": records.steps, "dead": records.dead[:, 1:-1]}

    def plot(self, ax=None, *, line_kw=None, mesh_kw=None):
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; default: a new figure of pyplot's.
        line_kw : dict, optional
            Of matplotlib's ``plot``, for all lines.
        mesh_kw : dict, optional
            Of matplotlib's ``pcolormesh``.

        Returns
        -------
        DeadUnitsDisplay
            Itself.
        """
        from matplotlib.colors import Normalize

        if self._draw(
            ax, 100 * np.asarray(self.dead, dtype=float), line_kw, mesh_kw, Normalize(0, 100), "dead units (%)"
        ):
            self.ax_.set_ylim(-3, 103)
            self.ax_.set_yticks(range(0, 101, 20))
            if not self.lines_:
                self.ax_.text(0.5, 0.5, "no hidden layers", transform=self.ax_.transAxes, ha="center", va="center")
            _drawing.frame_below_legend(self.ax_, 4)
        return self


def _base_loss(report):
    data = None if report is None else report.evidence.data
    return None if data is None else data.base_loss


class LossCurveDisplay(ReportDisplay):
    """Loss by epoch: training, validation where there is one, and what the best constant prediction reaches.

    Create it with `from_estimator`, `from_report` or `from_history`.

    Parameters
    ----------
    loss : array-like of shape (epochs,)
    validation_loss : array-like of shape (epochs,), optional
    base_loss : float, optional
        Of the best constant prediction: a network that stays there has learned nothing of its inputs.
    best_epoch : int, optional
        An epoch to mark, counted from 1.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        Training, and validation where there is one.
    """

    def __init__(self, *, loss, validation_loss=None, base_loss=None, best_epoch=None):
        self.loss = loss
        self.validation_loss = validation_loss
        self.base_loss = base_loss
        self.best_epoch = best_epoch

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Draw what a fitted estimator has gone through; ``health`` may be off.

        Parameters
        ----------
        estimator : MLPClassifier, MLPRegressor, or what holds one
            Fitted.  Of a `Pipeline` its last step is taken, of a search the best estimator.
        ax : matplotlib Axes, optional
            Where to draw; default: a new figure of pyplot's.
        **kwargs
            Of `plot`.

        Returns
        -------
        LossCurveDisplay

        Raises
        ------
        NotFittedError
            The estimator is not fitted.
        TypeError
            It has no loss curve.
        """
        inner = estimator_inside(estimator, "loss_curve_")
        base_loss = _base_loss(getattr(inner, "health_", None))
        validation = getattr(inner, "validation_loss_curve_", None)
        return cls(loss=inner.loss_curve_, validation_loss=validation, base_loss=base_loss).plot(ax, **kwargs)

    @classmethod
    def from_history(cls, history, *, ax=None, **kwargs):
        """Draw what `MLP.train` has gone through, watched or not.

        Parameters
        ----------
        history : History
        ax, **kwargs
            As of `from_estimator`.

        Returns
        -------
        LossCurveDisplay
        """
        marked = history.best_epoch if len(history.validation_loss) else None
        data = {"loss": history.loss, "validation_loss": history.validation_loss, "best_epoch": marked}
        return cls(**data, base_loss=_base_loss(history.health)).plot(ax, **kwargs)

    @classmethod
    def _data(cls, report):
        columns = report.evidence.history
        losses = {name: columns.get(name) for name in ("loss", "validation_loss")}
        return {**losses, "base_loss": _base_loss(report)}

    def plot(self, ax=None, *, line_kw=None):
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; default: a new figure of pyplot's.
        line_kw : dict, optional
            Of matplotlib's ``plot``, for all lines.

        Returns
        -------
        LossCurveDisplay
            Itself.

        Raises
        ------
        ValueError
            There are no epochs.
        """
        validation = [] if self.validation_loss is None else self.validation_loss
        ax = _drawing.new_axes(ax)
        before = len(ax.lines)
        curves = SimpleNamespace(loss=self.loss, validation_loss=validation)
        plots.learning_curves(curves, ax, self.best_epoch, self.base_loss)
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_ = [line for line in ax.lines[before:] if line.get_label() in ("training", "validation")]
        for line in self.lines_:
            line.set(**(line_kw or {}))
        return self

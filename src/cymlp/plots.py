"""Pictures of a training run.  matplotlib is imported when one is drawn."""

import math
import warnings
from pathlib import Path

from . import _drawing

__all__ = [
    "SUFFIXES",
    "check_suffix",
    "history_figure",
    "learning_curves",
    "new_figure",
    "rate_curve",
    "save_learning_curves",
    "save_rate_curve",
    "score_curve",
    "write",
]

SUFFIXES = (".png", ".svg", ".pdf")
_MAX_TITLE = 50  # characters for each panel that they stand above
_LOG_FROM = 3  # a smaller ratio of losses reads as well on a linear axis
_TRAINING, _VALIDATION, _OTHER, _BEST = _drawing.BLUE, _drawing.VERMILION, _drawing.GREEN, _drawing.GRAY


def _style(ax, n_epochs, best_epoch):
    if best_epoch is not None:
        ax.axvline(best_epoch, color=_BEST, linewidth=1, linestyle=":", label=f"best epoch: {best_epoch}", zorder=1)
    margin = max(0.5, 0.02 * n_epochs)
    ax.set_xlim(1 - margin, n_epochs + margin)
    _drawing.integers(ax.xaxis)
    ax.set_xlabel("epoch")
    _drawing.frame(ax)


def _log_scale(ax, ratio):
    ax.set_yscale("log")
    if ratio < 1000:
        _drawing.written_out(ax.yaxis)


def _line(ax, values, color, label):
    marker = "o" if len(values) == 1 else None  # a line through one point is invisible
    epochs = range(1, len(values) + 1)
    ax.plot(epochs, values, color=color, linewidth=1.6, marker=marker, label=label, zorder=2)
    _drawing.mark_unfinite(ax, epochs, values, color)


def learning_curves(history, ax=None, best_epoch=None, base_loss=None):
    """Loss by epoch: training, and validation where the history has it.

    Parameters
    ----------
    history : History
        What `MLP.train` returned.
    ax : matplotlib Axes, optional
        Where to draw; default: a new figure of pyplot's.
    best_epoch : int, optional
        An epoch to mark, counted from 1.
    base_loss : float, optional
        Of the best constant prediction: a level to compare with.

    Returns
    -------
    ax : matplotlib Axes
        Logarithmic where the largest loss is more than 3 times the smallest, and that is positive.

    Raises
    ------
    ValueError
        The history has no epochs.

    Notes
    -----
    The training loss is the mean over an epoch during which the parameters move, and the validation loss belongs to the
    parameters at its end; in the first epochs the second may well be below the first.
    """
    if not len(history.loss):
        raise ValueError("history must have at least one epoch; got 0")
    ax = _drawing.new_axes(ax)
    _line(ax, history.loss, _TRAINING, "training")
    if len(history.validation_loss):
        _line(ax, history.validation_loss, _VALIDATION, "validation")
    losses = [*history.loss, *history.validation_loss]
    if base_loss is not None:
        ax.axhline(base_loss, color=_BEST, linewidth=1, linestyle="--", label="best constant", zorder=1)
        losses.append(base_loss)
    losses = [loss for loss in losses if math.isfinite(loss)] or [1.0]
    if 0 < _LOG_FROM * min(losses) < max(losses):
        _log_scale(ax, max(losses) / min(losses))
    ax.set_ylabel("loss")
    _style(ax, len(history.loss), best_epoch)
    return ax


def score_curve(scores, ax=None, name="score", best_epoch=None):
    """Validation score by epoch.

    Parameters
    ----------
    scores : sequence of float
        One for each epoch.
    ax : matplotlib Axes, optional
        Where to draw; default: a new figure of pyplot's.
    name : str, default "score"
        What the score is, for the axis: "accuracy".
    best_epoch : int, optional
        An epoch to mark, counted from 1.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        `scores` is empty.
    """
    if not len(scores):
        raise ValueError("scores must have at least one value; got 0")
    ax = _drawing.new_axes(ax)
    _line(ax, scores, _VALIDATION, "validation")
    ax.set_ylabel(name)
    _style(ax, len(scores), best_epoch)
    return ax


def rate_curve(test, ax=None):
    """Loss by learning rate, as a range test has found it.

    Parameters
    ----------
    test : RangeTest
        What `cymlp.learning_rate_range` returned.
    ax : matplotlib Axes, optional
        Where to draw; default: a new figure of pyplot's.

    Returns
    -------
    ax : matplotlib Axes
        Up to a little above the highest of the averages before the lowest one: beyond, losses only grow.
    """
    ax = _drawing.new_axes(ax)
    ax.plot(test.learning_rates, test.losses, color=_BEST, alpha=0.35, linewidth=0.8, label="minibatches", zorder=2)
    ax.plot(test.learning_rates, test.smoothed, color=_TRAINING, linewidth=1.6, label="average", zorder=3)
    if test.suggestion is not None:
        label = f"suggestion: {test.suggestion:.2g}"
        ax.axvline(test.suggestion, color=_VALIDATION, linewidth=1, linestyle=":", label=label, zorder=1)
    ax.set_xscale("log")
    lowest = int(test.smoothed.argmin())
    bottom, top = float(test.smoothed[lowest]), float(test.smoothed[: lowest + 1].max())
    if top > bottom:
        ax.set_ylim(min(bottom, float(test.losses.min())) - 0.05 * (top - bottom), top + 0.35 * (top - bottom))
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    _drawing.frame(ax)
    return ax


def save_learning_curves(path, history, scores=(), score_name="score", best_epoch=None, title=None):
    """Write `learning_curves`, and beside it `score_curve` where there are scores, to a .png, .svg or .pdf file.

    Needs no display, and leaves pyplot and its settings alone.  Raises ValueError for another suffix.
    """
    n_panels = 2 if len(scores) else 1
    check_suffix(path)
    figure, panels = new_figure(1, n_panels)
    learning_curves(history, panels[0, 0], best_epoch)
    if n_panels == 2:
        score_curve(scores, panels[0, 1], score_name, best_epoch)
    write(figure, path, title)


def save_rate_curve(path, test, title=None):
    """Write `rate_curve` to a file; needs no display, and refuses other suffixes, as `save_learning_curves`."""
    check_suffix(path)
    figure, panels = new_figure(1, 1)
    rate_curve(test, panels[0, 0])
    write(figure, path, title)


def check_suffix(path):
    """Raise ValueError where a picture cannot be written to such a file."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"path must end in {', '.join(SUFFIXES)}; got {str(path)!r}")


def new_figure(n_rows, n_columns):
    """A figure, none of pyplot's, and the array of its panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * n_columns, 3.6 * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def write(figure, path, title=None):
    """Save a figure of `new_figure`; a title that is too long for it is cut."""
    if title is not None:
        limit = int(_MAX_TITLE * figure.get_size_inches()[0] / 4.8)
        title = title if len(title) <= limit else f"{title[:limit]}..."
        figure.suptitle(title, fontsize="medium", parse_math=False)  # a name of a column may have a $
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the boxes in the picture say so
        figure.savefig(path, dpi=150)


def history_figure(history):
    """A panel for the losses, and one for each of metric, learning rate and gradient norm that the history has.

    Parameters
    ----------
    history : History
        With at least one epoch.

    Returns
    -------
    matplotlib Figure
        None of pyplot's: it needs no display.  A learning rate that never changes has no panel.
    """
    names = ("metric", "learning_rate", "gradient_norm")
    columns = {name: list(getattr(history, name, None) or ()) for name in names}
    if len(set(columns["learning_rate"])) == 1:
        columns["learning_rate"] = []
    columns = {name: values for name, values in columns.items() if values}
    figure, panels = new_figure(1, 1 + len(columns))
    first, *others = panels[0]
    learning_curves(history, first)
    for ax, (name, values) in zip(others, columns.items(), strict=True):
        label = name.replace("_", " ")
        _line(ax, values, _VALIDATION if name == "metric" else _OTHER, label)
        ax.set_ylabel(label)
        _style(ax, len(values), None)
    return figure

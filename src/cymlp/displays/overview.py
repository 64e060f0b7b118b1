"""All pictures of a health report in one figure."""

from .. import plots
from .by_layer import ActivationDisplay, ForecastDisplay, GradientFlowDisplay
from .by_step import DeadUnitsDisplay, LossCurveDisplay, UpdateRatioDisplay

__all__ = ["health_figure", "save_health_figure"]


def health_figure(report):
    """What a health report has seen: losses, gradients, activations, updates, dead units, and the forecast.

    Parameters
    ----------
    report : HealthReport

    Returns
    -------
    matplotlib Figure
        None of pyplot's: it needs no display.  What there is nothing to show of has no panel.
    """
    displays = [LossCurveDisplay] if len(report.evidence.history.get("loss") or ()) else []
    if len(report.records):
        displays += [GradientFlowDisplay, ActivationDisplay, UpdateRatioDisplay]
        displays += [DeadUnitsDisplay] if len(report.evidence.layer_sizes) > 2 else []
    displays += [ForecastDisplay]
    n_rows, n_columns = (1, len(displays)) if len(displays) < 4 else (2, (len(displays) + 1) // 2)
    figure, panels = plots.new_figure(n_rows, n_columns)
    for display, ax in zip(displays, panels.flat, strict=False):
        display.from_report(report, ax=ax)
    for ax in panels.flat[len(displays) :]:
        ax.remove()
    return figure


def save_health_figure(path, report, title=None):
    """Write `health_figure` to a .png, .svg or .pdf file.

    Parameters
    ----------
    path : path-like
    report : HealthReport
    title : str, optional

    Raises
    ------
    ValueError
        For another suffix.
    """
    plots.check_suffix(path)
    plots.write(health_figure(report), path, title)

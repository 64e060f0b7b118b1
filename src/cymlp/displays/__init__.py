"""Pictures of a network's health, in the manner of scikit-learn's Display classes.

`XDisplay.from_estimator(estimator)` draws what a fitted estimator has gone through, `from_report` and `from_history`
the same of a `HealthReport` and of what `MLP.train` returned.  Each keeps its numbers as attributes, and draws them
anew with `plot`.  matplotlib is imported when something is drawn.
"""

from .by_layer import ActivationDisplay, ForecastDisplay, GradientFlowDisplay
from .by_step import DeadUnitsDisplay, LossCurveDisplay, UpdateRatioDisplay
from .overview import health_figure, save_health_figure

__all__ = [
    "ActivationDisplay",
    "DeadUnitsDisplay",
    "ForecastDisplay",
    "GradientFlowDisplay",
    "LossCurveDisplay",
    "UpdateRatioDisplay",
    "health_figure",
    "save_health_figure",
]

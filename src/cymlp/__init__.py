"""cymlp: multilayer perceptrons on a CPU, trained and run by compiled kernels, verified against a NumPy reference."""

from importlib import import_module

from . import activations, initializers, losses, normalizations, optimizers
from .engine import show_config
from .history import DivergenceError
from .network import MLP

__all__ = [
    "MLP",
    "ActivationDisplay",
    "Checkpoint",
    "DeadUnitsDisplay",
    "DivergenceError",
    "EarlyStopping",
    "Forecast",
    "ForecastDisplay",
    "GradientFlowDisplay",
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPRegressor",
    "RangeTest",
    "UpdateRatioDisplay",
    "activations",
    "callbacks",
    "displays",
    "forecast",
    "from_sklearn",
    "initializers",
    "learning_rate_range",
    "losses",
    "normalizations",
    "optimizers",
    "presets",
    "schedules",
    "show_config",
]


# Imported when they are first asked for: scikit-learn, or what a prediction does not need, takes longer than the rest.
_LATER = {
    **dict.fromkeys(("MLPClassifier", "MLPRegressor", "from_sklearn"), "estimators"),
    **dict.fromkeys(("RangeTest", "learning_rate_range"), "rates"),
    **dict.fromkeys(("ActivationDisplay", "DeadUnitsDisplay", "ForecastDisplay"), "displays"),
    **dict.fromkeys(("GradientFlowDisplay", "LossCurveDisplay", "UpdateRatioDisplay"), "displays"),
    "Checkpoint": "checkpoints",
    "EarlyStopping": "stopping",
    **dict.fromkeys(("Forecast", "forecast"), "health.forecasting"),
}


def __getattr__(name):
    # Reading the installed version imports more than the whole library does.
    if name == "__version__":
        from importlib.metadata import version

        return version("cymlp")
    if name in _LATER:
        return getattr(import_module(f"cymlp.{_LATER[name]}"), name)
    if name in ("callbacks", "displays", "presets", "schedules"):
        return import_module(f"cymlp.{name}")
    raise AttributeError(f"module 'cymlp' has no attribute {name!r}")

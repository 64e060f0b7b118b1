"""cymlp: multilayer perceptrons on a CPU, trained and run by compiled kernels, verified against a NumPy reference."""

from . import activations, callbacks, initializers, losses, normalizations, optimizers, schedules
from .checkpoints import Checkpoint
from .engine import show_config
from .network import MLP
from .rates import RangeTest, learning_rate_range
from .stopping import EarlyStopping
from .training import DivergenceError

__all__ = [
    "MLP",
    "Checkpoint",
    "DivergenceError",
    "EarlyStopping",
    "MLPClassifier",
    "MLPRegressor",
    "RangeTest",
    "activations",
    "callbacks",
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


def __getattr__(name):
    # Reading the installed version imports more than the whole library does.
    if name == "__version__":
        from importlib.metadata import version

        return version("cymlp")
    # They import scikit-learn, which takes longer than the rest.
    if name in ("MLPClassifier", "MLPRegressor", "from_sklearn"):
        from . import estimators

        return getattr(estimators, name)
    if name == "presets":
        from importlib import import_module

        return import_module("cymlp.presets")
    raise AttributeError(f"module 'cymlp' has no attribute {name!r}")

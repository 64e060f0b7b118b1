"""cymlp: multilayer perceptrons on a CPU, trained and run by compiled kernels, verified against a NumPy reference."""

from importlib.metadata import version as _version

from . import activations, initializers, losses, optimizers
from .engine import show_config
from .network import MLP
from .training import DivergenceError

__version__ = _version("cymlp")
__all__ = ["MLP", "DivergenceError", "activations", "initializers", "losses", "optimizers", "show_config"]

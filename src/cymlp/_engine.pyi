# Types of the compiled engine.  What each name does is said in engine.py, and in reference.py under the same names.

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

# One dtype for all arrays of a call to a kernel; a network has its own, which its methods check when they run.
_Real = TypeVar("_Real", np.float32, np.float64)
_Reals: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
_Labels: TypeAlias = NDArray[np.int64]
_ISA: TypeAlias = Literal["baseline", "avx2", "avx512"]
_Normalization: TypeAlias = tuple[Literal["batch"], float, float] | tuple[Literal["layer"], float] | None

ACTIVATIONS: tuple[str, ...]
LOSSES: tuple[str, ...]

# Instruction sets and threads

def available_isas() -> tuple[_ISA, ...]: ...
def isa() -> _ISA: ...
def use_isa(name: str) -> _ISA: ...
def blocking(dtype: DTypeLike) -> dict[str, int]: ...
def max_threads() -> int: ...
def openmp_version() -> int: ...

# Kernels

def activate(name: str, Z: NDArray[_Real], slope: float = 0.01) -> NDArray[_Real]: ...
def activation_gradient(name: str, Z: NDArray[_Real], slope: float = 0.01) -> NDArray[_Real]: ...
def dense_forward(A: NDArray[_Real], W: NDArray[_Real], b: NDArray[_Real]) -> NDArray[_Real]: ...
def dense_backward(
    A: NDArray[_Real], W: NDArray[_Real], dZ: NDArray[_Real]
) -> tuple[NDArray[_Real], NDArray[_Real], NDArray[_Real]]: ...
def loss_and_gradient(
    loss: str,
    activation: str,
    Z: NDArray[_Real],
    y: NDArray[_Real] | _Labels,
    sample_weight: NDArray[_Real] | None = None,
    delta: float = 1.0,
    slope: float = 0.01,
    clip: float = 0.0,
) -> tuple[float, NDArray[_Real]]: ...
def dropout(A: NDArray[_Real], rate: float, seed: int, step: int, layer: int, first_row: int = 0) -> NDArray[_Real]: ...
def batch_norm(
    Z: NDArray[_Real],
    scale: NDArray[_Real],
    shift: NDArray[_Real],
    sample_weight: NDArray[_Real] | None = None,
    epsilon: float = 1e-5,
) -> tuple[NDArray[_Real], NDArray[_Real], NDArray[_Real]]: ...
def batch_norm_backward(
    dY: NDArray[_Real],
    Z: NDArray[_Real],
    scale: NDArray[_Real],
    sample_weight: NDArray[_Real] | None = None,
    epsilon: float = 1e-5,
) -> tuple[NDArray[_Real], NDArray[_Real], NDArray[_Real]]: ...
def layer_norm(
    Z: NDArray[_Real], scale: NDArray[_Real], shift: NDArray[_Real], epsilon: float = 1e-5
) -> NDArray[_Real]: ...
def layer_norm_backward(
    dY: NDArray[_Real], Z: NDArray[_Real], scale: NDArray[_Real], epsilon: float = 1e-5
) -> tuple[NDArray[_Real], NDArray[_Real], NDArray[_Real]]: ...
def update(
    rule: dict[str, Any],
    step: int,
    w: NDArray[_Real],
    g: NDArray[_Real],
    state: tuple[NDArray[_Real], NDArray[_Real]],
) -> None: ...
def sum_of_squares(w: _Reals) -> float: ...
def sum_of_magnitudes(w: _Reals) -> float: ...
def clip(g: NDArray[_Real], limit: float) -> NDArray[_Real]: ...
def limit_columns(W: NDArray[_Real], limit: float) -> NDArray[_Real]: ...

# Passes

class Network:
    def __new__(
        cls,
        layer_sizes: Sequence[int],
        activations: Sequence[tuple[str, float]],
        loss: tuple[str, float],
        dtype: DTypeLike,
        normalizations: Sequence[_Normalization] | None = None,
    ) -> Self: ...
    @property
    def dtype(self) -> np.dtype[np.float32] | np.dtype[np.float64]: ...
    def set_parameters(self, flat: _Reals, statistics: _Reals | None = None) -> None: ...
    def get_parameters(self, out: _Reals) -> None: ...
    def set_statistics(self, flat: _Reals) -> None: ...
    def get_statistics(self, out: _Reals) -> None: ...
    def is_finite(self) -> bool: ...
    def predict(self, X: _Reals, out: _Reals, n_threads: int = 1) -> None: ...
    def answer(self, X: object, out: object, threads: Callable[[float], int]) -> _Reals | None: ...
    def forward(self, X: _Reals, n_threads: int = 1) -> tuple[list[_Reals], list[_Reals]]: ...
    def clip_loss(self, clip: float) -> None: ...
    def gradients(
        self,
        X: _Reals,
        y: _Reals | _Labels,
        sample_weight: _Reals | None,
        out: _Reals,
        n_threads: int = 1,
        dropout: tuple[int, int, Sequence[float]] | None = None,
        record: NDArray[np.float64] | None = None,
    ) -> float: ...
    def reset_optimizer(self) -> None: ...
    def get_optimizer(self) -> tuple[str, int, _Reals | None, _Reals | None] | None: ...
    def set_optimizer(self, state: tuple[str, int, _Reals | None, _Reals | None] | None) -> None: ...
    def train_epoch(
        self,
        X: _Reals,
        y: _Reals | _Labels,
        sample_weight: _Reals | None,
        order: NDArray[np.int64] | None,
        batch_size: int,
        rule: dict[str, Any],
        n_threads: int = 1,
        losses: NDArray[np.float64] | None = None,
        norms: NDArray[np.float64] | None = None,
        watched: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
    ) -> tuple[float, int]: ...

"""What all tests share: the one table of tolerances, and fixtures for types, engines, instruction sets and threads.

A test never has a tolerance of its own.  It says how many terms its sums have and how large they are, and
`assert_close` multiplies: ``multiple of the kind * eps(dtype) * reduction_length * scale``.  Below the smallest normal
number eps means nothing, and the compiled engine flushes to zero: each term may be off by that number besides.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest


class Tolerance(NamedTuple):
    """Multiples of eps for each type, and why.  eps is the distance from 1 to the next number: two unit roundoffs."""

    float32: float
    float64: float
    reason: str


TOLERANCES = {
    "sum": Tolerance(
        1,
        1,
        "A sum of n products, in any order, is within n eps / 2 of the truth, relative to the sum of their magnitudes "
        "(Higham (2002), Accuracy and stability of numerical algorithms, section 3.1).  Both sides may be so far off.",
    ),
    "activation": Tolerance(
        8,
        8,
        "Compiled activations are stated to be within 4 ULP.  SciPy's are within 2 ULP where they do not underflow;"
        " a derivative made from them has two more roundings.",
    ),
    "loss": Tolerance(
        16,
        16,
        "The loss or the gradient of one output: an activation on both sides (2 x 4 ULP) and up to 8 roundings after "
        "it on each, relative to the largest number in its formula.  reduction_length: outputs that are summed.",
    ),
    "update": Tolerance(
        8,
        8,
        "Adam, the longest rule, rounds 15 times on the way to w: 15 x eps / 2, relative to |w| and the step.",
    ),
    "pass": Tolerance(
        8,
        8,
        "Through a network the errors of a layer (its sums and its activation, 4 ULP) enter the next one with weights "
        "that neither shrink nor grow them much, and add up, forward and then back.  reduction_length: the sum of all "
        "widths and of the rows; scale: the largest element, as an error reaches every element of the next layer.",
    ),
    "training": Tolerance(
        64,
        64,
        "Over several steps the errors of `pass` enter the parameters and, through them, all later gradients; Adam's "
        "division by sqrt(v) makes the errors of small gradients large ones.  reduction_length: that of `pass` times "
        "the number of steps.",
    ),
}

# Directional derivatives by Richardson-extrapolated central differences in float64, relative to the gradient's norm:
# the bound that the library promises for its gradients.  The differences themselves are good to about 1e-10.
CENTRAL_DIFFERENCE = 1e-7

# Statistics of random numbers must be within so many standard errors: for a normal distribution one test in 5e8 fails
# by chance, and as seeds are fixed it fails always or never.
STANDARD_ERRORS = 6


def assert_close(actual, desired, reduction_length, scale=None, *, kind="sum", dtype=None):
    """Raise AssertionError unless every |actual - desired| <= reduction_length * (multiple * eps * scale + tiny).

    Parameters
    ----------
    actual, desired : array-like
        Of one shape.  NaN must meet NaN, and infinity the same infinity.
    reduction_length : int
        How many terms the sums behind an element have; 1 where there are none.
    scale : array-like, optional
        The size of these terms: a number, or one for each element, such as ``abs(A) @ abs(W) + abs(b)``.
        None takes the largest finite element of `desired`.
    kind : str
        A key of `TOLERANCES`.
    dtype : numpy.dtype, optional
        In which the less precise side was computed.  None takes that of `actual`.
    """
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert actual.shape == desired.shape, f"shape {actual.shape} is not {desired.shape}"
    name = np.dtype(actual.dtype if dtype is None else dtype).name
    multiple, limits, terms = getattr(TOLERANCES[kind], name), np.finfo(name), max(1, reduction_length)
    actual, desired = actual.astype(np.float64), desired.astype(np.float64)
    finite = np.isfinite(desired)
    np.testing.assert_array_equal(actual[~finite], desired[~finite])
    if scale is None:
        scale = np.abs(desired[finite]).max(initial=0.0)
    scale = np.broadcast_to(np.asarray(scale, dtype=np.float64), desired.shape)[finite]
    bound = terms * (multiple * float(limits.eps) * scale + float(limits.tiny))
    error = np.abs(actual[finite] - desired[finite])
    wrong = ~(error <= bound)
    if wrong.any():
        worst = int(np.argmax(np.where(np.isnan(error), np.inf, error / bound)))
        index = tuple(int(i[worst]) for i in np.nonzero(finite))
        raise AssertionError(
            f"{int(wrong.sum())} of {desired.size} elements beyond {kind!r} in {name}, reduction length "
            f"{reduction_length}; worst at {index}: got {actual[index]!r}, expected {desired[index]!r}, "
            f"off by {error[worst]:.3g} where {bound[worst]:.3g} is allowed"
        )


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    """The numpy.dtype of everything at the seam."""
    return np.dtype(request.param)


@pytest.fixture
def rng():
    """A Generator with a fixed seed, new for each test."""
    return np.random.default_rng(20240229)


@pytest.fixture(params=["reference", "compiled"])
def engine_name(request):
    """The name of an engine, as `MLP` takes it."""
    return request.param


@pytest.fixture
def engine(engine_name):
    """The module that implements an engine."""
    from cymlp.engine import choose

    return choose(engine_name)


# What dispatch.c asks of the CPU, as Linux calls it.
_CPU_FLAGS = {
    "baseline": set(),
    "avx2": {"avx2", "fma"},
    "avx512": {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
}


def _cpu_flags():
    """The flags of the first CPU in /proc/cpuinfo; empty where there is no such file or line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request):
    """The instruction set that the compiled engine uses during this test."""
    from cymlp import _engine

    if request.param not in _engine.available_isas():
        cap = os.environ.get("CYMLP_ISA")
        if cap is not None:
            pytest.skip(f"CYMLP_ISA={cap} leaves {request.param} out")
        assert not _CPU_FLAGS[request.param] <= _cpu_flags(), (
            f"this CPU has {request.param}, but the engine does not use it"
        )
        pytest.skip(f"this CPU has no {request.param}")
    previous = _engine.use_isa(request.param)
    yield request.param
    _engine.use_isa(previous)


@pytest.fixture(params=[1, 2, 3, 7])
def n_threads(request):
    """Threads of a call: one, the usual, an odd number, and more than small work has pieces for."""
    return request.param

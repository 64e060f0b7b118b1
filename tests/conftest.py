"""What all tests share: the one table of tolerances, and fixtures for types, engines, instruction sets and threads.

A test never has a tolerance of its own.  It says how many terms its sums have and how large they are, and
`assert_close` multiplies: ``multiple of the kind * eps(dtype) * growth(reduction_length) * scale``.  `assert_ulps`
holds activations to what their kernels state.  Below the smallest normal number eps means nothing, and the compiled
engine flushes to zero: each term may be off by that number besides.
"""

import doctest
import itertools
import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cymlp import MLP, _engine, activations, losses
from cymlp.engine import choose


class Tolerance(NamedTuple):
    """Multiples of eps for each type, how they grow with the reduction length, and why.

    eps is the distance from 1 to the next number: two unit roundoffs.
    """

    float32: float
    float64: float
    growth: str
    reason: str


TOLERANCES = {
    "sum": Tolerance(
        1,
        1,
        "linear",
        "A sum of n products, in any order, is within n eps / 2 of the truth, relative to the sum of their magnitudes "
        "(Higham (2002), Accuracy and stability of numerical algorithms, section 3.1).  Both sides may be so far off.",
    ),
    "product": Tolerance(
        2,
        2,
        "root",
        "Rounding errors are as good as random: a sum of n products is off by a small multiple of sqrt(n) eps, relative"
        " to the root of the sum of their squares where their signs vary, and to the sum of their magnitudes in any "
        "case (Higham & Mary (2019), A new approach to probabilistic rounding error analysis, theorem 3.1).  "
        "reduction_length: the longest chain of additions.",
    ),
    "activation": Tolerance(
        4,
        4,
        "linear",
        "SciPy's activations are within 2 ULP where they do not underflow, and a derivative made from them has two more"
        " roundings; so has a softmax.",
    ),
    "loss": Tolerance(
        8,
        8,
        "linear",
        "The loss or the gradient of one output: an activation (4 ULP) and up to 8 roundings after it, relative to the "
        "largest number in its formula.  reduction_length: outputs that are summed.",
    ),
    "update": Tolerance(
        8,
        8,
        "linear",
        "Adam, the longest rule, rounds 15 times on the way to w: 15 x eps / 2, relative to |w| and the step.",
    ),
    "pass": Tolerance(
        3,
        3,
        "root",
        "Errors of a layer are those of `product` and of its activation.  Weights that keep the size of activations "
        "keep that of errors, too, so the layers' errors add up, forward and back.  reduction_length: all widths and "
        "the rows; scale: the largest root of a sum of squares in a layer.",
    ),
    "training": Tolerance(
        2,
        2,
        "root",
        "The errors of `pass` enter the parameters with the learning rate, once in each step, and through them all "
        "later gradients.  reduction_length: that of `pass` times the number of steps; scale: the parameters and what "
        "the steps can add to them.",
    ),
}


class Accuracy(NamedTuple):
    """How far an activation's kernel may be from the truth, in ULP of the result, for (float32, float64).

    activation_template.h states the same figures: the largest errors that were measured there, rounded up.
    """

    value: tuple
    slope: tuple
    # Where the derivative is a difference of larger numbers, its error is counted in eps / 2 instead.
    cancels: tuple = (math.inf, -math.inf)
    absolute: tuple = (0, 0)


ULP_CEILING = 4

ACCURACY = {
    "identity": Accuracy((0, 0), (0, 0)),
    "relu": Accuracy((0, 0), (0, 0)),
    "leaky_relu": Accuracy((0.5, 0.5), (0, 0)),  # one product
    "exp": Accuracy((1.1, 1.1), (1.1, 1.1)),
    # a (1 - a) for z < 0: the error of a and two roundings.  For z > 0 that of 1 - a has the size of that of a.
    "sigmoid": Accuracy((2.5, 2.5), (3.7, 3.7), (0, math.inf), (1.6, 1.6)),
    # 1 - a^2: twice the error of a.
    "tanh": Accuracy((2.2, 2.5), (0, 0), (-math.inf, math.inf), (4.4, 5.0)),
    # a + 1.
    "elu": Accuracy((1.1, 1.3), (0, 0), (-math.inf, 0), (1.0, 1.3)),
    # 1 - exp(-a): at most the error of a, and expm1's.
    "softplus": Accuracy((2.9, 3.0), (3.9, 3.9)),
    "silu": Accuracy((3.3, 3.2), (3.9, 3.7), (-3, -0.5), (1.3, 1.3)),
    "gelu": Accuracy((3.5, 4.0), (3.6, 3.8), (-1.5, -0.2), (1.2, 1.7)),
}

# Directional derivatives by Richardson-extrapolated central differences in float64, relative to the gradient's norm:
# the bound that the library promises for its gradients.  The differences themselves are good to about 1e-10.
CENTRAL_DIFFERENCE = 1e-7

# What the estimators promise: each number of a training run in float64 is scikit-learn's, relative to it, and each
# weight relative to the largest of its layer.
SAME_NUMBERS = 1e-6

# Statistics of random numbers must be within so many standard errors: for a normal distribution one test in 5e8 fails
# by chance, and as seeds are fixed it fails always or never.
STANDARD_ERRORS = 6

# How soon Ctrl-C is promised to be answered: two slices of 20 ms, and what Python does around them.
INTERRUPT_SECONDS = 0.05


def assert_close(actual, desired, reduction_length, scale=None, *, kind="sum", dtype=None):
    """Raise AssertionError unless every |actual - desired| <= growth * (multiple * eps * scale + tiny).

    growth is reduction_length or its root, as the kind says.

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
    terms = math.sqrt(terms) if TOLERANCES[kind].growth == "root" else terms
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
        index = tuple(int(i[worst]) for i in np.nonzero(np.atleast_1d(finite)))
        raise AssertionError(
            f"{int(wrong.sum())} of {desired.size} elements beyond {kind!r} in {name}, reduction length "
            f"{reduction_length}; worst at {index}: got {np.atleast_1d(actual)[index]!r}, "
            f"expected {np.atleast_1d(desired)[index]!r}, "
            f"off by {error[worst]:.3g} where {bound[worst]:.3g} is allowed"
        )


def assert_ulps(actual, exact, ulps, absolute=0.0):
    """Raise AssertionError unless every |actual - exact| <= ulps * ULP(exact) + absolute * eps / 2.

    Parameters
    ----------
    actual : ndarray
        Its dtype decides what an ULP is.
    exact : ndarray
        The same shape in a longer type.  NaN must meet NaN; numbers below the smallest normal one count as zero, and
        what is too large may be infinite.
    ulps : float
    absolute : float or ndarray
    """
    limits = np.finfo(actual.dtype)
    tiny, largest, eps = (exact.dtype.type(value) for value in (limits.tiny, limits.max, limits.eps))
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(exact))
    beyond = np.abs(exact) > largest
    np.testing.assert_array_equal(np.sign(actual[beyond]), np.sign(exact[beyond]))
    assert (np.abs(actual[beyond]) >= limits.max).all()
    counted = (np.abs(exact) <= largest) & ~((np.abs(actual) < limits.tiny) & (np.abs(exact) < 2 * tiny))
    exact, got = exact[counted], actual[counted].astype(exact.dtype)
    unit = np.exp2(np.floor(np.log2(np.maximum(np.abs(exact), tiny)))) * eps
    allowed = ulps * unit + np.broadcast_to(absolute, counted.shape)[counted] * eps / 2
    error = np.abs(got - exact)
    wrong = ~(error <= allowed)
    if wrong.any():
        worst = int(np.argmax(np.where(np.isnan(error), np.inf, error / np.maximum(allowed, unit))))
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.size} beyond {ulps} ULP; worst (number {np.flatnonzero(counted)[worst]}): "
            f"got {got[worst]!r}, expected {exact[worst]!r}, off by {float(error[worst] / unit[worst]):.2f} ULP"
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


@pytest.fixture
def widths(isa, dtype):
    """Numbers of columns about the kernels' own: one less and one more than a vector and a panel, and with tails."""
    sizes = _engine.blocking(dtype)
    lanes, panel = sizes["lanes"], sizes["panel"]
    return sorted({1, lanes - 1, lanes, lanes + 1, panel - 1, panel, panel + 1, panel + lanes + 1, 2 * panel + 3} - {0})


def run_python(code, **environment):
    """Run code in a process of its own and return what it printed; its failure is the test's."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_examples(page):
    """Run the Python in a Markdown file, block after block with the same names: code, or a session with its output."""
    blocks = re.findall(r"^```(?:python|pycon)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    names = {"__name__": page.stem}
    for number, block in enumerate(blocks):
        title = f"{page.name} block {number}"
        if block.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block, names, title, str(page), 0)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            runner.run(test, clear_globs=False)
            assert runner.failures == 0
            names.update(test.globs)
        else:
            exec(compile(block, title, "exec"), names)


def is_legal(loss, output):
    """Whether a loss goes with an output activation, by the registry of losses."""
    try:
        losses.check_pair(losses.Loss(loss), activations.Activation(output))
    except ValueError:
        return False
    return True


PAIRS = [pair for pair in itertools.product(losses.LOSSES, activations.ACTIVATIONS) if is_legal(*pair)]


def draw_targets(rng, loss, rows, columns, dtype, labels=False):
    """Targets in the range of a loss; rows of them that do not sum to 1, too."""
    if labels:
        return rng.integers(0, columns, rows)
    if loss == "poisson":
        return rng.poisson(1.5, (rows, columns)).astype(dtype)
    return rng.random((rows, columns)).astype(dtype)


def draw_parameters(rng, sizes, dtype):
    """Parameters with which a layer's sums are of the order of 1."""
    pieces = []
    for n_in, n_out in itertools.pairwise(sizes):
        pieces += [rng.normal(0, 1 / np.sqrt(n_in), n_in * n_out), rng.normal(0, 0.1, n_out)]
    return np.concatenate(pieces).astype(dtype)


def layer_views(flat, sizes):
    """Views (W, b) into a flat vector, for each layer."""
    views, start = [], 0
    for n_in, n_out in itertools.pairwise(sizes):
        middle, end = start + n_in * n_out, start + (n_in + 1) * n_out
        views.append((flat[start:middle].reshape(n_in, n_out), flat[middle:end]))
        start = end
    return views


def classifier_data(rows=64, columns=20, classes=3):
    """X in float32, and labels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, columns)).astype(np.float32), rng.integers(0, classes, rows)


def classifier(n_threads=2, sizes=(20, 100, 3)):
    """An MLP in float32, the same one each time."""
    return MLP(sizes, output_activation="softmax", dtype=np.float32, n_threads=n_threads, random_state=0)

"""Each kernel on one thread, the compiled engine beside the reference in one group.

A kernel called alone checks its arguments, copies matrices into the padded layout and back, and allocates its result,
which passes do not; the rows of ``identity`` and ``sgd`` show what that costs.  The speed of the library is that of
``bench_training.py``.
"""

import numpy as np
import pytest

from cymlp import _engine, _random, activations, losses, optimizers, reference

ENGINES = {"reference": reference, "compiled": _engine}
DTYPES = {"float32": np.float32, "float64": np.float64}
# Results and copies of at most 128 KiB in float32: beyond that memory fresh from the system is most of the time.
ROWS, N_IN, N_OUT, N_PARAMETERS = 128, 128, 256, 16384

# For each loss an output activation that it goes with.
OUTPUTS = {name: definition.output_activation or "identity" for name, definition in losses.LOSSES.items()}
OUTPUTS["poisson"] = "exp"

SHUFFLES = {"numpy": lambda order, random_state: random_state.shuffle(order), "compiled": _random.shuffle}

RULES = [
    optimizers.SGD(),
    optimizers.SGD(momentum=0.9),
    optimizers.SGD(momentum=0.9, nesterov=True),
    optimizers.RMSprop(),
    optimizers.Adam(),
    optimizers.AdamW(),
]


@pytest.fixture(params=ENGINES)
def engine(request, limit_blas):
    limit_blas(1)
    return ENGINES[request.param]


@pytest.fixture(params=DTYPES)
def dtype(request):
    return DTYPES[request.param]


def _normal(dtype, *shape):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _group(benchmark, what, dtype, *shape):
    """Name the group of a bench: the same for both engines."""
    benchmark.group = f"{what} {np.dtype(dtype).name} {'x'.join(map(str, shape))}"


def _rule_name(optimizer):
    rule = optimizer.rule()
    if rule["name"] != "sgd" or rule["momentum"] == 0:
        return rule["name"]
    return "nesterov" if rule["nesterov"] else "momentum"


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def bench_activate(benchmark, engine, dtype, name):
    _group(benchmark, f"activate {name}", dtype, ROWS, N_OUT)
    benchmark(engine.activate, name, _normal(dtype, ROWS, N_OUT))


@pytest.mark.parametrize("name", [name for name in activations.ACTIVATIONS if name != "softmax"])
def bench_activation_gradient(benchmark, engine, dtype, name):
    _group(benchmark, f"activation_gradient {name}", dtype, ROWS, N_OUT)
    benchmark(engine.activation_gradient, name, _normal(dtype, ROWS, N_OUT))


def bench_dense_forward(benchmark, engine, dtype):
    _group(benchmark, "dense_forward", dtype, ROWS, N_IN, N_OUT)
    benchmark.extra_info["flops"] = 2 * ROWS * N_IN * N_OUT
    benchmark(engine.dense_forward, _normal(dtype, ROWS, N_IN), _normal(dtype, N_IN, N_OUT), _normal(dtype, N_OUT))


def bench_dense_backward(benchmark, engine, dtype):
    _group(benchmark, "dense_backward", dtype, ROWS, N_IN, N_OUT)
    benchmark.extra_info["flops"] = 4 * ROWS * N_IN * N_OUT
    arguments = _normal(dtype, ROWS, N_IN), _normal(dtype, N_IN, N_OUT), _normal(dtype, ROWS, N_OUT)
    benchmark(engine.dense_backward, *arguments)


@pytest.mark.parametrize("loss", losses.LOSSES)
def bench_loss_and_gradient(benchmark, engine, dtype, loss):
    _group(benchmark, f"loss_and_gradient {loss}", dtype, ROWS, 10)
    y = np.random.default_rng(1).random((ROWS, 10)).astype(dtype)
    benchmark(engine.loss_and_gradient, loss, OUTPUTS[loss], _normal(dtype, ROWS, 10), y)


@pytest.mark.parametrize("optimizer", RULES, ids=_rule_name)
def bench_update(benchmark, engine, dtype, optimizer):
    _group(benchmark, f"update {_rule_name(optimizer)}", dtype, N_PARAMETERS)
    w, g, *state = (_normal(dtype, N_PARAMETERS) ** 2 for _ in range(4))
    benchmark(engine.update, optimizer.rule(), 1, w, g, tuple(state))


def bench_dropout(benchmark, engine, dtype):
    _group(benchmark, "dropout", dtype, ROWS, N_OUT)
    benchmark(engine.dropout, _normal(dtype, ROWS, N_OUT), 0.5, 1, 1, 1)


@pytest.mark.parametrize("kind", ["batch_norm", "layer_norm"])
def bench_normalization(benchmark, engine, dtype, kind):
    _group(benchmark, kind, dtype, ROWS, N_OUT)
    scale, shift = _normal(dtype, 2, N_OUT)
    benchmark(getattr(engine, kind), _normal(dtype, ROWS, N_OUT), scale, shift)


@pytest.mark.parametrize("kind", ["batch_norm_backward", "layer_norm_backward"])
def bench_normalization_backward(benchmark, engine, dtype, kind):
    _group(benchmark, kind, dtype, ROWS, N_OUT)
    dY, Z = _normal(dtype, 2, ROWS, N_OUT)
    benchmark(getattr(engine, kind), dY, Z, _normal(dtype, N_OUT))


@pytest.mark.parametrize("name", ["sum_of_squares", "sum_of_magnitudes"])
def bench_sums(benchmark, engine, dtype, name):
    _group(benchmark, name, dtype, N_PARAMETERS)
    benchmark(getattr(engine, name), _normal(dtype, N_PARAMETERS))


def bench_clip(benchmark, engine, dtype):
    _group(benchmark, "clip", dtype, N_PARAMETERS)
    benchmark(engine.clip, _normal(dtype, N_PARAMETERS), 0.5)


def bench_limit_columns(benchmark, engine, dtype):
    _group(benchmark, "limit_columns", dtype, N_IN, N_OUT)
    benchmark(engine.limit_columns, _normal(dtype, N_IN, N_OUT), 10.0)


@pytest.mark.parametrize("name", SHUFFLES)
@pytest.mark.parametrize("n", [150, 1437, 20_000, 1_000_000])
def bench_shuffle(benchmark, name, n):
    _group(benchmark, "shuffle", np.int64, n)
    benchmark(SHUFFLES[name], np.arange(n), np.random.RandomState(0))

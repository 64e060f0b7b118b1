"""A training epoch and predictions in float32: the compiled engine beside the reference in one group.

Beside these, in a group with plain ones, epochs of the compiled engine with dropout, normalisation and the like, and
predictions of normalised networks.
"""

import dataclasses

import numpy as np
import pytest

import cymlp

from . import predictors, trainers
from .cases import FEATURED, FEATURES, PREDICTED_FEATURES, TRAINED, parse

STEPS = 32  # of an epoch: enough for what is done once a call not to count

# Those that the reference trains in a second: `python -m bench` times the larger ones.
CASES = [case for case in map(parse, TRAINED) if case.flops_per_step < 1e9]

# Engine and threads of it, None for as many as it chooses; NumPy's BLAS has as many for the reference.
WAYS = {
    "reference-2": ("reference", 2),
    "compiled-1": ("compiled", 1),
    "compiled-2": ("compiled", 2),
    "compiled-auto": ("compiled", None),
}


@pytest.fixture(params=WAYS)
def way(request, limit_blas):
    engine, n_threads = WAYS[request.param]
    limit_blas(n_threads)
    return engine, n_threads


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


def _network(case, way):
    name, n_threads = way
    network = cymlp.MLP(
        case.sizes, output_activation="softmax", initializer="zeros", dtype=np.float32, n_threads=n_threads, engine=name
    )
    network.parameters = case.parameters()
    return network


def bench_epoch(benchmark, way, case):
    """`MLP.train` for one epoch of STEPS minibatches in order, Adam; a row's time over STEPS is that of a step."""
    benchmark.group = f"epoch of {STEPS} steps, {case}"
    benchmark.extra_info.update(steps=STEPS, flops=STEPS * case.flops_per_step, parameters=case.n_parameters)
    network = _network(case, way)
    X, y = case.data(STEPS * case.batch)
    arguments = {"epochs": 1, "batch_size": case.batch, "learning_rate": case.rate, "shuffle": False, "resume": True}
    benchmark(network.train, X, y, **arguments)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("name", FEATURED)
@pytest.mark.parametrize("n_threads", [1, 2])
def bench_epoch_with(benchmark, n_threads, name, feature):
    """The same with one feature: the row of ``plain`` is what a step costs without."""
    case = dataclasses.replace(parse(name), feature=feature)
    benchmark.group = f"epoch of {STEPS} steps with features, {case}, {n_threads} threads"
    benchmark.extra_info.update(steps=STEPS, flops=STEPS * case.flops_per_step, parameters=case.n_parameters)
    X, y = case.data(STEPS * case.batch)
    benchmark(trainers.train_cymlp(case, case.parameters(), X, y, n_threads), 1)


@pytest.mark.parametrize("rows", [1, 1024])
def bench_predict(benchmark, way, case, rows):
    """`MLP.predict` from NumPy to NumPy, checks of the data included."""
    benchmark.group = f"predict {rows} rows at a time, {case.network}"
    benchmark.extra_info.update(flops=rows * case.flops_per_row, parameters=case.n_parameters)
    network = _network(case, way)
    X, _ = case.data(rows)
    benchmark(network.predict, X, out=np.empty((rows, case.sizes[-1]), np.float32))


@pytest.mark.parametrize("rows", [1, 1024])
@pytest.mark.parametrize("feature", PREDICTED_FEATURES)
@pytest.mark.parametrize("name", FEATURED)
@pytest.mark.parametrize("n_threads", [1, 2])
def bench_predict_with(benchmark, n_threads, name, feature, rows):
    """The same with normalised layers: the row of ``plain`` is what a prediction costs without."""
    case = dataclasses.replace(parse(name), feature=feature)
    benchmark.group = f"predict {rows} rows at a time with features, {case.network}, {n_threads} threads"
    benchmark.extra_info.update(flops=rows * case.flops_per_row, parameters=case.n_parameters)
    X, _ = case.data(rows)
    [(predict, argument)] = predictors.predict_cymlp(case, case.parameters(), [X], n_threads)
    benchmark(predict, argument)

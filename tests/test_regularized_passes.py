"""Dropout, clipping, penalties and limits in every kind of pass: halves, blocks of weights, parts, stages.

`test_same_features.py` goes through combinations on small data; here sizes decide which way a step takes.
"""

import numpy as np
import pytest
from conftest import assert_close, draw_parameters

from cymlp import _engine, optimizers, reference

# Layers, rows of an epoch, and of a minibatch: halves of several tiles; blocks of weights; several parts.
PASSES = {
    "halves": ((16, 24, 5), 1300, 600),
    "blocks": ((70, 300, 200, 5), 300, 140),
    "parts": ((64, 32, 40, 5), 9000, 7000),
}
REGIMES = {
    "clip_norm": {"clip_norm": 0.1},
    "clip_layer_norm and max_norm": {"clip_layer_norm": 0.05, "max_norm": 0.5},
    "clip_value and l1": {"clip_value": 1e-3, "l1": 0.01, "penalize_biases": True},
    "dropout and clip_norm": {"dropout": 0.3, "clip_norm": 0.1},
    "dropout and l2": {"dropout": 0.3, "l2": 0.1, "max_norm": 0.5},
    "decay": {"weight_decay": 0.1, "alpha": 0.5},
}


def _train(engine, sizes, rows, batch, regime, n_threads, dtype, normalization=None):
    """Losses, norms, parameters and statistics after two epochs."""
    rng = np.random.default_rng(4)
    depth = len(sizes) - 1
    normalizations = [normalization] * (depth - 1) + [None]
    layers = [("tanh", 0.0)] * (depth - 1) + [("softmax", 0.0)]
    network = engine.Network(sizes, layers, ("categorical_cross_entropy", 1.0), dtype, normalizations)
    parts = []
    for n_in, n_out, one in zip(sizes, sizes[1:], normalizations, strict=False):
        parts += [draw_parameters(rng, (n_in, n_out), dtype), np.ones(n_out if one else 0, dtype)]
    flat = np.concatenate(parts)
    network.set_parameters(flat)
    X, y = rng.standard_normal((rows, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], rows)
    weight, order = rng.uniform(0.5, 2, rows).astype(dtype), rng.permutation(rows)
    rule = optimizers.SGD(0.1, 0.9).rule() | regime
    if "dropout" in regime:
        rule |= {"dropout": [regime["dropout"]] * depth, "seed": 2**63 + 11}
    n_batches = -(-rows // batch)
    losses, norms = np.zeros((n_batches, 2)), np.zeros(n_batches)
    for _ in range(2):
        _, failed = network.train_epoch(X, y, weight, order, batch, rule, n_threads, losses=losses, norms=norms)
        assert failed == -1
    network.get_parameters(flat)
    statistics = np.empty(
        sum(2 * n for n in sizes[1:-1]) if normalization and normalization[0] == "batch" else 0, dtype
    )
    network.get_statistics(statistics)
    return losses, norms, flat, statistics


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("kind", PASSES)
def test_every_kind_of_pass_does_what_the_reference_does(kind, regime):
    arguments = (*PASSES[kind], REGIMES[regime])
    desired = _train(reference, *arguments, 1, np.float64)
    results = [_train(_engine, *arguments, n_threads, np.float64) for n_threads in (1, 2, 3)]
    for got, wanted in zip(results[0], desired, strict=True):
        assert_close(got, wanted, PASSES[kind][2], kind="product")
    for other in results[1:]:
        assert [part.tobytes() for part in other] == [part.tobytes() for part in results[0]]


@pytest.mark.parametrize("normalization", [("batch", 1e-5, 0.1), ("layer", 1e-5)], ids=lambda one: one[0])
@pytest.mark.parametrize(("rows", "batch"), [(16, 16), (33, 17), (700, 400), (257, 128)])
def test_stages_have_the_same_bits_for_any_number_of_threads(isa, dtype, normalization, rows, batch):
    """Chunks of 16 rows, tiles of whole chunks, and a last minibatch of one row."""
    regime = REGIMES["dropout and clip_norm"]
    results = [_train(_engine, (9, 70, 33, 4), rows, batch, regime, n, dtype, normalization) for n in (1, 2, 5, -2)]
    for other in results[1:]:
        assert [part.tobytes() for part in other] == [part.tobytes() for part in results[0]]


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("clip", ["clip_norm", "clip_layer_norm"])
def test_a_gradient_without_a_norm_ends_an_epoch_before_the_update(kind, clip):
    """The loss of these rows is finite in float32, their gradient's norm is not."""
    sizes, rows, batch = PASSES[kind]
    network = _engine.Network((sizes[0], 4, 1), [("identity", 0.0)] * 2, ("absolute_error", 1.0), np.float32)
    flat = np.full((sizes[0] + 1) * 4 + 5, 1e-3, np.float32)
    network.set_parameters(flat)
    X, y = np.zeros((rows, sizes[0]), np.float32), np.zeros((rows, 1), np.float32)
    X[batch:] = 1e25
    norms = np.zeros(-(-rows // batch))
    rule = optimizers.SGD(1e-30).rule() | {clip: 1.0}
    loss, failed = network.train_epoch(X, y, None, None, batch, rule, 2, norms=norms)
    assert (np.isfinite(loss), failed) == (True, 1)
    assert np.isinf(norms[1])
    network.get_parameters(flat)
    assert np.isfinite(flat).all()

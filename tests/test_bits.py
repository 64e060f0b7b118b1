"""Results have the same bits for any number of threads, any other rows in a call, and rows put in order before."""

import itertools

import numpy as np
import pytest
from conftest import PAIRS, draw_parameters, draw_targets

from cymlp import _engine, optimizers

CROSS_ENTROPY = ("categorical_cross_entropy", 1.0)


def _classifier(rng, sizes, hidden, dtype):
    layers = [(hidden, 0.2)] * (len(sizes) - 2) + [("softmax", 0.0)]
    network = _engine.Network(sizes, layers, CROSS_ENTROPY, dtype)
    network.set_parameters(draw_parameters(rng, sizes, dtype))
    return network


def _parameters_of(network, sizes, dtype):
    flat = np.empty(sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes)), dtype)
    network.get_parameters(flat)
    return flat


def _train_bits(sizes, hidden, dtype, rows, batch, n_threads, epochs=2):
    rng = np.random.default_rng(3)
    engine = _classifier(rng, sizes, hidden, dtype)
    X, y = rng.standard_normal((rows, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], rows)
    w = rng.uniform(0, 2, rows).astype(dtype)
    gradient = _parameters_of(engine, sizes, dtype)
    history = [engine.gradients(X, y, w, gradient, n_threads)]
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(rows).astype(np.int64)
        history.append(engine.train_epoch(X, y, w, order, batch, optimizers.Adam().rule(), n_threads))
    return history, gradient.tobytes(), _parameters_of(engine, sizes, dtype).tobytes()


@pytest.mark.parametrize("hidden", ["relu", "tanh", "gelu"])
def test_training_has_the_same_bits_for_any_number_of_threads(isa, dtype, hidden):
    for sizes, rows, batch in (((20, 100, 2), 150, 47), ((70, 33, 65, 10), 300, 128), ((5, 1, 3), 9, 4)):
        single = _train_bits(sizes, hidden, dtype, rows, batch, 1)
        for n_threads in (2, 3, 7, -2):
            assert _train_bits(sizes, hidden, dtype, rows, batch, n_threads) == single


def test_training_in_parts_of_minibatches_has_the_same_bits_for_any_number_of_threads(isa, dtype):
    single = _train_bits((120, 330, 40), "relu", dtype, 1300, 649, 1, epochs=1)
    for n_threads in (2, 3, -2):
        assert _train_bits((120, 330, 40), "relu", dtype, 1300, 649, n_threads, epochs=1) == single


def test_prediction_of_a_row_does_not_depend_on_the_other_rows(isa, dtype, rng):
    for sizes in ((3, 1, 2), (17, 65, 7), (49, 63, 131, 5)):
        engine = _classifier(rng, sizes, "tanh", dtype)
        X = rng.standard_normal((301, sizes[0])).astype(dtype)
        whole = np.empty((301, sizes[-1]), dtype)
        engine.predict(X, whole, 1)
        for first, last, n_threads in ((0, 1, 1), (150, 151, 2), (300, 301, 1), (3, 9, 3), (0, 128, 2), (129, 301, 7)):
            part = np.empty((last - first, sizes[-1]), dtype)
            engine.predict(X[first:last], part, n_threads)
            assert part.tobytes() == whole[first:last].tobytes()
        for n_threads in (1, 2, 3, 7):
            assert engine.forward(X, n_threads)[1][-1].tobytes() == whole.tobytes()


# Outputs about the 8 up to which a row of a softmax lies across vectors, and the 16 up to which rows are put together.
@pytest.mark.parametrize("outputs", [1, 3, 8, 9, 16, 17, 40])
@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_loss_and_gradient_of_a_row_do_not_depend_on_the_other_rows(isa, dtype, rng, loss, output, outputs):
    """Rows are taken in blocks of at most 16; a weight of 1 at one row and of 0 at others shows it alone."""
    Z = rng.normal(0, 3, (35, outputs)).astype(dtype)
    for labels in (False, True) if output == "softmax" else (False,):
        y = draw_targets(rng, loss, 35, outputs, dtype, labels)
        for row in (0, 1, 15, 16, 31, 33, 34):
            weights = np.zeros(35, dtype)
            weights[row] = 1
            value, dZ = _engine.loss_and_gradient(loss, output, Z, y, weights)
            alone, dz = _engine.loss_and_gradient(loss, output, Z[row : row + 1], y[row : row + 1])
            assert value == alone
            assert dZ[row].tobytes() == dz[0].tobytes()
            assert not np.delete(dZ, row, axis=0).any()


@pytest.mark.parametrize("outputs", [1, 3, 8, 9, 16, 17, 40])
def test_softmax_of_a_row_does_not_depend_on_the_other_rows(isa, dtype, rng, outputs):
    Z = rng.normal(0, 3, (35, outputs)).astype(dtype)
    whole = _engine.activate("softmax", Z)
    for first, last in ((0, 1), (3, 5), (15, 31), (16, 33), (34, 35)):
        assert _engine.activate("softmax", Z[first:last]).tobytes() == whole[first:last].tobytes()


def test_order_of_rows_is_followed(isa, dtype, rng):
    """An epoch in an order has the bits of the epoch over rows that were put into this order before."""
    X, y = rng.standard_normal((50, 6)).astype(dtype), rng.integers(0, 3, 50)
    order = rng.permutation(50).astype(np.int64)
    results = []
    for arguments in ((X, y, None, order), (np.ascontiguousarray(X[order]), y[order], None, None)):
        engine = _classifier(np.random.default_rng(1), (6, 10, 3), "relu", dtype)
        loss = engine.train_epoch(*arguments, 8, optimizers.Adam().rule())
        results.append((loss, _parameters_of(engine, (6, 10, 3), dtype).tobytes()))
    assert results[0] == results[1]

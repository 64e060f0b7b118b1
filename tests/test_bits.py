"""Results have the same bits for any number of threads, any other rows in a call, and rows put in order before."""

import itertools

import numpy as np
import pytest
from conftest import draw_parameters

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

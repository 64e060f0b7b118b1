"""Predictions: the ways a call can take have the same bits, and refuse the same data, with the same words."""

import signal
import threading

import numpy as np
import pytest
from conftest import assert_close, classifier, classifier_data, draw_parameters

import cymlp
from cymlp import _engine

OUTPUTS = {"softmax": "categorical_cross_entropy", "identity": "squared_error", "tanh": "squared_error"}


def _network(rng, sizes, dtype, output="softmax"):
    layers = [("relu", 0.0)] * (len(sizes) - 2) + [(output, 0.0)]
    network = _engine.Network(sizes, layers, (OUTPUTS[output], 1.0), dtype)
    network.set_parameters(draw_parameters(rng, sizes, dtype))
    return network


def _shapes(dtype):
    """Widths about as many panels as are streamed at once, and as threads share; depths about a block of sums."""
    panel = _engine.blocking(dtype)["panel"]
    return [
        (3, 1),
        (5, 4 * panel, 2 * panel),
        (1, 4 * panel + 1, 2 * panel - 1, 3),
        (1025, 9 * panel + 3, 8 * panel - 1),
        (2050, 3 * panel, 7),
    ]


def _at_once(n_threads):
    """What `answer` asks for a number of threads."""
    return lambda flops: n_threads


# ---- Bits ----


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_way_has_the_same_bits(isa, dtype, output, rng):
    """Alone or in threads that share rows or columns, few rows or many, at once or with everything checked."""
    for sizes in _shapes(dtype):
        network = _network(rng, sizes, dtype, output)
        X = rng.standard_normal((140, sizes[0])).astype(dtype)
        whole = network.forward(X)[1][-1]
        for rows in (1, 2, 3, 4, 5, 13, 128, 129, 140):
            some, expected = X[-rows:], whole[-rows:].tobytes()
            for n_threads in (1, 2, 3, 7, -2):
                out = np.full((rows, sizes[-1]), np.nan, dtype)
                network.predict(some, out, n_threads)
                assert out.tobytes() == expected
                assert network.answer(some, None, _at_once(n_threads)).tobytes() == expected
            out[...] = np.nan
            assert network.answer(some, out, _at_once(2)) is out
            assert out.tobytes() == expected


def test_a_network_answers_with_the_parameters_that_it_was_given_last(dtype, rng):
    network = cymlp.MLP([4, 8, 3], output_activation="softmax", dtype=dtype, random_state=0)
    X = rng.standard_normal((1, 4)).astype(dtype)
    before = network.predict(X)
    network.weights = [np.zeros_like(W) for W in network.weights]
    network.biases = [np.zeros_like(b) for b in network.biases]
    assert_close(network.predict(X), np.full((1, 3), 1 / 3), 3)
    assert not np.array_equal(before, network.predict(X))


# ---- What is not answered at once, and what is refused ----


class _Subclass(np.ndarray):
    pass


def _strided(array):
    return np.repeat(array, 2, axis=1)[:, ::2]


def _unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    memory[...] = array
    return memory


CONVERTED = {
    "a list": lambda X: X.tolist(),
    "a subclass": lambda X: X.view(_Subclass),
    "another type": lambda X: X.astype(np.float16).astype(np.float64 if X.dtype == np.float32 else np.float32),
    "another order of bytes": lambda X: X.astype(X.dtype.newbyteorder()),
    "another order of elements": np.asfortranarray,
    "elements with gaps": _strided,
    "unaligned elements": _unaligned,
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_what_has_to_be_converted_is_not_answered_at_once(kind, dtype, rng):
    network = cymlp.MLP([4, 3], dtype=dtype, random_state=0)
    X = rng.standard_normal((6, 4)).astype(np.float16).astype(dtype)
    expected, other = network.predict(X), CONVERTED[kind](X)
    assert network._network.answer(other, None, _at_once(1)) is None
    np.testing.assert_array_equal(network.predict(other), expected)


def _read_only(array):
    array.flags.writeable = False
    return array


def test_what_cannot_be_written_is_not_answered_at_once(dtype, rng):
    network = _network(rng, (4, 4), dtype)
    memory = np.ones((9, 4), dtype)
    X, like = memory[:6], np.zeros((6, 4), dtype)
    wrong = [
        [], like[:5], like[:, :3], like[0], np.asfortranarray(like), like.view(_Subclass), like.astype(np.float16),
        like.astype(like.dtype.newbyteorder()), _unaligned(like), _read_only(like.copy()), X, memory[3:],
    ]  # fmt: skip
    for out in wrong:
        assert network.answer(X, out, _at_once(1)) is None
    assert (memory == 1).all()
    wrong = (X[:0], X[0], X[None], X[:, :3].copy(), np.ones((6, 5), dtype), None, "X", 3.0)
    assert [network.answer(other, None, _at_once(1)) for other in wrong] == [None] * len(wrong)


@pytest.mark.parametrize("sizes", [(3, 2), (70, 300, 300, 5)], ids=["under the GIL", "without it"])
@pytest.mark.parametrize("n_threads", [1, 2, 7])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found_wherever_it_is(isa, dtype, sizes, n_threads, wrong, rng):
    network = _network(rng, sizes, dtype)
    for rows in (1, 2, 7, 64, 300):
        X = rng.standard_normal((rows, sizes[0])).astype(dtype)
        for place in {0, 1, X.size // 2, X.size - 2, X.size - 1, *rng.integers(0, X.size, 5).tolist()}:
            kept = X.flat[place]
            X.flat[place] = wrong
            out = np.full((rows, sizes[-1]), 7, dtype)
            assert network.answer(X, None, _at_once(n_threads)) is None
            assert network.answer(X, out, _at_once(n_threads)) is None
            assert (out == 7).all()
            X.flat[place] = kept
        assert network.answer(X, None, _at_once(n_threads)) is not None


def test_the_largest_and_smallest_numbers_are_finite(isa, dtype):
    network = _network(np.random.default_rng(0), (40, 3), dtype, "identity")
    limits = np.finfo(dtype)
    for value in (limits.max, limits.min, limits.tiny, limits.smallest_subnormal, -0.0):
        assert network.answer(np.full((5, 40), value, dtype), None, _at_once(1)) is not None


@pytest.mark.parametrize("rows", [1, 3000])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_errors_name_the_place_and_leave_out_alone(engine_name, dtype, rows, wrong):
    network = cymlp.MLP([20, 100, 3], dtype=dtype, random_state=0, engine=engine_name)
    X, out = np.ones((rows, 20), dtype), np.full((rows, 3), 7, dtype)
    network.predict(X)
    X[rows - 1, 17] = wrong
    for arguments in ((X,), (X, out)):
        with pytest.raises(ValueError, match=rf"X must be finite; got {wrong} at row {rows - 1}, column 17"):
            network.predict(*arguments)
    assert (out == 7).all()
    assert network.predict(np.ones((rows, 20), dtype), out) is out


# ---- Turns ----


@pytest.mark.parametrize("rows", [1, 2000])
def test_predictions_during_a_fit_are_those_of_whole_epochs(rows, n_threads):
    X, y = classifier_data(2000)
    network, some, stop = classifier(n_threads), X[:rows], threading.Event()
    seen, epochs = set(), {network.predict(some).tobytes()}

    def use():
        while not stop.is_set():
            seen.add(network.predict(some).tobytes())

    thread = threading.Thread(target=use)
    thread.start()
    try:
        network.train(X, y, epochs=30, callback=lambda event: epochs.add(event.network.predict(some).tobytes()))
    finally:
        stop.set()
        thread.join()
    assert seen
    assert seen <= epochs


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_a_small_prediction_in_a_signal_handler_within_an_epoch_is_an_error():
    X, y = classifier_data(4000)
    network = classifier(1)
    network.predict(X)
    before = signal.signal(signal.SIGALRM, lambda *_: network.predict(X[:1]))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        with pytest.raises(RuntimeError, match="a signal handler cannot use it"):
            network.train(X, y, epochs=10_000_000, batch_size=4000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_predictions_of_many_threads_do_not_disturb_each_other(n_threads):
    """Each has memory of its own for what is between the layers."""
    X, _ = classifier_data(500)
    network = classifier(n_threads)
    pieces = [X[:1], X[1:3], X[:200], X]
    expected, wrong = [network.predict(piece).tobytes() for piece in pieces], []

    def use(start):
        for i in range(start, start + 400):
            at = i % len(pieces)
            if network.predict(pieces[at]).tobytes() != expected[at]:
                wrong.append(i)

    threads = [threading.Thread(target=use, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

"""Ctrl-C: how soon it is answered, and what a network is like afterwards."""

import os
import signal
import statistics
import threading
import time

import numpy as np
import pytest
from conftest import INTERRUPT_SECONDS, classifier, classifier_data

SMALL_STEPS = ((20, 100, 3), 2000, 200)
LONG_CALLS = ((512, 1500, 1500, 3), 4096, 4096)  # 3 million weights
LARGEST = ((1000, 3000, 2300, 3), 2048, 2048)  # 10 million


def _interrupt_latency(call, after):
    """Seconds from the signal to the KeyboardInterrupt, which `call`, again and again, is interrupted by."""
    sent = []

    def send():
        time.sleep(after)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        thread.start()
        while True:
            call()
    seconds = time.perf_counter() - sent[0]
    thread.join()
    return seconds


def _calls(network, X, y, batch):
    return {
        "train": lambda: network.train(X, y, epochs=10_000_000, batch_size=batch),
        "gradients": lambda: network.gradients(X, y),
        "forward": lambda: network.forward(X),
        "predict": lambda: network.predict(X),
    }


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(SMALL_STEPS, id="small steps"),
        pytest.param(LONG_CALLS, id="long calls"),
        pytest.param(LARGEST, id="largest networks", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("method", ["train", "gradients", "forward", "predict"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_interrupt_is_raised_soon(case, method, n_threads):
    """In any method, for networks of up to about 10 million weights.

    What grows with the network cannot be interrupted: the copies of its parameters at the beginning and the end of a
    call.  Batches and data may be of any length.
    """
    sizes, rows, batch = case
    X, y = classifier_data(rows, sizes[0])
    call = _calls(classifier(n_threads, sizes), X, y, batch)[method]
    latencies = [_interrupt_latency(call, 0.2) for _ in range(5)]
    # The median: a shared machine can take the core away from a test for longer than that.
    assert statistics.median(latencies) <= INTERRUPT_SECONDS


def test_an_interrupted_fit_keeps_the_last_whole_epoch(n_threads):
    X, y = classifier_data(4000)
    network = classifier(n_threads)
    _interrupt_latency(lambda: network.train(X, y, epochs=10_000_000, batch_size=7), 0.3)
    epochs = len(network.history_.loss)
    assert epochs > 0
    again = classifier(1)
    again.train(X, y, epochs=epochs, batch_size=7)
    assert again.parameters.tobytes() == network.parameters.tobytes()
    network.train(X, y, epochs=1)


@pytest.mark.parametrize("method", ["gradients", "forward", "predict"])
def test_an_interrupted_call_leaves_the_network_as_it_was(method, n_threads):
    sizes, rows, batch = LONG_CALLS
    X, y = classifier_data(rows, sizes[0])
    network = classifier(n_threads, sizes)
    before = network.predict(X[:20])
    _interrupt_latency(_calls(network, X, y, batch)[method], 0.1)
    np.testing.assert_array_equal(network.predict(X[:20]), before)
    np.testing.assert_array_equal(network.forward(X[:20]).A[-1], before)
    assert network.train(X[:20], y[:20], epochs=1).epochs == 1

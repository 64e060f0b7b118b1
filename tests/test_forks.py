"""Forked children: they can use every network that they inherit, whatever the parent's threads were doing with it."""

import hashlib
import multiprocessing
import os
import threading

import numpy as np
import pytest
from conftest import classifier, classifier_data

import cymlp

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    # Python 3.12 and later say this of every fork beside another thread, which is what is tested here.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]

CHILD_SECONDS = 30


def _in_child(function, *arguments):
    """Fork here, call the function in the child, and return its result; a child that hangs is killed."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(function(*arguments)))
    child.start()
    sender.close()
    try:
        assert receiver.poll(CHILD_SECONDS), "the child hangs"
        return receiver.recv()
    except EOFError:
        pytest.fail("the child died")
    finally:
        receiver.close()
        child.join(1)
        if child.is_alive():
            child.kill()
            child.join()


def _digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def _results(network, X, y):
    """What a network computes, and has after some training."""
    loss, gradients = network.gradients(X, y)
    results = [_digest(network.predict(X)), _digest(network.forward(X).A[-1]), loss, _digest(gradients.flat)]
    network.train(X, y, epochs=2, batch_size=32, shuffle=False)
    return [*results, _digest(network.parameters)]


def _copy_of(network, parameters):
    """A network of this process with given parameters."""
    copy = classifier(network.n_threads, network.layer_sizes)
    copy.parameters = parameters
    return copy


def _use_inherited(network, X, y):
    """In a child: the parameters that the network shows, what it does, and what one made here does with them."""
    shown = network.parameters.copy()
    return _digest(shown), _results(network, X, y), _results(_copy_of(network, shown), X, y)


def test_a_child_forked_after_training_can_train(n_threads):
    X, y = classifier_data()
    network = classifier(n_threads)
    network.train(X, y, epochs=2)
    for _ in range(3):
        shown, inherited, made = _in_child(_use_inherited, network, X, y)
        assert shown == _digest(network.parameters)
        assert inherited == made
        assert inherited == _results(_copy_of(network, network.parameters), X, y)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("batch_size", [32, 512])
def test_a_child_forked_while_another_thread_trains(n_threads, batch_size):
    """It has the parameters of a whole epoch, in the vector that it shows and in the engine."""
    X, y = classifier_data(2000, 64)
    network, stop = classifier(n_threads, (64, 256, 3)), threading.Event()
    epochs = [_digest(network.parameters)]

    def follow(event):
        epochs.append(_digest(event.network.parameters))
        return stop.is_set()

    thread = threading.Thread(
        target=lambda: network.train(X, y, epochs=100_000, batch_size=batch_size, callback=follow)
    )
    thread.start()
    try:
        answers = [_in_child(_use_inherited, network, X[:100], y[:100]) for _ in range(8)]
    finally:
        stop.set()
        thread.join()
    assert len(epochs) > 1
    for shown, inherited, made in answers:
        assert shown in epochs
        assert inherited == made


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_child_forked_while_other_threads_predict(n_threads):
    X, y = classifier_data(3000)
    network, stop = classifier(n_threads), threading.Event()

    def use():
        while not stop.is_set():
            network.predict(X)

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        answers = [_in_child(_use_inherited, network, X[:100], y[:100]) for _ in range(8)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for shown, inherited, made in answers:
        assert shown == _digest(network.parameters)
        assert inherited == made


def test_a_child_forked_in_a_callback(n_threads):
    """It can use the network but not train it, as in any callback; the parent goes on as if nothing had been."""
    X, y = classifier_data()
    network, answers = classifier(n_threads), []

    def use(network):
        return _digest(network.parameters), _digest(network.predict(X)), network.gradients(X, y)[0]

    def fork(event):
        answers.append((_in_child(use, event.network), use(event.network)))

    network.train(X, y, epochs=3, batch_size=16, callback=fork)
    assert len(answers) == 3
    for child, parent in answers:
        assert child == parent
    alone = classifier(1)
    alone.train(X, y, epochs=3, batch_size=16)
    assert alone.parameters.tobytes() == network.parameters.tobytes()


def _fit_and_predict(seed):
    X, y = classifier_data()
    network = cymlp.MLP((20, 100, 3), output_activation="softmax", dtype=np.float32, n_threads=2, random_state=seed)
    network.train(X, y, epochs=3)
    return _digest(network.parameters), _digest(network.predict(X))


def test_a_pool_of_forked_workers_after_training():
    expected = [_fit_and_predict(seed) for seed in range(6)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_fit_and_predict, range(6)).get(CHILD_SECONDS) == expected
    assert _fit_and_predict(0) == expected[0]

"""Who may use a network at the same time, and what is left of it when a call is interrupted, at whatever line."""

import functools
import itertools
import os
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from cymlp import MLP, lbfgs, parameters, run, stopping, training
from cymlp.health import monitor, summaries
from cymlp.training import History


@pytest.fixture
def net(engine_name, dtype):
    return MLP([3, 5, 2], "tanh", dtype=dtype, random_state=3, engine=engine_name)


@pytest.fixture
def data(rng, dtype):
    return rng.normal(size=(20, 3)).astype(dtype), rng.normal(size=(20, 2)).astype(dtype)


def assert_in_step(net, vector):
    """Both what is shown and, as soon as it is used, the engine have these parameters."""
    np.testing.assert_array_equal(net.parameters, vector)
    net.predict(np.zeros((1, net.layer_sizes[0])))
    engine_vector = np.empty_like(net.parameters)
    net._network.get_parameters(engine_vector)
    np.testing.assert_array_equal(engine_vector, vector)


# ---- Exceptions and signals ----


def _fail_at(net, monkeypatch, epoch, failure):
    """Let the engine's training pass do its work, and then call failure(result) in the given epoch (from 1)."""
    net._bring_in_step(net.dtype)
    real, calls = net._network, itertools.count(1)

    class Failing:
        def __getattr__(self, name):
            return getattr(real, name)

        def train_epoch(self, *arguments, **named):
            result = real.train_epoch(*arguments, **named)
            return failure(result) if next(calls) == epoch else result

    monkeypatch.setattr(net, "_network", Failing())


def _raise(exception):
    def failure(result):
        raise exception

    return failure


@pytest.mark.parametrize("exception", [KeyboardInterrupt(), MemoryError("no memory")])
@pytest.mark.parametrize("epoch", [1, 3])
def test_an_exception_within_an_epoch_leaves_the_last_whole_one(exception, epoch, net, data, monkeypatch):
    kept = [net.parameters.copy()]
    _fail_at(net, monkeypatch, epoch, _raise(exception))
    with pytest.raises(type(exception)) as caught:
        net.train(*data, epochs=9, batch_size=4, callback=lambda event: kept.append(event.network.parameters.copy()))
    assert caught.value is exception
    assert net.history_.epochs == len(net.history_.loss) == epoch - 1 == len(kept) - 1
    assert_in_step(net, kept[-1])
    assert net._resumable is None
    monkeypatch.undo()
    assert net.train(*data, epochs=1, optimizer="sgd", resume=True).epochs == 1  # and the engine's state is a fresh one


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no interval timers")
@pytest.mark.parametrize("milliseconds", [1, 3, 10, 30])
def test_a_signal_at_any_moment_leaves_the_last_whole_epoch(milliseconds, engine_name, dtype, data):
    def handler(number, frame):
        raise KeyboardInterrupt

    def train():
        signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
        net.train(*data, epochs=10**9, batch_size=4)

    net, twin = (MLP([3, 5, 2], dtype=dtype, random_state=1, engine=engine_name) for _ in range(2))
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    history = net.history_ or History()  # None where the signal came before the first epoch began
    if history.epochs > 0:
        assert twin.train(*data, epochs=history.epochs, batch_size=4).loss == history.loss
    assert len(history.seconds) == history.epochs
    assert_in_step(net, twin.parameters.astype(net.dtype))


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_an_exception_in_the_callback_keeps_the_epoch(optimizer, net, data):
    kept = []

    def callback(event):
        kept.append(event.network.parameters.copy())
        if event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        net.train(*data, epochs=9, optimizer=optimizer, callback=callback)
    assert net.history_.epochs == 2
    assert_in_step(net, kept[-1])


def test_training_resumes_after_an_exception_in_the_callback(engine_name, data):
    one, two = (MLP([3, 5, 2], random_state=3, engine=engine_name) for _ in range(2))
    one.train(*data, epochs=5)
    with pytest.raises(ZeroDivisionError):
        two.train(*data, epochs=5, callback=lambda event: 1 / (event.epoch - 2))
    two.train(*data, epochs=3, resume=True)
    np.testing.assert_array_equal(one.parameters, two.parameters)


def test_an_exception_in_lbfgs_restores(net, data, monkeypatch):
    net._bring_in_step(net.dtype)
    kept, real = [], type(net._network).gradients
    calls = itertools.count(1)

    class Failing:
        def __init__(self, network):
            self.network = network

        def __getattr__(self, name):
            return getattr(self.network, name)

        def gradients(self, *arguments):
            if next(calls) == 6:
                raise KeyboardInterrupt
            return real(self.network, *arguments)

    monkeypatch.setattr(net, "_network", Failing(net._network))
    with pytest.raises(KeyboardInterrupt):
        net.train(
            *data, epochs=99, optimizer="lbfgs", callback=lambda event: kept.append(event.network.parameters.copy())
        )
    assert net.history_.epochs == len(kept) >= 1
    assert_in_step(net, kept[-1])


# ---- Interrupts at every line, and a second one on top ----

FILES = {module.__file__ for module in (lbfgs, monitor, parameters, run, stopping, summaries, training)}


class Interrupt:
    """Raises KeyboardInterrupt before a line: that of this number (from 0) among those in FILES since it was armed."""

    def __init__(self, number, armed=True):
        self.left, self.armed, self.came = number, armed, False

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line" and self.armed:
            if self.left == 0:
                self.came = True
                raise KeyboardInterrupt
            self.left -= 1
        return self

    def during(self, work):
        previous = sys.gettrace()
        sys.settrace(self)
        try:
            work()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(previous)


@pytest.mark.parametrize(
    ("optimizer", "second", "health"),
    [("adam", False, False), ("adam", True, 1), ("adam", False, 1), ("lbfgs", False, 1)],
)
def test_an_interrupt_at_any_line_leaves_the_last_whole_epoch(optimizer, second, health, engine_name, data, dtype):
    """A second one: after one that left the engine in the middle of the second epoch."""
    fit = {"optimizer": optimizer, "batch_size": 8, "shuffle": False, "validation_data": data, "health": health}
    per_epoch = 1 if optimizer == "lbfgs" else -(-len(data[0]) // 8)

    def new():
        return MLP([3, 5, 2], "tanh", random_state=3, engine=engine_name)  # the first data decide the dtype

    whole = new()
    trajectory = [whole.parameters.astype(dtype)]
    expected = whole.train(*data, epochs=4, callback=lambda e: trajectory.append(e.network.parameters.copy()), **fit)
    for number in itertools.count():
        net, interrupt = new(), Interrupt(number, armed=not second)

        def first(result, interrupt=interrupt):
            interrupt.armed = True
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            if second:
                net.predict(data[0])
                _fail_at(net, patch, 2, first)
            interrupt.during(functools.partial(net.train, *data, epochs=3, **fit))
            history = net.history_ or History()
            epochs = history.epochs
            assert history.loss == expected.loss[:epochs]
            assert history.validation_loss == expected.validation_loss[:epochs]
            assert len(history.seconds) == epochs
            if health and history._monitor is not None:
                steps = history._monitor.records().steps
                np.testing.assert_array_equal(steps, np.arange(len(steps)) + 1)
                assert len(steps) in (epochs * per_epoch, (epochs + 1) * per_epoch)
            np.testing.assert_array_equal(net.parameters.astype(dtype), trajectory[epochs])
            net.predict(data[0])
            assert_in_step(net, trajectory[epochs])
        fresh = new()
        fresh.parameters = trajectory[epochs]
        for one in (fresh, net):  # `net` with the optimiser's state, or without
            one.train(*data, epochs=1, resume=one is net and optimizer != "lbfgs", **fit)
        assert net.parameters.tobytes() in (fresh.parameters.tobytes(), trajectory[epochs + 1].tobytes())
        if not interrupt.came:
            break
    assert number > 30


@pytest.mark.parametrize("used", [False, True])
def test_an_interrupt_at_any_line_sets_all_parameters_or_none(used, net, data):
    X, _ = data
    start = net.parameters.copy()
    if used:
        net.predict(X)
    for number in itertools.count():
        net.parameters = start
        interrupt = Interrupt(number)
        interrupt.during(lambda: setattr(net, "weights", [np.ones((3, 5)), np.ones((5, 2))]))
        assert_in_step(net, net.parameters.copy())
        ones = [(W == 1).all() for W in net.weights]
        assert all(ones) or (net.parameters == start).all()
        if not interrupt.came:
            break
    assert all(ones)
    assert number > 10


def test_an_interrupt_at_any_line_decides_the_dtype_or_leaves_it_open(engine_name):
    for number in itertools.count():
        net = MLP([3, 5, 2], random_state=3, engine=engine_name)
        start, interrupt = net.parameters.copy(), Interrupt(number)
        interrupt.during(lambda net=net: net.predict(np.ones((1, 3), np.float32)))
        decided = net.dtype
        np.testing.assert_array_equal(net.parameters, start.astype(decided))
        assert net.predict(np.ones((1, 3))).dtype == decided == net.dtype
        assert_in_step(net, start.astype(decided))
        if not interrupt.came:
            break
    assert decided == np.float32
    assert number > 10


# ---- Threads, handlers, forks ----


def test_use_in_the_middle_of_an_epoch_of_the_same_thread_is_an_error(net, data, monkeypatch):
    """As by the handler of a signal."""
    before = net.parameters.copy()
    _fail_at(net, monkeypatch, 1, lambda result: net.predict(data[0]))
    with pytest.raises(RuntimeError, match="a signal handler cannot use it"):
        net.train(*data)
    assert_in_step(net, before)
    _fail_at(net, monkeypatch, 1, lambda result: setattr(net, "parameters", before))
    with pytest.raises(RuntimeError, match="parameters must not be set while this network is at work in this very th"):
        net.train(*data)
    assert_in_step(net, before)


def test_parameters_that_the_engine_refuses_are_not_shown(net, data, monkeypatch):
    """As where the handler of a signal sets them in the middle of a prediction."""
    net.predict(data[0])
    before = net.parameters.copy()

    class Refusing:
        def set_parameters(self, flat):
            raise RuntimeError("at work")

    with monkeypatch.context() as patch:
        patch.setattr(net, "_network", Refusing())
        with pytest.raises(RuntimeError, match="at work"):
            net.parameters = np.zeros_like(before)
    assert_in_step(net, before)


def test_while_one_thread_trains_another_can_predict_and_change_nothing(net, data):
    answers = []

    def other():
        kept = net.parameters.copy()
        with pytest.raises(RuntimeError, match=r"train\(\) is running on this network already"):
            net.train(*data)
        with pytest.raises(RuntimeError, match=r"parameters must not be set while .* in another thread"):
            net.parameters = np.zeros_like(kept)
        assert_in_step(net, kept)
        answers.append(net.predict(data[0]))

    def callback(event):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    net.train(*data, epochs=2, callback=callback)
    assert len(answers) == 2  # all of them came to their end
    np.testing.assert_array_equal(answers[1], net.predict(data[0]))
    net.parameters = np.zeros_like(net.parameters)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("call", ["predict", "forward", "gradients", "evaluate", "train"])
def test_threads_that_bring_the_first_data_agree_on_the_dtype(call, kind, engine, engine_name, monkeypatch):
    net, outcome, real = MLP([4, 3], random_state=0, engine=engine_name), [], engine.Network

    def second():
        X, y = np.ones((2, 4), kind), np.ones((2, 3), kind)
        try:
            outcome.append(getattr(net, call)(*((X,) if call in ("predict", "forward") else (X, y))))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=second)

    def slow(*arguments):
        """Make the engine's network, while the other thread does what it can."""
        if thread.ident is None:
            thread.start()
            thread.join(0.1)
        return real(*arguments)

    monkeypatch.setattr(engine, "Network", slow)
    first = net.predict(np.ones((2, 4), np.float32))
    thread.join()
    assert not isinstance(outcome[0], Exception), outcome
    assert first.dtype == net.dtype == net.parameters.dtype == np.float32
    if call == "predict":
        np.testing.assert_array_equal(outcome[0], first)
        assert outcome[0].dtype == np.float32


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_in_the_middle_of_another_threads_epoch(net, data, monkeypatch):
    kept, middle, go_on = [], threading.Event(), threading.Event()

    def wait(result):
        middle.set()
        go_on.wait(60)
        return result

    def callback(event):
        kept.append(event.network.parameters.copy())

    _fail_at(net, monkeypatch, 2, wait)
    thread = threading.Thread(target=net.train, args=data, kwargs={"epochs": 2, "callback": callback})
    thread.start()
    assert middle.wait(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what is tested here
        child = os.fork()
    if child == 0:
        code = 1
        try:
            assert_in_step(net, kept[0])
            assert net.history_.epochs == 1
            net.parameters = kept[0]
            net.train(*data, epochs=1)
            code = 0
        finally:
            os._exit(code)
    go_on.set()
    thread.join()
    deadline = time.monotonic() + 30
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(done[1]) == 0
    assert_in_step(net, kept[1])

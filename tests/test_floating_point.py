"""The floating point mode of whoever calls is theirs: not a bit of it is different afterwards, in any thread."""

import ctypes
import inspect
import os
import platform
import signal
import threading

import numpy as np
import pytest
from conftest import classifier, classifier_data, run_python

import cymlp
from cymlp import _engine

# FE_UPWARD, and FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW | FE_UNDERFLOW: each machine has its own numbers.
UPWARD, EXCEPTIONS = {"x86_64": (0x800, 0x1D), "aarch64": (0x400000, 0xF)}.get(platform.machine(), (None, None))
# The bits of MXCSR (byte 28 of the environment) or FPCR that flush results to zero and read inputs as zero.
FLUSH = {"x86_64": 0x8040 << 8 * 28, "aarch64": 1 << 24}.get(platform.machine())

needs_fenv = pytest.mark.skipif(UPWARD is None, reason="these bits are not known for this machine")


def control():
    """This thread's control words: rounding, masks of exceptions, what happens to subnormals; no exception flags."""
    import ctypes
    import platform

    libm = ctypes.CDLL(None)
    environment = ctypes.create_string_buffer(64)
    libm.fegetenv(environment)
    if platform.machine() == "x86_64":  # the x87's control word; MXCSR without its flags
        mxcsr = int.from_bytes(environment.raw[28:32], "little")
        return libm.fegetround(), int.from_bytes(environment.raw[:2], "little"), mxcsr & ~0x3F
    if platform.machine() == "aarch64":  # FPCR
        return libm.fegetround(), int.from_bytes(environment.raw[:4], "little")
    return (libm.fegetround(),)


def _subnormals_survive():
    tiny = np.array([np.finfo(np.float32).tiny], np.float32)
    return bool((tiny * np.float32(0.25))[0] > 0) and 5e-324 * 1.0 > 0


def _change_mode():
    """Flush to zero and round upwards; returns what undoes it."""
    libm = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(64)
    libm.fegetenv(before)
    changed = int.from_bytes(before.raw, "little") | FLUSH
    libm.fesetenv(ctypes.create_string_buffer(changed.to_bytes(64, "little"), 64))
    libm.fesetround(UPWARD)
    return lambda: libm.fesetenv(before)


@needs_fenv
def test_control_sees_a_change_of_mode():
    before, survived = control(), _subnormals_survive()
    undo = _change_mode()
    during, flushed = control(), not _subnormals_survive()
    undo()
    assert survived
    assert flushed
    assert control() == before
    assert all(one != other for one, other in zip(before, during, strict=True))


def test_import_leaves_the_mode_alone():
    """The extension is loaded, whose linker flags could have brought code that sets flush-to-zero for the process."""
    out = run_python(
        inspect.getsource(control)
        + inspect.cleandoc(
            """
            import sys
            import numpy as np
            words = [control()]
            import cymlp
            words.append(control())
            cymlp.show_config()
            words.append(control())
            print("cymlp._engine" in sys.modules, "cymlp._storage" in sys.modules, len(set(words)))
            tiny = np.array([np.finfo(np.float32).tiny], np.float32)
            print((tiny * np.float32(0.25))[0] > 0, 5e-324 * 1.0 > 0)
            """
        )
    )
    assert out.split() == ["True", "True", "1", "True", "True"]


# ---- Whatever a network does ----


def _raise(error):
    raise error


def _stopped_by_its_callback(network, X, y):
    with pytest.raises(RuntimeError, match="stop"):
        network.train(X, y, epochs=2, callback=lambda event: _raise(RuntimeError("stop")))


def _diverges(network, X, y):
    with pytest.raises(cymlp.DivergenceError):
        network.train(X * np.float32(1e18), y, epochs=20, optimizer="sgd", learning_rate=1e10)


def _overflows(network, X, y):
    network.parameters = np.full(network.n_parameters, 3e38, np.float32)
    network.forward(X)
    network.predict(X)


def _refuses(network, X, y):
    network.predict(X)
    with pytest.raises(ValueError, match="X must have"):
        network.predict(X[:, 1:])
    with pytest.raises(ValueError, match="y must be in"):
        network._network.gradients(X, y + 3, None, np.empty(network.n_parameters, np.float32))


def _kernels(network, X, y):
    Z = np.ascontiguousarray(X[:, :3])
    _engine.activate("gelu", Z)
    _engine.activation_gradient("silu", Z)
    A, W = X, np.ones((20, 3), np.float32)
    _engine.dense_forward(A, W, Z[0].copy())
    _engine.dense_backward(A, W, Z)
    _engine.loss_and_gradient("categorical_cross_entropy", "softmax", Z, y)
    state = (np.zeros(3, np.float32), np.zeros(3, np.float32))
    _engine.update(cymlp.optimizers.Adam().rule(), 1, Z[0].copy(), Z[1].copy(), state)


ACTIONS = {
    "predict": lambda network, X, y: network.predict(X),
    "forward": lambda network, X, y: network.forward(X),
    "gradients": lambda network, X, y: network.gradients(X, y),
    "train": lambda network, X, y: network.train(X, y, epochs=2),
    "train by L-BFGS": lambda network, X, y: network.train(X, y, epochs=2, optimizer="lbfgs"),
    "an exception in a callback": _stopped_by_its_callback,
    "divergence": _diverges,
    "overflow": _overflows,
    "wrong arguments": _refuses,
    "kernels": _kernels,
}


def _in_a_thread(function):
    """Call it in a new Python thread, and return what it returns."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("call", [lambda function: function(), _in_a_thread], ids=["main thread", "another thread"])
@pytest.mark.parametrize("action", ACTIONS)
def test_mode_is_left_alone(action, call, n_threads):
    X, y = classifier_data()
    network, before = classifier(n_threads), control()

    def act():
        mine = control()
        ACTIONS[action](network, X, y)
        return mine == control() and _subnormals_survive()

    assert call(act)
    assert control() == before
    assert _subnormals_survive()


@needs_fenv
@pytest.mark.parametrize("action", ["predict", "forward", "gradients", "kernels"])
def test_a_mode_of_the_caller_own_is_left_alone(action, n_threads):
    X, y = classifier_data()
    network, undo = classifier(n_threads), _change_mode()
    try:
        before = control()
        ACTIONS[action](network, X, y)
        after = control()
    finally:
        undo()
    assert after == before


@pytest.mark.parametrize("method", ["train", "predict", "forward", "gradients"])
def test_an_interrupt_leaves_the_mode_alone(method, n_threads):
    X, y = classifier_data(20_000)
    network, before = classifier(n_threads), control()
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        timer.start()
        while True:
            getattr(network, method)(X, *(() if method in ("predict", "forward") else (y,)))
    timer.join()
    assert control() == before
    assert _subnormals_survive()


@needs_fenv
def test_flags_of_exceptions_inside_a_pass_are_not_shown(n_threads):
    network = _engine.Network((3, 40, 2), [("exp", 0.0), ("exp", 0.0)], ("squared_error", 1.0), np.float32)
    network.set_parameters(np.linspace(-100, 100, 242, dtype=np.float32))
    X, y, gradient = np.full((50, 3), 30, np.float32), np.ones((50, 2), np.float32), np.empty(242, np.float32)
    out, libm = np.empty((50, 2), np.float32), ctypes.CDLL(None)
    libm.feclearexcept(EXCEPTIONS)
    network.predict(X, out, n_threads)
    network.gradients(X, y, None, gradient, n_threads)
    raised = libm.fetestexcept(EXCEPTIONS)
    assert not np.isfinite(gradient).all()
    assert raised == 0


def test_threads_that_others_share_are_left_alone():
    """OpenMP's threads stay after a pass, and serve other libraries next."""
    try:
        runtime = ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("this engine does not use GNU's OpenMP")
    X, y = classifier_data(2000)
    network = classifier(3)
    network.train(X, y, epochs=3, batch_size=500)
    network._network.forward(X, 3)
    words = {}

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def look(_):
        words[threading.get_ident()] = control()

    runtime.GOMP_parallel(look, None, 3, 0)
    assert len(words) == 3
    assert set(words.values()) == {control()}


def test_subnormal_numbers_inside_a_pass_are_flushed(isa, n_threads):
    """What the mode is for: inputs below the smallest normal number count as zero, in every thread."""
    tiny = np.full((300, 4), np.finfo(np.float32).tiny / 2, np.float32)
    weights, biases = [np.full((4, 2), 1e30, np.float32)], [np.zeros(2, np.float32)]
    network = cymlp.MLP.from_weights(weights, biases, n_threads=n_threads)
    assert not network.predict(tiny).any()
    assert not network.forward(tiny).Z[0].any()

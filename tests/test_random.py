"""Draws: NumPy's own numbers, and NumPy's own state after them."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from cymlp import _random

WORDS = 624  # in a block of the generator
POWERS = {2**bits + more for bits in range(2, 15) for more in (-1, 0, 1)}
SIZES = sorted({0, 1, 2, 3, WORDS - 1, WORDS, WORDS + 1, 20_000, 1_000_003} | POWERS)


def assert_same_shuffles(ours, numpys, n, times=2):
    """Shuffle with two generators in the same state, ours and NumPy's: the orders and the states stay the same."""
    got, expected = np.arange(n), np.arange(n)
    for _ in range(times):
        assert _random.shuffle(got, ours) is None
        numpys.shuffle(expected)
        np.testing.assert_array_equal(got, expected)
    assert_same_state(ours, numpys)


def assert_same_state(ours, numpys):
    np.testing.assert_equal(ours.get_state(legacy=False), numpys.get_state(legacy=False))


def _pair(make=np.random.RandomState, seed=20240229):
    return make(seed), make(seed)


def test_the_state_of_numpys_generator_is_known():
    """Else everything else passes, too, at NumPy's speed."""
    assert _random.STATE_IS_KNOWN is True


@pytest.mark.parametrize("n", SIZES)
def test_a_shuffle_is_numpys(n):
    assert_same_shuffles(*_pair(), n)


@pytest.mark.parametrize("n", [2, 3, 50, 700])
def test_a_shuffle_begins_anywhere_in_a_block(n):
    ours, numpys = _pair()
    for position in range(WORDS + 1):
        for random_state in (ours, numpys):
            state = random_state.get_state(legacy=False)
            state["state"]["pos"] = position
            random_state.set_state(state)
        assert_same_shuffles(ours, numpys, n, times=1)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, [5, 6, 7], np.random.SeedSequence(3).generate_state(4)])
def test_any_seed(seed):
    assert_same_shuffles(*_pair(seed=seed), 1000, times=5)


def test_draws_between_shuffles_are_numpys():
    ours, numpys = _pair()
    for n in range(200):
        assert_same_shuffles(ours, numpys, n, times=1)
        assert ours.randint(1 << 30) == numpys.randint(1 << 30)
        assert ours.random_sample() == numpys.random_sample()


def test_the_second_number_of_a_normal_pair_is_kept():
    ours, numpys = _pair()
    assert ours.standard_normal() == numpys.standard_normal()
    assert ours.get_state(legacy=False)["has_gauss"] == 1
    assert_same_shuffles(ours, numpys, 1000)
    assert ours.get_state(legacy=False)["has_gauss"] == 1
    assert ours.standard_normal() == numpys.standard_normal()


def test_elements_are_moved_whatever_they_are(rng):
    elements = rng.integers(-(2**63), 2**63 - 1, 5000)
    got, expected = elements.copy(), elements.copy()
    ours, numpys = _pair()
    _random.shuffle(got, ours)
    numpys.shuffle(expected)
    np.testing.assert_array_equal(got, expected)


def test_int64_by_its_other_name():
    got, expected = np.arange(100, dtype=np.longlong), np.arange(100)
    ours, numpys = _pair()
    _random.shuffle(got, ours)
    numpys.shuffle(expected)
    np.testing.assert_array_equal(got, expected)


def test_only_the_elements_of_a_view_are_moved():
    whole = np.arange(1000)
    _random.shuffle(whole[100:900], np.random.RandomState(0))
    np.testing.assert_array_equal(whole[:100], np.arange(100))
    np.testing.assert_array_equal(whole[900:], np.arange(900, 1000))
    np.testing.assert_array_equal(np.sort(whole[100:900]), np.arange(100, 900))


def test_the_generator_of_the_module_numpy_random():
    singleton = np.random.mtrand._rand
    before = singleton.get_state(legacy=False)
    numpys = np.random.RandomState()
    numpys.set_state(before)
    try:
        assert_same_shuffles(singleton, numpys, 1000)
    finally:
        singleton.set_state(before)


# ---- Other generators: NumPy's own shuffle ----


class Reversed(np.random.RandomState):
    """Shuffles in a way of its own."""

    def shuffle(self, x):
        x[:] = x[::-1].copy()


class Counted(np.random.MT19937):
    """An MT19937 in name."""


@pytest.mark.parametrize(
    "bit_generator",
    [np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64, np.random.MT19937, Counted],
)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000])
def test_a_shuffle_with_another_generator_is_numpys(bit_generator, n):
    assert_same_shuffles(*_pair(lambda seed: np.random.RandomState(bit_generator(seed))), n)


def test_a_shuffle_of_a_subclass_is_its_own():
    order = np.arange(5)
    _random.shuffle(order, Reversed(0))
    np.testing.assert_array_equal(order, [4, 3, 2, 1, 0])


def test_a_shuffle_is_numpys_where_the_state_is_not_known(monkeypatch):
    monkeypatch.setattr(_random, "STATE_IS_KNOWN", False)
    assert_same_shuffles(*_pair(), 1000)


# ---- Wrong arguments ----


def _read_only():
    order = np.arange(10)
    order.flags.writeable = False
    return order


@pytest.mark.parametrize(
    ("order", "error", "message"),
    [
        (list(range(10)), TypeError, r"order must be a numpy\.ndarray; got list"),
        (np.ma.arange(10), TypeError, r"order must be a numpy\.ndarray; got MaskedArray"),
        (None, TypeError, r"order must be a numpy\.ndarray; got NoneType"),
        (_read_only(), ValueError, "order must be a C-contiguous writable int64 array; .*read-only"),
        (np.arange(20)[::2], ValueError, "order must be a C-contiguous writable int64 array; .*contiguous"),
        (np.arange(10)[::-1], ValueError, "order must be a C-contiguous writable int64 array; .*contiguous"),
        (np.arange(10, dtype=np.int32), TypeError, "order must have dtype int64; got int32"),
        (np.arange(10, dtype=np.uint64), TypeError, "order must have dtype int64; got uint64"),
        (np.arange(10, dtype=float), TypeError, "order must have dtype int64; got float64"),
        (np.arange(10).astype(">i8"), TypeError, "order must have dtype int64; got >i8"),
        (np.arange(10).reshape(2, 5), ValueError, r"order must have shape \(n,\); got \(2, 5\)"),
        (np.array(3), ValueError, r"order must have shape \(n,\); got \(\)"),
    ],
)
def test_what_is_no_order_is_refused_before_a_number_is_drawn(order, error, message):
    ours, untouched = _pair()
    with pytest.raises(error, match=message):
        _random.shuffle(order, ours)
    assert_same_state(ours, untouched)


@pytest.mark.parametrize("random_state", [None, 0, np.random, np.random.default_rng(0), np.random.MT19937(0)])
def test_what_is_no_random_state_is_refused(random_state):
    order = np.arange(10)
    with pytest.raises(TypeError, match=r"random_state must be a numpy\.random\.RandomState; got \w+"):
        _random.shuffle(order, random_state)
    np.testing.assert_array_equal(order, np.arange(10))


@pytest.mark.parametrize("position", [-1, WORDS + 1, 2**31 - 1])
def test_a_position_outside_of_the_block_is_refused(position):
    random_state = np.random.RandomState(0)
    random_state.set_state(("MT19937", random_state.get_state()[1], position))
    with pytest.raises(ValueError, match=rf"random_state must have .* pos in \[0, {WORDS}\]; got {position}"):
        _random.shuffle(np.arange(10), random_state)
    assert random_state.get_state()[2] == position


# ---- Threads and signals ----


def test_threads_that_share_a_generator_do_not_share_draws():
    """As NumPy's: each shuffle is as if the others had been before or after it."""
    ours, numpys = _pair()
    orders = [np.arange(50_000) for _ in range(8)]
    threads = [threading.Thread(target=_random.shuffle, args=(order, ours)) for order in orders]
    for thread in threads:
        thread.start()
    expected = set()
    for _ in orders:
        order = np.arange(50_000)
        numpys.shuffle(order)
        expected.add(order.tobytes())
    for thread in threads:
        thread.join()
    assert {order.tobytes() for order in orders} == expected
    assert_same_state(ours, numpys)


def test_an_interrupted_wait_for_the_generator_changes_nothing():
    ours, untouched = _pair()
    order = np.arange(1000)
    held, over = threading.Event(), threading.Event()

    def hold():
        with ours._bit_generator.lock:
            held.set()
            time.sleep(0.1)  # for the main thread to wait; right in any case
            os.kill(os.getpid(), signal.SIGINT)
            over.wait()

    thread = threading.Thread(target=hold)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        thread.start()
        held.wait()
        _random.shuffle(order, ours)
    over.set()
    thread.join()
    np.testing.assert_array_equal(order, np.arange(1000))
    assert_same_state(ours, untouched)

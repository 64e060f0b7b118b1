"""The reference's dropout against its definition, in Python's integers, and against statistics; its random numbers."""

import itertools
import math

import numpy as np
import pytest
from conftest import STANDARD_ERRORS, assert_close, draw_parameters

from cymlp import optimizers, reference
from cymlp._formulas import philox

# Random123's known answers for philox4x32-10 (file tests/kat_vectors there): counter, key, words.
KNOWN_ANSWERS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def _philox_by_hand(counter, key):
    """Random123's rounds, on Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(second >> 32) ^ c[1] ^ k[0], second % 2**32, (first >> 32) ^ c[3] ^ k[1], first % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def _is_dropped(rate, seed, step, layer, row, unit):
    words = _philox_by_hand((unit, row // 4, step % 2**32, layer), (seed % 2**32, seed >> 32))
    return words[row % 4] < math.floor(rate * 2**32)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_random_words_are_the_known_answers(counter, key, words):
    assert tuple(int(word) for word in philox(counter, key)) == words
    assert tuple(_philox_by_hand(counter, key)) == words


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 0x0123456789ABCDEF, 2**64 - 1])
@pytest.mark.parametrize("step", [1, 7, 2**32 - 1, 2**32, 2**40 + 3])
def test_each_unit_is_dropped_by_its_own_number(seed, step, dtype):
    for rate, layer, first_row in ((0.5, 0, 0), (0.1, 3, 5), (0.93, 70, 2**20 + 2)):
        A = reference.dropout(np.ones((6, 5), dtype), rate, seed, step, layer, first_row)
        rows, units = range(first_row, first_row + 6), range(5)
        dropped = [[_is_dropped(rate, seed, step, layer, row, unit) for unit in units] for row in rows]
        np.testing.assert_array_equal(A, np.where(dropped, 0, 1 / (1 - rate)).astype(dtype))
        assert A.dtype == dtype


def test_what_stays_is_scaled_and_the_argument_is_left_alone(rng, dtype):
    A = rng.standard_normal((9, 13)).astype(dtype)
    kept = A.copy()
    dropped = reference.dropout(A, 0.375, 3, 1, 0)
    is_zero = dropped == 0
    np.testing.assert_array_equal(A, kept)
    np.testing.assert_array_equal(dropped, np.where(is_zero, 0, A * dtype.type(1.6)))
    assert 0 < is_zero.sum() < is_zero.size


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 11])
def test_rows_are_the_same_in_pieces(rows, rng):
    A = rng.standard_normal((11, 4))
    whole = reference.dropout(A, 0.4, 5, 2, 1, 3)
    pieces = [reference.dropout(A[:rows], 0.4, 5, 2, 1, 3), reference.dropout(A[rows:], 0.4, 5, 2, 1, 3 + rows)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_the_mask_does_not_depend_on_the_type(rng):
    A = rng.uniform(1, 2, (50, 7))
    np.testing.assert_array_equal(
        reference.dropout(A, 0.3, 9, 4, 2) == 0, reference.dropout(A.astype(np.float32), 0.3, 9, 4, 2) == 0
    )


def test_rate_0_keeps_every_bit(rng, dtype):
    A = np.concatenate([rng.standard_normal((50, 7)), [[np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-320, 1e38]]])
    A = A.astype(dtype)
    assert reference.dropout(A, 0.0, 3, 1, 0).tobytes() == A.tobytes()
    assert reference.dropout(A, 0, 3, 1, 0).tobytes() == A.tobytes()


def test_rate_1_drops_everything_whatever_it_was(dtype):
    A = np.array([[1, -1, np.inf, -np.inf, np.nan, 0]] * 9, dtype)
    for rate in (1, 1.0):
        np.testing.assert_array_equal(reference.dropout(A, rate, 3, 1, 0), np.zeros_like(A))


def test_what_is_dropped_is_zero_whatever_it_was(dtype):
    A = np.full((40, 10), np.nan, dtype)
    mask = reference.dropout(np.ones_like(A), 0.5, 3, 1, 0) == 0
    np.testing.assert_array_equal(np.isnan(reference.dropout(A, 0.5, 3, 1, 0)), ~mask)


def test_rates_next_to_the_ends():
    A = np.ones((1000, 100))
    np.testing.assert_array_equal(reference.dropout(A, 2.0**-33, 3, 1, 0), A / (1 - 2.0**-33))  # floor(1/2): none
    assert np.isfinite(reference.dropout(A, 1 - 2.0**-53, 3, 1, 0)).all()
    # At 1 - 2^-32 only the largest word stays.
    assert not reference.dropout(A, 1 - 2.0**-32, 3, 1, 0).any()


@pytest.mark.parametrize(("row", "unit"), [(0, 0), (1, 3), (6, 2)])
def test_a_unit_is_dropped_from_the_rate_above_its_word_on(row, unit):
    word = _philox_by_hand((unit, row // 4, 1, 0), (3, 0))[row % 4]
    for threshold, dropped in ((word, False), (word + 0.75, False), (word + 1, True), (word + 1.75, True)):
        A = reference.dropout(np.ones((7, 4)), threshold / 2**32, 3, 1, 0)
        assert (A[row, unit] == 0) == dropped


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_the_share_that_is_dropped(rate):
    """In all, in each row, column and class of rows; neighbours are independent."""
    rows, columns = 400, 300
    dropped = reference.dropout(np.ones((rows, columns)), rate, 11, 5, 1) == 0
    spread = math.sqrt(rate * (1 - rate))
    for share, n in (
        (dropped.mean(), dropped.size),
        (dropped.mean(axis=0), rows),
        (dropped.mean(axis=1), columns),
        (dropped.reshape(-1, 4, columns).mean(axis=(0, 2)), dropped.size / 4),
    ):
        assert (np.abs(share - rate) < STANDARD_ERRORS * spread / math.sqrt(n)).all()
    centred = dropped - rate
    for first, second in (
        (centred[:-1], centred[1:]),
        (centred[:, :-1], centred[:, 1:]),
        (centred[:-4], centred[4:]),
        (centred[:-1, :-1], centred[1:, 1:]),
    ):
        assert abs((first * second).mean()) < STANDARD_ERRORS * spread**2 / math.sqrt(first.size)


def test_seeds_steps_and_layers_are_independent():
    def mask(seed=11, step=5, layer=1):
        return (reference.dropout(np.ones((200, 300)), 0.5, seed, step, layer) == 0) - 0.5

    masks = [mask(), mask(seed=12), mask(seed=11 + 2**32), mask(step=6), mask(layer=2), mask(step=1, layer=5)]
    for first, second in itertools.combinations(masks, 2):
        assert abs((first * second).mean()) < STANDARD_ERRORS * 0.25 / math.sqrt(first.size)
    np.testing.assert_array_equal(mask(), mask())
    np.testing.assert_array_equal(mask(step=5 + 2**32), mask())


# ---- In a network ----

SIZES = (3, 5, 4, 2)


def _network(dtype=np.float64, normalizations=None):
    layers = [("tanh", 0.0), ("tanh", 0.0), ("identity", 0.0)]
    return reference.Network(SIZES, layers, ("squared_error", 1.0), dtype, normalizations)


def _data(rng, dtype=np.float64):
    X, y = rng.normal(size=(9, 3)).astype(dtype), rng.normal(size=(9, 2)).astype(dtype)
    return X, y, draw_parameters(rng, SIZES, dtype)


def test_gradients_drop_forward_and_back(rng, dtype):
    """A network by hand, with the masks of the kernel."""
    X, y, flat = _data(rng, dtype)
    network, out, rates = _network(dtype), np.empty_like(flat), [0.3, 0.5, 0.2]
    network.set_parameters(flat)
    loss = network.gradients(X, y, None, out, dropout=(77, 3, rates))
    W1, b1, W2, b2, W3, b3 = np.split(flat, np.cumsum([15, 5, 20, 4, 8]))
    W1, W2, W3 = W1.reshape(3, 5), W2.reshape(5, 4), W3.reshape(4, 2)
    units = zip((3, 5, 4), rates, strict=True)
    masks = [reference.dropout(np.ones((9, n)), rate, 77, 3, layer) for layer, (n, rate) in enumerate(units)]
    A0 = X * masks[0]
    H1 = np.tanh(A0 @ W1 + b1)
    H2 = np.tanh((H1 * masks[1]) @ W2 + b2)
    Z3 = (H2 * masks[2]) @ W3 + b3
    dZ3 = (Z3 - y) / 9
    dZ2 = dZ3 @ W3.T * masks[2] * (1 - H2**2)
    dZ1 = dZ2 @ W2.T * masks[1] * (1 - H1**2)
    desired = [A0.T @ dZ1, dZ1.sum(axis=0), (H1 * masks[1]).T @ dZ2, dZ2.sum(axis=0), (H2 * masks[2]).T @ dZ3]
    desired = np.concatenate([part.ravel() for part in (*desired, dZ3.sum(axis=0))])
    assert_close(loss, ((Z3 - y) ** 2).sum() / 18, 9 + sum(SIZES), kind="pass", dtype=dtype)
    assert_close(out, desired, 9 + sum(SIZES), kind="pass", dtype=dtype)


def test_no_dropout_and_rates_of_0_are_the_same_bits(rng, dtype):
    X, y, flat = _data(rng, dtype)
    network, first, second = _network(dtype), np.empty_like(flat), np.empty_like(flat)
    network.set_parameters(flat)
    assert network.gradients(X, y, None, first) == network.gradients(X, y, None, second, 1, (1, 1, [0.0, 0, 0.0]))
    assert first.tobytes() == second.tobytes()


def test_predictions_never_drop(rng, dtype):
    X, y, flat = _data(rng, dtype)
    network, before, after = _network(dtype), np.empty((9, 2), dtype), np.empty((9, 2), dtype)
    network.set_parameters(flat)
    network.predict(X, before)
    network.train_epoch(X, y, None, None, 4, {**optimizers.SGD(0.1).rule(), "dropout": [0.5] * 3, "seed": 1})
    network.set_parameters(flat)
    network.predict(X, after)
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(network.forward(X)[1][-1], after)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("kind", [None, "batch", "layer"])
def test_where_all_units_are_dropped_nothing_before_them_is_learned(layer, kind, rng, dtype):
    """The output is the same for all rows, and parameters whose gradient passes there keep every bit; no NaN."""
    X, y, flat = _data(rng, dtype)
    normalization = {None: None, "batch": ("batch", 1e-5, 0.1), "layer": ("layer", 1e-5)}[kind]
    normalizations = [normalization, normalization, None]
    network = _network(dtype, normalizations)
    if kind is not None:
        flat = np.concatenate([flat[:20], np.ones(5), flat[20:44], np.ones(4), flat[44:]]).astype(dtype)
    network.set_parameters(flat)
    rates = [0.2] * 3
    rates[layer] = 1.0
    rule = {**optimizers.SGD(0.1, momentum=0.9).rule(), "dropout": rates, "seed": 5}
    for _ in range(3):
        loss, failed = network.train_epoch(X, y, None, None, 4, rule)
        assert failed == -1
        assert np.isfinite(loss)
    after = np.empty_like(flat)
    network.get_parameters(after)
    assert np.isfinite(after).all()
    assert network.is_finite()
    # Of the layer that the dropped units enter, the weights; of layers before it, everything.
    per_layer = np.array([15 + 5, 20 + 4, 8 + 2]) + (np.array([5, 4, 0]) if kind is not None else 0)
    end = int(per_layer[:layer].sum()) + (15, 20, 8)[layer]
    assert after[:end].tobytes() == flat[:end].tobytes()
    assert not np.array_equal(after[end:], flat[end:])  # the biases of the output, at least


def test_everything_dropped_everywhere_learns_the_mean(rng):
    X, y, flat = _data(rng)
    network, out = _network(), np.empty((9, 2))
    network.set_parameters(flat)
    rule = {**optimizers.SGD(0.5).rule(), "dropout": [1.0, 1.0, 1.0], "seed": 5}
    for _ in range(60):
        network.train_epoch(X, y, None, None, 9, rule)
    after = np.empty_like(flat)
    network.get_parameters(after)
    assert after[:-2].tobytes() == flat[:-2].tobytes()
    assert_close(after[-2:], y.mean(axis=0), 9 * 60, kind="training")
    network.predict(X, out)
    assert np.isfinite(out).all()


A = np.ones((2, 3))
NETWORK = _network()
EPOCH = (np.ones((4, 3)), np.ones((4, 2)), None, None, 2)
SGD = optimizers.SGD().rule()
MISTAKES = {
    r"rate must be in \[0, 1\]; got 1.5": lambda: reference.dropout(A, 1.5, 1, 1, 0),
    r"rate must be in \[0, 1\]; got -0.1": lambda: reference.dropout(A, -0.1, 1, 1, 0),
    r"rate must be in \[0, 1\]; got nan": lambda: reference.dropout(A, math.nan, 1, 1, 0),
    "rate must be a number; got str": lambda: reference.dropout(A, "0.5", 1, 1, 0),
    "seed must be an integer": lambda: reference.dropout(A, 0.5, 1.0, 1, 0),
    "seed must be at least 0": lambda: reference.dropout(A, 0.5, -1, 1, 0),
    r"seed must be less than 2\*\*64": lambda: reference.dropout(A, 0.5, 2**64, 1, 0),
    "step must be at least 1": lambda: reference.dropout(A, 0.5, 1, 0, 0),
    "layer must be at least 0": lambda: reference.dropout(A, 0.5, 1, 1, -1),
    "first_row must be at least 0": lambda: reference.dropout(A, 0.5, 1, 1, 0, -4),
    "A must have shape": lambda: reference.dropout(A[0], 0.5, 1, 1, 0),
    "dropout must be None or a tuple": lambda: NETWORK.gradients(*EPOCH[:3], np.empty(54), 1, 0.5),
    "dropout must have 3 rates; got 1": lambda: NETWORK.gradients(*EPOCH[:3], np.empty(54), 1, (1, 1, [0.5])),
    "dropout must have 3 rates; got 2": lambda: NETWORK.train_epoch(*EPOCH, {**SGD, "dropout": [0, 0], "seed": 1}),
    r"dropout must be in \[0, 1\]": lambda: NETWORK.train_epoch(*EPOCH, {**SGD, "dropout": [0, 0, 2], "seed": 1}),
    "rule must have 'seed'": lambda: NETWORK.train_epoch(*EPOCH, {**SGD, "dropout": [0, 0, 0.5]}),
    r"rule\['dropout'\] must have shape \(2, 3\)": lambda: NETWORK.train_epoch(
        *EPOCH, {**SGD, "dropout": np.zeros((3, 3)), "seed": 1}
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(message):
    with pytest.raises((ValueError, TypeError), match="^" + message):
        MISTAKES[message]()

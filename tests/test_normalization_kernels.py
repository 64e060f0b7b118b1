"""Kernels of dropout, normalisation, clipping and max-norm against the reference, by type and instruction set."""

import itertools
import math

import numpy as np
import pytest
from conftest import assert_close

from cymlp import _engine, optimizers, reference
from cymlp._formulas import philox

# Statistics of columns are taken by so many rows at a time, and joined; four rows share the words of a counter.
CHUNK, QUAD = 32, 4
ROWS = (1, 3, 4, 5, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7)
SEED = 0x0123456789ABCDEF


def _wide(*arrays):
    return [None if array is None else array.astype(np.float64) for array in arrays]


def _draw(rng, dtype, *shape):
    return rng.standard_normal(shape).astype(dtype)


def _weights(rng, dtype, rows):
    """Weights of rows, some of them 0, and those of whole chunks; not all."""
    weights = rng.uniform(0.2, 3, rows) * (rng.random(rows) < 0.8)
    weights[CHUNK : 2 * CHUNK] = 0
    weights[-1] = 0.5
    return weights.astype(dtype)


# ---- Dropout ----


def test_dropout_has_the_bits_of_the_reference(isa, dtype, rng, widths):
    for columns, rows, first in itertools.product(widths, (1, 4, 7, 34), (0, 1, 2, 3, 4, 129)):
        A = _draw(rng, dtype, rows, columns)
        for rate in (2.0**-33, 0.25, 0.5, 0.999, 1 - 2.0**-32):
            arguments = (A, rate, SEED, 5, 3, first)
            np.testing.assert_array_equal(_engine.dropout(*arguments), reference.dropout(*arguments))


@pytest.mark.parametrize(
    ("seed", "step", "layer", "first"),
    [
        (0, 1, 0, 0),
        (2**32 - 1, 2**32 - 1, 1, 2**31),
        (2**32, 2**32, 2**32 - 1, 2**32 - 9),
        (2**64 - 1, 2**32 + 7, 7, 2**20 + 1),
    ],
)
def test_every_part_of_counter_and_key_takes_part(isa, dtype, rng, seed, step, layer, first):
    A = _draw(rng, dtype, 9, 37)
    arguments = (A, 0.5, seed, step, layer, first)
    dropped = _engine.dropout(*arguments)
    np.testing.assert_array_equal(dropped, reference.dropout(*arguments))
    assert 0.3 < (dropped == 0).mean() < 0.7


def test_all_bits_of_a_word_are_compared(isa, dtype):
    """A unit stays while the rate is at most its word / 2^32, and is dropped beyond."""
    lanes = _engine.blocking(dtype)["lanes"]
    A = np.ones((QUAD, lanes + 1), dtype)
    words = np.array(philox((np.arange(lanes + 1), 2, 9, 1), (SEED % 2**32, SEED >> 32)))
    for row, unit in itertools.product(range(QUAD), range(lanes + 1)):
        word = int(words[row, unit])
        assert _engine.dropout(A, word / 2**32, SEED, 9, 1, 2 * QUAD)[row, unit] != 0
        assert _engine.dropout(A, (word + 1) / 2**32, SEED, 9, 1, 2 * QUAD)[row, unit] == 0


def test_a_minibatch_may_be_cut_anywhere(isa, dtype, rng):
    A = _draw(rng, dtype, 13, 21)
    whole = _engine.dropout(A, 0.4, SEED, 2, 1)
    for cut in range(14):
        pieces = [
            _engine.dropout(np.ascontiguousarray(A[:cut]), 0.4, SEED, 2, 1),
            _engine.dropout(np.ascontiguousarray(A[cut:]), 0.4, SEED, 2, 1, cut),
        ]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_ends_of_the_range_of_rates(isa, dtype, rng):
    A = _draw(rng, dtype, 5, 35)
    A[::2, ::3], A[1::2, ::3] = np.nan, np.inf
    assert _engine.dropout(A, 0.0, SEED, 1, 0).tobytes() == A.tobytes()
    assert _engine.dropout(A, 1.0, SEED, 1, 0).tobytes() == np.zeros_like(A).tobytes()
    np.testing.assert_array_equal(_engine.dropout(A, 0.5, SEED, 1, 0), reference.dropout(A, 0.5, SEED, 1, 0))
    assert np.isnan(_engine.dropout(A, 0.5, SEED, 1, 0)).any()


# ---- Batch normalisation ----


def _assert_normalized(got, want, Z, scale, shift, epsilon, terms):
    """Y, mean and variance.  z and the mean have errors of their size, and so has 1 / deviation, relative to itself."""
    mean, deviation = want[1], np.sqrt(want[2] + epsilon)
    size = np.abs(Z).max(axis=0, initial=0)
    assert_close(got[1], mean, terms, size, kind="product")
    assert_close(got[2], want[2], terms, want[2] + np.sqrt(want[2]) * size, kind="product")
    assert_close(got[0], want[0], terms, np.abs(scale) * size / deviation * (1 + size / deviation) + np.abs(shift),
                 kind="product")  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_batch_norm(isa, dtype, rng, widths, weighted):
    for columns, rows in itertools.product(widths, ROWS):
        Z, scale, shift = _draw(rng, dtype, rows, columns), *_draw(rng, dtype, 2, columns)
        weights = _weights(rng, dtype, rows) if weighted else None
        got = _engine.batch_norm(Z, scale, shift, weights, 1e-3)
        Z, scale, shift, weights = _wide(Z, scale, shift, weights)
        want = reference.batch_norm(Z, scale, shift, weights, 1e-3)
        _assert_normalized(got, want, Z, scale, shift, 1e-3, rows)


def test_variances_of_columns_far_from_zero(isa, dtype, rng):
    """A difference of mean square and squared mean would have no digit left in float32."""
    Z = (1000 + rng.standard_normal((3 * CHUNK + 5, 19))).astype(dtype)
    ones, zeros = np.ones(19, dtype), np.zeros(19, dtype)
    got = _engine.batch_norm(Z, ones, zeros)
    want = reference.batch_norm(*_wide(Z, ones, zeros))
    _assert_normalized(got, want, *_wide(Z, ones, zeros), 1e-5, len(Z))


def test_columns_without_variance(isa, dtype):
    Z = np.tile(np.array([0.1, -3.0, 0.0, 1e3], dtype), (CHUNK + 9, 1))
    scale, shift = np.ones(4, dtype), np.array([1, 2, 3, 4], dtype)
    Y, mean, variance = _engine.batch_norm(Z, scale, shift)
    assert_close(mean, Z[0], len(Z), np.abs(Z[0]), kind="product")
    deviation = np.sqrt(1e-5)
    assert_close(variance, np.zeros(4), len(Z), np.finfo(dtype).eps * Z[0].astype(np.float64) ** 2, kind="product")
    assert_close(Y, np.tile(shift, (len(Z), 1)), len(Z), np.abs(Z[0]) / deviation + shift, kind="product")


def test_rows_without_weight_are_as_good_as_absent(isa, dtype, rng):
    Z, weights = _draw(rng, dtype, 4 * CHUNK, 23), rng.uniform(0.5, 2, 4 * CHUNK).astype(dtype)
    weights[:CHUNK] = weights[-CHUNK:] = 0  # whole chunks, the first among them
    ones, zeros = np.ones(23, dtype), np.zeros(23, dtype)
    whole = _engine.batch_norm(Z, ones, zeros, weights)
    part = _engine.batch_norm(Z[CHUNK:-CHUNK].copy(), ones, zeros, weights[CHUNK:-CHUNK].copy())
    for got, want in zip((whole[0][CHUNK:-CHUNK], *whole[1:]), part, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_batch_norm_backward(isa, dtype, rng, widths, weighted):
    for columns, rows in itertools.product(widths, ROWS):
        dY, Z, scale = _draw(rng, dtype, rows, columns), _draw(rng, dtype, rows, columns), _draw(rng, dtype, columns)
        weights = _weights(rng, dtype, rows) if weighted else None
        got = _engine.batch_norm_backward(dY, Z, scale, weights, 1e-2)
        dY, Z, scale, weights = _wide(dY, Z, scale, weights)
        want = reference.batch_norm_backward(dY, Z, scale, weights, 1e-2)
        _, mean, variance = reference.batch_norm(Z, scale, scale, weights, 1e-2)
        deviation = np.sqrt(variance + 1e-2)
        N, size = (Z - mean) / deviation, np.abs(Z).max(axis=0) / deviation
        # N is known to eps times `size`, and so are products with it.
        sums = np.sqrt((dY**2).sum(axis=0))
        share = np.full(rows, 1 / rows) if weights is None else weights / weights.sum()
        through = share[:, np.newaxis] * (1 + np.abs(N) + size) * (1 + size) ** 2 * sums
        most = np.abs(scale) / deviation * (np.abs(dY) * (1 + size) + through), (1 + size) ** 2 * sums, sums
        for actual, desired, largest in zip(got, want, most, strict=True):
            assert_close(actual, desired, rows, largest, kind="product")


# ---- Layer normalisation ----


def test_layer_norm(isa, dtype, rng, widths):
    for columns, rows in itertools.product(widths, (1, 3, 4, 5, 11)):
        Z, scale, shift = _draw(rng, dtype, rows, columns), *_draw(rng, dtype, 2, columns)
        got = _engine.layer_norm(Z, scale, shift, 1e-3)
        Z, scale, shift = _wide(Z, scale, shift)
        size = np.abs(Z).max(axis=1, keepdims=True) / np.sqrt(Z.var(axis=1, keepdims=True) + 1e-3)
        most = np.abs(scale) * size * (1 + size) + np.abs(shift)
        assert_close(got, reference.layer_norm(Z, scale, shift, 1e-3), columns, most, kind="product")


def test_layer_norm_backward(isa, dtype, rng, widths):
    for columns, rows in itertools.product(widths, (1, 3, 4, 5, 11)):
        dY, Z, scale = _draw(rng, dtype, rows, columns), _draw(rng, dtype, rows, columns), _draw(rng, dtype, columns)
        got = _engine.layer_norm_backward(dY, Z, scale, 1e-2)
        dY, Z, scale = _wide(dY, Z, scale)
        want = reference.layer_norm_backward(dY, Z, scale, 1e-2)
        inverse = 1 / np.sqrt(Z.var(axis=1, keepdims=True) + 1e-2)
        size = np.abs(Z).max(axis=1, keepdims=True) * inverse
        g = np.abs(dY * scale).max(axis=1, keepdims=True)
        terms = np.sqrt((dY**2 * (1 + size) ** 4).sum(axis=0))
        for actual, desired, most in zip(got, want, (inverse * g * (1 + size) ** 3, terms, terms), strict=True):
            assert_close(actual, desired, max(columns, rows), most, kind="product")


def test_a_row_has_its_bits_among_any_others(isa, dtype, rng, widths):
    for columns in widths:
        Z, dY, scale, shift = *_draw(rng, dtype, 2, 9, columns), *_draw(rng, dtype, 2, columns)
        forward, back = _engine.layer_norm(Z, scale, shift), _engine.layer_norm_backward(dY, Z, scale)[0]
        for rows in (slice(0, 1), slice(3, 4), slice(8, 9), slice(2, 7)):
            some, d = Z[rows].copy(), dY[rows].copy()
            np.testing.assert_array_equal(_engine.layer_norm(some, scale, shift), forward[rows])
            np.testing.assert_array_equal(_engine.layer_norm_backward(d, some, scale)[0], back[rows])


# ---- Clipping, max-norm, penalties ----


def test_clip(isa, dtype, rng, widths):
    for n, limit in itertools.product(widths, (0.3, 1e30, math.inf)):
        g = _draw(rng, dtype, n)
        g[::3] = np.nan
        g[1::3] *= np.inf
        np.testing.assert_array_equal(_engine.clip(g, limit), reference.clip(g, limit))


def test_limit_columns(isa, dtype, rng, widths):
    for n_out, n_in in itertools.product(widths, (1, 2, 3, 64, 195)):
        W = _draw(rng, dtype, n_in, n_out)
        limit = float(np.median(np.linalg.norm(W, axis=0)))
        got, want = _engine.limit_columns(W, limit), reference.limit_columns(*_wide(W), limit)
        assert_close(got, want, n_in, np.abs(W), kind="product")
        within = np.linalg.norm(W.astype(np.float64), axis=0) < 0.99 * limit
        np.testing.assert_array_equal(got[:, within], W[:, within])
        np.testing.assert_array_equal(_engine.limit_columns(W, math.inf), W)


def test_columns_without_a_norm_stay(isa, dtype):
    W = np.array([[np.nan, 3.0, 0.0], [1.0, 4.0, 0.0]], dtype)
    np.testing.assert_array_equal(_engine.limit_columns(W, 5.0), W)
    got = _engine.limit_columns(W, 2.5)
    np.testing.assert_array_equal(got[:, [0, 2]], W[:, [0, 2]])
    assert_close(got[:, 1], [1.5, 2.0], 2, kind="product")


def test_sum_of_magnitudes(isa, dtype, rng, widths):
    lanes = _engine.blocking(dtype)["lanes"]
    for n in (*widths, 63 * lanes, 64 * lanes, 64 * lanes + 1, 10_000):
        w = _draw(rng, dtype, n)
        exact = math.fsum(np.abs(w.astype(np.float64)))
        # Chains of 16 within a piece of 64 vectors, which are folded; pieces one after another.
        assert_close(_engine.sum_of_magnitudes(w), exact, 16 + 6 + n // (64 * lanes), kind="product", dtype=dtype)
        assert_close(reference.sum_of_magnitudes(w), exact, n, kind="product", dtype=np.float64)


RULES = {
    "sgd": optimizers.SGD(0.1),
    "momentum": optimizers.SGD(0.1, momentum=0.9),
    "nesterov": optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": optimizers.RMSprop(),
    "adam": optimizers.Adam(),
    "adamw": optimizers.AdamW(),
}


@pytest.mark.parametrize("name", RULES)
def test_update_with_penalties_and_decay(isa, dtype, rng, widths, name):
    penalties = ({"l1": 0.2}, {"weight_decay": 0.3}, {"l1": 0.2, "l2": 0.1, "weight_decay": 0.3})
    for size, penalty in itertools.product(widths, penalties):
        rule = {**RULES[name].rule(), **penalty}
        start, *gradients = (_draw(rng, dtype, size) for _ in range(3))
        start[::4] = 0  # where the gradient of |w| is 0
        w, (oracle,) = start.copy(), _wide(start)
        state, wide_state = (np.zeros(size, dtype), np.zeros(size, dtype)), (np.zeros(size), np.zeros(size))
        for step, g in enumerate(gradients, start=1):
            _engine.update(rule, step, w, g, state)
            reference.update(rule, step, oracle, *_wide(g), wide_state)
            assert_close(w, oracle, step, 1 + np.abs(start), kind="update")
            for got, want in zip(state, wide_state, strict=True):
                assert_close(got, want, step, (1 + np.abs(gradients).max()) ** 2, kind="update")


# ---- Mistakes ----

A, ONES = np.ones((2, 3)), np.ones(3)
MISTAKES = {
    r"rate must be in \[0, 1\]; got 1.5": lambda engine: engine.dropout(A, 1.5, 1, 1, 0),
    r"rate must be in \[0, 1\]; got nan": lambda engine: engine.dropout(A, math.nan, 1, 1, 0),
    "rate must be a number; got str": lambda engine: engine.dropout(A, "0.5", 1, 1, 0),
    "seed must be an integer; got float": lambda engine: engine.dropout(A, 0.5, 1.0, 1, 0),
    "seed must be at least 0; got -1": lambda engine: engine.dropout(A, 0.5, -1, 1, 0),
    r"seed must be less than 2\*\*64; got": lambda engine: engine.dropout(A, 0.5, 2**64, 1, 0),
    "step must be at least 1; got 0": lambda engine: engine.dropout(A, 0.5, 1, 0, 0),
    "layer must be at least 0; got -1": lambda engine: engine.dropout(A, 0.5, 1, 1, -1),
    "first_row must be at least 0; got -4": lambda engine: engine.dropout(A, 0.5, 1, 1, 0, -4),
    "A must have shape": lambda engine: engine.dropout(A[0], 0.5, 1, 1, 0),
    "epsilon must be greater than 0; got 0": lambda engine: engine.batch_norm(A, ONES, ONES, None, 0),
    "epsilon must be greater than 0; got -1": lambda engine: engine.layer_norm(A, ONES, ONES, -1),
    "scale must have shape": lambda engine: engine.batch_norm(A, ONES[:2], ONES),
    "shift must have shape": lambda engine: engine.layer_norm(A, ONES, ONES[:2]),
    "sample_weight must have shape": lambda engine: engine.batch_norm(A, ONES, ONES, ONES),
    "dY must have shape": lambda engine: engine.batch_norm_backward(A[:1], A, ONES),
    "dY must have dtype": lambda engine: engine.layer_norm_backward(A.astype(np.float32), A, ONES),
    "limit must be greater than 0; got 0": lambda engine: engine.clip(ONES, 0),
    "limit must be greater than 0; got nan": lambda engine: engine.limit_columns(A, math.nan),
    "limit must be a number; got NoneType": lambda engine: engine.clip(ONES, None),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named_alike(engine, message):
    with pytest.raises((ValueError, TypeError), match="^" + message):
        MISTAKES[message](engine)


def test_arguments_stay_as_they_are(engine, dtype, rng):
    Z, dY, scale, weights = *_draw(rng, dtype, 2, 6, 5), _draw(rng, dtype, 5), np.ones(6, dtype)
    copies = [array.copy() for array in (Z, dY, scale, weights)]
    engine.dropout(Z, 0.5, 1, 1, 0)
    engine.batch_norm(Z, scale, scale, weights)
    engine.batch_norm_backward(dY, Z, scale, weights)
    engine.layer_norm(Z, scale, scale)
    engine.layer_norm_backward(dY, Z, scale)
    engine.limit_columns(Z, 0.1)
    engine.clip(scale, 0.1)
    for array, copy in zip((Z, dY, scale, weights), copies, strict=True):
        np.testing.assert_array_equal(array, copy)

"""Forecasts of scaled identities are powers of the gain, whatever float64 holds of them."""

import numpy as np
import pytest

import cymlp


@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("gain", [1.5, 0.9, 0.5])
@pytest.mark.parametrize("depth", [1, 2, 50, 152, 500, 2000])
def test_powers_of_the_gain_forward_and_back(depth, gain, activation):
    said = cymlp.forecast([7] * (depth + 1), activation, "scaled_identity", gain=gain, dtype="float64")
    layers = np.arange(depth + 1.0)
    half = 1.0 if activation == "identity" else 0.5**0.5  # of normal inputs ReLU leaves half, once and for all
    with np.errstate(over="ignore", under="ignore"):
        ahead, back = gain**layers, gain ** (depth - layers)
    ahead[1:-1], back[1:-1] = ahead[1:-1] * half, back[1:-1] * half
    if depth > 1:
        ahead[-1], back[0] = ahead[-1] * half, back[0] * half
    for got, expected in ((said.activation_scale, ahead), (said.gradient_scale, back)):
        inside = (expected > 1e-300) & np.isfinite(expected)
        np.testing.assert_allclose(got[inside], expected[inside], rtol=1e-9)
        assert np.all(got[expected == 0] < 1e-300)
        assert np.all(got[np.isinf(expected)] > 1e300)
    if depth > 2:
        np.testing.assert_allclose(said.gradient_depth_scale, 1 / abs(np.log(gain)))


@pytest.mark.parametrize(
    ("gain", "dtype", "text"),
    [
        (0.5, "float32", "activations underflow float32 at layer 127"),
        (2.0, "float32", "Exploding: activations overflow float32 at layer 128"),
        (0.5, "float64", "activations underflow float64 at layer 1023"),
        (1.5, "float64", "Exploding: activations overflow float64 at layer 1751"),
    ],
)
def test_verdicts_name_what_leaves_the_dtype(gain, dtype, text):
    said = cymlp.forecast([7] * 2001, "identity", "scaled_identity", gain=gain, dtype=dtype)
    assert text in said.verdict
    assert str(said.underflow_layer or said.overflow_layer) in text


@pytest.mark.parametrize("depth", [20, 500])
@pytest.mark.parametrize("gain", [1e-3, 0.5])
def test_depth_scales_hold_where_float64_has_no_numbers_left(gain, depth):
    said = cymlp.forecast([50] * (depth + 1), "relu", "xavier", gain=gain)
    expected = -1 / np.log(gain / 2**0.5)
    np.testing.assert_allclose([said.forward_depth_scale, said.gradient_depth_scale], expected, rtol=1e-5)
    np.testing.assert_allclose(said.trainable_depth, 3 * expected, rtol=1e-5)
    assert np.isinf(said.correlation_depth_scale)


def test_a_gain_whose_square_is_infinite_overflows():
    said = cymlp.forecast([64] * 4, gain=1e200)
    assert said.verdict.startswith("Exploding: activations overflow float32 at layer 1")

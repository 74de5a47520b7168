"""Whole numbers for contexts of bits: exact, and near the numbers they stand for."""

import numpy as np
import pytest

from mlic_jax.entropy.bits import integers


def test_frequencies():
    found = integers.frequencies()
    assert found.dtype == np.int32 and found.min() >= 1 and found.max() < 1 << 16
    assert (np.diff(found) >= 0).all() and found[integers.LARGEST_LOGIT] == 1 << 15
    np.testing.assert_array_equal(found + found[::-1], 1 << 16)
    np.testing.assert_allclose(found[integers.LARGEST_LOGIT + 32] / 65536, 1 / (1 + np.exp(-1)), atol=1e-5)


def test_quantise():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 7)) * np.arange(7)
    whole, step = integers.quantise(kernel)
    assert whole.dtype == np.int8 and step.shape == (7,)
    np.testing.assert_allclose(whole * step, kernel, atol=step.max() / 2)
    np.testing.assert_array_equal(np.abs(whole).max((0, 1, 2))[1:], 127)


def test_multipliers():
    rng = np.random.default_rng(0)
    factor = np.concatenate([np.exp2(rng.uniform(-40, 10, 2000)), [1.0, 0.5, 1 - 2.0**-40, 2.0**-45]])
    multiplier, shift = integers.multiplier_of(factor)
    assert multiplier.min() >= 1 << 14 and multiplier.max() < 1 << 15
    np.testing.assert_allclose(multiplier * 2.0 ** -shift.astype(float), factor, rtol=2.0**-15)
    for wrong in (0.0, -1.0, 2.0**-60, 2.0**20, np.nan):
        with pytest.raises(ValueError):
            integers.multiplier_of(np.array([wrong]))


def test_rescale_is_exact():
    """Against Python's integers, at the largest sums and at ties."""
    rng = np.random.default_rng(0)
    top = integers.LARGEST_SUM - 1
    sums = np.concatenate([rng.integers(-top, top, 5000), np.arange(-200, 200), [top, -top, 0]])
    multiplier, shift = integers.multiplier_of(np.exp2(rng.uniform(-30, 3, len(sums))))
    multiplier[::7], shift[::7] = 1 << 14, 15  # a half: every odd sum is a tie
    found = integers.rescale(sums.astype(np.float64), multiplier, shift)
    for value, m, s, y in zip(sums.tolist(), multiplier.tolist(), shift.tolist(), found.tolist(), strict=True):
        assert y == (2 * value * m + (1 << s) >> s + 1)


@pytest.mark.parametrize("shape", [(1, 5, 3), (1000, 300, 64), (7, 70_000, 8), (0, 4, 4)])
def test_products_in_pieces(shape):
    rng = np.random.default_rng(0)
    n, inputs, outputs = shape
    x, kernel = rng.integers(-127, 128, (n, inputs)), rng.integers(-127, 128, (inputs, outputs))
    np.testing.assert_array_equal(integers.product(x.astype(float), kernel.astype(float)), x @ kernel)

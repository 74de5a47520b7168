"""Wasserstein distortion against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.errors import InputError
from mlic_jax.metrics.wasserstein import wasserstein_distortion


@functools.partial(jax.jit, static_argnums=3)
def distortion(a, b, log2_sigma, levels=4):
    return wasserstein_distortion(a, b, log2_sigma, levels)


def textures():
    return np.float32(np.random.default_rng(0).normal(size=(2, 2, 32, 64, 3)))


def test_without_width_it_is_the_squared_error():
    a, b = textures()
    expected = ((a - b) ** 2).sum(-1).mean((1, 2))
    np.testing.assert_allclose(distortion(a, b, 0.0), expected, rtol=1e-5)
    np.testing.assert_allclose(distortion(a, b, -3.0), expected, rtol=1e-5)


def test_with_width_textures_of_equal_statistics_are_nearly_equal():
    a, b = textures()
    wide = distortion(a, b, 4.0)
    assert (wide < 0.1 * distortion(a, b, 0.0)).all()
    assert (distortion(a, 2 * b, 4.0) > 20 * wide).all()  # another variance
    # A shift is one at every width, and between widths there is a line.
    np.testing.assert_allclose(distortion(a, a + 0.5, 3.0), 3 * 0.25, rtol=1e-4)
    between = (distortion(a, b, 2.0) + distortion(a, b, 3.0)) / 2
    np.testing.assert_allclose(distortion(a, b, 2.5), between, rtol=1e-5)


def test_first_level_by_hand():
    """Means and deviations by the filter (1, 3, 3, 1) / 8, twice as far apart as samples."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, 4, 4, 1))

    def statistics(x):
        padded, taps = np.pad(x[0, ..., 0], 1, mode="edge"), np.outer((1, 3, 3, 1), (1, 3, 3, 1)) / 64
        parts = [[padded[i : i + 4, j : j + 4] for j in (0, 2)] for i in (0, 2)]
        mean = np.array([[(taps * part).sum() for part in row] for row in parts])
        return mean, np.sqrt([[(taps * part**2).sum() - m**2 for part, m in zip(*r)] for r in zip(parts, mean)])

    expected = sum(((p - q) ** 2).mean() for p, q in zip(statistics(a), statistics(b)))
    assert float(distortion(a, b, 1.0, 1)[0]) == pytest.approx(expected, 1e-5)


def test_gradients_are_finite_where_nothing_varies():
    flat = jnp.ones((1, 8, 8, 1))
    gradient = jax.jit(jax.grad(lambda x: wasserstein_distortion(x, flat * 2, 2.0, 3).sum()))(flat)
    assert np.isfinite(gradient).all() and np.any(gradient)
    with pytest.raises(InputError, match="multiples of 32"):
        wasserstein_distortion(flat, flat, 0.0)

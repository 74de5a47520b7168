"""Priors of other shapes, and of latents that are rounded softly or with dither: against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from mlic_jax.entropy import (
    DitheredGaussian,
    Gaussian,
    LogLaplace,
    LogLogistic,
    SoftRounded,
    ZeroMean,
    coders,
    quantisers,
    rangecoder,
    tables,
)
from mlic_jax.entropy.priors.adapters import dither
from mlic_jax.entropy.priors.gaussian import SCALE_TABLE

SHAPES = {LogLaplace: stats.laplace, LogLogistic: stats.logistic}


@pytest.mark.parametrize("kind", SHAPES)
def test_other_shapes(kind):
    """Likelihoods, and rows of the table, are SciPy's."""
    x, mean = np.arange(-30, 31).astype(np.float32), np.float32(0.3)
    for scale in (0.2, 1.0, 6.0):
        found = 2.0 ** -np.asarray(kind(jnp.full(x.shape, np.log(scale)), mean).bits(x), np.float64)
        law = SHAPES[kind](mean, scale)
        expected = np.where(x > 0, law.sf(x - 0.5) - law.sf(x + 0.5), law.cdf(x + 0.5) - law.cdf(x - 0.5))
        np.testing.assert_allclose(found, np.maximum(expected, 1e-9), rtol=2e-3)
    table = kind(None).tabulate()
    for row in (0, 20, 40, 63):
        symbols = table.first[row] + np.arange(table.lengths[row] - 1)
        law = SHAPES[kind](0, SCALE_TABLE[row])
        np.testing.assert_allclose(
            table.row(row)[:-1] / tables.TOTAL, law.cdf(symbols + 0.5) - law.cdf(symbols - 0.5), atol=4e-4
        )
        assert 2 * law.sf(-table.first[row] + 0.5) < 2**-12


class LaplaceMixture(LogLaplace):
    """As a user's model would have it."""

    family = "log_laplace_mixture"
    mixture = ((0.75, 0.5), (0.25, 3.0))


def test_mixtures_of_a_shape():
    prior, x = LaplaceMixture(jnp.full(41, np.log(2.0))), np.arange(-20, 21).astype(np.float32)
    expected = sum(
        share * (stats.laplace.cdf(x + 0.5, scale=2 * f) - stats.laplace.cdf(x - 0.5, scale=2 * f))
        for share, f in prior.mixture
    )
    np.testing.assert_allclose(2.0 ** -np.asarray(prior.bits(x)), expected, rtol=1e-4)
    table, row = prior.tabulate(), int(np.argmin(np.abs(SCALE_TABLE - 2)))
    law = np.diff(sum(s * stats.laplace.cdf(np.arange(4) - 0.5, scale=f * SCALE_TABLE[row]) for s, f in prior.mixture))
    middle = -table.first[row]
    np.testing.assert_allclose(table.row(row)[middle : middle + 3] / tables.TOTAL, law, atol=2e-4)


@pytest.mark.parametrize("shape", ["normal", "laplace", "logistic"])
def test_zero_mean_of_other_shapes(shape):
    scales = np.float32([0.2, 1.0, 12.0])
    prior = ZeroMean(3, shape).bind({"params": {"log_scale": np.log(scales)}})
    law = {"normal": stats.norm, "laplace": stats.laplace, "logistic": stats.logistic}[shape]
    table = prior.tabulate()
    for row, scale in enumerate(scales):
        symbols = table.first[row] + np.arange(table.lengths[row] - 1)
        mass = law.cdf(symbols + 0.5, scale=scale) - law.cdf(symbols - 0.5, scale=scale)
        np.testing.assert_allclose(table.row(row)[:-1] / tables.TOTAL, mass, atol=4e-4)
    x = np.float32([[[[0, 1, -5]]]])
    expected = law.cdf(x + 0.5, scale=scales) - law.cdf(x - 0.5, scale=scales)
    np.testing.assert_allclose(2.0 ** -np.asarray(prior.bits(x)), expected, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_density_of_soft_rounding_and_noise(alpha):
    """It is the integral over all latents, and over what noise makes of them."""
    soft = SoftRounded(Gaussian(jnp.full((1, 1, 1, 1), 1.3), 0.4), alpha)
    for z in (-2.2, 0.0, 0.4, 0.95, 3.1):
        grid = np.linspace(-8, 9, 20001)
        rounded = np.asarray(quantisers.soft_round(jnp.asarray(grid - 0.4), alpha)) + 0.4
        density = integrate.trapezoid(stats.norm.pdf(grid, 0.4, 1.3) * (np.abs(z - rounded) < 0.5), grid)
        found = 2.0 ** -float(soft.bits(jnp.full((1, 1, 1, 1), z))[0, 0, 0, 0])
        assert found == pytest.approx(density, abs=2e-3)


def test_training_with_soft_rounding():
    """The proxy hands on the expected latent, nearer to it than noise is; both of one key."""
    latent = jax.random.normal(jax.random.key(0), (2, 4, 5, 3)) * 3
    prior, keys = Gaussian(jnp.full(latent.shape, 3.0), 0.2), jax.vmap(jax.random.key)(np.arange(2))
    received = {}
    for proxy in ("soft", "noise"):
        coder = coders.Training({"y": latent}, keys, proxy, count_rounded=True)
        received[proxy] = coder("y", prior)
        assert coder.bits["y"].shape == (2,) and (coder.bits["y"] > 0).all() and set(coder.rounded_bits) == {"y"}
    soft, noisy = (np.abs(received[proxy] - latent) for proxy in ("soft", "noise"))
    assert soft.max() < 1 and (soft**2).mean() < 1.3 * (noisy**2).mean()
    slope = jax.grad(lambda y: coders.Training({"y": y}, keys, "soft")("y", prior).sum())(latent)
    assert (slope >= 0).all() and slope.mean() == pytest.approx(1, abs=0.5)


def test_files_with_dither():
    """Both sides move alike; the error is uniform and does not know the latent."""
    rng = np.random.default_rng(0)
    shape = (1, 16, 16, 40)
    prior = DitheredGaussian(*(np.rint(rng.normal(0, s, shape) * 256).astype(np.float32) / 256 for s in (1.0, 9)))
    latent = np.float32(np.rint(prior.location) + 0.25)  # rounding would err by a quarter everywhere
    models = {"whole_gaussian": rangecoder.Models(prior.tabulate())}
    encoder = coders.Encoding({"y": latent}, models)
    written = encoder("y", prior)
    decoder = coders.Decoding(encoder.finish(), {"y": shape}, models)
    np.testing.assert_array_equal(decoder("y", prior), written)
    decoder.finish()
    error = (written - latent).ravel()
    assert np.abs(error).max() <= 0.5 and np.var(error) == pytest.approx(1 / 12, rel=0.03)
    assert len(np.unique(error)) == 16 and abs(error.mean()) < 0.01
    np.testing.assert_array_equal(np.rint(written - dither(shape)), written - dither(shape))

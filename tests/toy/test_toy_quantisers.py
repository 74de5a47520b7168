"""Stand-ins for rounding, and the densities that go with them, are what the paper's equations say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from scipy import stats

from mlic_jax.entropy import quantisers
from mlic_jax.errors import UsageError
from mlic_jax.toy import model, priors, transforms

Y = np.linspace(-3.2, 3.2, 1281, dtype=np.float32)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0, 10.0])
def test_soft_rounding_can_be_undone(alpha):
    soft = quantisers.soft_round(Y, alpha)
    np.testing.assert_allclose(quantisers.soft_round_inverse(soft, alpha), Y, atol=1e-4)
    assert (np.diff(soft) > 0).all()
    halves = np.arange(-6, 7) / 2
    np.testing.assert_allclose(quantisers.soft_round(halves, alpha), halves, atol=1e-6)


def test_soft_rounding_goes_from_the_identity_to_rounding():
    z = Y[np.abs(Y - np.round(Y)) < 0.49]
    np.testing.assert_allclose(quantisers.soft_round_mean(z, 300.0), np.round(z), atol=0.02)
    np.testing.assert_allclose(quantisers.soft_round_mean(z, 1e-2), z, atol=1e-4)
    for function in (quantisers.soft_round, quantisers.soft_round_inverse, quantisers.soft_round_mean):
        np.testing.assert_allclose(function(Y, 0.0), Y, atol=3e-7)
    assert np.isfinite(jax.vmap(jax.grad(quantisers.soft_round_inverse), (0, None))(Y, 10.0)).all()


def test_the_conditional_mean_is_that_of_what_led_there():
    y, u = np.random.default_rng(0).uniform([[-4], [-0.5]], [[4], [0.5]], (2, 2_000_000)).astype(np.float32)
    z = np.asarray(quantisers.soft_round(y, 4.0)) + u
    for at in (0.1, 0.4, -0.3):
        near = np.abs(z - at) < 0.02
        np.testing.assert_allclose(y[near].mean(), quantisers.soft_round_mean(jnp.float32(at), 4.0), atol=0.01)


def test_straight_through():
    np.testing.assert_array_equal(quantisers.straight_through(Y), np.round(Y))
    np.testing.assert_array_equal(jax.vmap(jax.grad(quantisers.straight_through))(Y), np.ones_like(Y))


def test_dithered_errors_are_uniform_whatever_the_input():
    rng = np.random.default_rng(1)
    y = (rng.normal(size=50_000) * 0.2 + 0.3).astype(np.float32)  # narrow: plain rounding would not do
    u = rng.uniform(-0.5, 0.5, y.shape).astype(np.float32)
    error = np.asarray(quantisers.dithered(y, u)) - y
    assert stats.kstest(error, stats.uniform(-0.5, 1).cdf).pvalue > 0.01
    assert abs(np.corrcoef(error, y)[0, 1]) < 0.02
    assert stats.kstest(np.round(y) - y, stats.uniform(-0.5, 1).cdf).pvalue < 1e-6


def density_of(kind, channels=1):
    prior = priors.Prior(channels, kind)
    return prior, prior.init(jax.random.key(1), jnp.zeros((1, channels)), jnp.ones((1, channels)), method="bits")


@pytest.mark.slow
def test_expected_gradients_are_those_of_the_expectation():
    prior, params = density_of("lsm-2")

    def bits(x):
        return prior.apply(params, x - 0.5, x + 0.5, method="bits")

    y = jnp.array([[-7.0], [-1.2], [0.4], [3.0], [12.0]])
    u = jax.random.uniform(jax.random.key(2), (4000, *y.shape), minval=-0.5, maxval=0.5)
    sampled = jax.grad(lambda y: bits(y + u).mean(0).sum())(y)
    expected = jax.grad(lambda y: quantisers.with_expected_gradient(bits, y, u[0]).sum())(y)
    np.testing.assert_allclose(expected, sampled, rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(quantisers.with_expected_gradient(bits, y, u[0]), bits(y + u[0]), rtol=1e-6)


@pytest.mark.parametrize("kind", ["deep", "gsm-2", "lsm-3", "gmm-3", "lmm-2"])
def test_priors_are_densities_and_agree_with_float64(kind):
    prior, params = density_of(kind, 2)
    edges = np.arange(-1000.5, 1001)[:, None] * np.ones(2)
    bits = np.asarray(prior.apply(params, edges[:-1], edges[1:], method="bits"))
    np.testing.assert_allclose((2.0**-bits).sum(0), 1, atol=2e-3)
    exact = priors.log_interval(kind, params["params"], edges[:-1], edges[1:], np) / -np.log(2)
    np.testing.assert_allclose(bits, exact, rtol=2e-3, atol=1e-3)
    far = np.array([[-1e4], [1e4]]) * np.ones(2)  # where probabilities underflow
    bits = np.asarray(prior.apply(params, far - 0.5, far + 0.5, method="bits"))
    exact = priors.log_interval(kind, params["params"], far - 0.5, far + 0.5, np) / -np.log(2)
    np.testing.assert_allclose(bits, exact, rtol=5e-3)
    assert bits.min() > 130
    median = priors.quantiles(kind, params["params"], 0.5, 2)
    below, above = priors.log_tails(kind, params["params"], median, np)
    np.testing.assert_allclose(below, above, atol=1e-9)
    mode = priors.modes(kind, params["params"], np.ones(2))
    at = priors.log_interval(kind, params["params"], mode - 0.5, mode + 0.5, np)
    assert (at >= priors.log_interval(kind, params["params"], edges[:-1], edges[1:], np).max(0) - 1e-9).all()


def test_gaussian_intervals_far_out():
    params = {"logits": np.zeros((1, 1)), "log_scales": np.zeros((1, 1))}
    ends = jnp.array([[[30.0]], [[31.0]]])
    got = float(priors.log_interval("gsm-1", {k: jnp.asarray(v) for k, v in params.items()}, *ends)[0, 0])
    exact = scipy.special.log_ndtr(-30.0) + np.log1p(
        -np.exp(scipy.special.log_ndtr(-31.0) - scipy.special.log_ndtr(-30.0))
    )
    np.testing.assert_allclose(got, exact, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.5, 4.0, 9.0])
def test_the_density_of_soft_rounded_and_noisy_latents_is_one(alpha):
    """It integrates to 1, and is that of a histogram of such values."""
    built = model.Model(transforms.Mlp((1,)), transforms.Mlp((1,)), priors.Prior(1, "lsm-1"))
    to = model.trade_off(2, 1.0)
    params = built.init(jax.random.key(0), jnp.zeros((2, 1)), to, method="initialise")
    inner = params["params"]["prior"]
    inner["log_scales"] = jnp.full((1, 1), -0.5)
    z = np.linspace(-12, 12, 24_001, dtype=np.float32)
    bits = built.apply(params, z[:, None], alpha, model.trade_off(len(z), 1.0), method="soft_bits")
    density = 2.0 ** -np.asarray(bits)[:, 0]
    np.testing.assert_allclose(np.trapezoid(density, z), 1, atol=1e-3)
    rng = np.random.default_rng(3)
    y = rng.logistic(scale=np.exp(-0.5), size=1_000_000).astype(np.float32)
    noisy = np.asarray(quantisers.soft_round(y, alpha)) + rng.uniform(-0.5, 0.5, y.shape)
    counts, edges = np.histogram(noisy, 48, (-6, 6), density=True)
    centers = np.searchsorted(z, edges)
    smooth = [density[a:b].mean() for a, b in zip(centers[:-1], centers[1:])]
    np.testing.assert_allclose(counts, smooth, atol=6e-3)


def test_a_prior_that_is_none_is_refused():
    with pytest.raises(UsageError, match="'gsm-0'"):
        density_of("gsm-0")

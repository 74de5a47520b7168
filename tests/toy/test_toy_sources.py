"""Toy sources have the moments, densities and shapes that their definitions give them."""

import jax
import numpy as np
import pytest
from scipy import stats

from mlic_jax import toy
from mlic_jax.errors import TrainingError, UsageError
from mlic_jax.toy import anchors
from mlic_jax.toy.sources import SOURCES

N = 200_000


def grid(low, high, step):
    return np.stack(np.meshgrid(*(np.arange(a, b, step) for a, b in zip(low, high))), -1)


def test_laplace_samples_follow_its_distribution_and_its_moments_are_integrals():
    given, x = toy.source("laplace"), toy.draw("laplace", N)[:, 0]
    assert stats.kstest(x, stats.laplace.cdf).pvalue > 0.01
    t = np.linspace(-40, 40, 800_001)
    density = np.exp(np.asarray(given.log_density(t[:, None]), np.float64))
    for end in (-3.0, 0.0, 1.7, 40.0):
        part = t <= end
        exact = [np.trapezoid((density * t**k)[part], t[part]) for k in range(3)]
        np.testing.assert_allclose(given.moments(np.array([end]))[:, 0], exact, atol=2e-4)
    np.testing.assert_array_equal(given.moments(np.array([-np.inf, np.inf])).T, [[0, 0, 0], [1, 0, 2]])
    np.testing.assert_allclose(-np.asarray(given.log_density(x[:, None])).mean() / np.log(2), given.entropy, atol=0.01)


def test_the_banana_has_its_mean_and_covariance():
    mean, covariance = anchors.banana_moments()
    np.testing.assert_allclose(mean, [-0.2206, -0.5500], atol=1e-4)  # turned the other way it would be elsewhere
    x = toy.draw("banana", N).astype(np.float64)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.1)


def test_the_banana_has_its_density_and_entropy():
    given, x = toy.source("banana"), toy.draw("banana", N)
    points = grid((-16, -16), (24, 16), 0.05)
    density = np.exp(np.asarray(given.log_density(points), np.float64)) * 0.05**2
    np.testing.assert_allclose(density.sum(), 1, atol=1e-3)
    np.testing.assert_allclose((density[..., None] * points).sum((0, 1)), anchors.banana_moments()[0], atol=1e-3)
    np.testing.assert_allclose(-np.asarray(given.log_density(x)).mean() / np.log(2), given.entropy, atol=0.02)


@pytest.mark.parametrize("options", [{}, {"stationary": True}, {"order": 3}])
def test_the_sawbridge_has_the_covariance_of_a_bridge(options):
    x = toy.draw("sawbridge", 100_000, points=9, **options).astype(np.float64)
    t = np.linspace(0, 1, 9)
    exact = np.minimum.outer(t, t) - np.outer(t, t)
    if options.get("stationary"):
        gap = np.abs(t[:, None] - t) % 1
        exact = 1 / 6 - gap * (1 - gap) / 2  # the mean of the above over the beginning
    np.testing.assert_allclose(x.T @ x / len(x), exact, atol=6e-3)
    if not options:
        assert (np.abs(np.diff(x, axis=1) - 1 / 8) < 1e-6).sum(1).min() >= 7  # one jump


def test_processes_of_one_phase():
    ramp, wave = toy.draw("ramp", 1000, points=64), toy.draw("sinusoid", 1000, points=64)
    assert ramp.min() >= -0.5 and ramp.max() < 0.5
    np.testing.assert_allclose(np.sort(ramp, 1).std(1), np.sqrt(1 / 12), atol=1e-3)
    np.testing.assert_allclose((wave**2).mean(1), 0.5, atol=1e-5)


def test_the_sphere_and_its_band():
    np.testing.assert_allclose(np.linalg.norm(toy.draw("sphere", 1000, dim=5), axis=1), 1, atol=1e-5)
    assert toy.source("sphere").log_density is None
    given = toy.source("sphere", dim=2, width=0.5)
    radius = np.linalg.norm(np.asarray(given.sample(jax.random.key(0), N)), axis=1)
    assert stats.kstest(radius, stats.uniform(0.75, 0.5).cdf).pvalue > 0.01
    density = np.exp(np.asarray(given.log_density(grid((-2, -2), (2, 2), 0.01)), np.float64))
    np.testing.assert_allclose(density.sum() * 1e-4, 1, atol=5e-3)


@pytest.mark.parametrize("name", SOURCES)
def test_samples_are_pure_functions_of_the_key(name):
    given = toy.source(name)
    a, b, other = (np.asarray(given.sample(jax.random.key(seed), 4)) for seed in (3, 3, 4))
    assert a.shape == (4, given.dim) and a.dtype == np.float32
    np.testing.assert_array_equal(a, b)
    assert (a != other).any()


def test_bad_sources_are_refused():
    with pytest.raises(UsageError, match="'cauchy'.*laplace, banana"):
        toy.source("cauchy")
    with pytest.raises(UsageError, match="1 dimensions"):
        toy.source("sphere", dim=1)


def test_the_klt_of_samples_is_the_closed_form():
    basis = toy.klt("sawbridge", count=4, points=64, samples=100_000)
    exact = anchors.sawbridge_klt(64, 4)
    np.testing.assert_allclose(basis.variances / exact.variances, 1, atol=0.05)
    np.testing.assert_allclose(np.abs((basis.vectors * exact.vectors).sum(1)), 1, atol=5e-3)
    np.testing.assert_allclose(exact.vectors @ exact.vectors.T, np.eye(4), atol=1e-12)
    with pytest.raises(TrainingError, match="still correlated"):
        toy.klt("sawbridge", count=8, points=64, samples=100)


def test_the_wavelet_transform_is_orthonormal_and_ignores_lines():
    transform = anchors.daubechies(64)
    np.testing.assert_allclose(transform @ transform.T, np.eye(64), atol=1e-12)
    finest = transform[32:]
    inside = finest[np.abs(finest[:, :2]).sum(1) == 0]  # those that do not reach around the end
    np.testing.assert_allclose(inside @ np.arange(64.0), 0, atol=1e-10)
    with pytest.raises(UsageError, match="power of two"):
        anchors.daubechies(48)

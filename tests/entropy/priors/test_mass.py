"""The mass of every prior between any bounds: what soft rounding, dither and wider steps need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.entropy.priors.factorized import DeepFactorized
from mlic_jax.entropy.priors.gaussian import Gaussian, LogGaussian, LogMixture
from mlic_jax.entropy.priors.mixture import Mixture
from mlic_jax.layers.init import materialise

SHAPE = (1, 2, 3, 4)
RNG = np.random.default_rng(0)
SCALE, MEAN = np.float32(RNG.uniform(0.2, 3, SHAPE)), np.float32(RNG.normal(0, 2, SHAPE))
PRIORS = {
    "Gaussian": Gaussian(SCALE, MEAN),
    "LogGaussian": LogGaussian(np.log(SCALE), MEAN),
    "LogMixture": LogMixture(np.log(SCALE), MEAN),
    "Mixture": Mixture(*(np.stack(pair, -2) for pair in ((MEAN, -MEAN), (SCALE, 2 * SCALE), (MEAN, MEAN + 1)))),
    "DeepFactorized": DeepFactorized(SHAPE[-1]),
}


@pytest.mark.parametrize("name", PRIORS)
def test_mass(name):
    prior, variables = PRIORS[name], {}
    if name == "DeepFactorized":
        shapes = jax.eval_shape(lambda key: prior.init(key, jnp.zeros(SHAPE), method="bits"), jax.random.key(0))
        variables = materialise(shapes, jax.random.key(0))

    @jax.jit
    def masses(low, high):
        if not variables:
            return prior.mass(low, high), prior.bits((low + high) / 2)
        return prior.apply(variables, low, high, method="mass"), prior.apply(variables, (low + high) / 2, method="bits")

    x = np.float32(MEAN + 2 * SCALE * RNG.uniform(-1, 1, SHAPE))
    mass, bits = masses(x - 0.5, x + 0.5)
    np.testing.assert_allclose(-np.log2(mass), bits, rtol=1e-4, atol=1e-5)
    # Of neighbours they add up, and of everything they are 1.
    halves = masses(x - 0.5, x + 0.125)[0] + masses(x + 0.125, x + 0.5)[0]
    np.testing.assert_allclose(halves, mass, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(masses(x - 1e4, x + 1e4)[0], 1, atol=1e-5)
    assert masses(x, x)[0].max() == 0
    # More of it is further out, on both sides, and its gradient is finite.
    low, high = jax.grad(lambda low, high: masses(low, high)[0].sum(), (0, 1))(x - 0.5, x + 0.5)
    assert (low <= 0).all() and (high >= 0).all() and np.isfinite(low).all() and (high > 0).any() and (low < 0).any()


def test_tails_keep_their_digits():
    """Of 7 scales, where 1 - 1 would be 0, on either side."""
    prior = Gaussian(jnp.ones(1), jnp.zeros(1))
    right, left = prior.mass(jnp.array([7.0]), jnp.array([8.0])), prior.mass(jnp.array([-8.0]), jnp.array([-7.0]))
    assert right == left == pytest.approx(1.27919e-12, rel=1e-4)

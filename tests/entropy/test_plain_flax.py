"""Our layers and priors in a Flax model and a training loop that know nothing else of this package."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import small

from mlic_jax import entropy
from mlic_jax.entropy import DeepFactorized
from mlic_jax.layers import GDN, Conv, ConvTranspose, Stack


class Codec(nn.Module):
    @nn.compact
    def __call__(self, image, noise):
        y = Stack((Conv(8, kernel=5, stride=4), GDN(), Conv(4, kernel=5, stride=4)))(image) + noise
        shown = Stack((ConvTranspose(8, kernel=5, stride=4), GDN(inverse=True), ConvTranspose(3, kernel=5, stride=4)))(
            y
        )
        return shown, DeepFactorized(4).bits(y)


def test_ten_lines_train():
    model, images = Codec(), jnp.asarray(small.crops(8, 32), jnp.float32) / 255
    noise = jax.random.uniform(jax.random.key(1), (8, 2, 2, 4)) - 0.5
    params = model.init(jax.random.key(0), images, noise)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))

    def loss(params):
        shown, bits = model.apply(params, images, noise)
        return 1000 * jnp.mean((shown - images) ** 2) + bits.sum() / images[..., 0].size

    @jax.jit
    def train(params):
        optimizer = optax.adam(1e-2)

        def step(carry, _):
            value, slope = jax.value_and_grad(loss)(carry[0])
            updates, moments = optimizer.update(slope, carry[1])
            return (optax.apply_updates(carry[0], updates), moments), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=100)

    (trained, _), values = train(params)
    assert np.isfinite(values).all() and values[-1] < 0.5 * values[0]
    # The prior learns as well as the networks.
    before, after = (model.apply(params, images, noise)[1].sum() for params in (params, trained))
    assert after < before


def test_public_names_are_there():
    for name in entropy.__all__:
        assert getattr(entropy, name).__name__ == name

"""Batch normalisation, with running means in the collection "state"."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from mlic_jax.layers import init


class BatchNorm(nn.Module):
    """Normalisation by the batch's moments in training, by their running means (0.99 a step) otherwise."""

    decay: float = 0.99

    @nn.compact
    def __call__(self, x, training: bool):
        x = x.astype(jnp.float32)
        shape = (x.shape[-1],)
        scale = self.param("scale", init.constant(1.0), shape)
        bias = self.param("bias", init.constant(0.0), shape)
        mean = self.variable("state", "mean", lambda: init.constant(0.0)(self.make_rng("params"), shape))
        variance = self.variable("state", "variance", lambda: init.constant(1.0)(self.make_rng("params"), shape))
        if not training:
            return (x - mean.value) * jax.lax.rsqrt(variance.value + 1e-5) * scale + bias
        now, spread = x.mean((0, 1, 2)), x.var((0, 1, 2))
        if not self.is_initializing():
            mean.value = self.decay * mean.value + (1 - self.decay) * now
            variance.value = self.decay * variance.value + (1 - self.decay) * spread
        return (x - now) * jax.lax.rsqrt(spread + 1e-5) * scale + bias

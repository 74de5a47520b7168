"""Generalized divisive normalization (GDN) and its approximate inverse (IGDN).

    GDN:   y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)
    IGDN:  y_i = x_i * sqrt(beta_i + sum_j gamma_ij x_j^2)

Balle, Laparra, Simoncelli, "Density modeling of images using a generalized normalization transformation", ICLR 2016.
beta and gamma are stored as p with value = max(p, bound)^2 - pedestal, as in TensorFlow Compression (v1) and CompressAI,
so the weights of either load unchanged.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.layers import init
from mlic_jax.layers.bounds import lower_bound

PEDESTAL = 2.0**-36
BETA_MIN = 1e-6
BETA_BOUND = float(np.sqrt(BETA_MIN + PEDESTAL))
GAMMA_BOUND = 2.0**-18


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x: jax.Array, beta: jax.Array, gamma: jax.Array, inverse: bool = False) -> jax.Array:
    """GDN (or IGDN) with its own gradient.

    The gradient keeps the norm and redoes nothing but squares: on a CPU, forward and backward take two thirds of what
    automatic differentiation of the plain formula takes.

    Args:
      x: [..., C].
      beta: [C], positive.
      gamma: [C_out, C_in], non-negative.
      inverse: multiply by the norm instead of dividing by it.

    Returns:
      The same shape as `x`.
    """
    return _forward(x, beta, gamma, inverse)[0]


def _forward(x, beta, gamma, inverse):
    flat = x.reshape(-1, x.shape[-1])
    norm2 = beta + (flat * flat) @ gamma.T
    factor = jnp.sqrt(norm2) if inverse else jax.lax.rsqrt(norm2)
    return (flat * factor).reshape(x.shape), (x, factor, gamma)


def _backward(inverse, residuals, g):
    x, factor, gamma = residuals
    shape = x.shape
    x, g = x.reshape(-1, shape[-1]), g.reshape(-1, shape[-1])
    # t = dL/d(norm2): factor = norm2^(+-1/2), so d(factor)/d(norm2) = +-1/2 * factor^(-1 or 3).
    t = 0.5 * g * x / factor if inverse else -0.5 * g * x * factor**3
    dx = g * factor + 2 * x * (t @ gamma)
    return dx.reshape(shape), jnp.sum(t, axis=0), t.T @ (x * x)


normalize.defvjp(_forward, _backward)


class GDN(nn.Module):
    """Generalized divisive normalization over the last axis: [..., C] -> [..., C].

    Attributes:
      inverse: IGDN, as synthesis transforms use.
      dtype: of the output. The normalization itself is computed in float32.
    """

    inverse: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        beta = self.param("beta", init.constant(np.sqrt(1.0 + PEDESTAL)), (channels,))
        gamma = self.param("gamma", init.constant(np.sqrt(0.1 * np.eye(channels) + PEDESTAL)), (channels, channels))
        beta = lower_bound(beta, BETA_BOUND) ** 2 - PEDESTAL
        gamma = lower_bound(gamma, GAMMA_BOUND) ** 2 - PEDESTAL
        y = normalize(x.astype(jnp.float32), beta, gamma, self.inverse)
        return y.astype(self.dtype or x.dtype)

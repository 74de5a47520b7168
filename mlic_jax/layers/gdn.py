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


def _factor(x, beta, gamma, inverse):
    norm2 = beta + (x * x) @ gamma.T
    return jnp.sqrt(norm2) if inverse else jax.lax.rsqrt(norm2)


def _gradients(x, factor, gamma, g, inverse):
    # t = dL/d(norm2): factor = norm2^(+-1/2), so d(factor)/d(norm2) = +-1/2 * factor^(-1 or 3).
    t = 0.5 * g * x / factor if inverse else -0.5 * g * x * (factor * factor * factor)
    return g * factor + 2 * x * (t @ gamma), jnp.sum(t, axis=0), jax.lax.dot_general(t, x * x, (((0,), (0,)), ((), ())))


def _forward_plain(x, beta, gamma, inverse):
    factor = _factor(x, beta, gamma, inverse)
    return x * factor, factor


def _backward_plain(x, factor, gamma, g, inverse):
    return _gradients(x, factor, gamma, g, inverse)


# On a CPU: block by block, so that the squares and their products stay in the cache.


def _block(rows):
    """The largest divisor of `rows` up to 1024; all of them if none is worth it."""
    best = max(n for n in range(1, 1025) if rows % n == 0)
    return best if best >= 128 else rows


def _forward_blocks(x, beta, gamma, inverse):
    shape = x.shape

    def one(x):
        return _forward_plain(x, beta, gamma, inverse)

    y, factor = jax.lax.map(one, x.reshape(-1, _block(shape[0]), shape[1]))
    return y.reshape(shape), factor.reshape(shape)


def _backward_blocks(x, factor, gamma, g, inverse):
    shape = x.shape
    blocks = tuple(a.reshape(-1, _block(shape[0]), shape[1]) for a in (x, factor, g))

    def one(totals, block):
        x, factor, g = block
        dx, dbeta, dgamma = _gradients(x, factor, gamma, g, inverse)
        return (totals[0] + dbeta, totals[1] + dgamma), dx

    totals = jnp.zeros(shape[1:], x.dtype), jnp.zeros(gamma.shape, x.dtype)
    (dbeta, dgamma), dx = jax.lax.scan(one, totals, blocks)
    return dx.reshape(shape), dbeta, dgamma


def _forward(x, beta, gamma, inverse):
    flat = x.reshape(-1, x.shape[-1])
    y, factor = jax.lax.platform_dependent(
        flat,
        beta,
        gamma,
        cpu=functools.partial(_forward_blocks, inverse=inverse),
        default=functools.partial(_forward_plain, inverse=inverse),
    )
    return y.reshape(x.shape), (flat, factor, gamma)


def _backward(inverse, residuals, g):
    flat = g.reshape(-1, g.shape[-1])
    dx, dbeta, dgamma = jax.lax.platform_dependent(
        *residuals,
        flat,
        cpu=functools.partial(_backward_blocks, inverse=inverse),
        default=functools.partial(_backward_plain, inverse=inverse),
    )
    return dx.reshape(g.shape), dbeta, dgamma


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

"""Generalized divisive normalization (GDN) and its approximate inverse (IGDN).

    GDN:   y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)
    IGDN:  y_i = x_i * sqrt(beta_i + sum_j gamma_ij x_j^2)

Balle, Laparra, Simoncelli, "Density modeling of images using a generalized normalization transformation", ICLR 2016.
beta and gamma are stored as p with value = max(p, bound)^2 - pedestal, as in TensorFlow Compression (v1) and
CompressAI, so the weights of either load unchanged.
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
# Samples that a CPU normalizes at a time: 128 channels of them are half a megabyte.
BLOCK = 1024


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x: jax.Array, beta: jax.Array, gamma: jax.Array, inverse: bool = False) -> jax.Array:
    """GDN (or IGDN) with its own gradient.

    The gradient computes the norm again instead of keeping it: on a CPU the matrix product costs less than writing and
    reading another copy of x, and everywhere it saves that memory.

    Args:
      x: [..., C].
      beta: [C], positive.
      gamma: [C_out, C_in], non-negative.
      inverse: multiply by the norm instead of dividing by it.

    Returns:
      The same shape as `x`.
    """
    return _forward(x, beta, gamma, inverse)[0]


def _plain(x, beta, gamma, inverse):
    norm2 = beta + (x * x) @ gamma.T
    return x * (jnp.sqrt(norm2) if inverse else jax.lax.rsqrt(norm2))


def _plain_gradients(x, beta, gamma, g, inverse):
    squares = x * x
    norm2 = beta + squares @ gamma.T
    factor = jnp.sqrt(norm2) if inverse else jax.lax.rsqrt(norm2)
    # t = dL/d(norm2): factor = norm2^(+-1/2), so d(factor)/d(norm2) = +-1/2 * factor^(-1 or 3).
    t = 0.5 * g * x / factor if inverse else -0.5 * g * x * (factor * factor * factor)
    dx = g * factor + 2 * x * (t @ gamma)
    return dx, jnp.sum(t, axis=0), jax.lax.dot_general(t, squares, (((0,), (0,)), ((), ())))


# On a CPU the same block by block, so that squares and products stay in the cache.


def _blocks(x):
    """[N, C] -> [N / n, n, C] with the largest divisor n of N up to BLOCK, or one block if that is small."""
    size = max(n for n in range(1, BLOCK + 1) if x.shape[0] % n == 0)
    return x.reshape(-1, size if size >= BLOCK // 8 else x.shape[0], x.shape[1])


def _blockwise(x, beta, gamma, inverse):
    return jax.lax.map(lambda block: _plain(block, beta, gamma, inverse), _blocks(x)).reshape(x.shape)


def _blockwise_gradients(x, beta, gamma, g, inverse):
    x_blocks = _blocks(x)

    def one(i, carry):
        dbeta, dgamma, g_blocks = carry
        dx, *more = _plain_gradients(x_blocks[i], beta, gamma, g_blocks[i], inverse)
        # dx takes the place of g: no second array of that size to allocate, clear and fill.
        return dbeta + more[0], dgamma + more[1], jax.lax.dynamic_update_index_in_dim(g_blocks, dx, i, 0)

    start = jnp.zeros_like(beta), jnp.zeros_like(gamma), g.reshape(x_blocks.shape)
    dbeta, dgamma, dx = jax.lax.fori_loop(0, x_blocks.shape[0], one, start)
    return dx.reshape(x.shape), dbeta, dgamma


def _forward(x, beta, gamma, inverse):
    flat = x.reshape(-1, x.shape[-1])
    forms = {"cpu": _blockwise, "default": _plain}
    forms = {name: functools.partial(form, inverse=inverse) for name, form in forms.items()}
    return jax.lax.platform_dependent(flat, beta, gamma, **forms).reshape(x.shape), (x, beta, gamma)


def _backward(inverse, residuals, g):
    x, beta, gamma = residuals
    flat, flat_g = (a.reshape(-1, a.shape[-1]) for a in (x, g))
    forms = {"cpu": _blockwise_gradients, "default": _plain_gradients}
    forms = {name: functools.partial(form, inverse=inverse) for name, form in forms.items()}
    dx, dbeta, dgamma = jax.lax.platform_dependent(flat, beta, gamma, flat_g, **forms)
    return dx.reshape(x.shape), dbeta, dgamma


normalize.defvjp(_forward, _backward)


class GDN(nn.Module):
    """Generalized divisive normalization over the last axis: [..., C] -> [..., C].

    Attributes:
      inverse: IGDN, as synthesis transforms use.
      simplified: the norm is beta_i + sum_j gamma_ij |x_j|, without squares and roots: GDN1 of Johnston et al.,
        "Computationally efficient neural image compression", 2019.
      dtype: of the output. The normalization itself is computed in float32.
    """

    inverse: bool = False
    dtype: jnp.dtype | None = None
    simplified: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        beta = self.param("beta", init.constant(np.sqrt(1.0 + PEDESTAL)), (channels,))
        gamma = self.param("gamma", init.constant(np.sqrt(0.1 * np.eye(channels) + PEDESTAL)), (channels, channels))
        beta = lower_bound(beta, BETA_BOUND) ** 2 - PEDESTAL
        gamma = lower_bound(gamma, GAMMA_BOUND) ** 2 - PEDESTAL
        wide = x.astype(jnp.float32)
        if self.simplified:
            norm = beta + jnp.abs(wide) @ gamma.T
            y = wide * norm if self.inverse else wide / norm
        else:
            y = normalize(wide, beta, gamma, self.inverse)
        return y.astype(self.dtype or x.dtype)

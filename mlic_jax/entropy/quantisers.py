"""Rounding, and what stands for it in training. All functions are elementwise.

Balle et al., "Nonlinear Transform Coding", 2021, section III; soft rounding: Agustsson and Theis, "Universally
Quantized Neural Compression", 2020; dithered quantisation: Ziv, "On universal quantization", 1985.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Below this sharpness soft rounding is the identity, to the precision of float32.
SMALLEST_ALPHA = 1e-3
# Next to 1, where atanh is infinite.
_EDGE = 1 - 1e-7


def straight_through(y: jax.Array) -> jax.Array:
    """Rounds (half to even); the gradient is that of the identity."""
    return y + jax.lax.stop_gradient(jnp.round(y) - y)


def dithered(y: jax.Array, u: jax.Array) -> jax.Array:
    """round(y - u) + u: for u uniform in -1/2..1/2, known to both ends, its error is uniform and independent of y."""
    return jnp.round(y - u) + u


def soft_round(y: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """A smooth staircase through all k and k + 1/2: the identity for alpha -> 0, rounding for alpha -> infinity."""
    sharp = jnp.maximum(alpha, SMALLEST_ALPHA)
    middle = jnp.floor(y) + 0.5
    soft = middle + jnp.tanh(sharp * (y - middle)) / (2 * jnp.tanh(sharp / 2))
    return jnp.where(alpha < SMALLEST_ALPHA, y, soft)


def soft_round_inverse(z: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """y for which soft_round(y, alpha) = z."""
    sharp = jnp.maximum(alpha, SMALLEST_ALPHA)
    middle = jnp.floor(z) + 0.5
    inside = jnp.clip((z - middle) * 2 * jnp.tanh(sharp / 2), -_EDGE, _EDGE)
    exact = middle + jnp.clip(jnp.arctanh(inside) / sharp, -0.5, 0.5)
    return jnp.where(alpha < SMALLEST_ALPHA, z, exact)


def soft_round_mean(z: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """E[y | soft_round(y, alpha) + u = z] for y uniform around and u uniform in -1/2..1/2.

    What could have led to z is one whole unit of y: it begins at soft_round_inverse(z - 1/2), and this is its middle.
    """
    return soft_round_inverse(z - 0.5, alpha) + 0.5


def with_expected_gradient(function: Callable, y: jax.Array, u: jax.Array) -> jax.Array:
    """f(y + u), with the gradient that E f(y + u) has, u uniform in -1/2..1/2: exactly f(y + 1/2) - f(y - 1/2).

    Args:
      function: elementwise; gradients of what else it depends on are those at y + u.
      y, u: same shape.
    """
    fixed = jax.lax.stop_gradient(y)
    slope = jax.lax.stop_gradient(function(fixed + 0.5) - function(fixed - 0.5))
    return function(fixed + u) + slope * (y - fixed)

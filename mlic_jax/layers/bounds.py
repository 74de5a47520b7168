"""Clamps whose gradient can lead back into the allowed range.

The gradient of `jnp.maximum(x, bound)` is zero below the bound, so a parameter that has crossed it never returns.
These pass the gradient on whenever a step of gradient descent would move `x` towards the allowed side (Balle et al.,
"Density modeling of images using a generalized normalization transformation", 2016; `lower_bound` and `upper_bound` of
TensorFlow Compression and CompressAI).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def lower_bound(x: jax.Array, bound: float | jax.Array) -> jax.Array:
    """`max(x, bound)`, with a gradient that can pull `x` up from below.

    Args:
      x: any shape.
      bound: a number, or an array that broadcasts to `x`. It receives no gradient.

    Returns:
      The same shape and dtype as `x`. The gradient g passes where x >= bound or g < 0 (descent would raise x).
    """
    x = jnp.asarray(x)
    return _lower_bound(x, jnp.asarray(bound, x.dtype))


@jax.custom_vjp
def _lower_bound(x, bound):
    return jnp.maximum(x, bound)


def _lower_bound_forward(x, bound):
    return _lower_bound(x, bound), (x, bound)


def _lower_bound_backward(residuals, g):
    x, bound = residuals
    return jnp.where((x >= bound) | (g < 0), g, jnp.zeros_like(g)), jnp.zeros_like(bound)


_lower_bound.defvjp(_lower_bound_forward, _lower_bound_backward)


def upper_bound(x: jax.Array, bound: float | jax.Array) -> jax.Array:
    """`min(x, bound)`, with a gradient that can pull `x` down from above.

    Args:
      x: any shape.
      bound: a number, or an array that broadcasts to `x`. It receives no gradient.

    Returns:
      The same shape and dtype as `x`. The gradient g passes where x <= bound or g > 0 (descent would lower x).
    """
    x = jnp.asarray(x)
    return _upper_bound(x, jnp.asarray(bound, x.dtype))


@jax.custom_vjp
def _upper_bound(x, bound):
    return jnp.minimum(x, bound)


def _upper_bound_forward(x, bound):
    return _upper_bound(x, bound), (x, bound)


def _upper_bound_backward(residuals, g):
    x, bound = residuals
    return jnp.where((x <= bound) | (g > 0), g, jnp.zeros_like(g)), jnp.zeros_like(bound)


_upper_bound.defvjp(_upper_bound_forward, _upper_bound_backward)

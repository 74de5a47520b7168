"""Analysis and synthesis transforms of toy codes, some of which are told what trade-off they are to make."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.errors import UsageError

ACTIVATIONS = {"softplus": jax.nn.softplus, "leaky_relu": jax.nn.leaky_relu, "relu": jax.nn.relu, "tanh": jnp.tanh}
# Width of the network that turns a trade-off into scales and biases.
FILM_WIDTH = 16


class Mlp(nn.Module):
    """Dense layers.

    Attributes:
      widths: of all layers; the last one has no activation. One width: a linear transform with bias.
      activation: a key of ACTIVATIONS.
      conditioning: what follows each layer where a trade-off is given. None: nothing. "table": a scale and a bias for
        each entry of a table (Choi, El-Khamy, Lee, "Variable rate deep image compression with a conditional
        autoencoder", 2019). "film": a scale and a bias by a small network from log lam (Dosovitskiy and Djolonga,
        "You only train once: loss-conditional training", 2020).
    """

    widths: tuple[int, ...]
    activation: str = "softplus"
    conditioning: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """[n, d] -> [n, widths[-1]]; condition [n, k]: one-hot for "table", log lam for "film"."""
        for i, width in enumerate(self.widths):
            x = nn.Dense(width)(x)
            if self.conditioning:
                scale, bias = self._scale_and_bias(condition, width)
                x = scale * x + bias
            if i < len(self.widths) - 1:
                x = ACTIVATIONS[self.activation](x)
        return x

    def _scale_and_bias(self, condition, width):
        if self.conditioning == "table":
            one = nn.initializers.constant(math.log(math.expm1(1.0)))  # softplus makes 1 of it
            scale = nn.Dense(width, use_bias=False, kernel_init=one)(condition)
            return jax.nn.softplus(scale), nn.Dense(width, use_bias=False, kernel_init=nn.initializers.zeros)(condition)
        hidden = jnp.tanh(nn.Dense(FILM_WIDTH)(condition))
        scale, bias = jnp.split(nn.Dense(2 * width, kernel_init=nn.initializers.zeros)(hidden), 2, -1)
        return 1 + scale, bias


class Orthonormal(nn.Module):
    """A fixed orthonormal transform with a learned gain and bias per coefficient, and its counterpart.

    Attributes:
      vectors: [k, d] orthonormal rows.
      mean: [d].
      inverse: whether it leads from coefficients back.
    """

    vectors: np.ndarray
    mean: np.ndarray
    inverse: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """[n, d] -> [n, k], or [n, k] -> [n, d]."""
        del condition
        vectors, mean = np.asarray(self.vectors, np.float32), np.asarray(self.mean, np.float32)
        log_gain = self.param("log_gain", nn.initializers.zeros, (len(vectors),))
        bias = self.param("bias", nn.initializers.zeros, (len(vectors),))
        if self.inverse:
            return (x * jnp.exp(log_gain) + bias) @ vectors + mean
        return (x - mean) @ vectors.T * jnp.exp(log_gain) + bias


def check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise UsageError(f"no activation is called {name!r}; there are {', '.join(ACTIVATIONS)}")

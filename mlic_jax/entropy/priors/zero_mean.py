"""A learned scale for each channel, around zero: what is left to say of a latent that nothing predicts.

As for the coarsest latent of Hu, Yang, Liu, "Coarse-to-fine hyper-prior modeling", AAAI 2020.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import tables
from mlic_jax.entropy.priors.gaussian import LOG_MAX, LOG_MIN, TAIL_MASS, likelihood, mass_at, mass_between
from mlic_jax.entropy.priors.shapes import SHAPES
from mlic_jax.layers import init
from mlic_jax.layers.bounds import lower_bound, upper_bound


class ZeroMean(nn.Module):
    """The density of a latent [B, h, w, C]: a symmetric one with a scale for each channel.

    Attributes:
      channels: C.
      shape: a key of mlic_jax.entropy.priors.shapes.SHAPES: "normal", N(0, scale^2), "logistic" or "laplace".
      family: the name under which its table stands in an artifact.
      limit: the largest symbol that is coded, on either side; None: no such limit.
    """

    channels: int
    shape: str = "normal"
    family: str = "zero_mean"
    limit: int | None = None

    def setup(self):
        self.log_scale = self.param("log_scale", init.constant(1.0), (self.channels,))

    def bits(self, x: jax.Array) -> jax.Array:
        """-log2 of the likelihood of x, same shape."""
        return -jnp.log2(likelihood(x, self._scales(x), shape=SHAPES[self.shape]))

    def mass(self, low: jax.Array, high: jax.Array) -> jax.Array:
        """P(low < X < high), for finite bounds of the latent's shape."""
        return mass_between(low, high, self._scales(low), shape=SHAPES[self.shape])

    def _scales(self, x):
        logs = upper_bound(lower_bound(self.log_scale, LOG_MIN), LOG_MAX)
        return jnp.broadcast_to(jnp.exp(logs), x.shape)

    @property
    def center(self):
        """Latents are rounded to whole numbers."""
        return 0.0

    def indexes(self, shape: tuple[int, ...], table: tables.Table) -> np.ndarray:
        """Row of the table for every entry of a latent of that shape (.., C): its channel."""
        del table
        return np.broadcast_to(np.arange(self.channels, dtype=np.int32), shape)

    def export_state(self) -> dict:
        """Nothing: all that is fixed stands in the table."""
        return {}

    def tabulate(self) -> tables.Table:
        """The integer table, one row a channel."""
        logs = np.asarray(self.variables["params"]["log_scale"], np.float64)
        rows, first, shape = [], [], SHAPES[self.shape]
        for scale in np.exp(np.clip(logs, LOG_MIN, LOG_MAX)):
            width = next(w for w in (1 << n for n in range(14)) if 2 * shape.tail64((w + 0.5) / scale) < TAIL_MASS)
            rows.append(mass_at(np.abs(np.arange(-width, width + 1)), scale, shape=shape))
            first.append(-width)
        return tables.build(rows, np.array(first))

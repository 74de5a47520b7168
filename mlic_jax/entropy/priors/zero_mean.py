"""A learned scale for each channel, around zero: what is left to say of a latent that nothing predicts.

As for the coarsest latent of Hu, Yang, Liu, "Coarse-to-fine hyper-prior modeling", AAAI 2020.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import tables
from mlic_jax.entropy.priors.gaussian import LOG_MAX, LOG_MIN, TAIL_MASS, LogGaussian, mass_at
from mlic_jax.layers import init


class ZeroMean(nn.Module):
    """The density of a latent [B, h, w, C]: N(0, scale^2), a scale for each channel.

    Attributes:
      channels: C.
      family: the name under which its table stands in an artifact.
      limit: the largest symbol that is coded, on either side; None: no such limit.
    """

    channels: int
    family: str = "zero_mean"
    limit: int | None = None

    def setup(self):
        self.log_scale = self.param("log_scale", init.constant(1.0), (self.channels,))

    def bits(self, x: jax.Array) -> jax.Array:
        """-log2 of the likelihood of x, same shape."""
        return self._conditional(x).bits(x)

    def mass(self, low: jax.Array, high: jax.Array) -> jax.Array:
        """P(low < X < high), for finite bounds of the latent's shape."""
        return self._conditional(low).mass(low, high)

    def _conditional(self, x):
        return LogGaussian(jnp.broadcast_to(self.log_scale, x.shape))

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
        from scipy import special  # late: see priors/gaussian.py

        logs = np.asarray(self.variables["params"]["log_scale"], np.float64)
        scales = np.exp(np.clip(logs, LOG_MIN, LOG_MAX))
        widths = np.ceil(-special.ndtri(TAIL_MASS / 2) * scales).astype(int)
        rows = [
            mass_at(np.abs(np.arange(-width, width + 1)), scale) for width, scale in zip(widths, scales, strict=True)
        ]
        return tables.build(rows, -widths)

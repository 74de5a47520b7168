"""What becomes of a prior where latents are rounded in another way than to the nearest whole distance from its centre.

Soft rounding: Agustsson and Theis, "Universally quantized neural compression", NeurIPS 2020. Dithered quantisation:
Ziv, "On universal quantization", 1985, and the same paper.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import tables
from mlic_jax.entropy.priors.gaussian import LIKELIHOOD_FLOOR
from mlic_jax.entropy.priors.whole import PHASES, WholeGaussian
from mlic_jax.entropy.quantisers import soft_round, soft_round_inverse, soft_round_mean
from mlic_jax.layers.bounds import lower_bound

# How sharp soft rounding is where nothing is said: that of TensorFlow Compression.
ALPHA = 5.0


class SoftRounded(NamedTuple):
    """The density of a latent that was rounded softly around its prior's centre, uniform noise added.

    Attributes:
      prior: of the latent; it has `mass`.
      alpha: how sharp: 0 is no rounding, infinity rounding.
    """

    prior: Any
    alpha: float = ALPHA

    def rounded(self, x: jax.Array) -> jax.Array:
        """The latent, softly rounded, without noise."""
        return soft_round(x - self.prior.center, self.alpha) + self.prior.center

    def expected(self, noisy: jax.Array) -> jax.Array:
        """The expected latent, given what noise made of its soft rounding."""
        return soft_round_mean(noisy - self.prior.center, self.alpha) + self.prior.center

    def bits(self, noisy: jax.Array) -> jax.Array:
        """-log2 of the likelihood, same shape: of all latents that can have become this."""
        center = self.prior.center
        low, high = (soft_round_inverse(noisy - center + side, self.alpha) + center for side in (-0.5, 0.5))
        return -jnp.log2(lower_bound(self.prior.mass(low, high), LIKELIHOOD_FLOOR))


class DitheredGaussian(WholeGaussian):
    """`WholeGaussian`, of latents whose rounding is moved by a pseudo-random part of a step that both sides know.

    The error of rounding is then uniform and does not depend on the latent, as the noise of training is: what was
    learned by the proxy "noise" holds in files to the last digit. Its table is that of WholeGaussian.
    """

    @property
    def center(self):
        """Multiples of a step, moved, that are nearest to the means."""
        moved = dither(self.location.shape)
        return self._moved(moved).center + moved

    def indexes(self, shape: tuple[int, ...], table: tables.Table) -> np.ndarray:
        """Row of the table for every entry, uint16."""
        return self._moved(dither(shape)).indexes(shape, table)

    def _moved(self, moved):
        return WholeGaussian(self.log_scale, self.location - moved)


def dither(shape: tuple[int, ...]) -> np.ndarray:
    """Pseudo-random parts of a step, float32 [1, h, w, C] for a latent of [B, h, w, C]: one of 16, -15/32 to 15/32.

    By whole numbers, from the place of an entry alone: a multiplicative hash (splitmix64).
    """
    with np.errstate(over="ignore"):
        place = np.arange(np.prod(shape[1:]), dtype=np.uint64).reshape(1, *shape[1:]) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            place = (place ^ (place >> np.uint64(shift))) * np.uint64(factor)
    chosen = (place ^ (place >> np.uint64(31))) % np.uint64(PHASES)
    return ((chosen.astype(np.float32) + np.float32(0.5)) / PHASES - np.float32(0.5)).astype(np.float32)

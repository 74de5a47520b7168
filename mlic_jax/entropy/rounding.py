"""How an encoder makes integers of latents: to nearest, or for rate.

Rounding for rate moves a symbol by one towards zero where that saves more bits than the larger squared error is worth,
as encoders of video do with transform coefficients (rate-distortion optimised quantisation). A decoder reads symbols
either way and knows of none of this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

# Symbols whose bits are computed together: what that takes on the way is many times the memory of the symbols.
_AT_ONCE = 1 << 18


@dataclasses.dataclass(frozen=True)
class Rounding:
    """A policy: which latents are rounded for rate, and how bits weigh against errors; all others go to nearest.

    Attributes:
      weights: name of a latent -> how many bits it must save to enlarge a squared rounding error by one: a number, or
        a pair for quality 0 and 100 and, between them, what a line gives. Its prior has `symbol_bits`.
      curvature: of those latents, the bits that a squared error of one is worth as far as synthesis is linear: how far
        refinement steps (mlic_jax.families.refine).
    """

    weights: Mapping[str, float | tuple[float, float]] = dataclasses.field(default_factory=dict)
    curvature: float = 1.0

    def weighs(self, name: str) -> bool:
        """Whether a latent is rounded for rate."""
        return name in self.weights

    def weight(self, name: str, quality):
        """A number, or at qualities [B] of a pair [B, 1, 1, 1]."""
        weight = self.weights[name]
        if not isinstance(weight, tuple):
            return weight
        low, high = weight
        return (low + (high - low) / 100 * quality)[:, None, None, None]

    def values(self, name: str, latent: jax.Array, prior, quality: jax.Array | None) -> jax.Array:
        """What a decoder knows of a latent [B, h, w, C], by JAX: integer distances from the prior's centre, and that.

        No gradient passes.
        """
        if not self.weighs(name):
            center = prior.center
            symbols = jnp.round(latent - center)
            if prior.limit is not None:
                symbols = jnp.clip(symbols, -prior.limit, prior.limit)
            return symbols + center
        weight = self.weight(name, quality)
        exact = latent - prior.center
        nearest = jnp.round(exact)
        smaller = nearest - jnp.sign(nearest)
        saved = prior.bits(nearest + prior.center) - prior.bits(smaller + prior.center)
        worse = (exact - smaller) ** 2 - (exact - nearest) ** 2
        return jnp.where(saved > weight * worse, smaller, nearest) + prior.center

    def move(self, name: str, exact: np.ndarray, symbols: np.ndarray, prior, quality: np.ndarray | None) -> None:
        """The same decision by NumPy: moves symbols that were rounded to nearest, in place.

        Args:
          exact: the distances [1, h, w, C] that `symbols` are rounded from.
          quality: float [1], or None for models of one rate.
        """
        if not self.weighs(name):
            return
        weight = np.ravel(self.weight(name, quality))[0]
        exact, shape = exact.reshape(-1), symbols.shape
        for start in range(0, symbols.size, _AT_ONCE):
            places = start + np.flatnonzero(symbols.flat[start : start + _AT_ONCE])
            nearest = symbols.flat[places]
            smaller = nearest - np.sign(nearest)
            saved = prior.symbol_bits(nearest, places, shape) - prior.symbol_bits(smaller, places, shape)
            better = saved > weight * ((exact[places] - smaller) ** 2 - (exact[places] - nearest) ** 2)
            symbols.flat[places[better]] = smaller[better]


NEAREST = Rounding()

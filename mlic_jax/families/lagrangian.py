"""The loss of codecs that are trained for rate and distortion together: lmbda * distortion + bits per pixel."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.families.common import mse255

DISTORTIONS = ("mse", "ms-ssim")
# How the loss at one quality weighs against that at another, where one model is trained for all. Losses grow about as
# the square root of the weight of their distortion; divided by it, no quality's gradients drown the others'.
WEIGHT_EXPONENT = 0.5


@dataclasses.dataclass(frozen=True)
class Lagrangian:
    """The loss of a picture.

    Attributes:
      lmbda: the weight of the distortion; for a model of every rate those of quality 0 and 100, between which the
        logarithm is linear.
      distortion: "mse", the mean squared error in steps of 8 bits, or "ms-ssim", one minus MS-SSIM.
    """

    lmbda: float | tuple[float, float]
    distortion: str = "mse"

    def weights(self, quality: jax.Array | None):
        """[B] -> those of the distortion, and of the whole loss, each [B]; None -> two numbers."""
        if quality is None:
            return self.lmbda, 1.0
        low, high = np.log(self.lmbda)
        log = low + (high - low) / 100 * quality
        return jnp.exp(log), jnp.exp(((low + high) / 2 - log) * WEIGHT_EXPONENT)

    def of_distortion(self, quality: float | None) -> float | None:
        """The weight of the distortion at the quality of one picture; None for a model of one rate.

        An artifact does not tell how bits and errors were weighed in its training where that was one number.
        """
        return None if quality is None else float(self.weights(np.float32(quality))[0])

    def distort(self, image: jax.Array, shown: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Float [B, H, W, 3] both -> squared errors in steps of 8 bits, and the distortion, each [B]."""
        squared = mse255(image, shown)
        if self.distortion == "mse":
            return squared, squared
        from mlic_jax.metrics.msssim import ms_ssim

        return squared, 1 - ms_ssim(image, shown, data_range=1.0)

"""The forward pass of a latent model in training, to write objectives around.

    passed = codec.forward(params, state, batch, keys, step)
    loss = jnp.mean(passed.bits_per_pixel()) + jnp.mean((passed.image - passed.reconstruction) ** 2) + ...

`LatentCodec.rd_loss` is one such objective. Others are methods of a subclass of `LatentCodec`, which has the networks
that they need besides as `training_only` (mlic_jax.families.base), and which `latent_codec` is told as `family`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mlic_jax.codec import Params, State
from mlic_jax.entropy import coders
from mlic_jax.families.common import pad
from mlic_jax.layers.windows import to_float


class Forward(NamedTuple):
    """What a latent model makes of a batch of B pictures of H x W pixels.

    Attributes:
      image: float32 [B, H, W, 3] in [0, 1], the pictures.
      quality: float32 [B] that each was coded with, or None.
      reconstruction: float32 [B, H, W, 3], not clipped.
      received: name -> float32 [B, h, w, C], what stands for each latent in a decoder: noisy or rounded, by its proxy.
      bits: name -> float32 [B], differentiable code lengths of latents by their proxies.
      rounded_bits: name -> float32 [B], of rounded latents by the same priors, where they were asked for; else empty.
      state: the new state of the model.
    """

    image: jax.Array
    quality: jax.Array | None
    reconstruction: jax.Array
    received: Mapping[str, jax.Array]
    bits: Mapping[str, jax.Array]
    rounded_bits: Mapping[str, jax.Array]
    state: State

    def bits_per_pixel(self) -> jax.Array:
        """Of all latents by their proxies, float32 [B]."""
        return sum(self.bits.values()) / self.pixels

    def rounded_bits_per_pixel(self) -> jax.Array:
        """Of all latents, rounded, float32 [B]."""
        return sum(self.rounded_bits.values()) / self.pixels

    @property
    def pixels(self) -> int:
        """Of a picture."""
        return self.image.shape[1] * self.image.shape[2]


def forward(
    module,
    params: Params,
    state: State,
    image: jax.Array,
    keys: jax.Array,
    proxy: str | Mapping[str, str],
    *,
    quality: jax.Array | None = None,
    quantised: Any = None,
    count_rounded: bool = False,
) -> Forward:
    """Runs a latent model on a batch.

    Args:
      module: a mlic_jax.families.latent.LatentModel.
      params, state: of the model.
      image: uint8 [B, H, W, 3].
      keys, proxy, quantised, count_rounded: see mlic_jax.entropy.coders.Training.
      quality: float [B] for a model of every rate, else None.
    """
    image = to_float(image)
    make_coder = functools.partial(
        coders.Training, keys=keys, proxy=proxy, quantised=quantised, count_rounded=count_rounded
    )
    (reconstruction, coder), changed = module.apply(
        {"params": params, "state": state}, pad(image, module.stride), make_coder, quality, mutable=["state"]
    )
    reconstruction = reconstruction.astype(jnp.float32)[:, : image.shape[1], : image.shape[2]]
    new_state = {**state, **changed.get("state", {})}
    return Forward(image, quality, reconstruction, coder.received, coder.bits, coder.rounded_bits, new_state)

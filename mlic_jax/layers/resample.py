"""Pictures of twice and half the size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Keys' cubic kernel, a = -1/2, at distances 1.25, 0.25, 0.75 and 1.75: the taps of twice as many samples.
_CUBIC = np.array([-0.0703125, 0.8671875, 0.2265625, -0.0234375], np.float32)


def upsample(x: jax.Array) -> jax.Array:
    """Bicubic, [B, H, W, C] -> [B, 2 H, 2 W, C]: `jax.image.resize(..., "cubic")`, but with the edge repeated."""
    for axis in (1, 2):
        pads = [(0, 0)] * 4
        pads[axis] = (2, 2)
        padded = jnp.pad(x, pads, mode="edge")
        length = x.shape[axis]

        def taps(weights, first, padded=padded, axis=axis, length=length):
            parts = (
                weight * jax.lax.slice_in_dim(padded, first + i, first + i + length, axis=axis)
                for i, weight in enumerate(weights)
            )
            return sum(parts)

        # The samples a quarter before and after each input sample.
        both = jnp.stack([taps(_CUBIC[::-1], 0), taps(_CUBIC, 1)], axis=axis + 1)
        x = both.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])
    return x


def box_downsample(x: jax.Array) -> jax.Array:
    """Means of 2x2 samples: [B, 2 H, 2 W, C] -> [B, H, W, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))

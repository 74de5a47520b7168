"""Layers that repeat the edge of what they see, and others of networks on pictures (mlic_jax.families.sandwich)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.layers import init
from mlic_jax.layers.conv import conv


class EdgeConv(nn.Module):
    """3x3 convolution, the edge repeated: [B, H, W, Cin] -> [B, ceil(H / stride), ceil(W / stride), features].

    Attributes:
      features: output channels.
      stride: of the output grid; output sample (i, j) is centred on input (i stride, j stride).
      gain: of the initial normal weights, 0 for a layer that begins by saying nothing.
      padding: "edge", or "zero" as published.
      conditional: scale and shift output channels by what the condition says, which begins with nothing.
    """

    features: int
    stride: int = 1
    gain: float = 2**0.5
    padding: str = "edge"
    conditional: bool = False

    @nn.compact
    def __call__(self, x, condition=None):
        kernel = self.param("kernel", init.Normal(self.gain), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", init.constant(0.0), (self.features,))
        if self.padding == "edge":
            # `conv` pads with zeros by itself: the repeated edge reaches as far as the samples that are kept look.
            rows, columns = (-(-side // self.stride) for side in x.shape[1:3])
            x = jnp.pad(x, ((0, 0), (self.stride,) * 2, (self.stride,) * 2, (0, 0)), mode="edge")
            y = conv(x, kernel, bias, self.stride)[:, 1 : 1 + rows, 1 : 1 + columns]
        else:
            y = conv(x, kernel, bias, self.stride)
        if self.conditional:
            further = self.param("condition", init.constant(0.0), (2, 2, self.features))
            powers = jnp.stack([condition, condition**2], -1)
            gain, shift = jnp.einsum("bp,kpf->kbf", powers, further)[:, :, None, None]
            y = y * (1 + gain) + shift
        return y


class BatchNorm(nn.Module):
    """Normalisation by the batch's moments in training, by their running means (0.99 a step) otherwise."""

    decay: float = 0.99

    @nn.compact
    def __call__(self, x, training: bool):
        shape = (x.shape[-1],)
        scale = self.param("scale", init.constant(1.0), shape)
        bias = self.param("bias", init.constant(0.0), shape)
        mean = self.variable("state", "mean", init.constant(0.0), None, shape)
        variance = self.variable("state", "variance", init.constant(1.0), None, shape)
        if not training:
            return (x - mean.value) * jax.lax.rsqrt(variance.value + 1e-5) * scale + bias
        now, spread = x.mean((0, 1, 2)), x.var((0, 1, 2))
        if not self.is_initializing():
            mean.value = self.decay * mean.value + (1 - self.decay) * now
            variance.value = self.decay * variance.value + (1 - self.decay) * spread
        return (x - now) * jax.lax.rsqrt(spread + 1e-5) * scale + bias


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

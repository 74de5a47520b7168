"""Blocks for codecs that work at one eighth and one sixteenth of the picture's resolution.

After the single-resolution codecs of the DCVC family (Jia et al., "Towards practical real-time neural video
compression", CVPR 2025): all downsampling is moving samples into channels, nearly all work is matrix products. What is
cheap on a CPU decides the rest: ReLU, dense 3x3 kernels or shifted channels in place of depthwise ones.

In every block the layer with a kernel comes first, so that zeros outside of the picture (layers/windows.py) are what it
would see as its own padding.
"""

from __future__ import annotations

from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.layers import init
from mlic_jax.layers.conv import conv, pointwise
from mlic_jax.layers.precision import Precision


class _SameSize:
    """What layers/windows.py asks of a layer whose output sample depends on its input sample and the eight around."""

    scale = Fraction(1)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample along an axis on which the output samples first..last depend."""
        return first - 1, last + 1


def _parameters(module, name, kernel, size, inputs, features, dtype):
    """(kernel [size, size, inputs, features], bias [features]) in dtype; kernel is an initialiser."""
    weights = module.param(f"{name}_kernel", kernel, (size, size, inputs, features))
    bias = module.param(f"{name}_bias", init.constant(0.0), (features,))
    return weights.astype(dtype), bias.astype(dtype)


def shift(x: jax.Array) -> jax.Array:
    """Moves an eighth of the channels by one sample up, one down, one left, one right; zeros come in. Same shape.

    Wu et al., "Shift: a zero FLOP, zero parameter alternative to spatial convolutions", CVPR 2018.
    """
    part = x.shape[-1] // 8
    height, width = x.shape[1:3]
    wide = jnp.pad(x[..., : 4 * part], ((0, 0), (1, 1), (1, 1), (0, 0)))
    moved = [
        wide[:, 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width, i * part : (i + 1) * part]
        for i, (rows, columns) in enumerate(((1, 0), (-1, 0), (0, 1), (0, -1)))
    ]
    return jnp.concatenate([*moved, x[..., 4 * part :]], axis=-1)


class ShiftBlock(_SameSize, nn.Module):
    """x + W relu(V shift(x)): [B, h, w, C] -> same.

    Attributes:
      expansion: hidden channels per channel.
      dtype: to compute and return in, the input's where None; parameters stay float32.
      precision: of products, see layers/precision.py.
    """

    expansion: int = 2
    dtype: jnp.dtype | None = None
    precision: Precision | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, dtype = x.shape[-1], self.dtype or x.dtype
        wide, wide_bias = _parameters(self, "wide", init.Normal(2**0.5), 1, channels, self.expansion * channels, dtype)
        # Small, so that a deep stack of blocks begins near the identity.
        narrow, narrow_bias = _parameters(
            self, "narrow", init.Normal(0.3), 1, self.expansion * channels, channels, dtype
        )
        hidden = nn.relu(pointwise(shift(x.astype(dtype)), wide, self.precision) + wide_bias)
        return x + pointwise(hidden, narrow, self.precision) + narrow_bias


class ConvBlock(_SameSize, nn.Module):
    """x + W relu(K * x), K of 3x3: [B, h, w, C] -> same.

    Attributes:
      dtype: to compute and return in, the input's where None; parameters stay float32.
      precision: of products, see layers/precision.py.
    """

    dtype: jnp.dtype | None = None
    precision: Precision | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, dtype = x.shape[-1], self.dtype or x.dtype
        wide, wide_bias = _parameters(self, "wide", init.Normal(2**0.5), 3, channels, channels, dtype)
        narrow, narrow_bias = _parameters(self, "narrow", init.Normal(0.3), 1, channels, channels, dtype)
        hidden = nn.relu(conv(x.astype(dtype), wide, wide_bias, 1, self.precision))
        return x + pointwise(hidden, narrow, self.precision) + narrow_bias


def interpolation(quality, levels: int) -> jax.Array:
    """Weights of `levels` nodes at equal distances in 0..100, for piecewise linear interpolation.

    quality: float [B]. Returns float32 [B, levels], rows that sum to 1.
    """
    place = jnp.asarray(quality, jnp.float32)[:, None] * ((levels - 1) / 100)
    return jnp.maximum(0, 1 - jnp.abs(place - jnp.arange(levels)))


class Gain(nn.Module):
    """A factor for each channel that depends on the quality: what makes one model serve every rate.

    After Cui et al., "Asymmetric gained deep image compression with continuous rate adaptation", CVPR 2021: logarithms
    of gains at some levels, interpolated between them.

    Attributes:
      levels: nodes at equal distances in quality 0..100.
      log_init: of the logarithms [levels, C].
    """

    levels: int
    log_init: init.Initialiser = init.constant(0.0)
    conditional = True

    @nn.compact
    def __call__(self, x: jax.Array, quality: jax.Array) -> jax.Array:
        """x [B, h, w, C], quality float [B] in 0..100 -> same shape as x."""
        logs = self.param("log", self.log_init, (self.levels, x.shape[-1]))
        gain = jnp.exp(jnp.matmul(interpolation(quality, self.levels), logs, precision=lax.Precision.HIGHEST))
        return x * gain[:, None, None].astype(x.dtype)


# Variances of the coefficients of 16x16 blocks of photographs, (exponent, factor) of (1 + u^2 + v^2)^-exponent for
# luma, orange-blue and green-magenta: least squares of the logarithm over all 256 frequencies (pixels in [0, 1]).
VARIANCES = ((1.44, 4.37), (1.67, 0.96), (1.47, 0.147))


def block_transform(side: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """The cosine transform of side x side blocks in an orthonormal colour space, its strongest coefficients.

    Almost the Karhunen-Loeve transform of photographs (its rate at equal distortion is 0.3 to 2 % higher), and the
    same for everybody.

    Returns:
      (float64 [side^2 * 3, features], orthonormal columns in order of variance, rows as SpaceToDepth has them;
       float64 [features], the variances).
    """
    frequency, place = np.arange(side)[:, None], np.arange(side)
    cosines = np.cos(np.pi * frequency * (2 * place + 1) / (2 * side)) * np.sqrt(2 / side)
    cosines[0] *= 0.5**0.5
    colours = np.array([[1, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]])
    colours /= np.linalg.norm(colours, axis=1, keepdims=True)
    basis = np.einsum("uy,vx,kc->yxcuvk", cosines, cosines, colours).reshape(side * side * 3, -1)
    radius = 1 + frequency**2 + place**2  # u^2 + v^2
    exponents, factors = np.transpose(VARIANCES)
    variances = (factors * radius[..., None].astype(float) ** -exponents).reshape(-1)
    strongest = np.argsort(-variances, kind="stable")[:features]
    return basis[:, strongest], variances[strongest]

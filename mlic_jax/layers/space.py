"""Moving samples between space and channels.

There are two orders of channels, and weights of both kinds are around, so that every call names its own. Of C channels,
sub-pixel (i, j) of a block of n x n samples goes to

    "tensorflow"   channel (i n + j) C + c   tf.nn.space_to_depth; ONNX calls it DCR
    "torch"        channel c n^2 + i n + j   torch.nn.PixelUnshuffle; ONNX calls it CRD
"""

from __future__ import annotations

from fractions import Fraction

import flax.linen as nn
import jax

# order -> where (rows, sub-rows, columns, sub-columns, channels) go in [B, h, w, all that becomes channels].
_AXES = {"tensorflow": (0, 1, 3, 2, 4, 5), "torch": (0, 1, 3, 5, 2, 4)}


def _axes(order):
    if order not in _AXES:
        raise ValueError(f"order {order!r} of channels is not known: use one of {', '.join(_AXES)}")
    return _AXES[order]


def space_to_depth(x: jax.Array, block: int, *, order: str) -> jax.Array:
    """[B, H, W, C] -> [B, H / block, W / block, C block^2], sides multiples of block; order: see above."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // block, block, width // block, block, channels).transpose(_axes(order))
    return x.reshape(batch, height // block, width // block, channels * block * block)


def depth_to_space(x: jax.Array, block: int, *, order: str) -> jax.Array:
    """The reverse of `space_to_depth` in the same order: [B, h, w, C block^2] -> [B, h block, w block, C]."""
    batch, height, width, channels = x.shape
    axes, channels = _axes(order), channels // (block * block)
    deep = (block, block, channels) if order == "tensorflow" else (channels, block, block)
    # Transposing back: to rows, sub-rows, columns, sub-columns, channels.
    x = x.reshape(batch, height, width, *deep).transpose([axes.index(axis) for axis in range(6)])
    return x.reshape(batch, height * block, width * block, channels)


class SpaceToDepth(nn.Module):
    """`space_to_depth` as a layer.

    Attributes:
      block: side of the blocks.
      order: of channels.
    """

    block: int
    order: str = "tensorflow"

    @property
    def scale(self) -> Fraction:
        """Output samples per input sample along an axis."""
        return Fraction(1, self.block)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample along an axis on which the output samples first..last depend."""
        return first * self.block, last * self.block + self.block - 1

    def __call__(self, x: jax.Array) -> jax.Array:
        return space_to_depth(x, self.block, order=self.order)


class DepthToSpace(nn.Module):
    """`depth_to_space` as a layer; attributes as of SpaceToDepth."""

    block: int
    order: str = "tensorflow"

    @property
    def scale(self) -> Fraction:
        """Output samples per input sample along an axis."""
        return Fraction(self.block)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample along an axis on which the output samples first..last depend."""
        return first // self.block, last // self.block

    def __call__(self, x: jax.Array) -> jax.Array:
        return depth_to_space(x, self.block, order=self.order)

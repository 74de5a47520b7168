"""Coefficients of an image by component, and the order in which a scan holds their blocks. NumPy and JAX arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

from mlic_jax import errors

SUBSAMPLINGS = ("4:2:0", "4:4:4")


class Coefficients(NamedTuple):
    """What JPEG codes: [..., rows, columns, 8, 8] for each component, in steps of the quantisation table.

    Luma has the blocks of whole MCUs: twice as many rows and columns as chroma for 4:2:0. Grey images have `y` alone.
    """

    y: Any
    cb: Any = None
    cr: Any = None

    @property
    def components(self) -> list:
        """The one or three arrays."""
        return [component for component in self if component is not None]

    @property
    def subsampling(self) -> str:
        """ "4:2:0" or "4:4:4", as the shapes have it; grey counts as "4:4:4".

        Raises:
          UsageError: shapes that are neither.
        """
        shapes = [tuple(component.shape) for component in self.components]
        grid = [shape[-4:-2] for shape in shapes]
        if all(len(shape) >= 4 and shape[-2:] == (8, 8) and shape[:-4] == shapes[0][:-4] for shape in shapes):
            if len(set(grid)) == 1 and len(grid) != 2:
                return "4:4:4"
            if len(grid) == 3 and grid[1] == grid[2] and grid[0] == (2 * grid[1][0], 2 * grid[1][1]):
                return "4:2:0"
        raise errors.UsageError(
            "JPEG: coefficients must be [..., rows, columns, 8, 8] for one component or three, with equal rows and "
            f"columns, or twice as many for luma; got {', '.join(str(list(shape)) for shape in shapes)}"
        )


def to_mcus(blocks, factor: int):
    """[..., factor r, factor c, *] -> [..., r c, factor^2, *]: the blocks of a component, MCU by MCU.

    `blocks` may have two trailing axes (the 8x8) or none; the grid is taken from axes -4 and -3, or -2 and -1.
    """
    tail = blocks.shape[-2:] if blocks.ndim >= 4 and blocks.shape[-2:] == (8, 8) else ()
    *batch, rows, columns = blocks.shape[: blocks.ndim - len(tail)]
    axis = len(batch) + 1
    split = blocks.reshape(*batch, rows // factor, factor, columns // factor, factor, *tail).swapaxes(axis, axis + 1)
    return split.reshape(*batch, rows * columns // factor**2, factor**2, *tail)


def pad_to_mcus(blocks, factor: int):
    """[..., r, c, 8, 8] -> rows and columns up to multiples of `factor` (1 or 2) by blocks that cost next to nothing.

    Such a block lies outside the image. libjpeg makes it constant, and equal in DC to the block before it in the MCU.
    """
    if factor == 1:
        return blocks
    xp = blocks.__array_namespace__()
    rows, columns = blocks.shape[-4:-2]
    if columns % 2:
        blocks = xp.concatenate([blocks, _constant(blocks[..., -1:, :, :])], -3)
    if rows % 2:
        before = _constant(blocks[..., -1:, 1::2, :, :])
        blocks = xp.concatenate([blocks, xp.repeat(before, 2, axis=-3)], -4)
    return blocks


def _constant(blocks):
    xp = blocks.__array_namespace__()
    is_dc = xp.arange(64).reshape(8, 8) == 0
    return xp.where(is_dc, blocks, xp.zeros_like(blocks))

"""Convolutional networks on pictures of any size: windows of a few fixed shapes, with all that their inside depends on.

XLA compiles a program for every shape, which takes seconds, and a whole picture's activations take hundreds of bytes
a pixel. So a network is evaluated on windows whose sides are one of two lengths: at most four shapes, whatever the size
of pictures. They are so wide that the part that is kept depends on nothing outside: the result is that of the whole
picture. Where a window hangs over the picture's edge, every layer sees zeros there, as its own padding would be.

Lengths are counted in cells, the smallest squares of the picture on which all strides of the network fit.
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Sides of windows, in cells, without the margins. A picture's length is covered by as little as these two can.
CORES = (14, 30)
# For networks behind a picture's transform, whose cells are 64 pixels.
HYPER_CORES = (4, 14)


def to_float(image):
    """uint8 in 0..255 -> float32 in [0, 1]."""
    return image.astype(jnp.float32) * (1 / 255)


def to_uint8(image):
    """float in [0, 1] (clipped) -> uint8, rounded to nearest."""
    return jnp.round(jnp.clip(image.astype(jnp.float32), 0.0, 1.0) * 255).astype(jnp.uint8)


class Inside(NamedTuple):
    """The part of a window that lies on the picture: rows top..bottom - 1, columns left..right - 1 (int32 scalars)."""

    top: Any
    bottom: Any
    left: Any
    right: Any

    def scaled(self, factor: Fraction) -> Inside:
        """The same part after a layer that changes lengths by factor; all are multiples of what it divides by."""
        return Inside(*(edge * factor.numerator // factor.denominator for edge in self))


def mask(x: jax.Array, inside: Inside) -> jax.Array:
    """x [B, h, w, C], zero outside."""
    rows = lax.broadcasted_iota(jnp.int32, (1, *x.shape[1:3], 1), 1)
    columns = lax.broadcasted_iota(jnp.int32, (1, *x.shape[1:3], 1), 2)
    within = (rows >= inside.top) & (rows < inside.bottom) & (columns >= inside.left) & (columns < inside.right)
    return jnp.where(within, x, 0)


class Geometry(NamedTuple):
    """How lengths change through a network.

    Attributes:
      cell_in, cell_out: side of a cell in input and output samples.
      margin: how many cells around a cell its outputs depend on.
    """

    cell_in: int
    cell_out: int
    margin: int


def inputs_of(layers, first: int, last: int) -> tuple[int, int]:
    """The first and last input sample of layers in a row on which the output samples first..last depend."""
    for layer in reversed(layers):
        if hasattr(layer, "inputs_of"):
            first, last = layer.inputs_of(first, last)
    return first, last


def geometry(layers) -> Geometry:
    """Of layers in a row; those with a kernel say `scale` and `inputs_of`, all others work sample by sample."""
    scale, cell = Fraction(1), 1
    for layer in layers:
        scale *= getattr(layer, "scale", 1)
        cell = math.lcm(cell, scale.denominator)
    cell_out = int(cell * scale)
    first, last = inputs_of(layers, 0, cell_out - 1)
    margin = max(-(first // cell), -(-(last + 1 - cell) // cell), 0)
    return Geometry(cell, cell_out, margin)


class Span(NamedTuple):
    """One window along one axis, in cells: where it starts, its length, and the part start..stop that is kept."""

    origin: int
    length: int
    start: int
    stop: int


@functools.lru_cache(maxsize=1024)
def spans(length: int, margin: int, cores: tuple[int, ...] = CORES) -> tuple[Span, ...]:
    """Windows of few lengths that cover `length` cells at the least total length, the longer ones first.

    cores: what windows of each length cover without their margins, ascending; two or more.
    """
    short, *longer = (core + 2 * margin for core in cores)
    # The first and the last window need no margin at the picture's edge.
    need = length - 2 * margin
    best = None
    for counts in itertools.product(*(range(max(0, -(-need // core)) + 1) for core in cores[1:])):
        left = need - sum(count * core for count, core in zip(counts, cores[1:], strict=True))
        shorts = max(0 if any(counts) else 1, -(-left // cores[0]))
        sides = [side for side, count in zip(longer, counts, strict=True) for _ in range(count)]
        cost = sum(sides) + shorts * short
        if best is None or cost < best[0]:
            best = (cost, sides[::-1] + [short] * shorts)
    found, covered = [], 0
    for i, size in enumerate(best[1]):
        origin = covered - margin if i else 0
        stop = length if i == len(best[1]) - 1 else origin + size - margin
        found.append(Span(origin, size, covered, stop))
        covered = stop
    return tuple(found)


@functools.partial(jax.jit, static_argnums=0)
def _window(stack, variables, x, inside, quality=None):
    if x.dtype == jnp.uint8:
        x = to_float(x)
    y = stack.apply(variables, x, inside, quality, method="within")
    return to_uint8(y) if stack.pixels else y


def evaluate(stack, variables, x: np.ndarray, compute=_window, quality=None) -> np.ndarray:
    """A network on a picture or latent, window by window.

    Args:
      stack: an unbound Stack (hashable: programs are compiled per stack and window shape).
      variables: its variables.
      x: [B, h, w, C], h and w multiples of a cell; uint8 is scaled to [0, 1].
      compute: (stack, variables, window, inside) -> output window; with a quality as fifth argument where one is given.
      quality: float [B], for layers that depend on it; or None.

    Returns:
      [B, h', w', C'].
    """
    cell_in, cell_out, margin = geometry(stack.layers)
    batch, height, width, channels = x.shape
    if height % cell_in or width % cell_in:
        raise ValueError(f"{height}x{width} samples: multiples of {cell_in} are needed")
    further = () if quality is None else (np.asarray(quality, np.float32),)
    result = None
    for row in spans(height // cell_in, margin, stack.cores):
        for column in spans(width // cell_in, margin, stack.cores):
            window = np.zeros((batch, row.length * cell_in, column.length * cell_in, channels), x.dtype)
            top, left = row.origin * cell_in, column.origin * cell_in
            inside = Inside(
                *(max(0, -top), min(window.shape[1], height - top)),
                *(max(0, -left), min(window.shape[2], width - left)),
            )
            window[:, inside.top : inside.bottom, inside.left : inside.right] = x[
                :, top + inside.top : top + inside.bottom, left + inside.left : left + inside.right
            ]
            y = np.asarray(compute(stack, variables, window, Inside(*map(np.int32, inside)), *further))
            if result is None:
                shape = (batch, height // cell_in * cell_out, width // cell_in * cell_out, y.shape[-1])
                result = np.empty(shape, y.dtype)
            result[:, row.start * cell_out : row.stop * cell_out, column.start * cell_out : column.stop * cell_out] = y[
                :,
                (row.start - row.origin) * cell_out : (row.stop - row.origin) * cell_out,
                (column.start - column.origin) * cell_out : (column.stop - column.origin) * cell_out,
            ]
    return result

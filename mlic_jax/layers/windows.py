"""Networks on pictures of any size: windows of a few fixed shapes, with all that their inside depends on.

XLA compiles a program for every shape, which takes seconds, and a whole picture's activations take hundreds of bytes
a pixel. So pictures go through networks in windows, of which there are three kinds, by what a network allows:

- `spans_over`: convolutions that pad with zeros. A window has one of few lengths along an axis and may hang over the
  picture's edge, where every layer sees zeros, as its own padding would be (`Inside`, `mask`): at most
  four shapes of two lengths.
  It is so wide that the part that is kept depends on nothing outside: the result is that of the whole picture.
- `spans_within`: networks that repeat the picture's edge, and descents that want neighbours to overlap. Windows of one
  length lie on the picture, so that an edge that a network sees is the picture's own or far enough away.
- `ladder_span`: recurrent networks, whose outputs depend on everything after some iterations. One window holds the
  whole picture; its sides are taken from a ladder of lengths, and beyond the picture every layer sees zeros.

Lengths are counted in cells, the smallest squares of the picture on which all strides of the network fit. `cut` takes a
window out of an array, `paste` puts the part that is kept into the result.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.layers import programs

# Sides of windows, in cells, without the margins. A picture's length is covered by as little as these two can.
CORES = (14, 30)
# For networks behind a picture's transform, whose cells are 64 pixels.
HYPER_CORES = (4, 14)
# Of `ladder_span`; beyond them a power of two is divided by four.
LADDER = (4, 8, 12, 16)


def to_float(image):
    """uint8 in 0..255 -> float32 in [0, 1]."""
    return image.astype(jnp.float32) * (1 / 255)


class Pixels(np.lib.mixins.NDArrayOperatorsMixin):
    """Samples of 8 bits that count as float32 in [0, 1]: in whatever NumPy, JAX or a user's code makes of them.

    Networks in windows take them as they are stored, so that a large picture never stands in memory as floats.

    Args:
      stored: uint8, of any shape.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, stored: np.ndarray):
        self.stored = stored

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def ndim(self) -> int:
        return self.stored.ndim

    @property
    def size(self) -> int:
        return self.stored.size

    def __len__(self):
        return len(self.stored)

    def __array__(self, dtype=None, copy=None):
        return (self.stored.astype(np.float32) / np.float32(255)).astype(dtype or np.float32, copy=False)

    def __jax_array__(self):
        return jnp.asarray(np.asarray(self))

    def __array_ufunc__(self, ufunc, method, *inputs, **more):
        inputs = [np.asarray(value) if isinstance(value, Pixels) else value for value in inputs]
        return getattr(ufunc, method)(*inputs, **more)

    def __getitem__(self, key):
        return np.asarray(Pixels(self.stored[key]))

    def __getattr__(self, name):  # methods of arrays: reshape, astype, mean, ...
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


def stored_pixels(image) -> np.ndarray:
    """What a picture is in 8 bits: `Pixels` or uint8 as they are, floats in [0, 1] rounded and clipped."""
    if isinstance(image, Pixels):
        return image.stored
    return np.asarray(image if image.dtype == np.uint8 else to_uint8(image))


def to_uint8(image):
    """float in [0, 1] (clipped) -> uint8, rounded to nearest."""
    return jnp.round(jnp.clip(image.astype(jnp.float32), 0.0, 1.0) * 255).astype(jnp.uint8)


class Inside(NamedTuple):
    """The part of a window that lies on the picture: rows top..bottom - 1, columns left..right - 1 (int32 scalars).

    To a compiled program they are arguments: it is the same for every place of a window.
    """

    top: Any
    bottom: Any
    left: Any
    right: Any

    def scaled(self, factor: Fraction) -> Inside:
        """The same part after a layer that changes lengths by factor; all are multiples of what it divides by."""
        return Inside(*(edge * factor.numerator // factor.denominator for edge in self))


def mask(x: jax.Array, inside: Inside | None) -> jax.Array:
    """x [B, h, w, C], zero outside; x itself where `inside` is None, which means that all of it is picture."""
    if inside is None:
        return x
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


def cores_within(sides: Sequence[int], layers) -> tuple[int, ...]:
    """Cores of windows that have these sides, in cells, margins and all: for networks with wide margins.

    A picture that is not longer than a side is one window then. Where margins leave little of a side, it is longer.
    """
    margin = geometry(layers).margin
    return tuple(max(side - 2 * margin, side // 4) for side in sides)


def looks_around(layer) -> bool:
    """Whether outputs of a layer depend on more than the input samples at their place, as those of a kernel do."""
    if not hasattr(layer, "inputs_of"):
        return False
    scale = Fraction(getattr(layer, "scale", 1))
    first, last = layer.inputs_of(0, scale.numerator - 1)
    return first < 0 or last >= scale.denominator


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
def spans_over(length: int, margin: int, cores: tuple[int, ...] = CORES) -> tuple[Span, ...]:
    """The fewest windows of few lengths that cover `length` cells at the least total length, the longer ones first.

    They may hang over both ends.

    Args:
      length: of the picture.
      margin: what a window has to see beyond what is kept, except at the picture's ends.
      cores: the lengths, ascending, without the margins on both sides; two or more.
    """
    short, *longer = (core + 2 * margin for core in cores)
    # The first and the last window need no margin at the picture's edge.
    need = length - 2 * margin
    best = None
    for counts in itertools.product(*(range(most + 1) for most in _most_of_use(need, cores[1:]))):
        left = need - sum(count * core for count, core in zip(counts, cores[1:], strict=True))
        shorts = max(0 if any(counts) else 1, -(-left // cores[0]))
        sides = [side for side, count in zip(longer, counts, strict=True) for _ in range(count)]
        cost = sum(sides) + shorts * short, len(sides) + shorts
        if best is None or cost < best[0]:
            best = (cost, sides[::-1] + [short] * shorts)
    spans, covered = [], 0
    for i, size in enumerate(best[1]):
        origin = covered - margin if i else 0
        stop = length if i == len(best[1]) - 1 else origin + size - margin
        spans.append(Span(origin, size, covered, stop))
        covered = stop
    return tuple(spans)


def _most_of_use(need, cores):
    """How many windows of each length can be in a cover of least total length."""
    longest = cores[-1]
    for core in cores:
        enough = max(0, -(-need // core))
        # As many as are just as long as some of the longest cost no less than these.
        yield enough if core == longest else min(enough, math.lcm(core, longest) // core - 1)


@functools.lru_cache(maxsize=1024)
def spans_within(length: int, side: int, overlap: int) -> tuple[Span, ...]:
    """The fewest windows of one length that cover `length` cells, none of which hangs over an end.

    Args:
      length: of the picture. One that is not longer than `side` is one window of its own length.
      side: of a window; more than `overlap`.
      overlap: what neighbours share, at least. Each keeps half of what they share.
    """
    if length <= side:
        return (Span(0, length, 0, length),)
    count = -(-(length - overlap) // (side - overlap))
    origins = [round(i * (length - side) / (count - 1)) for i in range(count)]
    middles = [(left + side + right) // 2 for left, right in itertools.pairwise(origins)]
    ends = zip(origins, [0, *middles], [*middles, length], strict=True)
    return tuple(Span(origin, side, start, stop) for origin, start, stop in ends)


def ladder_span(length: int) -> Span:
    """One window for `length` cells, of the next length on the ladder.

    On small pictures compiling costs more than computing, and the ladder is coarse; beyond 16 cells a side grows by a
    quarter at most, by a tenth in the mean.
    """
    if length <= LADDER[-1]:
        return Span(0, next(rung for rung in LADDER if rung >= length), 0, length)
    step = 1 << ((length - 1).bit_length() - 3)
    return Span(0, -(-length // step) * step, 0, length)


class Window(NamedTuple):
    """A window on a picture of any size: its spans along both axes, in cells."""

    rows: Span
    columns: Span

    def inside(self, size: tuple[int, int], scale: int) -> Inside:
        """What of the window is picture, in samples, `scale` to a cell; size: of the picture, in cells."""
        ends = []
        for span, length in zip(self, size, strict=True):
            ends += [max(0, -span.origin), min(span.length, length - span.origin)]
        return Inside(*(np.int32(end * scale) for end in ends))


def cover(size: Sequence[int], spans: Callable) -> list[Window]:
    """The windows of a picture of (height, width) cells; spans: (length) -> the windows along an axis."""
    return [Window(*pair) for pair in itertools.product(*map(spans, size))]


def cut(x: np.ndarray, window: Window, scale: int) -> np.ndarray:
    """What [B, H, W, C], of `scale` samples to a cell, holds within a window; zeros where that is no picture."""
    size = tuple(side // scale for side in x.shape[1:3])
    top, bottom, left, right = window.inside(size, scale)
    row, column = (span.origin * scale for span in window)
    part = x[:, row + top : row + bottom, column + left : column + right]
    shape = (x.shape[0], window.rows.length * scale, window.columns.length * scale, x.shape[3])
    if part.shape == shape:
        return part
    whole = np.zeros(shape, x.dtype)
    whole[:, top:bottom, left:right] = part
    return whole


def paste(result: np.ndarray, y: np.ndarray, window: Window, scale: int) -> None:
    """Writes what is kept of a window's output into [B, H, W, C], of `scale` samples to a cell."""
    target, source = (
        (slice(None), *(slice((span.start - o) * scale, (span.stop - o) * scale) for span, o in zip(window, origins)))
        for origins in ((0, 0), (window.rows.origin, window.columns.origin))
    )
    result[target] = y[source]


def by_windows(function: Callable, x: np.ndarray, spans: Callable, cell_in: int, cell_out: int) -> np.ndarray:
    """A network on an array, window by window.

    Args:
      function: (input of a window, its Window) -> output of the window, both [B, h, w, C].
      x: [B, H, W, C], sides multiples of a cell.
      spans: (length in cells) -> the windows along an axis.
      cell_in, cell_out: sides of a cell in input and output samples.

    Returns:
      [B, H', W', C'].
    """
    batch, height, width, _ = x.shape
    if height % cell_in or width % cell_in:
        raise ValueError(f"{height}x{width} samples: multiples of {cell_in} are needed")
    size = height // cell_in, width // cell_in
    result = None
    for window in cover(size, spans):
        y = np.asarray(function(cut(x, window, cell_in), window))
        if result is None:
            result = np.empty((batch, size[0] * cell_out, size[1] * cell_out, y.shape[-1]), y.dtype)
        paste(result, y, window, cell_out)
    return result


@programs.Program
def _window(stack, variables, x, inside, quality=None):
    if x.dtype == jnp.uint8:
        x = to_float(x)
    y = stack.apply(variables, x, inside, quality, method="within")
    return to_uint8(y) if stack.pixels else y


def evaluate(stack, variables, x: np.ndarray, compute=_window, quality=None) -> np.ndarray:
    """A Stack on a picture or latent, window by window.

    Args:
      stack: an unbound Stack (hashable: programs are compiled per stack and window shape).
      variables: its variables.
      x: [B, h, w, C], h and w multiples of a cell; `Pixels`, or uint8, is scaled to [0, 1].
      compute: (stack, variables, window, inside) -> output window; with a quality as fifth argument where one is given.
      quality: float [B], for layers that depend on it; or None.

    Returns:
      [B, h', w', C'].
    """
    x = x.stored if isinstance(x, Pixels) else x
    cell_in, cell_out, margin = geometry(stack.layers)
    size = tuple(side // cell_in for side in x.shape[1:3])
    further = () if quality is None else (np.asarray(quality, np.float32),)

    def on_window(part, window):
        return compute(stack, variables, part, window.inside(size, cell_in), *further)

    spans = functools.partial(spans_over, margin=margin, cores=stack.cores)
    return by_windows(on_window, x, spans, cell_in, cell_out)

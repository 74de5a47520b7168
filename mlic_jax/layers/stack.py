"""Layers in a row, evaluated whole in training and window by window in use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.layers import windows


class LeakyReLU(NamedTuple):
    """max(x, slope x)."""

    slope: float = 0.0

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.leaky_relu(x, self.slope) if self.slope else jax.nn.relu(x)


relu = LeakyReLU()


class Channels(NamedTuple):
    """Some of the channels, start..stop - 1; all from there on where stop is None."""

    start: int
    stop: int | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        return x[..., self.start : self.stop]


class Stack(nn.Module):
    """Applies `layers` one after the other: modules of layers/ or functions of single samples.

    Given a JAX array it is a plain network. Given a NumPy array or `windows.Pixels`, as when pictures are coded, it
    returns the like, and works in windows of few shapes (layers/windows.py): any size of picture, bounded memory,
    nothing compiled twice.

    Attributes:
      layers: in order.
      cores: the sides of windows, see windows.spans_over.
      pixels: the output is a picture, and `windows.Pixels` where NumPy comes out.
    """

    layers: tuple[Callable, ...]
    cores: tuple[int, ...] = windows.CORES
    pixels: bool = False

    def __call__(self, x, quality=None):
        """[B, h, w, C] -> [B, h', w', C']. quality: float [B], for layers that are `conditional`."""
        if isinstance(x, np.ndarray | windows.Pixels) and not self.is_initializing():
            y = windows.evaluate(*self.alone, x, quality=quality)
            return windows.Pixels(y) if self.pixels else y
        return self.within(x, None, quality)

    @functools.cached_property
    def alone(self) -> tuple[Stack, Mapping[str, Any]]:
        """A copy that does not know where it stands in a model, the key of compiled windows, and its variables."""
        return self.unbind()

    @property
    def scale(self) -> Fraction:
        """Output samples per input sample along an axis."""
        scale = Fraction(1)
        for layer in self.layers:
            scale *= getattr(layer, "scale", 1)
        return scale

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample along an axis on which the output samples first..last depend."""
        return windows.inputs_of(self.layers, first, last)

    def within(self, x: jax.Array, inside: windows.Inside | None, quality: jax.Array | None = None) -> jax.Array:
        """As `__call__`, of a window that may hang over the picture's edge.

        Args:
          x: [B, h, w, C].
          inside: what of x is picture; every layer with a kernel sees zeros elsewhere, as it does around a whole
            picture. None: all of it.
          quality: float [B] or None.
        """
        for layer in self.layers:
            if hasattr(layer, "within"):  # layers within layers
                x = layer.within(x, inside, quality)
            else:
                if windows.looks_around(layer):
                    x = windows.mask(x, inside)
                x = layer(x, quality) if getattr(layer, "conditional", False) else layer(x)
            if inside is not None:
                inside = inside.scaled(getattr(layer, "scale", Fraction(1)))
        return x


class _Branches(nn.Module):
    """Several stacks of one input; their scales are equal."""

    branches: tuple[Stack, ...]

    @property
    def scale(self) -> Fraction:
        """Output samples per input sample along an axis."""
        return self.branches[0].scale

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample along an axis on which the output samples first..last depend."""
        ends = [branch.inputs_of(first, last) for branch in self.branches]
        return min(end[0] for end in ends), max(end[1] for end in ends)

    def within(self, x: jax.Array, inside: windows.Inside | None, quality: jax.Array | None = None) -> jax.Array:
        """See Stack.within."""
        return self.join([branch.within(x, inside, quality) for branch in self.branches])


class Sum(_Branches):
    """The sum of what several stacks make of one input; their scales are equal."""

    join = staticmethod(sum)


class Concatenation(_Branches):
    """What several stacks make of one input, their channels behind one another; their scales are equal."""

    def join(self, parts: list[jax.Array]) -> jax.Array:
        """[B, h, w, C] of each branch -> [B, h, w, sum of C]."""
        return jnp.concatenate(parts, axis=-1)


class Gated(nn.Module):
    """x + values(x) sigmoid(gate(x)), of stacks that keep the shape.

    Cheng, Sun, Takeuchi, Katto, CVPR 2020: the simplified attention module.
    """

    values: Stack
    gate: Stack
    scale = Fraction(1)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample along an axis on which the output samples first..last depend."""
        ends = [branch.inputs_of(first, last) for branch in (self.values, self.gate)]
        return min(end[0] for end in ends), max(end[1] for end in ends)

    def within(self, x: jax.Array, inside: windows.Inside | None, quality: jax.Array | None = None) -> jax.Array:
        """See Stack.within."""
        return x + self.values.within(x, inside, quality) * jax.nn.sigmoid(self.gate.within(x, inside, quality))

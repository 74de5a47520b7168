"""Layers in a row, evaluated whole in training and window by window in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from mlic_jax.layers import windows


class LeakyReLU(NamedTuple):
    """max(x, slope x)."""

    slope: float = 0.0

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.leaky_relu(x, self.slope) if self.slope else jax.nn.relu(x)


relu = LeakyReLU()


class Stack(nn.Module):
    """Applies `layers` one after the other: modules of layers/ or functions of single samples.

    Given a JAX array it is a plain network. Given a NumPy array, as when pictures are coded, it returns one, and works
    in windows of few shapes (layers/windows.py): any size of picture, bounded memory, nothing compiled twice.

    Attributes:
      layers: in order.
      cores: the two sides of windows.
      pixels: NumPy output is uint8 where JAX output is float in [0, 1]. (NumPy input of uint8 is always scaled.)
    """

    layers: tuple[Callable, ...]
    cores: tuple[int, int] = windows.CORES
    pixels: bool = False

    def __call__(self, x):
        """[B, h, w, C] -> [B, h', w', C']."""
        if isinstance(x, np.ndarray):
            # A copy without scope does not depend on where it stands in which model: it is the key of compiled windows.
            alone, variables = self.unbind()
            return windows.evaluate(alone, variables, x)
        return self.within(x, None)

    def within(self, x: jax.Array, inside: windows.Inside | None) -> jax.Array:
        """As `__call__`, of a window that may hang over the picture's edge.

        Args:
          x: [B, h, w, C].
          inside: what of x is picture; every layer with a kernel sees zeros elsewhere, as it does around a whole
            picture. None: all of it.
        """
        for layer in self.layers:
            if inside is not None and hasattr(layer, "inputs_of"):
                x = layer(windows.mask(x, inside))
                inside = inside.scaled(layer.scale)
            else:
                x = layer(x)
        return x

"""Layers in a row."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax


class Stack(nn.Module):
    """Applies `layers` (modules or functions) one after the other."""

    layers: tuple[Callable, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


# For networks that stand between two `code(...)` calls: coding runs outside jit, one call after the other, and this
# compiles such a network as one program, once per class and shape (`nn.jit` inside `setup` would do so at every call).
JitStack = nn.jit(Stack)

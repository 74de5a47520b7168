"""What an exact network (mlic_jax.entropy.exact) is made of: convolutions, and what may stand behind each.

Every channel has a unit of its own. Where depth becomes space, channels come together, whose units must be one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy.exact_layers import LARGEST_ACTIVATION, MOVES, SLOPE_ONE
from mlic_jax.entropy.priors.gaussian import ONE
from mlic_jax.layers.conv import Conv, ConvTranspose
from mlic_jax.layers.space import DepthToSpace, SpaceToDepth, depth_to_space, space_to_depth
from mlic_jax.layers.stack import LeakyReLU

# Below zero a leaky unit's output is a part of what it would be above: of a hundredth, this range is ample.
LEAST_LEAKY = -32
# Entries of a table of the hyperbolic tangent, which is within a step of 1 beyond.
TANH_ENTRIES = 1024


class Part(NamedTuple):
    """A convolution and what stands behind it.

    Attributes:
      layer: the convolution.
      slope: of the LeakyReLU, None without an activation, "tanh" for the hyperbolic tangent.
      moves: SpaceToDepth, DepthToSpace, or None.
    """

    layer: Any
    slope: float | str | None = None
    moves: Any = None

    @property
    def features(self) -> int:
        """Channels that come out."""
        if self.moves is None:
            return self.layer.features
        block = self.moves.block**2
        return self.layer.features * block if isinstance(self.moves, SpaceToDepth) else self.layer.features // block

    def activate(self, x: jax.Array) -> jax.Array:
        """The activation, in floating point."""
        if self.slope is None:
            return x
        return jnp.tanh(x) if self.slope == "tanh" else LeakyReLU(self.slope)(x)

    def moved(self, x: jax.Array) -> jax.Array:
        """What of the output stands where."""
        return x if self.moves is None else self.moves(x)


def slope_of(slope):
    """The slope below zero in units of 1/512."""
    return SLOPE_ONE if slope is None else round(slope * SLOPE_ONE)


def least_of(slope):
    """The least activation that is held behind a LeakyReLU of a slope, or without one."""
    if slope is None:
        return -LARGEST_ACTIVATION
    return min(LEAST_LEAKY, -math.ceil(slope * LARGEST_ACTIVATION)) if slope else 0


def kind_of(layer):
    """What a layer is to an exact network; None for what it cannot be."""
    if type(layer) in (Conv, ConvTranspose):  # no other parameters than a kernel and a bias
        return "convolution"
    if isinstance(layer, SpaceToDepth | DepthToSpace):
        return "moves"
    return "activation" if isinstance(layer, LeakyReLU) or layer is jnp.tanh else None


def move_of(layer):
    """The entry of MOVES that a layer is."""
    if layer is None:
        return None
    return (space_to_depth if isinstance(layer, SpaceToDepth) else depth_to_space), layer.order


def _by_block(plan):
    """The shape [.., block^2, ..] in which channels come together that are moved; and which axis that is."""
    axis = 0 if MOVES[plan.moves][1] == "tensorflow" else 1
    return ((plan.block**2, -1) if axis == 0 else (-1, plan.block**2)), axis


def tied(values, plan, fixed):
    """[C]: the largest of those of channels that will be one, behind depth to space."""
    if fixed or not plan.moves or MOVES[plan.moves][0] is space_to_depth:
        return values
    shape, axis = _by_block(plan)
    xp, groups = np if isinstance(values, np.ndarray) else jnp, values.reshape(shape)
    return xp.broadcast_to(groups.max(axis, keepdims=True), groups.shape).reshape(-1)


def moved_unit(unit, plan):
    """[C] units of channels -> those of the channels that they become."""
    if not plan.moves:
        return unit
    shape, axis = _by_block(plan)
    if MOVES[plan.moves][0] is depth_to_space:
        return unit.reshape(shape).max(axis)
    xp = np if isinstance(unit, np.ndarray) else jnp
    return xp.tile(unit, plan.block**2) if axis == 0 else xp.repeat(unit, plan.block**2)


def tanh_table() -> np.ndarray:
    """int16 [TANH_ENTRIES], see exact_layers.Layer."""
    return np.minimum(np.rint(ONE * np.tanh(np.arange(TANH_ENTRIES) / ONE)), LARGEST_ACTIVATION).astype(np.int16)

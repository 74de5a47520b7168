"""The integer layers of exact networks (mlic_jax.entropy.exact), evaluated by JAX: the same on every device."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.entropy.priors.gaussian import ONE
from mlic_jax.layers import windows
from mlic_jax.layers.space import depth_to_space, space_to_depth

# The slope below zero is a multiple of 1/512.
SLOPE_ONE = 512
# In place of a slope: the hyperbolic tangent, by the layer's table.
TANH = -1
LEAST_BEFORE_SLOPE = -(1 << 15)
LARGEST_ACTIVATION = 255
LARGEST_OUTPUT = 1 << 22
# Values of the two constant channels behind a latent's own, which carry its medians.
CONSTANTS = (1, 128)
# How layers of plans move samples between space and channels, by number.
MOVES = (
    None,
    (space_to_depth, "tensorflow"),
    (depth_to_space, "tensorflow"),
    (space_to_depth, "torch"),
    (depth_to_space, "torch"),
)
# Products of a weight and an activation, so many of which stay below 2^23.
_PART = 256


class Layer(NamedTuple):
    """One integer layer; the arrays of an artifact.

    Attributes:
      kernel: int8 [k, k, Cin, Cout].
      bias: int32 [Cout].
      shift: int8 [Cout], by how many bits sums are shifted to the right.
      plan: int32, see Plan.
      table: int16, of layers with a hyperbolic tangent: 256 tanh(i / 256) for i = 0, 1, ..; the last is for all beyond.
    """

    kernel: np.ndarray
    bias: np.ndarray
    shift: np.ndarray
    plan: np.ndarray
    table: np.ndarray | None = None


class Plan(NamedTuple):
    """What a layer does, in whole numbers.

    Attributes:
      stride, transposed: of the convolution.
      slope: below zero, in steps of 1/512; or TANH.
      low, high: bounds of its output.
      split: whether sums are split into parts, and may so reach 2^30.
      moves: in MOVES, behind all that.
      block: side of the blocks that it moves.
    """

    stride: int
    transposed: int
    slope: int
    low: int
    high: int
    split: int = 0
    moves: int = 0
    block: int = 1

    def stored(self) -> list[int]:
        """As it stands in an artifact: without the last three where they say nothing."""
        return list(self if self[5:] != Plan(*self[:5])[5:] else self[:5])


def _dot(x, weights):
    """[B, h, w, Cin] by [Cin, Cout], integers of at most 256: their exact products, whatever the device's precision."""

    def product(x, weights):
        return lax.dot_general(
            x, weights, (((3,), (0,)), ((), ())), precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
        )

    def narrow(x, weights):
        # bfloat16 holds these integers, and CPUs multiply it two to four times as fast; sums are float32.
        return product(x.astype(jnp.bfloat16), weights.astype(jnp.bfloat16))

    return lax.platform_dependent(x, weights, cpu=narrow, default=product)


def _split_dot(x, weights):
    """The same, int32: of parts that float32 holds exactly."""
    channels = range(0, x.shape[-1], _PART)
    return sum(_dot(x[..., c : c + _PART], weights[c : c + _PART]).astype(jnp.int32) for c in channels)


def _sums(x, kernel, stride, transposed, dot=_dot):
    """A convolution as a sum of matrix products, one per tap: no algorithm that a library might choose gets between."""
    size = kernel.shape[0]
    pad = size // 2
    batch, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    if not transposed:
        taps = [(a, b) for a in range(size) for b in range(size)]
        rows, columns = height - (height - 1) % stride, width - (width - 1) % stride
        return sum(dot(x[:, a : a + rows : stride, b : b + columns : stride], kernel[a, b]) for a, b in taps)
    phases = []
    for row in range(stride):
        for column in range(stride):
            total = jnp.zeros((batch, height, width, kernel.shape[-1]), jnp.float32 if dot is _dot else jnp.int32)
            # Output row y = stride i + row reads input row (y - pad + a) / stride, where that is whole.
            for a in range((pad - row) % stride, size, stride):
                for b in range((pad - column) % stride, size, stride):
                    top, left = (row - pad + a) // stride + pad, (column - pad + b) // stride + pad
                    total += dot(x[:, top : top + height, left : left + width], kernel[a, b])
            phases.append(total)
    y = jnp.stack(phases).reshape(stride, stride, batch, height, width, -1)
    return y.transpose(2, 3, 0, 4, 1, 5).reshape(batch, height * stride, width * stride, -1)


def power_of_two(exponent):
    """2^exponent as float32, from its bits: no device's exp2 is asked."""
    return lax.bitcast_convert_type((127 + exponent.astype(jnp.int32)) << 23, jnp.float32)


def _shifted(v, shift):
    """floor(v 2^-shift + 1/2) of sums below 2^23, float32."""
    return jnp.floor(v * power_of_two(-shift) + 0.5)


def _shifted_split(v, shift):
    """The same of sums int32 below 2^30, cut down to LARGEST_OUTPUT."""
    down = ((v >> jnp.clip(shift - 1, 0, 31)) + 1) >> 1
    cut = [jnp.clip(u, -LARGEST_OUTPUT, LARGEST_OUTPUT).astype(jnp.float32) for u in (down, v)]
    return jnp.where(shift > 0, cut[0], cut[1] * power_of_two(jnp.maximum(-shift, 0)))


def evaluate(state, plans, x, inside, constants):
    """Integer layers on integers x [B, h, w, C], float32; the output is in units of 1, the last layer's of 1/256.

    Args:
      state: "layer_i" -> the fields of a Layer.
      plans: Plan of every layer.
      inside: see layers/windows.py.
      constants: whether the channels of the medians stand behind a latent's own.
    """
    if constants:
        ones = jnp.ones((*x.shape[:3], 1), jnp.float32)
        x = jnp.concatenate([x, *(value * ones for value in CONSTANTS)], axis=-1)
    for i, plan in enumerate(plans):
        layer = Layer(**state[f"layer_{i}"])
        if inside is not None:
            x = windows.mask(x, inside)
            inside = inside.scaled(Fraction(plan.stride) if plan.transposed else Fraction(1, plan.stride))
        kernel, shift = layer.kernel.astype(jnp.float32), layer.shift.astype(jnp.int32)
        if plan.split:
            v = _sums(x, kernel, plan.stride, plan.transposed, _split_dot) + layer.bias
            u = _shifted_split(v, shift)
        else:
            v = _sums(x, kernel, plan.stride, plan.transposed) + layer.bias.astype(jnp.float32)
            u = _shifted(v, shift)
        if plan.slope == TANH:
            place = jnp.minimum(jnp.abs(u), len(layer.table) - 1).astype(jnp.int32)
            u = jnp.sign(u) * jnp.asarray(layer.table)[place].astype(jnp.float32)
        elif plan.slope != SLOPE_ONE:
            below = jnp.floor(jnp.maximum(u, LEAST_BEFORE_SLOPE) * (plan.slope / SLOPE_ONE) + 0.5)
            u = jnp.where(u < 0, below, u)
        x = jnp.clip(u, plan.low, plan.high)
        if plan.moves:
            move, order = MOVES[plan.moves]
            x = move(x, plan.block, order=order)
            if inside is not None:
                inside = inside.scaled(Fraction(1, plan.block) if move is space_to_depth else Fraction(plan.block))
    return x * (1 / ONE)

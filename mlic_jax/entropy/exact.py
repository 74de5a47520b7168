"""Networks that give the same integers on every device.

What decides a probability table must not differ by a bit between the machine that writes a file and the one that reads
it; floating-point networks do, with the device, the compiler and the batch. Here such a network is turned into integers
when a model is exported: weights of 8 bits, activations of at most 8 bits and a sign, requantised by powers of two.
They are evaluated in float32, which holds every integer up to 2^24: sums of products that stay below 2^23 are exact in
whatever order, and on whatever hardware, they are formed. Operands below 2^8 even survive matrix units that round to
bfloat16.

After Ballé, Johnston, Minnen, "Integer networks for data compression with latent-variable models", ICLR 2019 (integer
layers, shared scale tables), and He et al., "Post-training quantization for cross-platform learned image compression",
2022 (power-of-two requantisation, bounds checked offline). Different here: scales of hidden activations may be any
number per channel, since they fold into the next layer's weights; no divisions; medians enter by constant channels, so
that zero padding stays what it was. docs/format.md has the arithmetic byte by byte.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.entropy.gaussian import ONE
from mlic_jax.errors import ModelError
from mlic_jax.layers import windows
from mlic_jax.layers.conv import ConvTranspose, conv, conv_transpose
from mlic_jax.layers.stack import LeakyReLU, Stack

# Symbols of a latent that such a network reads are at most this large.
LARGEST_INPUT = 127
LARGEST_WEIGHT = 127
LARGEST_ACTIVATION = 255
# Below zero a leaky unit's output is a hundredth of what it would be above: this range is ample for it.
LEAST_LEAKY = -32
LARGEST_OUTPUT = 1 << 22
# Sums stay below this, so that adding 1/2 for rounding is exact as well.
LARGEST_SUM = 1 << 23
# The slope below zero is a multiple of 1/512.
SLOPE_ONE = 512
LEAST_BEFORE_SLOPE = -(1 << 15)
# Values of the two constant channels behind a latent's own, which carry its medians.
CONSTANTS = (1, 128)
_SHIFTS = (-16, 40)
_DTYPES = ("int8", "int32", "int8", "int32")


class Layer(NamedTuple):
    """One integer layer; the arrays of an artifact.

    Attributes:
      kernel: int8 [k, k, Cin, Cout].
      bias: int32 [Cout].
      shift: int8 [Cout], by how many bits sums are shifted to the right.
      plan: int32 [stride, transposed, slope, low, high].
    """

    kernel: np.ndarray
    bias: np.ndarray
    shift: np.ndarray
    plan: np.ndarray


class ExactStack(Stack):
    """A network on the parse path: convolutions with `LeakyReLU`s between them.

    Called as any Stack it computes in floating point, for training. `measure` and `quantised` are for calibration and
    quantisation-aware training; `integers` is what coders use, from an artifact's state.
    """

    cores: tuple[int, int] = windows.HYPER_CORES

    def parts(self) -> list[tuple[Any, float | None]]:
        """[(convolution, slope of the LeakyReLU behind it or None)]."""
        found = []
        for layer in self.layers:
            if isinstance(layer, LeakyReLU):
                found[-1] = (found[-1][0], layer.slope)
            else:
                found.append((layer, None))
        return found

    def measure(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The output, and {"layer_0": [B, C], ...}: how large a value hidden channels of each example must hold."""
        largest = {}
        for i, (layer, slope) in enumerate(self.parts()):
            x = layer(x)
            if slope is not None:
                x = LeakyReLU(slope)(x)
            if i + 1 < len(self.parts()):
                largest[f"layer_{i}"] = _largest_activation(x)
        return x, largest

    def quantised(self, x: jax.Array, ranges: Mapping[str, jax.Array]) -> jax.Array:
        """The output, with the rounding of weights, activations and output; gradients are those without rounding.

        Args:
          x: [B, h, w, C], the latent.
          ranges: "layer_i" -> [C], the largest value that a hidden channel can hold.
        """
        unit = jnp.ones(x.shape[-1])
        parts = self.parts()
        for i, (layer, slope) in enumerate(parts):
            params = layer.variables["params"]
            last = i + 1 == len(parts)
            step = lax.stop_gradient(_weight_step(params["kernel"] * unit[:, None], last, jnp))
            kernel = _rounded(params["kernel"] * unit[:, None] / step) * step / unit[:, None]
            apply = conv_transpose if isinstance(layer, ConvTranspose) else conv
            x = apply(x, kernel, params["bias"], layer.stride)
            if slope is not None:
                x = LeakyReLU(_slope(slope) / SLOPE_ONE)(x)
            if last:
                return _rounded(x * ONE) / ONE
            shift = lax.stop_gradient(_shift(ranges[f"layer_{i}"], step, jnp))
            unit = step * 2.0**shift
            x = jnp.clip(_rounded(x / unit), _least(slope), LARGEST_ACTIVATION) * unit
        raise ValueError("a network without layers")

    def integers(self, symbols: np.ndarray) -> np.ndarray:
        """The exact network of an artifact.

        Args:
          symbols: [B, h, w, C] integers of at most LARGEST_INPUT, any dtype.

        Returns:
          float32 [B, h', w', C'], multiples of 1/256.
        """
        alone, variables = self.unbind()
        return windows.evaluate(alone, {"state": variables["state"]}, np.asarray(symbols, np.float32), _exact_window)

    def integers_whole(self, symbols: jax.Array) -> jax.Array:
        """As `integers`, of a JAX array and without windows."""
        return _exact(self.variables["state"], self.plans(), symbols.astype(jnp.float32), None)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of an input [B, h, w, C], h and w multiples of a cell."""
        cell_in, cell_out, _ = windows.geometry(self.layers)
        return (shape[0], *(side // cell_in * cell_out for side in shape[1:3]), self.parts()[-1][0].features)

    def plans(self) -> list[list[int]]:
        """`Layer.plan` of every layer, as the module is built."""
        found = []
        parts = self.parts()
        for i, (layer, slope) in enumerate(parts):
            low, high = (_least(slope), LARGEST_ACTIVATION) if i + 1 < len(parts) else (-LARGEST_OUTPUT, LARGEST_OUTPUT)
            found.append([layer.stride, int(isinstance(layer, ConvTranspose)), _slope(slope), low, high])
        return found

    def quantise(self, medians: np.ndarray, ranges: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        """Integers for the parameters.

        Args:
          medians: float [C], of the latent that the network reads: it sees symbols, and value = symbol + median.
          ranges: "layer_i" -> float [C], the largest value that a hidden channel has to hold.

        Returns:
          {"layer_0": {"kernel", "bias", "shift", "plan"}, ...}, see Layer.

        Raises ModelError where a channel cannot be held in LARGEST_SUM.
        """
        found, unit, bounds = {}, np.ones(len(medians)), (-LARGEST_INPUT, LARGEST_INPUT)
        for i, ((layer, _), plan) in enumerate(zip(self.parts(), self.plans(), strict=True)):
            params = jax.device_get(layer.variables["params"])
            kernel = np.asarray(params["kernel"], np.float64) * unit[:, None]
            bias = np.asarray(params["bias"], np.float64)
            medial = np.einsum("xyio,i->xyo", kernel, medians) if i == 0 else None
            last = i + 1 == len(self.parts())
            step = _weight_step(kernel, last, np)
            for _ in range(24):
                integers = _integers(kernel, bias, medial, step)
                excess = _largest_sum(*integers, bounds, medial is not None, plan[:2]) >= LARGEST_SUM
                if medial is not None:
                    excess |= np.abs(np.rint(medial / step)).max((0, 1)) > LARGEST_WEIGHT * CONSTANTS[1]
                if not excess.any():
                    break
                step = np.where(excess, 2 * step, step)
            else:
                raise ModelError(f"network {self.name!r}, layer {i}: a channel's sums do not fit {LARGEST_SUM}")
            if last:
                shift = -np.log2(step * ONE)
            else:
                shift = _shift(np.asarray(ranges[f"layer_{i}"], np.float64), step, np)
                unit = step * 2.0**shift
            kernel, bias = integers
            shift = np.clip(np.rint(shift), *_SHIFTS)
            found[f"layer_{i}"] = Layer(
                kernel.astype(np.int8), bias.astype(np.int32), shift.astype(np.int8), np.array(plan, np.int32)
            )._asdict()
            bounds = plan[3:]
        return found

    def check(self, channels: int) -> None:
        """Raises ModelError unless the integers in the state fit the network, its input of `channels`, and bounds."""
        layers = jax.device_get(self.variables.get("state", {}))
        plans = self.plans()
        if set(layers) != {f"layer_{i}" for i in range(len(plans))}:
            raise ModelError(f"network {self.name!r} needs integers of {len(plans)} layers: export the model again")
        bounds, channels = (-LARGEST_INPUT, LARGEST_INPUT), channels + len(CONSTANTS)
        for i, ((part, _), plan) in enumerate(zip(self.parts(), plans, strict=True)):
            try:
                layer = Layer(**layers[f"layer_{i}"])
            except TypeError as reason:
                raise ModelError(f"network {self.name!r}, layer {i}: its arrays are not those of a layer") from reason
            shapes = ((part.kernel, part.kernel, channels, part.features), (part.features,), (part.features,), (5,))
            for name, array, shape, dtype in zip(Layer._fields, layer, shapes, _DTYPES, strict=True):
                if array.shape != shape or array.dtype != dtype:
                    wanted = f"{dtype} {shape} is needed"
                    raise ModelError(
                        f"network {self.name!r}, layer {i}: {name} is {array.dtype} {array.shape}, {wanted}"
                    )
            sums = _largest_sum(layer.kernel.astype(float), layer.bias.astype(float), bounds, i == 0, plan[:2])
            shifts = _SHIFTS[0] <= layer.shift.min() and layer.shift.max() <= _SHIFTS[1]
            if layer.plan.tolist() != plan or sums.max() >= LARGEST_SUM or not shifts:
                raise ModelError(f"network {self.name!r}, layer {i} can leave the range in which its sums are exact")
            channels, bounds = part.features, plan[3:]


# ---------------------------------------------------------------------- choosing integers


def _slope(slope):
    """The slope below zero in units of 1/512."""
    return SLOPE_ONE if slope is None else round(slope * SLOPE_ONE)


def _least(slope):
    return LEAST_LEAKY if slope else 0


def _weight_step(kernel, last, xp):
    """[k, k, Cin, Cout] -> [Cout], the value of one step of a weight; a power of two where output has a fixed unit."""
    largest = xp.maximum(xp.abs(kernel).max((0, 1, 2)), 2.0**-20)
    step = largest / LARGEST_WEIGHT
    return 2.0 ** xp.ceil(xp.log2(step)) if last else step


def _shift(largest, step, xp):
    """[C]: bits by which sums in units of step are shifted, so that `largest` is at most LARGEST_ACTIVATION."""
    return xp.maximum(xp.ceil(xp.log2(xp.maximum(largest, 2.0**-20) / (step * LARGEST_ACTIVATION))), 0)


def _integers(kernel, bias, medial, step):
    """(kernel, bias) in steps; a first layer gets the channels of the medians."""
    integers = np.rint(kernel / step)
    if medial is not None:
        whole = np.rint(medial / step)
        coarse = np.rint(whole / CONSTANTS[1])
        integers = np.concatenate([integers, np.stack([whole - coarse * CONSTANTS[1], coarse], axis=2)], axis=2)
    return integers, np.rint(bias / step)


def _largest_sum(kernel, bias, bounds, constants, geometry):
    """[Cout]: no partial sum, in whatever order, exceeds this. Taps of a transposed layer meet in stride^2 phases."""
    low, high = bounds
    least, most = np.minimum(kernel * low, kernel * high), np.maximum(kernel * low, kernel * high)
    if constants:
        for c, value in zip((-2, -1), CONSTANTS, strict=True):
            least[:, :, c], most[:, :, c] = (
                np.minimum(0, kernel[:, :, c] * value),
                np.maximum(0, kernel[:, :, c] * value),
            )
    least, most = np.minimum(least, 0).sum(2), np.maximum(most, 0).sum(2)  # [k, k, Cout]
    stride, transposed = geometry
    step = stride if transposed else 1
    sums = [
        np.maximum(most[a::step, b::step].sum((0, 1)), -least[a::step, b::step].sum((0, 1)))
        for a in range(step)
        for b in range(step)
    ]
    return np.max(sums, axis=0) + np.abs(bias)


def _largest_activation(x):
    """[B, h, w, C] -> [B, C]. Values below zero count for more, as much as their range is smaller."""
    return jnp.maximum(x.max((1, 2)), x.min((1, 2)) * (LARGEST_ACTIVATION / LEAST_LEAKY))


def _rounded(x):
    """Rounds half up; the gradient is that of the identity."""
    return x + lax.stop_gradient(jnp.floor(x + 0.5) - x)


# ---------------------------------------------------------------------- evaluating them


def _dot(x, weights):
    """[B, h, w, Cin] by [Cin, Cout], in float32 whatever the default precision of the device is."""
    return lax.dot_general(
        x, weights, (((3,), (0,)), ((), ())), precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )


def _sums(x, kernel, stride, transposed):
    """A convolution as a sum of matrix products, one per tap: no algorithm that a library might choose gets between."""
    size = kernel.shape[0]
    pad = size // 2
    batch, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    if not transposed:
        taps = [(a, b) for a in range(size) for b in range(size)]
        rows, columns = height - (height - 1) % stride, width - (width - 1) % stride
        return sum(_dot(x[:, a : a + rows : stride, b : b + columns : stride], kernel[a, b]) for a, b in taps)
    phases = []
    for row in range(stride):
        for column in range(stride):
            total = jnp.zeros((batch, height, width, kernel.shape[-1]))
            # Output row y = stride i + row reads input row (y - pad + a) / stride, where that is whole.
            for a in range((pad - row) % stride, size, stride):
                for b in range((pad - column) % stride, size, stride):
                    top, left = (row - pad + a) // stride + pad, (column - pad + b) // stride + pad
                    total += _dot(x[:, top : top + height, left : left + width], kernel[a, b])
            phases.append(total)
    y = jnp.stack(phases).reshape(stride, stride, batch, height, width, -1)
    return y.transpose(2, 3, 0, 4, 1, 5).reshape(batch, height * stride, width * stride, -1)


def _power_of_two(exponent):
    """2^exponent as float32, from its bits: no device's exp2 is asked."""
    return lax.bitcast_convert_type((127 + exponent.astype(jnp.int32)) << 23, jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _exact_window(stack, variables, x, inside):
    return _exact(variables["state"], stack.plans(), x, inside)


def _exact(state, plans, x, inside):
    """Integer layers on integers x [B, h, w, C], float32; the output is in units of 1, the last layer's of 1/256."""
    ones = jnp.ones((*x.shape[:3], 1), jnp.float32)
    x = jnp.concatenate([x, *(value * ones for value in CONSTANTS)], axis=-1)
    for i, (stride, transposed, slope, low, high) in enumerate(plans):
        layer = Layer(**state[f"layer_{i}"])
        if inside is not None:
            x = windows.mask(x, inside)
            inside = inside.scaled(Fraction(stride) if transposed else Fraction(1, stride))
        v = _sums(x, layer.kernel.astype(jnp.float32), stride, transposed) + layer.bias.astype(jnp.float32)
        u = jnp.floor(v * _power_of_two(-layer.shift.astype(jnp.int32)) + 0.5)
        if slope != SLOPE_ONE:
            below = jnp.floor(jnp.maximum(u, LEAST_BEFORE_SLOPE) * (slope / SLOPE_ONE) + 0.5)
            u = jnp.where(u < 0, below, u)
        x = jnp.clip(u, low, high)
    return x * (1 / ONE)

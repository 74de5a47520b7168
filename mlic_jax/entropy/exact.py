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

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.entropy.priors.gaussian import ONE
from mlic_jax.errors import ModelError, UsageError
from mlic_jax.layers import programs, windows
from mlic_jax.layers.conv import Conv, ConvTranspose, conv, conv_transpose
from mlic_jax.layers.stack import LeakyReLU, Stack

# Symbols of a latent that such a network reads are at most this large.
LARGEST_INPUT = 127
LARGEST_WEIGHT = 127
LARGEST_ACTIVATION = 255
# Below zero a leaky unit's output is a part of what it would be above: of a hundredth, this range is ample.
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
# Base-2 logarithms of the steps to which values are rounded.
_INPUT_STEPS = (-10, 8)
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

    Attributes:
      of_values: what the network reads. False: a latent, of whose values (symbol + median) it is given the symbols.
        True: anything else that a decoder knows exactly, as means, or latents rounded around means: multiples of a
        power of two. They are rounded to 8 bits, channel by channel with a power of two of its own as step.
    """

    cores: tuple[int, int] = windows.HYPER_CORES
    of_values: bool = False

    def __post_init__(self):
        self._check_layers()
        super().__post_init__()

    def _check_layers(self):
        """Raises UsageError for a layer that integers cannot stand for."""
        for i, layer in enumerate(self.layers):
            if isinstance(layer, LeakyReLU):
                fits = i > 0 and isinstance(self.layers[i - 1], Conv | ConvTranspose) and 0 <= layer.slope < 1
            else:
                fits = (
                    isinstance(layer, Conv | ConvTranspose)
                    and layer.kernel % 2 == 1
                    and getattr(layer, "padding", "zero") == "zero"
                    and layer.use_bias
                )
            if not fits:
                name = layer if isinstance(layer, LeakyReLU) else getattr(layer, "__name__", type(layer).__name__)
                raise UsageError(
                    f"layer {i} of an ExactStack, {name}: on the parse path there are Conv and ConvTranspose, with odd "
                    "kernels, zero padding and a bias, and behind each at most one LeakyReLU (or relu) of slope 0 to 1"
                )

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
        """The output, and {"layer_0": [B, C], ...}: how large a value hidden channels of each example must hold.

        Where it reads values, those of its input stand under "input".
        """
        largest = {"input": jnp.abs(x).max((1, 2))} if self.of_values else {}
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
          ranges: "layer_i" -> [C], the largest value that a hidden channel can hold; "input" likewise.
        """
        unit = jnp.ones(x.shape[-1])
        if self.of_values:
            unit = lax.stop_gradient(2.0 ** _input_step(ranges["input"], jnp))
            x = jnp.clip(_rounded(x / unit), -LARGEST_INPUT, LARGEST_INPUT) * unit
        parts = self.parts()
        for i, (layer, slope) in enumerate(parts):
            params = layer.variables["params"]
            last = i + 1 == len(parts)
            step = lax.stop_gradient(_weight_step(params["kernel"] * unit[:, None], last, jnp))
            kernel = _rounded(params["kernel"] * unit[:, None] / step) * step / unit[:, None]
            apply = conv_transpose if isinstance(layer, ConvTranspose) else conv
            x = apply(x, kernel, params["bias"], layer.stride, layer.precision)
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
          symbols: [B, h, w, C] integers of at most LARGEST_INPUT, any dtype; or the values that the network reads.

        Returns:
          float32 [B, h', w', C'], multiples of 1/256.
        """
        alone, variables = self.unbind()
        state = dict(variables["state"])
        symbols = np.asarray(symbols, np.float32)
        if self.of_values:
            symbols = _to_input(symbols, np.asarray(state.pop("input")["step"]), np)
        return windows.evaluate(alone, {"state": state}, symbols, _exact_window)

    def integers_whole(self, symbols: jax.Array) -> jax.Array:
        """As `integers`, of a JAX array and without windows."""
        state = dict(self.variables["state"])
        symbols = symbols.astype(jnp.float32)
        if self.of_values:
            symbols = _to_input(symbols, state.pop("input")["step"], jnp)
        return _exact(state, self.plans(), symbols, None, not self.of_values)

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

    def quantise(
        self, medians: np.ndarray | None, ranges: Mapping[str, np.ndarray]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Integers for the parameters.

        Args:
          medians: float [C], of the latent that the network reads: it sees symbols, and value = symbol + median. None
            for a network that reads values.
          ranges: "layer_i" -> float [C], the largest value that a hidden channel has to hold; "input" likewise.

        Returns:
          {"layer_0": {"kernel", "bias", "shift", "plan"}, ...}, see Layer; and {"input": {"step": int8 [C]}}, base-2
          logarithms, for a network that reads values.

        Raises ModelError where a channel cannot be held in LARGEST_SUM.
        """
        found, bounds = {}, (-LARGEST_INPUT, LARGEST_INPUT)
        if self.of_values:
            step = _input_step(np.asarray(ranges["input"], np.float64), np)
            found["input"] = {"step": step.astype(np.int8)}
            unit = 2.0**step
        else:
            unit = np.ones(len(medians))
        for i, ((layer, _), plan) in enumerate(zip(self.parts(), self.plans(), strict=True)):
            params = jax.device_get(layer.variables["params"])
            kernel = np.asarray(params["kernel"], np.float64) * unit[:, None]
            bias = np.asarray(params["bias"], np.float64)
            medial = np.einsum("xyio,i->xyo", kernel, medians) if i == 0 and not self.of_values else None
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
        needed = {f"layer_{i}" for i in range(len(plans))} | ({"input"} if self.of_values else set())
        if set(layers) != needed:
            raise ModelError(f"network {self.name!r} needs integers of {len(plans)} layers: export the model again")
        bounds = (-LARGEST_INPUT, LARGEST_INPUT)
        if self.of_values:
            self._check_input(layers["input"], channels)
        else:
            channels += len(CONSTANTS)
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
            constants = i == 0 and not self.of_values
            sums = _largest_sum(layer.kernel.astype(float), layer.bias.astype(float), bounds, constants, plan[:2])
            shifts = _SHIFTS[0] <= layer.shift.min() and layer.shift.max() <= _SHIFTS[1]
            if layer.plan.tolist() != plan or sums.max() >= LARGEST_SUM or not shifts:
                raise ModelError(f"network {self.name!r}, layer {i} can leave the range in which its sums are exact")
            channels, bounds = part.features, plan[3:]

    def _check_input(self, found, channels):
        step = found.get("step") if isinstance(found, Mapping) and len(found) == 1 else None
        if step is None or step.shape != (channels,) or step.dtype != np.int8:
            raise ModelError(f"network {self.name!r}: the steps of its input are not int8 ({channels},)")
        if step.min() < _INPUT_STEPS[0] or step.max() > _INPUT_STEPS[1]:
            raise ModelError(f"network {self.name!r}: a step of its input is not within 2^{_INPUT_STEPS}")


# ---------------------------------------------------------------------- choosing integers


def _slope(slope):
    """The slope below zero in units of 1/512."""
    return SLOPE_ONE if slope is None else round(slope * SLOPE_ONE)


def _input_step(largest, xp):
    """[C] -> [C] base-2 logarithms of steps, so that `largest` is at most LARGEST_INPUT steps."""
    return xp.clip(xp.ceil(xp.log2(xp.maximum(largest, 2.0**-20) / LARGEST_INPUT)), *_INPUT_STEPS)


def _to_input(x, step, xp):
    """Values float32 [B, h, w, C] -> integers of at most LARGEST_INPUT: floor(x 2^-step + 1/2), clipped."""
    # Clipped first: x is a multiple of 2^-18 then (values are multiples of 2^-10), so that adding 1/2 is exact.
    factor = np.ldexp(np.float32(1), -step.astype(np.int32)) if xp is np else _power_of_two(-step.astype(jnp.int32))
    x = xp.clip(x * factor, -LARGEST_INPUT - 1, LARGEST_INPUT + 1)
    return xp.clip(xp.floor(x + 0.5), -LARGEST_INPUT, LARGEST_INPUT)


def _least(slope):
    """The least activation that is held behind a LeakyReLU of a slope."""
    return min(LEAST_LEAKY, -math.ceil(slope * LARGEST_ACTIVATION)) if slope else 0


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
    """[B, h, w, Cin] by [Cin, Cout], integers of at most 256: their exact products, whatever the device's precision."""

    def product(x, weights):
        return lax.dot_general(
            x, weights, (((3,), (0,)), ((), ())), precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
        )

    def narrow(x, weights):
        # bfloat16 holds these integers, and CPUs multiply it two to four times as fast; sums are float32.
        return product(x.astype(jnp.bfloat16), weights.astype(jnp.bfloat16))

    return lax.platform_dependent(x, weights, cpu=narrow, default=product)


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


@programs.Program
def _exact_window(stack, variables, x, inside):
    return _exact(variables["state"], stack.plans(), x, inside, not stack.of_values)


def _exact(state, plans, x, inside, constants):
    """Integer layers on integers x [B, h, w, C], float32; the output is in units of 1, the last layer's of 1/256.

    constants: whether the channels of the medians stand behind a latent's own.
    """
    if constants:
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

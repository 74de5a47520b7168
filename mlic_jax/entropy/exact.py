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
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.entropy.exact_layers import (
    CONSTANTS,
    LARGEST_ACTIVATION,
    LARGEST_OUTPUT,
    MOVES,
    SLOPE_ONE,
    TANH,
    Layer,
    Plan,
    evaluate,
    power_of_two,
)
from mlic_jax.entropy.exact_parts import (
    LEAST_LEAKY,
    TANH_ENTRIES,
    Part,
    kind_of,
    least_of,
    move_of,
    moved_unit,
    slope_of,
    tanh_table,
    tied,
)
from mlic_jax.entropy.priors.gaussian import ONE
from mlic_jax.errors import ModelError, UsageError
from mlic_jax.layers import programs, windows
from mlic_jax.layers.conv import Conv, ConvTranspose, conv, conv_transpose
from mlic_jax.layers.space import DepthToSpace
from mlic_jax.layers.stack import LeakyReLU, Stack

# Symbols of a latent that such a network reads are at most this large.
LARGEST_INPUT = 127
LARGEST_WEIGHT = 127
# Sums stay below this, so that adding 1/2 for rounding is exact as well.
LARGEST_SUM = 1 << 23
# And below this where they are split.
LARGEST_SPLIT_SUM = 1 << 30
_SHIFTS = (-16, 40)
# Base-2 logarithms of the steps to which values are rounded.
_INPUT_STEPS = (-10, 8)
_DTYPES = ("int8", "int32", "int8", "int32", "int16")


class ExactStack(Stack):
    """A network on the parse path: convolutions with `LeakyReLU`s between them.

    Called as any Stack it computes in floating point, for training. `measure` and `quantised` are for calibration and
    quantisation-aware training; `integers` is what coders use, from an artifact's state.

    Attributes:
      of_values: what the network reads. False: a latent, of whose values (symbol + median) it is given the symbols.
        True: anything else that a decoder knows exactly, as means, or latents rounded around means: multiples of a
        power of two. They are rounded to 8 bits, channel by channel with a power of two of its own as step.
      split_sums: whether sums may reach 2^30 instead of 2^23, for layers of so many taps and channels that weights
        would have few bits left. They are added up in parts then, in int32, which takes longer.
    """

    cores: tuple[int, int] = windows.HYPER_CORES
    of_values: bool = False
    split_sums: bool = False

    def __post_init__(self):
        self._check_layers()
        super().__post_init__()

    def _check_layers(self):
        """Raises UsageError for a layer that integers cannot stand for."""
        features, behind = 0, set()  # of the convolution, and what stands behind it so far
        for i, layer in enumerate(self.layers):
            kind = kind_of(layer)
            if kind == "convolution":
                fits = layer.kernel % 2 == 1 and getattr(layer, "padding", "zero") == "zero" and layer.use_bias
                features, behind = layer.features, set()
            else:
                fits = kind is not None and i > 0 and kind not in behind
                fits &= not isinstance(layer, LeakyReLU) or 0 <= layer.slope < 1
                fits &= not isinstance(layer, DepthToSpace) or features % layer.block**2 == 0
                behind.add(kind)
            if not fits:
                name = layer if isinstance(layer, LeakyReLU) else getattr(layer, "__name__", type(layer).__name__)
                raise UsageError(
                    f"layer {i} of an ExactStack, {name}: on the parse path there are Conv and ConvTranspose, with odd "
                    "kernels, zero padding and a bias, and behind each at most one LeakyReLU (or relu) of slope 0 to 1 "
                    "or jnp.tanh, and one SpaceToDepth or DepthToSpace, of channels that fit"
                )

    def parts(self) -> list[Part]:
        """The convolutions, each with what stands behind it."""
        found: list[Part] = []
        for layer in self.layers:
            kind = kind_of(layer)
            if kind == "convolution":
                found.append(Part(layer))
            elif kind == "moves":
                found[-1] = found[-1]._replace(moves=layer)
            else:
                found[-1] = found[-1]._replace(slope="tanh" if layer is jnp.tanh else layer.slope)
        return found

    def measure(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The output, and {"layer_0": [B, C], ...}: how large a value hidden channels of each example must hold.

        Where it reads values, those of its input stand under "input".
        """
        largest = {"input": jnp.abs(x).max((1, 2))} if self.of_values else {}
        for i, part in enumerate(self.parts()):
            x = part.activate(part.layer(x))
            if i + 1 < len(self.parts()):
                largest[f"layer_{i}"] = _largest_activation(x, part.slope)
            x = part.moved(x)
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
        for i, (part, plan) in enumerate(zip(parts, _plans(self), strict=True)):
            layer, last = part.layer, i + 1 == len(parts)
            fixed = last or plan.slope == TANH
            kernel = _kernel(layer, layer.variables["params"])
            step = lax.stop_gradient(tied(_weight_step(kernel * unit[:, None], fixed, jnp), plan, fixed))
            kernel = _rounded(kernel * unit[:, None] / step) * step / unit[:, None]
            apply = conv_transpose if isinstance(layer, ConvTranspose) else conv
            x = apply(x, kernel, layer.variables["params"]["bias"], layer.stride, layer.precision)
            if plan.slope == TANH:
                x = jnp.tanh(_rounded(x * ONE) / ONE)
            elif part.slope is not None:
                x = LeakyReLU(plan.slope / SLOPE_ONE)(x)
            if fixed:
                x, unit = _rounded(x * ONE) / ONE, jnp.full(len(step), 1 / ONE)
            else:
                shift = lax.stop_gradient(_shift(tied(ranges[f"layer_{i}"], plan, fixed), step, jnp))
                unit = step * 2.0**shift
                x = jnp.clip(_rounded(x / unit), plan.low, plan.high) * unit
            x, unit = part.moved(x), moved_unit(unit, plan)
        return x

    def integers(self, symbols: np.ndarray) -> np.ndarray:
        """The exact network of an artifact.

        Args:
          symbols: [B, h, w, C] integers of at most LARGEST_INPUT, any dtype; or the values that the network reads.

        Returns:
          float32 [B, h', w', C'], multiples of 1/256.
        """
        alone, variables = self.alone
        state = dict(variables["state"])
        step = np.asarray(state.pop("input")["step"]) if self.of_values else None

        def compute(stack, variables, part, inside):
            # Here, and not of the whole picture: its integers would stand in memory beside its values.
            part = part if step is None else to_input(part, step, np)
            return exact_window(stack, variables, part, inside)

        return windows.evaluate(alone, {"state": state}, np.asarray(symbols, np.float32), compute)

    def integers_whole(self, symbols: jax.Array) -> jax.Array:
        """As `integers`, of a JAX array and without windows."""
        state = dict(self.variables["state"])
        symbols = symbols.astype(jnp.float32)
        if self.of_values:
            symbols = to_input(symbols, state.pop("input")["step"], jnp)
        return evaluate(state, _plans(self), symbols, None, not self.of_values)

    def at_positions(self) -> Callable[[np.ndarray], np.ndarray]:
        """As `integers`, of n positions alone, for networks that `scanning.check` allows.

        Returns:
          a function of their surroundings [n, k, k, C], or, for networks without kernels, of a row [1, 1, n, C], which
          gives float32 [1, 1, n, C'], multiples of 1/256.
        """
        alone, variables = self.alone
        state = dict(variables["state"])
        step, first = np.asarray(state.pop("input")["step"]), self.parts()[0].layer
        variables, taps = jax.device_put({"state": state}), first.taps()

        def integers(values):
            values = to_input(np.asarray(values, np.float32), step, np)
            size = values.shape[1]
            if size == 1:
                values = np.moveaxis(values, 2, 0)
            around = slice((size - first.kernel) // 2, (size + first.kernel) // 2)
            values = values[:, around, around][:, taps]
            # Few shapes: programs are compiled for each.
            count = len(values)
            values = np.pad(values, ((0, (1 << (count - 1).bit_length()) - count), (0, 0), (0, 0)))
            return np.moveaxis(np.asarray(_exact_positions(alone, variables, values))[:count], 0, 2)

        return integers

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of an input [B, h, w, C], h and w multiples of a cell."""
        cell_in, cell_out, _ = windows.geometry(self.layers)
        return (shape[0], *(side // cell_in * cell_out for side in shape[1:3]), self.parts()[-1].features)

    def plans(self) -> list[list[int]]:
        """`Layer.plan` of every layer, as the module is built."""
        found = []
        parts = self.parts()
        for i, (layer, slope, moves) in enumerate(parts):
            if slope == "tanh":
                slope, low, high = TANH, -LARGEST_ACTIVATION, LARGEST_ACTIVATION
            elif i + 1 < len(parts):
                slope, low, high = slope_of(slope), least_of(slope), LARGEST_ACTIVATION
            else:
                slope, low, high = slope_of(slope), -LARGEST_OUTPUT, LARGEST_OUTPUT
            transposed, kind = int(isinstance(layer, ConvTranspose)), MOVES.index(move_of(moves))
            block = 1 if moves is None else moves.block
            plan = Plan(layer.stride, transposed, slope, low, high, int(self.split_sums), kind, block)
            found.append(plan.stored())
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
        most = LARGEST_SPLIT_SUM if self.split_sums else LARGEST_SUM
        for i, (part, stored) in enumerate(zip(self.parts(), self.plans(), strict=True)):
            layer, plan = part.layer, Plan(*stored)
            params = jax.device_get(layer.variables["params"])
            kernel = np.asarray(_kernel(layer, params), np.float64) * unit[:, None]
            bias = np.asarray(params["bias"], np.float64)
            medial = np.einsum("xyio,i->xyo", kernel, medians) if i == 0 and not self.of_values else None
            fixed = i + 1 == len(self.parts()) or plan.slope == TANH
            step = tied(_weight_step(kernel, fixed, np), plan, fixed)
            for _ in range(24):
                integers = _integers(kernel, bias, medial, step)
                excess = _largest_sum(*integers, bounds, medial is not None, plan[:2]) >= most
                if medial is not None:
                    excess |= np.abs(np.rint(medial / step)).max((0, 1)) > LARGEST_WEIGHT * CONSTANTS[1]
                if not excess.any():
                    break
                step = np.where(tied(excess, plan, fixed), 2 * step, step)
            else:
                raise ModelError(f"network {self.name!r}, layer {i}: a channel's sums do not fit {most}")
            if fixed:
                shift, unit = -np.log2(step * ONE), np.full(len(step), 1 / ONE)
            else:
                shift = _shift(tied(np.asarray(ranges[f"layer_{i}"], np.float64), plan, fixed), step, np)
                unit = step * 2.0**shift
            unit = moved_unit(unit, plan)
            kernel, bias = integers
            shift = np.clip(np.rint(shift), *_SHIFTS)
            made = Layer(
                kernel.astype(np.int8), bias.astype(np.int32), shift.astype(np.int8), np.array(stored, np.int32)
            )._asdict()
            made["table"] = tanh_table() if plan.slope == TANH else None
            found[f"layer_{i}"] = {name: array for name, array in made.items() if array is not None}
            bounds = plan.low, plan.high
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
        for i, (part, stored) in enumerate(zip(self.parts(), plans, strict=True)):
            plan = Plan(*stored)
            try:
                layer = Layer(**layers[f"layer_{i}"])
            except TypeError as reason:
                raise ModelError(f"network {self.name!r}, layer {i}: its arrays are not those of a layer") from reason
            size, features = part.layer.kernel, part.layer.features
            shapes = ((size, size, channels, features), (features,), (features,), (len(stored),), (TANH_ENTRIES,))
            for name, array, shape, dtype in zip(Layer._fields, layer, shapes, _DTYPES, strict=True):
                if name == "table" and array is None and plan.slope != TANH:
                    continue
                if array is None or array.shape != shape or array.dtype != dtype:
                    array = np.empty(0) if array is None else array
                    wanted = f"{dtype} {shape} is needed"
                    raise ModelError(
                        f"network {self.name!r}, layer {i}: {name} is {array.dtype} {array.shape}, {wanted}"
                    )
            constants = i == 0 and not self.of_values
            sums = _largest_sum(layer.kernel.astype(float), layer.bias.astype(float), bounds, constants, plan[:2])
            shifts = _SHIFTS[0] <= layer.shift.min() and layer.shift.max() <= _SHIFTS[1]
            most = LARGEST_SPLIT_SUM if plan.split else LARGEST_SUM
            shifts &= plan.slope != TANH or 0 <= layer.table.min() <= layer.table.max() <= LARGEST_ACTIVATION
            if layer.plan.tolist() != stored or sums.max() >= most or not shifts:
                raise ModelError(f"network {self.name!r}, layer {i} can leave the range in which its sums are exact")
            channels, bounds = part.features, (plan.low, plan.high)

    def _check_input(self, found, channels):
        step = found.get("step") if isinstance(found, Mapping) and len(found) == 1 else None
        if step is None or step.shape != (channels,) or step.dtype != np.int8:
            raise ModelError(f"network {self.name!r}: the steps of its input are not int8 ({channels},)")
        if step.min() < _INPUT_STEPS[0] or step.max() > _INPUT_STEPS[1]:
            raise ModelError(f"network {self.name!r}: a step of its input is not within 2^{_INPUT_STEPS}")


# ---------------------------------------------------------------------- choosing integers


def _kernel(layer, params):
    """The kernel that a layer convolves with."""
    return layer.masked(params["kernel"]) if isinstance(layer, Conv) else params["kernel"]


def _input_step(largest, xp):
    """[C] -> [C] base-2 logarithms of steps, so that `largest` is at most LARGEST_INPUT steps."""
    return xp.clip(xp.ceil(xp.log2(xp.maximum(largest, 2.0**-20) / LARGEST_INPUT)), *_INPUT_STEPS)


def to_input(x, step, xp):
    """Values float32 [B, h, w, C] -> integers of at most LARGEST_INPUT: floor(x 2^-step + 1/2), clipped."""
    # Clipped first: x is a multiple of 2^-18 then (values are multiples of 2^-10), so that adding 1/2 is exact.
    factor = np.ldexp(np.float32(1), -step.astype(np.int32)) if xp is np else power_of_two(-step.astype(jnp.int32))
    x = xp.clip(x * factor, -LARGEST_INPUT - 1, LARGEST_INPUT + 1)
    return xp.clip(xp.floor(x + 0.5), -LARGEST_INPUT, LARGEST_INPUT)


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


def _largest_activation(x, slope):
    """[B, h, w, C] -> [B, C]. Values below zero count for more, as much as their range is smaller."""
    least = LEAST_LEAKY if slope in (0, "tanh") else least_of(slope)
    return jnp.maximum(x.max((1, 2)), x.min((1, 2)) * (LARGEST_ACTIVATION / least))


def _rounded(x):
    """Rounds half up; the gradient is that of the identity."""
    return x + lax.stop_gradient(jnp.floor(x + 0.5) - x)


# ---------------------------------------------------------------------- evaluating them


def _plans(stack):
    return [Plan(*stored) for stored in stack.plans()]


@programs.Program
def exact_window(stack, variables, x, inside):
    return evaluate(variables["state"], _plans(stack), x, inside, not stack.of_values)


@functools.partial(jax.jit, static_argnums=0)
def _exact_positions(stack, variables, x):
    """[n, t, C], what the t taps of the first layer meet -> [n, 1, 1, C']."""
    state, kernel = dict(variables["state"]), variables["state"]["layer_0"]["kernel"]
    kernel = kernel[stack.parts()[0].layer.taps()]
    state["layer_0"] = {**state["layer_0"], "kernel": kernel.reshape(1, 1, -1, kernel.shape[-1])}
    return evaluate(state, _plans(stack), x.reshape(len(x), 1, 1, -1), None, False)

"""Bits of a volume, each with a probability that a trimmed convolutional network gives it from the bits before it.

Li, Zuo, Gu, Zhao, Zhang, "Learning convolutional networks for content-weighted image compression", CVPR 2018, codes its
bits with a network that looks at a cuboid of earlier ones; the authors' later "TCAE" has masked ("trimmed")
convolutions, which give all probabilities of a volume in one pass. This is TCAE's diagonal variant.

    bits [h, w, n], those not present are 0, others -1 or 1
      -> 5x5 n -> n g, 5x5 n g -> n g, blocks of two 5x5 with a sum, 3x3 n g -> n    logits

A bit's place is (i, j, k): row, column, channel; each of the n channels has a group of g features in every hidden
layer. A weight from place (i + a, j + b, c) to (i, j, k) is dropped where a + b + c >= k in the first layer, and where
a + b + c > k in the others. So a bit's probability depends on bits of a smaller i + j + k alone, and all those of one
sum, a diagonal, are coded at once: h + w + n - 2 steps in place of h w n.

Which bits are present, the decoder knows. Hidden features are zero at the other places, in training as in coding:
neither then has to compute them, and an importance map that keeps a third of the bits takes a third of the time.

Probabilities must be the same on every machine, so files are coded with whole numbers (mlic_jax.entropy.bits.integers):
weights of 8 bits, features and logits in steps of 1 / 32, at most 255 of them. The float network clips its features at
the same bounds; no photos are needed to find ranges, and the integers follow from the weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy.bits import integers
from mlic_jax.entropy.bits.integers import LARGEST_LOGIT, LOGIT_ONE
from mlic_jax.entropy.bits.prior import Wave
from mlic_jax.entropy.rangecoder import Decoder, Encoder
from mlic_jax.entropy.tables import TOTAL
from mlic_jax.errors import ModelError
from mlic_jax.layers import init
from mlic_jax.layers.conv import conv

# Of features below zero, as PReLU begins with.
SLOPE = 0.25
# Of features and logits.
BOUND = LARGEST_LOGIT / LOGIT_ONE
# n g: sums of 25 n g products stay below LARGEST_SUM, with as much room for the bias.
MOST_FEATURES = 1280
_LARGEST_BIAS = 1 << 29
_MARGIN = 2  # of the largest kernel


class _Layer(NamedTuple):
    """One convolution.

    Attributes:
      kernel: its size.
      strict: whether a place's own diagonal is left out of what it sees.
      inputs, outputs: features for each channel.
      adds: whether what the block before it was given is added; it then ends a block.
    """

    kernel: int
    strict: bool
    inputs: int
    outputs: int
    adds: bool


def layers(module: TrimmedConv) -> list[_Layer]:
    """The convolutions of a network, in order; behind all but the last stands the activation."""
    g = module.features
    hidden = [_Layer(5, False, g, g, adds) for _ in range(module.blocks) for adds in (False, True)]
    return [_Layer(5, True, 1, g, False), _Layer(5, False, g, g, False), *hidden, _Layer(3, False, g, 1, False)]


def trimming(layer: _Layer, channels: int) -> np.ndarray:
    """float32 [k, k, channels inputs, channels outputs]: 1 for weights that stay, 0 for those that are dropped."""
    offset = np.arange(layer.kernel) - layer.kernel // 2
    channel = np.arange(channels)
    seen = offset[:, None, None] + offset[:, None] + channel  # [k, k, Cin]: the diagonal, seen from channel 0
    stays = seen[..., None] < channel + (not layer.strict)
    return stays.repeat(layer.inputs, 2).repeat(layer.outputs, 3).astype(np.float32)


def _activate(x):
    return jnp.clip(jax.nn.leaky_relu(x, SLOPE), -BOUND, BOUND)


class TrimmedConv(nn.Module):
    """A prior of bits (mlic_jax.entropy.bits.prior): volumes are [h, w, n], of one stream.

    Attributes:
      channels: n, of the volume.
      features: g, for each channel in hidden layers.
      blocks: of two convolutions; TCAE has 3.
    """

    channels: int
    features: int
    blocks: int = 3

    encoder = Encoder
    decoder = Decoder

    def bits(self, signs: jax.Array, present: jax.Array) -> jax.Array:
        """Code lengths.

        Args:
          signs: float32 [B, h, w, n], -1 or 1; of no account where not present.
          present: bool [B, h, w, n].

        Returns:
          float32 [B, h, w, n], bits; 0 where not present.
        """
        return jax.nn.softplus(-self.logits(signs, present) * signs) / np.log(2) * present

    @nn.compact
    def logits(self, signs: jax.Array, present: jax.Array) -> jax.Array:
        """As `bits`, but the logarithms of the odds of a 1: float32 [B, h, w, n], at most BOUND."""
        present = present.astype(jnp.float32)
        of_features = jnp.repeat(present, self.features, axis=-1)
        plan, x, before = layers(self), signs * present, None
        for i, layer in enumerate(plan):
            last = i == len(plan) - 1
            shape = (layer.kernel, layer.kernel, self.channels * layer.inputs, self.channels * layer.outputs)
            # Half of the weights are dropped. Logits begin near zero, and blocks with little to add.
            gain = 0.3 if last else 1.0 if layer.adds else 2.0
            kernel = self.param(f"kernel_{i}", init.Normal(gain), shape)
            bias = self.param(f"bias_{i}", init.constant(0.0), shape[-1:])
            y = conv(x, kernel * trimming(layer, self.channels), bias)
            if layer.adds:
                y = y + before
            x, before = (jnp.clip(y, -BOUND, BOUND) if last else _activate(y) * of_features), x
        return x

    def integers(self) -> dict[str, Any]:
        """See `integers_of`."""
        return integers_of(self, self.variables["params"])

    def check(self) -> None:
        """See `check`."""
        check(self, self.variables.get("state", {}))

    def streams(self, signs: np.ndarray, present: np.ndarray) -> tuple[Iterator[Wave]]:
        """The one stream, diagonal by diagonal."""
        if signs.ndim != 3 or signs.shape[2] != self.channels:
            raise ValueError(f"a volume {signs.shape}: [h, w, {self.channels}] is needed")
        return (_waves(self, self.variables["state"], signs, present),)


# ---------------------------------------------------------------------- whole numbers


def integers_of(module: TrimmedConv, params: Mapping[str, Any]) -> dict[str, Any]:
    """What an artifact stores of a network, under its state.

    Args:
      module: the network.
      params: of it, float32.

    Returns:
      {"layer_0": {"kernel": int8 [k, k, Cin, Cout], "bias": int32 [Cout], "multiplier": int32 [Cout],
      "shift": int8 [Cout]}, ..., "frequencies": int32 [511]}, see `check`.

    Raises ModelError for weights that are too large for that.
    """
    state: dict[str, Any] = {"frequencies": integers.frequencies()}
    for i, layer in enumerate(layers(module)):
        kernel = np.asarray(params[f"kernel_{i}"], np.float64) * trimming(layer, module.channels)
        bias = np.asarray(params[f"bias_{i}"], np.float64)
        # Sums are in steps of a weight's step times 1 / LOGIT_ONE. Where next to a bias weights are nothing, they are
        # rounded to that.
        step = np.maximum(integers.quantise(kernel)[1], np.abs(bias) * LOGIT_ONE / _LARGEST_BIAS)
        try:
            multiplier, shift = integers.multiplier_of(step)
        except ValueError as reason:
            raise ModelError(f"weights of a context network are too large to be coded with: {reason}") from reason
        state[f"layer_{i}"] = {
            "kernel": np.rint(kernel / step).astype(np.int8),
            "bias": np.rint(bias * LOGIT_ONE / step).astype(np.int32),
            "multiplier": multiplier,
            "shift": shift,
        }
    return state


def check(module: TrimmedConv, state: Mapping[str, Any]) -> None:
    """Raises ModelError unless `state` is what `integers_of` makes for such a network."""
    plan = layers(module)
    needed = {"frequencies": ((2 * LARGEST_LOGIT + 1,), np.int32, 1, TOTAL - 1)}
    for i, layer in enumerate(plan):
        inputs, outputs = module.channels * layer.inputs, module.channels * layer.outputs
        kernel = (layer.kernel, layer.kernel, inputs, outputs)
        needed[f"layer_{i}/kernel"] = (kernel, np.int8, -integers.LARGEST_WEIGHT, integers.LARGEST_WEIGHT)
        needed[f"layer_{i}/bias"] = ((outputs,), np.int32, -_LARGEST_BIAS, _LARGEST_BIAS)
        needed[f"layer_{i}/multiplier"] = ((outputs,), np.int32, 1, (1 << 15) - 1)
        needed[f"layer_{i}/shift"] = ((outputs,), np.int8, *integers.SHIFTS)
    arrays = {}
    for name, value in state.items() if isinstance(state, Mapping) else ():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        arrays.update({f"{name}/{part}".rstrip("/"): array for part, array in parts})
    if arrays.keys() != needed.keys():
        missing, unexpected = sorted(needed.keys() - arrays.keys()), sorted(arrays.keys() - needed.keys())
        raise ModelError(f"a context network lacks {missing[:5]}, and has {unexpected[:5]} beyond what it should")
    for name, (shape, dtype, low, high) in needed.items():
        array = np.asarray(arrays[name])
        if array.shape != shape or array.dtype != dtype:
            wanted = f"{np.dtype(dtype).name} {shape}"
            raise ModelError(f"a context network's {name} is {array.dtype} {array.shape}, {wanted} is needed")
        if array.min() < low or array.max() > high:
            raise ModelError(f"a context network's {name} has values beyond {low} to {high}")


class _Prepared(NamedTuple):
    """A layer as it is evaluated.

    Attributes:
      layer: its plan.
      kernels: for each channel k float64 [k k c, outputs], c the inputs from which a weight to that channel is left.
      bias, multiplier, shift: [n, outputs].
    """

    layer: _Layer
    kernels: list[np.ndarray]
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray


def _prepare(module: TrimmedConv, state: Mapping[str, Any]) -> list[_Prepared]:
    prepared = []
    for i, layer in enumerate(layers(module)):
        arrays, n, outputs = state[f"layer_{i}"], module.channels, layer.outputs
        kernel = np.asarray(arrays["kernel"]).astype(np.float64)
        per_channel = []
        for k in range(n):
            part = kernel[:, :, : _reach(layer, n, k), k * outputs : (k + 1) * outputs]
            per_channel.append(np.ascontiguousarray(part.reshape(-1, outputs)))
        rest = (np.asarray(arrays[name]).reshape(n, outputs) for name in ("bias", "multiplier", "shift"))
        prepared.append(_Prepared(layer, per_channel, *rest))
    return prepared


def _reach(layer: _Layer, channels: int, k: int) -> int:
    """How many of a layer's inputs, from the first, any weight to channel k is left of."""
    return min(channels, k + 2 * (layer.kernel // 2) + (not layer.strict)) * layer.inputs


class Places(NamedTuple):
    """The bits of one diagonal that are present, ordered by channel, then row: int [m] each."""

    rows: np.ndarray
    columns: np.ndarray
    channels: np.ndarray


def diagonals(present: np.ndarray) -> Iterator[Places]:
    """The places of a volume bool [h, w, n] in the order of coding."""
    rows, columns, channels = np.nonzero(present)
    step = rows + columns + channels
    order = np.lexsort((rows, channels, step))
    rows, columns, channels, step = (array[order] for array in (rows, columns, channels, step))
    ends = np.flatnonzero(np.diff(step, append=-1)) + 1
    start = 0
    for end in ends.tolist():
        yield Places(rows[start:end], columns[start:end], channels[start:end])
        start = end


def _waves(
    module: TrimmedConv, state: Mapping[str, Any], signs: np.ndarray, present: np.ndarray
) -> Iterator[tuple[Places, np.ndarray]]:
    """Goes along the diagonals of a volume; see mlic_jax.entropy.bits.prior."""
    height, width, n = present.shape
    prepared, frequencies = _prepare(module, state), np.asarray(state["frequencies"])
    # What is known so far: the bits, and the features of each layer; zero elsewhere. So weights that are dropped meet
    # zeros alone, and those of them that `_prepare` left in do nothing. All are whole numbers of at most 255.
    known = [np.zeros((height + 2 * _MARGIN, width + 2 * _MARGIN, n, one.layer.inputs), np.int16) for one in prepared]
    windows = [_windows(array, one.layer.kernel) for array, one in zip(known, prepared, strict=True)]
    for places in diagonals(present):
        rows, columns, channels = places
        inside = (rows + _MARGIN, columns + _MARGIN, channels)
        starts = np.flatnonzero(np.diff(channels, prepend=-1))
        groups = list(zip(channels[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True))
        for i, one in enumerate(prepared):
            sums = np.empty((len(rows), one.layer.outputs))
            for k, start, stop in groups:
                seen = windows[i][..., : _reach(one.layer, n, k)][rows[start:stop], columns[start:stop]]
                seen = seen.reshape(stop - start, -1).astype(np.float64)
                sums[start:stop] = integers.product(seen, one.kernels[k])
            sums += one.bias[channels]
            x = integers.rescale(sums, one.multiplier[channels], one.shift[channels])
            if one.layer.adds:
                x += known[i - 1][inside]
            if i + 1 < len(prepared):
                x = np.where(x < 0, np.floor(x * SLOPE + 0.5), x)
                known[i + 1][inside] = np.clip(x, -LARGEST_LOGIT, LARGEST_LOGIT)
        logits = np.clip(x[:, 0], -LARGEST_LOGIT, LARGEST_LOGIT).astype(np.int64)
        yield places, frequencies[logits + LARGEST_LOGIT]
        known[0][inside] = (LOGIT_ONE * signs[places].astype(np.int16))[:, None]


def _windows(array: np.ndarray, kernel: int) -> np.ndarray:
    """A view [h, w, k, k, C] of [h + 4, w + 4, n, g]: what a convolution sees."""
    cut = _MARGIN - kernel // 2
    height, width = (side - 2 * _MARGIN for side in array.shape[:2])
    flat = array.reshape(*array.shape[:2], -1)
    rows, columns, samples = flat.strides
    return np.lib.stride_tricks.as_strided(
        flat[cut:, cut:],
        (height, width, kernel, kernel, flat.shape[-1]),
        (rows, columns, rows, columns, samples),
        writeable=False,
    )

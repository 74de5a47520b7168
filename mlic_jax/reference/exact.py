"""The exact networks, which say how the symbols of latents are distributed: convolutions in whole numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlic_jax.errors import ModelError

VALUE_BITS = 10  # the values that a network reads, where it reads no symbols, are multiples of 2^-10


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int, transposed: bool) -> np.ndarray:
    """int64 [h, w, Cin], [k, k, Cin, Cout] -> int64 [H, W, Cout]; zeros outside, k // 2 on both sides.

    Plain: out[y, x] = sum over i, j of kernel[i, j] in[y stride + i - k // 2, x stride + j - k // 2], of size
    ceil(h / stride). Transposed: the plain convolution with stride 1 of the input with stride - 1 zeros behind every
    row and column, of size h stride.
    """
    height, width, channels = x.shape
    if transposed:
        spread = np.zeros((height * stride, width * stride, channels), np.int64)
        spread[::stride, ::stride] = x
        return convolve(spread, kernel, 1, False)
    size = kernel.shape[0]
    padded = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    height, width = -(-height // stride), -(-width // stride)
    out = np.zeros((height, width, kernel.shape[3]), np.int64)
    for i in range(size):
        for j in range(size):
            out += padded[i:, j:][: height * stride : stride, : width * stride : stride] @ kernel[i, j]
    return out


def requantise(v: np.ndarray, shift: np.ndarray, slope: int, low: int, high: int) -> np.ndarray:
    """floor(v 2^-shift + 1/2), below zero times slope / 512 and rounded so again, clipped. All int64, exact.

    A slope of 512 is no activation at all. Any other sees at least -2^15.
    """
    up, down = np.maximum(-shift, 0), np.maximum(shift, 0)
    u = ((v << up) * 2 + (1 << down)) >> (down + 1)
    if slope != 512:
        u = np.where(u < 0, (np.maximum(u, -(1 << 15)) * slope + 256) >> 9, u)
    return np.clip(u, low, high)


def evaluate(layers: Mapping[str, Mapping[str, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """An exact network.

    Args:
      layers: "layer_0", "layer_1", ... -> kernel, bias, shift, plan; and "input" -> step, for networks of values.
      x: int64 [h, w, C], the symbols of a latent, or values in steps of 2^-10.

    Returns:
      int64 [H, W, C'].
    """
    if "input" in layers:
        x = requantise(x, layers["input"]["step"].astype(np.int64) + VALUE_BITS, 512, -127, 127)
    else:
        constants = np.broadcast_to(np.array([1, 128]), (*x.shape[:2], 2))
        x = np.concatenate([x, constants], axis=2)
    for i in range(len(layers) - ("input" in layers)):
        layer = {name: array.astype(np.int64) for name, array in layers[f"layer_{i}"].items()}
        stride, transposed, slope, low, high = layer["plan"].tolist()
        v = convolve(x, layer["kernel"], stride, bool(transposed)) + layer["bias"]
        if v.size and abs(v).max() >= 1 << 23:
            raise ModelError(f"layer {i} of an exact network exceeds 2^23: the model was not exported by these rules")
        x = requantise(v, layer["shift"], slope, low, high)
    return x

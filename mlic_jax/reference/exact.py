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


def requantise(v: np.ndarray, shift: np.ndarray, slope: int, low: int, high: int, table=None) -> np.ndarray:
    """floor(v 2^-shift + 1/2), below zero times slope / 512 and rounded so again, clipped. All int64, exact.

    A slope of 512 is no activation at all. Any other sees at least -2^15. One of -1 means: by the table, which has the
    results of 0, 1, .., the last of them for all that is larger, and for what is below zero their negatives.
    """
    up, down = np.maximum(-shift, 0), np.maximum(shift, 0)
    u = ((v << up) * 2 + (1 << down)) >> (down + 1)
    if slope == -1:
        u = np.sign(u) * table[np.minimum(abs(u), len(table) - 1)]
    elif slope != 512:
        u = np.where(u < 0, (np.maximum(u, -(1 << 15)) * slope + 256) >> 9, u)
    return np.clip(u, low, high)


def move(x: np.ndarray, moves: int, block: int) -> np.ndarray:
    """Samples from space to channels (1, 3), or back (2, 4): [h, w, C] -> [h / block, w / block, C block^2].

    The channel of sample (i, j) of a block and of channel c is (i block + j) C + c for 1 and 2, c block^2 + i block + j
    for 3 and 4.
    """
    height, width, channels = x.shape
    if moves in (2, 4):
        height, width, channels = height * block, width * block, channels // block**2
    whole, rows, columns = np.empty((height, width, channels), np.int64), range(block), range(block)
    deep = np.empty((height // block, width // block, channels * block**2), np.int64)
    for i in rows:
        for j in columns:
            at = i * block + j
            part = slice(at * channels, (at + 1) * channels) if moves in (1, 2) else slice(at, None, block**2)
            if moves in (1, 3):
                deep[..., part] = x[i::block, j::block]
            else:
                whole[i::block, j::block] = x[..., part]
    return deep if moves in (1, 3) else whole


def evaluate(layers: Mapping[str, Mapping[str, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """An exact network.

    Args:
      layers: "layer_0", "layer_1", ... -> kernel, bias, shift, plan, and table where there is one; and "input" -> step,
        for networks of values.
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
        stride, transposed, slope, low, high, *more = layer["plan"].tolist()
        split, moves, block = more or (0, 0, 1)
        v = convolve(x, layer["kernel"], stride, bool(transposed)) + layer["bias"]
        bits = 30 if split else 23
        if v.size and abs(v).max() >= 1 << bits:
            raise ModelError(f"layer {i} of an exact network exceeds 2^{bits}: it was not exported by these rules")
        x = requantise(v, layer["shift"], slope, low, high, layer.get("table"))
        x = move(x, moves, block) if moves else x
    return x


def evaluate_at(layers: Mapping[str, Mapping[str, np.ndarray]], around: np.ndarray) -> np.ndarray:
    """As `evaluate`, in the middle of n surroundings [n, k, k, C], for networks of values with kernels k and then 1.

    Returns int64 [1, n, C'].
    """
    kernel, step = layers["layer_0"]["kernel"], layers["input"]["step"]
    first = {**layers["layer_0"], "kernel": kernel.reshape(1, 1, -1, kernel.shape[3])}
    taps = kernel.shape[0] * kernel.shape[1]
    return evaluate(
        {**layers, "layer_0": first, "input": {"step": np.tile(step, taps)}}, around.reshape(1, len(around), -1)
    )


def evaluate_around(layers: Mapping[str, Mapping[str, np.ndarray]], x: np.ndarray, side: int) -> np.ndarray:
    """As `evaluate`, of the square of some side around each position of x [h, w, C], alone: int64 [h, w, C']."""
    padded = np.pad(x, ((side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    squares = [[padded[i : i + side, j : j + side] for j in range(x.shape[1])] for i in range(x.shape[0])]
    return np.array([[evaluate(layers, square)[0, 0] for square in row] for row in squares])

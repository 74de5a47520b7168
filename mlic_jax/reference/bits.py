"""What codecs that send bits have in common: bits from a stream, and the layers of whole numbers that predict them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlic_jax.errors import CorruptStreamError, ModelError
from mlic_jax.reference.rangecoder import Mirrored, cumulative

TOTAL = 1 << 16
EVEN = TOTAL // 2

# -------------------------------------------------------------------------------------------------------- single bits


@functools.cache
def bit_model(frequency: int) -> list[int]:
    """The range coder's model of a bit that is 1 with probability frequency / 2^16."""
    return cumulative((TOTAL - frequency, frequency))


class BitReader:
    """Reads bits with frequencies of their own from one stream."""

    def __init__(self, data: bytes):
        self._coder = Mirrored(data)

    def read(self, frequencies: Sequence[int]) -> list[int]:
        return [self._coder.read(bit_model(int(frequency))) for frequency in frequencies]

    def finish(self) -> None:
        """Raises CorruptStreamError unless the stream is what an encoder writes for the bits that were read."""
        self._coder.finish()


def plain_bits(data: bytes, count: int) -> np.ndarray:
    """int64 [count]: bits that were not entropy coded, the highest of a byte first. Raises CorruptStreamError."""
    bits = [byte >> place & 1 for byte in data for place in range(7, -1, -1)]
    if len(data) != (count + 7) // 8 or any(bits[count:]):
        raise CorruptStreamError(f"{len(data)} bytes do not hold {count} bits and zeros to the end of a byte")
    return np.array(bits[:count], np.int64)


def take_part(data: bytes) -> tuple[bytes, bytes]:
    """Splits what begins with a varint: as many bytes behind it, and the rest. Raises CorruptStreamError."""
    length = 0
    for at, byte in enumerate(data[:5]):
        length |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            if byte == 0 and at > 0:
                raise CorruptStreamError("the length of a map has superfluous bytes")
            if length > len(data) - at - 1:
                raise CorruptStreamError(f"a map has {length} bytes, and {len(data) - at - 1} are left")
            return data[at + 1 : at + 1 + length], data[at + 1 + length :]
    raise CorruptStreamError("the length of a map is cut off or too long")


# --------------------------------------------------------------------------------------- networks of whole numbers

LARGEST_SUM = 1 << 31
LARGEST_LOGIT = 255


class Layer(NamedTuple):
    """Sums of products, as int64, and what they become.

    Attributes:
      kernel: [inputs, outputs].
      bias, multiplier, shift: [outputs].
    """

    kernel: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[inputs] -> floor((bias + x kernel) multiplier 2^-shift + 1/2), [outputs]."""
        product = (x @ self.kernel + self.bias) * self.multiplier
        return (2 * product + (1 << self.shift)) >> (self.shift + 1)


def make_layer(kernel, bias, multiplier, shift, largest: int, what: str) -> Layer:
    """A layer whose inputs are at most `largest`. Raises ModelError where sums could leave what all decoders hold."""
    layer = Layer(*(np.asarray(array, np.int64) for array in (kernel, bias, multiplier, shift)))
    if (abs(layer.kernel).sum(0) * largest + abs(layer.bias)).max() >= LARGEST_SUM:
        raise ModelError(f"sums of {what} can reach 2^31: the model was not exported by these rules")
    return layer


def look_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Of a table whose entries stand for -m .. m; beyond them counts the last one."""
    m = len(table) // 2
    return table[np.clip(index, -m, m) + m].astype(np.int64)


def window(grid: np.ndarray, row: int, column: int, rows: int, columns: int) -> np.ndarray:
    """[rows columns C] of [h, w, C], by row, column and channel."""
    return grid[row : row + rows, column : column + columns].reshape(-1)

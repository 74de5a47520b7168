"""What chunks hold besides coded symbols: lengths of their parts, and bits as they are."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy.bits.prior import Wave
from mlic_jax.entropy.tables import TOTAL
from mlic_jax.entropy.varint import varint
from mlic_jax.errors import CorruptStreamError


def with_length(part: bytes) -> bytes:
    """A part behind its length, a varint, so that something can follow."""
    return varint(len(part)) + part


def split(data: bytes) -> tuple[bytes, bytes]:
    """The part that data begins with, see `with_length`, and what follows it. Raises CorruptStreamError."""
    length = 0
    for i, byte in enumerate(data[:5]):
        length |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if i and not byte:  # longer than it has to be
                break
            start = i + 1
            if length > len(data) - start:
                raise CorruptStreamError(f"the stream is truncated: a part of {length} bytes is to begin it")
            return data[start : start + length], data[start + length :]
    raise CorruptStreamError("the stream is damaged: it does not begin with the length of a part")


def pack(bits: np.ndarray) -> bytes:
    """Bits [n], 0 or 1, eight to a byte, the first one highest; what is left of the last byte is 0."""
    return np.packbits(bits.astype(np.uint8)).tobytes()


def unpack(data: bytes, count: int) -> np.ndarray:
    """The reverse: uint8 [count]. Raises CorruptStreamError where data is not what `pack` writes for as many."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if len(data) != -(-count // 8) or bits[count:].any():
        raise CorruptStreamError(f"the stream is damaged: {len(data)} bytes are no {count} bits")
    return bits[:count]


class Packer:
    """As rangecoder.Encoder for bits, which writes them as they are: see `pack`."""

    def __init__(self):
        self._bits = []

    def write_bits(self, bits: np.ndarray, frequencies: np.ndarray) -> None:
        """Bits of any shape, in the order of raveling."""
        del frequencies
        self._bits.append(np.ravel(bits))

    def finish(self) -> bytes:
        """The bytes."""
        return pack(np.concatenate(self._bits)) if self._bits else b""


class Unpacker:
    """As rangecoder.Decoder for bits, which reads what a `Packer` wrote."""

    def __init__(self, data: bytes):
        self._data, self._read = data, 0

    def read_bits(self, frequencies: np.ndarray) -> np.ndarray:
        """As many bits as there are frequencies: uint8 of their shape. Raises CorruptStreamError."""
        start, self._read = self._read, self._read + frequencies.size
        if len(self._data) < -(-self._read // 8):
            raise CorruptStreamError(f"the stream is damaged: {len(self._data)} bytes are no {self._read} bits")
        bits = np.unpackbits(np.frombuffer(self._data, np.uint8), count=self._read)[start:]
        return bits.reshape(frequencies.shape)

    def finish(self) -> None:
        """Raises CorruptStreamError unless all has been read, and zeros fill the last byte."""
        unpack(self._data, self._read)


class Raw:
    """The prior (mlic_jax.entropy.bits.prior) of bits that are written as they are, in raster order: one costs one."""

    name = None
    encoder = Packer
    decoder = Unpacker

    def bits(self, signs: jax.Array, present: jax.Array) -> jax.Array:
        """float32 of the shape of signs: 1 where present."""
        return jnp.broadcast_to(present, signs.shape).astype(jnp.float32)

    def integers(self) -> dict:
        """None are needed."""
        return {}

    def check(self) -> None:
        """Nothing can be wrong."""

    def streams(self, signs: np.ndarray, present: np.ndarray) -> Iterator[Iterator[Wave]]:
        """A stream of one wave for each [h, w, n]."""
        for iteration in np.ndindex(signs.shape[:-3]):
            places = np.nonzero(present[iteration])
            yield iter([((*iteration, *places), np.full(len(places[0]), TOTAL // 2))])

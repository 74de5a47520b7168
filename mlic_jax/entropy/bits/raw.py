"""What streams hold besides coded symbols: lengths of their parts, and bits as they are."""

from __future__ import annotations

import numpy as np

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

"""The file format: the only struct packing in the package. It imports neither jax nor a model.

Version 0 is provisional: the layout may change until version 1 is fixed, and a version that is not known is refused.

    offset  size    field
    0       4       "MLIC"
    4       1       version, 0
    5       2       model id, little endian (mlic_jax.zoo; ids are never reused)
    7       8       fingerprint: the first bytes of the SHA-256 of the model's tensors, tables and architecture
    15      1-3     width, then height, in pixels (varint, 7 bits a byte, least significant first)
    ..      1-3     number of chunks, then the length of each chunk in bytes (varints)
    ..      ..      the chunks
    -4      4       CRC-32 (zlib) of all bytes before, little endian
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from mlic_jax.errors import CorruptStreamError, LimitError

MAGIC = b"MLIC"
VERSION = 0
LARGEST_SIDE = 32768
LARGEST_PICTURE = 178_956_970  # pixels: where Pillow, too, refuses a picture
MOST_CHUNKS = 256
_FIXED = struct.Struct("<4sBH8s")
_CRC = struct.Struct("<I")


class Header(NamedTuple):
    """What a file says about itself.

    Attributes:
      model_id: the model's literal id in the zoo.
      fingerprint: 8 bytes that name the very weights.
      width, height: in pixels.
    """

    model_id: int
    fingerprint: bytes
    width: int
    height: int


def check_size(width: int, height: int) -> None:
    """Raises LimitError for a picture that the format cannot hold."""
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise LimitError(f"a picture of {width}x{height} pixels: sides of 1 to {LARGEST_SIDE} are possible")
    if width * height > LARGEST_PICTURE:
        raise LimitError(f"a picture of {width}x{height} pixels: at most {LARGEST_PICTURE} pixels are possible")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(5):
        if at + i >= len(data):
            raise CorruptStreamError("the file ends within its header")
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise CorruptStreamError("a number in the header is too long")


def pack(header: Header, chunks: tuple[bytes, ...]) -> bytes:
    """A whole file. Raises LimitError for impossible sizes."""
    check_size(header.width, header.height)
    if len(chunks) > MOST_CHUNKS:
        raise LimitError(f"{len(chunks)} chunks: at most {MOST_CHUNKS} are possible")
    numbers = [header.width, header.height, len(chunks), *map(len, chunks)]
    body = _FIXED.pack(MAGIC, VERSION, header.model_id, header.fingerprint)
    body += b"".join(map(_varint, numbers)) + b"".join(chunks)
    return body + _CRC.pack(zlib.crc32(body))


def unpack(data: bytes) -> tuple[Header, tuple[bytes, ...]]:
    """Header and chunks of a file.

    Raises:
      CorruptStreamError: not such a file, of an unknown version, truncated or damaged.
      LimitError: sides out of range.
    """
    if data[:4] != MAGIC:
        raise CorruptStreamError("not a .mlic file: it does not begin with the letters MLIC")
    if len(data) < _FIXED.size + _CRC.size:
        raise CorruptStreamError(f"the file is truncated: {len(data)} bytes do not hold a header")
    _, version, model_id, fingerprint = _FIXED.unpack_from(data)
    if version != VERSION:
        raise CorruptStreamError(f"format version {version} is not known: this program reads version {VERSION}")
    body = data[: -_CRC.size]
    if _CRC.unpack(data[-_CRC.size :])[0] != zlib.crc32(body):
        raise CorruptStreamError("the file is truncated or damaged: its checksum does not fit its content")
    width, at = _read_varint(body, _FIXED.size)
    height, at = _read_varint(body, at)
    check_size(width, height)
    count, at = _read_varint(body, at)
    if count > MOST_CHUNKS:
        raise CorruptStreamError(f"the header announces {count} chunks: at most {MOST_CHUNKS} are possible")
    lengths = []
    for _ in range(count):
        length, at = _read_varint(body, at)
        lengths.append(length)
    if at + sum(lengths) != len(body):
        raise CorruptStreamError("the chunks' lengths do not add up to the file's")
    chunks = []
    for length in lengths:
        chunks.append(body[at : at + length])
        at += length
    return Header(model_id, fingerprint, width, height), tuple(chunks)

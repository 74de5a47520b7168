"""The container: a file of format version 1, taken apart."""

from __future__ import annotations

import functools
from typing import NamedTuple

from mlic_jax.errors import CorruptStreamError

SIGNATURE = b"\x8bML"
VERSION = 1
MODES = 9
MODES_WITH_ALPHA = (1, 3, 6, 8)
MOST_PIXELS = 178_956_970
PIXELS_PER_BYTE = 65536
DATA, ALPHA, NOT_PORTABLE, ANCILLARY = 0, 1, 2, 128
METADATA = (128, 129, 130)
LARGEST_METADATA = 8 << 20


class File(NamedTuple):
    """What a file holds.

    Attributes:
      mode: 0..8.
      height, width: in pixels.
      model_id: what chose the codec.
      fingerprint: the first 6 bytes of the SHA-256 of the weights.
      quality: in half steps, 0..200, or None.
      chunks: (type, content) in the order of the file, but for the one that says that it is not portable.
      portable: whether every machine can read it.
    """

    mode: int
    height: int
    width: int
    model_id: int
    fingerprint: bytes
    quality: int | None
    chunks: tuple[tuple[int, bytes], ...]
    portable: bool = True


@functools.cache
def _crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4)."""
    table, crc = _crc32c_table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Fields:
    """Takes the fields of a file off its beginning."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise CorruptStreamError(f"the file ends at byte {len(self.data)}, {count} are needed from {self.at} on")
        self.at += count
        return part

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def varint(self, longest: int) -> int:
        """Seven bits a byte, low ones first; all bytes but the last have their high bit set; at most `longest`."""
        value = 0
        for i in range(longest):
            byte = self.number(1)
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                if byte == 0 and i > 0:
                    raise CorruptStreamError("a number in the header has superfluous bytes")
                return value
        raise CorruptStreamError("a number in the header is too long")


def parse(data: bytes) -> File:
    """Takes a file of format version 1 apart. Raises CorruptStreamError for anything else."""
    reader = Fields(bytes(data))
    if reader.take(3) != SIGNATURE:
        raise CorruptStreamError("not a .mlic file")
    version, mode = divmod(reader.number(1), 16)
    if version != VERSION:
        raise CorruptStreamError(f"format version {version} is not known: {VERSION} is")
    if mode >= MODES:
        raise CorruptStreamError(f"picture mode {mode} is not known")
    size = reader.number(4)
    width, height = (size & 0x7FFF) + 1, (size >> 15 & 0x7FFF) + 1
    has_quality, has_more_chunks = size >> 30 & 1, size >> 31
    if width * height > min(MOST_PIXELS, PIXELS_PER_BYTE * len(data)):
        raise CorruptStreamError(f"{width}x{height} pixels are too many for {len(data)} bytes")
    model_id = reader.varint(3)
    if not 1 <= model_id <= 65535:
        raise CorruptStreamError(f"model id {model_id} is out of range: 1 to 65535")
    fingerprint = reader.take(6)
    quality = reader.number(1) if has_quality else None
    if has_quality and quality > 200:
        raise CorruptStreamError(f"quality {quality / 2} is out of range: 0 to 100")
    announced = [(DATA, reader.varint(5))]
    if has_more_chunks:
        count = reader.varint(2)
        if not 1 <= count <= 255:
            raise CorruptStreamError(f"{count} further chunks are announced: 1 to 255 are possible")
        announced += [(reader.number(1), reader.varint(5)) for _ in range(count)]
    crc = crc32c(data[: reader.at])
    if reader.number(4) != crc:
        raise CorruptStreamError("the header's checksum does not fit")
    kinds = [kind for kind, _ in announced]
    if kinds.count(ALPHA) != (mode in MODES_WITH_ALPHA) or any(
        kinds.count(kind) > 1 for kind in (NOT_PORTABLE, *METADATA)
    ):
        raise CorruptStreamError(f"chunks of types {kinds} make no picture of mode {mode}")
    chunks = []
    for kind, length in announced:
        if kind not in (DATA, ALPHA, NOT_PORTABLE) and kind < ANCILLARY:
            raise CorruptStreamError(f"the file has a chunk of type {kind}, which cannot be left out and is not known")
        if kind == NOT_PORTABLE and length:
            raise CorruptStreamError(f"the chunk of type {kind} has {length} bytes: it is empty")
        if kind in METADATA and length > LARGEST_METADATA:
            raise CorruptStreamError(f"{length} bytes of metadata: at most {LARGEST_METADATA} are possible")
        content = reader.take(length)
        if reader.number(4) != crc32c(bytes([kind]) + content):
            raise CorruptStreamError(f"the checksum of a chunk of type {kind} does not fit")
        if kind != NOT_PORTABLE:
            chunks.append((kind, content))
    if reader.at != len(data):
        raise CorruptStreamError("something follows the last chunk")
    return File(mode, height, width, model_id, fingerprint, quality, tuple(chunks), NOT_PORTABLE not in kinds)

"""The file format, version 1: the only struct packing in the package. It imports neither jax nor a model.

docs/format.md says it byte by byte, for people who write another decoder.

    offset  size  field
    0       3     signature 8B 4D 4C: no text begins so, and text-mode transfers damage the first byte
    3       1     version (high nibble) | mode (low nibble, the place in MODES)
    4       4     (width-1) | (height-1) << 15 | has_quality << 30 | has_more_chunks << 31, little endian
    8       1-3   model id, 1..65535 (mlic_jax.zoo; ids are never reused)
    ..      6     fingerprint of the weights
    ..      0-1   quality in half steps, 0..200, if has_quality
    ..      1-5   length of the first chunk, which is of type DATA
    ..      ..    if has_more_chunks: their number, then type (1 byte) and length of each
    ..      4     CRC-32C of all bytes before, little endian
    ..      ..    the chunks in this order, each followed by the CRC-32C of its type byte and its content

Numbers of varying length are varints: 7 bits a byte, least significant first, no superfluous zero bytes. Types below
128 are critical: who does not know one cannot show the picture. Others are ancillary and skipped where unknown.

Everything that a header says is checked before anything of that size is made or read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import google_crc32c

from mlic_jax.entropy.varint import varint
from mlic_jax.errors import CorruptStreamError, InputError, LimitError

SIGNATURE = b"\x8bML"
VERSION = 1
# What a file's picture is when it is read: Pillow's names, with ";16" for 16 bits a sample. The place is the number
# that files carry.
MODES = ("L", "LA", "RGB", "RGBA", "1", "L;16", "LA;16", "RGB;16", "RGBA;16")

DATA, ALPHA, NOT_PORTABLE, ICC, EXIF, XMP, PAD = 0, 1, 2, 128, 129, 130, 131
NAMES = {
    DATA: "data",
    ALPHA: "alpha",
    NOT_PORTABLE: "not-portable",
    ICC: "icc",
    EXIF: "exif",
    XMP: "xmp",
    PAD: "pad",
}
METADATA = (ICC, EXIF, XMP)

LARGEST_SIDE = 32768
LARGEST_PICTURE = 178_956_970  # pixels: where Pillow, too, refuses a picture
PIXELS_PER_BYTE = 65536  # at most, over the whole file: less content than that is no picture but a bomb
MOST_CHUNKS = 255  # beyond the first
LARGEST_METADATA = 8 << 20  # bytes of each of METADATA, as stored and when inflated
LARGEST_METADATA_TOTAL = 16 << 20
FINGERPRINT_BYTES = 6
_LARGEST_CHUNK = (1 << 32) - 1

_FIXED = struct.Struct("<3sBI")
_CRC = struct.Struct("<I")
# Within so many bytes every header ends.
LONGEST_HEADER = _FIXED.size + 3 + FINGERPRINT_BYTES + 1 + 5 + 2 + MOST_CHUNKS * (1 + 5) + _CRC.size


class Header(NamedTuple):
    """What a file says about itself.

    Attributes:
      model_id: the model's literal id in the zoo.
      fingerprint: 6 bytes that name the very weights.
      width, height: in pixels.
      mode: one of MODES.
      quality: 0..100 in half steps, or None for a model of one rate.
      portable: whether every machine reads it; False where its model's parse path is floating point.
    """

    model_id: int
    fingerprint: bytes
    width: int
    height: int
    mode: str = "RGB"
    quality: float | None = None
    portable: bool = True


class Chunk(NamedTuple):
    """A chunk's type and content."""

    type: int
    content: bytes


class Place(NamedTuple):
    """Where a chunk lies: its type, the offset of its content in the file, and the content's length in bytes."""

    type: int
    offset: int
    length: int


def has_alpha(mode: str) -> bool:
    """Whether pictures of a mode have an alpha plane."""
    return "A" in mode


def bit_depth(mode: str) -> int:
    """Bits a sample: 1, 8 or 16."""
    return 16 if mode.endswith(";16") else 1 if mode == "1" else 8


def chunk_name(type: int) -> str:
    """A chunk type in words; unknown ones by their number."""
    return NAMES.get(type, f"type {type}")


def check_size(width: int, height: int) -> None:
    """Raises LimitError for a picture that the format cannot hold."""
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise LimitError(f"a picture of {width}x{height} pixels: sides of 1 to {LARGEST_SIDE} are possible")
    if width * height > LARGEST_PICTURE:
        raise LimitError(f"a picture of {width}x{height} pixels: at most {LARGEST_PICTURE} pixels are possible")


def _check_table(mode: str, table: Sequence[tuple[int, int]]) -> None:
    """Raises for (type, length) pairs that make no file, whoever wrote them."""
    types = [type for type, _ in table]
    for type, length in table:
        if type < 0x80 and type not in NAMES:
            raise CorruptStreamError(f"the picture cannot be read without chunk {chunk_name(type)}, which is not known")
        if type == NOT_PORTABLE and length:
            raise CorruptStreamError(f"a {NAMES[type]} chunk of {length} bytes: it has none")
        if type in METADATA and length > LARGEST_METADATA:
            raise LimitError(f"{NAMES[type]} of {length} bytes: at most {LARGEST_METADATA} are possible")
    for type in (ALPHA, NOT_PORTABLE, *METADATA):
        if types.count(type) > 1:
            raise CorruptStreamError(f"two {NAMES[type]} chunks: one is possible")
    if (ALPHA in types) != has_alpha(mode):
        raise CorruptStreamError(f"a picture of mode {mode} with{'' if ALPHA in types else 'out'} an alpha chunk")


# ---------------------------------------------------------------------- writing


def pack(header: Header, chunks: Sequence[Chunk]) -> bytes:
    """A whole file. The first chunk has to be of type DATA.

    Raises LimitError for a picture or metadata too large, or too many chunks.
    """
    check_size(header.width, header.height)
    if not header.portable:
        chunks = [*chunks, Chunk(NOT_PORTABLE, b"")]
    data = _pack(header, chunks)
    missing = -(-header.width * header.height // PIXELS_PER_BYTE) - len(data)
    return data if missing <= 0 else _pack(header, [*chunks, Chunk(PAD, bytes(missing))])


def _pack(header: Header, chunks: Sequence[Chunk]) -> bytes:
    first, *more = chunks
    if first.type != DATA or not 1 <= header.model_id <= 0xFFFF or len(header.fingerprint) != FINGERPRINT_BYTES:
        raise ValueError(f"{header} and chunks of types {[chunk.type for chunk in chunks]} make no file")
    _check_table(header.mode, [(chunk.type, len(chunk.content)) for chunk in chunks])
    if len(more) > MOST_CHUNKS or max(len(chunk.content) for chunk in chunks) > _LARGEST_CHUNK:
        raise LimitError(f"{len(chunks)} chunks: at most {MOST_CHUNKS + 1} of less than 4 GiB are possible")
    parts = []
    for chunk in chunks:
        parts += [chunk.content, _CRC.pack(_chunk_crc(chunk.type, chunk.content))]
    has_quality = header.quality is not None
    size = (header.width - 1) | (header.height - 1) << 15 | has_quality << 30 | bool(more) << 31
    start = _FIXED.pack(SIGNATURE, VERSION << 4 | MODES.index(header.mode), size)
    start += varint(header.model_id) + header.fingerprint
    if has_quality:
        start += bytes([round(2 * header.quality)])
    start += varint(len(first.content))
    if more:
        start += varint(len(more)) + b"".join(bytes([c.type]) + varint(len(c.content)) for c in more)
    return b"".join([start, _CRC.pack(google_crc32c.value(start)), *parts])


def _chunk_crc(type: int, content: bytes) -> int:
    return google_crc32c.extend(google_crc32c.value(bytes([type])), content)


# ---------------------------------------------------------------------- reading


def check_content(data) -> None:
    """Raises InputError for what cannot be the content of a file."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputError(f"a {type(data).__name__} is not the content of a file: give its bytes")


class _Reader:
    """Takes fields off the start of a file."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise CorruptStreamError("the file is truncated: it ends within its header")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self, largest: int) -> int:
        value, shift = 0, 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if value > largest or (byte == 0 and shift):
                raise CorruptStreamError("the header is damaged: a number is out of range")
            if byte < 0x80:
                return value
            shift += 7


def read_header(data: bytes, size: int | None = None, partial: bool = False) -> tuple[Header, tuple[Place, ...]]:
    """The header of a file, and where its chunks lie.

    Args:
      data: the file's content, or its first LONGEST_HEADER bytes or more.
      size: the file's length in bytes, where `data` is not all of it.
      partial: whether the file may end within its chunks; where they would lie is given all the same.

    Raises:
      CorruptStreamError: not such a file, of an unknown version, truncated or damaged, or with an unknown critical
        chunk.
      LimitError: too many pixels for the format, or for a file of this length; too much metadata.
    """
    size = len(data) if size is None else size
    data = bytes(data[:LONGEST_HEADER])
    if not data.startswith(SIGNATURE):
        raise CorruptStreamError("not a .mlic file: it does not begin with the bytes 8B 4D 4C")
    reader = _Reader(data)
    _, kind, sides = _FIXED.unpack(reader.take(_FIXED.size))
    if kind >> 4 != VERSION:
        raise CorruptStreamError(f"format version {kind >> 4} is not known: this program reads version {VERSION}")
    model_id = reader.varint(0xFFFF)
    fingerprint = reader.take(FINGERPRINT_BYTES)
    half_steps = reader.take(1)[0] if sides >> 30 & 1 else None
    table = [(DATA, reader.varint(_LARGEST_CHUNK))]
    count = reader.varint(MOST_CHUNKS) if sides >> 31 else None
    for _ in range(count or 0):
        (type,) = reader.take(1)
        table.append((type, reader.varint(_LARGEST_CHUNK)))
    expected = google_crc32c.value(data[: reader.at])
    if _CRC.unpack(reader.take(_CRC.size))[0] != expected:
        raise CorruptStreamError("the header is damaged: its checksum does not fit")

    # From here on nothing was damaged by accident: what is wrong was written so.
    width, height = (sides & 0x7FFF) + 1, (sides >> 15 & 0x7FFF) + 1
    if kind & 0xF >= len(MODES):
        raise CorruptStreamError(f"pictures of mode {kind & 0xF} are not known: modes 0 to {len(MODES) - 1} are")
    if not model_id or count == 0 or (half_steps or 0) > 200:
        raise CorruptStreamError(f"the header makes no sense: model {model_id}, quality {half_steps}, {count} chunks")
    mode = MODES[kind & 0xF]
    _check_table(mode, table)
    check_size(width, height)
    places = []
    for type, length in table:
        places.append(Place(type, reader.at, length))
        reader.at += length + _CRC.size
    if reader.at != size and not (partial and reader.at > size):
        more = "is truncated" if reader.at > size else "goes on behind its last chunk"
        raise CorruptStreamError(f"the file {more}: {size} bytes, its header says {reader.at}")
    if width * height > PIXELS_PER_BYTE * size:
        raise LimitError(f"{width}x{height} pixels in {size} bytes: at most {PIXELS_PER_BYTE} a byte are accepted")
    quality = None if half_steps is None else half_steps / 2
    portable = all(place.type != NOT_PORTABLE for place in places)
    return Header(model_id, fingerprint, width, height, mode, quality, portable), tuple(places)


def read_chunk(place: Place, stored: bytes) -> bytes:
    """A chunk's content.

    Args:
      place: where it lies, from `read_header`.
      stored: the length + 4 bytes from there on.

    Raises CorruptStreamError where its checksum does not fit.
    """
    content, crc = stored[: place.length], stored[place.length : place.length + _CRC.size]
    if len(crc) != _CRC.size or _CRC.unpack(crc)[0] != _chunk_crc(place.type, content):
        raise CorruptStreamError(f"the {chunk_name(place.type)} chunk is damaged: its checksum does not fit")
    return content


def unpack(data: bytes) -> tuple[Header, tuple[Chunk, ...]]:
    """Header and chunks of a whole file, without those that say nothing more: NOT_PORTABLE, padding, and ancillary ones
    that are not known. Raises as `read_header` and `read_chunk` do; the checksums of all chunks are verified."""
    header, places = read_header(data)
    return header, _chunks(data, places)


def unpack_partial(data: bytes) -> tuple[Header, tuple[Chunk, ...], tuple[Place, ...]]:
    """As `unpack`, of a file that may have been cut off: its header, its leading chunks as far as they are whole, and
    the places of all chunks that the whole file has. Raises as `unpack`."""
    header, places = read_header(data, partial=True)
    return header, _chunks(data, places[: whole(places, len(data))]), places


def whole(places: Sequence[Place], size: int) -> int:
    """How many leading chunks the first `size` bytes of a file hold."""
    return sum(end_of(place) <= size for place in places)


def end_of(place: Place) -> int:
    """How many bytes of the file it takes to have a chunk and its checksum."""
    return place.offset + place.length + _CRC.size


def _chunks(data, places):
    view = memoryview(data)
    chunks = [Chunk(place.type, read_chunk(place, bytes(view[place.offset : end_of(place)]))) for place in places]
    return tuple(chunk for chunk in chunks if chunk.type in NAMES and chunk.type not in (NOT_PORTABLE, PAD))


def inflate(content: bytes, at_most: int, what: str) -> bytes:
    """What a zlib stream holds. No more than `at_most` bytes and one are ever made of it.

    Args:
      content: exactly one stream.
      at_most: bytes.
      what: names it in errors.

    Raises:
      LimitError: there is more in it.
      CorruptStreamError: it is damaged or truncated, or something follows.
    """
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(content, at_most + 1)
    except zlib.error as reason:
        raise CorruptStreamError(f"the {what} is damaged: {reason}") from reason
    if len(inflated) > at_most:
        raise LimitError(f"the {what} inflates to more than {at_most} bytes")
    if not stream.eof or stream.unused_data or stream.unconsumed_tail:
        raise CorruptStreamError(f"the {what} is damaged: it is not exactly one zlib stream")
    return inflated

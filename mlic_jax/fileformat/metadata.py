"""ICC profile, EXIF and XMP of a picture: from Pillow, into chunks, and back.

A picture's metadata is a dict {container.ICC | EXIF | XMP: bytes}. EXIF is a TIFF structure without the "Exif" that
JPEG puts before it. Pictures are stored upright, so an orientation that was applied is set to 1 wherever it is written.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from mlic_jax.errors import LimitError, UsageError
from mlic_jax.fileformat import container
from mlic_jax.fileformat.container import EXIF, ICC, METADATA, NAMES, XMP, Chunk

# Pillow's names, in image.info and as arguments of save.
PILLOW = {ICC: "icc_profile", EXIF: "exif", XMP: "xmp"}
_EXIF_PREFIX = b"Exif\0\0"
_ORIENTATION = 0x0112
# Bytes of a number in an IFD, by TIFF's field type; the types that a reader might take for an orientation.
_WIDTHS = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4}


def choose(words: str) -> frozenset[int]:
    """The chunk types that "all", "none" or a list as "icc,exif" asks for. Raises UsageError for other words."""
    if words in ("all", "none"):
        return frozenset(METADATA if words == "all" else ())
    types = {NAMES[type]: type for type in METADATA}
    if not words or not types.keys() >= set(words.split(",")):
        raise UsageError(f"metadata {words!r} is not understood: use all, none, or some of {','.join(types)}")
    return frozenset(types[word] for word in words.split(","))


def of_pillow(info: Mapping[str, Any], chosen: Iterable[int]) -> dict[int, bytes]:
    """The chosen metadata of a Pillow image's `info`, with orientations set to 1."""
    kept = {}
    for type in sorted(chosen):
        value = info.get(PILLOW[type])
        if hasattr(value, "tobytes"):  # PIL.Image.Exif
            value = value.tobytes()
        if isinstance(value, str):
            value = value.encode()
        if value:
            kept[type] = bytes(value)
    if EXIF in kept:
        kept[EXIF] = _upright_exif(kept[EXIF].removeprefix(_EXIF_PREFIX))
    if XMP in kept:
        kept[XMP] = re.sub(rb'(tiff:Orientation(?:="|>))[0-9]', rb"\g<1>1", kept[XMP])
    return kept


def to_pillow(metadata: Mapping[int, bytes]) -> dict[str, bytes]:
    """What belongs into a Pillow image's `info`; Pillow's writers take it as keyword arguments."""
    return {PILLOW[t]: _EXIF_PREFIX + content if t == EXIF else content for t, content in metadata.items()}


def _upright_exif(exif: bytes) -> bytes:
    """The same EXIF with its orientation set to 1, in place. One that cannot be parsed comes back as it is."""
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(exif[:4])
    if order is None:
        return exif
    patched = bytearray(exif)
    first = int.from_bytes(exif[4:8], order)  # of the entries of the main directory; slices may lie beyond the end
    count = int.from_bytes(exif[first : first + 2], order)
    for entry in range(first + 2, min(first + 2 + 12 * count, len(exif) - 11), 12):
        tag, type = (int.from_bytes(exif[at : at + 2], order) for at in (entry, entry + 2))
        if tag == _ORIENTATION and type in _WIDTHS:
            width = _WIDTHS[type]
            patched[entry + 8 : entry + 8 + width] = (1).to_bytes(width, order)
    return bytes(patched)


def to_chunks(metadata: Mapping[int, bytes]) -> list[Chunk]:
    """Metadata as compressed chunks. Raises LimitError where it is larger than the format allows."""
    for type, content in metadata.items():
        if len(content) > container.LARGEST_METADATA:
            raise LimitError(
                f"{NAMES[type]} of {len(content)} bytes: at most {container.LARGEST_METADATA} are possible, leave it "
                "out with --metadata"
            )
    _check_total(metadata)
    return [Chunk(type, zlib.compress(content, 9)) for type, content in sorted(metadata.items())]


def from_chunks(chunks: Iterable[Chunk], chosen: Iterable[int] = METADATA) -> dict[int, bytes]:
    """The chosen metadata among a file's chunks.

    Raises:
      CorruptStreamError: damaged.
      LimitError: larger than the format allows.
    """
    kept = {}
    for chunk in chunks:
        if chunk.type in chosen:
            left = container.LARGEST_METADATA_TOTAL - sum(map(len, kept.values()))
            kept[chunk.type] = container.inflate(
                chunk.content, min(container.LARGEST_METADATA, left), f"{NAMES[chunk.type]} chunk"
            )
    return kept


def _check_total(metadata: Mapping[int, bytes]) -> None:
    total = sum(map(len, metadata.values()))
    if total > container.LARGEST_METADATA_TOTAL:
        raise LimitError(
            f"metadata of {total} bytes: at most {container.LARGEST_METADATA_TOTAL} are possible, leave some out with "
            "--metadata"
        )

"""ICC profile, EXIF and XMP of a picture: from Pillow, into chunks, and back.

A picture's metadata is a dict {container.ICC | EXIF | XMP: bytes}. EXIF is a TIFF structure without the "Exif" that
JPEG puts before it. Pictures are stored upright, so an orientation that was applied is set to 1 wherever it is written.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mlic_jax.errors import LimitError, UsageError
from mlic_jax.fileformat import container
from mlic_jax.fileformat.container import EXIF, ICC, METADATA, NAMES, XMP, Chunk

if TYPE_CHECKING:  # reading a header needs no Pillow
    from PIL import Image

# Pillow's names, in image.info and as arguments of save.
PILLOW = {ICC: "icc_profile", EXIF: "exif", XMP: "xmp"}
_EXIF_PREFIX = b"Exif\0\0"
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
# What programs write into a file that has no resolution.
_DEFAULT_DPI = {1, 72, 96}
# What Pillow raises for EXIF that is no TIFF structure, or has values of types that fit no tag.
_CANNOT_WRITE = (SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, struct.error)
_RAW_PROFILES = {"exif": "exif", "APP1": "exif", "xmp": "xmp", "icc": "icc_profile", "icm": "icc_profile"}
# Tags of TIFF that say how pixels lie in the file, and what is kept elsewhere (XMP, ICC): they make no sense in EXIF.
_STRUCTURE = {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290,
              291, 292, 293, 297, 301, 317, 320, 321, 322, 323, 324, 325, 326, 327, 328, 330, 332, 338, 339, 340, 341,
              342, 343, 344, 345, 346, 347, 529, 530, 531, 532, 559, 700, 34377, 34675, 50838, 50839}  # fmt: skip
_STRUCTURE_RANGE = (512, 521)  # of the old JPEG in TIFF
_MEANS_NOTHING_ALONE = {_ORIENTATION, _RESOLUTION_UNIT}
# Bytes of a number in an IFD, by TIFF's field type; the types that a reader might take for an orientation.
_WIDTHS = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4}


def choose(words: str) -> frozenset[int]:
    """The chunk types that "all", "none" or a list as "icc,exif" asks for. Raises UsageError for anything else."""
    if not isinstance(words, str):
        raise UsageError(
            f"metadata {words!r} is a {type(words).__name__}: all, none, or a text as 'icc,exif' is needed"
        )
    if words in ("all", "none"):
        return frozenset(METADATA if words == "all" else ())
    types = {NAMES[type]: type for type in METADATA}
    if not words or not types.keys() >= set(words.split(",")):
        raise UsageError(f"metadata {words!r} is not understood: use all, none, or some of {','.join(types)}")
    return frozenset(types[word] for word in words.split(","))


def of_pillow(info: Mapping[str, Any], chosen: Iterable[int]) -> dict[int, bytes]:
    """The chosen metadata of a Pillow image's `info`, with orientations set to 1.

    EXIF may be bytes or Pillow's `Image.Exif`, and may stand in the chunks that older programs wrote into PNGs. Where
    there is none, a resolution becomes EXIF, unless it is one that programs write without knowing any.

    Raises UsageError for metadata of a type that no Pillow reader gives.
    """
    kept = {}
    info = {**info, **_raw_profiles(info)}
    for type in sorted(chosen):
        value = info.get(PILLOW[type])
        if hasattr(value, "tobytes") and hasattr(value, "get_ifd"):  # Pillow's Image.Exif
            value = exif_bytes(value)
        if isinstance(value, str):
            value = value.encode(errors="surrogateescape")
        if value is not None and not isinstance(value, bytes | bytearray | memoryview):
            raise UsageError(f"{PILLOW[type]} is a {value.__class__.__name__}: bytes are needed, or PIL.Image.Exif")
        if value:
            kept[type] = bytes(value)
    if EXIF in chosen and EXIF not in kept and (resolution := _resolution(info)):
        kept[EXIF] = resolution
    if EXIF in kept:
        kept[EXIF] = _upright_exif(kept[EXIF].removeprefix(_EXIF_PREFIX))
    if XMP in kept:
        kept[XMP] = re.sub(rb'(tiff:Orientation(?:="|>))[0-9]', rb"\g<1>1", kept[XMP])
    return kept


def _no_tags() -> Image.Exif:
    from PIL import Image

    return Image.Exif()


def exif_bytes(exif: Image.Exif) -> bytes:
    """EXIF as a TIFF structure. Raises UsageError where Pillow cannot write it."""
    try:
        return exif.tobytes().removeprefix(_EXIF_PREFIX)
    except _CANNOT_WRITE as reason:
        raise UsageError(f"the EXIF cannot be written ({reason}): leave it out with --metadata") from reason


def _raw_profiles(info: Mapping[str, Any]) -> dict[str, bytes]:
    """EXIF, XMP and ICC of a PNG's text chunks "Raw profile type ..", as ImageMagick and Exiv2 wrote them: a name, a
    length, and hexadecimal digits."""
    found = {}
    for words, key in _RAW_PROFILES.items():
        text = info.get(f"Raw profile type {words}")
        if not isinstance(text, str):
            continue
        with contextlib.suppress(ValueError):  # damaged, as a photo's EXIF may be
            content = bytes.fromhex("".join(text.split("\n")[3:]))
            name = "xmp" if content.startswith(_XMP_PREFIX) else key
            content = content.removeprefix(_XMP_PREFIX)
            if info.get(name) is None:
                found[name] = content
    return found


def of_tiff(image: Image.Image) -> dict[str, bytes]:
    """The EXIF of a TIFF, for `info`: what the directory of the page says about more than how pixels lie in the file.
    Empty where that is nothing, or where it is damaged."""
    if not hasattr(image, "tag_v2") or image.info.get("exif") is not None:
        return {}
    try:
        tags = _no_tags()
        tags.load(image.getexif().tobytes())
        for tag in list(tags):
            if tag in _STRUCTURE or _STRUCTURE_RANGE[0] <= tag <= _STRUCTURE_RANGE[1]:
                del tags[tag]
        return {"exif": tags.tobytes()} if tags.keys() - _MEANS_NOTHING_ALONE else {}
    except (*_CANNOT_WRITE, OSError, AssertionError):  # the last where the file is closed
        return {}


def _resolution(info: Mapping[str, Any]) -> bytes | None:
    """A resolution in `info` as EXIF; None where there is none, or one of `_DEFAULT_DPI`."""
    try:
        dpi = tuple(round(float(one), 2) for one in info["dpi"])
        if len(dpi) != 2 or not all(0 < one < 1e6 for one in dpi) or {round(one) for one in dpi} <= _DEFAULT_DPI:
            return None
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    tags = _no_tags()
    tags[_X_RESOLUTION], tags[_Y_RESOLUTION], tags[_RESOLUTION_UNIT] = *dpi, 2
    return exif_bytes(tags)


def resolution_of(exif: bytes) -> tuple[float, float] | None:
    """The resolution in dots per inch that EXIF states; None where there is none that can be read."""
    try:
        tags = _no_tags()
        tags.load(exif)
        factor = 2.54 if tags.get(_RESOLUTION_UNIT, 2) == 3 else 1.0
        dpi = tuple(float(tags[tag]) * factor for tag in (_X_RESOLUTION, _Y_RESOLUTION))
    except (*_CANNOT_WRITE, OSError, ArithmeticError):
        return None
    return dpi if all(0 < one < 1e6 for one in dpi) else None


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

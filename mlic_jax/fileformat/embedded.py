"""Standard files inside ours: which kind it is, and a JPEG's metadata.

Models around a standard codec (mlic_jax.families.sandwich) write that codec's file as their stream; it can be taken
out and opened by any viewer.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlic_jax.errors import LimitError
from mlic_jax.fileformat.container import EXIF, ICC, XMP

# How files begin (at an offset), and what they are called.
_BEGINNINGS = (
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"\xff\x4f\xff\x51", ".j2k"),
    (4, b"ftypavif", ".avif"),
    (4, b"ftyphei", ".heic"),
    (4, b"ftypmif1", ".heic"),
    (8, b"WEBP", ".webp"),
    (0, b"\xff\x0a", ".jxl"),
    (4, b"JXL \r\n\x87\n", ".jxl"),
)
# A segment's length has 16 bits, and counts itself.
_LONGEST = 65535 - 2
_EXIF_HEAD, _XMP_HEAD, _ICC_HEAD = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


def extension_of(data: bytes) -> str | None:
    """ ".jpg", ".j2k", ".heic" and so on by a file's first bytes; None for anything else."""
    for offset, beginning, extension in _BEGINNINGS:
        if data[offset : offset + len(beginning)] == beginning:
            return extension
    return None


def with_metadata(data: bytes, metadata: Mapping[int, bytes]) -> bytes:
    """A JPEG file with EXIF, XMP and ICC profile {container.EXIF | XMP | ICC: bytes} after its first segment.

    Raises LimitError where EXIF or XMP do not fit one segment, as JPEG asks for.
    """
    segments = []
    for type, name, head, marker in ((EXIF, "EXIF", _EXIF_HEAD, 0xE1), (XMP, "XMP", _XMP_HEAD, 0xE1)):
        if type in metadata:
            if len(head) + len(metadata[type]) > _LONGEST:
                raise LimitError(
                    f"{name} of {len(metadata[type])} bytes: a JPEG file holds at most {_LONGEST - len(head)}, "
                    "leave it out with --metadata"
                )
            segments.append((marker, head + metadata[type]))
    profile = metadata.get(ICC, b"")
    part = _LONGEST - len(_ICC_HEAD) - 2
    count = -(-len(profile) // part)
    if count > 255:
        raise LimitError(f"an ICC profile of {len(profile)} bytes: a JPEG file holds at most {255 * part}")
    for i in range(count):
        segments.append((0xE2, _ICC_HEAD + bytes([i + 1, count]) + profile[i * part : (i + 1) * part]))
    if not segments:
        return data
    # Readers want JFIF's own segment first, where there is one.
    start = 2 if data[2:4] != b"\xff\xe0" else 4 + int.from_bytes(data[4:6])
    written = b"".join(bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body for marker, body in segments)
    return data[:start] + written + data[start:]

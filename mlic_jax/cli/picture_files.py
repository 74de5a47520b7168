"""Picture files out: which formats can hold what, and a Pillow image with its metadata as the content of a file."""

from __future__ import annotations

import io
import os

from PIL import Image, PngImagePlugin

from mlic_jax.errors import UsageError
from mlic_jax.fileformat import container

# Others lose transparency, or refuse it, depending on the format.
_WITH_ALPHA = ("PNG", "WEBP", "AVIF", "TIFF", "JPEG2000", "TGA")
_WITH_1_BIT = ("PNG", "TIFF", "PPM", "BMP", "GIF", "TGA")  # others get grey
_WITH_16_BITS = ("PNG", "TIFF", "JPEG2000", "PPM")
# A decoded picture should not be coded lossily a second time, as far as the format allows.
_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}
_TIFF_XMP = 700


def format_of(path: str | os.PathLike) -> str:
    """Pillow's name of the format that a path's suffix means. Raises UsageError where there is none to write."""
    suffix = os.path.splitext(path)[1].lower()
    format = Image.registered_extensions().get(suffix)
    if format not in Image.SAVE:
        raise UsageError(f"{str(path)!r}: the suffix {suffix!r} names no picture format that can be written, try .png")
    return format


def suffix_of(path: str) -> str | None:
    """The suffix of a path that means a picture format, ".jpg" for all of JPEG's; None for others."""
    suffix = os.path.splitext(path)[1].lower()
    # Pillow knows our own suffix too where mlic_jax.pillow was imported.
    format = None if suffix == ".mlic" else Image.registered_extensions().get(suffix)
    return ".jpg" if format == "JPEG" else suffix if format else None


def check(format: str, mode: str) -> None:
    """Raises UsageError where a format cannot hold a picture of a mode (one of container.MODES).

    Colours of 16 bits fit everywhere: as `picture.pillow_mode` says, they are written with 8.
    """
    if container.has_alpha(mode) and format not in _WITH_ALPHA:
        raise UsageError(f"the picture has an alpha channel, {format} cannot hold it: choose .png, .webp or .tiff")
    if mode == "L;16" and format not in _WITH_16_BITS:
        raise UsageError(f"the picture has 16 bits a sample, {format} cannot hold them: choose .png or .tiff")


def to_bytes(image: Image.Image, format: str) -> bytes:
    """A file with the picture and the metadata in `image.info`, losslessly where the format can.

    Raises UsageError where the format cannot hold one or the other.
    """
    options = {key: image.info[key] for key in ("icc_profile", "exif", "xmp") if key in image.info}
    # Pillow writes XMP for some formats under other names than it reads it.
    if "xmp" in options and format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + options.pop("xmp"))
    if "xmp" in options and format == "TIFF":
        tags = Image.Exif()
        tags.load(options.get("exif"))
        tags[_TIFF_XMP] = options.pop("xmp")
        options["exif"] = tags
    if image.mode == "1" and format not in _WITH_1_BIT:
        image = image.convert("L")
    out = io.BytesIO()
    try:
        image.save(out, format, **_OPTIONS.get(format, {}), **options)
    except (OSError, ValueError) as reason:
        raise UsageError(
            f"the picture cannot be written as {format} ({reason}): try .png, or --metadata none"
        ) from reason
    return out.getvalue()

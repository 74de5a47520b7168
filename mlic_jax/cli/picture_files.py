"""Picture files out: which formats can hold what, and a Pillow image with its metadata as the content of a file."""

from __future__ import annotations

import io
import os
import struct

from PIL import Image, PngImagePlugin

from mlic_jax.data import images
from mlic_jax.errors import UsageError
from mlic_jax.fileformat import container, metadata

# The formats that are written. Pillow's other writers change pictures: ICO and ICNS scale them, GIF leaves 256 colours.
_LOSSLESS = ("PNG", "TIFF", "WEBP", "JPEG2000", "BMP", "PPM", "TGA")
_LOSSY = ("JPEG", "AVIF")
_WITH_ALPHA = ("PNG", "WEBP", "AVIF", "TIFF", "JPEG2000", "TGA")
_WITH_1_BIT = ("PNG", "TIFF", "PPM", "BMP", "TGA")  # others get grey
_WITH_16_BITS = ("PNG", "TIFF", "JPEG2000", "PPM")
_WITH_METADATA = ("PNG", "TIFF", "WEBP", "JPEG", "AVIF")
_WITH_DPI = ("PNG", "JPEG", "BMP")
_OPTIONS = {
    # Of photos as small as at level 6 with zlib-ng, which Pillow has, in a third of the time.
    "PNG": {"compress_level": 3},
    "JPEG": {"subsampling": "4:4:4"},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"subsampling": "4:4:4"},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}
_TIFF_XMP = 700
# What Pillow's writers raise for a picture that is too large, and for metadata that are damaged or too large.
_REFUSALS = (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, AttributeError, struct.error)


def format_of(path: str | os.PathLike) -> str:
    """Pillow's name of the format that a path's suffix means. Raises UsageError where it is none that is written."""
    suffix = os.path.splitext(path)[1].lower()
    format = _registered(suffix)
    if format not in _LOSSLESS + _LOSSY:
        raise UsageError(
            f"{str(path)!r}: the suffix {suffix!r} names no picture format that can be written, try .png; .tiff, "
            ".webp, .jp2, .bmp and .ppm are lossless, too, and .jpg and .avif are lossy"
        )
    return format


def _registered(suffix: str) -> str | None:
    """Pillow's name of the format of a suffix. Its rarer formats are imported only for theirs."""
    Image.preinit()
    return Image.EXTENSION.get(suffix) or Image.registered_extensions().get(suffix)


def suffix_of(path: str) -> str | None:
    """The suffix of a path that means a picture format, ".jpg" for all of JPEG's; None for others."""
    suffix = os.path.splitext(path)[1].lower()
    # Pillow knows our own suffix too where mlic_jax.pillow was imported.
    format = None if suffix == ".mlic" else _registered(suffix)
    return ".jpg" if format == "JPEG" else suffix if format else None


def check_quality(format: str, quality: int | None) -> None:
    """Raises UsageError for a lossy format without a quality, or a lossless one with it."""
    if format in _LOSSY and quality is None:
        raise UsageError(
            f"{format} loses something of the picture once more: say how much with --output-quality (95 is hardly "
            "visible), or choose .png, .webp or .tiff, which are lossless"
        )
    if format not in _LOSSY and quality is not None:
        raise UsageError(f"--output-quality is for .jpg and .avif: {format} is written lossless")


def warn_of_losses(image: Image.Image, mode: str, format: str, path: str) -> None:
    """A LossWarning where a format has no place for the metadata of a picture, or Pillow none for its alpha.

    Args:
      image: what is to be written.
      mode: that of the .mlic file, one of container.MODES.
      format, path: where it goes.
    """
    if container.has_alpha(mode) and container.bit_depth(mode) == 16:
        images.warn(f"{path}: alpha of 16 bits is written with 8; mlic_jax.decompress gives all of it")
    lost = [name for name in ("icc_profile", "exif", "xmp") if name in image.info]
    if lost and format not in _WITH_METADATA:
        images.warn(f"{path}: {format} files have no place for {', '.join(lost)}: not written")


def check(format: str, mode: str) -> None:
    """Raises UsageError where a format cannot hold a picture of a mode (one of container.MODES).

    Colours of 16 bits fit everywhere: as `modes.pillow_mode` says, they are written with 8.
    """
    if container.has_alpha(mode) and format not in _WITH_ALPHA:
        raise UsageError(f"the picture has an alpha channel, {format} cannot hold it: choose .png, .webp or .tiff")
    if mode == "L;16" and format not in _WITH_16_BITS:
        raise UsageError(f"the picture has 16 bits a sample, {format} cannot hold them: choose .png or .tiff")


def to_bytes(image: Image.Image, format: str, quality: int | None = None) -> bytes:
    """A file with the picture and the metadata in `image.info`.

    Args:
      image: of what `check` lets pass.
      format: Pillow's name, from `format_of`.
      quality: 1 to 100, of JPEG and AVIF; None for the others, which are lossless.

    Raises UsageError where the format cannot hold one or the other, or `check_quality` does.
    """
    check_quality(format, quality)
    options = {key: image.info[key] for key in ("icc_profile", "exif", "xmp") if key in image.info}
    if format in _WITH_DPI and (dpi := metadata.resolution_of(options.get("exif", b""))):
        options["dpi"] = dpi
    if quality is not None:
        options["quality"] = quality
    # Pillow writes XMP for some formats under other names than it reads it.
    if "xmp" in options and format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + options.pop("xmp"))
    if "xmp" in options and format == "TIFF":
        options["exif"] = _with_xmp(options.get("exif"), options.pop("xmp"))
    if image.mode == "1" and format not in _WITH_1_BIT:
        image = image.convert("L")
    out = io.BytesIO()
    try:
        image.save(out, format, **_OPTIONS.get(format, {}), **options)
    except _REFUSALS as reason:
        raise UsageError(
            f"the picture cannot be written as {format} ({reason}): try .png, or --metadata none"
        ) from reason
    return out.getvalue()


def _with_xmp(exif: bytes | None, xmp: bytes) -> Image.Exif:
    """EXIF with the tag in which TIFF keeps XMP. Raises UsageError for EXIF that is no TIFF structure."""
    try:
        tags = Image.Exif()
        tags.load(exif)
        tags[_TIFF_XMP] = xmp
        return tags
    except _REFUSALS as reason:
        raise UsageError(f"the EXIF is damaged ({reason}), and TIFF cannot hold it: try --metadata icc,xmp") from reason

"""The codecs that Pillow's own wheels contain: JPEG, JPEG 2000, WebP and AVIF.

Each pair takes and gives uint8 [H, W, 3] in sRGB and writes no metadata. JPEG and JPEG 2000 write pictures of three
equal channels as grey ones. Files are what the library writes, container included (some 300 to 400 bytes for AVIF: it
counts below 0.15 bits per pixel).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import PIL
from PIL import Image, features

from mlic_jax import errors
from mlic_jax.classical import checks

# Longest side that each format can store (libjpeg's limit is below the format's 65535; AVIF's and JPEG 2000's are
# larger, and stand for what one image in memory can sensibly be).
_MAX_SIDE = {"JPEG": 65500, "JPEG2000": 65535, "WEBP": 16383, "AVIF": 65535}


def missing(feature: str, format_name: str) -> Callable[[], str | None]:
    """A check, for the registry, that this Pillow was built with `feature` (a name of `PIL.features`)."""

    def check() -> str | None:
        # Pillow before 11.3 does not know the name "avif" and raises.
        if feature in features.get_supported() or (feature in features.features and features.check(feature)):
            return None
        return f"this Pillow was built without {format_name}: pip install 'pillow>=11.3' (its wheels contain it)"

    return check


def library(feature: str, name: str) -> Callable[[], str]:
    """What names, for the registry, the versions that decide the files: of Pillow and of the library behind it."""
    return lambda: f"Pillow {PIL.__version__}, {name} {features.version(feature)}"


def _encode(image: np.ndarray, fmt: str, **options) -> bytes:
    image = checks.image(image, fmt, _MAX_SIDE[fmt])
    if fmt in ("JPEG", "JPEG2000") and checks.is_grey(image):
        image = np.ascontiguousarray(image[..., 0])
        options = {key: value for key, value in options.items() if key not in ("subsampling", "mct")}
    out = io.BytesIO()
    try:
        Image.fromarray(image).save(out, fmt, **options)
    except (OSError, ValueError, KeyError) as error:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise errors.UsageError(f"{fmt}: the encoder failed on a {size} image: {error}") from error
    return out.getvalue()


def _decode(data: bytes, fmt: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=[fmt]) as image:
            return np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise errors.LimitError(f"{fmt}: {error}") from error
    except (OSError, ValueError, SyntaxError, RuntimeError, KeyError, struct.error) as error:
        raise errors.CorruptStreamError(f"{fmt}: the file of {len(data)} bytes cannot be decoded: {error}") from error


def _jpeg_quality(quality: float) -> int:
    # libjpeg's scale starts at 1 and knows whole numbers only.
    return max(1, round(checks.quality(quality, "JPEG")))


def encode_jpeg(image: np.ndarray, quality: float) -> bytes:
    """JPEG 4:2:0 with the tables of the standard: `quality` is libjpeg's, rounded to 1..100."""
    return _encode(image, "JPEG", quality=_jpeg_quality(quality), subsampling="4:2:0")


def encode_jpeg_optimised(image: np.ndarray, quality: float) -> bytes:
    """JPEG 4:2:0 with Huffman codes fitted to the image, progressive: the same pixels as `encode_jpeg` in less."""
    quality = _jpeg_quality(quality)
    return _encode(image, "JPEG", quality=quality, subsampling="4:2:0", optimize=True, progressive=True)


def encode_jpeg444(image: np.ndarray, quality: float) -> bytes:
    """JPEG with colour at full resolution: `quality` is libjpeg's, rounded to 1..100."""
    return _encode(image, "JPEG", quality=_jpeg_quality(quality), subsampling="4:4:4")


def decode_jpeg(data: bytes) -> np.ndarray:
    """Any JPEG -> uint8 [H, W, 3]. Raises CorruptStreamError if it is not one, or is cut short."""
    return _decode(data, "JPEG")


def encode_jpeg2000(image: np.ndarray, quality: float) -> bytes:
    """JPEG 2000 at a compression ratio of 400 / 2^(quality / 12.5).

    OpenJPEG is asked for a rate, so the scale is ours: 0 is 0.06 bits per pixel, every 12.5 points double the file
    (50 is 0.96 bits per pixel), and from about 95 on the code stream holds all that the irreversible transform has.
    """
    ratio = 400 / 2 ** (checks.quality(quality, "JPEG2000") / 12.5)
    return _encode(
        image,
        "JPEG2000",
        irreversible=True,
        mct=1,  # without it each of R, G, B is coded alone
        quality_mode="rates",
        quality_layers=[ratio],
        no_jp2=True,
    )


def decode_jpeg2000(data: bytes) -> np.ndarray:
    """JPEG 2000 -> uint8 [H, W, 3]. Raises CorruptStreamError if it is not one, or its head is damaged."""
    return _decode(data, "JPEG2000")


def encode_webp(image: np.ndarray, quality: float, method: int = 4) -> bytes:
    """Lossy WebP: `quality` is libwebp's, fractions included. Always 4:2:0, as the format is."""
    return _encode(image, "WEBP", quality=checks.quality(quality, "WEBP"), method=method)


def decode_webp(data: bytes) -> np.ndarray:
    """WebP -> uint8 [H, W, 3]. Raises CorruptStreamError if it is not one, or is cut short."""
    return _decode(data, "WEBP")


def encode_avif(image: np.ndarray, quality: float) -> bytes:
    """AVIF as Pillow writes it by default, 4:2:0 and tuned for perceived quality: `quality` is libavif's, rounded."""
    quality = round(checks.quality(quality, "AVIF"))
    return _encode(image, "AVIF", quality=quality, speed=6, subsampling="4:2:0", max_threads=1)


def encode_avif444(image: np.ndarray, quality: float, speed: int = 6) -> bytes:
    """AVIF with colour at full resolution, tuned for PSNR: `quality` is libavif's, rounded."""
    quality = round(checks.quality(quality, "AVIF"))
    options = {"subsampling": "4:4:4", "advanced": {"tune": "psnr"}}
    return _encode(image, "AVIF", quality=quality, speed=speed, max_threads=1, **options)


def decode_avif(data: bytes) -> np.ndarray:
    """AVIF -> uint8 [H, W, 3]. Raises CorruptStreamError if it is not one, or is cut short."""
    return _decode(data, "AVIF")

"""JPEG XL through imagecodecs, which is imported only when the codec is used."""

from __future__ import annotations

import numpy as np

from mlic_jax import errors, extras
from mlic_jax.classical import checks


def missing() -> str | None:
    """None if imagecodecs is there, else what to install."""
    if extras.installed("imagecodecs"):
        return None
    return extras.missing("imagecodecs", "the classical codec 'jpegxl' needs")


def _imagecodecs():
    try:
        import imagecodecs
    except ImportError as error:
        raise errors.UsageError(missing() or f"imagecodecs is installed but cannot be imported: {error}") from error
    return imagecodecs


def library() -> str:
    """The versions that decide the files."""
    codecs = _imagecodecs()
    return f"imagecodecs {codecs.__version__}, {codecs.jpegxl_version()}"


def distance_of(quality: float) -> float:
    """libjxl's own map (`JxlEncoderDistanceFromQuality`) from a JPEG-like quality to its Butteraugli distance.

    It ends in distance 0, which is lossless coding by another tool; here 100 stops at 0.01, the least lossy distance.
    """
    quality = checks.quality(quality, "JPEG XL")
    if quality < 30:
        return 53 / 3000 * quality**2 - 23 / 20 * quality + 25
    return max(0.01, 0.1 + (100 - quality) * 0.09) if quality < 100 else 0.01


def encode(image: np.ndarray, quality: float) -> bytes:
    """Lossy JPEG XL at effort 7: `quality` as libjxl's `cjxl -q` reads it, fractions included."""
    image = checks.image(image, "JPEG XL", 2**18)
    return bytes(_imagecodecs().jpegxl_encode(image, distance=distance_of(quality), effort=7, numthreads=1))


def decode(data: bytes) -> np.ndarray:
    """JPEG XL -> uint8 [H, W, 3].

    Raises:
      CorruptStreamError: it is not one, is damaged, or holds something other than 8-bit RGB.
    """
    codecs = _imagecodecs()
    try:
        image = np.asarray(codecs.jpegxl_decode(data, numthreads=1))
    except (RuntimeError, ValueError) as error:
        raise errors.CorruptStreamError(f"JPEG XL: the file of {len(data)} bytes cannot be decoded: {error}") from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise errors.CorruptStreamError(f"JPEG XL: expected 8-bit RGB, got {image.dtype} {list(image.shape)}")
    return image

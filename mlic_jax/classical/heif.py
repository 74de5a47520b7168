"""HEIC (HEVC in HEIF) through pillow-heif, which is imported only when the codec is used."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mlic_jax import errors, extras
from mlic_jax.classical import checks


def missing() -> str | None:
    """None if pillow-heif is there, else what to install."""
    if extras.installed("pillow_heif"):
        return None
    return extras.missing("pillow_heif", "the classical codecs 'heic' need")


def _pillow_heif():
    try:
        import pillow_heif
    except ImportError as error:
        raise errors.UsageError(missing() or f"pillow-heif is installed but cannot be imported: {error}") from error
    return pillow_heif


def library() -> str:
    """The versions that decide the files."""
    heif = _pillow_heif()
    versions = heif.libheif_info()
    return f"pillow-heif {heif.__version__}, libheif {versions['libheif']}, {versions['HEIF']}"


def _encode(image: np.ndarray, quality: float, chroma: str, **options) -> bytes:
    image = checks.image(image, "HEIC", 16384)
    quality = round(checks.quality(quality, "HEIC"))
    out = io.BytesIO()
    # pillow-heif writes the quality and more into the dict that it is given: each file gets one of its own. x265 starts
    # a thread for every core unless it is told not to.
    parameters = {**options, "x265:pools": "none"}
    heif = _pillow_heif()
    try:
        picture = heif.from_pillow(Image.fromarray(image))
        picture.save(out, quality=quality, chroma=chroma, enc_params=parameters)
    except (RuntimeError, ValueError, OSError) as error:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise errors.UsageError(f"HEIC: the encoder failed on a {size} image: {error}") from error
    return out.getvalue()


def encode(image: np.ndarray, quality: float) -> bytes:
    """HEIC as pillow-heif writes it by default, 4:2:0 and tuned for SSIM: `quality` is libheif's, rounded."""
    return _encode(image, quality, "420")


def encode444(image: np.ndarray, quality: float) -> bytes:
    """HEIC with colour at full resolution, tuned for PSNR: `quality` is libheif's, rounded."""
    return _encode(image, quality, "444", tune="psnr")


def decode(data: bytes) -> np.ndarray:
    """HEIC -> uint8 [H, W, 3].

    Raises:
      CorruptStreamError: it is not one, or is damaged.
    """
    heif = _pillow_heif()
    try:
        picture = heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True).to_pillow()
        return np.asarray(picture.convert("RGB"))
    except (RuntimeError, ValueError, OSError, SyntaxError, EOFError) as error:
        raise errors.CorruptStreamError(f"HEIC: the file of {len(data)} bytes cannot be decoded: {error}") from error

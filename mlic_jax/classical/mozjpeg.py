"""mozjpeg through pyvips, whose binary wheels are built with it. An optional extra, imported only when it is used."""

from __future__ import annotations

import numpy as np

from mlic_jax import errors, extras
from mlic_jax.classical import checks


def missing() -> str | None:
    """None if pyvips and its binary wheel are there, else what to install.

    A libvips of the system would do for pyvips alone, but most of those are built with libjpeg-turbo, and ignore what
    makes a file mozjpeg's.
    """
    if extras.installed("pyvips") and extras.installed("_libvips"):
        return None
    return extras.missing("pyvips", "the classical codec 'mozjpeg' needs the binary wheel of")


def _pyvips():
    try:
        import pyvips
    except (ImportError, OSError) as error:  # OSError: libvips itself cannot be loaded
        raise errors.UsageError(missing() or f"pyvips is installed but cannot be imported: {error}") from error
    return pyvips


def library() -> str:
    """The version that decides the files: that of the wheel names the mozjpeg in it."""
    vips = _pyvips()
    return f"pyvips-binary {'.'.join(str(vips.version(part)) for part in range(3))} (mozjpeg)"


def encode(image: np.ndarray, quality: float) -> bytes:
    """JPEG 4:2:0 as mozjpeg's `cjpeg` writes it: trellis quantisation, optimised progressive scans, table 3.

    `quality` is libjpeg's, rounded to 1..100, but scales another table: 3, mozjpeg's default, instead of Annex K's.
    """
    image = checks.image(image, "JPEG", 65500)
    quality = max(1, round(checks.quality(quality, "JPEG")))
    vips = _pyvips()
    height, width, bands = image.shape
    picture = vips.Image.new_from_memory(image.tobytes(), width, height, bands, "uchar")
    try:
        return picture.copy(interpretation="srgb").jpegsave_buffer(
            Q=quality,
            interlace=True,
            optimize_coding=True,
            optimize_scans=True,
            trellis_quant=True,
            overshoot_deringing=True,
            quant_table=3,
            subsample_mode="on",
            keep="none",
        )
    except vips.Error as error:
        raise errors.UsageError(f"mozjpeg: the encoder failed on a {width}x{height} image: {error}") from error

"""THE registry of standard codecs: one row each, with its settings and the ladder that draws its curve.

The ladders span about 0.1 to 2.5 bits per pixel on photographs (from each codec's smallest file where that is larger).
A setting that moves a baseline is written in the description, for two of Pillow's defaults would do so silently: its
JPEG 2000 leaves the colour transform off (5 dB on some photographs), and its AVIF tunes for perceived quality, which
costs about 5 % of BD-rate in PSNR and wins 10 % in MS-SSIM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mlic_jax import errors
from mlic_jax.classical import jpegxl, pillow_codecs


class ClassicalCodec(NamedTuple):
    """A standard codec as three pure functions and what is needed to draw its curve.

    `quality` is a number from 0 (smallest file) to 100 (best image), in the codec's own terms where it has such a
    scale, rounded to what the codec can tell apart and clipped to what it accepts. The same number means different
    things to different codecs: compare at equal rate (`match_rate`) or over a curve (`metrics.bd`).
    """

    name: str
    description: str
    encode: Callable[[np.ndarray, float], bytes]  # (uint8 [H, W, 3], quality) -> file
    decode: Callable[[bytes], np.ndarray]  # file -> uint8 [H, W, 3]
    qualities: tuple[float, ...]  # increasing: about 0.1 to 2.5 bits per pixel on photographs
    missing: Callable[[], str | None] = lambda: None  # None, or one line that says what to install
    step: float = 1.0  # the smallest change of quality worth trying when a size is to be matched


_ROWS = (
    ClassicalCodec(
        "jpeg",
        "JPEG, 4:2:0, baseline, Annex K tables and default Huffman codes (libjpeg-turbo)",
        pillow_codecs.encode_jpeg,
        pillow_codecs.decode_jpeg,
        (5, 10, 20, 35, 50, 65, 80, 90),
        pillow_codecs.missing("jpg", "JPEG"),
    ),
    ClassicalCodec(
        "jpeg-optimised",
        "JPEG, 4:2:0, progressive, optimised Huffman codes (libjpeg-turbo)",
        pillow_codecs.encode_jpeg_optimised,
        pillow_codecs.decode_jpeg,
        (3, 5, 10, 20, 35, 50, 65, 80, 90),
        pillow_codecs.missing("jpg", "JPEG"),
    ),
    ClassicalCodec(
        "jpeg444",
        "JPEG, 4:4:4, baseline, Annex K tables and default Huffman codes (libjpeg-turbo)",
        pillow_codecs.encode_jpeg444,
        pillow_codecs.decode_jpeg,
        (5, 10, 20, 35, 50, 65, 80, 88),
        pillow_codecs.missing("jpg", "JPEG"),
    ),
    ClassicalCodec(
        "jpeg2000",
        "JPEG 2000, irreversible 9/7 wavelet and colour transform, bare code stream (OpenJPEG)",
        pillow_codecs.encode_jpeg2000,
        pillow_codecs.decode_jpeg2000,
        (12.5, 20, 27.5, 35, 42.5, 50, 57.5, 65),
        pillow_codecs.missing("jpg_2000", "JPEG 2000"),
        step=0.25,
    ),
    ClassicalCodec(
        "webp",
        "WebP, lossy, method 4 (libwebp)",
        pillow_codecs.encode_webp,
        pillow_codecs.decode_webp,
        (1, 10, 25, 40, 55, 75, 85, 92),
        pillow_codecs.missing("webp", "WebP"),
        step=0.5,
    ),
    ClassicalCodec(
        "avif",
        "AVIF, 4:2:0, speed 6, tune=iq as Pillow's default (aom)",
        pillow_codecs.encode_avif,
        pillow_codecs.decode_avif,
        (10, 25, 40, 55, 65, 75, 85, 90),
        pillow_codecs.missing("avif", "AVIF"),
    ),
    ClassicalCodec(
        "avif444",
        "AVIF, 4:4:4, speed 6, tune=psnr (aom)",
        pillow_codecs.encode_avif444,
        pillow_codecs.decode_avif,
        (8, 20, 30, 42, 55, 66, 78, 86),
        pillow_codecs.missing("avif", "AVIF"),
    ),
    ClassicalCodec(
        "jpegxl",
        "JPEG XL, VarDCT, effort 7; tuned for perceived quality, not for PSNR (libjxl)",
        jpegxl.encode,
        jpegxl.decode,
        (5, 15, 30, 50, 65, 80, 90, 94),
        jpegxl.missing,
        step=0.5,
    ),
)

CODECS: dict[str, ClassicalCodec] = {row.name: row for row in _ROWS}


def get(name: str) -> ClassicalCodec:
    """The codec of this name, ready to run.

    Raises:
      UsageError: no such codec (the known ones are named), or a package that it needs is missing (it is named).
    """
    if name not in CODECS:
        raise errors.UsageError(f"unknown classical codec {name!r}; known: {', '.join(CODECS)}")
    problem = CODECS[name].missing()
    if problem:
        raise errors.UsageError(problem)
    return CODECS[name]


def available() -> tuple[str, ...]:
    """The names of the codecs that can run here, in the order of the registry."""
    return tuple(name for name, codec in CODECS.items() if codec.missing() is None)

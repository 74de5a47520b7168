"""THE registry of standard codecs: one row each, with its settings and the ladder that draws its curve.

The ladders span about 0.1 to 2.5 bits per pixel on photographs (from each codec's smallest file where that is larger).
A setting that moves a baseline is written in the description, for two of Pillow's defaults would do so silently: its
JPEG 2000 leaves the colour transform off (5 dB on some photographs), and its AVIF tunes for perceived quality, which
costs about 5 % of BD-rate in PSNR and wins 10 % in MS-SSIM. A description that changes with its settings is also what
keeps a benchmark from taking old results for new ones. All encoders run on one thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mlic_jax import errors
from mlic_jax.classical import heif, jpegxl, mozjpeg, pillow_codecs, vvc


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
    library: Callable[[], str] = lambda: ""  # the versions that, with name and description, decide the files
    step: float = 1.0  # the smallest change of quality worth trying when a size is to be matched


_ROWS = (
    ClassicalCodec(
        "jpeg",
        "JPEG, 4:2:0, baseline, Annex K tables and default Huffman codes (libjpeg-turbo)",
        pillow_codecs.encode_jpeg,
        pillow_codecs.decode_jpeg,
        (5, 10, 20, 35, 50, 65, 80, 90),
        pillow_codecs.missing("jpg", "JPEG"),
        pillow_codecs.library("libjpeg_turbo", "libjpeg-turbo"),
    ),
    ClassicalCodec(
        "jpeg-optimised",
        "JPEG, 4:2:0, progressive, optimised Huffman codes (libjpeg-turbo)",
        pillow_codecs.encode_jpeg_optimised,
        pillow_codecs.decode_jpeg,
        (3, 5, 10, 20, 35, 50, 65, 80, 90),
        pillow_codecs.missing("jpg", "JPEG"),
        pillow_codecs.library("libjpeg_turbo", "libjpeg-turbo"),
    ),
    ClassicalCodec(
        "jpeg444",
        "JPEG, 4:4:4, baseline, Annex K tables and default Huffman codes (libjpeg-turbo)",
        pillow_codecs.encode_jpeg444,
        pillow_codecs.decode_jpeg,
        (5, 10, 20, 35, 50, 65, 80, 88),
        pillow_codecs.missing("jpg", "JPEG"),
        pillow_codecs.library("libjpeg_turbo", "libjpeg-turbo"),
    ),
    ClassicalCodec(
        "jpeg2000",
        "JPEG 2000, irreversible 9/7 wavelet and colour transform, bare code stream (OpenJPEG)",
        pillow_codecs.encode_jpeg2000,
        pillow_codecs.decode_jpeg2000,
        (12.5, 20, 27.5, 35, 42.5, 50, 57.5, 65),
        pillow_codecs.missing("jpg_2000", "JPEG 2000"),
        pillow_codecs.library("jpg_2000", "OpenJPEG"),
        step=0.25,
    ),
    ClassicalCodec(
        "webp",
        "WebP, lossy, method 4 (libwebp)",
        pillow_codecs.encode_webp,
        pillow_codecs.decode_webp,
        (1, 10, 25, 40, 55, 75, 85, 92),
        pillow_codecs.missing("webp", "WebP"),
        pillow_codecs.library("webp", "libwebp"),
        step=0.5,
    ),
    ClassicalCodec(
        "webp-slow",
        "WebP, lossy, method 6 (libwebp)",
        functools.partial(pillow_codecs.encode_webp, method=6),
        pillow_codecs.decode_webp,
        (1, 10, 25, 40, 55, 75, 85, 92),
        pillow_codecs.missing("webp", "WebP"),
        pillow_codecs.library("webp", "libwebp"),
        step=0.5,
    ),
    ClassicalCodec(
        "avif",
        "AVIF, 4:2:0, speed 6, tune=iq as Pillow's default (aom)",
        pillow_codecs.encode_avif,
        pillow_codecs.decode_avif,
        (10, 25, 40, 55, 65, 75, 85, 90),
        pillow_codecs.missing("avif", "AVIF"),
        pillow_codecs.library("avif", "libavif"),
    ),
    ClassicalCodec(
        "avif444",
        "AVIF, 4:4:4, speed 6, tune=psnr (aom)",
        pillow_codecs.encode_avif444,
        pillow_codecs.decode_avif,
        (8, 20, 30, 42, 55, 66, 78, 86),
        pillow_codecs.missing("avif", "AVIF"),
        pillow_codecs.library("avif", "libavif"),
    ),
    ClassicalCodec(
        "avif444-slow",
        "AVIF, 4:4:4, speed 4, tune=psnr (aom)",
        functools.partial(pillow_codecs.encode_avif444, speed=4),
        pillow_codecs.decode_avif,
        (8, 20, 30, 42, 55, 66, 78, 86),
        pillow_codecs.missing("avif", "AVIF"),
        pillow_codecs.library("avif", "libavif"),
    ),
    ClassicalCodec(
        "jpegxl",
        "JPEG XL, VarDCT, effort 7; tuned for perceived quality, not for PSNR (libjxl)",
        jpegxl.encode,
        jpegxl.decode,
        (5, 15, 30, 50, 65, 80, 90, 94),
        jpegxl.missing,
        jpegxl.library,
        step=0.5,
    ),
    ClassicalCodec(
        "heic",
        "HEIC, 4:2:0, preset slow, tune=ssim as pillow-heif's default (x265)",
        heif.encode,
        heif.decode,
        (10, 20, 28, 36, 44, 52, 58, 65),
        heif.missing,
        heif.library,
    ),
    ClassicalCodec(
        "heic444",
        "HEIC, 4:4:4, preset slow, tune=psnr (x265)",
        heif.encode444,
        heif.decode,
        (8, 16, 24, 32, 40, 48, 56, 62),
        heif.missing,
        heif.library,
    ),
    ClassicalCodec(
        "mozjpeg",
        "JPEG, 4:2:0, progressive, trellis quantisation, quantisation table 3 (mozjpeg)",
        mozjpeg.encode,
        pillow_codecs.decode_jpeg,
        (5, 10, 20, 35, 50, 65, 80, 90),
        mozjpeg.missing,
        mozjpeg.library,
    ),
    ClassicalCodec(
        "vvc",
        "VVC intra, 4:2:0, 10 bits, preset fast, no perceptual adaptation, bare stream (VVenC)",
        vvc.encode,
        vvc.decode,
        (26, 36, 46, 56, 66, 76),
        vvc.missing,
        vvc.library,
        step=2.0,
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

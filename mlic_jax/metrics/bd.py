"""Bjontegaard differences: one number for the distance of two rate-distortion curves.

Bjontegaard, "Calculation of average PSNR differences between RD-curves" (VCEG-M33, 2001), with the cubic fit replaced
by piecewise interpolation of log10(rate), which does not oscillate: Akima's (the default of the package `bjontegaard`)
or the monotone cubic of Fritsch and Carlson (pchip, as VCEG-AZ10 and the JVET sheets). The number is an average over
the range that both curves cover, and changes with the range: it is therefore returned together with it.

Quality is whatever is averaged: a metric on its scale in dB (`registry.Metric.scale`), never MS-SSIM or LPIPS itself,
whose scales are crowded near 1 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import interpolate

from mlic_jax import errors
from mlic_jax.metrics import registry

INTERPOLATORS = {"akima": interpolate.Akima1DInterpolator, "pchip": interpolate.PchipInterpolator}
MIN_POINTS = 4


class BD(NamedTuple):
    """A Bjontegaard difference and what it was taken over."""

    value: float  # BD-rate: percent of the anchor's rate, negative is better. BD-quality: dB, positive is better
    low: float  # the common range: of quality (dB) for BD-rate, of bits per pixel for BD-quality
    high: float
    interpolator: str


def bd_rate(
    anchor: Sequence[tuple[float, float]],
    test: Sequence[tuple[float, float]],
    interpolator: str = "akima",
    quality_range: tuple[float, float] | None = None,
) -> BD:
    """By how many percent `test` needs more bits than `anchor` at equal quality, on average over log rate.

    Args:
      anchor, test: points (bits per pixel, quality in dB) in any order.
      interpolator: "akima" or "pchip".
      quality_range: restricts the average to (low, high) in dB, so that curves with different spans compare fairly.

    Raises:
      InputError: fewer than 4 points, two of one quality, a rate that is not positive, or no common range.
      UsageError: an unknown interpolator, or a quality range that the curves do not both cover.
    """
    anchor, test = _curve(anchor, "anchor"), _curve(test, "test")
    low, high = _common_range(anchor[:, 1], test[:, 1], quality_range, "dB")
    difference = _mean(test[:, 1], test[:, 0], low, high, interpolator, "test: quality") - _mean(
        anchor[:, 1], anchor[:, 0], low, high, interpolator, "anchor: quality"
    )
    return BD((10**difference - 1) * 100, low, high, interpolator)


def bd_psnr(
    anchor: Sequence[tuple[float, float]],
    test: Sequence[tuple[float, float]],
    interpolator: str = "akima",
    bpp_range: tuple[float, float] | None = None,
) -> BD:
    """By how many dB `test` is better than `anchor` at equal rate, on average over log rate.

    Args:
      anchor, test: points (bits per pixel, quality in dB) in any order.
      interpolator: "akima" or "pchip".
      bpp_range: restricts the average to (low, high) in bits per pixel.

    Raises:
      InputError, UsageError: as `bd_rate`, with rate and quality exchanged.
    """
    anchor, test = _curve(anchor, "anchor"), _curve(test, "test")
    if bpp_range is not None and min(bpp_range) <= 0:
        raise errors.UsageError(f"bpp_range is {bpp_range}: rates must be positive")
    log_range = None if bpp_range is None else (math.log10(bpp_range[0]), math.log10(bpp_range[1]))
    low, high = _common_range(anchor[:, 0], test[:, 0], log_range, "log10 bits per pixel")
    value = _mean(test[:, 0], test[:, 1], low, high, interpolator, "test: rate") - _mean(
        anchor[:, 0], anchor[:, 1], low, high, interpolator, "anchor: rate"
    )
    return BD(value, 10**low, 10**high, interpolator)


def curve(points: Sequence[Mapping], quality: str = "psnr_db") -> list[tuple[float, float]]:
    """Points as evaluations write them -> (bits per pixel, dB), ready for `bd_rate`.

    Args:
      points: dicts with "bpp" and the quality asked for.
      quality: key of a metric, as "psnr_db" or "ms_ssim"; it is put on the metric's scale.

    Returns:
      A list that leaves out points whose quality is missing, nan or infinite.

    Raises:
      UsageError: no metric has this key.
    """
    if quality not in registry.BY_KEY:
        raise errors.UsageError(f"unknown quality {quality!r}; known: {', '.join(registry.BY_KEY)}")
    scale, pairs = registry.BY_KEY[quality].scale, []
    for point in points:
        value = point.get(quality)
        value = math.nan if value is None else scale(value)
        if math.isfinite(value):
            pairs.append((float(point["bpp"]), float(value)))
    return pairs


def _curve(points, which: str) -> np.ndarray:
    """Points (bpp, quality) -> float64 [n, 2] with columns log10(bpp), quality."""
    array = np.asarray(list(points), np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise errors.InputError(f"{which}: expected a list of (bits per pixel, quality), got shape {list(array.shape)}")
    if len(array) < MIN_POINTS:
        raise errors.InputError(f"{which}: {len(array)} points; a Bjontegaard difference needs at least {MIN_POINTS}")
    if not np.isfinite(array).all() or (array[:, 0] <= 0).any():
        raise errors.InputError(f"{which}: rates must be positive and all values finite, got {array.tolist()}")
    array[:, 0] = np.log10(array[:, 0])
    return array


def _common_range(a: np.ndarray, b: np.ndarray, wanted: tuple[float, float] | None, unit: str) -> tuple[float, float]:
    low, high = float(max(a.min(), b.min())), float(min(a.max(), b.max()))
    if low >= high:
        raise errors.InputError(
            f"the curves do not overlap: anchor {a.min():.3f} to {a.max():.3f} {unit}, "
            f"test {b.min():.3f} to {b.max():.3f} {unit}"
        )
    if wanted is None:
        return low, high
    if not low <= wanted[0] < wanted[1] <= high:
        raise errors.UsageError(
            f"range {wanted[0]:.3f} to {wanted[1]:.3f} {unit}: both curves cover only {low:.3f} to {high:.3f}"
        )
    return float(wanted[0]), float(wanted[1])


def _mean(x: np.ndarray, y: np.ndarray, low: float, high: float, interpolator: str, axis: str) -> float:
    """The mean over low <= x <= high of the curve through (x, y)."""
    if interpolator not in INTERPOLATORS:
        raise errors.UsageError(f"unknown interpolator {interpolator!r}; known: {', '.join(INTERPOLATORS)}")
    order = np.argsort(x)
    x, y = x[order], y[order]
    if (np.diff(x) <= 0).any():
        raise errors.InputError(f"{axis} must differ from point to point: two points have the same")
    return float(INTERPOLATORS[interpolator](x, y).integrate(low, high)) / (high - low)

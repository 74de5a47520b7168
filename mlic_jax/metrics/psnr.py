"""Mean squared error and PSNR of 8-bit images: what a decoder wrote, not what a network thought."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mlic_jax import errors


def check_pair(a: np.ndarray, b: np.ndarray) -> None:
    """Raises InputError unless both are uint8 and of one shape [H, W, C]."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise errors.InputError(f"metrics compare uint8 images, got {a.dtype} and {b.dtype}: round and clip first")
    if a.shape != b.shape or a.ndim != 3 or a.size == 0:
        raise errors.InputError(
            f"metrics compare images of one shape [H, W, C], got {list(a.shape)} and {list(b.shape)}"
        )


def mse255(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared difference over all samples of two uint8 [H, W, C] images, in units of 8-bit steps squared.

    Raises:
      InputError: other dtypes, or shapes that differ.
    """
    check_pair(a, b)
    difference = np.asarray(a).astype(np.float64) - np.asarray(b)
    return float(np.mean(difference * difference))


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """10 log10(255^2 / MSE) in dB, with one MSE over all channels; infinite for identical images.

    Averages over a set are the mean of this per image, as CompressAI, TFC and C3 report it (the PSNR of the mean MSE,
    as Cool-Chic's tables, is lower). Raises InputError as `mse255`.
    """
    return _in_db(mse255(a, b))


def _in_db(mse):
    return 10 * math.log10(255**2 / mse) if mse > 0 else math.inf


def squares(a: np.ndarray, b: np.ndarray) -> list[float]:
    """[sum of squared differences, samples] of two uint8 [H, W, C] images. Raises InputError as `mse255`."""
    return [mse255(a, b) * np.size(a), float(np.size(a))]


def psnr_of_squares(parts: Sequence[Sequence[float]]) -> float:
    """PSNR in dB of a set, of the mean squared error over all its samples, from the `squares` of its pictures."""
    total, samples = np.sum(parts, axis=0)
    return _in_db(total / samples)

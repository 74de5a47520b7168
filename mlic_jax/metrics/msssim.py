"""SSIM and MS-SSIM, once in jax.numpy (a loss) and once in float64 NumPy (a measurement).

The definition is that of Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment"
(2003), in the form that the field reports (the package pytorch_msssim): an 11-tap Gaussian window of sigma 1.5 applied
where it fits whole, K1 = 0.01, K2 = 0.03, five scales, each channel for itself and then averaged, contrast terms that
are negative after averaging cut to zero, and halving by the mean of 2x2, with one row or column of zeros before odd
sides, so that those count as darker at their upper and left border.

The differentiable version blurs by a product with a banded matrix. Most of its factors are zeros, yet on a CPU value
and gradient of a batch of training crops take a tenth of the time of a convolution with one channel per group, and a
quarter of that of sums of shifted copies. It asks for the highest precision, since the variances are small differences
of large numbers, and matrix units otherwise round their factors to 8 or 11 bits.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from mlic_jax import errors
from mlic_jax.metrics import psnr

TAPS, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, finest scale first
# The coarsest of the five scales must still hold a window: every side has to exceed this.
LIMIT = (TAPS - 1) * 2 ** (len(WEIGHTS) - 1)

_offsets = np.arange(TAPS) - TAPS // 2
_window = np.exp(-(_offsets**2) / (2 * SIGMA**2))
WINDOW = _window / _window.sum()  # [11], float64


def ssim(a: jax.Array, b: jax.Array, data_range: float = 1.0) -> jax.Array:
    """Single-scale SSIM, differentiable.

    Args:
      a, b: float [B, H, W, C] with both sides at least 11.
      data_range: the difference of the largest and smallest possible sample: 1 or 255.

    Returns:
      float32 [B], 1 for identical images.

    Raises:
      InputError: shapes that differ, or images smaller than the window.
    """
    _check_batch(a, b, at_least=TAPS)
    structure, _ = _terms(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), data_range)
    return structure.mean(-1)


def ms_ssim(a: jax.Array, b: jax.Array, data_range: float = 1.0) -> jax.Array:
    """MS-SSIM, differentiable and jittable: `1 - ms_ssim(x, y).mean()` is a distortion.

    A channel whose contrast term is cut to zero at some scale gives no gradient (the limit, at zero, of the powers
    would be infinite): it happens only to images that have nothing to do with each other.

    Args:
      a, b: float [B, H, W, C] with both sides above 160.
      data_range: the difference of the largest and smallest possible sample: 1 or 255.

    Returns:
      float32 [B], 1 for identical images.

    Raises:
      InputError: shapes that differ, or a side of at most 160.
    """
    _check_batch(a, b, at_least=LIMIT + 1)
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    result = 1.0
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            a, b = _halve(a), _halve(b)
        structure, contrast = _terms(a, b, data_range)  # both [B, C]
        term = structure if scale == len(WEIGHTS) - 1 else contrast
        positive = term > 0
        result = result * jnp.where(positive, jnp.where(positive, term, 1.0) ** weight, 0.0)
    return result.mean(-1)


def _check_batch(a, b, at_least: int) -> None:
    shape = jnp.shape(a)
    if shape != jnp.shape(b) or len(shape) != 4:
        raise errors.InputError(
            f"SSIM compares batches of one shape [B, H, W, C], got {list(shape)} and {list(jnp.shape(b))}"
        )
    if min(shape[1:3]) < at_least:
        raise errors.InputError(
            f"the images are {shape[2]}x{shape[1]}; this metric needs both sides to be at least {at_least} pixels"
        )


def _blur(x: jax.Array) -> jax.Array:
    """[N, h, w, C] -> [N, h - 10, w - 10, C], the Gaussian window where it fits whole."""
    for axis in (1, 2):
        blurred = jnp.tensordot(x, _band(x.shape[axis]), axes=(axis, 0), precision=jax.lax.Precision.HIGHEST)
        x = jnp.moveaxis(blurred, -1, axis)
    return x


def _band(size: int) -> np.ndarray:
    """float32 [size, size - 10]: the matrix whose columns are the window at every place where it fits."""
    rows, columns = np.ogrid[:size, : size - TAPS + 1]
    offset = rows - columns
    return np.where((offset >= 0) & (offset < TAPS), WINDOW[np.clip(offset, 0, TAPS - 1)], 0).astype(np.float32)


def _terms(a: jax.Array, b: jax.Array, data_range: float) -> tuple[jax.Array, jax.Array]:
    """[B, h, w, C] twice -> (SSIM, contrast-structure) averaged over positions, both [B, C]."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_a, mean_b, square_a, square_b, product = jnp.split(_blur(jnp.concatenate([a, b, a * a, b * b, a * b])), 5)
    contrast = (2 * (product - mean_a * mean_b) + c2) / (
        (square_a - mean_a * mean_a) + (square_b - mean_b * mean_b) + c2
    )
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    return (luminance * contrast).mean((1, 2)), contrast.mean((1, 2))


def _halve(x: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), C], means of 2x2, a zero row or column before odd sides."""
    x = jnp.pad(x, ((0, 0), (x.shape[1] % 2, 0), (x.shape[2] % 2, 0), (0, 0)))
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def ssim_uint8(a: np.ndarray, b: np.ndarray) -> float:
    """Single-scale SSIM of two uint8 [H, W, C] images in float64; nan if a side is below 11 pixels.

    Raises:
      InputError: other dtypes, or shapes that differ.
    """
    psnr.check_pair(a, b)
    if min(np.shape(a)[:2]) < TAPS:
        return math.nan
    structure, _ = _terms_numpy(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return float(structure.mean())


def ms_ssim_uint8(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM of two uint8 [H, W, C] images in float64, as reported in rate-distortion tables.

    Returns:
      At most 1; nan if a side is 160 pixels or less, where the metric is not defined: an evaluation of a mixed folder
      goes on, and its mean must leave such images out (`np.nanmean`).

    Raises:
      InputError: other dtypes, or shapes that differ.
    """
    psnr.check_pair(a, b)
    if min(np.shape(a)[:2]) <= LIMIT:
        return math.nan
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    result = np.ones(a.shape[2])
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            a, b = _halve_numpy(a), _halve_numpy(b)
        structure, contrast = _terms_numpy(a, b)
        result *= np.maximum(structure if scale == len(WEIGHTS) - 1 else contrast, 0.0) ** weight
    return float(result.mean())


def ms_ssim_db(value: float) -> float:
    """-10 log10(1 - MS-SSIM) in dB: spreads the values near 1 apart. Infinite at 1, nan of nan."""
    return -10 * math.log10(1 - value) if value < 1 else (math.nan if math.isnan(value) else math.inf)


def _terms_numpy(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [h, w, C] twice, samples 0..255 -> (SSIM, contrast-structure) averaged over positions, both [C]."""
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    edge = TAPS // 2

    def blur(x):
        x = ndimage.correlate1d(x, WINDOW, axis=0)[edge:-edge]
        return ndimage.correlate1d(x, WINDOW, axis=1)[:, edge:-edge]

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    contrast = (2 * (blur(a * b) - mean_a * mean_b) + c2) / (variance_a + variance_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * contrast).mean((0, 1)), contrast.mean((0, 1))


def _halve_numpy(x: np.ndarray) -> np.ndarray:
    """float64 [h, w, C] -> [ceil(h / 2), ceil(w / 2), C], as `_halve`."""
    x = np.pad(x, ((x.shape[0] % 2, 0), (x.shape[1] % 2, 0), (0, 0)))
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4

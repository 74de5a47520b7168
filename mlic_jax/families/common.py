"""What codecs of every family need: sides that fit a stride, squared errors, checks of a factory's arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy.coders import per_example_sum
from mlic_jax.errors import UsageError

LARGEST_WIDTH = 4096  # of any layer; a damaged model file should not ask for more memory than there is


def module_of(x: Any):
    """NumPy for its arrays, jax.numpy for all others."""
    return np if isinstance(x, np.ndarray) else jnp


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """The next multiples of stride."""
    return -height % stride + height, -width % stride + width


def pad(image: jax.Array, stride: int) -> jax.Array:
    """Repeats the last row and column of [B, H, W, C] until both sides are multiples of stride."""
    _, height, width, _ = image.shape
    h, w = padded_size(height, width, stride)
    return jnp.pad(image, ((0, 0), (0, h - height), (0, w - width), (0, 0)), mode="edge")


def pad_picture(image: np.ndarray, stride: int) -> np.ndarray:
    """As `pad`, of [H, W, ...] in NumPy."""
    more = [(0, -side % stride) for side in image.shape[:2]]
    return np.pad(image, more + [(0, 0)] * (image.ndim - 2), mode="edge") if np.any(more) else image


def mse255(image: jax.Array, shown: jax.Array) -> jax.Array:
    """Mean squared errors in steps of 8 bits, [B], of float [B, H, W, C] in [0, 1]."""
    return per_example_sum((image - shown) ** 2) * (255.0**2 / image[0].size)


def mean_psnr_db(mse255: jax.Array) -> jax.Array:
    """The mean of the examples' PSNRs, a scalar, from their squared errors [B] in steps of 8 bits.

    Of each example, so that the mean does not depend on how examples are shared out to devices.
    """
    return 20 * np.log10(255) - 10 * jnp.mean(jnp.log10(jnp.maximum(mse255, 1e-9)))


def check_choices(model: str, *choices: tuple) -> None:
    """Raises UsageError for a (name, value, known values) whose value is not known, or is of another type."""
    for name, value, known in choices:
        if type(value) not in map(type, known) or value not in known:
            raise UsageError(f"{model}: {name} {value!r} is not known: use one of {', '.join(map(str, known))}")


def check_whole(model: str, *numbers: tuple) -> None:
    """Raises UsageError for a (name, value, least, most) that is no whole number of that range."""
    for name, value, least, most in numbers:
        if type(value) is not int or not least <= value <= most:
            raise UsageError(f"{model}: {name}={value!r} is out of range: whole numbers from {least} to {most}")


def check_widths(model: str, *widths: tuple) -> None:
    """Raises UsageError for a (name, value, least) that is no whole number from there to LARGEST_WIDTH."""
    check_whole(model, *((*width, LARGEST_WIDTH) for width in widths))


def check_architecture(model: str, architecture: Mapping[str, Any]) -> None:
    """Raises UsageError for a value that a model file cannot hold: what is no JSON scalar or list of such."""

    def fits(value):
        if isinstance(value, list | tuple):
            return all(map(fits, value))
        return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))

    for name, value in architecture.items():
        if not fits(value):
            raise UsageError(
                f"{model}: {name}={value!r} cannot be stored: numbers, text, true, false, None and lists of them can"
            )

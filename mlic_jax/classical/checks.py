"""What every wrapper checks on its way in and out, so that bad input ends in our errors and not in a library's."""

from __future__ import annotations

import numpy as np

from mlic_jax import errors


def image(array: np.ndarray, codec: str, max_side: int) -> np.ndarray:
    """Returns `array` contiguous if it is a uint8 [H, W, 3] image that the format can hold.

    Raises:
      InputError: wrong dtype or shape.
      LimitError: a side longer than `max_side`, the format's own limit.
    """
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise errors.InputError(
            f"{codec}: the image must be uint8 of shape [H, W, 3], got {array.dtype} of shape {list(array.shape)}"
        )
    if max(array.shape[:2]) > max_side:
        raise errors.LimitError(
            f"{codec}: the image is {array.shape[1]}x{array.shape[0]}; the format's limit is {max_side} pixels a side"
        )
    return np.ascontiguousarray(array)


def is_grey(array: np.ndarray) -> bool:
    """Whether the channels of [H, W, 3] are equal everywhere."""
    return bool((array == array[..., :1]).all())


def quality(value: float, codec: str) -> float:
    """Returns `value` if it lies in 0..100.

    Raises:
      UsageError: it does not, or it is not a number.
    """
    value = float(value)
    if not 0 <= value <= 100:
        raise errors.UsageError(f"{codec}: quality is {value:g}; it must lie in 0 to 100")
    return value

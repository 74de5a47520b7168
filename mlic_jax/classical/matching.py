"""Finding the quality at which a codec's file is what is wanted: of a size, or of a quality in some metric."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlic_jax import errors
from mlic_jax.classical.base import ClassicalCodec


def match_rate(
    codec: ClassicalCodec, image: np.ndarray, target_bytes: int, max_encodes: int = 12
) -> tuple[float, bytes]:
    """The file whose size is nearest to `target_bytes`.

    Bisects over the codec's quality in its own steps, at most `max_encodes` files (100 steps take 8, 400 take 10).
    Sizes need not grow with quality everywhere: the nearest of all files seen is returned, which makes no promise
    beyond that where they do not.

    Args:
      codec: a row of the registry, or any tuple with `name`, `encode` and `step`.
      image: uint8 [H, W, 3].
      target_bytes: the wanted size of the file in bytes.
      max_encodes: a bound on the work.

    Returns:
      (quality, file). Where even the smallest file is larger than the target, that file; where even the largest is
      smaller, the largest.

    Raises:
      UsageError: a target below 1 byte, or no encodes allowed.
    """
    if target_bytes < 1 or max_encodes < 1:
        raise errors.UsageError(
            f"{codec.name}: target_bytes is {target_bytes} and max_encodes {max_encodes}; both must be at least 1"
        )
    return _match(codec, image, target_bytes, len, max_encodes)


def match_metric(
    codec: ClassicalCodec, image: np.ndarray, target: float, metric: Callable, max_encodes: int = 12
) -> tuple[float, bytes]:
    """The file whose picture is nearest to a target in a metric that grows with quality, as PSNR and MS-SSIM do.

    Args:
      codec, image, max_encodes: as for `match_rate`.
      target: the wanted value.
      metric: (original, decoded), both uint8 [H, W, 3] -> a number.

    Returns:
      (quality, file), as `match_rate`.

    Raises:
      UsageError: no encodes allowed.
    """
    if max_encodes < 1:
        raise errors.UsageError(f"{codec.name}: max_encodes is {max_encodes}; it must be at least 1")
    return _match(codec, image, target, lambda file: metric(image, codec.decode(file)), max_encodes)


def _match(codec, image, target, measure, max_encodes):
    """The file of whose measures the nearest to the target is; see `match_rate`."""
    files: dict[int, bytes] = {}
    measured: dict[int, float] = {}

    def value(index: int) -> float:
        if index not in files:
            files[index] = codec.encode(image, index * codec.step)
            measured[index] = measure(files[index])
        return measured[index]

    low, high = 0, int(100 / codec.step)  # the first step whose file reaches the target lies between them
    while low < high and len(files) < max_encodes:
        middle = (low + high) // 2
        if value(middle) < target:
            low = middle + 1
        else:
            high = middle
    if len(files) < max_encodes:
        value(low)  # new only where every file was too small; the one below `low` has been seen
    best = min(files, key=lambda index: (abs(measured[index] - target), index))
    return best * codec.step, files[best]

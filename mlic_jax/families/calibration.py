"""How large the values are that integers of the parse path are to hold, measured on pictures at export.

Pictures are shown to the networks in floating point; what integers then hold is a part of the largest value of each
channel (docs/lab/kltnet.md has what other parts cost).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

SIDE = 256  # pixels
# Qualities at which a model of every rate is measured. Fine enough to meet whatever a model interpolates between at its
# fullest: a range that is too small cuts values off.
QUALITIES = tuple(float(quality) for quality in np.linspace(0, 100, 29))
# Of the largest values that a network of values shows, what integers hold: the few that are larger are cut off, which
# costs less than steps for all that are 2.5 times as coarse.
HELD = 0.4


def pictures(images: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    """The middles, uint8 [256, 256, 3] or less, of the pictures given, or of the bundled photos for training."""
    if images is None:
        from mlic_jax import data

        images = [data.read_image(path) for path in data.bundled("train")]
    corners = [[max(0, side - SIDE) // 2 for side in image.shape[:2]] for image in images]
    return [image[y : y + SIDE, x : x + SIDE] for image, (y, x) in zip(images, corners, strict=True)]


def held(shown: Mapping[str, np.ndarray], part: float = HELD) -> Mapping[str, np.ndarray]:
    """How large values integers are to hold, of how large those of a network were: both {"layer_i" or "input": [C]}."""
    if "input" not in shown:
        return shown  # it reads symbols
    # Constants among the input, which are 1 somewhere, are held in full.
    full = np.minimum(shown["input"], 1)
    values = {layer: part * largest for layer, largest in shown.items()}
    return {**values, "input": np.maximum(values["input"], full)}


def ranges(
    largest: Callable[[np.ndarray, np.ndarray | None], Any],
    images: Sequence[np.ndarray] | None,
    has_quality: bool,
    part: float = HELD,
) -> dict[str, Mapping[str, np.ndarray]]:
    """network -> {"layer_i" or "input": [C]}, what its integers are to hold.

    Args:
      largest: (uint8 [1, H, W, 3], quality float [1] or None) -> the same of the values that the picture shows.
      images: uint8 [H, W, 3] each, or None for the bundled photos.
      has_quality: whether the model has every rate.
      part: of the largest values that a network of values shows, what integers hold.
    """
    qualities = [np.array([q], np.float32) for q in QUALITIES] if has_quality else [None]
    shown = [jax.device_get(largest(image[None], q)) for image in pictures(images) for q in qualities]
    return {network: held(of, part) for network, of in jax.tree.map(lambda *v: np.max(v, axis=0), *shown).items()}

"""Patches of images: random ones to train on, fixed ones to validate on."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
from PIL import Image

from mlic_jax.errors import InputError, LimitError, UsageError

log = logging.getLogger(__name__)

# From how many candidates a patch is chosen when `detail_weight` is not 0.
CANDIDATES = 8

# Mean absolute difference, in 8-bit steps, that a perfectly flat patch is taken to have: keeps its weight above 0.
_FLAT = 0.25


def validation_batch(source, patch_size: int, count: int) -> np.ndarray:
    """Fixed patches to watch training with: uint8 [count, P, P, 3], the same in every run.

    The first is the centre of the first image, the next the centre of the second, and so on; where `count` exceeds
    the number of images, further rounds take other fixed places. Nothing is scaled, except images smaller than P.

    Images that cannot be read are left out, with a warning.

    Raises:
      UsageError: `patch_size` or `count` below 1.
      InputError, LimitError: no image can be read.
    """
    check(patch_size >= 1, "patch_size", patch_size, "1 or more pixels")
    check(count >= 1, "count", count, "1 or more")
    patches, readable = [], list(range(len(source)))
    while len(patches) < count:
        round_, place = divmod(len(patches), len(readable))
        try:
            image = source[readable[place]]
        except (InputError, LimitError) as reason:
            if len(readable) == 1:
                raise
            log.warning("left out of validation: %s", reason)
            del readable[place]
            continue
        height, width, _ = image.shape
        side = min(patch_size, height, width)
        # The R2 sequence: places that stay well spread over the image however many there are; the first is the centre.
        top = round((0.5 + 0.5698402909980532 * round_) % 1 * (height - side))
        left = round((0.5 + 0.7548776662466927 * round_) % 1 * (width - side))
        patches.append(_resize(image[top : top + side, left : left + side], patch_size))
    return np.stack(patches)


@dataclasses.dataclass(frozen=True)
class RandomPatch:
    """(uint8 [H, W, 3], generator) -> uint8 [P, P, 3]: scale, cut and mirror at random.

    Scaling the image by f and cutting P pixels is cutting P / f pixels and scaling those to P, at a fraction of the
    cost; the two differ only in a filter's width along the border. Where the image is smaller than the patch, its
    largest square is enlarged: blurrier than a photo, but unlike padding still a picture.
    """

    patch_size: int
    scale_range: tuple[float, float]
    flip: bool
    detail_weight: float

    def __post_init__(self):
        check(self.patch_size >= 1, "patch_size", self.patch_size, "1 or more pixels")
        scales = self.scale_range
        within = len(scales) == 2 and 0 < scales[0] <= scales[1] <= 1
        check(within, "scale_range", scales, "(low, high) with 0 < low <= high <= 1")
        check(self.detail_weight >= 0, "detail_weight", self.detail_weight, "0 or more")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width, _ = image.shape
        shortest = min(height, width)
        low, high = self.scale_range
        # The scale that just fits the patch is the lowest possible.
        scale = rng.uniform(min(max(low, self.patch_size / shortest), high), high)
        side = min(round(self.patch_size / scale), shortest)
        mirror = self.flip and rng.random() < 0.5
        count = CANDIDATES if self.detail_weight > 0 else 1
        tops = rng.integers(0, height - side + 1, count)
        lefts = rng.integers(0, width - side + 1, count)
        choice = 0
        if count > 1:
            detail = np.array([_detail(image[t : t + side, s : s + side]) for t, s in zip(tops, lefts)])
            weight = (detail / detail.max()) ** self.detail_weight
            choice = rng.choice(count, p=weight / weight.sum())
        top, left = tops[choice], lefts[choice]
        patch = _resize(image[top : top + side, left : left + side], self.patch_size)
        return np.ascontiguousarray(patch[:, ::-1] if mirror else patch)


def _detail(region: np.ndarray) -> float:
    """Mean absolute gradient of a region [S, S, 3], in 8-bit steps, from the green of every other row and column."""
    green = region[::2, ::2, 1].astype(np.int16)
    if min(green.shape) < 2:
        return _FLAT
    return _FLAT + np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean()


def _resize(region: np.ndarray, size: int) -> np.ndarray:
    """uint8 [S, S, 3] -> uint8 [size, size, 3], untouched if it has that size."""
    if region.shape[0] == size:
        return region
    return np.asarray(Image.fromarray(region).resize((size, size), Image.Resampling.LANCZOS))


def check(valid: bool, name: str, value, accepted: str) -> None:
    """Raises UsageError for an argument that is not valid."""
    if not valid:
        raise UsageError(f"{name} {value!r}: expected {accepted}")

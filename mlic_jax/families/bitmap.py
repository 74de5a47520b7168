"""Pictures of two values, black and white, exactly: a codec without weights, in the place of networks made for photos.

Its one chunk is the stream of a volume [H, W, 1] by the prior of mlic_jax.entropy.bits.neighbours, 1 for white.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlic_jax.codec import Chunks, Codec
from mlic_jax.entropy.bits import prior
from mlic_jax.entropy.bits.neighbours import Neighbours
from mlic_jax.errors import CorruptStreamError, InputError, UsageError

if TYPE_CHECKING:
    from mlic_jax.fileformat.artifact import Artifact


def bitmap() -> Codec:
    """The codec. There is nothing to train: it has neither `init` nor objectives, estimates or an export."""
    return Codec(None, {}, None, None, compress, decompress)


def compress(
    artifact: Artifact, image: np.ndarray, quality: float | None = None, effort: int = 0, importance=None
) -> Chunks:
    """See mlic_jax.codec.Codec. Raises InputError for an image with other values than 0 and 255, or with colours."""
    del artifact
    if quality is not None or effort or importance is not None:
        raise UsageError("bitmap codes exactly: it takes no quality, no effort and no importance map")
    white = image[..., :1] == 255
    if not np.array_equal(np.where(white, np.uint8(255), np.uint8(0)).repeat(3, axis=2), image):
        raise InputError("bitmap codes pictures of black and white alone: this one has other values")
    signs = np.where(white, np.int8(1), np.int8(-1))
    return prior.write(Neighbours(), signs, np.ones(signs.shape, bool))


def decompress(artifact: Artifact, chunks: Chunks, size: tuple[int, int], quality: float | None = None) -> np.ndarray:
    """See mlic_jax.codec.Codec."""
    del artifact
    if len(chunks) != 1 or quality is not None:
        raise CorruptStreamError("a file of bitmap has one data chunk and no quality")
    signs = prior.read(Neighbours(), chunks, np.ones((*size, 1), bool))
    return np.where(signs > 0, np.uint8(255), np.uint8(0)).repeat(3, axis=2)

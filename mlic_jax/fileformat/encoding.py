"""From a picture to the bytes of its file: what the codec writes, what stands beside it, and the header before both."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from mlic_jax import runtime, zoo
from mlic_jax.errors import UsageError
from mlic_jax.fileformat import container, model_store, modes
from mlic_jax.fileformat.artifact import Artifact

if TYPE_CHECKING:
    from mlic_jax.codec import Codec

# The codec of pictures of 1 bit that loses nothing.
EXACT = "bitmap"


class File(NamedTuple):
    """A file that was made.

    Attributes:
      data: its content.
      parts: what of it the codec wrote.
      artifact, codec: the model.
      header: of the file.
    """

    data: bytes
    parts: tuple[bytes, ...]
    artifact: Artifact
    codec: Codec
    header: container.Header

    def decoded(self) -> np.ndarray:
        """What a decoder shows of it: uint8 [H, W, 3]."""
        size = self.header.height, self.header.width
        with runtime.jax_of_our_own():
            return self.codec.decompress(self.artifact, self.parts, size, self.header.quality)


class Encoding:
    """A picture and a model that make files of many qualities.

    Args:
      picture: what is coded.
      model: as for `model_store.load`.
      importance: a user's importance map, or None; `Codec.compress` says what it may be.

    Raises ModelError where there is no such model.
    """

    def __init__(self, picture: modes.Picture, model=None, importance: np.ndarray | Image.Image | None = None):
        self.picture, self.importance = picture, importance
        self.artifact: Artifact = model_store.load(model)
        self.codec = zoo.codec_of(self.artifact)

    @functools.cached_property
    def beside(self) -> list[container.Chunk]:
        """The chunks that no codec writes."""
        return modes.chunks_beside(self.picture)

    def file(self, quality: float | None, effort: int = 0) -> File:
        """The file of a quality; of a picture of 1 bit, the exact one where that is not longer.

        Args:
          quality: 0..100, rounded to half steps; None for the model's default, or a model of one rate.
          effort: 0..9.

        Raises:
          UsageError: a quality or effort out of range, or that the model does not have; an importance map, for a model
            that takes none.
          InputError, LimitError: an importance map of another size or kind; too much metadata.
        """
        quality, effort = check_quality(quality), check_effort(effort)
        if quality is None:
            quality = self.codec.traits.default_quality
        made = self._made(self.artifact, quality, effort=effort, importance=self.importance)
        return min(self._exact, made, key=lambda file: len(file.data)) if self._exact else made

    @functools.cached_property
    def _exact(self) -> File | None:
        """Of a picture of 1 bit, the file without loss, unless what the model writes is more than a picture."""
        traits, exact = self.codec.traits, model_store.without_weights(EXACT)
        if self.picture.mode != "1" or traits.extension or traits.progressive or self.artifact is exact:
            return None
        return self._made(exact, None)

    def _made(self, artifact, quality, **how):
        codec, (height, width, _) = zoo.codec_of(artifact), self.picture.rgb.shape
        weights, portable = artifact.fingerprint, codec.traits.portable
        header = container.Header(
            zoo.stream_id(artifact.model), weights, width, height, self.picture.mode, quality, portable
        )
        beside = self.beside
        with runtime.jax_of_our_own():
            parts = codec.compress(artifact, self.picture.rgb, quality, **how)
        first, *more = [container.Chunk(container.DATA, bytes(part)) for part in parts]
        # Alpha and metadata stand behind the first part of the picture: of a file that was cut off, they are there.
        return File(container.pack(header, [first, *beside, *more]), parts, artifact, codec, header)


def check_quality(quality: float | None) -> float | None:
    """A quality as files hold it. Raises UsageError for one that is no number from 0 to 100."""
    if quality is None:
        return None
    number = runtime.number(quality)
    if number is None or not 0 <= number <= 100:
        raise UsageError(f"quality {quality} is out of range: a number from 0 to 100 is possible")
    return round(2 * number) / 2


def check_effort(effort: int) -> int:
    """An effort as an int. Raises UsageError for one that is no whole number from 0 to 9."""
    number = runtime.number(effort)
    if number is None or not 0 <= number <= 9 or number != int(number):
        raise UsageError(f"effort {effort} is out of range: a whole number from 0 to 9 is possible")
    return int(number)

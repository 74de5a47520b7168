"""From the bytes of a file to its picture: the file taken apart, its model found, its parts decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlic_jax import runtime, zoo
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.fileformat import model_store, modes, opened

if TYPE_CHECKING:
    from mlic_jax.codec import Codec
    from mlic_jax.fileformat.artifact import Artifact


class Decoding(NamedTuple):
    """A file and its model."""

    file: opened.Opened
    artifact: Artifact
    codec: Codec

    def count(self, iterations: int | None) -> int:
        """How many parts are to be shown; None for all. Raises UsageError for parts that the file does not have."""
        there = len(self.file.parts)
        if iterations is None:
            return there
        if not self.codec.traits.progressive:
            raise UsageError(f"a file of {self.artifact.model} has no iterations: it is read whole")
        number = runtime.number(iterations)
        if number is None or not 1 <= number <= there or number != int(number):
            raise UsageError(f"iterations {iterations} are not in the file: it has 1 to {there}")
        return int(number)

    def picture(self, count: int) -> np.ndarray:
        """The picture of the first `count` parts, in the mode of the file. Raises CorruptStreamError, LimitError."""
        header, parts = self.file.header, self.file.parts[:count]
        alpha = self.file.alpha()
        with runtime.jax_of_our_own():
            rgb = self.codec.decompress(self.artifact, parts, (header.height, header.width), quality=header.quality)
        return modes.to_array(header.mode, rgb, alpha)


def open_with(data: bytes, model=None) -> Decoding:
    """Reads a file and finds its model. Of a progressive file that was cut off, it takes what is whole, and warns.

    Args:
      data: the file's content, or the beginning of a progressive one's.
      model: as for `model_store.of_file`.

    Raises:
      CorruptStreamError, LimitError: no such file, or a damaged one.
      ModelError: its model is missing, or another was given.
    """
    file = opened.open_file(data)
    artifact = model_store.of_file(file.header, model)
    codec = zoo.codec_of(artifact)
    if file.header.portable != codec.traits.portable:
        raise CorruptStreamError(f"a file of {artifact.model} says wrongly whether every machine can read it")
    file.check_length(codec.traits.progressive)
    return Decoding(file, artifact, codec)

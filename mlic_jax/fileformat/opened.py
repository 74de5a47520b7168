"""A file taken apart, of which the end may be missing: a progressive file is a picture before it is whole."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

from mlic_jax.errors import CorruptStreamError, TruncationWarning
from mlic_jax.fileformat import container

if TYPE_CHECKING:
    import numpy as np


class Opened(NamedTuple):
    """What is there of a file.

    Attributes:
      header: what the file says about itself.
      parts: the picture's chunks that are whole, as the codec wrote them.
      others: the other chunks that are whole: alpha and metadata.
      places: where all chunks of the whole file lie.
      size: how many bytes are there.
    """

    header: container.Header
    parts: tuple[bytes, ...]
    others: tuple[container.Chunk, ...]
    places: tuple[container.Place, ...]
    size: int

    @property
    def whole_size(self) -> int:
        """Bytes of the whole file."""
        return container.end_of(self.places[-1])

    @property
    def announced(self) -> int:
        """Parts of the picture that the whole file has."""
        return sum(place.type == container.DATA for place in self.places)

    @property
    def ends(self) -> list[int]:
        """How many bytes of the file the picture of the first part takes, that of two parts, and so on."""
        # No part is a picture before its alpha plane is there.
        alpha = max((container.end_of(place) for place in self.places if place.type == container.ALPHA), default=0)
        ends = [max(alpha, container.end_of(place)) for place in self.places if place.type == container.DATA]
        return ends[: len(self.parts)]

    def check_length(self, progressive: bool) -> None:
        """Warns of a progressive file that was cut off. Raises CorruptStreamError where it shows nothing yet, and for
        any other file that was cut off."""
        if self.size == self.whole_size:
            return
        if not progressive:
            raise CorruptStreamError(f"the file is truncated: {self.size} bytes, its header says {self.whole_size}")
        has_alpha = container.has_alpha(self.header.mode)
        if not self.parts or has_alpha != any(chunk.type == container.ALPHA for chunk in self.others):
            needed = max(container.end_of(place) for place in self.places[: 2 if has_alpha else 1])
            raise CorruptStreamError(
                f"the file is truncated: {self.size} bytes of {self.whole_size} are there, and {needed} are needed "
                "for the first picture"
            )
        warnings.warn(
            f"the file is truncated: {self.size} of {self.whole_size} bytes are there, with {len(self.parts)} of "
            f"{self.announced} parts of the picture",
            TruncationWarning,
            stacklevel=4,  # the caller of the function that opened the file
        )

    def alpha(self) -> np.ndarray | None:
        """The alpha plane [H, W], where the picture has one. Raises CorruptStreamError, LimitError."""
        from mlic_jax.fileformat import alpha

        height, width, depth = self.header.height, self.header.width, container.bit_depth(self.header.mode)
        for chunk in self.others:
            if chunk.type == container.ALPHA:
                return alpha.decode(chunk.content, height, width, depth)
        return None


def open_file(data: bytes) -> Opened:
    """Takes a file apart, as far as it is there.

    Raises:
      InputError: `data` is not bytes.
      CorruptStreamError, LimitError: as `container.unpack_partial`.
    """
    container.check_content(data)
    header, chunks, places = container.unpack_partial(data)
    parts = tuple(chunk.content for chunk in chunks if chunk.type == container.DATA)
    others = tuple(chunk for chunk in chunks if chunk.type != container.DATA)
    return Opened(header, parts, others, places, len(data))

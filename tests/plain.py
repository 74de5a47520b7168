"""A lossless codec without jax, for tests of what is around a codec: files, modes, metadata, commands.

`ENTRIES` has to be added to the zoo, which the fixture `plain_zoo` does; `artifact()` is its model.
"""

import zlib

import numpy as np

from mlic_jax import zoo
from mlic_jax.artifact import Artifact
from mlic_jax.codec import Codec
from mlic_jax.container import inflate
from mlic_jax.errors import CorruptStreamError, UsageError

ENTRIES = {"plain": zoo.Entry(65003, "plain:codec")}


def artifact(rates=1, name=0):
    """A model; those of different names have different fingerprints."""
    return Artifact("plain", {"rates": rates}, {"name": np.array([name], np.int32)}, {}, {})


def codec(*, rates=1):
    """Two chunks: all rows but the first, and the first."""

    def compress(artifact, image, quality, effort=0):
        if quality is not None and rates == 1:
            raise UsageError("this is a model of one rate: it takes no quality")
        return zlib.compress(image[1:].tobytes()), zlib.compress(image[:1].tobytes())

    def decompress(artifact, chunks, size, quality=None):
        if len(chunks) != 2:
            raise CorruptStreamError(f"{len(chunks)} chunks of data: 2 are needed")
        rest, first = (inflate(chunk, 3 * size[0] * size[1], "data chunk") for chunk in chunks)
        if len(first) != 3 * size[1] or len(rest) != 3 * size[1] * (size[0] - 1):
            raise CorruptStreamError("the data chunks are of another size")
        return np.frombuffer(first + rest, np.uint8).reshape(*size, 3)

    return Codec(None, {}, None, None, compress, decompress)

"""A lossless codec without jax, for tests of what is around a codec: files, modes, metadata, commands.

`ENTRIES` has to be added to the zoo, which the fixture `plain_zoo` does; `artifact()` is its model. `graded()` is the
model of a second codec, whose size and error are known for every quality; `planes()` that of a progressive one.
"""

import zlib

import numpy as np

from mlic_jax import zoo
from mlic_jax.codec import Codec, Traits
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.families.importance import importance_map
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.fileformat.container import inflate

ENTRIES = {
    "plain": zoo.Entry(65003, "plain:codec"),
    "graded": zoo.Entry(65004, "plain:graded_codec"),
    "planes": zoo.Entry(65007, "plain:planes_codec"),
}


def artifact(rates=1, name=0):
    """A model; those of different names have different fingerprints."""
    return Artifact("plain", {"rates": rates}, {"name": np.array([name], np.int32)}, {}, {})


def codec(*, rates=1):
    """Two chunks: all rows but the first, and the first."""

    def compress(artifact, image, quality, effort=0, importance=None):
        if quality is not None and rates == 1:
            raise UsageError("this is a model of one rate: it takes no quality")
        if importance is not None:
            raise UsageError("this model of plain takes no importance map")
        return zlib.compress(image[1:].tobytes()), zlib.compress(image[:1].tobytes())

    def decompress(artifact, chunks, size, quality=None):
        if len(chunks) != 2:
            raise CorruptStreamError(f"{len(chunks)} chunks of data: 2 are needed")
        rest, first = (inflate(chunk, 3 * size[0] * size[1], "data chunk") for chunk in chunks)
        if len(first) != 3 * size[1] or len(rest) != 3 * size[1] * (size[0] - 1):
            raise CorruptStreamError("the data chunks are of another size")
        return np.frombuffer(first + rest, np.uint8).reshape(*size, 3)

    return Codec(None, {}, None, None, compress, decompress)


def graded():
    """A model of every rate."""
    return Artifact("graded", {}, {"name": np.zeros(1, np.int32)}, {}, {})


def graded_codec():
    """A byte more and a wrong sample less for every half step of quality; effort takes three bytes, for two errors."""

    def compress(artifact, image, quality, effort=0, importance=None):
        half_steps = round(2 * quality)
        wrong = 200 - half_steps + 2 * effort
        seen = image.reshape(-1) ^ (np.arange(image.size) < wrong).astype(np.uint8)
        return (seen.tobytes() + bytes(half_steps + 40 - 3 * effort),)

    def decompress(artifact, chunks, size, quality=None):
        count = 3 * size[0] * size[1]
        return np.frombuffer(chunks[0][:count], np.uint8).reshape(*size, 3)

    return Codec(None, {}, None, None, compress, decompress, Traits((0.0, 100.0), 50.0, efforts=9))


def planes():
    """A progressive model that takes an importance map."""
    return Artifact("planes", {}, {"name": np.zeros(1, np.int32)}, {}, {})


def planes_codec():
    """A chunk for each bit of the samples, the highest first; unimportant pixels lose their 4 low bits."""

    def compress(artifact, image, quality, effort=0, importance=None):
        importance = importance_map(importance, image.shape[:2])
        if importance is not None:
            image = np.where(importance[..., None] < 0.5, image & 0xF0, image)
        return tuple(zlib.compress(np.packbits(image >> shift & 1).tobytes()) for shift in range(7, -1, -1))

    def decompress(artifact, chunks, size, quality=None):
        count = 3 * size[0] * size[1]
        found = np.zeros(count, np.uint8)
        for chunk, shift in zip(chunks, range(7, -1, -1), strict=False):
            bits = np.unpackbits(np.frombuffer(inflate(chunk, count, "data chunk"), np.uint8), count=count)
            found |= bits << shift
        return found.reshape(*size, 3)

    return Codec(None, {}, None, None, compress, decompress, Traits(progressive=True, guided=True))

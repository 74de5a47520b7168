"""The coders of bits: one coding order, several readings of it. As mlic_jax.entropy.coders, for priors of bits.

A model whose codes are bits states the order of transmission once,

    def transmit(self, code):
        levels = code("level", self.map_prior, part=True)
        return code("code", self.code_prior, mask_of(levels))

and `code` decides what happens: `Estimating` sums code lengths in floating point, for training and validation;
`Measuring` sums those of files; `Encoding` writes chunks, `Decoding` reads them; `Exporting` and `Checking` are for
what an artifact stores.

    code(name, prior, present=None, part=False)   a volume by a prior (mlic_jax.entropy.bits.prior), what is present of
                                                  it, all by default -> what a decoder knows of it: -1 or +1
    code.optional(name, format)                   a map that need not be there -> the map, or None
    code.shape(name)                              of a volume or map, with the batch: [B, (T,) h, w, n]

A volume's stream ends a chunk of the file, and that of each of its iterations does, or it is a `part`: it stands behind
its length, a varint, and the chunk goes on. An optional map is a byte 0, or a byte 1 and a part with the map; its
format has `encode(map) -> bytes` and `decode(bytes, shape) -> map`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy.bits.prior import BitPrior, code_lengths, read, write
from mlic_jax.entropy.bits.raw import Raw, split, with_length
from mlic_jax.errors import CorruptStreamError


class _Knowing:
    """A coder that is given all values: name -> [B, ..], and no map that is not to be there."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def shape(self, name: str) -> tuple[int, ...]:
        return self._values[name].shape

    def optional(self, name: str, format: Any) -> Any:
        del format
        return self._values.get(name)


class Estimating(_Knowing):
    """Sums code lengths by the parameters of priors, differentiable in these.

    `lengths`: name -> float32 of the volume's shape, bits. Optional maps cost nothing here, see `map_bits`.

    Args:
      values: name -> volumes float [B, (T,) h, w, n] and maps, by JAX.
    """

    def __init__(self, values):
        super().__init__(values)
        self.lengths: dict[str, jax.Array] = {}

    def __call__(self, name: str, prior: BitPrior, present: Any = None, part: bool = False) -> jax.Array:
        del part
        signs = self._values[name]
        self.lengths[name] = prior.bits(signs, jnp.ones(signs.shape, bool) if present is None else present)
        return signs


class Measuring(_Knowing):
    """Sums code lengths by the integers of an artifact, for one picture. `bits`: name -> float64 [streams].

    Args:
      values: name -> NumPy arrays, volumes [1, (T,) h, w, n] and maps.
    """

    def __init__(self, values):
        super().__init__(values)
        self.bits: dict[str, np.ndarray] = {}

    def optional(self, name: str, format: Any) -> np.ndarray | None:
        value = super().optional(name, format)
        self.bits[name] = np.array([map_bits(value, format)], np.float64)
        return value

    def __call__(self, name: str, prior: BitPrior, present: Any = None, part: bool = False) -> np.ndarray:
        del part
        signs, present = _volume(self._values[name], present)
        self.bits[name] = code_lengths(prior, signs[0], present[0])
        return signs


class Encoding(_Knowing):
    """Writes the volumes of one picture. `chunks`: those that are complete.

    Args:
      values: name -> NumPy arrays, volumes [1, (T,) h, w, n], whose bits count where they are present, and maps.
    """

    def __init__(self, values):
        super().__init__(values)
        self.chunks: tuple[bytes, ...] = ()
        self._begun = b""  # of the next chunk

    def optional(self, name: str, format: Any) -> np.ndarray | None:
        value = super().optional(name, format)
        self._begun += _optional_part(value, format)
        return value

    def __call__(self, name: str, prior: BitPrior, present: Any = None, part: bool = False) -> np.ndarray:
        signs, present = _volume(self._values[name], present)
        streams = write(prior, signs[0], present[0])
        if part:
            self._begun += b"".join(map(with_length, streams))
            return signs
        for stream in streams:
            self.chunks, self._begun = (*self.chunks, self._begun + stream), b""
        return signs


class Decoding:
    """Reads the volumes of one picture back.

    Args:
      chunks: of the file, the first ones.
      shapes: name -> (1, (T,) h, w, n), of maps (1, h, w).
    """

    def __init__(self, chunks: Sequence[bytes], shapes: Mapping[str, tuple[int, ...]]):
        self._shapes, self._left = shapes, [bytes(chunk) for chunk in chunks]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def optional(self, name: str, format: Any) -> np.ndarray | None:
        chunk = self._take()
        if not chunk or chunk[0] > 1:
            raise CorruptStreamError(f"the stream does not say whether it has {name}: its first byte is not 0 or 1")
        if chunk[0] == 0:
            self._left.insert(0, chunk[1:])
            return None
        data, rest = split(chunk[1:])
        self._left.insert(0, rest)
        return format.decode(data, self._shapes[name][1:])[None]

    def __call__(self, name: str, prior: BitPrior, present: Any = None, part: bool = False) -> np.ndarray:
        shape = self._shapes[name]
        if part:
            data, rest = split(self._take())
            streams = [data]
            self._left.insert(0, rest)
        else:
            streams = [self._take() for _ in np.ndindex(shape[1:-3])]
        return read(prior, streams, _broadcast(present, shape)[0])[None]

    def _take(self):
        if not self._left:
            raise CorruptStreamError("the stream has fewer chunks than its model writes")
        return self._left.pop(0)

    def finish(self) -> None:
        """Raises CorruptStreamError if anything is left."""
        if self._left:
            raise CorruptStreamError(f"the stream has {len(self._left)} chunks more than its model writes")


class Exporting:
    """Collects what an artifact needs of every prior. `state`: the numbers on which encoder and decoder must agree.

    Args:
      shapes: name -> (1, (T,) h, w, n), of volumes of any size.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        self._shapes, self.state = shapes, {}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def optional(self, name: str, format: Any) -> None:
        del name, format

    def __call__(self, name: str, prior: BitPrior, present: Any = None, part: bool = False) -> np.ndarray:
        del present, part
        if prior.name is not None:
            self.state[prior.name] = prior.integers()
        return np.ones(self._shapes[name], np.int8)


class Checking(Exporting):
    """Raises ModelError unless an artifact has what its coding order needs. Arguments as of Exporting."""

    def __call__(self, name: str, prior: BitPrior, present: Any = None, part: bool = False) -> np.ndarray:
        del present, part
        prior.check()
        return np.ones(self._shapes[name], np.int8)


class WithoutPriors:
    """Another coder, for files in which all bits are written as they are."""

    def __init__(self, coder: Any):
        self._coder = coder

    def shape(self, name: str) -> tuple[int, ...]:
        return self._coder.shape(name)

    def optional(self, name: str, format: Any) -> Any:
        return self._coder.optional(name, format)

    def __call__(self, name: str, prior: BitPrior, present: Any = None, part: bool = False) -> Any:
        del prior
        return self._coder(name, Raw(), present, part)


def map_bits(value: np.ndarray | None, format: Any) -> int:
    """What an optional map [1, ..], or none, takes in a file."""
    return 8 * len(_optional_part(value, format))


def _optional_part(value, format):
    return b"\0" if value is None else b"\1" + with_length(format.encode(value[0]))


def _broadcast(present, shape):
    return np.broadcast_to(True if present is None else present, shape)


def _volume(signs, present):
    """(int8 [1, ..], 0 where not present; bool of its shape)."""
    present = _broadcast(present, signs.shape)
    return np.where(present, signs, 0).astype(np.int8), present

"""The range coder: entries of table rows from 32-bit words, in Python's integers."""

from __future__ import annotations

import bisect
import functools

from mlic_jax.errors import CorruptStreamError

PRECISION = 24
WORD = 32
_LOW_WORD = (1 << WORD) - 1
_WHOLE_RANGE = (1 << 2 * WORD) - 1


def cumulative(frequencies) -> list[int]:
    """Where the entries of a table row begin in 0..2^24, and 2^24: the row's model.

    Entry i begins at i + floor(K_i (2^24 - n) / 2^16), K_i the sum of the frequencies before it, n their number.
    """
    n, below, starts = len(frequencies), 0, []
    for i, frequency in enumerate(map(int, frequencies)):
        starts.append(i + (below * ((1 << PRECISION) - n) >> 16))
        below += frequency
    return [*starts, 1 << PRECISION]


@functools.cache
def uniform(n: int) -> list[int]:
    """The model of n entries of one probability; what is left over goes to the last one."""
    return [*(i * ((1 << PRECISION) // n) for i in range(n)), 1 << PRECISION]


class RangeDecoder:
    """Reads entries from a stream of 32-bit words; behind its end it reads zeros."""

    def __init__(self, words: list[int]):
        self._words, self._at = words, 0
        self._range = _WHOLE_RANGE
        self._offset = self._next() << WORD | self._next()  # how far into the range the stream points

    def _next(self):
        self._at += 1
        return self._words[self._at - 1] if self._at <= len(self._words) else 0

    def read(self, model: list[int]) -> int:
        scale = self._range >> PRECISION
        quantile = self._offset // scale
        if quantile >> PRECISION:
            raise CorruptStreamError("the stream points behind the last entry")
        entry = bisect.bisect_right(model, quantile) - 1
        self._offset -= scale * model[entry]
        self._range = scale * (model[entry + 1] - model[entry])
        if self._range <= _LOW_WORD:
            self._range <<= WORD
            self._offset = self._offset << WORD | self._next()
        return entry


class RangeEncoder:
    """Writes what RangeDecoder reads."""

    def __init__(self):
        self._words = []
        self._low, self._range = 0, _WHOLE_RANGE

    def write(self, entry: int, model: list[int]) -> None:
        scale = self._range >> PRECISION
        self._low += scale * model[entry]
        self._range = scale * (model[entry + 1] - model[entry])
        if self._low > _WHOLE_RANGE:
            self._low &= _WHOLE_RANGE
            _carry(self._words)
        if self._range <= _LOW_WORD:
            self._words.append(self._low >> WORD)
            self._low = (self._low & _LOW_WORD) << WORD
            self._range <<= WORD

    def finish(self) -> list[int]:
        """The words; more can be written afterwards, as if this had not been called."""
        words = self._words.copy()
        if self._range == _WHOLE_RANGE:  # nothing was written: the first entry makes it smaller for good
            return words
        last = self._low + _LOW_WORD >> WORD
        end = self._low + self._range >> WORD
        if last > _LOW_WORD:
            _carry(words)
        words.append(last & _LOW_WORD)
        if end == last:  # not all that begins with this word is inside the range: with a zero behind it, it is
            words.append(0)
        return words


def _carry(words):
    """Adds one to a number of 32-bit digits, most significant first. A range never carries out of the first one."""
    at = len(words) - 1
    while words[at] == _LOW_WORD:
        words[at] = 0
        at -= 1
    words[at] += 1


class Mirrored:
    """A decoder that encodes again what it reads: only what an encoder writes is a stream."""

    def __init__(self, data: bytes):
        if len(data) % 4:
            raise CorruptStreamError(f"a stream of {len(data)} bytes is not a whole number of 32-bit words")
        self._words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        self._decoder, self._encoder = RangeDecoder(self._words), RangeEncoder()

    def read(self, model):
        entry = self._decoder.read(model)
        self._encoder.write(entry, model)
        return entry

    def finish(self):
        if self._encoder.finish() != self._words:
            raise CorruptStreamError("the stream is not what an encoder writes for its symbols")

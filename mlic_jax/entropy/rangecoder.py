"""Symbols to bytes and back: constriction's range coder, driven by integer tables.

A latent is an array whose last three axes are (h, w, C). It is coded in blocks of 64 x 64 positions, blocks in raster
order, so that memory is bounded by a block. Within a block, entries are coded in groups of one table row, rows
ascending, raster order (h, w, C) within a row: the coder runs at tens of millions of symbols a second that way, and a
model per symbol would take 50 times as long. Symbols that their row does not hold are coded as its escape, and their
distances from the row follow at the end of the block. docs/format.md has the arithmetic, `mlic_jax.reference`
has it in plain Python.

A range decoder accepts any bytes. To refuse those that no encoder writes, `Decoder` encodes again what it reads: it
stops where that becomes longer than the data, and in the end both must be equal, byte for byte.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import constriction
import numpy as np

from mlic_jax.entropy.tables import TOTAL, Table
from mlic_jax.errors import CorruptStreamError, ModelError

# Positions on a side of a block.
BLOCK = 64
# No image and no sane model makes larger symbols, and float32, in which latents live, cannot tell them apart.
LARGEST_SYMBOL = 1 << 24
_UNIFORM = functools.cache(constriction.stream.model.Uniform)
_BIT = constriction.stream.model.Bernoulli(perfect=False)
# Distances of escaped symbols, plus one, are below 2 to this.
_ESCAPE_BITS = 27
_HALF = 16
_DAMAGED = "the entropy-coded stream is damaged"


class Models:
    """The coder's models of one table, made at first use and kept."""

    def __init__(self, table: Table):
        self.table = table
        self._rows = {}

    def __getitem__(self, row: int):
        if row not in self._rows:
            # k / 2^16 is exact in floating point, so the coder sees the same numbers on every machine.
            frequencies = self.table.row(row).astype(np.float64) / TOTAL
            self._rows[row] = constriction.stream.model.Categorical(frequencies, perfect=False)
        return self._rows[row]


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple]:
    """What cuts an array of that shape, (.., h, w, C), into its blocks, in raster order."""
    *leading, height, width, channels = shape
    if channels:
        for index in itertools.product(*map(range, leading)):
            for top, left in itertools.product(range(0, height, BLOCK), range(0, width, BLOCK)):
                yield *index, slice(top, top + BLOCK), slice(left, left + BLOCK)


def _latent(array) -> np.ndarray:
    """The same array with at least the three axes (h, w, C); never a copy, though its strides may be 0."""
    array = np.asarray(array)
    return array[(None,) * (3 - array.ndim)] if array.ndim < 3 else array


def _groups(rows: np.ndarray):
    """Sorts entries by row, and keeps their order within a row.

    Args:
      rows: [n], in 0..65535.

    Returns:
      [n] places of the sorted entries, and a list (row, start, stop) of the groups among them.
    """
    # Eight bits, where they suffice, sort twice as fast as 16, and 16 much faster than more.
    narrow = rows.astype(np.uint8 if rows.max() < 256 else np.uint16)
    counts = np.bincount(narrow)
    ends = np.cumsum(counts)
    groups = [(row, int(ends[row] - counts[row]), int(ends[row])) for row in np.flatnonzero(counts).tolist()]
    return np.argsort(narrow, kind="stable"), groups


def _rows_of(indexes: np.ndarray, table: Table) -> np.ndarray:
    """A block's indexes as [n]; raises ModelError where the table has no such row."""
    low, high = indexes.min(), indexes.max()
    if low < 0 or high >= len(table.lengths):
        wrong = low if low < 0 else high
        raise ModelError(f"the model's table has {len(table.lengths)} rows, and row {wrong} is needed")
    return indexes.ravel()


def _largest(symbols: np.ndarray) -> int:
    return max(int(symbols.max()), -int(symbols.min()))


def _probabilities(frequencies: np.ndarray) -> np.ndarray:
    """Of 1; exact in floating point, so that the coder sees the same numbers on every machine."""
    if frequencies.size and (frequencies.min() < 1 or frequencies.max() >= TOTAL):
        raise ValueError(f"frequencies of bits are 1 to {TOTAL - 1}")
    return frequencies / TOTAL


class Encoder:
    """Collects symbols into one stream."""

    def __init__(self):
        self._coder = constriction.stream.queue.RangeEncoder()

    def write(self, symbols: np.ndarray, indexes: np.ndarray, models: Models, limit: int | None = None) -> None:
        """Codes the symbols of a latent.

        Args:
          symbols: integers [.., h, w, C]; fewer axes count as the last ones.
          indexes: same shape, rows of the table; any integers, or a broadcast view.
          models: of the table.
          limit: what no symbol's magnitude may exceed; LARGEST_SYMBOL without it.

        Raises:
          ValueError: a symbol beyond the limit.
          ModelError: the table has no such row.
        """
        most = LARGEST_SYMBOL if limit is None else min(limit, LARGEST_SYMBOL)
        symbols, indexes = _latent(symbols), _latent(indexes)
        if symbols.shape != indexes.shape:
            raise ValueError(f"symbols of shape {symbols.shape} with indexes of shape {indexes.shape}")
        for block in _blocks(symbols.shape):
            part = symbols[block]
            if _largest(part) > most:
                raise ValueError(f"symbols beyond {most} cannot be coded")
            self._write_block(part.astype(np.int32, copy=False).ravel(), indexes[block], models)

    def _write_block(self, symbols, indexes, models):
        table, distances = models.table, []
        order, groups = _groups(_rows_of(indexes, table))
        symbols = symbols[order]
        for row, start, stop in groups:
            entries = symbols[start:stop] - table.first[row]
            escape = table.lengths[row] - 1
            outside = np.flatnonzero(entries.view(np.uint32) >= escape)  # negative ones are large as unsigned
            if outside.size:
                beyond = entries[outside]
                distances.append(np.where(beyond < 0, -2 * beyond - 1, 2 * (beyond - escape)))
                entries[outside] = escape
            self._coder.encode(entries, models[row])
        if distances:
            self.write_distances(np.concatenate(distances))

    def write_distances(self, values: np.ndarray) -> None:
        """Non-negative integers: the length of value + 1 in bits, then the bits below its leading one."""
        values = values + 1
        lengths = np.frexp(values)[1].astype(np.int32) - 1
        self._coder.encode(lengths, _UNIFORM(_ESCAPE_BITS))
        order, groups = _groups(lengths)
        values = values[order]
        for length, start, stop in groups:
            for shift, bits in _pieces(length):
                pieces = (values[start:stop] >> shift) & ((1 << bits) - 1)
                self._coder.encode(pieces.astype(np.int32), _UNIFORM(1 << bits))

    def write_bits(self, bits: np.ndarray, frequencies: np.ndarray) -> None:
        """Codes bits, each with a probability of its own: as a table row (2^16 - f, f) would.

        Args:
          bits: integers 0 or 1, of any shape, in the order of raveling.
          frequencies: same shape, integers f in 1..2^16 - 1: 2^16 times the probability of 1.

        Raises ValueError for anything else.
        """
        bits, frequencies = np.ravel(bits), np.ravel(frequencies)
        if bits.shape != frequencies.shape:
            raise ValueError(f"{bits.size} bits with {frequencies.size} probabilities")
        if bits.size and (bits.min() < 0 or bits.max() > 1):
            raise ValueError("bits other than 0 and 1 cannot be coded")
        self._coder.encode(bits.astype(np.int32), _BIT, _probabilities(frequencies))

    def write_word(self, word: int) -> None:
        """Codes an integer of 32 bits, each as likely as the others."""
        self._coder.encode(np.array([word & 0xFFFF, word >> _HALF], np.int32), _UNIFORM(1 << _HALF))

    def finish(self) -> bytes:
        """The stream, a multiple of four bytes."""
        return self._coder.get_compressed().astype("<u4").tobytes()


class Decoder:
    """Reads symbols back in the order in which they were written."""

    def __init__(self, data: bytes):
        if len(data) % 4:
            raise CorruptStreamError(f"an entropy-coded stream of {len(data)} bytes is not a multiple of 4: truncated?")
        self._words = np.frombuffer(data, "<u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(self._words)
        self._mirror = constriction.stream.queue.RangeEncoder()

    def _decode(self, model, count: int | np.ndarray) -> np.ndarray:
        """Entries; instead of their number, the parameters of a family of models."""
        try:
            entries = self._coder.decode(model, count)
        except (AssertionError, ValueError) as error:  # what constriction raises on impossible data
            raise CorruptStreamError(_DAMAGED) from error
        # A stream never becomes shorter by what is written to it: if this is too long now, the whole will be.
        self._mirror.encode(entries, model, *([count] if isinstance(count, np.ndarray) else []))
        if self._mirror.num_words() > len(self._words):
            raise CorruptStreamError(f"{_DAMAGED}: it ends before the last symbol")
        return entries

    def read(self, indexes: np.ndarray, models: Models, limit: int | None = None) -> np.ndarray:
        """The symbols that were written with these rows.

        Args:
          indexes: [.., h, w, C], as they were for `Encoder.write`.
          models: of the table.
          limit: as it was for `Encoder.write`.

        Returns:
          int32, the shape of `indexes`.

        Raises:
          CorruptStreamError: the data cannot be that.
          ModelError: the table has no such row.
        """
        most = LARGEST_SYMBOL if limit is None else min(limit, LARGEST_SYMBOL)
        shape, indexes, blocks = np.shape(indexes), _latent(indexes), None
        for block in _blocks(indexes.shape):
            part = self._read_block(indexes[block], models)
            if _largest(part) > most:
                raise CorruptStreamError(f"{_DAMAGED}: a symbol is beyond {most}")
            if blocks is None:  # only now: a forged size is mostly found out within the first block
                blocks = np.empty(indexes.shape, np.int32)
            blocks[block] = part.reshape(indexes[block].shape)
        return np.empty(shape, np.int32) if blocks is None else blocks.reshape(shape)

    def read_bits(self, frequencies: np.ndarray) -> np.ndarray:
        """The bits that were written with these frequencies: int32 of their shape, 0 or 1.

        Raises CorruptStreamError: the data cannot be that.
        """
        return self._decode(_BIT, _probabilities(np.ravel(frequencies))).reshape(np.shape(frequencies))

    def read_word(self) -> int:
        """The integer that `write_word` wrote. Raises CorruptStreamError: the data cannot be that."""
        low, high = self._decode(_UNIFORM(1 << _HALF), 2).tolist()
        return high << _HALF | low

    def _read_block(self, indexes, models):
        """int32 [n], in raster order."""
        table, outside = models.table, []
        rows = _rows_of(indexes, table)
        order, groups = _groups(rows)
        symbols = np.empty(len(rows), np.int32)  # in the order of coding
        for row, start, stop in groups:
            entries = self._decode(models[row], stop - start)
            outside.append(np.flatnonzero(entries == table.lengths[row] - 1) + start)
            np.add(entries, table.first[row], out=symbols[start:stop])
        outside = np.concatenate(outside)
        if outside.size:
            values, row = self.read_distances(len(outside)), rows[order[outside]]
            above = symbols[outside] + values // 2  # the escape is the first symbol above the row
            symbols[outside] = np.where(values % 2, table.first[row] - (values + 1) // 2, above)
        raster = np.empty(len(rows), np.int32)
        raster[order] = symbols
        return raster

    def read_distances(self, count: int) -> np.ndarray:
        lengths = self._decode(_UNIFORM(_ESCAPE_BITS), count)
        order, groups = _groups(lengths)
        found = np.empty(count, np.int32)
        for length, start, stop in groups:
            found[start:stop] = 1 << length
            for shift, bits in _pieces(length):
                found[start:stop] |= self._decode(_UNIFORM(1 << bits), stop - start) << shift
        values = np.empty(count, np.int32)
        values[order] = found
        return values - 1

    def finish(self) -> None:
        """Raises CorruptStreamError unless the data is exactly what an encoder writes for what was read."""
        if not np.array_equal(self._mirror.get_compressed(), self._words):
            raise CorruptStreamError(f"{_DAMAGED}: it is not what an encoder writes, or something is left over")


def _pieces(length: int):
    """(shift, bits) that cover `length` low bits in pieces the coder's 24-bit models can hold."""
    return [(shift, min(_HALF, length - shift)) for shift in range(0, length, _HALF)]

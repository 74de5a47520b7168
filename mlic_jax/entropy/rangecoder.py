"""Symbols to bytes and back: constriction's range coder, driven by integer tables.

Symbols are coded in groups of one table row, rows ascending, raster order within a row: the coder then runs at
hundreds of millions of symbols a second, where a model per symbol would take 50 times as long. Symbols that their row
does not hold are coded as its escape, and their distances from the row follow after all groups.
"""

from __future__ import annotations

import functools

import constriction
import numpy as np

from mlic_jax.entropy.tables import TOTAL, Table
from mlic_jax.errors import CorruptStreamError, ModelError

# No image and no sane model makes larger symbols, and float32, in which latents live, cannot tell them apart.
LARGEST_SYMBOL = 1 << 24
_UNIFORM = functools.cache(constriction.stream.model.Uniform)
# Distances of escaped symbols, plus one, are below 2 to this.
_ESCAPE_BITS = 27
_HALF = 16


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


def _groups(indexes: np.ndarray):
    """(row, positions) for every row that occurs, ascending; positions ascending within a row."""
    order = np.argsort(indexes.astype(np.uint16), kind="stable")  # a radix sort, for 16 bits
    counts = np.bincount(indexes)
    rows = np.flatnonzero(counts)
    return zip(rows.tolist(), np.split(order, np.cumsum(counts[rows])[:-1]), strict=True)


def _flat_indexes(indexes: np.ndarray, table: Table) -> np.ndarray:
    """[n] indexes; raises ModelError where the table has no such row."""
    indexes = np.asarray(indexes).ravel()
    if indexes.size and not 0 <= indexes.min() <= indexes.max() < len(table.lengths):
        raise ModelError(f"the model's table has {len(table.lengths)} rows, and row {indexes.max()} is needed")
    return indexes


class Encoder:
    """Collects symbols into one stream."""

    def __init__(self):
        self._coder = constriction.stream.queue.RangeEncoder()

    def write(self, symbols: np.ndarray, indexes: np.ndarray, models: Models) -> None:
        """Codes int32 symbols (any shape) with the rows `indexes` (same shape) of a table.

        Raises ValueError for a symbol beyond LARGEST_SYMBOL, ModelError where the table has no such row.
        """
        table = models.table
        symbols, indexes = np.asarray(symbols, np.int32).ravel(), _flat_indexes(indexes, table)
        if not symbols.size:
            return
        if max(symbols.max(), -int(symbols.min())) > LARGEST_SYMBOL:
            raise ValueError(f"symbols beyond {LARGEST_SYMBOL} cannot be coded")
        entries = symbols - table.first[indexes]
        escape = (table.lengths - 1)[indexes]
        outside = (entries < 0) | (entries >= escape)
        coded = np.where(outside, escape, entries)
        for row, positions in _groups(indexes):
            self._coder.encode(coded[positions], models[row])
        if outside.any():
            entries, over = entries[outside], (entries - escape)[outside]  # over >= 0 above the row
            self._write_distances(np.where(over >= 0, 2 * over, -2 * entries - 1))

    def _write_distances(self, values: np.ndarray) -> None:
        """Non-negative integers: the length of value + 1 in bits, then the bits below its leading one."""
        values = values + 1
        lengths = np.frexp(values)[1].astype(np.int32) - 1
        self._coder.encode(lengths, _UNIFORM(_ESCAPE_BITS))
        for length, positions in _groups(lengths):
            low = values[positions] - (1 << length)
            for shift, bits in _pieces(length):
                piece = (low >> shift) & ((1 << bits) - 1)
                self._coder.encode(piece.astype(np.int32), _UNIFORM(1 << bits))

    def finish(self) -> bytes:
        """The stream, a multiple of four bytes."""
        return self._coder.get_compressed().astype("<u4").tobytes()


class Decoder:
    """Reads symbols back in the order in which they were written."""

    def __init__(self, data: bytes):
        if len(data) % 4:
            raise CorruptStreamError(f"an entropy-coded stream of {len(data)} bytes is not a multiple of 4: truncated?")
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def _decode(self, model, count: int) -> np.ndarray:
        try:
            return self._coder.decode(model, count)
        except (AssertionError, ValueError) as error:  # what constriction raises on impossible data
            raise CorruptStreamError("the entropy-coded stream is damaged") from error

    def read(self, indexes: np.ndarray, models: Models) -> np.ndarray:
        """The symbols (int32, shape of `indexes`) that were written with these rows.

        Raises CorruptStreamError where the data cannot be that, ModelError where the table has no such row.
        """
        table = models.table
        shape, indexes = np.shape(indexes), _flat_indexes(indexes, table)
        if not indexes.size:
            return np.zeros(shape, np.int32)
        entries = np.empty(indexes.shape, np.int32)
        for row, positions in _groups(indexes):
            entries[positions] = self._decode(models[row], len(positions))
        escape = (table.lengths - 1)[indexes]
        outside = entries == escape
        if outside.any():
            values = self._read_distances(int(outside.sum()))
            entries[outside] = np.where(values % 2, -(values + 1) // 2, escape[outside] + values // 2)
        symbols = entries + table.first[indexes]
        if outside.any() and np.abs(symbols[outside]).max() > LARGEST_SYMBOL:
            raise CorruptStreamError("the entropy-coded stream is damaged: a symbol is out of range")
        return symbols.reshape(shape)

    def _read_distances(self, count: int) -> np.ndarray:
        lengths = self._decode(_UNIFORM(_ESCAPE_BITS), count)
        values = np.empty(count, np.int32)
        for length, positions in _groups(lengths):
            low = np.zeros(len(positions), np.int32)
            for shift, bits in _pieces(length):
                low |= self._decode(_UNIFORM(1 << bits), len(positions)) << shift
            values[positions] = (1 << length) + low
        return values - 1

    def finish(self) -> None:
        """Raises CorruptStreamError if data is left over."""
        if not self._coder.maybe_exhausted():
            raise CorruptStreamError("data is left over behind the last symbol: the stream is damaged")


def _pieces(length: int):
    """(shift, bits) that cover `length` low bits in pieces the coder's 24-bit models can hold."""
    return [(shift, min(_HALF, length - shift)) for shift in range(0, length, _HALF)]

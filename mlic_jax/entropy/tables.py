"""Integer probability tables, built once at export and never recomputed.

An entropy decoder needs the very integers that the encoder used. So probabilities become frequencies out of 2^16 when
a model is exported, by NumPy in float64, and are stored with the weights; loading a model computes nothing.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

PRECISION = 16
TOTAL = 1 << PRECISION
# No row is wider than this on either side of its centre; the frequencies of TOTAL must suffice for all its symbols.
WIDEST = 4096


class Table(NamedTuple):
    """Rows of frequencies, ragged, laid end to end.

    Row r codes the symbols first[r] .. first[r] + n - 1 and, as its last entry, the escape for all others.

    Attributes:
      frequencies: int32 [sum of lengths], each at least 1; every row sums to 2^16.
      lengths: int32 [rows], the number of entries of each row, the escape included.
      first: int32 [rows], the symbol of each row's first entry.
    """

    frequencies: np.ndarray
    lengths: np.ndarray
    first: np.ndarray

    def row(self, index: int) -> np.ndarray:
        """The frequencies of one row."""
        start = int(self.lengths[:index].sum())
        return self.frequencies[start : start + self.lengths[index]]


def quantise(mass: np.ndarray) -> np.ndarray:
    """Frequencies for probabilities: positive integers that sum to 2^16, with the least loss of bits.

    Args:
      mass: float64 [n], non-negative, sum about 1, n at most 2^15.

    Returns:
      int32 [n]. Starts from the nearest integers (at least 1) and moves single counts where that costs the fewest
      expected bits, sum_i mass_i log2(frequency_i), until the sum is right.
    """
    mass = np.asarray(mass, np.float64)
    if not np.isfinite(mass).all() or (mass < 0).any() or mass.sum() <= 0:
        raise ValueError("probabilities must be finite, non-negative and not all zero")
    if len(mass) > TOTAL // 2:
        raise ValueError(f"a table of {len(mass)} entries is too long for frequencies out of {TOTAL}")
    mass = mass / mass.sum()
    frequency = np.maximum(1, np.rint(mass * TOTAL)).astype(np.int64)
    change = int(np.sign(TOTAL - frequency.sum()))
    if change:

        def cost(i):
            now, then = frequency[i], frequency[i] + change
            return np.inf if then < 1 else mass[i] * np.log2(now / then)

        heap = [(cost(i), i) for i in range(len(mass))]
        heapq.heapify(heap)
        for _ in range(abs(TOTAL - int(frequency.sum()))):
            i = heap[0][1]
            frequency[i] += change
            heapq.heapreplace(heap, (cost(i), i))
    return frequency.astype(np.int32)


def build(rows: list[np.ndarray], first: np.ndarray) -> Table:
    """A table from probabilities.

    Args:
      rows: per row, float64 [n] probabilities of consecutive symbols; what is missing to 1 goes to the escape.
      first: [rows], the symbol of each row's first entry.
    """
    frequencies = [quantise(np.append(row, max(0.0, 1.0 - row.sum()))) for row in rows]
    return Table(
        np.concatenate(frequencies).astype(np.int32),
        np.array([len(f) for f in frequencies], np.int32),
        np.asarray(first, np.int32),
    )


def check(table: Table) -> None:
    """Raises ValueError unless the table is one that `build` could have made (what a loaded model must satisfy)."""
    frequencies, lengths, first = table
    if frequencies.ndim != 1 or lengths.ndim != 1 or lengths.shape != first.shape:
        raise ValueError("table arrays have wrong shapes")
    if (lengths < 2).any() or lengths.sum() != len(frequencies) or (frequencies < 1).any():
        raise ValueError("table lengths or frequencies are out of range")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(int)
    if (np.add.reduceat(frequencies.astype(np.int64), starts) != TOTAL).any():
        raise ValueError(f"a table row does not sum to {TOTAL}")

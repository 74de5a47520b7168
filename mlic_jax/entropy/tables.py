"""Integer probability tables, built once at export and never recomputed.

An entropy decoder needs the very integers that the encoder used. So probabilities become frequencies out of 2^16 when
a model is exported, by NumPy in float64, and are stored with the weights; loading a model computes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PRECISION = 16
TOTAL = 1 << PRECISION
# No row is wider than this on either side of its centre; the frequencies of TOTAL must suffice for all its symbols.
WIDEST = 4096
# Row indexes fit 16 bits: the range coder sorts by them.
MOST_ROWS = 1 << 16


class Table(NamedTuple):
    """Rows of frequencies, ragged, laid end to end.

    Row r codes the symbols first[r] .. first[r] + n - 1 and, as its last entry, the escape for all others.

    Attributes:
      frequencies: int32 [sum of lengths], each at least 1; every row sums to 2^16.
      lengths: int32 [rows], the number of entries of each row, the escape included.
      first: int32 [rows], the symbol of each row's first entry, in -WIDEST..0.
      thresholds: int32 [rows - 1], ascending, where a number chooses the row: row r codes where r of the thresholds are
        at or below it. Equal neighbours leave a row without use. Empty where rows are not chosen so.
    """

    frequencies: np.ndarray
    lengths: np.ndarray
    first: np.ndarray
    thresholds: np.ndarray

    def row(self, index: int) -> np.ndarray:
        """The frequencies of one row."""
        start = int(self.lengths[:index].sum())
        return self.frequencies[start : start + self.lengths[index]]


def quantise(mass: np.ndarray) -> np.ndarray:
    """Frequencies for probabilities: positive integers that sum to 2^16, with the least expected bits.

    Args:
      mass: float64 [n], non-negative, not all zero, n at most 2^15.

    Returns:
      int32 [n], a maximum of sum_i mass_i log2(frequency_i). Each count goes where it saves most; since what the next
      one saves, mass_i log((f + 1) / f), falls with f, that is to fill all entries down to one common level.
    """
    mass = np.asarray(mass, np.float64)
    if not np.isfinite(mass).all() or (mass < 0).any() or mass.sum() <= 0:
        raise ValueError("probabilities must be finite, non-negative and not all zero")
    if len(mass) > TOTAL // 2:
        raise ValueError(f"a table of {len(mass)} entries is too long for frequencies out of {TOTAL}")
    mass = mass / mass.sum()

    def filled(level):  # the least frequencies at which no further count saves more than `level`
        with np.errstate(divide="ignore", over="ignore"):
            return np.maximum(1, np.ceil(1 / np.expm1(level / mass)))

    low, high = 2.0**-40, 2.0  # sums to more than TOTAL there, and to n here
    for _ in range(100):
        middle = np.sqrt(low * high)
        low, high = (low, middle) if filled(middle).sum() <= TOTAL else (middle, high)
    frequency = filled(high).astype(np.int64)
    # What is left of TOTAL goes to entries that are tied at the level, one count each.
    saved = mass * np.log1p(1 / frequency)
    frequency[np.argsort(-saved, kind="stable")[: TOTAL - frequency.sum()]] += 1
    return frequency.astype(np.int32)


def build(rows: list[np.ndarray], first: np.ndarray, thresholds: np.ndarray | tuple[int, ...] = ()) -> Table:
    """A table from probabilities.

    Args:
      rows: per row, float64 [n] probabilities of consecutive symbols; what is missing to 1 goes to the escape.
      first: [rows], the symbol of each row's first entry, in -WIDEST..0.
      thresholds: [rows - 1] integers that choose the row, or nothing.

    Raises ValueError for what `quantise` or `check` refuse.
    """
    frequencies = [quantise(np.append(row, max(0.0, 1.0 - row.sum()))) for row in rows]
    table = Table(
        np.concatenate(frequencies).astype(np.int32),
        np.array([len(f) for f in frequencies], np.int32),
        np.asarray(first, np.int32),
        np.asarray(thresholds, np.int32),
    )
    check(table)
    return table


def check(table: Table) -> None:
    """Raises ValueError unless the table is one that `build` could have made (what a loaded model must satisfy)."""
    frequencies, lengths, first, thresholds = table
    if any(array.ndim != 1 or array.dtype != np.int32 for array in table) or lengths.shape != first.shape:
        raise ValueError("table arrays are not int32 vectors that fit together")
    if not len(lengths) or (lengths < 2).any() or lengths.sum() != len(frequencies) or (frequencies < 1).any():
        raise ValueError("table lengths or frequencies are out of range")
    if len(lengths) > MOST_ROWS:
        raise ValueError(f"a table has {len(lengths)} rows: at most {MOST_ROWS} are possible")
    if (first < -WIDEST).any() or (first > 0).any():
        raise ValueError(f"a table row does not begin within -{WIDEST} and 0")
    if len(thresholds) not in (0, len(lengths) - 1) or (thresholds[1:] < thresholds[:-1]).any():
        raise ValueError(f"a table of {len(lengths)} rows has {len(thresholds)} thresholds, or not in ascending order")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    if (np.add.reduceat(frequencies.astype(np.int64), starts) != TOTAL).any():
        raise ValueError(f"a table row does not sum to {TOTAL}")

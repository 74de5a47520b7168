"""Huffman codes as JPEG has them: built from frequencies, canonical, at most 16 bits. NumPy only.

Sources: D. A. Huffman, "A method for the construction of minimum-redundancy codes" (1952); ITU-T T.81, Annex C (codes
from lengths), K.2 (lengths from frequencies).
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

from mlic_jax import errors

MAX_BITS = 16


class Code(NamedTuple):
    """A canonical code: shorter codes before longer ones, and within a length in the order of `symbols`."""

    counts: tuple[int, ...]  # how many codes have 1 to 16 bits
    symbols: bytes  # in order of code


def build(frequencies: np.ndarray, reserve_ones: bool = True) -> Code:
    """The code that makes sum(frequencies * bits) least (among those of at most 16 bits: nearly).

    The tree is Huffman's. Should it be deeper than 16, leaves are moved up by the exchange of T.81's Figure K.3, which
    is what libjpeg does; only counts that span more than a thousandfold range lead there.

    Args:
      frequencies: whole numbers [n], n <= 256: how often each symbol occurs. A symbol with 0 gets no code.
      reserve_ones: leaves the code of all ones unused, as JPEG demands: it is the padding of a scan.

    Returns:
      The code; empty where no symbol occurs.
    """
    frequencies = np.asarray(frequencies)
    depth = {int(symbol): 0 for symbol in np.flatnonzero(frequencies)}
    heap = [(int(frequencies[symbol]), -symbol, [symbol]) for symbol in depth]
    if reserve_ones and depth:
        # A symbol that is rarest, and last among the longest codes.
        depth[256] = 0
        heap.append((1, -256, [256]))
    heapq.heapify(heap)
    while len(heap) > 1:
        # At equal frequency the last symbol first, as libjpeg has it: the same lengths, and so the same files.
        total, identity, members = heapq.heappop(heap)
        more, _, others = heapq.heappop(heap)
        for symbol in (*members, *others):
            depth[symbol] += 1
        heapq.heappush(heap, (total + more, identity, members + others))
    if len(depth) == 1:  # a lone symbol, unreserved: even it takes a bit
        depth = dict.fromkeys(depth, 1)
    counts = _limited(np.bincount(list(depth.values()), minlength=MAX_BITS + 1)) if depth else [0] * (MAX_BITS + 1)
    if 256 in depth:
        counts[max(bits for bits in range(MAX_BITS + 1) if counts[bits])] -= 1
        del depth[256]
    return Code(
        tuple(int(count) for count in counts[1:]), bytes(sorted(depth, key=lambda symbol: (depth[symbol], symbol)))
    )


def _limited(counts: np.ndarray) -> np.ndarray:
    """How many codes have each length -> the same with none above 16 (T.81, Figure K.3)."""
    counts = counts.copy()
    for bits in range(len(counts) - 1, MAX_BITS, -1):
        while counts[bits]:
            # Two siblings at the bottom: one takes its parent's place, a leaf higher up makes room for the other.
            above = max(shorter for shorter in range(1, bits - 1) if counts[shorter])
            counts[bits] -= 2
            counts[bits - 1] += 1
            counts[above] -= 1
            counts[above + 1] += 2
    return counts[: MAX_BITS + 1]


def code_words(code: Code) -> tuple[np.ndarray, np.ndarray]:
    """(values, lengths), int64 [256] each by symbol; length 0 where there is no code (Annex C)."""
    values, lengths = np.zeros(256, np.int64), np.zeros(256, np.int64)
    value = place = 0
    for bits, count in enumerate(code.counts, 1):
        for symbol in code.symbols[place : place + count]:
            values[symbol], lengths[symbol] = value, bits
            value += 1
        place += count
        value <<= 1
    return values, lengths


def lookup(code: Code) -> np.ndarray:
    """int64 [65536]: for 16 bits of a scan, 32 * symbol + length of the code they begin with; 0 where none does.

    Raises:
      CorruptStreamError: lengths that no prefix code can have, or another number of symbols than of lengths.
    """
    if sum(code.counts) != len(code.symbols):
        raise errors.CorruptStreamError(
            f"JPEG: a Huffman table has {len(code.symbols)} symbols for {sum(code.counts)} lengths"
        )
    bits = np.repeat(np.arange(1, MAX_BITS + 1), code.counts)
    spans = 1 << (MAX_BITS - bits)
    if spans.sum() > 1 << MAX_BITS:
        raise errors.CorruptStreamError("JPEG: a Huffman table has more codes than there are words of their lengths")
    table = np.zeros(1 << MAX_BITS, np.int64)
    entries = 32 * np.frombuffer(code.symbols, np.uint8).astype(np.int64) + bits
    table[: spans.sum()] = np.repeat(entries, spans)
    return table

"""Maps of heights: how many iterations each cell of a recurrent model's code has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from mlic_jax.errors import CorruptStreamError
from mlic_jax.reference.bits import EVEN, TOTAL, BitReader

SLOPES = 4
MOST_COUNTS = 1 << 16


class Counts:
    """Of the zeros and ones in each context of a kind of bits."""

    def __init__(self, contexts: int):
        self.counts = [[1, 1] for _ in range(contexts)]

    def read(self, reader: BitReader, contexts: Sequence[int]) -> list[int]:
        """A group of bits: their frequencies are those before the group, and it is counted as a whole."""
        seen = [self.counts[context] for context in contexts]
        bits = reader.read([min(max(TOTAL * ones // (zeros + ones), 1), TOTAL - 1) for zeros, ones in seen])
        for context, bit in zip(contexts, bits, strict=True):
            self.counts[context][bit] += 2
        for pair in self.counts:
            if sum(pair) >= MOST_COUNTS:
                pair[:] = [max(count // 2, 1) for count in pair]
        return bits


def read_heights(data: bytes, shape: tuple[int, int], iterations: int) -> np.ndarray:
    """A map of heights: int64 [h, w], 1 to iterations. Raises CorruptStreamError."""
    reader, digits = BitReader(data), (iterations - 1).bit_length()
    low, high = (1 + sum(bit << i for i, bit in enumerate(reader.read([EVEN] * digits))) for _ in range(2))
    if not low <= high <= iterations:
        raise CorruptStreamError(f"heights from {low} to {high}, where the model has {iterations} iterations")
    heights = np.full(shape, low, np.int64)
    if low < high:
        levels = high - low + 1
        moved, up, more = Counts(SLOPES), Counts(SLOPES), Counts(SLOPES * levels)
        for diagonal in range(sum(shape) - 1):
            cells = [(i, diagonal - i) for i in range(shape[0]) if 0 <= diagonal - i < shape[1]]
            around = [expected_height(heights, i, j, low) for i, j in cells]
            bits = moved.read(reader, [slope for _, slope in around])
            for cell, (expected, _) in zip(cells, around, strict=True):
                heights[cell] = expected
            left = [place for place, bit in enumerate(bits) if bit]
            ways = {place: 1 if around[place][0] < high else -1 for place in left}
            either = [place for place in left if low < around[place][0] < high]
            bits = up.read(reader, [around[place][1] for place in either])
            ways.update((place, 1 if bit else -1) for place, bit in zip(either, bits, strict=True))
            # Everybody takes a step, then those that can and do take one more, and so on.
            for step in itertools.count(1):
                for place in left:
                    heights[cells[place]] += ways[place]
                left = [place for place in left if low < heights[cells[place]] < high]
                if not left:
                    break
                bits = more.read(reader, [around[place][1] * levels + step for place in left])
                left = [place for place, bit in zip(left, bits, strict=True) if bit]
    reader.finish()
    return heights


def expected_height(heights, i: int, j: int, low: int) -> tuple[int, int]:
    """What the neighbours of a cell suggest, and its context: how far they differ."""
    if i == j == 0:
        return low, SLOPES - 1
    if i == 0 or j == 0:
        return int(heights[i, j - 1] if i == 0 else heights[i - 1, j]), 0
    above, left, corner = (int(heights[cell]) for cell in ((i - 1, j), (i, j - 1), (i - 1, j - 1)))
    expected = min(max(above + left - corner, min(above, left)), max(above, left))
    return expected, min(max(abs(above - left), abs(corner - left)), SLOPES - 1)

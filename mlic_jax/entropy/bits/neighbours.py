"""A prior of bits that knows nothing before it begins: what bits near one say of it is learned while coding.

As in JBIG (ITU-T T.82), the bits at `NEIGHBOURS` of a place, known by then, are its context, and for each context it is
counted how often a 0 and a 1 followed. Two things differ. Bits of equal column + 3 row form a wave, of which none is a
neighbour of another, so that a wave is coded at once; and counts change behind a wave, not behind a bit.

    counts  of each context (zeros, ones), 1 and 1 at first: twice the observations, and one (Krichevsky, Trofimov 1981)
    P(1)    floor(2^16 ones / (zeros + ones)) / 2^16, at least 1 and at most 2^16 - 1 of 2^16
    behind a wave, each of its bits adds 2 to its count; then contexts of the wave whose sum exceeds `MOST` have both
    counts halved, (count + 1) >> 1, so that what a picture was like elsewhere is forgotten
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mlic_jax.entropy import rangecoder
from mlic_jax.entropy.bits.prior import Wave
from mlic_jax.entropy.tables import TOTAL

# (rows, columns) from a place; the first one is the highest bit of the context's number. Beyond the edges bits are 0.
NEIGHBOURS = (
    (-3, 0),
    *((-2, column) for column in range(-2, 3)),
    *((-1, column) for column in range(-3, 3)),
    *((0, column) for column in range(-4, 0)),
)
# A row is so many waves behind the one above: its neighbours there reach two columns ahead.
_DELAY = 3
MOST = 2048
# Margins in which bits beyond the edges are 0: above, on the left and on the right.
_ABOVE, _LEFT, _RIGHT = 3, 4, 2


class Neighbours:
    """See the top of this file. A prior (mlic_jax.entropy.bits.prior) of volumes [h, w, 1] without parameters, for
    files alone: all bits are present."""

    name = None
    encoder = rangecoder.Encoder
    decoder = rangecoder.Decoder

    def integers(self) -> dict:
        """None are needed."""
        return {}

    def check(self) -> None:
        """Nothing can be wrong."""

    def streams(self, signs: np.ndarray, present: np.ndarray) -> Iterator[Iterator[Wave]]:
        """One stream. Raises ValueError for a volume of other channels, or one of which a bit is missing."""
        if signs.ndim != 3 or signs.shape[2] != 1 or not present.all():
            raise ValueError(f"a volume {signs.shape} is not [h, w, 1] with all bits present")
        yield self._waves(signs[..., 0])

    def _waves(self, signs):
        height, width = signs.shape
        seen = np.zeros((_ABOVE + height, _LEFT + width + _RIGHT), np.uint8)
        pitch, bits = seen.shape[1], seen.reshape(-1)
        counts = np.ones((1 << len(NEIGHBOURS), 2), np.int64)
        for wave in range(width + _DELAY * (height - 1)):
            rows = np.arange(max(0, -((width - 1 - wave) // _DELAY)), min(height - 1, wave // _DELAY) + 1)
            columns = wave - _DELAY * rows
            places = (rows + _ABOVE) * pitch + columns + _LEFT
            context = np.zeros(len(rows), np.int64)
            for row, column in NEIGHBOURS:
                context = 2 * context + bits[places + (row * pitch + column)]
            zeros, ones = counts[context].T
            yield (rows, columns, 0), np.clip(TOTAL * ones // (zeros + ones), 1, TOTAL - 1)
            found = signs[rows, columns] > 0
            bits[places] = found
            np.add.at(counts, (context, found.astype(np.intp)), 2)
            many = context[counts[context].sum(1) > MOST]
            counts[many] = (counts[many] + 1) >> 1

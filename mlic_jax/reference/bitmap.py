"""bitmap: the bits of a picture of black and white, by what followed their neighbours before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlic_jax.errors import CorruptStreamError
from mlic_jax.reference.bits import TOTAL, BitReader

# What is known of a place, row by row, from the left: (rows up, first column, last column).
ROWS = ((3, 0, 0), (2, -2, 2), (1, -3, 2), (0, -4, -1))
MOST = 2048


def read_bits(chunks: Sequence[bytes], model, height: int, width: int, quality: int | None) -> dict[str, np.ndarray]:
    """{"bits": int64 [height, width]}, 1 for white. Raises CorruptStreamError."""
    del model
    if len(chunks) != 1 or quality is not None:
        raise CorruptStreamError(f"bitmap writes one data chunk and no quality, the file has {len(chunks)}")
    reader, bits, counts = BitReader(chunks[0]), np.zeros((height, width), np.int64), {}

    def bit(row, column):
        return int(bits[row, column]) if 0 <= row and 0 <= column < width else 0

    for wave in range(width + 3 * (height - 1)):
        places = [(row, wave - 3 * row) for row in range(height) if 0 <= wave - 3 * row < width]
        contexts = [
            tuple(bit(row - up, column + by) for up, first, last in ROWS for by in range(first, last + 1))
            for row, column in places
        ]
        known = [counts.setdefault(context, [1, 1]) for context in contexts]
        found = reader.read([min(max(TOTAL * ones // (zeros + ones), 1), TOTAL - 1) for zeros, ones in known])
        for place, count, value in zip(places, known, found, strict=True):
            bits[place] = value
            count[value] += 2
        for context in {context for context, count in zip(contexts, known, strict=True) if sum(count) > MOST}:
            counts[context] = [(count + 1) // 2 for count in counts[context]]
    reader.finish()
    return {"bits": bits}

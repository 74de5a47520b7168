"""Heights: how many iterations of a recurrent codec each cell of a picture gets.

Johnston et al., "Improved Lossy Image Compression with Priming and Spatially Adaptive Bit Rates for Recurrent
Networks", CVPR 2018, section 3.3 (SABR): where a picture is easy, iterations end early. A cell is 16 x 16 pixels. The
paper says what is judged (the worst 8 x 8 block) and that neighbours must not differ much, since the decoder's
convolutions mix them; the rules here are: a cell stops at the first iteration whose error is below a threshold, gets no
less than half of what the most expensive cell gets, and at most four iterations less than a neighbour. The paper leaves
the map to a general compressor; here it has an adaptive coder of its own.

Maps of heights are int32 [h, w], in 1..T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy.rangecoder import Decoder, Encoder
from mlic_jax.entropy.tables import TOTAL
from mlic_jax.errors import CorruptStreamError, UsageError

CELL = 16  # pixels on a side
BLOCK = 8
LEAST_SHARE = 0.5
STEEPEST = 4
# Counts of a context are halved when they reach this together.
_MOST_COUNTS = 1 << 16
# Halvings of an interval of thresholds, or of importances, after which nothing is left of it in float64.
_HALVINGS = 64

# ---------------------------------------------------------------------- choosing heights


def cell_errors(image: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """How wrong each cell is after each iteration.

    Args:
      image: uint8 [H, W, 3], sides multiples of 16.
      shown: [T, H, W, 3] in 0..255, uint8 or float: the picture after each iteration.

    Returns:
      float64 [T, h, w]: the largest of the mean absolute errors of a cell's four 8 x 8 blocks, in steps of 8 bits; or
      that of an earlier iteration, if it was smaller.

    Raises ValueError for other sides.
    """
    height, width, channels = image.shape
    if height % CELL or width % CELL or shown.shape[1:] != image.shape:
        raise ValueError(f"a picture {image.shape} with {shown.shape}: equal sides, multiples of {CELL}, are needed")
    errors = np.empty((len(shown), height // CELL, width // CELL))
    for t, one in enumerate(shown):
        error = np.abs(one.astype(np.float64) - image)
        blocks = error.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels).mean((1, 3, 4))
        errors[t] = blocks.reshape(height // CELL, 2, width // CELL, 2).max((1, 3))
    return np.minimum.accumulate(errors)


def allocate(
    errors: np.ndarray, threshold: float, least_share: float = LEAST_SHARE, steepest: int = STEEPEST
) -> np.ndarray:
    """Heights for errors.

    Args:
      errors: [T, h, w], see `cell_errors`.
      threshold: a cell ends with the first iteration whose error is not above this, or with T.
      least_share: of the largest height, which no cell is below.
      steepest: by how much a cell may be below any of its eight neighbours.

    Returns:
      int32 [h, w]; nowhere larger for a larger threshold.
    """
    met = errors <= threshold
    return _smooth(np.where(met.any(0), met.argmax(0) + 1, len(errors)), least_share, steepest)


def _smooth(heights, least_share, steepest):
    """Raises heights until the two rules hold."""
    # A product such as 0.3 * 10 may be a rounding error above the whole number that it stands for.
    heights = np.maximum(heights, np.ceil(least_share * heights.max() - 1e-9)).astype(np.int32)
    while True:
        padded = np.pad(heights, 1, mode="edge")
        rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
        around = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
        raised = np.maximum(heights, around - steepest)
        if (raised == heights).all():
            return heights
        heights = raised


def for_mean(
    errors: np.ndarray, mean_height: float, least_share: float = LEAST_SHARE, steepest: int = STEEPEST
) -> np.ndarray:
    """The heights of the threshold by which they come nearest to a mean, without exceeding it.

    Args:
      errors, least_share, steepest: see `allocate`.
      mean_height: iterations a cell gets on the average.

    Returns:
      int32 [h, w]; the lowest, where all exceed the mean.
    """
    return _highest_within(
        lambda threshold: allocate(errors, threshold, least_share, steepest), float(errors[0].max()), -1.0, mean_height
    )


def _highest_within(heights_at: Callable, low: float, high: float, mean_height: float) -> np.ndarray:
    """The highest map whose mean is at most `mean_height`, or the lowest; between parameters of the two extremes."""
    best, highest = heights_at(low), heights_at(high)
    if highest.mean() <= mean_height:
        return highest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = heights_at(middle)
        if found.mean() > mean_height:
            high = middle
        else:
            best, low = found, middle
    return best


def from_importance(
    importance: np.ndarray,
    iterations: int,
    mean_height: float | None = None,
    least_share: float = LEAST_SHARE,
    steepest: int = STEEPEST,
) -> np.ndarray:
    """Heights from a user's own map.

    Args:
      importance: [H, W] of the picture's size, in 0..1; cells get 1 for 0 and `iterations` for 1.
      iterations: T.
      mean_height: if given, all importances are moved up or down until the mean height is as near to this as it can be
        without exceeding it.
      least_share, steepest: see `allocate`.

    Returns:
      int32 [ceil(H / 16), ceil(W / 16)].

    Raises UsageError for any other map.
    """
    importance = np.asarray(importance)
    if importance.ndim != 2 or not importance.size or not ((importance >= 0) & (importance <= 1)).all():
        raise UsageError(f"an importance map {importance.shape} is not [height, width] of numbers within 0 and 1")
    height, width = (-(-side // CELL) for side in importance.shape)
    more = [(0, cells * CELL - side) for cells, side in zip((height, width), importance.shape, strict=True)]
    share = np.pad(importance, more, mode="edge").reshape(height, CELL, width, CELL).mean((1, 3), np.float64)

    def moved(by):
        heights = 1 + np.floor(np.clip(share + by, 0, 1) * (iterations - 1) + 0.5)
        return _smooth(heights.astype(np.int32), least_share, steepest)

    return moved(0.0) if mean_height is None else _highest_within(moved, -1.0, 1.0, mean_height)


def random_heights(keys: jax.Array, shape: tuple[int, int], iterations: int) -> jax.Array:
    """Maps for training: squares of equal height, of a random side, laid out at a random place.

    Args:
      keys: [B], one for each example.
      shape: (h, w), cells.
      iterations: T.

    Returns:
      int32 [B, h, w], in ceil(T / 2) .. T.
    """
    (height, width), least = shape, -(-iterations // 2)

    def one(key):
        # Remainders of 31 random bits are even enough, and one draw compiles in a sixth of the time of three.
        drawn = (jax.random.bits(key, (3 + (height + 1) * (width + 1),), jnp.uint32) >> 1).astype(jnp.int32)
        side = 1 << drawn[0] % (max(shape).bit_length() + 1)
        top, left = drawn[1:3] % side
        values = least + (drawn[3:] % (iterations - least + 1)).reshape(height + 1, width + 1)
        rows, columns = (jnp.arange(height) + top) // side, (jnp.arange(width) + left) // side
        return values[rows[:, None], columns]

    return jax.vmap(one)(keys)


# ---------------------------------------------------------------------- coding heights

# A map is its least and greatest height, and then, along anti-diagonals, each cell's distance from what its left and
# upper neighbours suggest: whether there is one, its sign, its magnitude in unary. Cells of a diagonal do not depend on
# each other. Chances of bits come from whole counts, which are updated after each such step.
_SLOPES = 4  # contexts: how far the neighbours differ


class _Chances:
    """Adaptive probabilities of bits in contexts."""

    def __init__(self, contexts: int):
        self.counts = np.ones((2, contexts), np.int64)

    def frequencies(self, context: np.ndarray) -> np.ndarray:
        """2^16 times the probability of 1, for contexts [n]."""
        zeros, ones = self.counts[:, context]
        return np.clip(TOTAL * ones // (zeros + ones), 1, TOTAL - 1)

    def update(self, context: np.ndarray, bits: np.ndarray) -> None:
        """After bits [n] have been coded in contexts [n]."""
        # Twice, beside a beginning of one: Krichevsky and Trofimov's estimate.
        np.add.at(self.counts, (bits.astype(np.intp), context), 2)
        many = self.counts.sum(0) >= _MOST_COUNTS
        self.counts[:, many] = np.maximum(self.counts[:, many] >> 1, 1)


def _diagonals(height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for diagonal in range(height + width - 1):
        rows = np.arange(max(0, diagonal - width + 1), min(height - 1, diagonal) + 1)
        yield rows, diagonal - rows


def _transmit(heights: np.ndarray, low: int, high: int, code: Callable) -> None:
    """The coding order, the same for the encoder and the decoder.

    Args:
      heights: int32 [h, w], which the encoder reads and the decoder fills.
      low, high: the least and the greatest.
      code: (bits [n] or None, frequencies [n]) -> bits [n]; a decoder is given bits that mean nothing.
    """
    levels = high - low + 1
    chances = {"moved": _Chances(_SLOPES), "up": _Chances(_SLOPES), "more": _Chances(_SLOPES * levels)}

    def coded(kind, bits, context):
        bits = code(bits, chances[kind].frequencies(context))
        chances[kind].update(context, bits)
        return bits.astype(bool)

    for rows, columns in _diagonals(*heights.shape):
        expected, slope = _expected(heights, rows, columns, low)
        distance = heights[rows, columns] - expected
        moved = np.flatnonzero(coded("moved", distance != 0, slope))
        found = expected.copy()
        # Only one way is open from the least and the greatest height.
        up, expected, distance, slope = (a[moved] for a in (expected < high, expected, distance, slope))
        either = np.flatnonzero(up & (expected > low))
        up[either] = coded("up", distance[either] > 0, slope[either])
        most = np.where(up, high - expected, expected - low)
        magnitude, distance = np.ones_like(most), np.abs(distance)
        open_ = np.flatnonzero(most > 1)
        while open_.size:
            context = slope[open_] * levels + magnitude[open_]
            open_ = open_[coded("more", distance[open_] > magnitude[open_], context)]
            magnitude[open_] += 1
            open_ = open_[magnitude[open_] < most[open_]]
        found[moved] = np.where(up, expected + magnitude, expected - magnitude)
        heights[rows, columns] = found


def _expected(heights, rows, columns, low):
    """Of cells [n] of a diagonal: the height that their neighbours suggest, and how far these differ, below _SLOPES."""
    if rows[0] == columns[0] == 0:
        return np.array([low], np.int32), np.array([_SLOPES - 1])
    above, before = np.maximum(rows - 1, 0), np.maximum(columns - 1, 0)
    up, left, corner = heights[above, columns], heights[rows, before], heights[above, before]
    # Beyond the edge stands what is next to it.
    up, left = np.where(rows == 0, left, up), np.where(columns == 0, up, left)
    corner = np.where(rows == 0, left, np.where(columns == 0, up, corner))
    lower, upper = np.minimum(up, left), np.maximum(up, left)
    # The plane through the three, within the two: the median edge detector of LOCO-I.
    expected = np.clip(up + left - corner, lower, upper)
    slope = np.maximum(upper - lower, np.abs(corner - left))
    return expected, np.minimum(slope, _SLOPES - 1)


def _even(count: int) -> np.ndarray:
    return np.full(count, TOTAL // 2)


def encode(heights: np.ndarray, iterations: int) -> bytes:
    """A map int [h, w] in 1..iterations as a stream. Raises ValueError for other heights."""
    low, high = int(heights.min()), int(heights.max())
    if not 1 <= low <= high <= iterations:
        raise ValueError(f"heights {low} to {high} are not within 1 to {iterations}")
    encoder, places = Encoder(), np.arange((iterations - 1).bit_length())
    for end in (low, high):
        encoder.write_bits((end - 1) >> places & 1, _even(len(places)))

    def write(bits, frequencies):
        encoder.write_bits(bits, frequencies)
        return bits

    if low < high:
        _transmit(np.array(heights, np.int32), low, high, write)
    return encoder.finish()


def decode(data: bytes, shape: tuple[int, int], iterations: int) -> np.ndarray:
    """The map int32 [h, w] that `encode` wrote; shape is (h, w). Raises CorruptStreamError."""
    decoder, places = Decoder(data), np.arange((iterations - 1).bit_length())
    low, high = (int((decoder.read_bits(_even(len(places))) << places).sum()) + 1 for _ in range(2))
    if not low <= high <= iterations:
        raise CorruptStreamError(f"heights {low} to {high} are not within 1 to {iterations}: the stream is damaged")
    heights = np.full(shape, low, np.int32)
    if low < high:
        _transmit(heights, low, high, lambda bits, frequencies: decoder.read_bits(frequencies))
    decoder.finish()
    return heights


class HeightMap(NamedTuple):
    """How coders (mlic_jax.entropy.bits.coders) write and read the map of a file.

    Attributes:
      iterations: what heights are at most.
      transmitted: how many iterations the file has; a map has a height as large, or it does not belong to the file.
    """

    iterations: int
    transmitted: int

    def encode(self, heights: np.ndarray) -> bytes:
        """A map int [h, w] as a stream. Raises ValueError for other heights."""
        return encode(heights, self.iterations)

    def decode(self, data: bytes, shape: tuple[int, int]) -> np.ndarray:
        """The map int32 [h, w] of a stream. Raises CorruptStreamError."""
        heights = decode(data, shape, self.iterations)
        if heights.max() < self.transmitted:
            raise CorruptStreamError(
                f"a stream has {self.transmitted} iterations, and no height is above {heights.max()}"
            )
        return heights

"""Whole numbers that are nearly all zero, as bytes without a model: run lengths and Elias's gamma codes.

For what has no learned prior, as quantised weights or coefficients. What a number costs grows with its logarithm, which
`power_law_penalty` is in training. As TensorFlow Compression's `RunLengthGammaEncode` and `PowerLawEntropyModel`.

The bits, each byte's highest first: for every number that is not zero, the length of the run of zeros before it, a bit
that is 1 where it is negative, and its magnitude; at the end the run that is left. A run of n is the gamma code of
n + 1. The gamma code of n is as many zeros as n has bits behind its first, and then its bits.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.errors import CorruptStreamError

# Of magnitudes and of runs: gamma codes have an odd number of bits, 63 at most.
LARGEST = (1 << 31) - 1


def power_law_penalty(x: jax.Array, alpha: float = 0.01) -> jax.Array:
    """log((|x| + alpha) / alpha), same shape: 0 for zeros, and a gradient that pulls small values there."""
    return jnp.log((jnp.abs(x) + alpha) / alpha)


def run_length_encode(values: np.ndarray) -> bytes:
    """Codes integers of any shape, in the order of raveling. Raises ValueError beyond LARGEST."""
    values = np.asarray(values, np.int64).ravel()
    if values.size and max(np.abs(values).max(), values.size) > LARGEST:
        raise ValueError(f"magnitudes and numbers of values beyond {LARGEST} cannot be coded")
    places = np.flatnonzero(values)
    runs = np.diff(np.concatenate([[-1], places, [values.size]]))  # one more than each run is long
    # A sign has one bit; 1 is the gamma code of 1 and a negative sign.
    codes, lengths = (np.empty(3 * len(places) + 1, np.int64) for _ in range(2))
    codes[0::3], codes[1::3], codes[2::3] = runs, values[places] < 0, np.abs(values[places])
    lengths[:] = 2 * np.frexp(codes)[1] - 1
    lengths[1::3] = 1
    ends = np.cumsum(lengths)
    depth = np.repeat(ends, lengths) - np.arange(ends[-1]) - 1  # of each bit in its code, the last is 0
    bits = np.repeat(codes, lengths) >> np.minimum(depth, 62) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def run_length_decode(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The int32 array of that shape. Raises CorruptStreamError for bytes that cannot be that."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    ones, values, place, at = np.flatnonzero(bits), np.zeros(math.prod(shape), np.int32), 0, 0

    def gamma(at):
        first = np.searchsorted(ones, at)
        zeros = int(ones[first]) - at if first < len(ones) else 32
        end = at + 2 * zeros + 1
        if zeros > 30 or end > len(bits):
            raise CorruptStreamError("run lengths: the data are cut off or damaged")
        return int("".join(map(str, bits[at + zeros : end])), 2), end

    while True:
        run, at = gamma(at)
        place += run - 1
        if place >= values.size:
            break
        if at >= len(bits):
            raise CorruptStreamError("run lengths: the data are cut off or damaged")
        sign, (magnitude, at) = bits[at], gamma(at + 1)
        values[place] = -magnitude if sign else magnitude
        place += 1
    if place != values.size or len(bits) - at > 7 or bits[at:].any():
        raise CorruptStreamError(f"run lengths: the data are not those of {values.size} values")
    return values.reshape(shape)

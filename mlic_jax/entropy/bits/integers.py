"""Whole numbers for networks that decide the probabilities of single bits.

`exact` has networks of convolutions that JAX evaluates over whole latents. Contexts of bits are evaluated a few places
at a time, as the bits come in, by NumPy alone; their sums are whole numbers carried in float64, which holds them up to
2^53, so that they are the same in whatever order a library forms them. Everything that would need a logarithm or an
exponential is a table, made when a model is exported and stored with it.
"""

from __future__ import annotations

import numpy as np

from mlic_jax.entropy.tables import TOTAL

LARGEST_WEIGHT = 127
# Logits of bits are whole numbers of steps of 1 / LOGIT_ONE, at most LARGEST_LOGIT of them.
LOGIT_ONE = 32
LARGEST_LOGIT = 255
# Sums stay below 2^31, multipliers below 2^15: products and their halves are exact in float64.
LARGEST_SUM = 1 << 31
_MULTIPLIER_BITS = 15
SHIFTS = (0, 62)
# Multiplications of a matrix product up to which OpenBLAS, which NumPy brings, starts no threads.
_ONE_THREAD = 4 * 65536


def frequencies() -> np.ndarray:
    """int32 [2 LARGEST_LOGIT + 1]: 2^16 times the probability of a 1 at logits -LARGEST_LOGIT .. LARGEST_LOGIT."""
    logits = np.arange(-LARGEST_LOGIT, LARGEST_LOGIT + 1) / LOGIT_ONE
    return np.clip(np.rint(TOTAL / (1 + np.exp(-logits))), 1, TOTAL - 1).astype(np.int32)


def quantise(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A kernel in 8 bits.

    Args:
      kernel: float [.., Cout].

    Returns:
      int8 of its shape, at most LARGEST_WEIGHT, and float64 [Cout], the value of one step.
    """
    kernel = np.asarray(kernel, np.float64)
    step = np.maximum(np.abs(kernel).max(tuple(range(kernel.ndim - 1))), 2.0**-20) / LARGEST_WEIGHT
    return np.rint(kernel / step).astype(np.int8), step


def multiplier_of(factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positive factors as multiplier 2^-shift, to 15 bits.

    Args:
      factor: float64, any shape, 2^-45 to 2^14.

    Returns:
      int32 multiplier, in 2^14 .. 2^15 - 1, and int8 shift, both of its shape.

    Raises ValueError for factors out of range.
    """
    fraction, exponent = np.frexp(np.asarray(factor, np.float64))
    multiplier = np.rint(np.ldexp(fraction, _MULTIPLIER_BITS))
    over = multiplier >= 1 << _MULTIPLIER_BITS
    multiplier = np.where(over, multiplier / 2, multiplier)
    shift = _MULTIPLIER_BITS - exponent - over
    if not ((fraction > 0) & (shift >= SHIFTS[0]) & (shift <= SHIFTS[1])).all():
        raise ValueError("a factor is not positive, or too large or small for a multiplier of 15 bits")
    return multiplier.astype(np.int32), shift.astype(np.int8)


def rescale(sums: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """floor(sums multiplier 2^-shift + 1/2), exactly.

    Args:
      sums: float64 whole numbers below LARGEST_SUM, [.., C].
      multiplier, shift: [C], see `multiplier_of`.

    Returns:
      float64 whole numbers.
    """
    # The product has at most 46 bits; a power of two changes the exponent alone; 1/2 is lost only where it is nothing.
    return np.floor(np.ldexp(sums * multiplier, -shift.astype(np.int32)) + 0.5)


def product(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """x @ kernel for float64 [n, I] and [I, O], in pieces for which no threads are started.

    The products of contexts are many and small. Threads that wait for each other at each of them make it thirty times
    as slow as one thread where the other cores have work of their own.
    """
    rows = max(1, _ONE_THREAD // kernel.size)
    if len(x) <= rows:
        return x @ kernel
    found = np.empty((len(x), kernel.shape[1]))
    for start in range(0, len(x), rows):
        np.matmul(x[start : start + rows], kernel, out=found[start : start + rows])
    return found

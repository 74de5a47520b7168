"""Symbols that have a distribution each, of integers: the range coder's bits, one decision after the other.

A table has one row for many symbols, and costs least where its rows suffice (mlic_jax.entropy.rangecoder). A prior
whose `family` is None has no table, but `distributions(row)`, of a row of its latent, with

    centre                     int64 [n], a likely symbol of each
    ends()                     the masses below all symbols and below none, int64 [n] both
    below(symbols, places)     the mass below symbols int64 [m] of the distributions at `places`, int64 [m]

all as integers that each machine computes alike, at most 2^46, and `integers()`, an array of all that decides them. A
symbol is found by decisions "at least s, or below", from the centre outwards by powers of two, then by halves; each has
the probability that the masses say, in 16 bits. What is beyond REACH has its distance coded behind. All symbols of a
row decide together, so that few calls do it.
`_decide` states the order; encoder and decoder follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlic_jax.entropy.rangecoder import LARGEST_SYMBOL, Decoder, Encoder
from mlic_jax.entropy.tables import PRECISION, TOTAL
from mlic_jax.errors import CorruptStreamError

_OUTWARD = 12
REACH = 1 << _OUTWARD


def write(encoder: Encoder, symbols: np.ndarray, prior: Any) -> None:
    """Codes the symbols of one picture's latent, integers [1, h, w, C], each at most LARGEST_SYMBOL."""
    for row, values in enumerate(np.asarray(symbols, np.int64)[0]):
        values = values.ravel()

        def decide(splits, places, frequencies, values=values):
            bits = values[places] >= splits
            encoder.write_bits(bits, frequencies)
            return bits

        distributions = prior.distributions(row)
        _, beyond = _decide(distributions, decide)
        if beyond.any():
            encoder.write_distances(np.abs(values - distributions.centre)[beyond] - REACH)


def read(decoder: Decoder, shape: tuple[int, ...], prior: Any) -> np.ndarray:
    """The symbols that `write` coded, int32 of shape [1, h, w, C]. Raises CorruptStreamError: they cannot be that."""
    symbols = np.empty(shape, np.int32)

    def decide(splits, places, frequencies):
        return decoder.read_bits(frequencies) > 0

    for row in range(shape[1]):
        distributions = prior.distributions(row)
        values, beyond = _decide(distributions, decide)
        if beyond.any():
            distances = decoder.read_distances(int(beyond.sum())).astype(np.int64)
            values[beyond] += np.where(values[beyond] < distributions.centre[beyond], -distances, distances)
        if values.size and np.abs(values).max() > LARGEST_SYMBOL:
            raise CorruptStreamError(f"the entropy-coded stream is damaged: a symbol is beyond {LARGEST_SYMBOL}")
        symbols[0, row] = values.reshape(shape[2:])
    return symbols


def _decide(distributions: Any, decide: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Goes through the decisions of n symbols.

    Args:
      decide: (splits, places, frequencies) -> whether the symbol at each place is at least its split; frequencies are
        2^16 times the probability of that.

    Returns:
      int64 [n], the symbols; and bool [n], which of them are only known to be as far from the centre, or farther: they
      are REACH away from it.
    """
    centre = distributions.centre
    # A symbol is at least `low` and below `high`, as far as these are known; the masses below both.
    low, high = centre - REACH, centre + REACH
    mass_low, mass_high = distributions.ends()
    everywhere = np.arange(len(centre))

    def split(at, places):
        mass = distributions.below(at, places)
        width = np.maximum(mass_high[places] - mass_low[places], 1)
        frequencies = np.clip(((mass_high[places] - mass) << PRECISION) // width, 1, TOTAL - 1)
        above = decide(at, places, frequencies)
        low[places], mass_low[places] = np.where(above, (at, mass), (low[places], mass_low[places]))
        high[places], mass_high[places] = np.where(above, (high[places], mass_high[places]), (at, mass))
        return above

    upwards = split(centre, everywhere)
    outward = everywhere
    for distance in (1 << step for step in range(_OUTWARD + 1)):
        if not outward.size:
            break
        rising = upwards[outward]
        above = split(centre[outward] + np.where(rising, distance, -distance), outward)
        outward = outward[above == rising]
    beyond = np.zeros(len(centre), bool)
    beyond[outward] = True
    while (halved := everywhere[(high - low > 1) & ~beyond]).size:
        split((low[halved] + high[halved]) // 2, halved)
    return np.where(beyond & ~upwards, high, low), beyond

"""Symbols of which each has a distribution of its own, a mixture of Gaussians: in Python's integers.

docs/format.md, "Symbols with distributions of their own", has the rules.
"""

from __future__ import annotations

import decimal
import functools

import numpy as np

from mlic_jax.errors import CorruptStreamError
from mlic_jax.reference.rangecoder import Mirrored, cumulative

REACH = 1 << 12
LEAST_SCALE = 29  # in steps of 1/256, as parameters are


@functools.cache
def _normal() -> list[int]:
    """2^24 P(0 < X < i / 256) of the standard normal distribution for i = 0..2048, to nearest."""
    with decimal.localcontext(decimal.Context(prec=60)):
        root = (2 * decimal.Decimal("3.14159265358979323846264338327950288419716939937510582097494")).sqrt()
        found = []
        for i in range(2049):
            t = decimal.Decimal(i) / 256
            term = total = t
            n = 0
            while abs(term) > decimal.Decimal("1e-14"):
                n += 1
                term *= -t * t * (2 * n - 1) / (2 * n * (2 * n + 1))
                total += term
            found.append(int((total * (1 << 24) / root).to_integral_value()))
        return found


@functools.cache
def _weight(below: int) -> int:
    """2^16 exp(-below / 256), to nearest, and 0 from 11 * 256 + 1 on."""
    if below > 11 * 256:
        return 0
    with decimal.localcontext(decimal.Context(prec=40)):
        return int(((1 << 16) * (decimal.Decimal(-below) / 256).exp()).to_integral_value())


class _Symbol:
    """What is known of one symbol: it is at least `low` and below `high`."""

    def __init__(self, logits, scales, means):
        self._parts = [
            (_weight(max(logits) - logit), max(scale, LEAST_SCALE), mean)
            for logit, scale, mean in zip(logits, scales, means, strict=True)
        ]
        self._weight = sum(weight for weight, _, _ in self._parts)
        mean = sum(weight * mean for weight, _, mean in self._parts)
        self.centre = (2 * mean + 256 * self._weight) // (512 * self._weight)
        self.low, self.high = self.centre - REACH, self.centre + REACH
        self._mass_low = -(REACH + 1) * self._weight
        self._mass_high = (self._weight << 24) - self._mass_low

    def _below(self, at):
        """The mass below a symbol."""
        total = (at - self.centre) * self._weight
        for weight, scale, mean in self._parts:
            place = ((256 * at - 128 - mean) << 16) // scale
            place = min(max(place, 1 - (1 << 19)), (1 << 19) - 1)
            step, fraction = abs(place) >> 8, abs(place) & 255
            here, further = _normal()[step : step + 2]
            beside = here + ((further - here) * fraction >> 8)
            total += weight * ((1 << 23) + (beside if place >= 0 else -beside))
        return total

    def split(self, coder, at):
        """Reads whether it is at least `at`."""
        mass = self._below(at)
        frequency = ((self._mass_high - mass) << 16) // max(self._mass_high - self._mass_low, 1)
        frequency = min(max(frequency, 1), (1 << 16) - 1)
        above = coder.read(cumulative([(1 << 16) - frequency, frequency])) == 1
        if above:
            self.low, self._mass_low = at, mass
        else:
            self.high, self._mass_high = at, mass
        return above


def read_row(coder: Mirrored, parameters: np.ndarray, read_distances, limit: int) -> np.ndarray:
    """The symbols of one row of a latent, int64 [n].

    Args:
      coder: what they are read from.
      parameters: int64 [3, K, n]: logits, scales and means in steps of 1/256.
      read_distances: (coder, count) -> the distances that are coded as those of escapes.
      limit: the largest symbol that is possible.

    Raises CorruptStreamError.
    """
    symbols = [_Symbol(*parameters[:, :, i].tolist()) for i in range(parameters.shape[2])]
    upwards = {symbol: symbol.split(coder, symbol.centre) for symbol in symbols}
    outward = symbols
    for step in range(13):
        distance = 1 << step
        outward = [
            symbol
            for symbol in outward
            if symbol.split(coder, symbol.centre + (distance if upwards[symbol] else -distance)) == upwards[symbol]
        ]
    beyond = set(outward)
    while halved := [symbol for symbol in symbols if symbol.high - symbol.low > 1 and symbol not in beyond]:
        for symbol in halved:
            symbol.split(coder, (symbol.low + symbol.high) // 2)
    distances = iter(read_distances(coder, len(outward)))
    values = []
    for symbol in symbols:
        value = symbol.low
        if symbol in beyond:
            value = symbol.low + next(distances) if upwards[symbol] else symbol.high - next(distances)
        values.append(value)
    if values and max(map(abs, values)) > limit:
        raise CorruptStreamError(f"a symbol is beyond {limit}")
    return np.array(values, np.int64)

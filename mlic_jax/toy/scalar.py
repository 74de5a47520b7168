"""Entropy-constrained scalar quantisation: the best that can be done with one number and no memory.

Chou, Lookabaugh, Gray, "Entropy-constrained vector quantization", 1989, in one dimension, where all integrals are known
exactly and cells are intervals: no samples and no grid are involved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlic_jax.errors import UsageError
from mlic_jax.toy.points import Point, point
from mlic_jax.toy.sources import Source, source

# Cells less likely than this are given up: what they would save is below the precision that is asked for.
LEAST_MASS = 1e-15
# Steps of the uniform codebooks that the search starts from, over the root of 1 / lam.
STARTS = (0.7, 1.5, 3.0, 4.5)
MOST_ITERATIONS = 20_000


class ScalarCode(NamedTuple):
    """A scalar quantiser with ideal entropy coding.

    Attributes:
      codewords: float64 [m], ascending.
      thresholds: float64 [m - 1], between neighbours.
      probabilities: float64 [m], of the cells.
      rate, distortion, loss: see `points.Point`.
      lam: the trade-off it was made for.
    """

    codewords: np.ndarray
    thresholds: np.ndarray
    probabilities: np.ndarray
    rate: float
    distortion: float
    loss: float
    lam: float

    @property
    def point(self) -> Point:
        return Point(self.rate, self.distortion, self.loss)


def _thresholds(codewords, bits, lam):
    """Which codewords are the cheapest somewhere, and where they take turns.

    The cost lam (x - c)^2 + bits, less lam x^2, is a line in x: what is sought is the lower envelope of lines.

    Returns indexes [k] and thresholds [k - 1].
    """
    kept, crossings = [0], []
    for i in range(1, len(codewords)):
        while True:
            j = kept[-1]
            gap = codewords[i] - codewords[j]
            crossing = (codewords[i] + codewords[j]) / 2 + (bits[i] - bits[j]) / (2 * lam * gap)
            if not crossings or crossing > crossings[-1]:
                break
            kept.pop()
            crossings.pop()
        kept.append(i)
        crossings.append(crossing)
    return np.array(kept), np.array(crossings)


def _lloyd(moments, codewords, lam, tolerance):
    probabilities, before = np.full(len(codewords), 1 / len(codewords)), np.inf
    for _ in range(MOST_ITERATIONS):
        _, crossings = _thresholds(codewords, -np.log2(probabilities), lam)
        edges = np.concatenate([[-np.inf], crossings, [np.inf]])
        mass, first, second = np.diff(moments(edges))
        held = mass > LEAST_MASS
        mass, first, second = mass[held], first[held], second[held]
        codewords, probabilities = first / mass, mass / mass.sum()
        rate = -(probabilities * np.log2(probabilities)).sum()
        distortion = (second - first**2 / mass).sum()
        loss = rate + lam * distortion
        if before - loss < tolerance:
            break
        before = loss
    kept, crossings = _thresholds(codewords, -np.log2(probabilities), lam)
    return ScalarCode(codewords[kept], crossings, probabilities[kept], float(rate), float(distortion), float(loss), lam)


def ecsq(name: str | Source = "laplace", lam: float = 1.0, reach: float = 25.0, tolerance: float = 1e-13) -> ScalarCode:
    """The best scalar quantiser that Lloyd's iteration finds from several uniform codebooks.

    Args:
      name: a source of one dimension whose moments are known (`sources.laplace`).
      lam: what a unit of squared error costs, in bits.
      reach: the first codebooks go from -reach to reach.
      tolerance: the iteration stops where an improvement of the loss is smaller.

    Raises UsageError for another source, or lam not above 0.
    """
    given = source(name)
    if given.moments is None:
        raise UsageError(f"scalar quantisation needs a source of one dimension, as laplace; {given.name} is none")
    if not lam > 0:
        raise UsageError(f"lam is {lam}: it must be above 0")
    found = []
    for step in STARTS:
        half = max(1, int(reach * np.sqrt(lam) / step))
        # With a codeword in the middle, and with a threshold there: two families of local optima.
        for grid in (np.arange(-half, half + 1.0), np.arange(-half, half) + 0.5):
            found.append(_lloyd(given.moments, grid * step / np.sqrt(lam), lam, tolerance))
    return min(found, key=lambda code: code.loss)


def apply(code: ScalarCode, x: np.ndarray) -> tuple[np.ndarray, Point]:
    """Codes samples.

    Args:
      x: [n].

    Returns:
      Reconstructions [n], and what they cost under the code's probabilities.
    """
    index = np.searchsorted(code.thresholds, x)
    decoded = code.codewords[index]
    rate = -np.log2(code.probabilities[index]).mean()
    return decoded, point(rate, ((x - decoded) ** 2).mean(), code.lam)

"""What a code costs: the three numbers that everything here is compared by."""

from __future__ import annotations

from typing import NamedTuple


class Point(NamedTuple):
    """Of a code at a trade-off.

    Attributes:
      rate: bits per sample (of the source: a vector).
      distortion: as the source measures it.
      loss: rate + lam * distortion.
    """

    rate: float
    distortion: float
    loss: float


def point(rate: float, distortion: float, lam: float) -> Point:
    return Point(float(rate), float(distortion), float(rate + lam * distortion))

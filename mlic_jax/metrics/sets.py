"""Metrics of a whole set of pictures, which are no mean of its pictures' values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class OfSet(NamedTuple):
    """How a metric of a whole set of pictures is put together: what it needs of each, and the one number at the end.

    Attributes:
      part: (original, decoded), both uint8 [H, W, 3] -> what is kept of the pair: floats or text, for JSON.
      value: of the parts of a set, one or more -> its value.
    """

    part: Callable[[np.ndarray, np.ndarray], list]
    value: Callable[[Sequence[list]], float]

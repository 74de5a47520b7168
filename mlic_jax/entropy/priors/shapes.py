"""Distributions around zero with a scale of one, by their tails: in JAX for training, in float64 for tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np


class Shape(NamedTuple):
    """A symmetric distribution.

    Attributes:
      tail: x -> P(X > x), in JAX.
      tail64: the same in NumPy and float64.
    """

    tail: Callable
    tail64: Callable


def _normal(x):
    return 0.5 * jax.scipy.special.erfc(x * (2**-0.5))


def _normal64(x):
    from scipy import special  # for exports alone: importing it is a tenth of the start of `mlic decompress`

    return special.ndtr(-x)


def _logistic64(x):
    from scipy import special

    return special.expit(-x)


def _laplace(x, xp=jnp):
    half = 0.5 * xp.exp(-xp.abs(x))
    return xp.where(x > 0, half, 1 - half)


NORMAL = Shape(_normal, _normal64)
LOGISTIC = Shape(lambda x: jax.nn.sigmoid(-x), _logistic64)
LAPLACE = Shape(_laplace, lambda x: _laplace(x, np))
SHAPES = {"normal": NORMAL, "logistic": LOGISTIC, "laplace": LAPLACE}

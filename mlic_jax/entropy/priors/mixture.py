"""Mixtures of Gaussians whose parameters are each symbol's own, coded by integer distributions of its own.

Cheng, Sun, Takeuchi, Katto, "Learned image compression with discretized Gaussian mixture likelihoods and attention
modules", CVPR 2020, equation 9: P(x) = sum over k of w_k N(mean_k, scale_k^2) on (x - 1/2, x + 1/2), latents rounded to
integers. No table has rows for all such distributions, so each symbol's is computed when it is coded, of integers by
integers: parameters in steps of 1/256, the normal distribution and the exponential as tables. These are computed by
decimal arithmetic, whose results are defined to the last digit, and stand in no file.

The distribution of a symbol is S(s) = sum of w_k F((256 s - 128 - mean_k) / scale_k), out of 2^24 for each unit of
weight, and one unit of 2^-24 more for each symbol within REACH of the centre, and for all beyond on either side:
nothing is impossible.
"""

from __future__ import annotations

import decimal
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy.cumulative import REACH
from mlic_jax.entropy.exact_layers import LARGEST_OUTPUT
from mlic_jax.entropy.priors.gaussian import LIKELIHOOD_FLOOR, ONE, SCALE_MIN, mass_between
from mlic_jax.layers.bounds import lower_bound

# Of the normal distribution: steps to a unit of scale, where it ends, and fractions between steps, as powers of two.
_STEPS, _END, _FRACTION = 8, 8, 8
_UNIT = 24
_WEIGHT = 16
# A component whose logit is smaller than the largest by more than this has no weight.
_LARGEST_LOGIT = 11
_LEAST_SCALE = int(np.ceil(SCALE_MIN * ONE))


@functools.cache
def normal() -> np.ndarray:
    """int64 [2049]: 2^24 P(0 < X < i / 256) of the standard normal distribution, to nearest."""
    with decimal.localcontext(decimal.Context(prec=60)):
        root = (2 * decimal.Decimal("3.14159265358979323846264338327950288419716939937510582097494")).sqrt()
        found = []
        for i in range((_END << _STEPS) + 1):
            t = decimal.Decimal(i) / (1 << _STEPS)
            power, total, n = t, t, 0  # of the series of (-1)^n t^(2n + 1) / (2^n n! (2n + 1))
            while abs(power) > decimal.Decimal("1e-12"):
                n += 1
                power *= -t * t / (2 * n)
                total += power / (2 * n + 1)
            found.append(int((total / root * (1 << _UNIT)).to_integral_value()))
        return np.array(found, np.int64)


@functools.cache
def exponential() -> np.ndarray:
    """int64 [2818]: 2^16 exp(-i / 256), to nearest, and 0 at the end."""
    with decimal.localcontext(decimal.Context(prec=40)):
        values = [(1 << _WEIGHT) * (decimal.Decimal(-i) / ONE).exp() for i in range(_LARGEST_LOGIT * ONE + 1)]
        return np.array([*(int(value.to_integral_value()) for value in values), 0], np.int64)


class Mixture(NamedTuple):
    """A prior for one latent [B, h, w, C], of K Gaussians for every entry.

    Attributes:
      logits: [B, h, w, K, C]; weights are their softmax over K.
      scales: same shape, unbounded; values below SCALE_MIN count as SCALE_MIN.
      means: same shape.
    """

    logits: jax.Array
    scales: jax.Array
    means: jax.Array

    family = None
    limit = None
    center = 0.0

    def mass(self, low: jax.Array, high: jax.Array) -> jax.Array:
        """P(low < X < high), for finite bounds [B, h, w, C], same shape."""
        parts = mass_between(low[..., None, :], high[..., None, :], self.scales, self.means)
        return (jax.nn.softmax(self.logits, axis=-2) * parts).sum(-2)

    def bits(self, x: jax.Array) -> jax.Array:
        """-log2 of the likelihood of x [B, h, w, C], same shape."""
        return -jnp.log2(lower_bound(self.mass(x - 0.5, x + 0.5), LIKELIHOOD_FLOOR))

    def export_state(self) -> dict:
        """Nothing: all that is fixed is computed."""
        return {}

    def integers(self) -> np.ndarray:
        """What decides the distributions: int64 [3, B, h, w, K, C], in steps of 1/256."""
        return np.stack([_fixed(array) for array in self])

    def distributions(self, row: int) -> Distributions:
        """Those of one row of the latent of one picture, in the order (w, C)."""
        whole = [_fixed(array[0, row]) for array in self]
        logits, scales, means = (np.moveaxis(array, 1, 0).reshape(array.shape[1], -1) for array in whole)
        table = exponential()
        weights = table[np.minimum(logits.max(0) - logits, len(table) - 1)]
        return Distributions(weights, np.maximum(scales, _LEAST_SCALE), means)


def _fixed(array):
    """In steps of 1/256, int64."""
    bound = LARGEST_OUTPUT / ONE
    return np.rint(np.clip(np.asarray(array, np.float32), -bound, bound) * np.float32(ONE)).astype(np.int64)


class Distributions:
    """Integer distributions of n symbols (mlic_jax.entropy.cumulative).

    Args:
      weights, scales, means: int64 [K, n], the latter two in steps of 1/256; scales are positive.
    """

    def __init__(self, weights: np.ndarray, scales: np.ndarray, means: np.ndarray):
        self.weights, self.scales, self.means = weights, scales, means
        self.weight = weights.sum(0)
        mean = (weights * means).sum(0)
        self.centre = (2 * mean + self.weight * ONE) // (2 * self.weight * ONE)

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The masses below all symbols, and below none: int64 [n] both."""
        least = -(REACH + 1) * self.weight
        return least, (self.weight << _UNIT) - least

    def below(self, symbols: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The mass below symbols int64 [m], within REACH of the centre, of the distributions at `places`: int64 [m]."""
        distance = ONE * symbols - ONE // 2 - self.means[:, places]
        shift = _STEPS + _FRACTION
        at = np.clip((distance << shift) // self.scales[:, places], -(_END << shift) + 1, (_END << shift) - 1)
        step, fraction = np.abs(at) >> _FRACTION, np.abs(at) & ((1 << _FRACTION) - 1)
        table = normal()
        beside = table[step] + (((table[step + 1] - table[step]) * fraction) >> _FRACTION)
        parts = (1 << _UNIT - 1) + np.sign(at) * beside
        return (self.weights[:, places] * parts).sum(0) + (symbols - self.centre[places]) * self.weight[places]

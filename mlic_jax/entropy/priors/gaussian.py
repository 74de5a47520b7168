"""The conditional Gaussian prior and its table of scales.

Ballé et al. 2018 (zero mean) and Minnen, Ballé, Toderici, "Joint autoregressive and hierarchical priors", NeurIPS 2018
(mean and scale). Constants as in CompressAI and TFC v1: 64 scales log-spaced from 0.11 to 256.

Deviation: coding uses the scale of the table that is nearest to the network's by ratio, where CompressAI takes the next
larger one. What the table costs against exact scales falls to a third: from 0.5 % to 0.15 % at a scale of 0.3.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import tables
from mlic_jax.entropy.priors.shapes import LAPLACE, LOGISTIC, NORMAL, Shape
from mlic_jax.layers.bounds import lower_bound, upper_bound

SCALE_MIN, SCALE_MAX, SCALES = 0.11, 256.0, 64
LIKELIHOOD_FLOOR = 1e-9
TAIL_MASS = 2.0**-16
SCALE_TABLE = np.exp(np.linspace(np.log(SCALE_MIN), np.log(SCALE_MAX), SCALES)).astype(np.float32)
# Coding sees scales and means in fixed point, as multiples of 1/256 (entropy.exact): which row of the table a scale
# selects, and what is added to a symbol, is then a matter of integers.
ONE = 256
# Where one row of the table begins: the geometric means of neighbours, in units of 1/256, rounded up.
_THRESHOLDS = np.ceil(ONE * np.sqrt(SCALE_TABLE[1:].astype(np.float64) * SCALE_TABLE[:-1])).astype(np.int32)

ONE_GAUSSIAN = ((1.0, 1.0),)


def likelihood(
    x: jax.Array, scale: jax.Array, mean: jax.Array | float = 0.0, mixture=ONE_GAUSSIAN, shape: Shape = NORMAL
) -> jax.Array:
    """P(x - 1/2 < X < x + 1/2) for X ~ N(mean, scale^2), all of one shape, at least LIKELIHOOD_FLOOR.

    scale is bounded below by SCALE_MIN, with the gradient of `lower_bound` (the networks emit it unconstrained).
    mixture: ((share, factor), ..) for a sum of Gaussians of scales factor * scale.
    shape: another distribution in place of the normal one.
    """
    return lower_bound(_around(x, 0.5, scale, mean, mixture, shape), LIKELIHOOD_FLOOR)


def mass_between(
    low: jax.Array, high: jax.Array, scale: jax.Array, mean=0.0, mixture=ONE_GAUSSIAN, shape: Shape = NORMAL
) -> jax.Array:
    """P(low < X < high) for finite low <= high; otherwise as `likelihood`, without the floor."""
    return _around((low + high) / 2, (high - low) / 2, scale, mean, mixture, shape)


def _around(x, half, scale, mean, mixture, shape):
    """P(x - half < X < x + half)."""
    scale = lower_bound(scale, SCALE_MIN)
    distance = jnp.abs(x - mean)  # both tails with the digits of the left one
    return sum(
        share * (shape.tail((distance - half) / (factor * scale)) - shape.tail((distance + half) / (factor * scale)))
        for share, factor in mixture
    )


def mass_at(distance, scale, mixture=ONE_GAUSSIAN, shape: Shape = NORMAL):
    """`likelihood` of a symbol at some distance from the mean, float64 in NumPy, and without a floor."""
    tail = shape.tail64
    return sum(
        share * (tail((distance - 0.5) / (factor * scale)) - tail((distance + 0.5) / (factor * scale)))
        for share, factor in mixture
    )


def scale_index(scale, thresholds=_THRESHOLDS) -> np.ndarray:
    """Row of the scale table nearest to a scale by ratio: how many thresholds it has reached, in units of 1/256.

    NumPy, any shape, same shape, integers in 0..63. Thresholds are those of an artifact's table when files are coded.
    """
    fixed = np.rint(np.clip(np.asarray(scale, np.float32), 0, 2 * SCALE_MAX) * np.float32(ONE)).astype(np.int32)
    return np.searchsorted(thresholds, fixed, side="right")


class Gaussian(NamedTuple):
    """A prior for one latent: N(mean, scale^2), entry by entry.

    Attributes:
      scale: [B, h, w, C], unbounded; values below SCALE_MIN count as SCALE_MIN.
      mean: same shape, or 0.
    """

    scale: jax.Array
    mean: jax.Array | float = 0.0

    family = "gaussian"
    limit = None

    def bits(self, x: jax.Array) -> jax.Array:
        """-log2 of the likelihood of x, same shape."""
        return -jnp.log2(likelihood(x, self.scale, self.mean))

    def mass(self, low: jax.Array, high: jax.Array) -> jax.Array:
        """P(low < X < high), for finite bounds of the latent's shape."""
        return mass_between(low, high, self.scale, self.mean)

    @property
    def center(self):
        """Latents are rounded to integer distances from the mean."""
        return self.mean

    def indexes(self, shape: tuple[int, ...], table: tables.Table) -> np.ndarray:
        """Row of the table for every entry, uint8."""
        scale = np.asarray(self.scale)
        found = np.empty(shape, np.uint8)
        # Row by row of the picture: the steps between need many times the memory of the result.
        for y in range(shape[-3]):
            found[..., y, :, :] = scale_index(scale[..., y, :, :], table.thresholds)
        return found

    def export_state(self) -> dict:
        """Nothing: all that is fixed stands in the tables."""
        return {}

    def tabulate(self) -> tables.Table:
        """The 64 integer tables, the same for every model."""
        return scale_tables()


def scale_tables() -> tables.Table:
    """One row per entry of SCALE_TABLE, symbols -w..w where N(0, scale^2) leaves TAIL_MASS outside."""
    from scipy import special

    scales = SCALE_TABLE.astype(np.float64)
    width = np.ceil(-special.ndtri(TAIL_MASS / 2) * scales).astype(int)
    rows = []
    for scale, w in zip(scales, width, strict=True):
        rows.append(mass_at(np.abs(np.arange(-w, w + 1)), scale))
    return tables.build(rows, -width, _THRESHOLDS)


# ---------------------------------------------------------------------- the same, from logarithms of scales

LOG_MIN, LOG_MAX = float(np.log(SCALE_MIN)), float(np.log(SCALE_MAX))
LOG_THRESHOLDS = np.ceil(ONE * np.log(np.sqrt(SCALE_TABLE[1:].astype(np.float64) * SCALE_TABLE[:-1]))).astype(np.int32)


class LogGaussian(NamedTuple):
    """`Gaussian`, for networks that emit the logarithm of the scale: a picture of other contrast is a shift to them.

    Attributes:
      log_scale: [B, h, w, C] natural logarithms, unbounded; they count as clipped to the table's range.
      mean: same shape, or 0.
      kept: what `export_state` returns.
    """

    log_scale: jax.Array
    mean: jax.Array | float = 0.0
    kept: dict = {}  # never changed

    family = "log_gaussian"
    limit = None
    mixture = ONE_GAUSSIAN
    shape = NORMAL

    def bits(self, x: jax.Array) -> jax.Array:
        """-log2 of the likelihood of x, same shape."""
        return -jnp.log2(likelihood(x, self._scale(), self.mean, self.mixture, self.shape))

    def mass(self, low: jax.Array, high: jax.Array) -> jax.Array:
        """P(low < X < high), for finite bounds of the latent's shape."""
        return mass_between(low, high, self._scale(), self.mean, self.mixture, self.shape)

    def _scale(self):
        return jnp.exp(upper_bound(lower_bound(self.log_scale, LOG_MIN), LOG_MAX))

    @property
    def center(self):
        """Latents are rounded to integer distances from the mean."""
        return self.mean

    def indexes(self, shape: tuple[int, ...], table: tables.Table) -> np.ndarray:
        """Row of the table for every entry, uint8: how many thresholds 256 log_scale has reached."""
        log_scale = np.asarray(self.log_scale, np.float32)
        lowest = table.thresholds[0] - 1
        # Looked up rather than searched for: there are few different values, and many entries.
        rows = np.searchsorted(table.thresholds, np.arange(lowest, table.thresholds[-1] + 1), side="right")
        rows, found = rows.astype(np.uint8), np.empty(log_scale.shape, np.uint8)
        # Row by row of the picture: see `Gaussian`.
        for y in range(log_scale.shape[-3]):
            fixed = np.rint(np.clip(log_scale[..., y, :, :], 2 * LOG_MIN, 2 * LOG_MAX) * np.float32(ONE)).astype(
                np.int32
            )
            found[..., y, :, :] = rows[np.clip(fixed, lowest, table.thresholds[-1]) - lowest]
        return np.broadcast_to(found, shape)

    def symbol_bits(self, symbols: np.ndarray, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """-log2 of the likelihood of some symbols, with NumPy; what `bits` says of symbol + mean.

        Args:
          symbols: [n].
          places: [n], where they stand in the flattened latent.
          shape: of the latent.
        """
        log_scale = np.broadcast_to(np.asarray(self.log_scale), shape).reshape(-1)[places].astype(np.float64)
        scale = np.exp(np.clip(log_scale, LOG_MIN, LOG_MAX))
        return -np.log2(np.maximum(mass_at(np.abs(symbols), scale, self.mixture, self.shape), LIKELIHOOD_FLOOR))

    def export_state(self) -> dict:
        """What of it an artifact stores as state."""
        return self.kept

    def tabulate(self) -> tables.Table:
        """The 64 integer tables, the same for every model."""
        return scale_tables()._replace(thresholds=LOG_THRESHOLDS)


# ---------------------------------------------------------------------- the same, with the tails that residuals have

# What is left of a latent when networks have predicted its mean and scale is no Gaussian: it is more often near zero,
# and more often far away. Shares and scales of three Gaussians, relative to the scale that is predicted: fitted to the
# symbols of KltNet on its training photos, where they save 2 to 6 % of a Gaussian's bits (docs/lab/kltnet.md).
MIXTURE = ((0.57, 0.71), (0.4295, 1.34), (0.0005, 8.0))
# Ends of rows: what is beyond goes to the escape. A wider row than that would give each rare symbol one of 2^16 parts.
_MIXTURE_TAIL = 2.0**-12


class LogMixture(LogGaussian):
    """`LogGaussian` with the shape of `MIXTURE` in place of a Gaussian's.

    Its table has the name of the other's, by which model files know it: the name says how rows are chosen, and what is
    in them is every model file's own. So files of models that were exported with Gaussian rows decode as ever. Other
    mixtures, and those of other distributions, are subclasses with a `mixture` and a `shape` of their own.
    """

    mixture = MIXTURE

    def tabulate(self) -> tables.Table:
        """The 64 integer tables, the same for every model."""
        rows, first = [], []
        for scale in SCALE_TABLE.astype(np.float64):
            mass = mass_at(np.arange(int(12 * self.mixture[-1][1] * scale) + 12), scale, self.mixture, self.shape)
            within = 2 * np.cumsum(mass) - mass[0]  # of -n..n
            width = min(max(1, int(np.argmax(1 - within <= _MIXTURE_TAIL))), tables.WIDEST)
            rows.append(np.concatenate([mass[width:0:-1], mass[: width + 1]]))
            first.append(-width)
        return tables.build(rows, np.array(first), LOG_THRESHOLDS)


class LogLaplace(LogMixture):
    """`LogGaussian` with Laplace distributions, of density exp(-|x - mean| / scale) / (2 scale)."""

    mixture = ((1.0, 1.0),)
    shape = LAPLACE


class LogLogistic(LogMixture):
    """`LogGaussian` with logistic distributions, of cumulative distribution 1 / (1 + exp(-(x - mean) / scale))."""

    mixture = ((1.0, 1.0),)
    shape = LOGISTIC

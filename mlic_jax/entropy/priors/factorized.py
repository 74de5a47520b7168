"""The deep factorized density: one learned univariate density per channel.

Ballé, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale hyperprior", ICLR 2018, appendix 6.1;
filter sizes, initial values and tail mass as in CompressAI's EntropyBottleneck, whose weights load unchanged.

The cumulative distribution of channel c is sigmoid(logit_c(x)), and logit_c is a small monotone network:

    v = x;  for k < K:  v = softplus(H_k) v + b_k;  if k < K - 1:  v = v + tanh(a_k) * tanh(v)
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import tables
from mlic_jax.errors import ModelError
from mlic_jax.layers import init
from mlic_jax.layers.bounds import lower_bound

FILTERS = (3, 3, 3, 3)
INIT_SCALE = 10.0
LIKELIHOOD_FLOOR = 1e-9
# Where the tables end. A symbol outside is coded by an escape of some 16 bits more, and no row spends frequencies on
# symbols rarer than its smallest one.
TAIL_MASS = 2.0**-16
SEARCH_RADIUS = 1e5


def cumulative_logits(x, matrices, biases, factors, xp=jnp):
    """The logit of the cumulative distribution, channel by channel.

    Args:
      x: [C, 1, n].
      matrices, biases, factors: lists of [C, f', f], [C, f', 1] and [C, f', 1]; one factor fewer than matrices.
      xp: jax.numpy, or numpy (for float64 tables).

    Returns:
      [C, 1, n].
    """
    for k, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
        x = xp.logaddexp(matrix, 0.0) @ x + bias
        if k < len(factors):
            x = x + xp.tanh(factors[k]) * xp.tanh(x)
    return x


def _bisect(logits, target, channels, xp):
    """x [C, 1, 1] where logits(x) = target, by bisection on [-SEARCH_RADIUS, SEARCH_RADIUS]."""
    low = xp.full((channels, 1, 1), -SEARCH_RADIUS)
    high = xp.full((channels, 1, 1), SEARCH_RADIUS)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        below = logits(middle) < target
        return xp.where(below, middle, low), xp.where(below, high, middle)

    steps = 56  # 2e5 / 2^56 is below the spacing of float64 near 1e5
    if xp is jnp:
        low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
    else:
        for step in range(steps):
            low, high = halve(step, (low, high))
    return 0.5 * (low + high)


def _logits64(params):
    """`cumulative_logits` of a density's parameters, in float64 by NumPy: exports must not depend on a device."""

    def values(kind):
        return [np.asarray(params[f"{kind}_{k}"], np.float64) for k in range(len(FILTERS) + (kind != "factor"))]

    return functools.partial(
        cumulative_logits, matrices=values("matrix"), biases=values("bias"), factors=values("factor"), xp=np
    )


def quantiles(params, probabilities) -> np.ndarray:
    """Where the cumulative distributions reach the probabilities (in 0..1).

    Args:
      params: of a DeepFactorized.
      probabilities: n numbers.

    Returns:
      float64 [C, n], within SEARCH_RADIUS.
    """
    from scipy import special  # late: see priors/gaussian.py

    logits, channels = _logits64(params), len(params["matrix_0"])
    return np.stack([_bisect(logits, special.logit(p), channels, np)[:, 0, 0] for p in probabilities], axis=1)


class DeepFactorized(nn.Module):
    """The density and its use as a prior for a latent [B, h, w, C] (the interface that coders ask for).

    Attributes:
      channels: C.
      family: the name under which this prior's tables stand in an artifact.
      limit: the largest symbol that is coded, on either side; larger ones are cut down. None: no such limit.
    """

    channels: int
    family: str = "factorized"
    limit: int | None = None

    def setup(self):
        sizes = (1, *FILTERS, 1)
        layers = len(sizes) - 1
        scale = INIT_SCALE ** (1 / layers)

        def param(name, initialiser, shape):
            # Flax would trace the initialiser of every parameter that is there, to compare shapes: most of what the
            # decoder of a small picture would spend its time on. `latent.check_params` does it once for each model.
            if self.has_variable("params", name):
                return self.get_variable("params", name)
            return self.param(name, initialiser, shape)

        self.matrices = [
            param(
                f"matrix_{k}",
                init.constant(np.log(np.expm1(1 / scale / sizes[k + 1]))),
                (self.channels, sizes[k + 1], sizes[k]),
            )
            for k in range(layers)
        ]
        self.biases = [param(f"bias_{k}", init.uniform(0.5), (self.channels, sizes[k + 1], 1)) for k in range(layers)]
        self.factors = [
            param(f"factor_{k}", init.constant(0.0), (self.channels, sizes[k + 1], 1)) for k in range(layers - 1)
        ]

    def _logits(self, x):
        return cumulative_logits(x, self.matrices, self.biases, self.factors)

    def likelihood(self, x: jax.Array) -> jax.Array:
        """P(x - 1/2 < X < x + 1/2) for noisy or rounded x [B, h, w, C], same shape, at least LIKELIHOOD_FLOOR."""
        by_channel = self._by_channel(x)
        return lower_bound(self._mass(by_channel - 0.5, by_channel + 0.5, x.shape), LIKELIHOOD_FLOOR)

    def mass(self, low: jax.Array, high: jax.Array) -> jax.Array:
        """P(low < X < high), for finite bounds [B, h, w, C], same shape."""
        return self._mass(self._by_channel(low), self._by_channel(high), low.shape)

    def _by_channel(self, x):
        return jnp.moveaxis(x, -1, 0).reshape(self.channels, 1, -1)

    def _mass(self, low, high, shape):
        """[C, 1, n] both -> [B, h, w, C], which is `shape`."""
        upper, lower = self._logits(high), self._logits(low)
        # On the right of the median both sigmoids are near 1 and their difference loses all digits: mirror it.
        sign = jax.lax.stop_gradient(jnp.where(upper + lower > 0, -1.0, 1.0))
        mass = jnp.abs(jax.nn.sigmoid(sign * upper) - jax.nn.sigmoid(sign * lower))
        return jnp.moveaxis(mass.reshape(self.channels, *shape[:-1]), 0, -1)

    def bits(self, x: jax.Array) -> jax.Array:
        """-log2 of the likelihood of x [B, h, w, C], same shape."""
        return -jnp.log2(self.likelihood(x))

    @property
    def center(self) -> jax.Array:
        """The medians [C]: latents are rounded to integer distances from them.

        Fixed values where the collection `state` has them (an artifact's, on which encoder and decoder must agree),
        otherwise found by bisection from the parameters as they are now; CompressAI learns them by an auxiliary loss.
        """
        if self.has_variable("state", "medians"):
            medians = self.get_variable("state", "medians")
            if medians.shape != (self.channels,):
                raise ModelError(f"{self.name}: {medians.shape} medians for {self.channels} channels")
            return medians
        return jax.lax.stop_gradient(_bisect(self._logits, 0.0, self.channels, jnp)[:, 0, 0])

    def indexes(self, shape: tuple[int, ...], table: tables.Table) -> np.ndarray:
        """Row of the table for every entry of a latent of that shape (.., C): its channel."""
        del table
        return np.broadcast_to(np.arange(self.channels, dtype=np.int32), shape)

    def export_state(self) -> dict:
        """{module name: {"medians": float32 [C]}}, for the collection `state` of an artifact."""
        return {self.name: {"medians": self.medians()}}

    def medians(self) -> np.ndarray:
        """`center` for an artifact, float32 [C]."""
        if self.has_variable("state", "medians"):
            return np.asarray(self.get_variable("state", "medians"), np.float32)
        return quantiles(self.variables["params"], [0.5])[:, 0].astype(np.float32)

    def tabulate(self) -> tables.Table:
        """Integer tables, one row a channel, for symbols round(x - median)."""
        from scipy import special  # late: see priors/gaussian.py

        medians = self.medians().astype(np.float64)
        low, high = quantiles(self.variables["params"], [TAIL_MASS / 2, 1 - TAIL_MASS / 2]).T
        first = np.minimum(np.floor(low - medians), 0).astype(int)
        last = np.maximum(np.ceil(high - medians), 0).astype(int)
        # A channel that has not been trained can be flat over thousands of symbols; escapes cover what is cut.
        first, last = np.maximum(first, -tables.WIDEST), np.minimum(last, tables.WIDEST)
        symbols = np.arange(first.min(), last.max() + 1)
        edges = np.concatenate([symbols - 0.5, symbols[-1:] + 0.5])
        values = _logits64(self.variables["params"])(medians[:, None, None] + edges)[:, 0]  # [C, n + 1]
        mirrored = values[:, 1:] + values[:, :-1] > 0
        upper = np.where(mirrored, -values[:, :-1], values[:, 1:])
        lower = np.where(mirrored, -values[:, 1:], values[:, :-1])
        mass = special.expit(upper) - special.expit(lower)
        rows = [row[(symbols >= a) & (symbols <= b)] for row, a, b in zip(mass, first, last, strict=True)]
        return tables.build(rows, first)

"""Densities of toy latents, and what rounding makes of them.

A prior is the density of a latent before it is rounded; a symbol is as likely as the interval that is rounded to it.
Everything is computed from the logarithms of both tails, so that nothing underflows: in float32 the difference of two
probabilities is 0 beyond |y| of some 40, and a floor put under it would hide that.
"""

from __future__ import annotations

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy
import numpy as np
import scipy.special

from mlic_jax.entropy.priors.factorized import cumulative_logits
from mlic_jax.errors import UsageError

# Of the deep factorized density.
FILTERS = (3, 3)
INIT_SCALE = 10.0
# The smallest difference between logarithms of tails: beyond it the two ends of an interval are the same number.
_SMALLEST_STEP = 1e-9
_MIXTURE = re.compile(r"([gl])([sm])m-([1-9]\d*)")
KINDS = "deep, or gsm-K, lsm-K, gmm-K, lmm-K for mixtures of K"


def _mixture(kind):
    found = _MIXTURE.fullmatch(kind)
    if kind != "deep" and not found:
        raise UsageError(f"no prior is called {kind!r}: {KINDS}")
    return found


def log_tails(kind: str, params, x, xp=jnp):
    """Logarithms of P(X < x) and P(X > x).

    Args:
      kind: see `Prior`.
      params: of a Prior.
      x: [.., C].
      xp: jax.numpy, or numpy (float64, for tables).

    Returns:
      Two arrays [.., C].
    """
    log_expit, log_ndtr, logsumexp = (
        (jax.nn.log_sigmoid, jax.scipy.special.log_ndtr, jax.scipy.special.logsumexp)
        if xp is jnp
        else (scipy.special.log_expit, scipy.special.log_ndtr, scipy.special.logsumexp)
    )
    params = {name: xp.asarray(value, None if xp is jnp else np.float64) for name, value in params.items()}
    if kind == "deep":
        parts = [
            [params[f"{name}_{k}"] for k in range(len(FILTERS) + (name != "factor"))]
            for name in ("matrix", "bias", "factor")
        ]
        shape = x.shape
        logits = cumulative_logits(xp.moveaxis(x, -1, 0).reshape(shape[-1], 1, -1), *parts, xp=xp)
        logits = xp.moveaxis(logits.reshape(shape[-1], *shape[:-1]), 0, -1)
        return log_expit(logits), log_expit(-logits)
    weights = params["logits"] - logsumexp(params["logits"], axis=-1, keepdims=True)
    scaled = (x[..., None] - params.get("locations", 0.0)) * xp.exp(-params["log_scales"])
    tail = log_ndtr if _mixture(kind)[1] == "g" else log_expit
    return tuple(logsumexp(weights + tail(t), axis=-1) for t in (scaled, -scaled))


def log_interval(kind: str, params, lower, upper, xp=jnp):
    """Logarithm of P(lower < X < upper), as `log_tails`: from the tail that both ends are nearer to."""
    (below_lower, below_upper), (above_lower, above_upper) = log_tails(kind, params, xp.stack([lower, upper]), xp)
    left = below_upper < above_lower
    large = xp.where(left, below_upper, above_lower)
    small = xp.where(left, below_lower, above_upper)
    step = xp.maximum(large - small, _SMALLEST_STEP)
    return large + xp.log(-xp.expm1(-step))


class Prior(nn.Module):
    """One density per channel.

    Attributes:
      channels: C.
      kind: "deep": a monotone network (Balle et al., 2018, appendix 6.1; `mlic_jax.entropy.priors.factorized`)
        with two hidden layers of 3. "gsm-K", "lsm-K": a mixture of K Gaussians or logistics around 0; "gmm-K",
        "lmm-K": with locations.
    """

    channels: int
    kind: str = "deep"

    def setup(self):
        found, shapes, c = _mixture(self.kind), {}, self.channels
        if found:
            count = int(found[3])
            shapes = {
                "logits": (nn.initializers.normal(1.0), (c, count)),
                "log_scales": (lambda key, shape: 2.0 + jax.random.normal(key, shape), (c, count)),
            }
            if found[2] == "m":
                shapes["locations"] = (nn.initializers.normal(INIT_SCALE), (c, count))
        else:
            sizes = (1, *FILTERS, 1)
            scale = INIT_SCALE ** (1 / (len(sizes) - 1))
            for k, (before, after) in enumerate(zip(sizes, sizes[1:])):
                start = nn.initializers.constant(math.log(math.expm1(1 / scale / after)))
                shapes[f"matrix_{k}"] = (start, (c, after, before))
                shapes[f"bias_{k}"] = (
                    lambda key, shape: jax.random.uniform(key, shape, minval=-0.5, maxval=0.5),
                    (c, after, 1),
                )
                if k < len(FILTERS):
                    shapes[f"factor_{k}"] = (nn.initializers.zeros, (c, after, 1))
        self.values = {name: self.param(name, start, shape) for name, (start, shape) in shapes.items()}

    def bits(self, lower: jax.Array, upper: jax.Array) -> jax.Array:
        """-log2 P(lower < X < upper): [.., C] of [.., C]."""
        return -log_interval(self.kind, self.values, lower, upper) / math.log(2)


def quantiles(kind: str, params, probability: float, channels: int, reach: float = 1e5) -> np.ndarray:
    """float64 [C] where the distributions reach a probability in 0..1, by bisection within -reach..reach."""
    low, high = np.full(channels, -reach), np.full(channels, reach)
    target = scipy.special.logit(probability)
    for _ in range(80):
        middle = (low + high) / 2
        below, above = log_tails(kind, params, middle, np)
        low, high = np.where(below - above < target, middle, low), np.where(below - above < target, high, middle)
    return (low + high) / 2


def modes(kind: str, params, gain: np.ndarray) -> np.ndarray:
    """float64 [C]: where intervals of a length of 1 / gain are the most likely, gain [C]."""
    low, high = (quantiles(kind, params, p, len(gain)) for p in (0.005, 0.995))
    for _ in range(4):  # each time 100 times finer
        grid = low + np.linspace(0, 1, 401)[:, None] * (high - low)
        best = grid[
            log_interval(kind, params, grid - 0.5 / gain, grid + 0.5 / gain, np).argmax(0), np.arange(len(gain))
        ]
        low, high = best - (high - low) / 200, best + (high - low) / 200
    return best

"""A toy transform code: analysis, a prior for what is rounded, synthesis, and how finely it is rounded.

      x -> analysis -> y -> * gain -> v  ~~ rounding, or what stands for it ~~>  v' -> * 1/gain -> synthesis -> x'

The prior is the density of y. A symbol k is as likely as the interval of y that is rounded to it, so one density serves
all gains.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mlic_jax.entropy import quantisers
from mlic_jax.toy.priors import Prior

# What stands for rounding in training:
#            the rate sees          the synthesis sees
#   noise    v + u                  v + u
#   mixed    v + u                  rounded v, straight through
#   ste      rounded v, straight through, for both
#   soft     s(v) + u               E[v | s(v) + u], s the soft rounding
MODES = ("noise", "mixed", "ste", "soft")
# What can depend on lam; see Model.
CONDITIONINGS = ("gain", "table", "film")
# Width of the network that turns a trade-off into gains.
GAIN_WIDTH = 16


class TradeOff(NamedTuple):
    """What a batch is coded for.

    Attributes:
      lam: [n, 1].
      step: [n, 1], by which the gain is divided: the width of a quantisation bin.
    """

    lam: jax.Array
    step: jax.Array


def trade_off(n: int, lam: float, step: float = 1.0) -> TradeOff:
    """The same for a whole batch."""
    return TradeOff(jnp.full((n, 1), lam, jnp.float32), jnp.full((n, 1), step, jnp.float32))


class Model(nn.Module):
    """See the module.

    Attributes:
      analysis_transform, synthesis_transform: modules of (array, condition).
      prior: of C channels.
      conditioning: what depends on lam. None: nothing. "gain": gains before and after rounding, by a small network
        from log lam. "table", "film": the transforms; see `transforms.Mlp`.
      table: the trade-offs of "table", ascending.
      free_gain: whether the gain after rounding is a network of its own, and not 1 / gain.
    """

    analysis_transform: nn.Module
    synthesis_transform: nn.Module
    prior: Prior
    conditioning: str | None = None
    table: tuple[float, ...] = ()
    free_gain: bool = False

    def setup(self):
        if self.conditioning == "gain":
            names = ("before", "after") if self.free_gain else ("before",)
            self.gain_networks = {name: _LogGain(self.prior.channels) for name in names}

    def _condition(self, lam):
        if self.conditioning == "table":
            distance = jnp.abs(jnp.log(lam) - jnp.log(jnp.asarray(self.table)))
            return jax.nn.one_hot(distance.argmin(-1), len(self.table))
        return jnp.log(lam) if self.conditioning == "film" else None

    def gains(self, to: TradeOff) -> tuple[jax.Array, jax.Array]:
        """What y is multiplied by before rounding, and v' after it: [n, C] or [n, 1] each."""
        before, after = 1.0, 1.0
        if self.conditioning == "gain":
            logarithm = self.gain_networks["before"](jnp.log(to.lam))
            before, after = jnp.exp(logarithm), jnp.exp(-logarithm)
            if self.free_gain:
                after = jnp.exp(-self.gain_networks["after"](jnp.log(to.lam)))
        return before / to.step, after * to.step

    def analysis(self, x: jax.Array, to: TradeOff) -> jax.Array:
        """[n, d] -> v [n, C]."""
        return self.analysis_transform(x, self._condition(to.lam)) * self.gains(to)[0]

    def synthesis(self, v: jax.Array, to: TradeOff) -> jax.Array:
        """v' [n, C] -> [n, d]."""
        return self.synthesis_transform(v * self.gains(to)[1], self._condition(to.lam))

    def bits(self, v: jax.Array, to: TradeOff) -> jax.Array:
        """-log2 of the probability of rounded, or the density of noisy, v' [n, C]; same shape."""
        gain = self.gains(to)[0]
        return self.prior.bits((v - 0.5) / gain, (v + 0.5) / gain)

    def soft_bits(self, z: jax.Array, alpha, to: TradeOff) -> jax.Array:
        """-log2 of the density of soft-rounded v plus noise, [n, C].

        z = s(v) + u means that s(v) is within 1/2 of z. The ends of that interval are one unit of v apart, because
        s(v + 1) = s(v) + 1.
        """
        upper, gain = quantisers.soft_round_inverse(z + 0.5, alpha), self.gains(to)[0]
        return self.prior.bits((upper - 1) / gain, upper / gain)

    def train(self, x, to: TradeOff, u, mode: str, alpha, expected_gradients: bool = False):
        """What stands for coding.

        Args:
          x: [n, d].
          u: [n, C], uniform in -1/2..1/2.
          mode: of MODES.
          alpha: sharpness of soft rounding.
          expected_gradients: the rate's gradient is that of its expectation over u; not for "ste", which has no noise.

        Returns:
          Bits [n] and reconstructions [n, d].
        """
        v = self.analysis(x, to)
        rate, center = self.bits, v
        if mode == "soft":
            center = quantisers.soft_round(v, alpha)

            def rate(z, to):
                return self.soft_bits(z, alpha, to)

        if mode == "ste":
            bits = rate(quantisers.straight_through(v), to)
        elif expected_gradients:
            bits = quantisers.with_expected_gradient(lambda z: rate(z, to), center, u)
        else:
            bits = rate(center + u, to)
        if mode in ("mixed", "ste"):
            received = quantisers.straight_through(v)
        else:
            received = center + u if mode == "noise" else quantisers.soft_round_mean(center + u, alpha)
        return bits.sum(-1), self.synthesis(received, to)

    def initialise(self, x, to: TradeOff):
        """Touches all parameters."""
        v = self.analysis(x, to)
        return self.bits(v, to), self.synthesis(v, to)


class _LogGain(nn.Module):
    """log lam [n, 1] -> the logarithm of gains [n, C]. They start as the root of lam: at high rates steps shrink so."""

    channels: int

    @nn.compact
    def __call__(self, log_lam):
        hidden = jnp.tanh(nn.Dense(GAIN_WIDTH)(log_lam))
        return 0.5 * log_lam + nn.Dense(self.channels, kernel_init=nn.initializers.zeros)(hidden)

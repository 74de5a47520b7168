"""The coders: one coding order, five readings of it.

A model with a learned prior states the order of transmission once,

    def transmit(self, code):
        z = code("z", self.prior_z)
        return code("y", Gaussian(self.hyper_synthesis(z)))

and `code` decides what happens: `Training` adds noise or rounds straight-through and sums bits, `Estimating` rounds
and sums bits, `Encoding` writes symbols, `Decoding` reads them, `Tabulating` collects the tables an artifact needs.
Each call receives the latent's name and its prior, and returns what a decoder would know at that point.

A prior has `bits(x)`, `center` (latents are rounded to integer distances from it), `indexes(shape)` (rows of its
table), `tabulate()`, `family` (its table's name) and `settled()` (what of it an artifact stores as state).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import rangecoder
from mlic_jax.errors import ModelError

PROXIES = ("noise", "ste", "mixed")


def per_example_sum(x: jax.Array) -> jax.Array:
    """[B, ...] -> [B]."""
    return x.reshape(x.shape[0], -1).sum(-1)


def straight_through_round(x: jax.Array) -> jax.Array:
    """Rounds (half to even); the gradient is that of the identity."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


class _Summing:
    """A coder that sums the code length. `bits`: name -> float32 [B]."""

    def __init__(self, latents: Mapping[str, jax.Array]):
        self.latents = {name: latent.astype(jnp.float32) for name, latent in latents.items()}
        self.bits: dict[str, jax.Array] = {}

    def _count(self, name, prior, value):
        self.bits[name] = per_example_sum(prior.bits(value))


class Training(_Summing):
    """Differentiable stand-in for rounding.

    Args:
      latents: name -> [B, h, w, C].
      keys: [B] PRNG keys, one per example.
      proxy: "noise": uniform noise in [-1/2, 1/2] for rate and synthesis (Ballé 2017). "ste": rounding with the
        gradient of the identity for both (Theis 2017). "mixed": noise for the rate, straight-through rounding for
        everything downstream (Minnen and Singh 2020).
    """

    def __init__(self, latents, keys, proxy):
        super().__init__(latents)
        self.keys, self.proxy, self.calls = keys, proxy, 0

    def __call__(self, name, prior):
        latent = self.latents[name]
        if self.proxy != "ste":
            # One key per example and latent: noise does not depend on the batch an example is in.
            keys = jax.vmap(jax.random.fold_in, (0, None))(self.keys, self.calls)
            noise = jax.vmap(lambda key: jax.random.uniform(key, latent.shape[1:], minval=-0.5, maxval=0.5))(keys)
            noisy = latent + noise
        self.calls += 1
        if self.proxy != "noise":
            center = prior.center
            rounded = straight_through_round(latent - center) + center
        self._count(name, prior, rounded if self.proxy == "ste" else noisy)
        return noisy if self.proxy == "noise" else rounded


class Estimating(_Summing):
    """Rounds as the encoder does; the bits are -log2 P, without tables or files."""

    def __call__(self, name, prior):
        center = prior.center
        rounded = jnp.round(self.latents[name] - center) + center
        self._count(name, prior, rounded)
        return rounded


class Tabulating:
    """Collects what an artifact needs of every prior. Run it outside jit, on latents of any size, all zeros.

    `tables`: family -> Table. `state`: the numbers on which encoder and decoder must agree, as the collection "state".

    Args:
      shapes: name -> (1, h, w, C).
    """

    def __init__(self, shapes):
        self.shapes, self.tables, self.state = shapes, {}, {}

    def __call__(self, name, prior):
        if prior.family not in self.tables:
            self.tables[prior.family] = prior.tabulate()
        self.state.update(prior.settled())
        return jnp.zeros(self.shapes[name])


def _models_of(prior, models):
    if prior.family not in models:
        raise ModelError(f"the model has no table {prior.family!r}: it has {', '.join(models) or 'none'}")
    return models[prior.family]


class Encoding:
    """Writes the latents of one picture. `finish()` gives the stream.

    Args:
      latents: name -> [1, h, w, C], concrete.
      models: family -> rangecoder.Models.

    Raises ModelError for latents that no sane model makes.
    """

    def __init__(self, latents, models):
        self.latents, self.models, self._encoder = latents, models, rangecoder.Encoder()

    def __call__(self, name, prior):
        latent = np.asarray(self.latents[name], np.float32)
        center = np.asarray(prior.center, np.float32)
        symbols = np.rint(latent - center)
        if not (np.abs(symbols) <= rangecoder.LARGEST_SYMBOL).all():
            raise ModelError(
                f"latent {name!r} is not finite or beyond {rangecoder.LARGEST_SYMBOL}: the model is broken"
            )
        symbols = symbols.astype(np.int32)
        self._encoder.write(symbols, prior.indexes(latent.shape), _models_of(prior, self.models))
        return jnp.asarray(symbols.astype(np.float32) + center)

    def finish(self) -> bytes:
        return self._encoder.finish()


class Decoding:
    """Reads the latents of one picture back.

    Args:
      data: the stream.
      shapes: name -> (1, h, w, C).
      models: family -> rangecoder.Models.
    """

    def __init__(self, data, shapes, models):
        self.shapes, self.models, self._decoder = shapes, models, rangecoder.Decoder(data)

    def __call__(self, name, prior):
        symbols = self._decoder.read(prior.indexes(self.shapes[name]), _models_of(prior, self.models))
        return jnp.asarray(symbols.astype(np.float32) + np.asarray(prior.center, np.float32))

    def finish(self) -> None:
        self._decoder.finish()

"""The coders: one coding order, several readings of it.

A model with a learned prior states the order of transmission once,

    def transmit(self, code):
        z = code("z", self.prior_z)
        return code("y", Gaussian(code.exact(self.h_s, z, self.prior_z)))

and `code` decides what happens: `Training` adds noise or rounds straight-through and sums bits, `Estimating` rounds
and sums bits, `Encoding` writes symbols, `Decoding` reads them; those of mlic_jax.entropy.exporting collect what an
artifact needs. `code(name, prior)` returns what a decoder would know of that latent.
`code.exact(network, latent, prior)` applies an `ExactStack`, on whose outcome the next latent's probabilities depend,
to a latent and the prior it came by, or, without a prior, to values made of what is known by then: in floating point in
training, in integers when files are written and read. `code.quality` is the quality that the picture is coded with,
float [B] in 0..100 (JAX or NumPy as the latents are), or None for models of one rate. `code.latents` holds all latents
where they are known; coders that read a file, or make what an artifact needs, have no such attribute.
`code.scan(name, order, prior, side)` is for a latent whose positions see others of it: see mlic_jax.entropy.scanning.

A prior has `bits(x)`, `mass(low, high)` (the probability between bounds, for other intervals than those of rounding),
`center` (latents are rounded to integer distances from it), `limit` (of those distances, or None), `indexes(shape,
table)` (rows of its table), `tabulate()`, `family` (its table's name) and `export_state()` (what of it an artifact
stores as state). One without a family has no table but `distributions(row)`: see mlic_jax.entropy.cumulative.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import google_crc32c
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import cumulative, rangecoder, scanning
from mlic_jax.entropy.priors.adapters import SoftRounded
from mlic_jax.entropy.rounding import NEAREST, Rounding
from mlic_jax.errors import ModelError, UsageError

PROXIES = ("noise", "ste", "mixed", "split", "soft")
# Quantisation-aware training holds the largest activation of every channel as an average over examples ...
_MEMORY = 0.99
# ... and makes room for more than the average example's.
_ROOM = 2.0


def per_example_sum(x: jax.Array) -> jax.Array:
    """[B, ...] -> [B]."""
    return x.reshape(x.shape[0], -1).sum(-1)


def straight_through_round(x: jax.Array) -> jax.Array:
    """Rounds (half to even); the gradient is that of the identity."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


def ranges_of(network):
    """{"layer_i": [C]} for ExactStack.quantised, from the state of quantisation-aware training; None without."""
    if not network.has_variable("state", "largest"):
        return None
    return {name: _ROOM * largest for name, largest in network.get_variable("state", "largest").items()}


class _Summing:
    """A coder that sums the code length. `bits`: name -> float32 [B]; `received`: name -> what it returned."""

    def __init__(self, latents: Mapping[str, jax.Array], quality=None, rounding: Rounding = NEAREST):
        self.quality, self.rounding = quality, rounding
        self.latents = {name: latent.astype(jnp.float32) for name, latent in latents.items()}
        self.bits: dict[str, jax.Array] = {}
        self.received: dict[str, jax.Array] = {}

    def _latent(self, name):
        if name not in self.latents:
            raise UsageError(
                f"transmit codes {name!r}, which analyze does not give: it gives {', '.join(self.latents)}"
            )
        return self.latents[name]

    def _count(self, name, prior, value):
        self.bits[name] = per_example_sum(prior.bits(value))


class Training(_Summing):
    """Differentiable stand-in for rounding.

    Args:
      latents: name -> [B, h, w, C].
      keys: [B] PRNG keys, one per example.
      proxy: "noise": uniform noise in [-1/2, 1/2] for rate and synthesis (Ballé 2017). "ste": rounding with the
        gradient of the identity for both (Theis 2017). "mixed": noise for the rate, straight-through rounding for
        everything downstream (Minnen and Singh 2020). "split", of ours: as "mixed" for latents and means; scales learn
        from rounded latents, and the bits are those of these. (With noise they become too small where most symbols are
        zero: rare symbols cost more, rounded, than noise shows. Means would learn nothing from a symbol that is zero.)
        "soft": soft rounding around the mean, then noise, for the rate, and of that the expected latent for synthesis
        (Agustsson and Theis 2020; mlic_jax.entropy.quantisers). Or name of a latent -> its own.
      quantised: bool scalar, whether exact networks compute with their rounding by now; None: not in this training.
        Otherwise the collection "state" must be mutable: it keeps the largest activations.
      quality: float [B] or None.
      rounding: the encoder's, which proxies that round take for latents that it weighs; to nearest by default, as a
        latent that is rounded for rate has no gradient.
      count_rounded: whether `rounded_bits`, name -> float32 [B], is to hold the bits of rounded latents, too, by the
        priors that `bits` are counted with. They have no gradient.
    """

    def __init__(
        self, latents, keys, proxy, quantised=None, quality=None, rounding: Rounding = NEAREST, count_rounded=False
    ):
        super().__init__(latents, quality, rounding)
        self.keys, self.quantised, self.calls = keys, quantised, 0
        self.proxies = dict.fromkeys(self.latents, proxy) if isinstance(proxy, str) else proxy
        self.count_rounded, self.rounded_bits = count_rounded, {}

    def __call__(self, name, prior):
        latent = self._latent(name)
        proxy = self.proxies[name]
        if proxy == "soft":
            return self._softly(name, prior)
        if proxy != "ste":
            noisy = self._noisy(latent)
        self.calls += 1
        if proxy != "noise":
            rounded = self._rounded(name, prior)
        if proxy == "split":
            self._split(name, prior, rounded, noisy)
        else:
            self._count(name, prior, rounded if proxy == "ste" else noisy)
        if self.count_rounded:
            self._count_rounded(name, prior)
        self.received[name] = noisy if proxy == "noise" else rounded
        return self.received[name]

    def scan(self, name, order, prior, side=None):
        """Of the proxy's latents all at once: those that are rounded, around zero, as no mean is known before."""
        latent = self._latent(name)
        noisy = self.proxies[name] in ("noise", "soft")
        known = self._noisy(latent) if noisy else straight_through_round(latent)
        return self(name, prior(jnp.where(scanning.seen(order, latent.shape), known, 0), side))

    def _noisy(self, latent):
        # One key per example and latent: noise does not depend on the batch an example is in.
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.keys, self.calls)
        noise = jax.vmap(lambda key: jax.random.uniform(key, latent.shape[1:], minval=-0.5, maxval=0.5))(keys)
        return latent + noise

    def _softly(self, name, prior):
        soft = SoftRounded(prior)
        noisy = self._noisy(soft.rounded(self.latents[name]))
        self.calls += 1
        self._count(name, soft, noisy)
        if self.count_rounded:
            self._count_rounded(name, prior)
        self.received[name] = soft.expected(noisy)
        return self.received[name]

    def _count_rounded(self, name, prior):
        value = self.rounding.values(name, self.latents[name], prior, self.quality)
        self.rounded_bits[name] = per_example_sum(jax.lax.stop_gradient(prior.bits(value)))

    def _rounded(self, name, prior):
        latent = self.latents[name]
        if not self.rounding.weighs(name):
            return straight_through_round(latent - prior.center) + prior.center
        distance = self.rounding.values(name, latent, prior, self.quality) - prior.center
        return jax.lax.stop_gradient(distance) + prior.center

    def _split(self, name, prior, rounded, noisy):
        # Of rounded latents only the distance to the mean counts, and that the mean does not change.
        center = prior.center
        bits = prior.bits(jax.lax.stop_gradient(rounded - center) + center)
        _, pull = jax.vjp(prior.bits, noisy)
        slope = jax.lax.stop_gradient(pull(jnp.ones_like(noisy))[0]) * (noisy - center)
        self.bits[name] = per_example_sum(bits + slope - jax.lax.stop_gradient(slope))

    def exact(self, network, latent, prior=None):
        del prior
        if self.quantised is None:
            return network(latent)
        plain, largest = network.measure(latent)
        now = {name: jax.lax.stop_gradient(value.mean(0)) for name, value in largest.items()}
        ranges = ranges_of(network)
        if ranges is not None:
            before = network.get_variable("state", "largest")
            # Nothing is known before the first step.
            now = {
                name: jnp.where(before[name] > 0, _MEMORY * before[name] + (1 - _MEMORY) * value, value)
                for name, value in now.items()
            }
            plain = jnp.where(self.quantised, network.quantised(latent, ranges), plain)
        network.put_variable("state", "largest", now)
        network.put_variable("state", "quantised", jnp.asarray(self.quantised))
        return plain


class Estimating(_Summing):
    """Rounds as the encoder does; the bits are -log2 P, without tables or files.

    Args:
      latents, quality: as for Training.
      rounding: the encoder's.
    """

    _apart: dict | None = None  # while scanning: name -> network without its scope

    def __call__(self, name, prior):
        value = self.received[name] = self.rounding.values(name, self._latent(name), prior, self.quality)
        self._count(name, prior, value)
        return value

    def scan(self, name, order, prior, side=None):
        latent, self._apart = self._latent(name), {}
        waves = order.waves(*latent.shape[1:3])[None, ..., None]

        def values(known):
            return self.rounding.values(name, latent, prior(known, side), self.quality)

        def wave(number, known):
            return jnp.where(waves == number, values(known), known)

        # The first wave outside of the loop notes the networks, too.
        known = jnp.where(waves < waves.max(), wave(0, jnp.zeros_like(latent)), 0)
        known = jax.lax.stop_gradient(jax.lax.fori_loop(1, int(waves.max()), wave, known))
        self._apart = None
        return self(name, prior(self._known(latent, known, waves), side))

    def _known(self, latent, known, waves):
        del latent, waves
        return known

    def exact(self, network, latent, prior=None):
        """In integers where the state is an artifact's, as trained where it is a run's."""
        if self._apart is None:
            return self._exact(network, latent, prior)
        # A loop of JAX cannot look into the scope of a Flax module around it.
        if network.name not in self._apart:
            self._apart[network.name] = network.unbind()
        alone, variables = self._apart[network.name]
        return alone.apply(variables, method=lambda network: self._exact(network, latent, prior))

    def _exact(self, network, latent, prior):
        if network.has_variable("state", "layer_0"):
            return network.integers_whole(latent if prior is None else jnp.round(latent - prior.center))
        ranges = ranges_of(network)
        if ranges is None:
            return network(latent)
        return jnp.where(network.get_variable("state", "quantised"), network.quantised(latent, ranges), network(latent))


class AtOnce(Estimating):
    """`Estimating` for shapes and ranges, where it is enough that a scan knows latents as they are, rounded."""

    def scan(self, name, order, prior, side=None):
        latent = self._latent(name)
        return self(name, prior(jnp.where(scanning.seen(order, latent.shape), jnp.round(latent), 0), side))


class Differentiable(Estimating):
    """Values and bits as `Estimating` has them; gradients pass rounding as if it were not there."""

    def __call__(self, name, prior):
        latent = self._latent(name)
        value = latent + jax.lax.stop_gradient(self.rounding.values(name, latent, prior, self.quality) - latent)
        self.received[name] = value
        self._count(name, prior, value)
        return value

    def _known(self, latent, known, waves):
        return jnp.where(waves < waves.max(), latent + jax.lax.stop_gradient(known - latent), 0)

    def _exact(self, network, latent, prior):
        plain = network(latent)
        return plain + jax.lax.stop_gradient(super()._exact(network, latent, prior) - plain)


def models_of(prior, models):
    if prior.family not in models:
        raise ModelError(f"the model has no table {prior.family!r}: it has {', '.join(models) or 'none'}")
    return models[prior.family]


def center_of(prior):
    return np.asarray(prior.center, np.float32)


class _Coding:
    """What coders of files share."""

    _apart: dict | None = None  # while scanning: name -> network of positions

    def scan(self, name, order, prior, side=None):
        self._apart = {}
        values = scanning.scan(order, self._shape(name), prior, side, functools.partial(self._wave, name))
        self._apart = None
        return values

    def exact(self, network, latent, prior=None):
        if self._apart is not None:
            if network.name not in self._apart:
                self._apart[network.name] = network.at_positions()
            return self._apart[network.name](latent)
        if prior is None:
            return network.integers(latent)
        # The latent is symbol + median in float32: their difference is the symbol but for rounding.
        return network.integers(np.rint(latent - center_of(prior)))


def _checksum(decides: np.ndarray) -> int:
    """CRC-32C of what decides the probabilities of a latent, or of a wave of it: integers, in raster order."""
    return google_crc32c.value(np.ascontiguousarray(decides, decides.dtype.newbyteorder("<")).tobytes())


class Encoding(_Coding):
    """Writes the latents of one picture. `finish()` gives the stream.

    Args:
      latents: name -> NumPy [1, h, w, C].
      models: family -> rangecoder.Models.
      quality: float [1], or None for models of one rate.
      rounding: see mlic_jax.entropy.rounding.
      portable: whether every machine computes the same rows; where not, a checksum of them stands before each latent.

    Raises ModelError for latents that no sane model makes.
    """

    def __init__(self, latents, models, quality=None, rounding: Rounding = NEAREST, portable=True):
        self.latents, self.models, self.quality, self.rounding = latents, models, quality, rounding
        self.portable = portable
        self._encoder = rangecoder.Encoder()

    def __call__(self, name, prior):
        return self._write(name, prior, self.latents[name])

    def _shape(self, name):
        return self.latents[name].shape

    def _wave(self, name, prior, places):
        return self._write(name, prior, np.asarray(self.latents[name])[:, *places][:, None])

    def _write(self, name, prior, latent):
        center = center_of(prior)
        exact = np.asarray(latent, np.float32) - center
        symbols = np.rint(exact)
        if not (np.abs(symbols) <= rangecoder.LARGEST_SYMBOL).all():
            raise ModelError(
                f"latent {name!r} is not finite or beyond {rangecoder.LARGEST_SYMBOL}: the model is broken"
            )
        if prior.limit is not None:
            np.clip(symbols, -prior.limit, prior.limit, out=symbols)
        self.rounding.move(name, exact, symbols, prior, self.quality)
        if prior.family is None:
            self._note(prior.integers)
            cumulative.write(self._encoder, symbols, prior)
        else:
            models = models_of(prior, self.models)
            rows = prior.indexes(symbols.shape, models.table)
            self._note(lambda: rows.astype(np.uint16))
            self._encoder.write(symbols.astype(np.int32), rows, models, prior.limit)
        return symbols + center

    def _note(self, decides):
        if not self.portable:
            self._encoder.write_word(_checksum(decides()))

    def finish(self) -> bytes:
        return self._encoder.finish()


class Decoding(_Coding):
    """Reads the latents of one picture back.

    Args:
      data: the stream.
      shapes: name -> (1, h, w, C).
      models: family -> rangecoder.Models.
      portable: as for Encoding.

    Raises ModelError for a latent of which the rows are not those of the encoder.
    """

    def __init__(self, data, shapes, models, quality=None, portable=True):
        self.shapes, self.models, self.quality, self._decoder = shapes, models, quality, rangecoder.Decoder(data)
        self.portable = portable

    def __call__(self, name, prior):
        return self._read(name, prior, self.shapes[name])

    def _shape(self, name):
        return self.shapes[name]

    def _wave(self, name, prior, places):
        return self._read(name, prior, (1, 1, len(places[0]), self.shapes[name][3]))

    def _read(self, name, prior, shape):
        if prior.family is None:
            self._compare(name, prior.integers)
            symbols = cumulative.read(self._decoder, shape, prior)
        else:
            models = models_of(prior, self.models)
            rows = prior.indexes(shape, models.table)
            self._compare(name, lambda: rows.astype(np.uint16))
            symbols = self._decoder.read(rows, models, prior.limit)
        return symbols.astype(np.float32) + center_of(prior)

    def _compare(self, name, decides):
        if not self.portable and self._decoder.read_word() != _checksum(decides()):
            raise ModelError(
                f"the probabilities of {name!r} are others here than where the file was written: its model is not "
                "portable, so its files are read on machines of one kind, by one version of jax, with the very weights"
            )

    def finish(self) -> None:
        self._decoder.finish()

"""A codec from a model that states its coding order once.

A latent model is a Flax module with three methods and one number,

    analyze(image float [B, H, W, 3] in [0, 1]) -> {"y": [B, h, w, C], ...}    the latents
    transmit(code) -> received                                                 the coding order, see entropy.coders
    synthesize(received) -> image float [B, H, W, 3]
    stride: int                                                                sides of images must be multiples

and `latent_codec` makes of it everything that `mlic_jax.codec.Codec` asks for. A model of every rate has `has_quality`;
its `analyze` and `synthesize` take the quality, float [B] in 0..100, as a second argument.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.codec import Codec, Networks, Objective
from mlic_jax.entropy import coders, exporting
from mlic_jax.entropy.rounding import NEAREST
from mlic_jax.errors import UsageError
from mlic_jax.families import calibration
from mlic_jax.families import latent_coding as coding
from mlic_jax.families.base import Family
from mlic_jax.families.common import check_architecture, check_choices, mean_psnr_db, pad
from mlic_jax.families.complexity import kmac_per_pixel
from mlic_jax.families.forward import Forward, forward
from mlic_jax.families.lagrangian import DISTORTIONS, Lagrangian
from mlic_jax.families.quality import EveryRate, OneRate
from mlic_jax.families.refine import STEPS
from mlic_jax.layers import init as initialisers
from mlic_jax.layers.precision import in_float32
from mlic_jax.layers.windows import to_float, to_uint8


class LatentModel(nn.Module):
    """Base of latent models: the way through all three methods.

    Attributes of subclasses:
      stride: see above.
      has_quality: whether it is a model of every rate.
      portable: False lets `transmit` compute in floating point. Files can then be read only where all that decides a
        probability comes out the same, and are refused elsewhere.
      rounding: how an encoder makes integers of the latents, a mlic_jax.entropy.rounding.Rounding.
      held: of the largest values that networks of values show at export, what integers hold.
      refined: the same for latents that were refined (mlic_jax.families.refine); None for a model without refinement.
    """

    has_quality = False
    portable = True
    # Without types: Flax makes arguments of what has one.
    held = calibration.HELD
    rounding = NEAREST
    refined = None

    def __call__(self, image, make_coder, quality=None):
        """image float [B, H, W, 3], make_coder(latents, quality=) -> coder. Returns (reconstruction, coder)."""
        more = coding.conditions(quality if self.has_quality else None)
        coder = make_coder(self.analyze(image, *more), quality=quality)
        return self.synthesize(self.transmit(coder), *more), coder


@functools.partial(jax.jit, static_argnums=0)
def _largest(module, variables, image, quality):
    return module.apply(variables, pad(to_float(image), module.stride), exporting.Calibrating, quality)[1].largest


@functools.partial(jax.jit, static_argnums=0)
def _estimate(module, variables, image, quality):
    size = image.shape[1:3]
    make_coder = functools.partial(coders.Estimating, rounding=module.rounding)
    reconstruction, coder = module.apply(variables, pad(to_float(image), module.stride), make_coder, quality)
    reconstruction = to_uint8(reconstruction)[:, : size[0], : size[1]]
    return reconstruction, sum(coder.bits.values())


@functools.partial(jax.jit, static_argnums=0)
def _analyzed(module, variables, image, quality):
    return module.apply(variables, pad(image, module.stride), *coding.conditions(quality), method="analyze")


@functools.partial(jax.jit, static_argnums=0)
def _synthesized(module, variables, latents, quality):
    coder = coders.Differentiable(latents, quality, module.rounding)
    received = module.apply(variables, coder, method="transmit")
    return module.apply(variables, received, *coding.conditions(quality), method="synthesize")


@functools.partial(jax.jit, static_argnums=0)
def _forward(module, variables, image, quality):
    make_coder = functools.partial(coders.Differentiable, rounding=module.rounding)
    shown, coder = module.apply(variables, pad(image, module.stride), make_coder, quality)
    return {"bits": coder.bits, "reconstruction": jnp.clip(shown[:, : image.shape[1], : image.shape[2]], 0, 1)}


def _without_integers(state):
    """The state without what `ExactStack.quantise` put into it."""
    return {
        network: kept
        for network, values in state.items()
        if (kept := {name: value for name, value in values.items() if not name.startswith("layer_")})
    }


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LatentCodec(Family):
    """The codecs of latent models; see `latent_codec` for the fields."""

    module: LatentModel
    lagrangian: Lagrangian
    proxy: str | Mapping[str, str]
    quantise_from: int
    clipped: bool

    @functools.cached_property
    def exact(self) -> LatentModel:
        """The module in float32, for everything but the training loss."""
        return in_float32(self.module)

    def trace(self):
        return {"params": coding.boxed_params(self.module)}

    def init(self, key, image_shape):
        """See Codec. Raises UsageError where the model's coding order leaves the parse path, or proxies do not fit."""
        params, state = super().init(key, image_shape)
        latents = set(self._any_picture[0])
        if not isinstance(self.proxy, str) and set(self.proxy) != latents:
            named, known = ", ".join(self.proxy), ", ".join(sorted(latents))
            raise UsageError(f"{self.model}: proxies are given for {named}: the model's latents are {known}")
        coder = exporting.Guarding(*self._any_picture, self.portable)
        coder.walk(functools.partial(self._walk, variables={"params": params, "state": state}))
        return params, state

    def initial_state(self, key):
        if self.quantise_from < 0:
            return {}
        return initialisers.materialise(coding.activation_shapes(self.exact), key)

    # ------------------------------------------------------------------ training

    def objectives(self):
        """ "rd" trains everything; "priors" what `transmit` uses alone, for latents as the encoder rounds them."""
        return {
            "rd": Objective(tuple(self.boxed["params"]), self.rd_loss),
            "priors": Objective(coding.parse_path(self.module), self.priors_loss),
        }

    def forward(self, params, state, batch, keys, step, count_rounded: bool = False) -> Forward:
        """The forward pass of an objective, whose arguments these are; see mlic_jax.families.forward.

        count_rounded: whether `rounded_bits` are needed, too.
        """
        quality = self.qualities.draw(keys)
        quantised = None if self.quantise_from < 0 else step >= self.quantise_from
        more = {"quality": quality, "quantised": quantised, "count_rounded": count_rounded}
        return forward(self.module, params, state, batch["image"], keys, self.proxy, **more)

    def rate_distortion(self, passed: Forward) -> tuple[jax.Array, dict[str, jax.Array]]:
        """A batch's loss of rate and distortion, a scalar, and its metrics."""
        shown = jnp.clip(passed.reconstruction, 0, 1) if self.clipped else passed.reconstruction
        squared, cost = self.lagrangian.distort(passed.image, shown)
        bpp = {name: jnp.mean(bits) / passed.pixels for name, bits in passed.bits.items()}
        of_distortion, of_loss = self.lagrangian.weights(passed.quality)
        total = jnp.mean(of_loss * (of_distortion * cost + passed.bits_per_pixel()))
        metrics = {
            "loss": total,
            "bpp": sum(bpp.values()),
            "mse255": jnp.mean(squared),
            "psnr_db": mean_psnr_db(squared),
            **{f"bpp_{name}": value for name, value in bpp.items()},
        }
        return total, metrics

    def rd_loss(self, params, state, batch, keys, step):
        passed = self.forward(params, state, batch, keys, step)
        total, metrics = self.rate_distortion(passed)
        return total, (metrics, passed.state)

    def priors_loss(self, params, state, batch, keys, step):
        del step
        image = pad(to_float(batch["image"]), self.module.stride)
        quality = self.qualities.draw(keys)
        more = coding.conditions(quality)
        latents = jax.lax.stop_gradient(self.module.apply({"params": params}, image, *more, method="analyze"))
        coder = coders.Training(latents, keys, "split", quality=quality, rounding=self.module.rounding)
        self.module.apply({"params": params}, coder, method="transmit")
        bpp = sum(coder.bits.values()) / (batch["image"].shape[1] * batch["image"].shape[2])
        total = jnp.mean(self.lagrangian.weights(quality)[1] * bpp)
        return total, ({"loss": total, "bpp": jnp.mean(bpp)}, state)

    # ------------------------------------------------------------------ use

    def estimate_at(self, params, state, image, quality):
        if quality is not None:
            quality = jnp.full(len(image), quality, jnp.float32)
        reconstruction, bits = _estimate(self.exact, {"params": params, "state": state}, image, quality)
        squared, cost = self.lagrangian.distort(to_float(image), to_float(reconstruction))
        of_distortion, of_loss = self.lagrangian.weights(quality)
        loss = of_loss * (of_distortion * cost + bits / (image.shape[1] * image.shape[2]))
        return {"loss": loss, "bits": bits, "mse255": squared, "reconstruction": reconstruction}

    def networks(self):
        return Networks(*(functools.partial(function, self.exact) for function in (_analyzed, _synthesized, _forward)))

    def kmac_per_pixel(self):
        return kmac_per_pixel(self.exact, nn.meta.unbox(self.boxed["params"]))

    def _walk(self, coder, variables):
        """Lets a coder of exports visit every prior and exact network."""
        self.exact.apply(variables, coder, method="transmit")
        return coder

    @functools.cached_property
    def _any_picture(self):
        """(shapes of the latents of some picture, its quality): what tables and integers hold for all."""
        shapes = coding.latent_shapes(self.exact, (self.exact.stride, self.exact.stride))
        return shapes, coding.batch_quality(self.exact, self.qualities.default)

    def tabulate(self, variables, images):
        # Integers are made anew: those of an artifact that is exported again are of no use for it.
        variables = {**variables, "state": _without_integers(variables["state"])}
        measure = functools.partial(_largest, self.exact, variables)
        largest = calibration.ranges(measure, images, self.exact.has_quality, self.exact.held)
        shapes, quality = self._any_picture
        coder = self._walk(exporting.Tabulating(shapes, largest, quality), variables)
        return {**variables["state"], **coder.state}, coder.tables

    def check_state(self, artifact):
        shapes, quality = self._any_picture
        variables = {"params": artifact.params, "state": artifact.state}
        self._walk(exporting.Checking(shapes, artifact.models, quality), variables)

    def encode(self, artifact, image, quality, effort, importance):
        plain, received = coding.encode(self.exact, artifact, image, quality)
        if not effort:
            return (plain,)
        weight = self.lagrangian.of_distortion(quality)

        def cost(stream, received):
            shown = coding.reconstruct(self.exact, artifact, received, image.shape[:2], quality)
            error = np.mean((image.astype(np.float32) - shown) ** 2)
            return weight * error + 8 * len(stream) / (image.shape[0] * image.shape[1])

        refined, further = coding.encode(self.exact, artifact, image, quality, effort, weight)
        # Few steps round differently from none, and on some pictures not better.
        return (min((refined, further), (plain, received), key=lambda coded: cost(*coded))[0],)

    def decode(self, artifact, chunks, size, quality):
        received = coding.receive(self.exact, artifact, chunks[0], size, quality)
        return coding.reconstruct(self.exact, artifact, received, size, quality)


def latent_codec(
    module: LatentModel,
    *,
    model: str,
    architecture: Mapping[str, Any],
    lmbda: float | tuple[float, float],
    distortion: str = "mse",
    proxy: str | Mapping[str, str] = "noise",
    quantise_from: int = -1,
    clipped: bool = False,
    family: Callable[..., LatentCodec] = LatentCodec,
) -> Codec:
    """A trainable codec.

    Loss (all papers of this family): lmbda * distortion + bpp, where distortion is the mean squared error in units of
    8-bit steps (255^2 MSE of images in [0, 1]) or 1 - MS-SSIM, and bpp is -log2 P of all latents over H * W. A model of
    every rate draws a quality for each example, uniformly; the loss at weight l is divided by (l / l_middle)^(1/2).

    Args:
      module: the model, with the dtype and precision that it is trained in.
      model: its name in the zoo.
      architecture: what rebuilds it, keyword arguments of its factory: JSON scalars, or lists of them. An artifact
        stores them.
      lmbda: the weight of the distortion; for a model of every rate those of quality 0 and 100, between which the
        logarithm is linear.
      distortion: one of lagrangian.DISTORTIONS.
      proxy: one of entropy.coders.PROXIES, the stand-in for rounding in training; or name of a latent -> its own, as
        {"z": "noise", "y": "mixed"}.
      quantise_from: the step from which networks on the parse path compute with the rounding that they will have in
        files (quantisation-aware training); -1: never, their integers are then chosen at export alone.
      clipped: whether training, too, compares what is left within black and white. What lies beyond has no gradient
        then, so this is for models whose pictures are sound from the start.
      family: makes the codec of what is above: a subclass of LatentCodec with objectives of its own, or a partial
        application of one that has further fields.

    Raises:
      UsageError: an unknown distortion or proxy, or an architecture that no file can hold.
    """
    check_architecture(model, architecture)
    check_choices(
        model,
        ("distortion", distortion, DISTORTIONS),
        *(("proxy", one, coders.PROXIES) for one in ((proxy,) if isinstance(proxy, str) else proxy.values())),
        ("clipped", clipped, (True, False)),
    )
    if type(quantise_from) is not int or quantise_from < -1:
        raise UsageError(f"{model}: quantise_from={quantise_from!r} is no step: a number from 0, or -1 for never")
    return family(
        model=model,
        architecture=architecture,
        qualities=EveryRate() if module.has_quality else OneRate(),
        # Only models of every rate know what to optimise: see Lagrangian.of_distortion.
        efforts=len(STEPS) if module.has_quality and module.refined else 0,
        portable=module.portable,
        module=module,
        lagrangian=Lagrangian(lmbda, distortion),
        proxy=proxy,
        quantise_from=quantise_from,
        clipped=clipped,
    ).codec()

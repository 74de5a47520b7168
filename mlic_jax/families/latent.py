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

import functools
import weakref
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.codec import Chunks, Codec, Objective
from mlic_jax.entropy import coders
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.families import calibration
from mlic_jax.fileformat.artifact import Artifact, check_arrays
from mlic_jax.layers import init as initialisers
from mlic_jax.layers.precision import in_float32
from mlic_jax.layers.windows import to_float, to_uint8

DISTORTIONS = ("mse", "ms-ssim")
_QUALITY = 1 << 20  # folded into an example's key where its quality is drawn; latents count from 0
LARGEST_WIDTH = 4096  # of any layer; a damaged model file should not ask for more memory than there is


# A model of every rate: how its loss at one quality weighs against that at another. Losses grow about as the square
# root of the weight of their distortion; divided by it, no quality's gradients drown the others'.
WEIGHT_EXPONENT = 0.5
# Qualities at which a model of every rate is validated and its curve is drawn, and the one that is taken unasked.
VALIDATED = (10.0, 50.0, 90.0)
LADDER = tuple(float(quality) for quality in np.linspace(0, 100, 9))
DEFAULT_QUALITY = 50.0


class LatentModel(nn.Module):
    """Base of latent models: the way through all three methods."""

    has_quality = False
    # Modules on the parse path: the objective "priors" trains these alone. Without any there is no such objective.
    priors = ()
    # Name of a latent -> see coders.Encoding: how rounding weighs bits against errors, where it is not to nearest.
    bits_per_square = {}
    bits_per_square_refined = {}  # the same, for latents that were refined
    # Of such latents: what a squared error of one costs, in bits, as far as synthesis is linear.
    curvature = 1.0

    def __call__(self, image, make_coder, quality=None):
        """image float [B, H, W, 3], make_coder(latents, quality=) -> coder. Returns (reconstruction, coder)."""
        more = (quality,) if self.has_quality else ()
        coder = make_coder(self.analyze(image, *more), quality=quality)
        return self.synthesize(self.transmit(coder), *more), coder


def _one(module, quality):
    """The quality of one picture as [1] NumPy, or None."""
    return np.array([quality], np.float32) if module.has_quality else None


def _and(quality):
    return () if quality is None else (quality,)


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """The next multiples of stride."""
    return -height % stride + height, -width % stride + width


def mse255(image, shown):
    """Mean squared errors in steps of 8 bits, [B], of float [B, H, W, C] in [0, 1]."""
    return coders.per_example_sum((image - shown) ** 2) * (255.0**2 / image[0].size)


def pad(image, stride):
    """Repeats the last row and column of [B, H, W, C] until both sides are multiples of stride."""
    _, height, width, _ = image.shape
    h, w = padded_size(height, width, stride)
    return jnp.pad(image, ((0, 0), (0, h - height), (0, w - width), (0, 0)), mode="edge")


def pad_picture(image: np.ndarray, stride: int) -> np.ndarray:
    """As `pad`, of [H, W, ...] in NumPy."""
    more = [(0, -side % stride) for side in image.shape[:2]]
    return np.pad(image, more + [(0, 0)] * (image.ndim - 2), mode="edge") if np.any(more) else image


@functools.partial(jax.jit, static_argnums=0)
def _largest(module, variables, image, quality):
    return module.apply(variables, pad(to_float(image), module.stride), coders.Calibrating, quality)[1].largest


@functools.partial(jax.jit, static_argnums=0)
def _estimate(module, variables, image, quality):
    size = image.shape[1:3]
    make_coder = functools.partial(coders.Estimating, bits_per_square=module.bits_per_square)
    reconstruction, coder = module.apply(variables, pad(to_float(image), module.stride), make_coder, quality)
    reconstruction = to_uint8(reconstruction)[:, : size[0], : size[1]]
    return reconstruction, sum(coder.bits.values())


def encode(
    module: LatentModel,
    artifact: Artifact,
    image: np.ndarray,
    quality: float | None = None,
    effort: int = 0,
    weight: float | None = None,
) -> tuple[bytes, Any]:
    """Codes one picture.

    Args:
      image: uint8 [H, W, 3].
      quality: 0..100 in half steps for a model of every rate, None for others.
      effort: 0..9, see mlic_jax.families.refine.
      weight: of the squared error in the loss, for refinement.

    Returns:
      The stream, and what its decoder will receive: `reconstruct` makes of it the decoder's picture.

    Raises:
      ModelError: the model is damaged.
    """
    image = pad_picture(image, module.stride)
    chosen = _one(module, quality)
    latents = module.apply(artifact.variables, image[None], *_and(chosen), method="analyze")
    rounding = module.bits_per_square
    if effort:
        from mlic_jax.families import refine

        steps, rounding = refine.STEPS[effort - 1], module.bits_per_square_refined
        latents = refine.refine(module, artifact.variables, image[None], latents, chosen, weight, steps)
    coder = coders.Encoding(latents, artifact.models, chosen, rounding)
    received = module.apply(artifact.variables, coder, method="transmit")
    return coder.finish(), received


def decode(
    module: LatentModel, artifact: Artifact, stream: bytes, size: tuple[int, int], quality: float | None = None
) -> np.ndarray:
    """The picture uint8 [H, W, 3] of a stream that `encode` wrote; size is (H, W).

    Raises CorruptStreamError, or ModelError where the model is damaged.
    """
    return reconstruct(module, artifact, receive(module, artifact, stream, size, quality), size, quality)


def receive(
    module: LatentModel, artifact: Artifact, stream: bytes, size: tuple[int, int], quality: float | None = None
) -> Any:
    """The first half of `decode`, which is the same on every machine: what the encoder's `transmit` returned."""
    coder = coders.Decoding(stream, _latent_shapes(module, size), artifact.models, _one(module, quality))
    received = module.apply(artifact.variables, coder, method="transmit")
    coder.finish()
    return received


def reconstruct(
    module: LatentModel, artifact: Artifact, received: Any, size: tuple[int, int], quality: float | None = None
) -> np.ndarray:
    """What `transmit` returned -> uint8 [H, W, 3]; size is (H, W)."""
    chosen = _and(_one(module, quality))
    return module.apply(artifact.variables, received, *chosen, method="synthesize")[0, : size[0], : size[1]]


def _latent_shapes(module, size):
    """name -> shape of the latents of one picture of that size."""
    height, width = (side // module.stride for side in padded_size(*size, module.stride))
    return {name: (1, height * h, width * w, c) for name, (_, h, w, c) in _smallest_latents(module).items()}


@functools.lru_cache(maxsize=64)
def _smallest_latents(module):
    """name -> shape of the latents of a picture as large as the stride, by tracing."""
    image = jax.ShapeDtypeStruct((1, module.stride, module.stride, 3), jnp.float32)
    variables = nn.meta.unbox(_shapes(module))
    quality = _and(_some_quality(module))
    latents = jax.eval_shape(lambda v, x, *q: module.apply(v, x, *q, method="analyze"), variables, image, *quality)
    return {name: latent.shape for name, latent in latents.items()}


@functools.lru_cache(maxsize=64)
def _shapes(module):
    """The boxed variables of a module (layers.init.Fill), by tracing; they do not depend on the size of images."""
    image = jax.ShapeDtypeStruct((1, module.stride, module.stride, 3), jnp.float32)

    def initialise(key, image, quality):
        return module.init(key, image, coders.Estimating, quality)

    return jax.eval_shape(initialise, jax.random.key(0), image, _some_quality(module))


def _some_quality(module):
    return jax.ShapeDtypeStruct((1,), jnp.float32) if module.has_quality else None


def _activation_shapes(module, params):
    """The collection "state" of quantisation-aware training, by tracing."""
    image = jax.ShapeDtypeStruct((1, module.stride, module.stride, 3), jnp.float32)

    def train(params, image, quality):
        make_coder = functools.partial(
            coders.Training, keys=jax.random.split(jax.random.key(0), 1), proxy="ste", quantised=False
        )
        return module.apply({"params": params}, image, make_coder, quality, mutable=["state"])[1].get("state", {})

    return jax.eval_shape(train, params, image, _some_quality(module))


def _without_integers(state):
    """The state without what `ExactStack.quantise` put into it."""
    return {
        network: kept
        for network, values in state.items()
        if (kept := {name: value for name, value in values.items() if not name.startswith("layer_")})
    }


def check_params(module: LatentModel, params: Mapping[str, Any], name: str) -> None:
    """Raises ModelError unless params are finite float32 arrays with the names and shapes that the module needs."""
    check_arrays(nn.meta.unbox(_shapes(module)["params"]), params, name)


def latent_codec(
    module: LatentModel,
    *,
    model: str,
    architecture: Mapping[str, Any],
    lmbda: float | tuple[float, float],
    distortion: str = "mse",
    proxy: str = "noise",
    quantise_from: int = -1,
    clipped: bool = False,
) -> Codec:
    """A trainable codec.

    Loss (all papers of this family): lmbda * distortion + bpp, where distortion is the mean squared error in units of
    8-bit steps (255^2 MSE of images in [0, 1]) or 1 - MS-SSIM, and bpp is -log2 P of all latents over H * W. A model of
    every rate draws a quality for each example, uniformly; the loss at weight l is divided by (l / l_middle)^(1/2).

    Args:
      module: the model, with the dtype and precision that it is trained in.
      model: its name in the zoo.
      architecture: the widths that rebuild it, keyword arguments of its factory; an artifact stores them.
      lmbda: the weight of the distortion; for a model of every rate those of quality 0 and 100, between which the
        logarithm is linear.
      distortion: one of DISTORTIONS.
      proxy: one of entropy.coders.PROXIES, the stand-in for rounding in training.
      quantise_from: the step from which networks on the parse path compute with the rounding that they will have in
        files (quantisation-aware training); -1: never, their integers are then chosen at export alone.
      clipped: whether training, too, compares what is left within black and white. What lies beyond has no gradient
        then, so this is for models whose pictures are sound from the start.

    Raises:
      UsageError: an unknown distortion or proxy, or a width out of range.
    """
    for name, value in architecture.items():
        if type(value) is not int or not 1 <= value <= LARGEST_WIDTH:
            raise UsageError(f"{model}: {name}={value!r} is out of range: integers from 1 to {LARGEST_WIDTH}")
    for name, value, known in (("distortion", distortion, DISTORTIONS), ("proxy", proxy, coders.PROXIES)):
        if value not in known:
            raise UsageError(f"{name} {value!r} is not known: use one of {', '.join(known)}")
    if type(quantise_from) is not int or quantise_from < -1:
        raise UsageError(f"quantise_from={quantise_from!r} is no step: use a number from 0, or -1 for never")
    if type(clipped) is not bool:
        raise UsageError(f"clipped={clipped!r}: use True or False")
    exact = in_float32(module)  # everything but the training loss

    def init(key, image_shape):
        del image_shape
        boxed = _shapes(module)["params"]
        state = (
            {} if quantise_from < 0 else initialisers.materialise(_activation_shapes(exact, nn.meta.unbox(boxed)), key)
        )
        return initialisers.materialise(boxed, key), state

    def weight(quality):  # [B] -> the weight of the distortion, and of the whole loss
        if quality is None:
            return lmbda, 1.0
        low, high = np.log(lmbda)
        log = low + (high - low) / 100 * quality
        return jnp.exp(log), jnp.exp(((low + high) / 2 - log) * WEIGHT_EXPONENT)

    def drawn(keys):  # one for each example
        if not module.has_quality:
            return None
        return 100 * jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _QUALITY)))(keys)

    def distort(image, reconstruction):  # float [B, H, W, 3] both -> ([B], [B])
        squared = mse255(image, reconstruction)
        if distortion == "mse":
            return squared, squared
        from mlic_jax.metrics.msssim import ms_ssim

        return squared, 1 - ms_ssim(image, reconstruction, data_range=1.0)

    def loss(params, state, batch, keys, step):
        image = to_float(batch["image"])
        pixels = image.shape[1] * image.shape[2]
        quantised = None if quantise_from < 0 else step >= quantise_from
        quality = drawn(keys)
        (reconstruction, coder), changed = module.apply(
            {"params": params, "state": state},
            pad(image, module.stride),
            functools.partial(coders.Training, keys=keys, proxy=proxy, quantised=quantised),
            quality,
            mutable=["state"],
        )
        state = {**state, **changed.get("state", {})}
        reconstruction = reconstruction.astype(jnp.float32)[:, : image.shape[1], : image.shape[2]]
        if clipped:
            reconstruction = jnp.clip(reconstruction, 0, 1)
        squared, cost = distort(image, reconstruction)
        bpp = {name: jnp.mean(bits) / pixels for name, bits in coder.bits.items()}
        of_distortion, of_loss = weight(quality)
        total = jnp.mean(of_loss * (of_distortion * cost + sum(coder.bits.values()) / pixels))
        metrics = {
            "loss": total,
            "bpp": sum(bpp.values()),
            "mse255": jnp.mean(squared),
            # Of each example, so that the mean does not depend on how examples are shared out to devices.
            "psnr_db": 20 * np.log10(255) - 10 * jnp.mean(jnp.log10(jnp.maximum(squared, 1e-9))),
            **{f"bpp_{name}": value for name, value in bpp.items()},
        }
        return total, (metrics, state)

    def loss_of_priors(params, state, batch, keys, step):
        del step
        image = pad(to_float(batch["image"]), module.stride)
        quality = drawn(keys)
        latents = module.apply({"params": params}, image, *_and(quality), method="analyze")
        coder = coders.Fitting(latents, keys, quality, module.bits_per_square)
        module.apply({"params": params}, coder, method="transmit")
        bpp = sum(coder.bits.values()) / (batch["image"].shape[1] * batch["image"].shape[2])
        total = jnp.mean(weight(quality)[1] * bpp)
        return total, ({"loss": total, "bpp": jnp.mean(bpp)}, state)

    def estimate_at(params, state, image, quality):
        if quality is not None:
            quality = jnp.full(len(image), quality, jnp.float32)
        reconstruction, bits = _estimate(exact, {"params": params, "state": state}, image, quality)
        squared, cost = distort(to_float(image), to_float(reconstruction))
        of_distortion, of_loss = weight(quality)
        loss = of_loss * (of_distortion * cost + bits / (image.shape[1] * image.shape[2]))
        return {"loss": loss, "bits": bits, "mse255": squared, "reconstruction": reconstruction}

    def estimate(params, state, image, quality=None):
        if quality is not None or not module.has_quality:
            return estimate_at(params, state, image, quality)
        found = [estimate_at(params, state, image, quality) for quality in VALIDATED]
        return {**found[len(found) // 2], "loss": sum(one["loss"] for one in found) / len(found)}

    def export(params, state, images=None):
        variables = jax.device_get({"params": params, "state": state})
        check_params(exact, variables["params"], model)
        # Integers are made anew: those of an artifact that is exported again are of no use for it.
        variables["state"] = _without_integers(variables["state"])
        measure = functools.partial(_largest, exact, variables)
        largest = calibration.ranges(measure, images, module.has_quality)
        # The coding order visits every prior, and each gives its table and what is fixed by it.
        shapes = _latent_shapes(exact, (module.stride, module.stride))
        coder = coders.Tabulating(shapes, largest, _one(exact, DEFAULT_QUALITY))
        exact.apply(variables, coder, method="transmit")
        return Artifact(model, architecture, variables["params"], {**variables["state"], **coder.state}, coder.tables)

    checked: weakref.WeakSet[Artifact] = weakref.WeakSet()

    def check(artifact):
        if artifact not in checked:
            check_params(exact, artifact.params, artifact.model)
            shapes = _latent_shapes(exact, (module.stride, module.stride))
            variables = {"params": artifact.params, "state": artifact.state}
            coder = coders.Checking(shapes, artifact.models, _one(exact, DEFAULT_QUALITY))
            exact.apply(variables, coder, method="transmit")
            checked.add(artifact)

    def compress(artifact, image, quality=None, effort=0) -> Chunks:
        if quality is not None and not module.has_quality:
            raise UsageError(f"{artifact.model} has one rate, fixed in training: leave the quality out")
        if quality is None and module.has_quality:
            raise UsageError(f"{artifact.model} needs a quality, 0 to 100")
        if effort and not module.has_quality:
            # An artifact does not tell how bits and errors were weighed in its training.
            raise UsageError(f"{artifact.model} has no effort but 0: only models of every rate know what to optimise")
        check(artifact)
        of_distortion = float(weight(np.float32(quality))[0]) if module.has_quality else None
        image = np.asarray(image)
        plain, received = encode(exact, artifact, image, quality)
        if not effort:
            return (plain,)

        def cost(stream, received):
            shown = reconstruct(exact, artifact, received, image.shape[:2], quality)
            error = np.mean((image.astype(np.float32) - shown) ** 2)
            return of_distortion * error + 8 * len(stream) / (image.shape[0] * image.shape[1])

        refined, further = encode(exact, artifact, image, quality, effort, of_distortion)
        # Few steps round differently from none, and on some pictures not better.
        return (min((refined, further), (plain, received), key=lambda coded: cost(*coded))[0],)

    def decompress(artifact, chunks, size, quality=None):
        if (quality is None) == module.has_quality:
            raise CorruptStreamError(
                f"a file of {artifact.model} {'lacks its' if module.has_quality else 'has no'} quality"
            )
        if len(chunks) != 1:
            raise CorruptStreamError(f"{artifact.model} writes one chunk, the file has {len(chunks)}")
        check(artifact)
        return decode(exact, artifact, chunks[0], tuple(size), quality)

    owns = tuple(_shapes(module)["params"])
    ladder, default = (LADDER, DEFAULT_QUALITY) if module.has_quality else ((), None)
    objectives = {"rd": Objective(owns, loss)}
    if module.priors:
        objectives["priors"] = Objective(tuple(module.priors), loss_of_priors)
    return Codec(init, objectives, estimate, export, compress, decompress, ladder, default)

"""One picture through a latent model (mlic_jax.families.latent): to a stream, and back in two halves.

    encode      picture -> analyze -> refine, where there is effort -> transmit by `Encoding` -> stream
    receive     stream -> transmit by `Decoding` -> what the encoder's `transmit` returned, the same on every machine
    reconstruct that -> synthesize -> picture

Shapes of parameters and latents come from tracing; they are kept for each module.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import coders
from mlic_jax.families import refine
from mlic_jax.families.common import pad_picture, padded_size
from mlic_jax.fileformat.artifact import flatten, unflatten
from mlic_jax.layers import programs
from mlic_jax.layers.windows import Pixels, stored_pixels

if TYPE_CHECKING:
    from mlic_jax.families.latent import LatentModel
    from mlic_jax.fileformat.artifact import Artifact


def batch_quality(module: LatentModel, quality: float | None) -> np.ndarray | None:
    """The quality of one picture as [1], or None for a model of one rate."""
    return np.array([quality], np.float32) if module.has_quality else None


def conditions(quality) -> tuple:
    """What `analyze` and `synthesize` are given besides: (quality,), or nothing."""
    return () if quality is None else (quality,)


# ---------------------------------------------------------------------- shapes


def _picture(module):
    """The smallest picture."""
    return jax.ShapeDtypeStruct((1, module.stride, module.stride, 3), jnp.float32)


def _quality(module):
    return jax.ShapeDtypeStruct((1,), jnp.float32) if module.has_quality else None


@functools.lru_cache(maxsize=64)
def boxed_params(module: LatentModel) -> Mapping[str, Any]:
    """The parameters as boxes (layers.init.Fill); they do not depend on the size of images."""

    def initialise(key, image, quality):
        return module.init(key, image, coders.AtOnce, quality)

    return jax.eval_shape(initialise, jax.random.key(0), _picture(module), _quality(module))["params"]


@functools.lru_cache(maxsize=64)
def _smallest_latents(module, shapes=None):
    """name -> shape of the latents of the smallest picture; shapes: of the parameters, ((path, shape), ...)."""

    def analyze(params, image, *quality):
        return module.apply({"params": params}, image, *quality, method="analyze")

    if shapes is None:
        params = nn.meta.unbox(boxed_params(module))
    else:
        params = unflatten({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes})

    def trace():
        latents = jax.eval_shape(analyze, params, _picture(module), *conditions(_quality(module)))
        return {name: latent.shape for name, latent in latents.items()}

    return {name: tuple(shape) for name, shape in programs.remembered("latents", module, shapes, trace).items()}


def latent_shapes(
    module: LatentModel, size: tuple[int, int], params: Mapping[str, Any] | None = None
) -> dict[str, tuple[int, ...]]:
    """name -> shape of the latents of one picture of (H, W).

    With parameters, those of the model need not be traced first, which takes longer than all else here.
    """
    shapes = None if params is None else tuple((path, array.shape) for path, array in flatten(params).items())
    height, width = (side // module.stride for side in padded_size(*size, module.stride))
    return {name: (1, height * h, width * w, c) for name, (_, h, w, c) in _smallest_latents(module, shapes).items()}


@functools.lru_cache(maxsize=64)
def parse_path(module: LatentModel) -> tuple[str, ...]:
    """Names of the modules that probabilities come from: those that `transmit` uses."""

    def transmit(key, latents, quality):
        return module.init(key, coders.AtOnce(latents, quality), method="transmit")

    latents = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in _smallest_latents(module).items()}
    return tuple(jax.eval_shape(transmit, jax.random.key(0), latents, _quality(module)).get("params", {}))


def activation_shapes(module: LatentModel) -> Mapping[str, Any]:
    """The collection "state" of quantisation-aware training."""

    def train(params, image, quality):
        make_coder = functools.partial(
            coders.Training, keys=jax.random.split(jax.random.key(0), 1), proxy="ste", quantised=False
        )
        return module.apply({"params": params}, image, make_coder, quality, mutable=["state"])[1].get("state", {})

    return jax.eval_shape(train, nn.meta.unbox(boxed_params(module)), _picture(module), _quality(module))


# ---------------------------------------------------------------------- pictures


_bound = threading.local()


def bound(module: LatentModel, artifact: Artifact) -> LatentModel:
    """The module with an artifact's variables. One is made for each thread and kept: `apply` makes all layers anew,
    which takes a tenth of the time of a small picture."""
    if not hasattr(_bound, "modules"):
        _bound.modules = weakref.WeakKeyDictionary()
    modules = _bound.modules.setdefault(artifact, {})
    if module not in modules:
        modules[module] = module.bind(artifact.variables)
    return modules[module]


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
    image = pad_picture(image, module.stride)[None]
    quality = batch_quality(module, quality)
    latents = _analyzed(bound(module, artifact), Pixels(image), *conditions(quality))
    rounding = module.rounding
    if effort:
        rounding = module.refined
        steps = refine.STEPS[effort - 1]
        latents = refine.refine(module, artifact.variables, image, latents, quality, weight, steps)
    coder = coders.Encoding(latents, artifact.models, quality, rounding, module.portable)
    received = bound(module, artifact).transmit(coder)
    return coder.finish(), received


def _analyzed(model, image, *more):
    try:
        return model.analyze(image, *more)
    except ValueError as reason:
        if "__jax_array__" not in str(reason):
            raise
    # A JAX function, and no Stack, is the first to see the picture: it takes arrays alone.
    return model.analyze(np.asarray(image), *more)


def receive(
    module: LatentModel, artifact: Artifact, stream: bytes, size: tuple[int, int], quality: float | None = None
) -> Any:
    """What the encoder's `transmit` returned, from the stream that `encode` wrote; size is (H, W).

    Raises CorruptStreamError, or ModelError where the model is damaged, or is not portable and computes otherwise here.
    """
    quality = batch_quality(module, quality)
    shapes = latent_shapes(module, size, artifact.params)
    coder = coders.Decoding(stream, shapes, artifact.models, quality, module.portable)
    received = bound(module, artifact).transmit(coder)
    coder.finish()
    return received


def reconstruct(
    module: LatentModel, artifact: Artifact, received: Any, size: tuple[int, int], quality: float | None = None
) -> np.ndarray:
    """What `transmit` returned -> uint8 [H, W, 3]; size is (H, W)."""
    more = conditions(batch_quality(module, quality))
    shown = stored_pixels(bound(module, artifact).synthesize(received, *more))
    return shown[0, : size[0], : size[1]]

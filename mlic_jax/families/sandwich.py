"""Codecs that put networks around a standard one: before it, after it, or both.

Such a model is a Flax module with two methods, which `sandwich_codec` makes into a `mlic_jax.codec.Codec`:

    before(image float [B, H, W, c], condition) -> float [B, H / scale, W / scale, c]    what is coded
    after(decoded float [B, h, w, c], condition) -> float [B, h scale, w scale, c]       what is shown

All values are in [0, 1], c is 1 (grey) or 3. The coded picture is the standard codec's own file and nothing else, so
any viewer opens it. The condition, float [B], says how strongly the standard codec will quantise (`condition_of`).

Networks here repeat the edge of what they see, in every layer: zeros beyond the picture's border, as convolutions
usually have, leave a frame in the output. Pictures of any size go through window by window.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax import classical, jpeg
from mlic_jax.classical import checks
from mlic_jax.codec import Chunks, Codec, Objective
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.families.latent import LARGEST_WIDTH, mse255, pad, pad_picture
from mlic_jax.fileformat.artifact import Artifact, check_arrays
from mlic_jax.layers import init as initialisers
from mlic_jax.layers import windows
from mlic_jax.layers.precision import in_float32
from mlic_jax.layers.windows import to_float, to_uint8

# Standard codecs that there is a differentiable form of: name -> (chroma subsampling, Huffman codes).
DIFFERENTIABLE = {
    "jpeg": ("4:2:0", "default"),
    "jpeg-optimised": ("4:2:0", "optimised"),
    "jpeg444": ("4:4:4", "default"),
}
# Side of the windows in which pictures go through the networks, in samples of the smaller picture.
WINDOW = 256
# Bytes that a callback is given at a time. XLA copies more than 100 kB by a thread of its pool, for which the callback
# would wait; on one core it is the only thread, and waits for the callback.
_PART = 1 << 16
# Points of a curve over a range of qualities.
POINTS = 7
_QUALITY = 1 << 20  # folded into an example's key where its quality is drawn
# What a bit is worth in squared error at quality 20, for a picture that JPEG codes in full size: measured by trying
# (a pre-editor gains most with 300 times bits per pixel beside the mean squared error in steps of 8 bits). It grows
# with the square of the quantiser's step.
_WORTH, _WORTH_AT = 300.0, 250.0


class Sandwich(nn.Module):
    """Base of such models.

    Attributes of subclasses:
      codec: name of the standard codec (mlic_jax.classical).
      channels: 1 or 3.
      scale: how many times smaller the coded picture is, along an axis.
      cell: sides of what `before` is given are multiples of it; itself a multiple of scale.
      margin: how many samples of the picture around a sample `before`, then `after`, depend on.
    """

    scale = 1
    cell = 1
    margin = (0, 0)

    def __call__(self, image, condition):
        return self.after(self.before(image, condition), condition)


def table_scale(quality):
    """libjpeg's factor of its quantisation tables in percent: quality 1..100 -> 5000..0 (Annex K's are 50)."""
    return jnp.where(quality < 50, 5000 / jnp.maximum(quality, 1.0), 200 - 2 * quality)


def condition_of(codec: str, quality: jax.Array) -> jax.Array:
    """How networks are told the quality: about -1..1, growing with the strength of quantisation; float [B]."""
    quality = jnp.asarray(quality, jnp.float32)
    if codec in DIFFERENTIABLE:
        return jnp.log2(jnp.maximum(table_scale(quality), 1.0) / 250) / 2
    return (50 - quality) / 50


def worth_of_a_bit(quality: jax.Array, scale: int) -> jax.Array:
    """The squared error, in steps of 8 bits, at which JPEG itself trades a bit per pixel; float [B].

    A picture that is coded smaller has scale^2 times fewer bits to spend for each pixel.
    """
    return _WORTH * scale**2 * (table_scale(jnp.asarray(quality, jnp.float32)) / _WORTH_AT) ** 2


# ---------------------------------------------------------------------- the standard codec in a program


def real_codec(codec: str, image: jax.Array, quality: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A standard codec's own encoder and decoder, called from a jitted program on the host; no gradient.

    Args:
      codec: name in mlic_jax.classical.
      image: uint8 [B, h, w, c].
      quality: float [B].

    Returns:
      What its files decode to, uint8 [B, h, w, c], and their sizes in bits, float32 [B].
    """

    def run(quality, *parts):
        return on_host(codec, np.concatenate([np.asarray(part) for part in parts]).reshape(image.shape), quality)

    shapes = (jax.ShapeDtypeStruct(image.shape, jnp.uint8), jax.ShapeDtypeStruct(image.shape[:1], jnp.float32))
    flat = image.reshape(-1)
    parts = [flat[i : i + _PART] for i in range(0, flat.size, _PART)]
    return jax.pure_callback(run, shapes, quality, *parts)


def on_host(codec: str, image: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `real_codec`, for NumPy arrays."""
    found = [through(codec, one, float(q)) for one, q in zip(np.asarray(image), np.asarray(quality), strict=True)]
    return np.stack([decoded for _, decoded in found]), np.array([8 * len(data) for data, _ in found], np.float32)


def through(codec: str, image: np.ndarray, quality: float) -> tuple[bytes, np.ndarray]:
    """One picture uint8 [h, w, c] as a standard codec's file, and what that decodes to."""
    data = classical.get(codec).encode(_three(image), float(quality))
    return data, received(codec, data, image.shape[-1])


def received(codec: str, data: bytes, channels: int) -> np.ndarray:
    """uint8 [h, w, channels] of a standard codec's file."""
    decoded = classical.get(codec).decode(data)
    return decoded if channels == 3 else decoded[..., :1]


def _three(image):
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def simulated(codec: str, image: jax.Array, quality: jax.Array, rounding: str, keys=None):
    """JPEG in JAX: float [B, h, w, c] in [0, 1] -> (the same decoded, bits [B]), both with gradients."""
    subsampling, huffman = DIFFERENTIABLE[codec]
    clip = "none" if rounding == "noise" else "hard"
    decoded, coefficients = jpeg.simulate(
        image * 255, quality.astype(jnp.int32), subsampling=subsampling, rounding=rounding, clip=clip, key=keys
    )
    return decoded / 255, jpeg.rate(coefficients, huffman=huffman)


# ---------------------------------------------------------------------- windows


def by_windows(function: Callable, image: np.ndarray, scale_in: int, scale_out: int, margin: int) -> np.ndarray:
    """A network that repeats the picture's edge, on one picture, window by window: the result is that of the whole.

    Args:
      function: window [1, h, w, C] -> [1, h scale_out / scale_in, w scale_out / scale_in, C'], jitted. It is compiled
        for one size of window, and for smaller pictures for their own.
      image: [H, W, C], sides multiples of scale_in.
      scale_in, scale_out: samples of input and output along a cell; windows are WINDOW of the fewer, without margins.
      margin: how many input samples around a sample its outputs depend on.

    Returns:
      [H scale_out / scale_in, W scale_out / scale_in, C'].
    """
    border, core = -(-margin // scale_in), max(1, WINDOW // min(scale_in, scale_out))
    spans = functools.partial(windows.spans_within, side=core + 2 * border, overlap=2 * border)
    return windows.by_windows(lambda part, _: function(part), image[None], spans, scale_in, scale_out)[0]


# ---------------------------------------------------------------------- the codec


def check_range(model: str, codec: str, channels: int, low: int, high: int) -> None:
    """Raises UsageError for an unknown standard codec, channels other than 1 or 3, or qualities out of order."""
    if codec not in classical.CODECS:
        raise UsageError(f"{model}: codec {codec!r} is not known: use one of {', '.join(classical.CODECS)}")
    if channels not in (1, 3):
        raise UsageError(f"{model}: channels={channels!r}: pictures have 1 (grey) or 3")
    if not (type(low) is int and type(high) is int and 1 <= low <= high <= 100):
        raise UsageError(f"{model}: qualities {low!r} to {high!r} are no range of whole numbers within 1 to 100")


def check_arguments(model: str, choices, widths) -> None:
    """Raises UsageError for a wrong (name, value, known values) of choices or (name, value, least) of widths."""
    for name, value, known in choices:
        if value not in known:
            raise UsageError(f"{model}: {name} {value!r} is not known: use one of {', '.join(known)}")
    for name, value, least in widths:
        if type(value) is not int or not least <= value <= LARGEST_WIDTH:
            raise UsageError(
                f"{model}: {name}={value!r} is out of range: whole numbers from {least} to {LARGEST_WIDTH}"
            )


def with_channels(image: jax.Array, channels: int) -> jax.Array:
    """uint8 [B, H, W, 3] -> float [B, H, W, channels] in [0, 1]; grey is JPEG's luma, rounded to 8 bits."""
    image = to_float(image)
    if channels == 3:
        return image
    luma = image @ jnp.array([0.299, 0.587, 0.114], jnp.float32)
    return jnp.round(luma * 255)[..., None] / 255


def sandwich_codec(
    module: Sandwich,
    *,
    model: str,
    architecture: Mapping[str, Any],
    low: int,
    high: int,
    losses: Mapping[str, tuple[tuple[str, ...], Callable]],
    extension: str | None = None,
    refine: Callable | None = None,
) -> Codec:
    """A trainable codec around a standard one.

    Args:
      module: the model.
      model: its name in the zoo.
      architecture: keyword arguments of its factory that rebuild it.
      low, high: qualities of the standard codec, between which a model of several rates is trained; equal for one of
        one rate. Training draws one for each example, evenly in their logarithm.
      losses: objective -> (top-level parameters that it owns, loss). loss(apply, image, quality, condition, keys) ->
        (loss [B], metrics of [B] each); apply(method, *arguments) calls the module's methods and keeps its state.
      extension: ".jpg" and the like, where the standard codec's file is the whole result.
      refine: (picture uint8 [H, W, c], what `before` made of it uint8 [H / scale, W / scale, c], quality, effort) ->
        something better to code, of the same shape; None for a codec that knows no effort.

    Returns:
      The Codec. Its quality is the standard codec's own. A picture of two or more colours is refused by a model of
      one channel when it is compressed; in training and estimates it is its luma.
    """
    codec, channels, scale, cell = module.codec, module.channels, module.scale, module.cell
    exact = in_float32(module)  # everything but the training loss
    several = high > low
    ladder = tuple(np.unique(np.rint(np.geomspace(low, high, POINTS))).tolist()) if several else ()
    default = float(ladder[len(ladder) // 2]) if several else None

    @functools.cache
    def shapes():
        image = jax.ShapeDtypeStruct((1, 4 * cell, 4 * cell, channels), jnp.float32)
        condition = jax.ShapeDtypeStruct((1,), jnp.float32)
        return jax.eval_shape(module.init, jax.random.key(0), image, condition)

    def init(key, image_shape):
        del image_shape
        boxed = shapes()
        return (
            initialisers.materialise(boxed["params"], key),
            initialisers.materialise(boxed.get("state", {}), jax.random.fold_in(key, 1)),
        )

    def draw(keys):
        share = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _QUALITY)))(keys)
        return jnp.clip(jnp.round(low * (high / low) ** share), low, high)

    def objective(owns, loss):
        def mean_loss(params, state, batch, keys, step):
            del step
            image = pad(with_channels(batch["image"], channels), cell)
            quality = draw(keys)
            kept = dict(state)

            def apply(method, *arguments):
                y, changed = module.apply(
                    {"params": params, "state": kept}, *arguments, method=method, mutable=["state"]
                )
                kept.update(changed.get("state", {}))
                return y

            value, metrics = loss(apply, image, quality, condition_of(codec, quality), keys)
            if "mse255" in metrics:
                mse = jnp.maximum(metrics["mse255"], 1e-9)
                metrics["psnr_db"] = 20 * np.log10(255) - 10 * jnp.log10(mse)
            total = jnp.mean(value)
            return total, ({"loss": total, **jax.tree.map(jnp.mean, metrics)}, kept)

        return Objective(owns, mean_loss)

    @jax.jit
    def coded_of(variables, image, quality):
        condition = condition_of(codec, quality)
        seen = pad(with_channels(image, channels), cell)
        coded = to_uint8(exact.apply(variables, seen, condition, method="before"))
        return coded[:, : -(-image.shape[1] // scale), : -(-image.shape[2] // scale)]

    def estimate_at(variables, image, quality):
        # The files are written outside of the jitted programs: a picture may be of any size.
        decoded, bits = on_host(codec, np.asarray(coded_of(variables, image, quality)), quality)
        return judged(variables, image, quality, decoded, bits)

    @jax.jit
    def judged(variables, image, quality, decoded, bits):
        size = image.shape[1:3]
        seen = with_channels(image, channels)
        condition = condition_of(codec, quality)
        shown = exact.apply(variables, to_float(decoded), condition, method="after")[:, : size[0], : size[1]]
        shown = to_uint8(shown)
        mse = mse255(seen, to_float(shown))
        rate = bits / (size[0] * size[1])
        worth = worth_of_a_bit(quality, scale)
        # Of models around other codecs the distortion alone is a loss: nothing in them weighs bits.
        loss = mse / worth + rate if codec in DIFFERENTIABLE else mse
        reconstruction = jnp.broadcast_to(shown, (*shown.shape[:3], 3))
        return {"loss": loss, "bits": bits, "mse255": mse, "reconstruction": reconstruction}

    def estimate(params, state, image, quality=None):
        variables = {"params": params, "state": state}
        if quality is not None or not several:
            quality = jnp.full(len(image), low if quality is None else round(quality), jnp.float32)
            return estimate_at(variables, image, quality)
        chosen = (ladder[0], default, ladder[-1])
        found = [estimate_at(variables, image, jnp.full(len(image), q, jnp.float32)) for q in chosen]
        return {**found[1], "loss": sum(one["loss"] for one in found) / len(found)}

    def export(params, state, images=None):
        del images
        variables = jax.device_get({"params": params, "state": state})
        check_arrays(nn.meta.unbox(shapes()["params"]), variables["params"], model)
        return Artifact(model, architecture, variables["params"], variables["state"], {})

    checked: weakref.WeakSet[Artifact] = weakref.WeakSet()

    def check(artifact):
        if artifact not in checked:
            for kind, arrays in (("params", artifact.params), ("state", artifact.state)):
                check_arrays(nn.meta.unbox(shapes().get(kind, {})), arrays, artifact.model)
            checked.add(artifact)

    @functools.partial(jax.jit, static_argnames="method")
    def on_window(window, variables, condition, *, method):
        return to_uint8(exact.apply(variables, to_float(window), condition, method=method))

    def at_quality(method, artifact, quality):
        """A network of the model, (window) -> window."""
        condition = condition_of(codec, np.full(1, quality))
        return lambda window: on_window(window, artifact.variables, condition, method=method)

    def settled(quality, error):
        """The standard codec's quality."""
        if (quality is not None) != several:
            raise error(f"{model} {'needs a quality' if several else 'has one rate, fixed in training'}")
        quality = low if quality is None else round(quality)
        if not low <= quality <= high:
            raise error(f"{model} was made for qualities {low} to {high} of {codec}, not {quality}")
        return quality

    def compress(artifact, image, quality=None, effort=0) -> Chunks:
        quality = settled(quality, UsageError)
        if effort and not refine:
            raise UsageError(f"{model} has no effort but 0")
        check(artifact)
        image = np.asarray(image)
        if channels == 1:
            if not checks.is_grey(image):
                raise UsageError(f"this model of {model} codes grey pictures: turn the picture to grey first")
            image = image[..., :1]
        height, width = image.shape[:2]
        padded = pad_picture(image, cell)
        before = at_quality("before", artifact, quality)
        coded = by_windows(before, padded, cell, cell // scale, module.margin[0])
        coded = coded[: -(-height // scale), : -(-width // scale)]
        if effort:
            coded = refine(image, coded, quality, effort)
        return (classical.get(codec).encode(_three(coded), quality),)

    def decompress(artifact, chunks, size, quality=None):
        quality = settled(quality, CorruptStreamError)
        if len(chunks) != 1:
            raise CorruptStreamError(f"{model} writes one chunk, the file has {len(chunks)}")
        check(artifact)
        decoded = received(codec, chunks[0], channels)
        expected = tuple(-(-side // scale) for side in size)
        if decoded.shape[:2] != expected:
            raise CorruptStreamError(
                f"the {codec} file inside has {decoded.shape[1]}x{decoded.shape[0]} pixels, "
                f"{expected[1]}x{expected[0]} belong to the picture"
            )
        after = at_quality("after", artifact, quality)
        shown = by_windows(after, decoded, 1, scale, -(-module.margin[1] // scale))
        return _three(shown[: size[0], : size[1]])

    return Codec(
        init,
        {name: objective(owns, loss) for name, (owns, loss) in losses.items()},
        estimate,
        export,
        compress,
        decompress,
        ladder,
        default,
        (float(low), float(high)) if several else (0.0, 100.0),
        extension,
    )

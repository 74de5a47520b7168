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

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax import classical
from mlic_jax.classical import checks
from mlic_jax.codec import Codec, Objective
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.families import standard
from mlic_jax.families.base import Family
from mlic_jax.families.common import mean_psnr_db, mse255, pad, pad_picture
from mlic_jax.families.quality import WholeNumbers
from mlic_jax.layers import windows
from mlic_jax.layers.precision import in_float32
from mlic_jax.layers.windows import to_float, to_uint8

# Side of the windows in which pictures go through the networks, in samples of the smaller picture.
WINDOW = 256
EFFORTS = 9  # of models that refine


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


@functools.partial(jax.jit, static_argnums=0)
def _coded(module, variables, image, quality):
    """uint8 [B, H, W, 3] -> what the standard codec is given, uint8 [B, H / scale, W / scale, c], sides rounded up."""
    condition = standard.condition_of(module.codec, quality)
    seen = pad(standard.with_channels(image, module.channels), module.cell)
    coded = to_uint8(module.apply(variables, seen, condition, method="before"))
    return coded[:, : -(-image.shape[1] // module.scale), : -(-image.shape[2] // module.scale)]


@functools.partial(jax.jit, static_argnums=0)
def _judged(module, variables, image, quality, decoded, bits):
    """The estimate of pictures whose files of so many bits decode to `decoded`."""
    size = image.shape[1:3]
    seen = standard.with_channels(image, module.channels)
    condition = standard.condition_of(module.codec, quality)
    shown = module.apply(variables, to_float(decoded), condition, method="after")[:, : size[0], : size[1]]
    shown = to_uint8(shown)
    mse = mse255(seen, to_float(shown))
    rate = bits / (size[0] * size[1])
    worth = standard.worth_of_a_bit(quality, module.scale)
    # Of models around other codecs the distortion alone is a loss: nothing in them weighs bits.
    loss = mse / worth + rate if module.codec in standard.DIFFERENTIABLE else mse
    reconstruction = jnp.broadcast_to(shown, (*shown.shape[:3], 3))
    return {"loss": loss, "bits": bits, "mse255": mse, "reconstruction": reconstruction}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _on_window(module, method, window, variables, condition):
    return to_uint8(module.apply(variables, to_float(window), condition, method=method))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SandwichCodec(Family):
    """The codecs of such models; see `sandwich_codec` for the fields."""

    module: Sandwich
    losses: Mapping[str, tuple[tuple[str, ...], Callable]]
    refine: Callable | None

    @functools.cached_property
    def exact(self) -> Sandwich:
        """The module in float32, for everything but the training loss."""
        return in_float32(self.module)

    def trace(self):
        side = 4 * self.module.cell
        image = jax.ShapeDtypeStruct((1, side, side, self.module.channels), jnp.float32)
        condition = jax.ShapeDtypeStruct((1,), jnp.float32)
        return jax.eval_shape(self.module.init, jax.random.key(0), image, condition)

    # ------------------------------------------------------------------ training

    def objectives(self):
        return {
            name: Objective(owns, functools.partial(self.mean_loss, loss)) for name, (owns, loss) in self.losses.items()
        }

    def mean_loss(self, loss, params, state, batch, keys, step):
        """The mean of a model's own `loss`, see `sandwich_codec`; what its modules keep becomes the new state."""
        del step
        image = pad(standard.with_channels(batch["image"], self.module.channels), self.module.cell)
        quality = self.qualities.draw(keys)
        kept = dict(state)

        def apply(method, *arguments):
            variables = {"params": params, "state": kept}
            y, changed = self.module.apply(variables, *arguments, method=method, mutable=["state"])
            kept.update(changed.get("state", {}))
            return y

        value, metrics = loss(apply, image, quality, standard.condition_of(self.module.codec, quality), keys)
        if "mse255" in metrics:
            metrics["psnr_db"] = mean_psnr_db(metrics["mse255"])
        total = jnp.mean(value)
        return total, ({"loss": total, **jax.tree.map(jnp.mean, metrics)}, kept)

    # ------------------------------------------------------------------ use

    def estimate_at(self, params, state, image, quality):
        variables = {"params": params, "state": state}
        quality = jnp.full(len(image), quality, jnp.float32)
        # The files are written outside of the jitted programs: a picture may be of any size.
        coded = np.asarray(_coded(self.exact, variables, image, quality))
        decoded, bits = standard.on_host(self.module.codec, coded, quality)
        return _judged(self.exact, variables, image, quality, decoded, bits)

    def by_network(self, artifact, method, image, quality):
        """What `before` or `after` makes of one picture uint8 [H, W, c], window by window."""
        module = self.exact
        condition = standard.condition_of(module.codec, np.full(1, quality))
        if method == "before":
            scales, margin = (module.cell, module.cell // module.scale), module.margin[0]
        else:
            scales, margin = (1, module.scale), -(-module.margin[1] // module.scale)

        def function(window):
            return _on_window(module, method, window, artifact.variables, condition)

        return by_windows(function, image, *scales, margin)

    def encode(self, artifact, image, quality, effort, importance):
        module = self.module
        if module.channels == 1:
            if not checks.is_grey(image):
                raise UsageError(f"this model of {self.model} codes grey pictures: turn the picture to grey first")
            image = image[..., :1]
        height, width = image.shape[:2]
        coded = self.by_network(artifact, "before", pad_picture(image, module.cell), quality)
        coded = coded[: -(-height // module.scale), : -(-width // module.scale)]
        if effort:
            coded = self.refine(image, coded, quality, effort)
        return (classical.get(module.codec).encode(standard.three_channels(coded), quality),)

    def decode(self, artifact, chunks, size, quality):
        module = self.module
        decoded = standard.received(module.codec, chunks[0], module.channels)
        expected = tuple(-(-side // module.scale) for side in size)
        if decoded.shape[:2] != expected:
            raise CorruptStreamError(
                f"the {module.codec} file inside has {decoded.shape[1]}x{decoded.shape[0]} pixels, "
                f"{expected[1]}x{expected[0]} belong to the picture"
            )
        shown = self.by_network(artifact, "after", decoded, quality)
        return standard.three_channels(shown[: size[0], : size[1]])


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
    return SandwichCodec(
        model=model,
        architecture=architecture,
        qualities=WholeNumbers(low, high),
        efforts=EFFORTS if refine else 0,
        extension=extension,
        module=module,
        losses=losses,
        refine=refine,
    ).codec()

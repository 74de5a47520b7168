"""An end-to-end compression framework based on convolutional neural networks: ComCNN, a standard codec, RecCNN.

Jiang, Tao, Liu, Ren, Guo, Zhao, IEEE TCSVT 2018, https://arxiv.org/abs/1708.00838. ComCNN makes a picture of half the
size that can still be looked at; JPEG, JPEG 2000 or another codec carries it; RecCNN restores what was lost. The file
is the standard codec's own.

    image -> ComCNN -> uint8, H/2 x W/2 -> codec -> bicubic x2 -> minus RecCNN(.) -> reconstruction

    ComCNN   3x3 c -> 64 ReLU;  3x3 stride 2, 64 -> 64 ReLU;  3x3 64 -> c
    RecCNN   3x3 c -> 64 ReLU;  18 times 3x3 64 -> 64, batch norm, ReLU;  3x3 64 -> c, the residual

The paper's text could not be had in full. Layers and data path are those of the authors' released code and weights; the
gradient for ComCNN that the paper argues for (`com_gradient="skip_codec"`) and the one that the released code computes
("residual_ste") differ, and both are here. Three things are ours:

- `form="compact"`: RecCNN works on the small picture and adds its result by pixel shuffle (a quarter of the
  multiplications), ComCNN adds to 2x2 means, both begin with nothing to say; no batch norm.
- The objective "rd" trains both networks at once through differentiable JPEG, with a rate (as in Guleryuz et al. 2021,
  sandwiched compression); and one pair of networks may serve a range of qualities.
- Convolutions repeat the picture's edge (`padding="edge"`). Zeros there, as published, leave a visible frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mlic_jax.codec import Codec
from mlic_jax.entropy.coders import per_example_sum
from mlic_jax.families.common import check_choices, check_widths, mse255
from mlic_jax.families.sandwich import Sandwich, sandwich_codec
from mlic_jax.families.standard import DIFFERENTIABLE, check_range, real_codec, simulated, worth_of_a_bit
from mlic_jax.layers.batch_norm import BatchNorm
from mlic_jax.layers.conv import PADDINGS, ConditionedConv, Conv
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.resample import box_downsample, upsample
from mlic_jax.layers.space import depth_to_space, space_to_depth
from mlic_jax.layers.windows import to_float, to_uint8

FORMS = ("published", "compact")
GRADIENTS = ("skip_codec", "residual_ste", "codec_ste")
PARTS = ("both", "com", "rec")
# The networks as released, and those that two CPU cores train.
PUBLISHED = {"form": "published", "features": 64, "com_layers": 3, "rec_layers": 20}
TINY = {"form": "compact", "features": 48, "com_layers": 4, "rec_layers": 8}
TOY = {"form": "compact", "features": 4, "com_layers": 2, "rec_layers": 4}


class _Network(nn.Module):
    """What both networks are told."""

    channels: int
    features: int
    layers: int
    form: str
    padding: str
    conditional: bool
    precision: Precision | None = None
    dtype: jnp.dtype | None = None

    def convolution(self, condition):
        """(features, x, gain, stride) -> a 3x3 convolution of its own, of x."""
        numbers = itertools.count()

        def convolve(features, x, gain=2**0.5, stride=1):
            options = {"gain": gain, "stride": stride, "padding": self.padding, "precision": self.precision}
            options["dtype"], options["name"] = self.dtype, f"EdgeConv_{next(numbers)}"  # of stored weights
            if self.conditional:
                return ConditionedConv(features, 3, **options)(x, condition)
            return Conv(features, 3, **options)(x)

        return convolve


class ComCNN(_Network):
    """[B, H, W, c] -> [B, H/2, W/2, c]."""

    @nn.compact
    def __call__(self, image, condition):
        convolve = self.convolution(condition)
        if self.form == "published":
            x = nn.relu(convolve(self.features, image))
            x = nn.relu(convolve(self.features, x, stride=2))
            for _ in range(self.layers - 3):
                x = nn.relu(convolve(self.features, x))
            return convolve(self.channels, x)
        x = space_to_depth(image - 0.5, 2, order="torch")
        for _ in range(self.layers - 1):
            x = nn.relu(convolve(self.features, x))
        return box_downsample(image) + convolve(self.channels, x, gain=0.0)


class RecCNN(_Network):
    """What stands behind the codec, [B, H/2, W/2, c] -> [B, H, W, c]: bicubic upsampling, and a residual."""

    @nn.compact
    def __call__(self, decoded, condition, training=False):
        convolve = self.convolution(condition)
        y = upsample(decoded)
        if self.form == "published":
            x = nn.relu(convolve(self.features, y))
            for _ in range(self.layers - 2):
                x = nn.relu(BatchNorm()(convolve(self.features, x), training))
            return y - convolve(self.channels, x)
        x = nn.relu(convolve(self.features, decoded - 0.5))
        for _ in range((self.layers - 2) // 2):
            x = x + convolve(self.features, nn.relu(convolve(self.features, x)), gain=0.5)
        return y - depth_to_space(convolve(4 * self.channels, x, gain=0.0), 2, order="torch")


class Jiang2017(Sandwich):
    """Both networks, or one of them: without ComCNN the picture is halved by 2x2 means, without RecCNN enlarged
    only."""

    codec: str
    channels: int
    features: int
    com_layers: int
    rec_layers: int
    form: str
    padding: str
    part: str
    conditional: bool
    precision: Precision | None = None
    dtype: jnp.dtype | None = None

    scale = 2
    cell = 2

    @property
    def margin(self):
        """Of both ways, in samples of the whole picture; upsampling reaches two samples of the small one."""
        small = 2 if self.form == "compact" else 1
        return small * self.com_layers + 4, small * self.rec_layers + 4

    def setup(self):
        shared = (self.form, self.padding, self.conditional, self.precision, self.dtype)
        self.com = ComCNN(self.channels, self.features, self.com_layers, *shared)
        self.rec = RecCNN(self.channels, self.features, self.rec_layers, *shared)

    def before(self, image, condition):
        return box_downsample(image) if self.part == "rec" else self.com(image, condition).astype(image.dtype)

    def after(self, decoded, condition, training=False):
        return upsample(decoded) if self.part == "com" else self.rec(decoded, condition, training)


def _half(x):
    """Bicubic, with antialiasing as the released code's imresize: [B, H, W, c] -> [B, H/2, W/2, c]."""
    return jax.image.resize(x, (x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3]), "cubic")


class Losses(NamedTuple):
    """How the networks are trained: arguments of `jiang2017`, and the loss of each objective, see sandwich_codec."""

    codec: str
    com_gradient: str
    rate: float
    rounding: str

    def of(self, part: str) -> dict[str, tuple[tuple[str, ...], Callable]]:
        """Objective -> (the networks that it trains, loss), for both networks or one."""
        losses = {}
        if part != "com":
            losses["rec"] = (("rec",), self.rec)
        if part != "rec":
            losses["com"] = (("com",), self.com)
        if self.codec in DIFFERENTIABLE:
            losses["rd"] = ({"both": ("com", "rec"), "com": ("com",), "rec": ("rec",)}[part], self.rd)
        return losses

    def through_codec(self, small, quality):
        """What the codec makes of the small picture: no gradient."""
        small = jax.lax.stop_gradient(small)
        if self.codec in DIFFERENTIABLE:
            return simulated(self.codec, to_float(to_uint8(small)), quality, "hard")[0]
        return to_float(real_codec(self.codec, to_uint8(small), quality)[0])

    def rec(self, apply, image, quality, condition, keys):
        """Equation (5): the error of RecCNN's result behind the codec, ComCNN as it is."""
        del keys
        decoded = self.through_codec(apply("before", image, condition), quality)
        mse = mse255(image, apply("after", decoded, condition, True))
        return mse / worth_of_a_bit(quality, 2), {"mse255": mse}

    def com(self, apply, image, quality, condition, keys):
        """The error that ComCNN can do something about, RecCNN as it is."""
        del keys
        small = apply("before", image, condition)
        worth = worth_of_a_bit(quality, 2)
        if self.com_gradient == "skip_codec":
            mse = mse255(image, apply("after", small, condition, False))
            return mse / worth, {"mse255": mse}
        decoded = self.through_codec(small, quality)
        if self.com_gradient == "codec_ste":
            mse = mse255(image, apply("after", small + jax.lax.stop_gradient(decoded - small), condition, False))
            return mse / worth, {"mse255": mse}
        shown = apply("after", decoded, condition, False)
        error = jax.lax.stop_gradient(_half(shown - image))
        # A loss whose gradient by the small picture is that error (and whose value says nothing).
        surrogate = per_example_sum(small * error) * (255.0**2 / image[0].size)
        return surrogate / worth, {"mse255": mse255(image, shown)}

    def rd(self, apply, image, quality, condition, keys):
        """Rate and distortion through differentiable JPEG."""
        small = apply("before", image, condition)
        decoded, bits = simulated(self.codec, small, quality, self.rounding, keys)
        mse = mse255(image, apply("after", decoded, condition, True))
        bpp = bits / (image.shape[1] * image.shape[2])
        return mse / worth_of_a_bit(quality, 2) + self.rate * bpp, {"mse255": mse, "bpp": bpp}


def jiang2017(
    codec: str = "jpeg",
    channels: int = 1,
    low: int = 50,
    high: int = 50,
    form: str = "published",
    features: int = 64,
    com_layers: int = 3,
    rec_layers: int = 20,
    padding: str = "edge",
    part: str = "both",
    com_gradient: str = "skip_codec",
    rate: float = 1.0,
    rounding: str = "ste",
    precision: Precision | None = None,
    dtype: jnp.dtype | None = None,
) -> Codec:
    """The codec, with the objectives "rec" and "com" of the paper's alternation, and "rd" that trains both at once.

    Args:
      codec: the standard codec in the middle, a name of mlic_jax.classical.
      channels: 1 (grey, as in the paper) or 3.
      low, high: its qualities, of the small picture. The paper has a pair of networks for each.
      form: "published" or "compact", see above.
      features, com_layers, rec_layers: width, and convolutions of each network.
      padding: "edge", or "zero" as published.
      part: "both", or one network alone: "com", "rec".
      com_gradient: how ComCNN learns under the objective "com". "skip_codec": the codec is left out (the paper);
        "residual_ste": the error of the result, made small, goes straight to ComCNN's output (the released code);
        "codec_ste": the codec's own files, its gradient taken for one.
      rate: weight of the bits under "rd"; at 1 a bit buys what it buys in JPEG itself.
      rounding: of differentiable JPEG under "rd" (mlic_jax.jpeg).
      precision: of products in training, see layers/precision.py.
      dtype: of convolutions in training; float32 where None.

    Raises:
      UsageError: an argument out of range.
    """
    check_range("jiang2017", codec, channels, low, high)
    check_choices(
        "jiang2017", ("form", form, FORMS), ("padding", padding, PADDINGS), ("part", part, PARTS),
        ("com_gradient", com_gradient, GRADIENTS),
    )  # fmt: skip
    check_widths(
        "jiang2017", ("features", features, 1), ("com_layers", com_layers, 3 if form == "published" else 2),
        ("rec_layers", rec_layers, 2),
    )  # fmt: skip
    architecture: dict[str, Any] = {
        "codec": codec, "channels": channels, "low": low, "high": high, "form": form, "features": features,
        "com_layers": com_layers, "rec_layers": rec_layers, "padding": padding, "part": part,
    }  # fmt: skip
    shape = (codec, channels, features, com_layers, rec_layers, form, padding, part)
    module = Jiang2017(*shape, conditional=high > low, precision=precision, dtype=dtype)

    losses = Losses(codec, com_gradient, rate, rounding).of(part)
    return sandwich_codec(module, model="jiang2017", architecture=architecture, low=low, high=high, losses=losses)

"""Better compression with deep pre-editing, Talebi-style: a network edits the picture so that JPEG needs fewer bits.

Talebi, Kelly, Luo, Garcia Dorado, Yang, Milanfar, Elad, IEEE TIP 2021, https://arxiv.org/abs/2002.00113. What comes out
is a plain JPEG file, and there is no decoder but JPEG's.

    image -> editor -> uint8 -> JPEG

    smooth    7x7 3 -> 64, leaky ReLU; two residual units and a 3x3 with a skip over them; 3x3 64 -> 128;
              3x3 128 -> 128; 7x7 128 -> 3
    warp      a field of displacements at 1/8 of the size, at most 2 pixels, by which the picture is resampled
    cascade   warp, then smooth

The paper could not be had in full: the layers of "smooth" are those of a re-implementation (Struempler et al. 2020),
the warp follows the paper's abstract and captions alone. This is not a reproduction. Ours are: a skip over the whole
editor, which begins by changing nothing; no batch norm; kernels of 3x3 in the tiny one; one editor for a range of
qualities; the analytic estimate of the rate (mlic_jax.jpeg) in place of a learned one.

The squared error is that of the edit, before JPEG, or behind JPEG with noise in place of rounding, which is the same in
the mean; never behind a straight-through estimate: rounding in an orthonormal transform is already as good as it can
be, and an editor that sees its errors learns to chase them (it then needs more bits for the same PSNR, not fewer; a
test holds this).
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax import jpeg
from mlic_jax.codec import Codec
from mlic_jax.entropy.coders import per_example_sum
from mlic_jax.errors import UsageError
from mlic_jax.families.common import check_choices, check_widths, mse255
from mlic_jax.families.sandwich import Sandwich, sandwich_codec
from mlic_jax.families.standard import DIFFERENTIABLE, check_range, simulated, worth_of_a_bit
from mlic_jax.layers.conv import ConditionedConv, Conv
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.space import space_to_depth
from mlic_jax.layers.windows import to_float, to_uint8

VARIANTS = ("smooth", "warp", "cascade")
# Where the distortion is measured, besides behind one of jpeg.ROUNDINGS: between the edited picture and the original.
EDIT = "edit"
# Of the warp: cells of its field, and the largest displacement, in pixels.
CELL, REACH = 8, 2.0
# What an LPIPS (AlexNet) of one is worth in squared error, about as they trade along JPEG's curve at quality 10 to 20.
LPIPS_WORTH = 1100.0
FORMS = ("published", "compact")
PUBLISHED = {"form": "published", "features": 64}
TINY = {"form": "compact", "features": 24, "layers": 5}
TOY = {"form": "compact", "features": 4, "layers": 3}


def leaky(x):
    return nn.leaky_relu(x, 0.2)


class _Network(nn.Module):
    """What all networks are told."""

    features: int
    conditional: bool
    precision: Precision | None
    dtype: jnp.dtype | None

    def convolution(self, condition):
        """(features, x, gain) -> a 3x3 convolution of its own, of x, the edge repeated."""
        numbers = itertools.count()

        def convolve(features, x, gain=2**0.5):
            options = {"gain": gain, "padding": "edge", "precision": self.precision, "dtype": self.dtype}
            options["name"] = f"EdgeConv_{next(numbers)}"  # of stored weights
            if self.conditional:
                return ConditionedConv(features, 3, **options)(x, condition)
            return Conv(features, 3, **options)(x)

        return convolve

    def wide(self, features, x, gain=2**0.5):
        """A 7x7 convolution with the edge repeated."""
        return Conv(features, 7, gain=gain, padding="edge", precision=self.precision, dtype=self.dtype)(x)


class PublishedSmooth(_Network):
    """The change to an image [B, H, W, c], by the layers of the re-implementation, without its batch norms."""

    channels: int

    @nn.compact
    def __call__(self, image, condition):
        convolve = self.convolution(condition)
        first = x = leaky(self.wide(self.features, image - 0.5))
        for _ in range(2):
            x = x + nn.relu(convolve(self.features, leaky(convolve(self.features, x))))
        x = first + convolve(self.features, x)
        x = leaky(convolve(2 * self.features, x))
        x = leaky(convolve(2 * self.features, x))
        return self.wide(self.channels, x, gain=0.0)


class Smooth(_Network):
    """The change to an image [B, H, W, c], by 3x3 convolutions."""

    channels: int
    layers: int

    @nn.compact
    def __call__(self, image, condition):
        convolve, x = self.convolution(condition), image - 0.5
        for _ in range(self.layers - 1):
            x = leaky(convolve(self.features, x))
        return convolve(self.channels, x, gain=0.0)


class Field(_Network):
    """Displacements [B, H/8, W/8, 2] (down, right) in pixels, at most REACH, of an image [B, H, W, c]."""

    layers: int

    @nn.compact
    def __call__(self, image, condition):
        convolve, x = self.convolution(condition), space_to_depth(image - 0.5, CELL, order="torch")
        for _ in range(self.layers - 1):
            x = leaky(convolve(self.features, x))
        return REACH * jnp.tanh(convolve(2, x, gain=0.0).astype(image.dtype))


def enlarge(field: jax.Array) -> jax.Array:
    """Linear interpolation of a field [B, h, w, 2] between the centres of its cells: [B, 8 h, 8 w, 2]."""
    for axis in (1, 2):
        pads = [(0, 0)] * 4
        pads[axis] = (1, 1)
        padded = jnp.pad(field, pads, mode="edge")
        length = field.shape[axis]
        before, here, after = (jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(3))
        parts = []
        for i in range(CELL):
            share = (i + 0.5) / CELL - 0.5
            other = before if share < 0 else after
            parts.append((1 - abs(share)) * here + abs(share) * other)
        field = jnp.stack(parts, axis + 1).reshape(*field.shape[:axis], CELL * length, *field.shape[axis + 1 :])
    return field


def warp(image: jax.Array, displacement: jax.Array) -> jax.Array:
    """The image [B, H, W, c] at (row, column) + displacement [B, H, W, 2], bilinear, the edge repeated."""
    height, width = image.shape[1:3]
    row = jnp.clip(jnp.arange(height)[:, None] + displacement[..., 0], 0, height - 1)
    column = jnp.clip(jnp.arange(width)[None, :] + displacement[..., 1], 0, width - 1)
    top, left = jnp.floor(row), jnp.floor(column)

    def at(row, column):
        row = jnp.minimum(row.astype(jnp.int32), height - 1)
        column = jnp.minimum(column.astype(jnp.int32), width - 1)
        return jax.vmap(lambda one, r, c: one[r, c])(image, row, column)

    down, right = (row - top)[..., None], (column - left)[..., None]
    upper = (1 - right) * at(top, left) + right * at(top, left + 1)
    lower = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
    return (1 - down) * upper + down * lower


def variation(field: jax.Array) -> jax.Array:
    """Mean absolute difference of neighbouring displacements, pixels [B]."""
    down, right = jnp.abs(jnp.diff(field, axis=1)), jnp.abs(jnp.diff(field, axis=2))
    return per_example_sum(down) / max(1, down[0].size) + per_example_sum(right) / max(1, right[0].size)


class Talebi2020(Sandwich):
    """The editor."""

    codec: str
    channels: int
    variant: str
    features: int
    layers: int
    form: str
    conditional: bool
    precision: Precision | None = None
    dtype: jnp.dtype | None = None

    @property
    def cell(self):
        return 1 if self.variant == "smooth" else CELL

    @property
    def margin(self):
        smooth = {"published": 3 + 4 + 1 + 2 + 3, "compact": self.layers}[self.form] if self.variant != "warp" else 0
        warped = CELL * (self.layers + 2) + int(REACH) + 1 if self.variant != "smooth" else 0
        return smooth + warped, 0

    def setup(self):
        shared = (self.features, self.conditional, self.precision, self.dtype)
        if self.variant != "warp":
            if self.form == "published":
                self.smooth = PublishedSmooth(*shared, self.channels)
            else:
                self.smooth = Smooth(*shared, self.channels, self.layers)
        if self.variant != "smooth":
            self.field = Field(*shared, self.layers)

    def edit(self, image, condition):
        """(the edited image, its field of displacements or None)."""
        field = None
        if self.variant != "smooth":
            field = self.field(image, condition)
            image = warp(image, enlarge(field))
        if self.variant != "warp":
            image = image + self.smooth(image, condition)
        return image, field

    def before(self, image, condition):
        return self.edit(image, condition)[0]

    def after(self, decoded, condition):
        return decoded


# Effort 1 to 9 -> steps of gradient descent on the pixels.
STEPS = (5, 10, 20, 30, 50, 80, 130, 200, 300)
# Side of the parts in which a picture is refined; a multiple of JPEG's largest unit. Only the first difference of the
# DC coefficients knows of the neighbouring part.
PART = 512


@functools.partial(jax.jit, static_argnames=("codec", "steps"))
def _refined(source, edited, quality, *, codec, steps):
    """Adam on the pixels [1, H, W, c] in [0, 1] for the squared error of the edit and JPEG's bits."""
    worth = worth_of_a_bit(quality, 1)[0]

    def cost(x):
        _, bits = simulated(codec, x, quality, "hard")
        return (jnp.sum((x - source) ** 2) * 255.0**2 / source.shape[-1] + worth * bits[0]) / worth

    def step(carry, i):
        x, mean, square = carry
        gradient = jax.grad(cost)(x)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        size = 1 / 255 * (1 - i / steps)  # a level at first, in the end nothing
        down = jnp.sqrt(square / (1 - 0.99 ** (i + 1))) + 1e-8
        return (x - size * mean / (1 - 0.9 ** (i + 1)) / down, mean, square), None

    zeros = jnp.zeros_like(edited)
    return jax.lax.scan(step, (edited, zeros, zeros), jnp.arange(steps))[0][0]


def refine(codec: str, image: np.ndarray, edited: np.ndarray, quality: int, effort: int) -> np.ndarray:
    """An edit of this one picture, from the editor's on: uint8 [H, W, c] all three (effort 1..9).

    What editing can gain where nothing has to be learnt: the loss is that of `rounding="edit"`, minimised over pixels.
    """
    result = np.empty_like(edited)
    for top in range(0, edited.shape[0], PART):
        for left in range(0, edited.shape[1], PART):
            part = np.s_[top : top + PART, left : left + PART]
            source, begin = (to_float(x[part][None]) for x in (image, edited))
            found = _refined(source, begin, jnp.full(1, quality, jnp.float32), codec=codec, steps=STEPS[effort - 1])
            result[part] = np.asarray(to_uint8(found))[0]
    return result


class Loss(NamedTuple):
    """How the editor is trained: arguments of `talebi2020`, and the loss of the objective "rd", see sandwich_codec."""

    codec: str
    rounding: str
    rate: float
    perceptual: float
    smoothness: float

    def __call__(self, apply, image, quality, condition, keys):
        edited, field = apply("edit", image, condition)
        # The bits are of coefficients before rounding: any kind of it will do for them.
        decoded, bits = simulated(self.codec, edited, quality, "hard" if self.rounding == EDIT else self.rounding, keys)
        mse = mse255(image, edited if self.rounding == EDIT else decoded)
        cost, metrics = (1 - self.perceptual) * mse, {}
        if self.perceptual:
            from mlic_jax.metrics.lpips import lpips

            # Of the picture that JPEG would show: a feature distance says little about one full of noise, and rounding
            # is not what minimises it.
            seen = simulated(self.codec, edited, quality, "ste")[0]
            metrics["lpips"] = lpips(*(2 * jnp.broadcast_to(x, (*x.shape[:3], 3)) - 1 for x in (image, seen)))
            cost = cost + self.perceptual * LPIPS_WORTH * metrics["lpips"]
        if field is not None:
            cost = cost + self.smoothness * variation(field)
        bpp = bits / (image.shape[1] * image.shape[2])
        metrics |= {"mse255": mse, "bpp": bpp}
        return cost / worth_of_a_bit(quality, 1) + self.rate * bpp, metrics


def talebi2020(
    codec: str = "jpeg-optimised",
    channels: int = 3,
    low: int = 8,
    high: int = 25,
    variant: str = "smooth",
    form: str = "published",
    features: int = 64,
    layers: int = 5,
    rounding: str = EDIT,
    rate: float = 1.0,
    perceptual: float = 0.0,
    smoothness: float = 10.0,
    precision: Precision | None = None,
    dtype: jnp.dtype | None = None,
) -> Codec:
    """The editor as a codec, with the objective "rd".

    Args:
      codec: the JPEG that is written: "jpeg-optimised", "jpeg" or "jpeg444".
      channels: 1 (grey) or 3.
      low, high: its qualities, for all of which one editor is trained.
      variant: "smooth", "warp" or "cascade".
      form: of "smooth", "published" or "compact": `layers` 3x3 convolutions.
      features, layers: width, and convolutions of the compact form and of the warp.
      rounding: where the squared error is measured: before JPEG ("edit"), or behind it with its rounding replaced by
        "noise" or another of jpeg.ROUNDINGS.
      rate: weight of the bits; at 1 a bit buys what it buys in JPEG itself.
      perceptual: share of the distortion that is LPIPS (AlexNet; needs the extra `lpips`), 0 to 1; the rest is MSE.
        LPIPS is taken behind JPEG with straight-through rounding.
      smoothness: weight of the warp's variation, squared error for each pixel of it.
      precision: of products in training, see layers/precision.py.
      dtype: of convolutions in training; float32 where None.

    Raises:
      UsageError: an argument out of range.
    """
    check_range("talebi2020", codec, channels, low, high)
    if codec not in DIFFERENTIABLE:
        raise UsageError(f"talebi2020 writes JPEG: codec {codec!r} is none of {', '.join(DIFFERENTIABLE)}")
    check_choices(
        "talebi2020", ("variant", variant, VARIANTS), ("form", form, FORMS),
        ("rounding", rounding, (EDIT, *jpeg.ROUNDINGS)),
    )  # fmt: skip
    check_widths("talebi2020", ("features", features, 1), ("layers", layers, 2))
    if not 0 <= perceptual <= 1:
        raise UsageError(f"talebi2020: perceptual={perceptual!r} is a share, from 0 to 1")
    architecture: dict[str, Any] = {
        "codec": codec, "channels": channels, "low": low, "high": high, "variant": variant, "form": form,
        "features": features, "layers": layers,
    }  # fmt: skip
    shape = (codec, channels, variant, features, layers, form)
    module = Talebi2020(*shape, conditional=high > low, precision=precision, dtype=dtype)

    loss = Loss(codec, rounding, rate, perceptual, smoothness)
    owned = {"smooth": ("smooth",), "warp": ("field",), "cascade": ("smooth", "field")}[variant]
    return sandwich_codec(
        module, model="talebi2020", architecture=architecture, low=low, high=high, losses={"rd": (owned, loss)},
        extension=".jpg", refine=functools.partial(refine, codec),
    )  # fmt: skip

"""Learning convolutional networks for content-weighted image compression: an importance map says where bits go.

Li, Zuo, Gu, Zhao, Zhang, CVPR 2018, https://arxiv.org/abs/1703.10553.

    image -> encoder -> F -> head -> e in (0, 1) -> bit = [e > 1/2] -+-> mask -> decoder -> reconstruction
                          -> importance p in (0, 1) -> level Q(p) ---+

A cell of 8x8 pixels has n bits. Its level, one of L, says how many of them are sent, the first n / L times so many;
the others count as 0. Both rounding steps have made-up gradients: that of a bit is 1; that of a bit's mask by p is L
for the channels within a level of the cut (`mask_gradient="local"`, equation 7), or 1 for all channels ("global", as
the released configurations say). In files stand the levels, in bit planes, the most significant first (the authors
begin with the least), then the bits that are sent; each has the probability that a trimmed convolutional network gives
it (mlic_jax.entropy.bits.trimmed, the authors' later coder).

Loss, of one picture of H x W pixels with h x w cells, in the paper's units (pixels in -1..1):

    1/2 sum |x - x'|^2 + gamma max(sum p - r0 h w, 0)

Here it is divided by 3/2 H W (2 / 255)^2, so that the distortion is the mean squared error in steps of 8 bits, as it is
everywhere in this package; gamma keeps its meaning, and stands with a factor of 255^2 / (6 * 64) = 169.3 before
max(mean p - r0, 0). `rate="keep_ratio"` is the released form: gamma (their `weight`) times the sum of p, as long as the
share of bits that are sent is above r0 (their `cmp_ratio`); theirs is of a batch, ours of each picture.

Not as published:

- `variant="compact"` is ours: residual blocks on 8x8 cells alone, which begin as a cosine transform; bits that are not
  sent are 0 there, others -1 or 1; with 36 times fewer multiplications, for two CPU cores.
- The released code's push on pictures with too many ones is left out, since its threshold is not known.
- Kernels begin with normal values of the variance that Caffe's uniform ones have.
- `nested=True` is ours: in the first stage each cell's bits are cut at random, so that the first ones learn to matter
  most before the map begins to cut.
- A user may give the map (`importance=` of compress).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.codec import Codec
from mlic_jax.entropy.bits.trimmed import MOST_FEATURES, TrimmedConv
from mlic_jax.errors import UsageError
from mlic_jax.families.binary import Binary, BinaryModel, Quantised
from mlic_jax.families.common import check_choices, check_widths
from mlic_jax.families.quality import OneRate
from mlic_jax.layers import init
from mlic_jax.layers.blocks import ConvBlock, block_transform
from mlic_jax.layers.conv import Conv
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.space import DepthToSpace, SpaceToDepth
from mlic_jax.layers.stack import Stack, Sum, relu

CELL = 8  # pixels
VARIANTS = ("released", "paper", "compact")
IMPORTANCE = ("map", "none")
LEVELS = ("released", "paper")
GRADIENTS = ("local", "global")
RATES = ("hinge", "keep_ratio")
ENTROPY = ("trimmed", "none")
# gamma's factor before the mean of p, beside mse255: see the top of this file.
PER_CELL = 255**2 / (6 * CELL**2)

_CODER = {"code_features": 4, "map_features": 16, "blocks": 3}
PUBLISHED = {"variant": "released", "n": 64, "levels": 16, "width": 128, "depth": 1, **_CODER}
PUBLISHED_HIGH = {**PUBLISHED, "n": 128, "levels": 32}
TINY = {"variant": "compact", "n": 16, "levels": 8, "width": 64, "depth": 3,
        "code_features": 2, "map_features": 4, "blocks": 1}  # fmt: skip
TOY = {**TINY, "n": 8, "levels": 4, "width": 8, "depth": 1, "code_features": 1, "map_features": 2, "blocks": 0}


# ---------------------------------------------------------------------- quantisers


def binarise(e: jax.Array) -> jax.Array:
    """1 where e > 1/2, 0 elsewhere, float32; the gradient is that of clip(e, 0, 1)."""
    proxy = jnp.clip(e, 0, 1)
    return proxy + jax.lax.stop_gradient((e > 0.5).astype(jnp.float32) - proxy)


def levels_of(p, levels: int):
    """Q: p in 0..1, NumPy or JAX -> the largest l of 0..levels - 1 with l <= levels p, float32. p may be 1."""
    xp = np if isinstance(p, np.ndarray) else jnp
    return xp.clip(xp.floor(p * levels), 0, levels - 1)


def keep_of(level, n: int, levels: int, floor_levels: str):
    """How many of n bits a cell of a level sends: n / levels times the level ("paper"), or one more ("released")."""
    return (level + (floor_levels == "released")) * (n // levels)


def _level_of_channel(n, levels, floor_levels):
    """[n]: the least level at which a channel is sent."""
    return -(-np.arange(1, n + 1) * levels // n) - (floor_levels == "released")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def mask(p: jax.Array, n: int, levels: int, floor_levels: str = "paper", gradient: str = "local") -> jax.Array:
    """Equations 4, 5 and 7: which bits are sent.

    Args:
      p: [B, h, w] in 0..1.
      n: bits of a cell, a multiple of levels.
      levels: L.
      floor_levels: see `keep_of`.
      gradient: by p. "local": L, of channels whose least level is from L p - 1 to below L p + 1; "global": 1, of all.

    Returns:
      float32 [B, h, w, n], 1 where sent, 0 elsewhere.
    """
    needed = _level_of_channel(n, levels, floor_levels)
    return (needed <= levels_of(p, levels)[..., None]).astype(jnp.float32)


def _mask_forward(p, n, levels, floor_levels, gradient):
    return mask(p, n, levels, floor_levels, gradient), p


def _mask_backward(n, levels, floor_levels, gradient, p, g):
    if gradient == "global":
        return (g.sum(-1),)
    needed, place = _level_of_channel(n, levels, floor_levels), (p * levels)[..., None]
    near = (needed >= place - 1) & (needed < place + 1)
    return (levels * jnp.where(near, g, 0).sum(-1),)


mask.defvjp(_mask_forward, _mask_backward)


# ---------------------------------------------------------------------- networks


def signed(x):
    """Pixels in [0, 1] -> -1..1, as the networks see them."""
    return 2 * x - 1


def unsigned(x):
    """The reverse of `signed`."""
    return (x + 1) / 2


def mostly(x):
    """A sigmoid that begins near 1: every bit is sent at first, and what is left out later has been learned before."""
    return jax.nn.sigmoid(x + 2)


class Cosines(NamedTuple):
    """Initial kernels of "compact": the strongest cosines of a cell, all with a variance of 1; or the way back."""

    features: int
    inverse: bool

    def __call__(self, key, shape, dtype=jnp.float32):
        basis, variances = block_transform(CELL, self.features)
        deviations = 2 * np.sqrt(variances)  # of pixels in -1..1
        return init.constant((basis * deviations).T if self.inverse else basis / deviations)(key, shape, dtype)


class Straight(NamedTuple):
    """The other initial kernels of "compact": the first channels go through as they are."""

    def __call__(self, key, shape, dtype=jnp.float32):
        return init.constant(np.eye(*shape[2:]))(key, shape, dtype)


def _conv(features: int, kernel: int, stride: int = 1, **options) -> Conv:
    return Conv(features, kernel, stride, gain=1.0, **options)


def _residual(features, width, conv):
    """relu(x + relu(conv(relu(conv(x))))), the inner layer of `width`: a list of layers."""
    inner = (conv(width, 3), relu, conv(features, 3), relu)
    return [Sum((Stack(()), Stack(inner))), relu]


def _blocks(depth, features, width, conv):
    return [layer for _ in range(depth) for layer in _residual(features, width, conv)]


def encoder(variant: str, width: int, depth: int, **options) -> tuple:
    """The layers from the picture to F, [B, H / 8, W / 8, 2 width] (width in "compact"); options: of layers."""
    conv = functools.partial(_conv, **options)
    if variant == "compact":
        cosines = Conv(width, 1, kernel_init=Cosines(width, False), **options)
        return signed, SpaceToDepth(CELL), cosines, *(ConvBlock(**options) for _ in range(depth))
    # Caffe's kernels of twice the stride, with padding of half of it.
    return (
        signed,
        conv(width, 8, 4), relu, *_blocks(depth, width, width, conv),
        conv(2 * width, 4, 2), relu, *_blocks(depth, 2 * width, width, conv),
        *((conv(2 * width, 3), relu) if variant == "released" else ()), *_blocks(depth, 2 * width, width, conv),
    )  # fmt: skip


def importance_net(variant: str, width: int, **options) -> tuple:
    """The layers from F to p, [B, H / 8, W / 8, 1]."""
    conv = functools.partial(_conv, **options)
    hidden = [layer for _ in range(2 if variant == "paper" else 1) for layer in (conv(width, 3), relu)]
    return *hidden, conv(1, 1), mostly if variant == "compact" else jax.nn.sigmoid


def decoder(variant: str, width: int, depth: int, **options) -> tuple:
    """The layers from masked bits to the picture."""
    conv = functools.partial(_conv, **options)
    if variant == "compact":
        return (
            Conv(width, 1, kernel_init=Straight(), **options),
            *(ConvBlock(**options) for _ in range(depth + 1)),
            Conv(3 * CELL**2, 1, kernel_init=Cosines(width, True), **options), DepthToSpace(CELL), unsigned,
        )  # fmt: skip
    wide = 4 * width
    first = (
        (conv(wide, 3), relu, *_blocks(depth, wide, width, conv), conv(wide, 3), relu)
        if variant == "released"
        else (conv(wide, 1), relu, *_blocks(depth, wide, width, conv))
    )
    last = (conv(3, 1 if variant == "released" else 3), unsigned)
    return (
        *first, *_blocks(depth, wide, width, conv), DepthToSpace(2),
        conv(2 * width, 3), relu, *_blocks(depth, 2 * width, width, conv), DepthToSpace(4),
        conv(width // 4, 3), relu, *last,
    )  # fmt: skip


class Li2018(BinaryModel):
    """See the top of this file, and `li2018` for the fields.

    Without a map there is neither the importance network nor the prior of its levels.
    """

    variant: str
    n: int
    levels: int
    width: int
    depth: int
    importance: str
    floor_levels: str
    code_features: int
    map_features: int
    blocks: int
    precision: Precision | None = None
    dtype: jnp.dtype | None = None
    mask_gradient: str = "local"
    rate: str = "hinge"
    r0: float = 0.5
    gamma: float = 0.2
    nested: bool = False

    stride = CELL

    @property
    def guided(self) -> bool:
        """Whether there is a map."""
        return self.importance == "map"

    @property
    def priors(self) -> tuple[str, ...]:
        return ("code_prior", "map_prior") if self.guided else ("code_prior",)

    @property
    def planes(self) -> int:
        """Bits of a level."""
        return self.levels.bit_length() - 1

    def setup(self):
        options = {"precision": self.precision, "dtype": self.dtype}
        self.encoder = Stack(encoder(self.variant, self.width, self.depth, **options))
        straight = Straight() if self.variant == "compact" else None
        last = Conv(self.n, 1, gain=1.0, kernel_init=straight, **options)
        self.head = Stack((last, jax.nn.sigmoid))
        self.decoder = Stack(decoder(self.variant, self.width, self.depth, **options), pixels=True)
        self.code_prior = TrimmedConv(self.n, self.code_features, self.blocks)
        if self.guided:
            self.importance_net = Stack(importance_net(self.variant, self.width, **options))
            self.map_prior = TrimmedConv(self.planes, self.map_features, self.blocks)

    def codes(self, image):
        """image [B, H, W, 3], sides multiples of 8 -> e [B, h, w, n], and p [B, h, w] or None."""
        features = self.encoder(image)
        found = self.head(features), self.importance_net(features)[..., 0] if self.guided else None
        return tuple(None if part is None else part.astype(np.float32, copy=False) for part in found)

    def analyze(self, image, importance=None):
        """image [B, H, W, 3] -> {"code": [B, h, w, n], "map": [B, h, w, planes]}, -1 or +1; importance: for p."""
        e, p = self.codes(image)
        volumes = {"code": e > 0.5}
        if self.guided:
            volumes["map"] = planes_of(levels_of(p if importance is None else importance, self.levels), self.planes)
        return {name: 2 * bits.astype(np.float32) - 1 for name, bits in volumes.items()}

    def transmit(self, code):
        """The bits of all cells, and which of them are sent: both bool [B, h, w, n]."""
        if self.guided:
            level = level_of_planes(code("map", self.map_prior, part=True) > 0)
            present = np.arange(self.n) < keep_of(level, self.n, self.levels, self.floor_levels)[..., None]
        else:
            present = np.ones(code.shape("code"), bool)
        return code("code", self.code_prior, present) > 0, present

    def synthesize(self, received):
        """(bits, which are sent) [B, h, w, n], 0 or 1 -> image; uint8 of NumPy, see Stack."""
        bits, present = (part.astype(np.float32) for part in received)
        # As published, a bit that is not sent looks like a 0.
        return self.decoder((2 * bits - 1 if self.variant == "compact" else bits) * present)

    def quantise(self, image, keys=None):
        """What the networks learn by; with keys, what a `nested` model sends is cut at random."""
        e, p = self.codes(image)
        if p is not None:
            present, metrics = self._mask(p), {"importance": p}
        elif self.nested and keys is not None:
            drawn = jax.vmap(lambda key: jax.random.uniform(key, e.shape[1:3]))(keys)
            present, metrics = self._mask(drawn), {}
        else:
            present, metrics = jnp.ones_like(e), {}
        return Quantised(binarise(e), present, self.gamma * PER_CELL * self._rate(p, present), metrics)

    def _mask(self, p):
        return mask(p, self.n, self.levels, self.floor_levels, self.mask_gradient)

    def _rate(self, p, present):
        """[B]: what gamma PER_CELL weighs."""
        if p is None:
            return jnp.zeros(len(present))
        mean = p.mean((1, 2))
        if self.rate == "hinge":
            return jnp.maximum(mean - self.r0, 0)
        return jnp.where(present.mean((1, 2, 3)) > self.r0, mean, 0)


def planes_of(level, planes: int):
    """Levels [...] (whole numbers) -> [..., planes], 0 or 1, the most significant bit first."""
    xp = np if isinstance(level, np.ndarray) else jnp
    return (level.astype(xp.int32)[..., None] >> np.arange(planes)[::-1]) & 1


def level_of_planes(bits):
    """The reverse of `planes_of`: whole numbers [...], NumPy or JAX."""
    return (bits * (1 << np.arange(bits.shape[-1])[::-1])).sum(-1)


# ---------------------------------------------------------------------- the codec


def li2018(
    variant: str = "released",
    n: int = 64,
    levels: int = 16,
    width: int = 128,
    depth: int = 1,
    importance: str = "map",
    floor_levels: str = "released",
    mask_gradient: str = "local",
    rate: str = "hinge",
    r0: float = 0.5,
    gamma: float = 0.2,
    entropy: str = "trimmed",
    code_features: int = 4,
    map_features: int = 16,
    blocks: int = 3,
    nested: bool = False,
    precision: Precision | None = None,
    dtype: jnp.dtype | None = None,
) -> Codec:
    """The codec, with the objectives "rd" (the networks) and "entropy" (the coder's networks, on codes as they are).

    Args:
      variant: layers, as "released", as the "paper" has them, or "compact".
      n: bits of a cell of 8x8 pixels, a multiple of levels.
      levels: L of the importance map, a power of two.
      width: of the first layers: 128 as published, a multiple of 8; in "compact" of all layers, at most 192.
      depth: residual blocks of a stage; 1 as published.
      importance: "map", or "none": all bits of every cell are sent (the paper's first stage of training).
      floor_levels: whether the lowest level sends n / L bits ("released") or none ("paper").
      mask_gradient: "local" or "global", see `mask`.
      rate: "hinge" or "keep_ratio", see above.
      r0: the mean of p, or the share of bits that are sent, below which bits cost nothing; 0..1.
      gamma: weight of the rate in the paper's units.
      entropy: "trimmed", or "none": bits are written as they are.
      code_features, map_features, blocks: of the coder's networks, see mlic_jax.entropy.bits.trimmed.
      nested: without a map, train with a random number of bits in each cell; files have all of them.
      precision: of the networks' products in training, see layers/precision.py.
      dtype: of the networks in training; float32 where None.

    Raises:
      UsageError: an argument out of range.
    """
    check_choices(
        "li2018",
        ("variant", variant, VARIANTS), ("importance", importance, IMPORTANCE), ("floor_levels", floor_levels, LEVELS),
        ("mask_gradient", mask_gradient, GRADIENTS), ("rate", rate, RATES), ("entropy", entropy, ENTROPY),
    )  # fmt: skip
    check_widths(
        "li2018", ("n", n, 1), ("levels", levels, 2), ("width", width, 1), ("depth", depth, 0),
        ("code_features", code_features, 1), ("map_features", map_features, 1), ("blocks", blocks, 0),
    )  # fmt: skip
    _check_together(variant, n, levels, width, code_features, map_features)
    if not (0 <= r0 <= 1 and 0 <= gamma < float("inf")):
        raise UsageError(f"li2018: r0={r0!r} is within 0 and 1, and gamma={gamma!r} a number from 0")
    architecture: dict[str, Any] = {
        "variant": variant, "n": n, "levels": levels, "width": width, "depth": depth, "importance": importance,
        "floor_levels": floor_levels, "code_features": code_features, "map_features": map_features, "blocks": blocks,
    }  # fmt: skip
    training = {
        "mask_gradient": mask_gradient,
        "rate": rate,
        "r0": r0,
        "gamma": gamma,
        "nested": nested,
        "precision": precision,
        "dtype": dtype,
    }
    module = Li2018(**architecture, **training)
    return Binary(
        model="li2018",
        architecture={**architecture, "entropy": entropy},
        qualities=OneRate(),
        guided=module.guided,
        module=module,
        plain=entropy == "none",
    ).codec()


def _check_together(variant, n, levels, width, code_features, map_features):
    """Raises UsageError for numbers that are possible alone, but not with the others."""
    if levels & (levels - 1) or n % levels:
        raise UsageError(f"li2018: n={n} and levels={levels}: levels are a power of two, and n a multiple of them")
    if width > 3 * CELL**2 if variant == "compact" else width % 8:
        wanted = f"at most {3 * CELL**2}" if variant == "compact" else "a multiple of 8"
        raise UsageError(f"li2018: width={width}: the layers of {variant!r} need {wanted}")
    planes = levels.bit_length() - 1
    if max(n * code_features, planes * map_features) > MOST_FEATURES:
        raise UsageError(
            f"li2018: {n} channels with {code_features} features each, and {planes} planes with {map_features}: "
            f"the coder's layers have at most {MOST_FEATURES}"
        )

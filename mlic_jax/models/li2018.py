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
import weakref
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.codec import Chunks, Codec, Objective
from mlic_jax.entropy.bits import raw, trimmed
from mlic_jax.entropy.coders import per_example_sum
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.families.latent import mse255, pad, pad_picture, padded_size
from mlic_jax.families.sandwich import check_arguments
from mlic_jax.fileformat.artifact import Artifact, check_arrays
from mlic_jax.layers import init
from mlic_jax.layers.blocks import ConvBlock, block_transform
from mlic_jax.layers.conv import Conv
from mlic_jax.layers.precision import Precision, in_float32
from mlic_jax.layers.space import DepthToSpace, SpaceToDepth
from mlic_jax.layers.stack import Stack, Sum, relu
from mlic_jax.layers.windows import to_float, to_uint8

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


def _conv(features: int, kernel: int, stride: int = 1, *, precision: Precision | None = None) -> Conv:
    return Conv(features, kernel, stride, gain=1.0, precision=precision)


def _residual(features, width, conv):
    """relu(x + relu(conv(relu(conv(x))))), the inner layer of `width`: a list of layers."""
    inner = (conv(width, 3), relu, conv(features, 3), relu)
    return [Sum((Stack(()), Stack(inner))), relu]


def _blocks(depth, features, width, conv):
    return [layer for _ in range(depth) for layer in _residual(features, width, conv)]


def encoder(variant: str, width: int, depth: int, precision: Precision | None = None) -> tuple:
    """The layers from the picture to F, [B, H / 8, W / 8, 2 width] (width in "compact")."""
    conv = functools.partial(_conv, precision=precision)
    if variant == "compact":
        cosines = Conv(width, 1, kernel_init=Cosines(width, False), precision=precision)
        return signed, SpaceToDepth(CELL), cosines, *(ConvBlock(precision=precision) for _ in range(depth))
    # Caffe's kernels of twice the stride, with padding of half of it.
    return (
        signed,
        conv(width, 8, 4), relu, *_blocks(depth, width, width, conv),
        conv(2 * width, 4, 2), relu, *_blocks(depth, 2 * width, width, conv),
        *((conv(2 * width, 3), relu) if variant == "released" else ()), *_blocks(depth, 2 * width, width, conv),
    )  # fmt: skip


def importance_net(variant: str, width: int, precision: Precision | None = None) -> tuple:
    """The layers from F to p, [B, H / 8, W / 8, 1]."""
    conv = functools.partial(_conv, precision=precision)
    hidden = [layer for _ in range(2 if variant == "paper" else 1) for layer in (conv(width, 3), relu)]
    return *hidden, conv(1, 1), mostly if variant == "compact" else jax.nn.sigmoid


def decoder(variant: str, width: int, depth: int, precision: Precision | None = None) -> tuple:
    """The layers from masked bits to the picture."""
    conv = functools.partial(_conv, precision=precision)
    if variant == "compact":
        return (
            Conv(width, 1, kernel_init=Straight(), precision=precision),
            *(ConvBlock(precision=precision) for _ in range(depth + 1)),
            Conv(3 * CELL**2, 1, kernel_init=Cosines(width, True), precision=precision), DepthToSpace(CELL), unsigned,
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


class Li2018(nn.Module):
    """See the top of this file, and `li2018` for the fields.

    Without a map there is neither the importance network nor the coder of its levels.
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

    @property
    def planes(self) -> int:
        """Bits of a level."""
        return self.levels.bit_length() - 1

    @property
    def code_prior(self) -> trimmed.TrimmedConv:
        """The network that gives the probabilities of the bits that are sent."""
        return trimmed.TrimmedConv(self.n, self.code_features, self.blocks)

    @property
    def map_prior(self) -> trimmed.TrimmedConv:
        """The network that gives the probabilities of the bits of levels."""
        return trimmed.TrimmedConv(self.planes, self.map_features, self.blocks)

    def setup(self):
        self.encoder = Stack(encoder(self.variant, self.width, self.depth, self.precision))
        straight = Straight() if self.variant == "compact" else None
        last = Conv(self.n, 1, gain=1.0, kernel_init=straight, precision=self.precision)
        self.head = Stack((last, jax.nn.sigmoid))
        if self.importance == "map":
            self.importance_net = Stack(importance_net(self.variant, self.width, self.precision))
        self.decoder = Stack(decoder(self.variant, self.width, self.depth, self.precision), pixels=True)

    def __call__(self, image):
        e, _ = self.analyze(image)
        return self.synthesize(e, jnp.ones_like(e))

    def analyze(self, image):
        """image [B, H, W, 3], sides multiples of 8 -> e [B, h, w, n], and p [B, h, w] or None."""
        features = self.encoder(image)
        return self.head(features), self.importance_net(features)[..., 0] if self.importance == "map" else None

    def synthesize(self, bits, sent):
        """Both float32 [B, h, w, n], 0 or 1 -> image; uint8 of NumPy, see Stack."""
        # As published, a bit that is not sent looks like a 0.
        return self.decoder((2 * bits - 1 if self.variant == "compact" else bits) * sent)


def planes_of(level, planes: int):
    """Levels [...] (whole numbers) -> [..., planes], 0 or 1, the most significant bit first."""
    xp = np if isinstance(level, np.ndarray) else jnp
    return (level.astype(xp.int32)[..., None] >> np.arange(planes)[::-1]) & 1


def level_of_planes(bits: np.ndarray) -> np.ndarray:
    """The reverse of `planes_of`: int64 [...]."""
    return bits.astype(np.int64) @ (1 << np.arange(bits.shape[-1])[::-1])


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

    Raises:
      UsageError: an argument out of range.
    """
    check_arguments(
        "li2018",
        (("variant", variant, VARIANTS), ("importance", importance, IMPORTANCE), ("floor_levels", floor_levels, LEVELS),
         ("mask_gradient", mask_gradient, GRADIENTS), ("rate", rate, RATES), ("entropy", entropy, ENTROPY)),
        (("n", n, 1), ("levels", levels, 2), ("width", width, 1), ("depth", depth, 0),
         ("code_features", code_features, 1), ("map_features", map_features, 1), ("blocks", blocks, 0)),
    )  # fmt: skip
    if levels & (levels - 1) or n % levels:
        raise UsageError(f"li2018: n={n} and levels={levels}: levels are a power of two, and n a multiple of them")
    if width > 3 * CELL**2 if variant == "compact" else width % 8:
        wanted = f"at most {3 * CELL**2}" if variant == "compact" else "a multiple of 8"
        raise UsageError(f"li2018: width={width}: the layers of {variant!r} need {wanted}")
    planes = levels.bit_length() - 1
    if max(n * code_features, planes * map_features) > trimmed.MOST_FEATURES:
        raise UsageError(
            f"li2018: {n} channels with {code_features} features each, and {planes} planes with {map_features}: "
            f"the coder's layers have at most {trimmed.MOST_FEATURES}"
        )
    if not (0 <= r0 <= 1 and 0 <= gamma < float("inf")):
        raise UsageError(f"li2018: r0={r0!r} is within 0 and 1, and gamma={gamma!r} a number from 0")
    architecture: dict[str, Any] = {
        "variant": variant, "n": n, "levels": levels, "width": width, "depth": depth, "importance": importance,
        "floor_levels": floor_levels, "entropy": entropy, "code_features": code_features,
        "map_features": map_features, "blocks": blocks,
    }  # fmt: skip
    module = Li2018(
        variant, n, levels, width, depth, importance, floor_levels, code_features, map_features, blocks,
        precision,
    )  # fmt: skip
    exact = in_float32(module)  # everything but the training loss
    mapped = importance == "map"
    priors = {"code_prior": module.code_prior, **({"map_prior": module.map_prior} if mapped else {})}
    networks = ("encoder", "head", *(("importance_net",) if mapped else ()), "decoder")

    @functools.cache
    def shapes():
        key = jax.random.key(0)
        found = dict(jax.eval_shape(module.init, key, jax.ShapeDtypeStruct((1, CELL, CELL, 3), jnp.float32))["params"])
        for name, prior in priors.items():
            volume = (1, 1, 1, prior.channels)
            some = (jax.ShapeDtypeStruct(volume, jnp.float32), jax.ShapeDtypeStruct(volume, bool))
            found[name] = jax.eval_shape(prior.init, key, *some)["params"]
        return found

    def initialise(key, image_shape):
        del image_shape
        return init.materialise(shapes(), key), {}

    def of_networks(params):
        return {"params": {name: params[name] for name in networks}}

    def coded(params, image, keys=None, module=module):
        """float [B, H, W, 3] -> bits with a gradient [B, h, w, n], mask likewise, p or None.

        With keys [B], what a model without a map sends is cut at random, where it is `nested`.
        """
        e, p = module.apply(of_networks(params), pad(image, CELL), method="analyze")
        if mapped:
            sent = mask(p, n, levels, floor_levels, mask_gradient)
        elif nested and keys is not None:
            drawn = jax.vmap(lambda key: jax.random.uniform(key, e.shape[1:3]))(keys)
            sent = mask(drawn, n, levels, floor_levels, mask_gradient)
        else:
            sent = jnp.ones_like(e)
        return binarise(e), sent, p

    def shown(params, bits, sent, size, module=module):
        return module.apply(of_networks(params), bits, sent, method="synthesize")[:, : size[0], : size[1]]

    def rate_of(p, sent):  # [B, h, w], [B, h, w, n] -> [B]: what gamma PER_CELL weighs
        if not mapped:
            return jnp.zeros(len(sent))
        mean = p.mean((1, 2))
        if rate == "hinge":
            return jnp.maximum(mean - r0, 0)
        return jnp.where(sent.mean((1, 2, 3)) > r0, mean, 0)

    def code_lengths(params, bits, sent, p):
        """Name of a prior -> bits of each example [B]; without networks as many as there are."""
        volumes = {"code_prior": (2 * bits - 1, sent > 0)}
        if mapped:
            signs = 2 * planes_of(levels_of(p, levels), module.planes) - 1
            volumes["map_prior"] = (signs.astype(jnp.float32), jnp.ones(signs.shape, bool))
        if entropy == "none":
            return {name: per_example_sum(present.astype(jnp.float32)) for name, (_, present) in volumes.items()}
        return {
            name: per_example_sum(priors[name].apply({"params": params[name]}, *volume))
            for name, volume in volumes.items()
        }

    def rd_loss(params, state, batch, keys, step):
        del step
        image = to_float(batch["image"])
        size = image.shape[1:3]
        bits, sent, p = coded(params, image, keys)
        squared = mse255(image, shown(params, bits, sent, size))
        total = jnp.mean(squared + gamma * PER_CELL * rate_of(p, sent))
        metrics = {
            "loss": total,
            "mse255": jnp.mean(squared),
            "psnr_db": 20 * np.log10(255) - 10 * jnp.mean(jnp.log10(jnp.maximum(squared, 1e-9))),
            "bpp_sent": sent.sum() / (len(image) * size[0] * size[1]),  # before the coder, without the map
        }
        if mapped:
            metrics["importance"] = jnp.mean(p)
        return total, (metrics, state)

    def entropy_loss(params, state, batch, keys, step):
        del keys, step
        image = to_float(batch["image"])
        pixels = image[0, ..., 0].size
        frozen = jax.tree.map(jax.lax.stop_gradient, coded(params, image))
        bpp = {
            f"bpp_{name.removesuffix('_prior')}": jnp.mean(bits) / pixels
            for name, bits in code_lengths(params, *frozen).items()
        }
        total = sum(bpp.values())
        return total, ({"loss": total, "bpp": total, **bpp}, state)

    @jax.jit
    def estimate_of(params, image):
        seen, size = to_float(image), image.shape[1:3]
        bits, sent, p = coded(params, seen, module=exact)
        reconstruction = to_uint8(shown(params, bits, sent, size, exact))
        length = sum(code_lengths(params, bits, sent, p).values())
        squared = mse255(seen, to_float(reconstruction))
        # Bits per pixel beside the loss of the networks: while these stand still, it is what the coder's learn by.
        loss = squared + gamma * PER_CELL * rate_of(p, sent) + length / (size[0] * size[1])
        return {"loss": loss, "bits": length, "mse255": squared, "reconstruction": reconstruction}

    def estimate(params, state, image, quality=None):
        del state, quality
        return estimate_of(params, image)

    def export(params, state, images=None):
        del state, images
        params = jax.device_get(params)
        check_arrays(nn.meta.unbox(shapes()), params, "li2018")
        integers = {name: trimmed.integers_of(prior, params[name]) for name, prior in priors.items()}
        return Artifact("li2018", architecture, params, integers, {})

    checked: weakref.WeakSet[Artifact] = weakref.WeakSet()

    def check(artifact):
        if artifact not in checked:
            check_arrays(nn.meta.unbox(shapes()), artifact.params, artifact.model)
            for name, prior in priors.items():
                trimmed.check(prior, artifact.state.get(name, {}))
            checked.add(artifact)

    def write(artifact, name, bits, sent):
        if entropy == "none":
            return raw.pack(bits[sent])
        return trimmed.encode(priors[name], artifact.state[name], bits, sent)

    def read(artifact, name, data, sent):
        if entropy == "none":
            found = np.zeros(sent.shape, np.int8)
            found[sent] = raw.unpack(data, int(sent.sum()))
            return found
        return trimmed.decode(priors[name], artifact.state[name], data, sent)

    def sent_at(level):
        return np.arange(n) < keep_of(level, n, levels, floor_levels)[..., None]

    def compress(artifact, image, quality=None, effort=0, importance=None) -> Chunks:
        if quality is not None:
            raise UsageError("li2018 has one rate, fixed in training: leave the quality out")
        if effort:
            raise UsageError("li2018 has no effort but 0")
        if importance is not None and not mapped:
            raise UsageError("this model of li2018 was made without an importance map, and takes none")
        check(artifact)
        image = np.asarray(image)
        height, width = image.shape[:2]
        padded = pad_picture(image, CELL)
        e, p = exact.apply({"params": artifact.variables["params"]}, padded[None], method="analyze")
        bits = (e[0] > 0.5).astype(np.int8)
        if not mapped:
            return (write(artifact, "code_prior", bits, np.ones(bits.shape, bool)),)
        p = p[0] if importance is None else _per_cell(importance, (height, width))
        level = levels_of(p, levels).astype(np.int64)
        volume = planes_of(level, module.planes)
        first = write(artifact, "map_prior", volume, np.ones(volume.shape, bool))
        return (raw.with_length(first) + write(artifact, "code_prior", bits, sent_at(level)),)

    def decompress(artifact, chunks, size, quality=None):
        if quality is not None:
            raise CorruptStreamError("a file of li2018 has no quality")
        if len(chunks) != 1:
            raise CorruptStreamError(f"li2018 writes one chunk, the file has {len(chunks)}")
        check(artifact)
        cells = tuple(side // CELL for side in padded_size(*size, CELL))
        rest = chunks[0]
        if mapped:
            first, rest = raw.split(rest)
            planes = read(artifact, "map_prior", first, np.ones((*cells, module.planes), bool))
            sent = sent_at(level_of_planes(planes))
        else:
            sent = np.ones((*cells, n), bool)
        bits = read(artifact, "code_prior", rest, sent)
        code = (array[None].astype(np.float32) for array in (bits, sent))
        found = exact.apply({"params": artifact.variables["params"]}, *code, method="synthesize")
        return found[0, : size[0], : size[1]]

    objectives = {"rd": Objective(networks, rd_loss), "entropy": Objective(tuple(priors), entropy_loss)}
    return Codec(initialise, objectives, estimate, export, compress, decompress, guided=mapped)


def _per_cell(importance, size):
    """A user's map, float [H, W] in 0..1 -> the means of cells, float64 [h, w]. Raises UsageError."""
    importance = np.asarray(importance, np.float64)
    if importance.shape != size or not ((importance >= 0) & (importance <= 1)).all():
        raise UsageError(
            f"an importance map has one number from 0 to 1 for each of {size[1]}x{size[0]} pixels: "
            f"this one has the shape {importance.shape}, or numbers beyond"
        )
    padded = pad_picture(importance, CELL)
    height, width = padded.shape
    return padded.reshape(height // CELL, CELL, width // CELL, CELL).mean((1, 3))

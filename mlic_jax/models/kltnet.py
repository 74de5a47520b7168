"""KltNet, our own model: one set of weights for every rate, small enough for two CPU cores.

    image -> analysis -> y -> rounded in steps, each around a mean that the ones before predict -> synthesis -> picture
                         |                    ^
                         v                    | mean and scale of each entry: exact networks
                         z -> round ----------+

Nothing is computed at full resolution: samples move into channels, networks run at 1/8 and 1/16 of the picture's side
(after DCVC-RT, Jia et al., CVPR 2025, and its intra codec). What is ours:

- The transforms begin as a block transform, the cosine transform of 16x16 blocks, a stand-in for the Karhunen-Loeve
  transform, and gains that are the optimal steps of a linear codec (reverse water-filling): before the first step of
  training the model is a working codec. Networks beside it, whose last layers begin at zero, learn what is left
  (the shortcut is Li et al.'s, "On disentangled training for nonlinear transform in learned image compression", 2025).
- Quality 0..100 selects, continuously, gains of channels and the distribution of z, and enters the parse path as
  piecewise linear constants. Training draws a quality for each example.
- y is transmitted in `steps` of 2 or 4: groups of channels in turn at each place, so that every step sees half, or a
  quarter and more, of the neighbourhood and of the other channels (checkerboard, He et al., CVPR 2021; four groups as
  in DCVC-DC, Li et al., CVPR 2023). All that decides probabilities is exact (entropy/exact.py).

    net       resolution   layers
    shortcut  1/16         16x16 blocks of RGB -> M, a matrix product
    analysis  1/8          8x8 blocks -> conv 3x3 C -> blocks -> gain(quality) -> 2x2 blocks
              1/16         -> D -> blocks -> M; the sum with the shortcut times gain(quality) is y
    h_a       1/16..1/64   conv 3x3, conv 5x5 stride 2, conv 5x5 stride 2 -> Z
    h_s       1/64..1/16   transposed 5x5 stride 2 twice, matrix product -> F, mean and log-scale of y
    context   1/16         of F, what is known of y, and the step: conv 3x3, two matrix products -> changes of mean and
                           log-scale of all that is still to come
    synthesis              mirrors analysis
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mlic_jax.codec import Codec
from mlic_jax.entropy.exact import ONE, ExactStack
from mlic_jax.entropy.priors.gaussian import LogMixture
from mlic_jax.entropy.rounding import Rounding
from mlic_jax.errors import UsageError
from mlic_jax.families.common import check_widths, module_of
from mlic_jax.families.latent import LatentModel, latent_codec
from mlic_jax.layers import init
from mlic_jax.layers.blocks import ConvBlock, Gain, ShiftBlock, block_transform, interpolation
from mlic_jax.layers.conv import Conv, ConvTranspose
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.space import DepthToSpace, SpaceToDepth
from mlic_jax.layers.stack import LeakyReLU, Stack, Sum, relu
from mlic_jax.layers.windows import cores_within
from mlic_jax.runtime import number

BLOCK = 16
# Nodes over quality 0..100 between which gains are interpolated.
LEVELS = 8
# Their distance where places are counted in half steps of quality, LEVELS - 1 to each.
SPACING = 200
# Weights of the squared error (in 8-bit steps) at quality 0 and 100; between them the logarithm is linear.
LAMBDAS = (0.001, 0.08)
# Powers of two, so that products are exact: what networks on the parse path read and emit is of order 1, latents are
# not.
LATENT_UNIT = 2.0**-2
MEAN_UNIT = 2.0**2
# The quality's constants on the parse path are multiples of this.
QUALITY_UNIT = 2.0**-6
TINY = {"C": 128, "D": 192, "M": 256, "Z": 64, "F": 64, "blocks_8": 3, "blocks_16": 2, "steps": 4}
BASE = {"C": 256, "D": 384, "M": 256, "Z": 96, "F": 192, "blocks_8": 6, "blocks_16": 3, "steps": 4}
TOY = {"C": 16, "D": 16, "M": 24, "Z": 8, "F": 16, "blocks_8": 1, "blocks_16": 1, "steps": 2}

# Gains of initial kernels: in front of a ReLU, and where outputs had better begin small.
HE, SMALL = 2**0.5, 0.3
# Sides of windows in pixels. A picture of 768x512 is one, one of 1920x1080 two or three.
SIDES = (512, 768, 1152)
# Found with the weights of Tiny.
ROUND_FOR_RATE = (30.0, 12.0)
leaky_relu = LeakyReLU(0.01)


def water_filling(lmbda: np.ndarray) -> np.ndarray:
    """The quantisation step of a linear codec in [0, 1] pixels that minimises lmbda 255^2 MSE + bits per pixel.

    At high rate a coefficient quantised with step s has the squared error s^2 / 12 and costs -log2 s bits; there are
    three coefficients per pixel.
    """
    return np.sqrt(12 * 3 / (2 * np.log(2) * lmbda * 255.0**2))


class BlockTransform(NamedTuple):
    """The kernel of the shortcut: block_transform's columns, or for the way back its rows. Equal ones compare equal."""

    features: int
    inverse: bool

    def __call__(self, key, shape, dtype=jnp.float32):
        basis, _ = block_transform(BLOCK, self.features)
        return init.constant(basis.T if self.inverse else basis)(key, shape, dtype)


class StepLogs(NamedTuple):
    """Logarithms of the gains in front of quantisation: one over the step of `water_filling`; or behind it."""

    inverse: bool

    def __call__(self, key, shape, dtype=jnp.float32):
        logs = np.log(water_filling(np.geomspace(*LAMBDAS, LEVELS)))[:, None]
        return init.constant(logs if self.inverse else -logs)(key, shape, dtype)


def centre(x):
    """Pixels in [0, 1] around zero."""
    return x - 0.5


def uncentre(x):
    """The reverse of `centre`."""
    return x + 0.5


def mosaic(height: int, width: int, step: int, steps: int) -> np.ndarray:
    """Which group of channels is transmitted in a step, int [height, width], 0..steps - 1.

    Over the steps every place transmits every group once. With 2 steps, neighbours transmit different groups; with 4,
    the four places of any 2x2 square do.
    """
    rows, columns = np.arange(height)[:, None], np.arange(width)
    place = (rows + columns) % 2 if steps == 2 else (rows % 2) * 2 + columns % 2
    # Of four: which place follows diagonally, then the two that are left.
    return place ^ (step if steps == 2 else (0, 3, 2, 1)[step])


def gather(x, step: int, steps: int):
    """[B, h, w, M] -> [B, h, w, M / steps], at each place the channels that are transmitted in this step."""
    xp, groups = module_of(x), module_of(x).split(x, steps, axis=-1)
    chosen = mosaic(*x.shape[1:3], step, steps)[..., None]
    part = groups[0]
    for group in range(1, steps):
        part = xp.where(chosen == group, groups[group], part)
    return part


def scatter(part, step: int, steps: int):
    """The reverse of `gather`, zeros elsewhere: [B, h, w, M / steps] -> [B, h, w, M]."""
    xp, chosen = module_of(part), mosaic(*part.shape[1:3], step, steps)[..., None]
    return xp.concatenate([xp.where(chosen == group, part, xp.float32(0)) for group in range(steps)], axis=-1)


def _place(quality: np.ndarray) -> int:
    """Where a quality [1] in half steps lies among the levels, which are SPACING apart: whole numbers."""
    return round(2 * float(quality[0])) * (LEVELS - 1)


class QualityPrior(nn.Module):
    """The prior of z: around zero, a scale for each channel and level, interpolated.

    Coders take them from the artifact's state, in steps of 1/256.
    """

    channels: int

    @nn.compact
    def __call__(self, quality) -> LogMixture:
        """quality float [B] -> the prior of [B, h, w, channels]."""
        logs = self.param("log_scale", init.constant(1.0), (LEVELS, self.channels))
        if not isinstance(quality, np.ndarray):
            return LogMixture((interpolation(quality, LEVELS) @ logs)[:, None, None])
        if self.has_variable("state", "log_scale"):
            fixed = np.asarray(self.get_variable("state", "log_scale"), np.int64)
        else:
            fixed = np.rint(np.clip(np.asarray(logs, np.float64), -8, 8) * ONE).astype(np.int64)
        place = _place(quality)
        node = min(place // SPACING, LEVELS - 2)
        beyond = place - node * SPACING
        mixed = (fixed[node] * (SPACING - beyond) + fixed[node + 1] * beyond + SPACING // 2) // SPACING
        kept = {self.name: {"log_scale": fixed.astype(np.int32)}}
        return LogMixture((mixed / ONE).astype(np.float32)[None, None, None], kept=kept)


def quality_channels(like, quality):
    """The quality as channels, [B, h, w, LEVELS] for `like` [B, h, w, C]: interpolation weights."""
    if isinstance(like, np.ndarray):
        distance = np.abs(_place(quality) - SPACING * np.arange(LEVELS))
        units = np.maximum(0, SPACING - distance) * round(1 / QUALITY_UNIT) // SPACING
        weights = (units * QUALITY_UNIT).astype(np.float32)
        return np.broadcast_to(weights, (*like.shape[:3], LEVELS))
    return jnp.broadcast_to(interpolation(quality, LEVELS)[:, None, None], (*like.shape[:3], LEVELS))


class KltNet(LatentModel):
    """See the top of this file. C, D: widths at 1/8 and 1/16; M, Z: channels of y and z; F: features of h_s.

    round_for_rate: see `rounding`.
    """

    C: int
    D: int
    M: int
    Z: int
    F: int
    blocks_8: int
    blocks_16: int
    steps: int
    round_for_rate: tuple[float, float] = ROUND_FOR_RATE
    dtype: Any = None
    precision: Precision | None = None
    stride = 64
    has_quality = True
    # With the steps of `water_filling`, lmbda 255^2 times a squared error of one step is 6 / ln 2 bits at every rate:
    # the curvature. With refinement, gradients see to what else depends on a symbol.
    refined = Rounding({f"y_{step}": (12.5, 9.5) for step in range(4)}, curvature=6 / np.log(2))

    @property
    def rounding(self):
        """With weights for quality 0 and 100, that is, more than the curvature (see `refined`): more depends on a
        symbol than its own bits (docs/lab/encoder.md)."""
        return Rounding({f"y_{step}": self.round_for_rate for step in range(self.steps)})

    def setup(self):
        self.analysis = self._stack(self._analysis_layers(), 16)
        self.synthesis = self._stack(self._synthesis_layers(), 16, pixels=True)
        conv = functools.partial(Conv, gain=1.0, precision=self.precision)
        up = functools.partial(ConvTranspose, kernel=5, stride=2, gain=HE, precision=self.precision)
        wide = max(self.Z, self.F)
        self.h_a = self._stack(
            (conv(wide, 3, gain=HE), leaky_relu, conv(wide, 5, 2, gain=HE), leaky_relu, conv(self.Z, 5, 2)), 64
        )
        exact = functools.partial(self._stack, kind=ExactStack, of_values=True)
        self.h_s = exact((up(wide), relu, up(wide), relu, conv(2 * self.M + self.F, 1, gain=SMALL)), 64)
        self.context = exact(
            (conv(self.D, 3, gain=HE), relu, conv(self.D, 1, gain=HE), relu, conv(2 * self.M, 1, gain=SMALL)), 16
        )
        self.prior_z = QualityPrior(self.Z)

    def _stack(self, layers, cell, kind=Stack, **more):
        """A network whose cells are `cell` pixels, in windows of SIDES."""
        return kind(layers, cores=cores_within([side // cell for side in SIDES], layers), **more)

    def _analysis_layers(self):
        conv = self._inner
        residual = (
            SpaceToDepth(BLOCK // 2),
            conv(self.C, 3),
            *self._at_8(),
            Gain(LEVELS),
            SpaceToDepth(2),
            conv(self.D, 1),
            *self._at_16(),
            conv(self.M, 1, gain=0.0),
        )
        linear = (SpaceToDepth(BLOCK), self._shortcut(self.M, inverse=False))
        return centre, Sum((Stack(linear), Stack(residual))), Gain(LEVELS, StepLogs(False))

    def _synthesis_layers(self):
        conv = self._inner
        residual = (
            conv(self.D, 1),
            *self._at_16(),
            conv(4 * self.C, 1),
            DepthToSpace(2),
            Gain(LEVELS),
            *self._at_8(),
            conv(3 * (BLOCK // 2) ** 2, 3, gain=0.0),
            DepthToSpace(BLOCK // 2),
        )
        linear = (self._shortcut(3 * BLOCK**2, inverse=True), DepthToSpace(BLOCK))
        return Gain(LEVELS, StepLogs(True)), Sum((Stack(linear), Stack(residual))), uncentre

    def _inner(self, features, kernel, gain=1.0):
        """A convolution of the transforms but for their shortcuts; what decides probabilities knows no dtype."""
        return Conv(features, kernel, gain=gain, dtype=self.dtype, precision=self.precision)

    def _shortcut(self, features, inverse):
        blocks = BlockTransform(self.M, inverse)
        return Conv(features, 1, use_bias=False, kernel_init=blocks, precision=self.precision)

    def _at_8(self):
        return [ShiftBlock(dtype=self.dtype, precision=self.precision) for _ in range(self.blocks_8)]

    def _at_16(self):
        blocks = (ConvBlock, ShiftBlock) * self.blocks_16
        return [block(dtype=self.dtype, precision=self.precision) for block in blocks]

    def analyze(self, image, quality):
        y = self.analysis(image, quality)
        parts = {f"y_{step}": gather(y, step, self.steps) for step in range(self.steps)}
        return {"z": self.h_a(y * np.float32(LATENT_UNIT)), **parts}

    def transmit(self, code):
        z = code("z", self.prior_z(code.quality))
        xp, M = module_of(z), self.M
        found = code.exact(self.h_s, xp.concatenate([z * LATENT_UNIT, quality_channels(z, code.quality)], axis=-1))
        # Means, in MEAN_UNIT, and log-scales of all that is still to come. Of large pictures they are hundreds of
        # megabytes: NumPy adds in place, to a copy of its own.
        moments, features = xp.array(found[..., : 2 * M]), xp.maximum(found[..., 2 * M :], 0)
        del found
        y = None
        for step in range(self.steps):
            if step:
                moments += self._change(code, features, y, step)
            mean, log_scale = (gather(part, step, self.steps) for part in (moments[..., :M], moments[..., M:]))
            part = scatter(code(f"y_{step}", LogMixture(log_scale, mean * MEAN_UNIT)), step, self.steps)
            if step:
                y += part
            else:
                y = part
        return y

    def _change(self, code, features, y, step):
        """Of the moments, by what is known of y."""
        seen = module_of(y).concatenate([features, y * LATENT_UNIT, self._which(y, step)], axis=-1)
        return code.exact(self.context, seen)

    def _which(self, like, step):
        """The number of the step as channels, one that is 1 and zeros: one network serves all steps."""
        channels = np.zeros(self.steps - 1, np.float32)
        channels[step - 1] = 1
        return module_of(like).broadcast_to(channels, (*like.shape[:3], self.steps - 1))

    def synthesize(self, received, quality):
        return self.synthesis(received, quality)


def kltnet(
    *,
    C: int = TINY["C"],
    D: int = TINY["D"],
    M: int = TINY["M"],
    Z: int = TINY["Z"],
    F: int = TINY["F"],
    blocks_8: int = TINY["blocks_8"],
    blocks_16: int = TINY["blocks_16"],
    steps: int = TINY["steps"],
    round_for_rate: tuple[float, float] = ROUND_FOR_RATE,
    dtype=None,
    precision=None,
    **training,
) -> Codec:
    """KltNet, by default Tiny.

    Args:
      C, D: widths at 1/8 and 1/16 of the resolution.
      M, Z: channels of y (a multiple of `steps`) and z.
      F: features that h_s hands to the context networks.
      blocks_8, blocks_16: blocks at 1/8, and pairs of blocks at 1/16, of each transform.
      steps: in which y is transmitted, 2 or 4.
      round_for_rate: how many bits a symbol must save to enlarge a squared error by one step, at quality 0 and 100. Of
        the encoder alone: the card of weights may have their own (Artifact.encoder).
      dtype, precision, training: see latent_codec.
    """
    widths = {"C": C, "D": D, "M": M, "Z": Z, "F": F, "blocks_8": blocks_8, "blocks_16": blocks_16, "steps": steps}
    check_widths("kltnet", *((name, value, 1) for name, value in widths.items()))
    if steps not in (2, 4) or M % steps:
        raise UsageError(f"kltnet: steps={steps}, M={M}: steps are 2 or 4, M is a multiple of them")
    weights = [number(weight) for weight in round_for_rate] if isinstance(round_for_rate, list | tuple) else []
    if len(weights) != 2 or not all(weight is not None and 0 < weight < np.inf for weight in weights):
        raise UsageError(f"kltnet: round_for_rate={round_for_rate!r} is no pair of weights: two numbers above 0")
    module = KltNet(**widths, round_for_rate=tuple(weights), dtype=dtype, precision=precision)
    return latent_codec(module, model="kltnet", architecture=widths, lmbda=LAMBDAS, **training)

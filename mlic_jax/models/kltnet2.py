"""KltNet 2: one set of weights for every rate, a receiver for one CPU core, a sender that is heavier.

    image -> analysis -> y -> over predicted steps, rounded around means in four steps -> body and renderer -> picture
                         |                       ^                  ^
                         v                       | steps            | means, each from what was sent before it
                         z -> round -------------+------------------+
                                |
                                +-> scales: one linear map, in integers

Everything that costs the receiver time is small; the sender, which runs once, is not. After PULSE (2026, arXiv
2609.18602) are: the scales, which come once from z by one linear map, so that whole streams are read before any other
network runs, and nothing but that map has to be exact; means that are refined step by step in floating point, since no
probability depends on them; a body at 1/16 of the resolution, and behind it a renderer, a network of single cells on a
grid at 1/4, whose hidden channels the body scales and shifts; quantisation steps that are predicted. What is ours is
what KltNet has: the block transform at the start, quality 0..100, four groups of channels in turn. The grid of the
renderer is filled by the inverse of the block transform, each cell with its 4x4 pixels of the linear codec; so the
shortcut costs nothing beyond the filling that a renderer needs anyway.

    net       resolution   layers
    analysis  1/16         16x16 blocks -> A -> gain(quality) -> blocks -> M; the sum with the block transform's
                           coefficients times gain(quality) is y
    h_a       1/16..1/64   product, block, 2x2 blocks -> product, block, 2x2 blocks -> Z
    scales    1/64..1/16   of z and the quality: transposed 7x7 stride 4 -> log-scales of y. Integers
    steps     1/64..1/16   the same in floating point -> logarithms of quantisation steps
    features  1/64..1/16   the same -> F, ReLU
    mean_0    1/16         of the features: two products -> means
    mean_s    1/16         of the features and what is known of y: product, conv 3x3, product -> changes of the means
    synthesis 1/16         y times steps over gain(quality) -> body: D -> gain(quality) -> blocks
              1/4          grid of 4x4 cells a block, each 48 samples: block transform of y, plus a product of the body;
                           to each cell its 48 -> H, scaled and shifted as the body says, ReLU -> 48, is added
              1            each cell is 4x4 pixels

There is no attention over a whole picture, so windows (layers/windows.py) are exact. A decoder reads all symbols first;
means, steps and synthesis are then one program for each shape of window.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.codec import Codec
from mlic_jax.entropy import coders
from mlic_jax.entropy.exact import ExactStack
from mlic_jax.entropy.priors.gaussian import LogMixture
from mlic_jax.entropy.rounding import Rounding
from mlic_jax.errors import UsageError
from mlic_jax.families.common import check_widths, module_of
from mlic_jax.families.latent import LatentModel, latent_codec
from mlic_jax.layers import init
from mlic_jax.layers.blocks import DepthwiseBlock, Gain, block_transform
from mlic_jax.layers.conv import Conv, ConvTranspose
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.space import SpaceToDepth
from mlic_jax.layers.stack import Stack, Sum, relu
from mlic_jax.layers.windows import Inside, evaluate, to_uint8
from mlic_jax.models.kltnet import (
    BLOCK,
    HE,
    LAMBDAS,
    LATENT_UNIT,
    LEVELS,
    SMALL,
    BlockTransform,
    QualityPrior,
    StepLogs,
    centre,
    gather,
    mosaic,
    quality_channels,
    scatter,
    uncentre,
)

# Cells of the renderer: their side in pixels, how many a block has along an axis, samples of each.
CELL = 4
ACROSS = BLOCK // CELL
SAMPLES = 3 * CELL**2
GROUPS = 4  # of channels, each place transmits one in a step
# Sides of windows in cells of 16 pixels, without margins.
CORES = (20, 36)
# Sides of windows of the receiver in cells of 64 pixels, without margins. With Nano's, 512, 768, 1280 and 1920 pixels.
RECEIVED = (4, 8, 16, 26)
# What a kernel of 7 needs to interpolate between the entries of z, which are 4 places apart.
UP = {"kernel": 7, "stride": 4}
# Of the logarithm of a predicted step.
LARGEST_LOG_STEP = 1.0
NANO = {"A": 320, "blocks_a": 4, "D": 192, "blocks_d": 2, "H": 128, "R": 64, "M": 256, "Z": 64, "F": 64}
TINY2 = {"A": 448, "blocks_a": 5, "D": 384, "blocks_d": 4, "H": 256, "R": 128, "M": 256, "Z": 96, "F": 96}
TOY = {"A": 16, "blocks_a": 1, "D": 16, "blocks_d": 1, "H": 8, "R": 8, "M": 24, "Z": 8, "F": 8}


class CellTransform(NamedTuple):
    """Kernel of the way back from coefficients to cells: rows of the block transform, pixels in order of cells."""

    features: int

    def __call__(self, key, shape, dtype=jnp.float32):
        basis, _ = block_transform(BLOCK, self.features)
        basis = basis.reshape(ACROSS, CELL, ACROSS, CELL, 3, -1).transpose(5, 0, 2, 1, 3, 4)
        return init.constant(basis.reshape(self.features, -1))(key, shape, dtype)


def _exponential(log_step):
    xp = module_of(log_step)
    return xp.exp(xp.clip(log_step, -LARGEST_LOG_STEP, LARGEST_LOG_STEP))


class Renderer(nn.Module):
    """The synthesis: a body at 1/16 of the resolution, and a grid of cells of 4x4 pixels that it modulates.

    float [B, h, w, M] -> [B, 16 h, 16 w, 3]. Until the last step samples lie in order of blocks, [B, h, w, cells, 48]:
    all is products of matrices, and what the body says of a block is broadcast to its cells.

    Attributes:
      M: channels of y.
      D, blocks: width of the body, and its blocks.
      H: hidden channels of a cell.
      dtype: to compute in, but for the block transform; parameters stay float32.
      precision: of products, see layers/precision.py.
    """

    M: int
    D: int
    blocks: int
    H: int
    dtype: Any = None
    precision: Precision | None = None
    scale = Fraction(BLOCK)

    def setup(self):
        product = functools.partial(Conv, kernel=1, dtype=self.dtype, precision=self.precision)
        blocks = [DepthwiseBlock(dtype=self.dtype, precision=self.precision) for _ in range(self.blocks)]
        self.body = Stack((product(self.D, gain=1.0), Gain(LEVELS), *blocks))
        pixels = ACROSS**2 * SAMPLES
        self.linear = Conv(pixels, 1, use_bias=False, kernel_init=CellTransform(self.M), precision=self.precision)
        self.fill = product(pixels, gain=0.0)
        self.modulation = product(2 * self.H, gain=SMALL)
        self.wide = product(self.H, gain=HE)
        self.narrow = product(SAMPLES, gain=0.0)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample along an axis on which the output samples first..last depend."""
        return first // BLOCK - self.blocks, last // BLOCK + self.blocks

    def within(self, y: jax.Array, inside: Inside | None, quality: jax.Array | None = None) -> jax.Array:
        """See Stack.within."""
        batch, height, width, _ = y.shape
        cells = (batch, height, width, ACROSS**2, SAMPLES)
        body = self.body.within(y, inside, quality)
        grid = (self.linear(y) + self.fill(body)).reshape(cells)
        scale, shift = jnp.split(self.modulation(body)[:, :, :, None], 2, axis=-1)
        hidden = nn.relu(self.wide(grid) * (1 + scale) + shift)
        grid = grid + self.narrow(hidden)
        grid = grid.reshape(batch, height, width, ACROSS, ACROSS, CELL, CELL, 3).transpose(0, 1, 3, 5, 2, 4, 6, 7)
        return grid.reshape(batch, height * BLOCK, width * BLOCK, 3)


class _Down(NamedTuple):
    """Every fourth sample, as far as windows are concerned."""

    scale = Fraction(1, ACROSS)

    def inputs_of(self, first, last):
        return first * ACROSS, last * ACROSS + ACROSS - 1


class _Up(NamedTuple):
    """From places of z to pixels, `margin` places of y around."""

    margin: int
    scale = Fraction(ACROSS * BLOCK)

    def inputs_of(self, first, last):
        first, last = first // BLOCK - self.margin, last // BLOCK + self.margin
        edge = UP["kernel"] // 2
        return -((edge - first) // ACROSS), (last + edge) // ACROSS


class _Receiver(NamedTuple):
    """What layers/windows.py asks about everything behind a stream: symbols and z in, pixels out, in one program."""

    module: KltNet2

    @property
    def layers(self):
        # Each network of means but the first sees the places around.
        return _Down(), _Up(self.module.blocks_d + GROUPS - 1)

    cores = RECEIVED


@functools.partial(jax.jit, static_argnums=0)
def _receive(receiver, variables, x, inside, quality):
    return to_uint8(receiver.module.apply(variables, x, inside, quality, method="within"))


class KltNet2(LatentModel):
    """See the top of this file.

    Attributes:
      A, blocks_a: width and blocks of the analysis.
      D, blocks_d: width and blocks of the body of the synthesis.
      H: hidden channels of the renderer.
      R: width of the networks of means.
      M, Z, F: channels of y and z, and of the features of z.
      dtype: that analysis and synthesis compute in; parameters stay float32.
      precision: of products, see layers/precision.py.
    """

    A: int
    blocks_a: int
    D: int
    blocks_d: int
    H: int
    R: int
    M: int
    Z: int
    F: int
    dtype: Any = None
    precision: Precision | None = None
    stride = 64
    has_quality = True
    # See KltNet.
    rounding = Rounding({f"y_{step}": (30.0, 12.0) for step in range(GROUPS)})
    refined = Rounding({f"y_{step}": (12.5, 9.5) for step in range(GROUPS)}, curvature=6 / np.log(2))

    def setup(self):
        self.analysis = Stack(self._analysis_layers(), cores=CORES)
        self.synthesis = Stack(
            (Gain(LEVELS, StepLogs(True)), *self.synthesis_layers(), uncentre), cores=CORES, pixels=True
        )
        conv = functools.partial(Conv, kernel=1, gain=1.0, precision=self.precision)
        block = functools.partial(DepthwiseBlock, precision=self.precision)
        up = functools.partial(ConvTranspose, **UP, precision=self.precision)
        wide = 2 * self.Z
        self.h_a = Stack(
            (conv(wide), block(), SpaceToDepth(2), conv(wide), block(), SpaceToDepth(2), conv(self.Z)), cores=CORES
        )
        self.scales = ExactStack((up(self.M, gain=SMALL),), of_values=True)
        self.steps = Stack((up(self.M, gain=0.0),))
        self.features = Stack((up(self.F, gain=HE), relu))
        self.mean_0 = Stack((conv(self.R, gain=HE), relu, conv(self.M, gain=0.0)), cores=CORES)
        self.mean_1, self.mean_2, self.mean_3 = (
            Stack(
                (conv(self.R, gain=HE), relu, conv(self.R, kernel=3, gain=HE), relu, conv(self.M, gain=0.0)),
                cores=CORES,
            )
            for _ in range(1, GROUPS)
        )
        self.prior_z = QualityPrior(self.Z)

    def _analysis_layers(self):
        conv = functools.partial(Conv, kernel=1, precision=self.precision)
        blocks = [DepthwiseBlock(dtype=self.dtype, precision=self.precision) for _ in range(self.blocks_a)]
        coefficients = conv(self.M, use_bias=False, kernel_init=BlockTransform(self.M, False))
        network = (
            SpaceToDepth(BLOCK),
            conv(self.A, gain=1.0, dtype=self.dtype),
            Gain(LEVELS),
            *blocks,
            conv(self.M, gain=0.0, dtype=self.dtype),
        )
        linear = (SpaceToDepth(BLOCK), coefficients)
        return centre, Sum((Stack(linear), Stack(network))), Gain(LEVELS, StepLogs(False))

    def synthesis_layers(self):
        """What makes of y, without its gains, the picture around zero."""
        return [Renderer(self.M, self.D, self.blocks_d, self.H, self.dtype, self.precision)]

    def _known(self, z, quality):
        """What the networks behind z read: it and the quality, [B, h, w, Z + LEVELS]."""
        return module_of(z).concatenate([z * LATENT_UNIT, quality_channels(z, quality)], axis=-1)

    def _step(self, known):
        """How large the predicted quantisation steps are, in those of the gains: [B, 4 h, 4 w, M]."""
        return _exponential(self.steps(known))

    def analyze(self, image, quality):
        y = self.analysis(image, quality)
        z = self.h_a(y * np.float32(LATENT_UNIT))
        # As `transmit` will know it: z is always rounded to nearest.
        rounded = np.rint(z) if isinstance(z, np.ndarray) else coders.straight_through_round(z)
        y = y / self._step(self._known(rounded, quality))
        return {"z": z, **{f"y_{step}": gather(y, step, GROUPS) for step in range(GROUPS)}}

    def transmit(self, code):
        z = code("z", self.prior_z(code.quality))
        known = self._known(z, code.quality)
        log_scale = code.exact(self.scales, known)
        scales = [gather(log_scale, step, GROUPS) for step in range(GROUPS)]
        if not hasattr(code, "latents"):  # what reads symbols need not know around which means they were rounded
            parts = [code(f"y_{step}", LogMixture(scale)) for step, scale in enumerate(scales)]
            return {"known": known, "symbols": sum(scatter(part, step, GROUPS) for step, part in enumerate(parts))}
        features = self.features(known)
        mean, y, means = self.mean_0(features), 0, 0
        for step, scale in enumerate(scales):
            if step:
                mean = mean + self._network_of_means(step)(self._seen(features, y))
            center = gather(mean, step, GROUPS)
            y = y + scatter(code(f"y_{step}", LogMixture(scale, center)), step, GROUPS)
            means = means + scatter(center, step, GROUPS)
        if isinstance(y, np.ndarray):
            return {"known": known, "symbols": np.rint(y - means)}
        return {"known": known, "y": y}

    def _network_of_means(self, step):
        return (self.mean_0, self.mean_1, self.mean_2, self.mean_3)[step]

    def _seen(self, features, y):
        """What a network of means reads."""
        return module_of(y).concatenate([features, y * np.float32(LATENT_UNIT)], axis=-1)

    def synthesize(self, received, quality):
        """What `transmit` returns: `known`, and y [B, h, w, M] in predicted steps, or, of files, its symbols."""
        if "y" in received:
            return self.synthesis(received["y"] * self._step(received["known"]), quality)
        spread = np.repeat(np.repeat(received["known"], ACROSS, axis=1), ACROSS, axis=2)
        alone, variables = self.unbind()
        x = np.concatenate([received["symbols"], spread], axis=-1)
        return evaluate(_Receiver(alone), {"params": variables["params"]}, x, _receive, quality)

    def within(self, x, inside, quality):
        """The receiver behind a stream, of a window: symbols and z [B, h, w, M + Z + LEVELS] -> [B, 16 h, 16 w, 3]."""
        symbols, known = x[..., : self.M], x[:, ::ACROSS, ::ACROSS, self.M :]
        of_z = inside.scaled(Fraction(1, ACROSS))
        features, log_step = (network.within(known, of_z) for network in (self.features, self.steps))
        mean, y = self.mean_0.within(features, inside), jnp.zeros_like(symbols)
        group = np.arange(self.M) // (self.M // GROUPS)
        for step in range(GROUPS):
            if step:
                mean = mean + self._network_of_means(step).within(self._seen(features, y), inside)
            # Windows begin at multiples of four places: their mosaic is the picture's.
            y = jnp.where(mosaic(*x.shape[1:3], step, GROUPS)[..., None] == group, symbols + mean, y)
        return self.synthesis.within(y * _exponential(log_step), inside, quality)


def kltnet2(
    *,
    A: int = NANO["A"],
    blocks_a: int = NANO["blocks_a"],
    D: int = NANO["D"],
    blocks_d: int = NANO["blocks_d"],
    H: int = NANO["H"],
    R: int = NANO["R"],
    M: int = NANO["M"],
    Z: int = NANO["Z"],
    F: int = NANO["F"],
    dtype=None,
    precision=None,
    **training,
) -> Codec:
    """KltNet 2, by default Nano.

    Args:
      A, blocks_a: width and blocks of the analysis.
      D, blocks_d: width and blocks of the body of the synthesis.
      H: hidden channels of the renderer.
      R: width of the networks of means.
      M, Z, F: channels of y (a multiple of 4) and z, and of the features of z.
      dtype, precision, training: see latent_codec.
    """
    widths = {"A": A, "blocks_a": blocks_a, "D": D, "blocks_d": blocks_d, "H": H, "R": R, "M": M, "Z": Z, "F": F}
    check_widths("kltnet2", *((name, value, 1) for name, value in widths.items()))
    if M % GROUPS:
        raise UsageError(f"kltnet2: M={M} is no multiple of {GROUPS}, the groups in which y is transmitted")
    module = KltNet2(**widths, dtype=dtype, precision=precision)
    return latent_codec(module, model="kltnet2", architecture=widths, lmbda=LAMBDAS, **training)

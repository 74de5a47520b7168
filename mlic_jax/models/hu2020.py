"""Coarse-to-fine hyper-prior modeling: two layers of hyperpriors in place of a serial context.

Hu, Yang, Liu, AAAI 2020; Hu, Yang, Ma, Liu, "Learning end-to-end lossy image compression: a benchmark", TPAMI 2021,
https://arxiv.org/abs/2002.03711. Layers, widths and stages of training as in the authors' Coarse2Fine-PyTorch.

    image -> analysis -> z3 (1/16) -> hyper_analysis_2 -> z2 (1/32) -> hyper_analysis_1 -> z1 (1/64)
    P(z1) = N(0, sigma_c^2);   z1 -> hyper_synthesis_1 -> h1 -> predict_2 -> mu, log sigma of z2
                               z2 -> hyper_synthesis_2 -> h2 -> predict_3 -> mu, log sigma of z3
    z3, h2, h1 -> synthesis -> reconstruction               all latents are rounded to whole numbers, not around mu

    net                layers (k5 s2: 5x5, stride 2; S2D, D2S: space to depth and back, by 2), for C = 192; 384
    analysis           k5 s2 C GDN, x3; k5 s2 C
    hyper_analysis_2   k3 2C; S2D; k1 4C ReLU, x2; k1 256              no activation in front of S2D: nothing is lost
    hyper_analysis_1   k3 W; S2D; k1 V ReLU, x2; k1 128                W, V = 256, 128; 512, 256
    hyper_synthesis_2  k1 4C; k1 4C ReLU, x2; D2S; k3 C
    hyper_synthesis_1  k1 W; k1 W ReLU, x2; D2S; k3 256
    predict_2, _3      of the 5x5 samples around each, alone: k3, k3 s2, k3 LeakyReLU, of 256 or C channels; dense
    synthesis          f = [k5 s2 up C IGDN, x3, of z3;  k5 s2 up C, k5 s2 up C LeakyReLU, x2, of h2 and D2S(h1)]
                       f + (k3 C, k3 C, k3 2C, LeakyReLU behind each, of f); k5 s2 up C/3; k3 C/12 LeakyReLU; k1 3

Stages of training, which begin at the steps `stages`; before the first, z3 is coded given z2, z2 by scales alone, and
the picture is what one more layer makes of the first half of f at half its depth:

    0   analysis, that half of the synthesis, z2         2   the whole synthesis
    1   z1 too                                           3   without the terms that make h2 similar to z3, and h1 to z2

Deviations: padding is k // 2 on both sides, where the authors' code has TensorFlow's SAME; k3 that they write as
transposed convolutions are plain ones, the same functions; scales of z1 are exponentials; sigma is clipped to 0.11 ..
256, and coded by tables of 64 scales and 16 phases of mu in place of the error function. lambda is that of squared
errors of 8-bit steps; the authors' examples, on a scale from -1 to 1, are a fourth of it.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.codec import Codec, Objective
from mlic_jax.entropy import coders
from mlic_jax.entropy.exact import LARGEST_INPUT, ExactStack
from mlic_jax.entropy.exact_surroundings import ExactSurroundings
from mlic_jax.entropy.priors.whole import WholeGaussian
from mlic_jax.entropy.priors.zero_mean import ZeroMean
from mlic_jax.errors import UsageError
from mlic_jax.families.common import check_choices, check_widths, module_of, pad
from mlic_jax.families.forward import Forward
from mlic_jax.families.latent import LatentCodec, LatentModel, latent_codec
from mlic_jax.layers.conv import Conv, ConvTranspose
from mlic_jax.layers.gdn import GDN
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.space import DepthToSpace, SpaceToDepth, depth_to_space
from mlic_jax.layers.stack import Channels, Concatenation, LeakyReLU, Stack, Sum, relu
from mlic_jax.layers.windows import HYPER_CORES, to_float
from mlic_jax.models import bmshj2018

# C: of z3 and the transforms; Y, Z: of z2 and z1; W, V: hidden ones between these.
LOW = {"C": 192, "Y": 256, "Z": 128, "W": 256, "V": 128}
HIGH = {"C": 384, "Y": 256, "Z": 128, "W": 512, "V": 256}
# For tests and demonstrations on a CPU.
TINY = {"C": 24, "Y": 16, "Z": 8, "W": 16, "V": 8}
WIDTHS = {quality: LOW if quality <= 3 else HIGH for quality in range(1, 8)}
# quality -> lambda: CompressAI's. The authors' seven are not published; their example is 0.016.
LAMBDAS = {quality: bmshj2018.LAMBDAS[quality] for quality in WIDTHS}
# Steps at which the stages begin, of 550,000.
STAGES = (100_000, 120_000, 130_000)

leaky_relu = LeakyReLU(0.2)


def centre(x):
    """Pixels in [0, 1] -> [-1, 1]."""
    return 2 * x - 1


def uncentre(x):
    """The reverse of `centre`."""
    return (x + 1) / 2


class CoarseToFine(LatentModel):
    """See the top of this file, and LOW for the widths."""

    C: int
    Y: int
    Z: int
    W: int
    V: int
    dtype: jnp.dtype | None = None
    precision: Precision | None = None
    stride = 64
    held = 1.0  # as in mbt2018: what is cut off of a latent is missing in all that follows

    def setup(self):
        conv = functools.partial(Conv, gain=1.0, dtype=self.dtype, precision=self.precision)
        g_a = bmshj2018.analysis_transform(self.C, self.C, self.dtype, self.precision)
        self.analysis = Stack((centre, *g_a.layers))
        self.hyper_analysis_2 = self._hyper_analysis(conv, 2 * self.C, 4 * self.C, self.Y)
        self.hyper_analysis_1 = self._hyper_analysis(conv, self.W, self.V, self.Z)
        self.synthesis = self._synthesis()
        self.prior_z1 = ZeroMean(self.Z, family="z1", limit=LARGEST_INPUT)
        # Without dtype: what follows selects probability tables.
        self.hyper_synthesis_2 = self._hyper_synthesis(4 * self.C, self.C)
        self.hyper_synthesis_1 = self._hyper_synthesis(self.W, self.Y)
        self.predict_2, self.predict_3 = self._predict(self.Y), self._predict(self.C)

    def _hyper_analysis(self, conv, first, width, features):
        layers = (conv(first, 3), SpaceToDepth(2), conv(width, 1), relu, conv(width, 1), relu, conv(features, 1))
        return Stack(layers, cores=HYPER_CORES)

    def _hyper_synthesis(self, width, features):
        conv = functools.partial(Conv, gain=1.0, precision=self.precision)
        layers = (conv(width, 1), conv(width, 1), relu, conv(width, 1), relu, DepthToSpace(2), conv(features, 3))
        return ExactStack(layers, of_values=True, split_sums=True)

    def _predict(self, features):
        conv = functools.partial(Conv, kernel=3, gain=1.0, precision=self.precision)
        hidden = (conv(features), leaky_relu, conv(features, stride=2), leaky_relu, conv(features), leaky_relu)
        dense = SpaceToDepth(3), conv(2 * features, kernel=1)
        return ExactSurroundings((*hidden, *dense), side=5, of_values=True, split_sums=True)

    def _synthesis(self):
        conv = functools.partial(Conv, gain=1.0, dtype=self.dtype, precision=self.precision)
        up = functools.partial(ConvTranspose, gain=1.0, dtype=self.dtype, precision=self.precision)
        main, further = [Channels(0, self.C)], [Channels(self.C), up(self.C)]
        for _ in range(3):
            main += [up(self.C), GDN(inverse=True, dtype=self.dtype)]
        for _ in range(2):
            further += [up(self.C), leaky_relu]
        refined = (conv(self.C, 3), leaky_relu, conv(self.C, 3), leaky_relu, conv(2 * self.C, 3), leaky_relu)
        layers = (
            Concatenation((Stack(tuple(main)), Stack(tuple(further)))),
            Sum((Stack(()), Stack(refined))),
            up(self.C // 3), conv(self.C // 12, 3), leaky_relu, conv(3, 1), uncentre,
        )  # fmt: skip
        return Stack(layers, pixels=True)

    def analyze(self, image):
        z3 = self.analysis(image)
        z2 = self.hyper_analysis_2(_rounded(z3))
        return {"z3": z3, "z2": z2, "z1": self.hyper_analysis_1(_rounded(z2))}

    def transmit(self, code):
        z1 = code("z1", self.prior_z1)
        h1 = code.exact(self.hyper_synthesis_1, z1)
        z2 = code("z2", _prior(code.exact(self.predict_2, h1)))
        h2 = code.exact(self.hyper_synthesis_2, z2)
        return code("z3", _prior(code.exact(self.predict_3, h2))), h2, h1

    def synthesize(self, received):
        z3, h2, h1 = received
        finer = depth_to_space(h1, 2, order="tensorflow")
        return self.synthesis(module_of(z3).concatenate([z3, h2, finer], axis=-1))

    def coarse(self, z3):
        """What the synthesis makes of z3 alone, at half the picture's resolution: [B, 8 h, 8 w, C]."""
        return self.synthesis.layers[0].branches[0].within(z3, None)


def _rounded(latent):
    """As decoders have it: further levels are of what they know."""
    return np.rint(latent) if isinstance(latent, np.ndarray) else coders.straight_through_round(latent)


def _prior(both):
    """Of means, and behind them logarithms of scales."""
    half = both.shape[-1] // 2
    return WholeGaussian(log_scale=both[..., half:], location=both[..., :half])


class Helpers(nn.Module):
    """What the first stages of training have besides: their picture, what compares features with latents, scales of z2.

    Attributes: as of CoarseToFine.
    """

    C: int
    Y: int
    dtype: jnp.dtype | None = None
    precision: Precision | None = None

    def setup(self):
        make = functools.partial(Conv, kernel=3, gain=1.0, dtype=self.dtype, precision=self.precision)
        self.picture = ConvTranspose(3, gain=1.0, dtype=self.dtype, precision=self.precision)
        self.of_h2, self.of_h1 = make(self.C), make(self.Y)
        self.prior_z2 = ZeroMean(self.Y)

    def __call__(self, coarse, h2, h1, z2):
        """-> (picture [B, H, W, 3], what stands for z3 and z2, bits of z2)."""
        shown = uncentre(self.picture(coarse))
        return shown, self.of_h2(h2), self.of_h1(h1), self.prior_z2.bits(z2)


class _Keeping(coders.Training):
    """Keeps the values whose bits are counted, in `counted`."""

    def __init__(self, latents, *more):
        super().__init__(latents, *more)
        self.counted = {}

    def _count(self, name, prior, value):
        self.counted[name] = value
        super()._count(name, prior, value)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Staged(LatentCodec):
    """The codec that is trained in stages.

    Attributes:
      stages: steps at which stages 1, 2 and 3 begin; empty for stage 3 alone.
    """

    stages: tuple[int, ...]

    @functools.cached_property
    def helpers(self) -> Helpers:
        module = self.module
        return Helpers(module.C, module.Y, module.dtype, module.precision)

    def training_only(self, key):
        if not self.stages:
            return {}
        C, Y = self.module.C, self.module.Y
        shapes = (1, 8, 8, C), (1, 2, 2, C), (1, 1, 1, Y), (1, 1, 1, Y)
        params = self.helpers.init(key, *(jnp.zeros(shape) for shape in shapes))["params"]
        return {"params": {"helpers": nn.meta.unbox(params)}}

    def objectives(self):
        found = super().objectives()
        if not self.stages:
            return found
        owns = (*found["rd"].owns, "helpers")
        return {**found, "rd": Objective(owns, self.staged_loss)}

    def staged_loss(self, params, state, batch, keys, step):
        """As `rd_loss`, of the stage that a step belongs to."""
        image = to_float(batch["image"])
        module = functools.partial(self.module.apply, {"params": params, "state": state})
        latents = module(pad(image, self.module.stride), method="analyze")
        quantised = None if self.quantise_from < 0 else step >= self.quantise_from
        coder = _Keeping(latents, keys, self.proxy, quantised)
        (z3, h2, h1), changed = module(coder, method="transmit", mutable=["state"])
        first, second, third = (step >= begin for begin in self.stages)
        helped = functools.partial(self.helpers.apply, {"params": params["helpers"]})
        shown, like_z3, like_z2, bits_z2 = helped(module(z3, method="coarse"), h2, h1, coder.counted["z2"])
        # Which of both is computed: the whole synthesis is most of all that a step takes.
        shown = jax.lax.cond(second, lambda: module((z3, h2, h1), method="synthesize"), lambda: shown)
        bits = {
            **coder.bits,
            "z2": jnp.where(first, coder.bits["z2"], coders.per_example_sum(bits_z2)),
            "z1": jnp.where(first, coder.bits["z1"], 0),
        }
        state = {**state, **changed.get("state", {})}
        shown = shown.astype(jnp.float32)[:, : image.shape[1], : image.shape[2]]
        passed = Forward(image, None, shown, coder.received, bits, {}, state)
        total, metrics = self.rate_distortion(passed)
        z3, z2 = (jax.lax.stop_gradient(coder.received[name]) for name in ("z3", "z2"))
        helping = jnp.mean((z3 - like_z3) ** 2) + jnp.where(first, jnp.mean((z2 - like_z2) ** 2), 0)
        helping = jnp.where(third, 0, helping)
        return total + helping, ({**metrics, "loss": total + helping, "helping": helping}, state)


def coarse_to_fine(
    *,
    C: int = LOW["C"],
    Y: int = LOW["Y"],
    Z: int = LOW["Z"],
    W: int = LOW["W"],
    V: int = LOW["V"],
    lmbda: float = 0.0130,
    stages: tuple[int, ...] = (),
    proxy: str = "mixed",
    dtype=None,
    precision=None,
    **training,
) -> Codec:
    """hu2020. Widths: see LOW; stages: steps at which stages 1, 2 and 3 begin; training: see latent_codec."""
    widths = {"C": C, "Y": Y, "Z": Z, "W": W, "V": V}
    check_widths("hu2020", *((name, value, 1) for name, value in widths.items()))
    check_choices("hu2020", ("proxy", proxy, ("noise", "ste", "mixed")))
    if C % 12 or Y % 4 or W % 4:
        raise UsageError(f"hu2020: C={C}, Y={Y}, W={W}: C is a multiple of 12, Y and W of 4")
    if len(stages) not in (0, 3) or any(type(step) is not int or step < 0 for step in stages):
        raise UsageError(f"hu2020: stages={stages!r} are three steps at which stages begin, or none")
    module = CoarseToFine(**widths, dtype=dtype, precision=precision)
    family = functools.partial(Staged, stages=tuple(sorted(stages)))
    return latent_codec(
        module, model="hu2020", architecture=widths, lmbda=lmbda, proxy=proxy, family=family, **training
    )

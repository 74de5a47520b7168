"""Channel-wise autoregressive entropy models, with latent residual prediction.

Minnen, Singh, ICIP 2020, https://arxiv.org/abs/2007.08739. Layers, widths and the order of inputs as in the authors'
`ms2020.py` of tensorflow/compression.

    image -> g_a -> y = slices y_0 .. y_9;   y -> h_a -> z -> round -> z^ -> h_mean, h_scale
    slice i:   h_mean,  supports -> mean_i  -> mu                supports: the first 5 of the slices before i, y~
               h_scale, supports -> scale_i -> log sigma
               round(y_i - mu) + mu = y^_i,   P(y^_i) = N(mu, sigma^2) * U(-1/2, 1/2)
               h_mean, supports, y^_i -> residual_i -> r,   y~_i = y^_i + tanh(r) / 2
    y~_0 .. y~_9 -> g_s -> reconstruction

    net        layers                                net                          layers
    g_a, g_s   as in bmshj2018                       mean_i, scale_i, residual_i  k5 C ReLU; k5 D ReLU; k3 M / slices
    h_a        k3 M ReLU; k5 s2 H ReLU; k5 s2 N      h_mean, h_scale              k5 s2 up N, up H; k3 M; ReLU behind

Training counts the bits of noisy latents, and hands on rounded ones (proxy "mixed").

Deviations: `scale_i` emits log sigma, where the authors' emits the place in their table of scales, 8.1 (log sigma +
2.2); padding is k // 2 on both sides.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp

from mlic_jax.codec import Codec
from mlic_jax.entropy.exact import LARGEST_INPUT, ExactStack
from mlic_jax.entropy.priors.factorized import DeepFactorized
from mlic_jax.entropy.priors.gaussian import LogGaussian
from mlic_jax.errors import UsageError
from mlic_jax.families.common import check_whole, check_widths, module_of
from mlic_jax.families.latent import LatentModel, latent_codec
from mlic_jax.layers.conv import Conv, ConvTranspose
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.stack import Stack, relu
from mlic_jax.layers.windows import HYPER_CORES
from mlic_jax.models import bmshj2018

PAPER = {"N": 192, "M": 320, "H": 256, "C": 224, "D": 128, "slices": 10, "supports": 5}
# For tests and demonstrations on a CPU.
TINY = {"N": 16, "M": 24, "H": 16, "C": 16, "D": 12, "slices": 3, "supports": 1}
# quality -> lambda: CompressAI's. The paper names none; the authors' code begins with 0.01.
LAMBDAS, LAMBDAS_MS_SSIM = bmshj2018.LAMBDAS, bmshj2018.LAMBDAS_MS_SSIM


class ChannelWise(LatentModel):
    """y is transmitted in slices of channels; mean and scale of each depend on z and on slices before it.

    N: width of the transforms and channels of z; M: channels of y; H: width of the hyper transforms; C, D: of the
    networks of slices; supports: how many slices, the first ones, these see.
    """

    N: int
    M: int
    H: int
    C: int
    D: int
    slices: int
    supports: int
    dtype: jnp.dtype | None = None
    precision: Precision | None = None
    stride = 64
    held = 1.0  # as in mbt2018: later slices see what was cut off of earlier ones

    def setup(self):
        self.g_a = bmshj2018.analysis_transform(self.N, self.M, self.dtype, self.precision)
        self.g_s = bmshj2018.synthesis_transform(self.N, self.dtype, self.precision)
        conv = functools.partial(Conv, dtype=self.dtype, precision=self.precision)
        down = functools.partial(conv, kernel=5, stride=2)
        self.h_a = Stack(
            (conv(self.M, kernel=3), relu, down(self.H), relu, down(self.N, use_bias=False)), cores=HYPER_CORES
        )
        self.h_mean, self.h_scale = self._hyper_synthesis(), self._hyper_synthesis()
        self.mean, self.scale = self._of_slices(), self._of_slices()
        self.residual = self._of_slices(jnp.tanh)
        self.prior_z = DeepFactorized(self.N, family="factorized_z", limit=LARGEST_INPUT)

    # Networks without dtype: their outcome selects probability tables.

    def _hyper_synthesis(self):
        up = functools.partial(ConvTranspose, kernel=5, stride=2, precision=self.precision)
        return ExactStack((up(self.N), relu, up(self.H), relu, Conv(self.M, 3, precision=self.precision), relu))

    def _of_slices(self, *last):
        conv = functools.partial(Conv, precision=self.precision)
        channels = self.M // self.slices

        def network():
            layers = (conv(self.C, kernel=5), relu, conv(self.D, kernel=5), relu, conv(channels, kernel=3), *last)
            return ExactStack(layers, of_values=True, split_sums=True)  # of thousands of products

        return [network() for _ in range(self.slices)]

    def analyze(self, image):
        y = self.g_a(image)
        slices = module_of(y).split(y, self.slices, axis=-1)
        return {"z": self.h_a(y), **{f"y_{i}": part for i, part in enumerate(slices)}}

    def transmit(self, code):
        z = code("z", self.prior_z)
        of_mean, of_scale = (code.exact(network, z, self.prior_z) for network in (self.h_mean, self.h_scale))
        together = functools.partial(module_of(z).concatenate, axis=-1)
        known = []
        for i in range(self.slices):
            supports = known[: self.supports]
            seen = together([of_mean, *supports])
            log_scale = code.exact(self.scale[i], together([of_scale, *supports]))
            part = code(f"y_{i}", LogGaussian(log_scale, code.exact(self.mean[i], seen)))
            known.append(part + 0.5 * code.exact(self.residual[i], together([seen, part])))
        return together(known)

    def synthesize(self, received):
        return self.g_s(received)


def channel_wise(
    *,
    N: int = PAPER["N"],
    M: int = PAPER["M"],
    H: int = PAPER["H"],
    C: int = PAPER["C"],
    D: int = PAPER["D"],
    slices: int = PAPER["slices"],
    supports: int = PAPER["supports"],
    lmbda: float = 0.0130,
    dtype=None,
    precision=None,
    **training,
) -> Codec:
    """minnen2020. Widths: see ChannelWise; training: see latent_codec."""
    widths = {"N": N, "M": M, "H": H, "C": C, "D": D}
    check_widths("minnen2020", *((name, value, 1) for name, value in widths.items()))
    check_whole("minnen2020", ("slices", slices, 1, 64), ("supports", supports, 0, 64))
    if M % slices:
        raise UsageError(f"minnen2020: slices={slices}, M={M}: slices are equal, M is a multiple of them")
    architecture = {**widths, "slices": slices, "supports": supports}
    module = ChannelWise(**architecture, dtype=dtype, precision=precision)
    return latent_codec(module, model="minnen2020", architecture=architecture, lmbda=lmbda, **training)

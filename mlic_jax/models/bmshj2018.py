"""Variational image compression with a scale hyperprior (factorized and hyperprior models).

Ballé, Minnen, Singh, Hwang, Johnston, ICLR 2018, https://arxiv.org/abs/1802.01436. Layers, widths and constants as in
CompressAI's `bmshj2018_factorized` and `bmshj2018_hyperprior`, whose weights give the same numbers here (tests).

    image -> g_a -> y -> round -> y^ -> g_s -> reconstruction
                    |             ^
                  |y|             | P(y^) = N(0, sigma^2) * U(-1/2, 1/2)
                    v             |
                   h_a -> z -> round -> z^ -> h_s -> sigma            (z: deep factorized density)

    net   layers (k5 s2: 5x5, stride 2)              net   layers
    g_a   k5 s2 N GDN, x3; k5 s2 M                   h_a   k3 N ReLU; k5 s2 N ReLU; k5 s2 N    (of |y|)
    g_s   k5 s2 up N IGDN, x3; k5 s2 up 3            h_s   k5 s2 up N ReLU, x2; k3 M ReLU

The factorized model has no h_a and h_s: its y has a deep factorized density.

Deviations, both shared with CompressAI: explicit padding of k // 2 on both sides, and a last ReLU in h_s, below which
the lower bound 0.11 of sigma stands. The training crops of the paper's authors are not public.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp

from mlic_jax.codec import Codec
from mlic_jax.entropy.exact import LARGEST_INPUT, ExactStack
from mlic_jax.entropy.priors.factorized import DeepFactorized
from mlic_jax.entropy.priors.gaussian import Gaussian
from mlic_jax.families.common import check_widths
from mlic_jax.families.latent import LatentModel, latent_codec
from mlic_jax.layers.conv import Conv, ConvTranspose
from mlic_jax.layers.gdn import GDN
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.stack import Stack, relu
from mlic_jax.layers.windows import HYPER_CORES

# quality -> (N, M): CompressAI's zoo. The paper: 128, 192 at the lower rates and 192, 320 at the higher ones.
WIDTHS = {quality: (128, 192) if quality <= 5 else (192, 320) for quality in range(1, 9)}
# quality -> lambda for MSE, and for 1 - MS-SSIM (CompressAI's zoo; the paper names no values).
LAMBDAS = dict(enumerate((0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800), start=1))
LAMBDAS_MS_SSIM = dict(enumerate((2.40, 4.58, 8.73, 16.64, 31.73, 60.50, 115.37, 220.00), start=1))
# For tests and demonstrations on a CPU.
TINY = {"N": 16, "M": 24}


def analysis_transform(N: int, M: int, dtype=None, precision=None) -> Stack:
    """g_a: [B, H, W, 3] -> y [B, H/16, W/16, M]."""
    conv = functools.partial(Conv, kernel=5, stride=2, dtype=dtype, precision=precision)
    layers = []
    for _ in range(3):
        layers += [conv(N), GDN(dtype=dtype)]
    return Stack((*layers, conv(M)))


def synthesis_transform(N: int, dtype=None, precision=None) -> Stack:
    """g_s: y [B, h, w, M] -> [B, 16 h, 16 w, 3]."""
    deconv = functools.partial(ConvTranspose, kernel=5, stride=2, dtype=dtype, precision=precision)
    layers = []
    for _ in range(3):
        layers += [deconv(N), GDN(inverse=True, dtype=dtype)]
    return Stack((*layers, deconv(3)), pixels=True)


def hyper_analysis(N: int, activation, dtype=None, precision=None) -> Stack:
    """h_a: y [B, h, w, M] -> z [B, h/4, w/4, N]."""
    conv = functools.partial(Conv, dtype=dtype, precision=precision)
    layers = (conv(N, kernel=3), activation, conv(N, kernel=5, stride=2), activation, conv(N, kernel=5, stride=2))
    return Stack(layers, cores=HYPER_CORES)


class Factorized(LatentModel):
    """The model without a hyperprior: y has a factorized density, learned channel by channel."""

    N: int
    M: int
    dtype: jnp.dtype | None = None
    precision: Precision | None = None
    stride = 16

    def setup(self):
        self.g_a = analysis_transform(self.N, self.M, self.dtype, self.precision)
        self.g_s = synthesis_transform(self.N, self.dtype, self.precision)
        self.prior_y = DeepFactorized(self.M, family="factorized_y")

    def analyze(self, image):
        return {"y": self.g_a(image)}

    def transmit(self, code):
        return code("y", self.prior_y)

    def synthesize(self, received):
        return self.g_s(received)


class ScaleHyperprior(LatentModel):
    """The model with a scale hyperprior: z tells the decoder the scale of every entry of y."""

    N: int
    M: int
    dtype: jnp.dtype | None = None
    precision: Precision | None = None
    stride = 64

    def setup(self):
        self.g_a = analysis_transform(self.N, self.M, self.dtype, self.precision)
        self.g_s = synthesis_transform(self.N, self.dtype, self.precision)
        self.h_a = hyper_analysis(self.N, relu, self.dtype, self.precision)
        self.h_s = ExactStack(  # without dtype: its outcome selects probability tables
            (
                ConvTranspose(self.N, kernel=5, stride=2, precision=self.precision),
                relu,
                ConvTranspose(self.N, kernel=5, stride=2, precision=self.precision),
                relu,
                Conv(self.M, kernel=3, precision=self.precision),
                relu,
            )
        )
        self.prior_z = DeepFactorized(self.N, family="factorized_z", limit=LARGEST_INPUT)

    def analyze(self, image):
        y = self.g_a(image)
        return {"y": y, "z": self.h_a(abs(y))}

    def transmit(self, code):
        z = code("z", self.prior_z)
        return code("y", Gaussian(scale=code.exact(self.h_s, z, self.prior_z)))

    def synthesize(self, received):
        return self.g_s(received)


def factorized(*, N: int = 128, M: int = 192, lmbda: float = 0.0130, dtype=None, precision=None, **training) -> Codec:
    """bmshj2018-factorized. N: width of the transforms; M: channels of y; training: see latent_codec."""
    check_widths("bmshj2018-factorized", ("N", N, 1), ("M", M, 1))
    architecture = {"N": N, "M": M}
    module = Factorized(**architecture, dtype=dtype, precision=precision)
    return latent_codec(module, model="bmshj2018-factorized", architecture=architecture, lmbda=lmbda, **training)


def hyperprior(*, N: int = 128, M: int = 192, lmbda: float = 0.0130, dtype=None, precision=None, **training) -> Codec:
    """bmshj2018-hyperprior. N: width of the transforms and channels of z; M: channels of y; training: latent_codec."""
    check_widths("bmshj2018-hyperprior", ("N", N, 1), ("M", M, 1))
    architecture = {"N": N, "M": M}
    module = ScaleHyperprior(**architecture, dtype=dtype, precision=precision)
    return latent_codec(module, model="bmshj2018-hyperprior", architecture=architecture, lmbda=lmbda, **training)

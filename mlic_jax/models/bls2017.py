"""End-to-end optimized image compression.

Ballé, Laparra, Simoncelli, ICLR 2017, https://arxiv.org/abs/1611.01704. Layers and widths as in the authors'
`bls2017.py` of tensorflow/compression.

    image -> g_a -> y -> round -> y^ -> g_s -> reconstruction            (y: deep factorized density)

    net   layers (k9 s4: 9x9, stride 4), all N wide
    g_a   k9 s4 GDN; k5 s2 GDN; k5 s2, without bias
    g_s   k5 s2 up IGDN; k5 s2 up IGDN; k9 s4 up 3

Deviations: the density is that of bmshj2018 (the paper's is piecewise linear, the authors' code has a narrower one);
as in that code, and unlike in the paper, no GDN stands behind the last layer of g_a; padding is k // 2 on both sides.
The paper names no weights of the distortion that fit 8-bit steps: those of bmshj2018 stand in.
"""

from __future__ import annotations

import functools

from mlic_jax.codec import Codec
from mlic_jax.entropy.priors.factorized import DeepFactorized
from mlic_jax.families.common import check_widths
from mlic_jax.families.latent import latent_codec
from mlic_jax.layers.conv import Conv, ConvTranspose
from mlic_jax.layers.gdn import GDN
from mlic_jax.layers.stack import Stack
from mlic_jax.models import bmshj2018

# quality -> (N,): the authors' code has 128; at higher rates more are of use.
WIDTHS = {quality: (128,) if quality <= 5 else (192,) for quality in bmshj2018.LAMBDAS}
LAMBDAS, LAMBDAS_MS_SSIM = bmshj2018.LAMBDAS, bmshj2018.LAMBDAS_MS_SSIM
# For tests and demonstrations on a CPU.
TINY = {"N": 16}


class Bls2017(bmshj2018.Factorized):
    """N, M: one width."""

    def setup(self):
        N, more = self.N, {"dtype": self.dtype, "precision": self.precision}
        conv, up = functools.partial(Conv, **more), functools.partial(ConvTranspose, **more)
        gdn, igdn = (functools.partial(GDN, inverse=inverse, dtype=self.dtype) for inverse in (False, True))
        self.g_a = Stack((conv(N, 9, 4), gdn(), conv(N, 5, 2), gdn(), conv(N, 5, 2, use_bias=False)))
        self.g_s = Stack((up(N, 5, 2), igdn(), up(N, 5, 2), igdn(), up(3, 9, 4)), pixels=True)
        self.prior_y = DeepFactorized(N, family="factorized_y")


def bls2017(*, N: int = 128, lmbda: float = 0.0130, dtype=None, precision=None, **training) -> Codec:
    """bls2017. N: width of the transforms and channels of y; training: see latent_codec."""
    check_widths("bls2017", ("N", N, 1))
    module = Bls2017(N=N, M=N, dtype=dtype, precision=precision)
    return latent_codec(module, model="bls2017", architecture={"N": N}, lmbda=lmbda, **training)

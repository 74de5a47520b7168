"""ELIC: unevenly grouped channels, each group in two passes over a checkerboard.

He, Yang, Peng, Ma, Qin, Wang, CVPR 2022, https://arxiv.org/abs/2203.10886. Layers, widths and constants as in
CompressAI's `Elic2022Official`, whose weights give the same numbers here (tests).

    image -> g_a -> y = groups y_0 .. y_4 of 16, 16, 32, 64, 192 channels;   y -> h_a -> z -> round -> z^ -> h_s
    group k:   y^_0 .. y^_(k-1) -> channels_k ------------------------------+
               0, of black positions               \\                       |
               known black ones of group k -> context_k -> parameters_k <- h_s
               round(y_k - mu) + mu = y^_k,   P(y^_k) = N(mu, sigma^2) * U(-1/2, 1/2), sigma and mu by parameters_k
    y^_0 .. y^_4 -> g_s -> reconstruction

    net            layers (3 residual: x + k1 (relu k3 (relu k1 x)), N/2 wide inside, three times)
    g_a            k5 s2 N; 3 residual; k5 s2 N; 3 residual; attention; k5 s2 N; 3 residual; k5 s2 M; attention
    g_s            attention; k5 s2 up N; 3 residual; k5 s2 up N; attention; 3 residual; k5 s2 up N; 3 residual; up 3
    h_a, h_s       k3 N; k5 s2 N; k5 s2 N, ReLU between       k5 s2 up N; k5 s2 up 3N/2; k3 2N, ReLU between
    channels_k     k5 C; k5 D; k5 2G, ReLU between            of all groups before; G: channels of the group
    context_k      k5 2G, masked as in checkerboard2021
    parameters_k   three k1 from what they read to 2G, in equal steps but at least 2N wide, ReLU between; of context_k,
                   channels_k and h_s

Training counts the bits of noisy latents, and hands on rounded ones (proxy "mixed").
"""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp

from mlic_jax.codec import Codec
from mlic_jax.entropy.exact import LARGEST_INPUT, ExactStack
from mlic_jax.entropy.priors.factorized import DeepFactorized
from mlic_jax.errors import UsageError
from mlic_jax.families.common import check_widths, module_of
from mlic_jax.families.latent import LatentModel, latent_codec
from mlic_jax.layers.conv import Conv, ConvTranspose
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.stack import Stack, relu
from mlic_jax.layers.windows import cores_within
from mlic_jax.models import bmshj2018
from mlic_jax.models.checkerboard2021 import ORDER, scan_in_two
from mlic_jax.models.cheng2020 import SIDES, attention_module, bottleneck

PAPER = {"N": 192, "M": 320, "C": 224, "D": 128, "groups": (16, 16, 32, 64, 192)}
# For tests and demonstrations on a CPU.
TINY = {"N": 12, "M": 16, "C": 12, "D": 8, "groups": (4, 12)}
# quality -> lambda: CompressAI's of other models; the paper names others for its own distortion.
LAMBDAS, LAMBDAS_MS_SSIM = bmshj2018.LAMBDAS, bmshj2018.LAMBDAS_MS_SSIM


class Elic(LatentModel):
    """N: width of the transforms and channels of z; M: channels of y; C, D: hidden widths of channels_k; groups: their
    channels."""

    N: int
    M: int
    C: int
    D: int
    groups: tuple[int, ...]
    dtype: jnp.dtype | None = None
    precision: Precision | None = None
    stride = 64
    held = 1.0  # as in mbt2018: later groups see what was cut off of earlier ones

    def setup(self):
        self.g_a = self._transform(self._analysis_layers())
        self.g_s = self._transform(self._synthesis_layers(), pixels=True)
        self.h_a = bmshj2018.hyper_analysis(self.N, relu, self.dtype, self.precision)
        # Without dtype: what follows selects probability tables.
        conv = functools.partial(Conv, precision=self.precision)
        up = functools.partial(ConvTranspose, kernel=5, stride=2, precision=self.precision)
        N = self.N
        self.h_s = ExactStack((up(N), relu, up(N * 3 // 2), relu, conv(2 * N, kernel=3)))
        self.prior_z = DeepFactorized(N, family="factorized_z", limit=LARGEST_INPUT)
        self.channels = [
            ExactStack(
                (conv(self.C), relu, conv(self.D), relu, conv(2 * group)),
                of_values=True,
                split_sums=True,  # of thousands of products
            )
            for group in self.groups[1:]
        ]
        self.context = [ExactStack((conv(2 * group, mask=ORDER.mask()),), of_values=True) for group in self.groups]
        self.parameters = [self._parameters(k, group) for k, group in enumerate(self.groups)]

    def _transform(self, layers, **more):
        return Stack(tuple(layers), cores=cores_within(SIDES, layers), **more)

    def _conv(self, features, kernel=3, stride=1):
        return Conv(features, kernel, stride, dtype=self.dtype, precision=self.precision)

    def _residuals(self):
        return [bottleneck(self._conv, self.N) for _ in range(3)]

    def _analysis_layers(self):
        N, M, down = self.N, self.M, functools.partial(self._conv, kernel=5, stride=2)
        return [
            *(down(N), *self._residuals(), down(N), *self._residuals(), attention_module(self._conv, N)),
            *(down(N), *self._residuals(), down(M), attention_module(self._conv, M)),
        ]

    def _synthesis_layers(self):
        N, M = self.N, self.M
        up = functools.partial(ConvTranspose, kernel=5, stride=2, dtype=self.dtype, precision=self.precision)
        return [
            *(attention_module(self._conv, M), up(N), *self._residuals(), up(N), attention_module(self._conv, N)),
            *(*self._residuals(), up(N), *self._residuals(), up(3)),
        ]

    def _parameters(self, k, group):
        conv = functools.partial(Conv, kernel=1, precision=self.precision)
        read, least = 2 * group * (1 + (k > 0)) + 2 * self.N, 2 * self.N
        widths = (max(least, read + (2 * group - read) * i // 3) for i in (1, 2))
        hidden = [layer for width in widths for layer in (conv(width), relu)]
        return ExactStack((*hidden, conv(2 * group)), of_values=True)

    def analyze(self, image):
        y = self.g_a(image)
        ends = itertools.accumulate(self.groups, initial=0)
        groups = {f"y_{k}": y[..., start:stop] for k, (start, stop) in enumerate(itertools.pairwise(ends))}
        return {"z": self.h_a(y), **groups}

    def transmit(self, code):
        z = code("z", self.prior_z)
        hyper = code.exact(self.h_s, z, self.prior_z)
        together = functools.partial(module_of(z).concatenate, axis=-1)
        known = []
        for k in range(len(self.groups)):
            side = together([code.exact(self.channels[k - 1], together(known)), hyper]) if k else hyper
            known.append(scan_in_two(code, f"y_{k}", self.context[k], self.parameters[k], side))
        return together(known)

    def synthesize(self, received):
        return self.g_s(received)


def elic(
    *,
    N: int = PAPER["N"],
    M: int = PAPER["M"],
    C: int = PAPER["C"],
    D: int = PAPER["D"],
    groups: tuple[int, ...] = PAPER["groups"],
    lmbda: float = 0.0130,
    dtype=None,
    precision=None,
    **training,
) -> Codec:
    """elic2022. Widths: see Elic; training: see latent_codec."""
    groups = tuple(groups) if isinstance(groups, list | tuple) else groups
    check_widths("elic2022", ("N", N, 2), ("M", M, 2), ("C", C, 1), ("D", D, 1))
    if not isinstance(groups, tuple) or not groups or not all(type(g) is int and g > 0 for g in groups):
        raise UsageError(f"elic2022: groups={groups!r}: how many channels each group has, as in (16, 16, 32, 64, 192)")
    if sum(groups) != M:
        raise UsageError(f"elic2022: groups={groups} have {sum(groups)} channels together, and M={M}")
    architecture = {"N": N, "M": M, "C": C, "D": D, "groups": groups}
    module = Elic(**architecture, dtype=dtype, precision=precision)
    return latent_codec(module, model="elic2022", architecture=architecture, lmbda=lmbda, **training)

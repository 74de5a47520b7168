"""Discretized Gaussian mixture likelihoods and attention modules.

Cheng, Sun, Takeuchi, Katto, CVPR 2020, https://arxiv.org/abs/2001.01568. Layers, widths and constants as in
CompressAI's `cheng2020_anchor` and `cheng2020_attn`, whose weights give the same numbers here (tests).

    image -> g_a -> y -> round(y - mu) + mu -> y^ -> g_s -> reconstruction
                    |                          ^
                    v                          | P(y^) = N(mu, sigma^2) * U(-1/2, 1/2)
                   h_a -> z -> round -> z^ -> h_s
                                               |
       known of y^ -> context_prediction -> entropy_parameters -> sigma, mu         as in mbt2018, with M = N

    net   layers, all N wide (k3: 3x3; s2: stride 2; up: 3x3 to 4 times as many channels, which become 2x2 samples)
    g_a   down, residual, down, [attention], residual, down, residual, k3 s2, [attention]
    g_s   [attention], residual, up, residual, up, [attention], residual, up, residual, up to 3
    h_a   k3; k3; k3 s2; k3; k3 s2, LeakyReLU between
    h_s   k3 N; up N; k3 3N/2; up 3N/2; k3 2N, LeakyReLU between

    down       k3 s2, LeakyReLU, k3, GDN; beside it k1 s2     residual   k3, LeakyReLU, k3, LeakyReLU; and x
    up         up, LeakyReLU, k3, IGDN; beside it up          attention  x + a(x) sigmoid(b(x)); a: 3 units; b: 3, k1
    unit       relu(x + k1 (relu k3 (relu k1 x))), N/2 wide inside

[attention] stands in cheng2020-attn alone. CompressAI's published models have a Gaussian for every entry. The paper's
are mixtures of `mixtures=3`, of latents rounded to integers: `entropy_parameters` then emits logits of weights, scales
and means, and each symbol's distribution is computed of them (entropy/priors/mixture.py).

Deviations: LeakyReLU has slope 0.01 as in CompressAI. With mixtures the hidden layers of `entropy_parameters` are as
wide as without, 10N/3 and 8N/3.
"""

from __future__ import annotations

import functools

from mlic_jax.codec import Codec
from mlic_jax.entropy.exact import LARGEST_INPUT, ExactStack
from mlic_jax.entropy.priors.factorized import DeepFactorized
from mlic_jax.entropy.priors.mixture import Mixture
from mlic_jax.families.common import check_whole, check_widths
from mlic_jax.families.latent import latent_codec
from mlic_jax.layers.conv import Conv
from mlic_jax.layers.gdn import GDN
from mlic_jax.layers.space import DepthToSpace
from mlic_jax.layers.stack import Gated, Stack, Sum, relu
from mlic_jax.layers.windows import HYPER_CORES, cores_within
from mlic_jax.models import bmshj2018, mbt2018
from mlic_jax.models.mbt2018 import leaky_relu

# quality -> (N,): CompressAI's zoo, which has six.
WIDTHS = {quality: (128,) if quality <= 3 else (192,) for quality in range(1, 7)}
LAMBDAS = {quality: bmshj2018.LAMBDAS[quality] for quality in WIDTHS}
LAMBDAS_MS_SSIM = {quality: bmshj2018.LAMBDAS_MS_SSIM[quality] for quality in WIDTHS}
# For tests and demonstrations on a CPU.
TINY = {"N": 12}
# Of windows, in cells of 16 pixels: these networks depend on five to ten cells around.
SIDES = (16, 24, 32, 48)


def bottleneck(conv, N: int) -> Sum:
    """x + k1 (relu k3 (relu k1 x)), half as wide inside. conv: Conv of 3x3 where no kernel is named."""
    inner = conv(N // 2, kernel=1), relu, conv(N // 2), relu, conv(N, kernel=1)
    return Sum((Stack(inner), Stack(())))


def attention_module(conv, N: int) -> Gated:
    """x + a(x) sigmoid(b(x)), of N channels; conv: as for `bottleneck`."""

    def units():
        return [part for _ in range(3) for part in (bottleneck(conv, N), relu)]

    return Gated(Stack(tuple(units())), Stack((*units(), conv(N, kernel=1))))


class Cheng2020(mbt2018.JointPrior):
    """mbt2018's prior behind residual transforms, of a Gaussian or a mixture for every entry.

    N, M: one width. attention: whether transforms have attention modules; mixtures: Gaussians for every entry.
    """

    attention: bool = False
    mixtures: int = 1

    def setup(self):
        self.g_a = self._transform(self._analysis_layers())
        self.g_s = self._transform(self._synthesis_layers(), pixels=True)
        N, conv = self.N, self._conv
        down = functools.partial(conv, stride=2)
        layers = (conv(N), conv(N), down(N), conv(N), down(N))
        self.h_a = Stack(tuple(part for layer in layers for part in (layer, leaky_relu))[:-1], cores=HYPER_CORES)
        conv = functools.partial(Conv, kernel=3, precision=self.precision)  # without dtype: it selects tables
        self.h_s = ExactStack(
            (
                *(conv(N), leaky_relu, conv(4 * N), DepthToSpace(2, "torch"), leaky_relu),
                *(conv(N * 3 // 2), leaky_relu, conv(4 * (N * 3 // 2)), DepthToSpace(2, "torch"), leaky_relu),
                conv(2 * N),
            )
        )
        self.prior_z = DeepFactorized(N, family="factorized_z", limit=LARGEST_INPUT)
        self._make_context(2 if self.mixtures == 1 else 3 * self.mixtures)

    def _transform(self, layers, **more):
        return Stack(tuple(layers), cores=cores_within(SIDES, layers), **more)

    def _analysis_layers(self):
        attention = self._attention()
        return [
            *(self._down(), self._residual(), self._down(), *attention, self._residual(), self._down()),
            *(self._residual(), self._conv(self.N, stride=2), *self._attention()),
        ]

    def _synthesis_layers(self):
        return [
            *(*self._attention(), self._residual(), self._up(), self._residual(), self._up(), *self._attention()),
            *(self._residual(), self._up(), self._residual(), *self._subpixels(3)),
        ]

    # What transforms consist of.

    def _conv(self, features, kernel=3, stride=1):
        return Conv(features, kernel, stride, dtype=self.dtype, precision=self.precision)

    def _subpixels(self, features):
        return self._conv(4 * features), DepthToSpace(2, "torch")

    def _down(self):
        N, conv = self.N, self._conv
        straight = Stack((conv(N, stride=2), leaky_relu, conv(N), GDN(dtype=self.dtype)))
        return Sum((straight, Stack((conv(N, kernel=1, stride=2),))))

    def _up(self):
        N = self.N
        behind = leaky_relu, self._conv(N), GDN(inverse=True, dtype=self.dtype)
        return Sum((Stack((*self._subpixels(N), *behind)), Stack(self._subpixels(N))))

    def _residual(self):
        N, conv = self.N, self._conv
        return Sum((Stack((conv(N), leaky_relu, conv(N), leaky_relu)), Stack(())))

    def _attention(self):
        return (attention_module(self._conv, self.N),) if self.attention else ()

    def _of_parameters(self, both):
        if self.mixtures == 1:
            return super()._of_parameters(both)
        parts = both.reshape((*both.shape[:-1], 3, self.mixtures, self.M))
        return Mixture(*(parts[..., i, :, :] for i in range(3)))


def _make(model, attention, N, mixtures, lmbda, dtype, precision, training):
    check_widths(model, ("N", N, 2))
    check_whole(model, ("mixtures", mixtures, 1, 16))
    module = Cheng2020(N=N, M=N, attention=attention, mixtures=mixtures, dtype=dtype, precision=precision)
    return latent_codec(module, model=model, architecture={"N": N, "mixtures": mixtures}, lmbda=lmbda, **training)


def anchor(*, N: int = 128, mixtures: int = 1, lmbda: float = 0.0130, dtype=None, precision=None, **training) -> Codec:
    """cheng2020-anchor. N: width of everything; mixtures: Gaussians for every entry; training: see latent_codec."""
    return _make("cheng2020-anchor", False, N, mixtures, lmbda, dtype, precision, training)


def attention(
    *, N: int = 128, mixtures: int = 1, lmbda: float = 0.0130, dtype=None, precision=None, **training
) -> Codec:
    """cheng2020-attn, with attention modules in its transforms; arguments as of `anchor`."""
    return _make("cheng2020-attn", True, N, mixtures, lmbda, dtype, precision, training)

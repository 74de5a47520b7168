"""Joint autoregressive and hierarchical priors: mean and scale by a hyperprior, without and with a context.

Minnen, Ballé, Toderici, NeurIPS 2018, https://arxiv.org/abs/1809.02736. Layers, widths and constants as in
CompressAI's `mbt2018_mean` and `mbt2018`, whose weights give the same numbers here (tests).

    image -> g_a -> y -> round(y - mu) + mu -> y^ -> g_s -> reconstruction
                    |                          ^
                    v                          | P(y^) = N(mu, sigma^2) * U(-1/2, 1/2)
                   h_a -> z -> round -> z^ -> h_s -> sigma, mu                                       (mbt2018-mean)
                                               |
       known of y^ -> context_prediction -> entropy_parameters -> sigma, mu                          (mbt2018)

    net   layers                                                net   layers
    g_a, g_s   as in bmshj2018                                  h_a   k3 N; k5 s2 N; k5 s2 N, LeakyReLU between (of y)
    h_s   k5 s2 up M; k5 s2 up 3M/2; k3 2M, LeakyReLU between; the first M channels are sigma, the others mu
    context_prediction    k5 2M, masked: of the entries above, and left in their row
    entropy_parameters    of h_s and context: k1 10M/3; k1 8M/3; k1 2M, LeakyReLU between; sigma, then mu

The context sees entries that are rounded around their mean, as decoders have them and CompressAI's coder does; its
`forward` rounds y itself. In training it sees noisy ones, or with other proxies y rounded.

Deviation: LeakyReLU has slope 0.01 as in CompressAI; the authors' own code used TensorFlow's 0.2.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp

from mlic_jax.codec import Codec
from mlic_jax.entropy.exact import LARGEST_INPUT, ExactStack
from mlic_jax.entropy.priors.factorized import DeepFactorized
from mlic_jax.entropy.priors.gaussian import Gaussian
from mlic_jax.entropy.scanning import Raster
from mlic_jax.families.common import check_widths, module_of
from mlic_jax.families.latent import LatentModel, latent_codec
from mlic_jax.layers.conv import Conv, ConvTranspose
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.stack import LeakyReLU
from mlic_jax.models import bmshj2018

# quality -> (N, M): CompressAI's zoo.
WIDTHS = {quality: (128, 192) if quality <= 4 else (192, 320) for quality in range(1, 9)}
LAMBDAS, LAMBDAS_MS_SSIM = bmshj2018.LAMBDAS, bmshj2018.LAMBDAS_MS_SSIM
TINY = bmshj2018.TINY
# The same of mbt2018.
WIDTHS_JOINT = {quality: (192, 192) if quality <= 4 else (192, 320) for quality in range(1, 9)}

leaky_relu = LeakyReLU(0.01)


class MeanScaleHyperprior(LatentModel):
    """z tells the decoder mean and scale of every entry of y."""

    N: int
    M: int
    dtype: jnp.dtype | None = None
    precision: Precision | None = None
    stride = 64

    def setup(self):
        self.g_a = bmshj2018.analysis_transform(self.N, self.M, self.dtype, self.precision)
        self.g_s = bmshj2018.synthesis_transform(self.N, self.dtype, self.precision)
        self.h_a = bmshj2018.hyper_analysis(self.N, leaky_relu, self.dtype, self.precision)
        self.h_s = ExactStack(  # without dtype: its outcome selects probability tables
            (
                ConvTranspose(self.M, kernel=5, stride=2, precision=self.precision),
                leaky_relu,
                ConvTranspose(self.M * 3 // 2, kernel=5, stride=2, precision=self.precision),
                leaky_relu,
                Conv(self.M * 2, kernel=3, precision=self.precision),
            )
        )
        self.prior_z = DeepFactorized(self.N, family="factorized_z", limit=LARGEST_INPUT)

    def analyze(self, image):
        y = self.g_a(image)
        return {"y": y, "z": self.h_a(y)}

    def transmit(self, code):
        z = code("z", self.prior_z)
        both = code.exact(self.h_s, z, self.prior_z)
        return code("y", Gaussian(scale=both[..., : self.M], mean=both[..., self.M :]))

    def synthesize(self, received):
        return self.g_s(received)


class JointPrior(MeanScaleHyperprior):
    """Mean and scale of every entry of y depend on z and on the entries above, and left in the row."""

    # What is cut off of a scale costs bits, and of a mean what follows: entries see it again.
    held = 1.0

    order = Raster(5)

    def setup(self):
        super().setup()
        self._make_context()

    def _make_context(self, numbers=2):
        """numbers: parameters of the prior for every entry."""
        order = self.order
        self.context_prediction = ExactStack(
            (Conv(2 * self.M, kernel=order.kernel, mask=order.mask(), precision=self.precision),), of_values=True
        )
        conv = functools.partial(Conv, kernel=1, precision=self.precision)
        layers = (conv(self.M * 10 // 3), leaky_relu, conv(self.M * 8 // 3), leaky_relu, conv(numbers * self.M))
        self.entropy_parameters = ExactStack(layers, of_values=True)

    def transmit(self, code):
        z = code("z", self.prior_z)
        return code.scan("y", self.order, functools.partial(self._prior, code), code.exact(self.h_s, z, self.prior_z))

    def _prior(self, code, known, hyper):
        context = code.exact(self.context_prediction, known)
        seen = module_of(hyper).concatenate([hyper, context], axis=-1)
        return self._of_parameters(code.exact(self.entropy_parameters, seen))

    def _of_parameters(self, both):
        """[B, h, w, numbers M] -> the prior of y."""
        return Gaussian(scale=both[..., : self.M], mean=both[..., self.M :])


def mean_scale(*, N: int = 128, M: int = 192, lmbda: float = 0.0130, dtype=None, precision=None, **training) -> Codec:
    """mbt2018-mean. N: width of the transforms and channels of z; M: channels of y; training: see latent_codec."""
    check_widths("mbt2018-mean", ("N", N, 1), ("M", M, 1))
    architecture = {"N": N, "M": M}
    module = MeanScaleHyperprior(**architecture, dtype=dtype, precision=precision)
    return latent_codec(module, model="mbt2018-mean", architecture=architecture, lmbda=lmbda, **training)


def joint(*, N: int = 192, M: int = 192, lmbda: float = 0.0130, dtype=None, precision=None, **training) -> Codec:
    """mbt2018. N: width of the transforms and channels of z; M: channels of y; training: see latent_codec."""
    check_widths("mbt2018", ("N", N, 1), ("M", M, 1))
    architecture = {"N": N, "M": M}
    module = JointPrior(**architecture, dtype=dtype, precision=precision)
    return latent_codec(module, model="mbt2018", architecture=architecture, lmbda=lmbda, **training)

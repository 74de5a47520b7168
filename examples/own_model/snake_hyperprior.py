"""A model of one's own: a mean and scale hyperprior whose transforms have the activation x + sin(x)^2.

    net   layers, all of width N
    g_a   image in [-1, 1] -> k5 s2 snake, x3; k5 s2 M          h_a   k3 snake; k5 s2 snake; k5 s2 N
    g_s   k5 s2 up snake, x3; k5 s2 up 3 -> back to [0, 1]      h_s   k5 s2 up ReLU, x2; k3 2M: integers, in files

Transforms may hold any function of single samples. What decides probabilities, h_s, is an `ExactStack`: it holds
convolutions and LeakyReLUs, which every machine evaluates alike.
"""

import jax.numpy as jnp

from mlic_jax import zoo
from mlic_jax.entropy.exact import LARGEST_INPUT, ExactStack
from mlic_jax.entropy.priors.factorized import DeepFactorized
from mlic_jax.entropy.priors.gaussian import Gaussian
from mlic_jax.families.latent import LatentModel, latent_codec
from mlic_jax.layers import Conv, ConvTranspose, Stack, relu


def snake(x):
    """Liu Ziyin, Tilman Hartwig, Masahito Ueda, "Neural networks fail to learn periodic functions", 2020, at a = 1."""
    return x + jnp.sin(x) ** 2


class SnakeHyperprior(LatentModel):
    """See the top of this file."""

    N: int
    M: int
    stride = 64  # four halvings to y, two more to z

    def setup(self):
        def down(features):
            return Conv(features, kernel=5, stride=2)

        def up(features):
            return ConvTranspose(features, kernel=5, stride=2)

        N, M = self.N, self.M
        self.g_a = Stack((down(N), snake, down(N), snake, down(N), snake, down(M)))
        self.g_s = Stack((up(N), snake, up(N), snake, up(N), snake, up(3)))
        self.h_a = Stack((Conv(N, kernel=3), snake, down(N), snake, down(N)))
        self.h_s = ExactStack((up(N), relu, up(N), relu, Conv(2 * M, kernel=3)))
        self.prior_z = DeepFactorized(N, family="z", limit=LARGEST_INPUT)

    def analyze(self, image):
        y = self.g_a(image * 2 - 1)
        return {"y": y, "z": self.h_a(y)}

    def transmit(self, code):
        z = code("z", self.prior_z)
        both = code.exact(self.h_s, z, self.prior_z)
        return code("y", Gaussian(scale=both[..., : self.M], mean=both[..., self.M :]))

    def synthesize(self, received):
        return (self.g_s(received) + 1) / 2


@zoo.factory
def codec(*, N: int = 32, M: int = 48, lmbda: float = 0.0130, dtype=None, precision=None, **training):
    """N: width of the transforms and channels of z; M: channels of y; training: see latent_codec."""
    del dtype, precision  # the trainer's options of half precision; this model has none
    module = SnakeHyperprior(N, M)
    name = "snake_hyperprior:codec"  # module:function, as configs and model files name it
    return latent_codec(module, model=name, architecture={"N": N, "M": M}, lmbda=lmbda, **training)

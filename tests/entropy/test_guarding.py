"""What encoder and decoder could not agree on is named before training: by a model's first `init`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.entropy.exact import ExactStack
from mlic_jax.entropy.priors.factorized import DeepFactorized
from mlic_jax.entropy.priors.gaussian import Gaussian
from mlic_jax.errors import UsageError
from mlic_jax.families.latent import LatentModel, latent_codec
from mlic_jax.layers import Conv, ConvTranspose, LeakyReLU, Stack, relu

C = 2


class Model(LatentModel):
    """Sound, but for what subclasses change."""

    stride = 4
    limit = 127
    networks = ExactStack

    def setup(self):
        self.down, self.further = Conv(C, kernel=3, stride=2), Conv(C, kernel=3, stride=2)
        self.up = ConvTranspose(3, kernel=3, stride=2)
        self.h_s = self.networks((ConvTranspose(C, kernel=3, stride=2), relu, Conv(C, kernel=1)))
        self.prior_z = DeepFactorized(C, family="z", limit=self.limit)
        self.prior_w = DeepFactorized(C, family="w")

    def analyze(self, image):
        y = self.down(image)
        return {"y": y, "z": self.further(y), "w": self.further(y)}

    def scale(self, code, z):
        return code.exact(self.h_s, z, self.prior_z)

    def transmit(self, code):
        z = code("z", self.prior_z)
        code("w", self.prior_w)
        return code("y", Gaussian(scale=self.scale(code, z)))

    def synthesize(self, received):
        return self.up(received)


class OfJax(Model):
    def scale(self, code, z):
        return jnp.exp(super().scale(code, z))


class ReadsJax(Model):
    def scale(self, code, z):
        return super().scale(code, jnp.tanh(z))


class WithoutLimit(Model):
    limit = None


class InFloats(Model):
    networks = Stack

    def scale(self, code, z):
        return 2 * self.h_s(z) + 1


class OneTable(Model):
    def setup(self):
        super().setup()
        self.prior_v = DeepFactorized(C, family="z")

    def transmit(self, code):
        code("w", self.prior_v)
        return super().transmit(code)


class Unknown(Model):
    def transmit(self, code):
        code("v", self.prior_w)
        return super().transmit(code)


def begin(module):
    return latent_codec(module, model="m", architecture={}, lmbda=0.01).init(jax.random.key(0), (8, 8, 3))


def test_a_sound_model():
    begin(Model())


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (OfJax, "scale of the prior of 'y' comes from a JAX function: .* only operators"),
        (ReadsJax, "what the network 'h_s' reads comes from a JAX function"),
        (InFloats, "scale of the prior of 'y' comes from a network in floating point.*make it an ExactStack"),
        (WithoutLimit, "the network 'h_s' reads a latent whose prior has the limit None: .* limit=127"),
        (OneTable, "the priors prior_v and prior_z share the table 'z': give each a family of its own"),
        (Unknown, "transmit codes 'v', which analyze does not give: it gives y, z, w"),
    ],
)
def test_what_differs_between_machines(module, words):
    with pytest.raises(UsageError, match=words):
        begin(module())


class Pictures(Model):
    """Whose ends are functions of pictures."""

    def analyze(self, image):
        return super().analyze(jnp.tanh(image) * 2 - 1)

    def synthesize(self, received):
        return jnp.tanh(super().synthesize(received)) / 2 + 0.5


class Centred(Model):
    def analyze(self, image):
        return super().analyze(image * 2 - 1)


@pytest.mark.parametrize("module", [Pictures(), Centred()], ids=lambda module: type(module).__name__)
def test_pictures_are_floats_when_files_are_written_too(module):
    codec = latent_codec(module, model="m", architecture={}, lmbda=0.01)
    artifact = codec.export(*codec.init(jax.random.key(0), (8, 8, 3)), [np.zeros((8, 8, 3), np.uint8)])
    image = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    shown = codec.decompress(artifact, codec.compress(artifact, image), (9, 14))
    wanted = codec.estimate(artifact.params, artifact.state, image[None])["reconstruction"][0]
    assert shown.dtype == np.uint8 and np.abs(shown - np.asarray(wanted, int)).max() <= 1


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((Conv(C, 3), nn.gelu), "layer 1 of an ExactStack, gelu: on the parse path there are Conv and ConvTranspose"),
        ((relu, Conv(C, 3)), "layer 0 of an ExactStack, LeakyReLU"),
        ((Conv(C, 3), relu, relu), "layer 2 of an ExactStack, LeakyReLU"),
        ((Conv(C, 3), LeakyReLU(1.5)), "layer 1"),
        ((Conv(C, 4),), "layer 0 of an ExactStack, Conv: .* odd kernels"),
        ((Conv(C, 3, use_bias=False),), "layer 0 of an ExactStack, Conv: .* a bias"),
    ],
)
def test_layers_that_integers_cannot_stand_for(layers, words):
    with pytest.raises(UsageError, match=words):
        ExactStack(layers)

"""Models whose parse path is floating point, and say so: their files are read where they were written, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

import mlic_jax as mlic
from mlic_jax import zoo
from mlic_jax.entropy.coders import Decoding, Encoding
from mlic_jax.entropy.priors.factorized import DeepFactorized
from mlic_jax.entropy.priors.gaussian import ONE, Gaussian
from mlic_jax.entropy.priors.mixture import Mixture
from mlic_jax.errors import CorruptStreamError, ModelError, UsageError
from mlic_jax.families.latent import LatentModel, latent_codec
from mlic_jax.fileformat import container
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.layers import Conv, ConvTranspose, Stack

C = 2
NAME = f"{__name__}:codec"


class Attending(LatentModel):
    """A hyperprior whose scales come from attention over all of z."""

    stride = 4
    portable = False

    def setup(self):
        self.down, self.further = (Stack((Conv(C, kernel=3, stride=2),)) for _ in range(2))
        self.up, self.h_s = Stack((ConvTranspose(3, kernel=3, stride=2),)), Stack((ConvTranspose(C, 3, stride=2),))
        self.prior_z = DeepFactorized(C, family="z")

    def analyze(self, image):
        y = self.down(image * 40)
        return {"y": y, "z": self.further(y)}

    def transmit(self, code):
        z = code("z", self.prior_z)
        places = z.reshape(z.shape[0], -1, C)
        attended = jax.nn.softmax(places @ places.transpose(0, 2, 1)) @ places
        return code("y", Gaussian(scale=jnp.abs(self.h_s(attended.reshape(z.shape)))))

    def synthesize(self, received):
        return self.up(received) / 40


class Portable(Attending):
    portable = True


@zoo.factory
def codec(*, portable=False):
    module = Portable() if portable else Attending()
    return latent_codec(module, model=NAME, architecture={"portable": portable}, lmbda=0.01)


@pytest.fixture(scope="module")
def artifact():
    made = zoo.make(NAME)
    return made.export(*made.init(jax.random.key(0), (8, 8, 3)))


@pytest.fixture(scope="module")
def image():
    return np.ascontiguousarray(small.photos()[0][:30, :41])


def changed(artifact, name, places, value):
    params = flatten(artifact.params)
    params[name] = params[name].copy()
    params[name][places] = value
    return Artifact(artifact.model, artifact.architecture, unflatten(params), artifact.state, artifact.tables)


def test_it_is_a_choice(artifact):
    with pytest.raises(UsageError, match="comes from a JAX function.* or let the model say `portable = False`"):
        zoo.make(NAME, portable=True).init(jax.random.key(0), (8, 8, 3))
    assert zoo.codec_of(artifact).traits.portable is False and artifact.card == {"portable": False}
    assert zoo.make("bmshj2018-hyperprior").traits.portable


def test_files_are_read_where_they_were_written(artifact, image):
    data = mlic.compress(image, artifact)
    shown = mlic.decompress(data, artifact)
    wanted = zoo.codec_of(artifact).estimate(artifact.params, artifact.state, image[None])
    assert np.abs(shown.astype(int) - wanted["reconstruction"][0]).max() <= 1
    about = mlic.info(data)
    assert about["portable"] is False and about["chunks"][-1] == {"type": "not-portable", "bytes": 0}
    # A checksum before each of two latents, and what the header has more.
    assert about["chunks"][0]["bytes"] <= wanted["bits"][0] / 8 * 1.005 + 8 + 40


def test_a_file_and_its_model_say_the_same(artifact, image):
    header, chunks = container.unpack(mlic.compress(image, artifact))
    with pytest.raises(CorruptStreamError, match="says wrongly whether every machine"):
        mlic.decompress(container.pack(header._replace(portable=True), chunks), artifact)


def test_a_weight_that_is_one_ulp_off(artifact, image):
    """A scale that lies on a row's threshold, by the very last digit of a bias."""
    even = next(t for t in artifact.tables["gaussian"].thresholds.tolist() if t % 2 == 0)
    border = np.float32((even - 0.5) / ONE)  # half to even: the row above begins here
    below = np.nextafter(border, np.float32(0))
    still = changed(artifact, "h_s/layers_0/kernel", ..., 0)
    above, other = (changed(still, "h_s/layers_0/bias", 0, bias) for bias in (border, below))
    made = zoo.codec_of(above)
    parts, size = made.compress(above, image), image.shape[:2]
    assert made.decompress(above, parts, size).shape == image.shape
    with pytest.raises(ModelError, match="probabilities of 'y' are others here than where the file was written"):
        made.decompress(other, parts, size)
    # Another weight of the same size changes no row, and nothing is refused for it.
    same = changed(above, "up/layers_0/kernel", (0, 0, 0, 0), 0.5)
    assert made.decompress(same, parts, size).shape == image.shape


def test_damage_is_no_other_machine(artifact, image):
    made = zoo.codec_of(artifact)
    (stream,) = made.compress(artifact, image)
    for place in (len(stream) - 1, len(stream) // 2):
        damaged = bytearray(stream)
        damaged[place] ^= 8
        with pytest.raises((CorruptStreamError, ModelError)):
            made.decompress(artifact, (bytes(damaged),), image.shape[:2])


def test_distributions_of_each_symbol_are_compared_too():
    rng = np.random.default_rng(0)
    prior = Mixture(*(np.abs(rng.normal(size=(1, 2, 3, 2, C))).astype(np.float32) for _ in range(3)))
    latent = rng.normal(size=(1, 2, 3, C)).astype(np.float32)
    encoder = Encoding({"y": latent}, {}, portable=False)
    wanted = encoder("y", prior)
    stream = encoder.finish()
    np.testing.assert_array_equal(Decoding(stream, {"y": latent.shape}, {}, portable=False)("y", prior), wanted)
    other = prior.scales.copy()
    other[0, 1, 2, 1, 0] += 1 / ONE
    with pytest.raises(ModelError, match="probabilities of 'y' are others here"):
        Decoding(stream, {"y": latent.shape}, {}, portable=False)("y", prior._replace(scales=other))

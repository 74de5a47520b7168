"""Serial contexts: what each position sees, and that files of such models decode, exactly, by the one order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from mlic_jax.entropy import coders
from mlic_jax.entropy.exact import ExactStack
from mlic_jax.entropy.exporting import Guarding
from mlic_jax.entropy.priors.gaussian import Gaussian, LogGaussian
from mlic_jax.entropy.priors.mixture import Mixture
from mlic_jax.entropy.scanning import Checkerboard, Raster, seen
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.families import latent_coding
from mlic_jax.families.common import module_of
from mlic_jax.families.latent import LatentModel, latent_codec
from mlic_jax.layers import Conv, ConvTranspose, relu

C = 3


class Serial(LatentModel):
    """After mbt2018: a masked context of 5x5, and what it says together with z; layers are few and small."""

    order: Raster | Checkerboard = Raster(5)
    parts: int = 2  # numbers for each entry
    stride = 4

    def setup(self):
        self.down, self.further = Conv(C, kernel=3, stride=2), Conv(C, kernel=3, stride=2)
        self.up = ConvTranspose(3, kernel=3, stride=2)
        self.h_s = ExactStack((ConvTranspose(4, kernel=3, stride=2),), of_values=True)
        self.context = ExactStack((Conv(5, self.order.kernel, mask=self.order.mask()),), of_values=True)
        self.both = ExactStack((Conv(6, 1), relu, Conv(self.parts * C, 1)), of_values=True)

    def analyze(self, image):
        y = 30 * self.down(image)
        return {"y": y, "z": self.further(y)}

    def transmit(self, code):
        z = code("z", LogGaussian(np.full((1, 1, 1, C), 0.5, np.float32)))
        return code.scan("y", self.order, functools.partial(self.prior, code), code.exact(self.h_s, z))

    def prior(self, code, known, side):
        before = code.exact(self.context, known)
        numbers = code.exact(self.both, module_of(before).concatenate([before, side], axis=-1))
        return Gaussian(scale=numbers[..., :C] + 5, mean=numbers[..., C:])

    def synthesize(self, received):
        return self.up(received / 30)


class Mixed(Serial):
    """The same with a mixture of two Gaussians for every entry, as of Cheng 2020."""

    parts: int = 6

    def prior(self, code, known, side):
        numbers = super().prior(code, known, side)
        scale, rest = numbers.scale, numbers.mean
        rest = rest.reshape((*rest.shape[:3], 5, C))
        scales = rest[..., 1:3, :] + 5
        return Mixture(scale.reshape((*scale.shape[:3], 1, C)) * rest[..., :2, :], scales, rest[..., 3:, :])


MODULES = {"raster": Serial(), "checkerboard": Serial(Checkerboard(5)), "mixture": Mixed()}
SIDE = 24


@functools.cache
def made(name):
    """(module, codec, artifact) with noise on all weights, so that contexts say something."""
    module = MODULES[name]
    codec = latent_codec(module, model="m", architecture={}, lmbda=0.01, proxy="mixed")
    params, state = codec.init(jax.random.key(0), (SIDE, SIDE, 3))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + rng.normal(0, 0.15, p.shape).astype(np.float32), params)
    return module, codec, codec.export(params, state, list(small.crops(2, SIDE)))


@pytest.mark.parametrize("name", MODULES)
def test_files_decode(name):
    module, codec, artifact = made(name)
    image = small.crops(1, SIDE, seed=3)[0][:, :17]
    stream, received = latent_coding.encode(module, artifact, image)
    np.testing.assert_array_equal(latent_coding.receive(module, artifact, stream, image.shape[:2]), received)
    narrow = image[:, :3]
    codec.decompress(artifact, codec.compress(artifact, narrow), narrow.shape[:2])
    (chunk,) = codec.compress(artifact, image)
    assert chunk == stream and np.ptp(received) > 20
    with pytest.raises(CorruptStreamError):
        codec.decompress(artifact, (bytes(4) + chunk[4:],), image.shape[:2])

    # The estimate goes the same way, with the same numbers, in one program.
    @jax.jit
    def estimate(latents):
        coder = coders.Estimating(latents)
        module.apply(artifact.variables, coder, method="transmit")
        return coder.received["y"], sum(coder.bits.values())

    latents = latent_coding._analyzed(
        latent_coding.bound(module, artifact), latent_coding.pad_picture(image, 4)[None] / 255.0
    )
    values, bits = estimate(latents)
    np.testing.assert_allclose(values, received, atol=1e-4)
    assert 8 * len(stream) == pytest.approx(float(bits[0]), rel=0.02, abs=64)


@pytest.mark.parametrize("name", ["raster", "checkerboard"])
def test_one_pass_over_all_that_is_known_says_the_same(name):
    """Wave by wave, from the surroundings of positions alone, networks give what they give for a whole picture."""
    module, _, artifact = made(name)
    rng, order = np.random.default_rng(1), module.order
    shape = (1, 7, 9, C)
    values = np.float32(rng.integers(-40, 40, shape))
    side = np.float32(rng.integers(-500, 500, (1, 7, 9, 4)) / 256)

    class Forced(coders.Decoding):
        """Reads values that were made up."""

        def __init__(self):
            self.shapes, self.scales = {"y": shape}, np.zeros(shape, np.float32)

        def _wave(self, name, prior, places):
            self.scales[:, *places] = prior.scale[0]
            return values[:, *places][:, None]

    def both(bound):
        coder = Forced()
        coder.scan("y", order, functools.partial(bound.prior, coder), side)
        whole = bound.prior(coder, np.where(seen(order, shape), values, 0), side)
        return coder.scales, whole.scale

    waves, whole = module.apply(artifact.variables, method=both)
    np.testing.assert_array_equal(waves, whole)
    assert len(np.unique(waves)) > 50


@pytest.mark.parametrize("order", [Raster(3), Raster(5), Raster(7), Checkerboard(3), Checkerboard(5)], ids=str)
def test_what_a_position_sees_was_coded_before(order):
    waves, reach = order.waves(6, 8), order.kernel // 2
    counted = 0
    for (row, column), wave in np.ndenumerate(waves):
        for (i, j), is_seen in np.ndenumerate(np.array(order.mask())):
            there = row + i - reach, column + j - reach
            if is_seen and 0 <= there[0] < 6 and 0 <= there[1] < 8 and seen(order, (1, 6, 8, 1))[0, *there, 0]:
                assert waves[there] < wave
                counted += 1
    assert counted > 40 and np.unique(waves).tolist() == list(range(waves.max() + 1))
    taps = {"Raster": (order.kernel**2 - 1) // 2, "Checkerboard": (order.kernel**2 - 1) // 2}
    assert np.sum(order.mask()) == taps[type(order).__name__]


def test_a_context_trains():
    _, codec, artifact = made("raster")
    params = artifact.params
    data = {"image": jnp.asarray(small.crops(4, SIDE)), "position": jnp.arange(4)}
    keys, optimizer = jax.vmap(jax.random.key)(jnp.arange(4)), optax.adam(1e-2)

    @jax.jit
    def run(params):
        def step(carry, _):
            (loss, _), grads = jax.value_and_grad(codec.objectives["priors"].loss, has_aux=True)(
                carry[0], {}, data, keys, 0
            )
            updates, moments = optimizer.update(grads, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), moments), loss

        return jax.lax.scan(step, (params, optimizer.init(params)), None, 30)

    (after, _), losses = run(params)
    assert losses[-1] < 0.8 * losses[0]
    change = np.abs(after["context"]["layers_0"]["kernel"] - params["context"]["layers_0"]["kernel"]).max((2, 3))
    np.testing.assert_array_equal(change > 0, np.array(Raster(5).mask()))  # what is not seen does not matter


MASK = Raster(5).mask()
WRONG = {
    "reads symbols": ExactStack((Conv(5, 5, mask=MASK),)),
    "too wide": ExactStack((Conv(5, 7, mask=Raster(7).mask()),), of_values=True),
    "two kernels": ExactStack((Conv(5, 5, mask=MASK), relu, Conv(5, 3)), of_values=True),
    "strided": ExactStack((Conv(5, 5, 2, mask=MASK),), of_values=True),
    "transposed": ExactStack((ConvTranspose(5, 5),), of_values=True),
    "without a mask": ExactStack((Conv(5, 5),), of_values=True),
    "of another order": ExactStack((Conv(5, 5, mask=Checkerboard(5).mask()),), of_values=True),
    "sees itself": ExactStack((Conv(5, 1),), of_values=True),
}


@pytest.mark.parametrize("name", WRONG)
def test_networks_of_a_scan(name):
    """Outputs of others would depend on more than what is known around their positions."""
    shapes = {"y": (1, 8, 8, C)}
    network = WRONG[name].clone(name="context", parent=None)
    with pytest.raises(
        UsageError, match="the network 'context' stands in a scan: .* a kernel of at most 5, .* has mask=order.mask"
    ):
        coder = Guarding(shapes)
        coder.scan("y", Raster(5), lambda known, side: Gaussian(coder.exact(network, known)))


def test_networks_of_smaller_kernels():
    network = ExactStack((Conv(C, 3, mask=Raster(3).mask()), relu, Conv(C, 1)), of_values=True, parent=None)
    coder = Guarding({"y": (1, 8, 8, C)})
    coder.scan("y", Raster(5), lambda known, side: Gaussian(coder.exact(network.clone(name="context"), known)))

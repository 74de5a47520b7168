"""KltNet 2: what its receiver costs, the codec that it is before training, and what its files depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from mlic_jax import api, reference, zoo
from mlic_jax.entropy import coders, rangecoder
from mlic_jax.errors import UsageError
from mlic_jax.families import latent_coding
from mlic_jax.fileformat.artifact import flatten, unflatten
from mlic_jax.layers import init, windows
from mlic_jax.layers.space import SpaceToDepth
from mlic_jax.metrics.psnr import psnr_db
from mlic_jax.models import kltnet, kltnet2


def picture(height=128, width=192):
    return np.ascontiguousarray(small.photos()[1][:height, :width])


@functools.cache
def noisy():
    """(codec, artifact) with noise on all weights: nothing is zero as it is before training."""
    codec = zoo.make("kltnet2", **kltnet2.TOY)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    rng, flat = np.random.default_rng(2), flatten(params)
    for name, array in flat.items():
        fan_in = np.prod(array.shape[:-1]) if array.ndim == 4 else 10
        flat[name] = array + rng.normal(0, 0.1 * fan_in**-0.5, array.shape).astype(np.float32)
    return codec, codec.export(unflatten(flat), state, list(small.crops(2, 64)))


# ---------------------------------------------------------------------- what it costs


@pytest.mark.parametrize(("widths", "receiver"), [(kltnet2.NANO, 5.5), (kltnet2.TINY2, 20)], ids=["nano", "tiny2"])
def test_work_of_a_receiver(widths, receiver):
    """Every part counted by hand."""
    found = zoo.make("kltnet2", **widths).kmac_per_pixel()
    D, H, R, M, Z, F = (widths[name] for name in "DHRMZF")
    block = 9 * D + 4 * D * D
    body = M * D + widths["blocks_d"] * block + (M + D) * 768 + 2 * D * H
    up = 49 * (Z + kltnet2.LEVELS) / 4096  # for each channel that a map of z has
    means = (F * R + R * M + 3 * ((F + M) * R + 9 * R * R + R * M)) / 256
    assert found["synthesis"] == pytest.approx((body / 256 + 2 * 48 * H / 16 + up * M) / 1e3, rel=1e-5)
    assert found["probabilities"] == pytest.approx((means + up * (M + F)) / 1e3, rel=1e-5)
    assert found["probabilities"] + found["synthesis"] <= receiver


def test_widths_that_make_no_sense():
    for changes, message in (({"M": 26}, "no multiple of 4"), ({"D": 0}, "out of range"), ({"H": 2.0}, "out of range")):
        with pytest.raises(UsageError, match=message):
            zoo.make("kltnet2", **{**kltnet2.TOY, **changes})


# ---------------------------------------------------------------------- before training


def test_cells_are_the_block_transform():
    """The grid's order of samples, undone, is that of SpaceToDepth."""
    basis = np.asarray(kltnet2.CellTransform(40)(jax.random.key(0), (1, 1, 40, 768)))
    wanted = kltnet.block_transform(16, 40)[0].T
    y = np.random.default_rng(0).normal(size=(1, 2, 3, 40)).astype(np.float32)
    cells = (y @ basis).reshape(1, 2, 3, 4, 4, 4, 4, 3).transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(1, 32, 48, 3)
    np.testing.assert_allclose(SpaceToDepth(16).apply({}, cells), y @ wanted, atol=1e-5)


def test_the_codec_before_training_is_the_block_transform():
    # At full width analysis and synthesis are inverse: networks add nothing, gains cancel, predicted steps are one.
    module = kltnet2.KltNet2(**{**kltnet2.TOY, "M": 768})
    shapes = jax.eval_shape(
        lambda key: module.init(key, jnp.zeros((1, 64, 64, 3)), coders.Estimating, jnp.zeros(1)), jax.random.key(0)
    )
    variables = {"params": init.materialise(shapes["params"], jax.random.key(0))}
    image, quality = small.crops(1, 64).astype(np.float32) / 255, jnp.float32([33])

    @jax.jit
    def through(image):
        latents = module.apply(variables, image, quality, method="analyze")
        y = sum(kltnet.scatter(latents[f"y_{step}"], step, 4) for step in range(4))
        received = {"y": y, "known": jnp.ones((1, 1, 1, kltnet2.TOY["Z"] + kltnet2.LEVELS))}
        return y, module.apply(variables, received, quality, method="synthesize")

    y, back = through(image)
    np.testing.assert_allclose(back, image, atol=1e-4)
    log = np.interp(33, [0, 100], np.log(kltnet.LAMBDAS))
    step = np.sqrt(((image - 0.5) ** 2).sum() / (np.asarray(y) ** 2).sum())
    assert step == pytest.approx(kltnet.water_filling(np.exp(log)), rel=1e-4)


@pytest.mark.slow  # half a minute of compiling, as below; tests/test_contract.py trains the model every time
def test_gradients_reach_every_parameter():
    codec = zoo.make("kltnet2", **kltnet2.TOY, proxy="mixed")
    batch = {"image": jnp.asarray(small.crops(4, 64)), "position": jnp.arange(4)}
    keys = jax.random.split(jax.random.key(3), 4)
    loss = codec.objectives["rd"].loss
    gradient = jax.jit(jax.grad(lambda params: loss(params, {}, batch, keys, 0)[0]))
    found = {name: np.abs(g).max() for name, g in flatten(jax.device_get(gradient(noisy()[1].params))).items()}
    assert np.isfinite(list(found.values())).all()
    assert [name for name, value in found.items() if value == 0] == []


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (70, 130)], ids=str)
def test_files(size):
    codec, artifact = noisy()
    image, module = picture(*size), kltnet2.KltNet2(**kltnet2.TOY)
    for quality in (0.0, 37.5, 100.0) if size == (70, 130) else (62.5,):
        data = api.compress(image, artifact, quality)
        assert api.info(data)["quality"] == quality
        found = api.decompress(data, artifact)
        _, received = latent_coding.encode(module, artifact, image, quality)
        np.testing.assert_array_equal(latent_coding.reconstruct(module, artifact, received, size, quality), found)
        assert psnr_db(image, found) > 10


def test_windows_give_the_whole():
    module, artifact = kltnet2.KltNet2(**kltnet2.TOY), noisy()[1]
    quality = np.float32([37.5])
    bound = module.bind({"params": artifact.params})
    rng, M, F = np.random.default_rng(0), kltnet2.TOY["M"], kltnet2.TOY["F"]
    x = rng.random((1, 192, 256, 3), np.float32)
    y = rng.normal(0, 9, (1, 12, 16, M)).astype(np.float32)
    seen = rng.normal(0, 3, (1, 12, 16, M + F)).astype(np.float32)
    known = rng.normal(0, 3, (1, 12, 16, kltnet2.TOY["Z"] + kltnet2.LEVELS)).astype(np.float32)
    given = (bound.analysis, x), (bound.synthesis, y), (bound.mean_2, seen), (bound.steps, known), (bound.h_a, y)
    for stack, inputs in given:
        alone, variables = stack.unbind()
        more = (quality,) if stack in (bound.analysis, bound.synthesis) else ()
        wanted = np.asarray(jax.jit(alone.apply)(variables, jnp.asarray(inputs), *more))
        found = alone.clone(cores=(3, 5), pixels=False).apply(variables, inputs, *more)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max())


class Given:
    """A coder of symbols that are known."""

    latents = {}

    def __init__(self, z, symbols, quality):
        self.z, self.symbols, self.quality = z, symbols, quality

    def __call__(self, name, prior):
        return self.z if name == "z" else kltnet.gather(self.symbols, int(name[-1]), 4) + prior.center

    def exact(self, network, latent):
        return network(latent)


def test_the_receiver_in_windows_gives_the_whole(monkeypatch):
    """What is trained, means step by step over the whole picture, and the one program that files are decoded by."""
    monkeypatch.setattr(kltnet2._Receiver, "cores", (1, 2))
    module, variables, quality = kltnet2.KltNet2(**kltnet2.TOY), {"params": noisy()[1].params}, np.float32([60])
    rng, (h, w) = np.random.default_rng(1), (3, 8)
    symbols = np.rint(rng.normal(0, 2, (1, 4 * h, 4 * w, kltnet2.TOY["M"]))).astype(np.float32)
    z = np.rint(rng.normal(0, 2, (1, h, w, kltnet2.TOY["Z"]))).astype(np.float32)

    @jax.jit
    def whole(z, symbols):
        received = module.apply(variables, Given(z, symbols, jnp.asarray(quality)), method="transmit")
        return module.apply(variables, received, jnp.asarray(quality), method="synthesize")

    known = module.apply(variables, z, quality, method="_known")
    found = module.apply(variables, {"known": known, "symbols": symbols}, quality, method="synthesize")
    wanted = 255 * np.clip(np.asarray(whole(z, symbols)), 0, 1)
    assert found.dtype == np.uint8 and found.shape == (1, 64 * h, 64 * w, 3)
    assert len(windows.spans_over(w, 2, (1, 2))) > 1, "or there were no windows"
    # Half a step of rounding, and what float32 leaves of values that noise in all weights makes large (0.012 seen).
    assert np.abs(found - wanted).max() < 0.55 and np.std(wanted) > 10


def test_two_decoders_find_the_same_symbols(monkeypatch):
    artifact, found = noisy()[1], {}
    read, call = rangecoder.Decoder.read, coders.Decoding.__call__

    def reading(decoder, indexes, *rest):
        found["last"] = read(decoder, indexes, *rest), np.array(indexes)
        return found["last"][0]

    def calling(decoding, name, prior):
        value = call(decoding, name, prior)
        found[name], found[f"{name}_rows"] = found.pop("last")
        return value

    monkeypatch.setattr(rangecoder.Decoder, "read", reading)
    monkeypatch.setattr(coders.Decoding, "__call__", calling)
    rows = set()
    for size, quality in (((1, 1), 0), ((70, 130), 37.5), ((67, 3), 99.5), ((64, 64), 100)):
        data = api.compress(picture(*size), artifact, quality)
        found.clear()
        api.decompress(data, artifact)
        other = reference.decode(data, artifact)
        assert other.keys() == {"z", "z_rows", *(f"y_{i}{more}" for i in range(4) for more in ("", "_rows"))}
        for name, array in other.items():
            np.testing.assert_array_equal(found[name][0], array, err_msg=name)
        rows |= {row for step in range(4) for row in np.unique(other[f"y_{step}_rows"])}
    assert len(rows) > 6, "or this would prove little"


def test_one_linear_map_decides_how_a_file_is_read():
    """Whatever else of a model differs from machine to machine, the symbols are the same."""
    artifact = noisy()[1]
    data = api.compress(picture(70, 130), artifact, 40)
    stream = reference.container.parse(data).chunks[0][1]
    module = kltnet2.KltNet2(**kltnet2.TOY)
    rng = np.random.default_rng(5)
    others = {
        name: value if name == "scales" else jax.tree.map(lambda a: a + rng.normal(0, 0.1, a.shape).astype("f4"), value)
        for name, value in artifact.params.items()
    }
    symbols = []
    for params in (artifact.params, others):
        coder = coders.Decoding(
            stream, latent_coding.latent_shapes(module, (70, 130)), artifact.models, np.float32([40])
        )
        read, found = coder._decoder.read, []
        coder._decoder.read = lambda *given, read=read, found=found: found.append(read(*given)) or found[-1]
        module.apply({"params": params, "state": artifact.state}, coder, method="transmit")
        coder.finish()
        symbols.append(found)
    assert len(symbols[0]) == 5 and any(array.any() for array in symbols[0])
    for one, other in zip(*symbols, strict=True):
        np.testing.assert_array_equal(one, other)


def test_export():
    codec, artifact = noisy()
    assert set(artifact.state) == {"scales", "prior_z"} and set(artifact.tables) == {"log_gaussian"}
    assert set(artifact.state["scales"]) == {"input", "layer_0"}
    again = codec.export(artifact.params, artifact.state, list(small.crops(2, 64)))
    assert again.fingerprint == artifact.fingerprint


def test_what_the_objective_of_priors_owns():
    # Not the predicted steps: what they change is the picture.
    codec, artifact = noisy()
    left = set(artifact.params) - set(codec.objectives["priors"].owns)
    assert left == {"analysis", "h_a", "steps", "synthesis"}


@pytest.mark.slow
def test_the_objective_of_priors():
    # With noise: before training the last layers of means are zero, and what stands before them waits.
    codec, (params, state) = noisy()[0], (noisy()[1].params, {})
    batch = {"image": jnp.asarray(small.crops(2, 64)), "position": jnp.arange(2)}
    keys = jax.random.split(jax.random.key(1), 2)
    objective = codec.objectives["priors"]
    loss = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    (value, _), found = loss(params, state, batch, keys, 0)
    for name, leaves in found.items():
        reached = [bool(np.abs(leaf).max() > 0) for leaf in jax.tree.leaves(leaves)]
        assert any(reached) if name in objective.owns else not any(reached), name
    lower = jax.tree.map(lambda a, g: a - 1e-3 * g, params, found)
    assert loss(lower, state, batch, keys, 0)[0][0] < value

"""KltNet: its coding order, the codec that it is before training, and the files that it writes at every quality."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scipy import optimize

from mlic_jax import api, reference, zoo
from mlic_jax.entropy import coders, rangecoder
from mlic_jax.errors import CorruptStreamError, ModelError, UsageError
from mlic_jax.families import latent_coding
from mlic_jax.fileformat import container
from mlic_jax.fileformat.artifact import Artifact, flatten
from mlic_jax.layers import init, windows
from mlic_jax.metrics.psnr import psnr_db
from mlic_jax.models import kltnet

in_steps = pytest.mark.parametrize("steps", [2, 4])


def picture(height=128, width=192):
    return np.ascontiguousarray(small.photos()[1][:height, :width])


@pytest.mark.parametrize("size, count", [((512, 768), 1), ((768, 512), 1), ((1088, 1920), 3), ((64, 64), 1)], ids=str)
@pytest.mark.parametrize("widths", [kltnet.TINY, kltnet.BASE], ids=["tiny", "base"])
def test_pictures_of_usual_sizes_are_few_windows(widths, size, count):
    model = kltnet.KltNet(**widths).bind({})
    for name, cell in (("analysis", 16), ("synthesis", 16), ("context", 16), ("h_a", 64), ("h_s", 64)):
        stack = getattr(model, name)
        margin = windows.geometry(stack.layers).margin
        spans = functools.partial(windows.spans_over, margin=margin, cores=stack.cores)
        found = windows.cover([side // cell for side in size], spans)
        assert len(found) <= count, name
        if min(size) >= min(kltnet.SIDES):
            computed = sum(window.rows.length * window.columns.length for window in found)
            assert computed * cell**2 <= 1.3 * size[0] * size[1], name


# ---------------------------------------------------------------------- rounding for rate


def test_the_card_says_how_weights_round_for_rate():
    artifact = small.noisy(2)[1]
    other = Artifact.from_bytes(artifact.to_bytes())
    other.card["encoder"] = {"round_for_rate": [3.0, 2.0]}
    other = Artifact.from_bytes(other.to_bytes())
    assert other.fingerprint == artifact.fingerprint and artifact.encoder == {}
    files, estimates = [], []
    for model in (artifact, other):
        files.append(api.compress(picture(), model, 50))
        bits = zoo.codec_of(model).estimate(model.params, model.state, picture()[None], quality=50)["bits"]
        estimates.append(float(bits[0]))
    assert len(files[1]) < 0.97 * len(files[0]) and estimates[1] < 0.97 * estimates[0], "errors count for less"
    np.testing.assert_array_equal(api.decompress(files[1], artifact), api.decompress(files[1], other))


@pytest.mark.parametrize("encoder", [{"steps": 2}, {"round_for_rate": [1, -1]}, {"round_for_rate": 3}, 7], ids=str)
def test_a_card_cannot_change_what_files_mean(encoder):
    other = Artifact.from_bytes(small.noisy(2)[1].to_bytes())
    other.card["encoder"] = encoder
    with pytest.raises(ModelError, match="encoder|round_for_rate"):
        api.compress(picture(), other, 50)


# ---------------------------------------------------------------------- the coding order


@in_steps
def test_mosaic_visits_every_group_once_everywhere(steps):
    orders = np.stack([kltnet.mosaic(5, 7, step, steps) for step in range(steps)])
    assert orders.shape == (steps, 5, 7)
    np.testing.assert_array_equal(
        np.sort(orders, axis=0), np.broadcast_to(np.arange(steps)[:, None, None], (steps, 5, 7))
    )
    for found in orders:
        assert (found[1:] != found[:-1]).all() and (found[:, 1:] != found[:, :-1]).all(), "neighbours are alike"
        if steps == 4:
            corners = np.stack([found[:-1, :-1], found[:-1, 1:], found[1:, :-1], found[1:, 1:]])
            assert (np.sort(corners, axis=0) == np.arange(4)[:, None, None]).all()
    if steps == 4:  # what follows the first step's group stands diagonally to it
        np.testing.assert_array_equal(orders[1][1:, 1:], orders[0][:-1, :-1])


@in_steps
def test_gather_and_scatter(steps):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 8)).astype(np.float32)
    back, parts = 0, []
    for step in range(steps):
        part = kltnet.gather(x, step, steps)
        assert isinstance(part, np.ndarray) and part.shape == (2, 3, 5, 8 // steps)
        spread = kltnet.scatter(part, step, steps)
        assert isinstance(spread, np.ndarray) and spread.dtype == np.float32
        np.testing.assert_array_equal(kltnet.gather(jnp.asarray(x), step, steps), part)
        np.testing.assert_array_equal(kltnet.scatter(jnp.asarray(part), step, steps), spread)
        np.testing.assert_array_equal(kltnet.gather(spread, step, steps), part)
        assert (spread != 0).sum() == part.size
        back = back + spread
        parts.append(part)
    np.testing.assert_array_equal(back, x)
    # By definition: at each place the group that the mosaic names.
    groups = np.split(x, steps, axis=-1)
    assert all(
        (parts[step][:, i, j] == groups[kltnet.mosaic(3, 5, step, steps)[i, j]][:, i, j]).all()
        for step in range(steps)
        for i in range(3)
        for j in range(5)
    )


def test_quality_as_constants_and_as_a_prior():
    like, logs = np.zeros((1, 2, 3, 4), np.float32), np.random.default_rng(0).normal(1, 2, (kltnet.LEVELS, 5))
    prior = kltnet.QualityPrior(5)
    params = {"params": {"log_scale": logs.astype(np.float32)}}
    for half_steps in range(201):
        quality = np.float32([half_steps / 2])
        found, wanted = (kltnet.quality_channels(xp.asarray(like), xp.asarray(quality)) for xp in (np, jnp))
        assert isinstance(found, np.ndarray) and found.shape == wanted.shape == (1, 2, 3, kltnet.LEVELS)
        assert (found * 64 == np.rint(found * 64)).all() and np.abs(found - wanted).max() < 1 / 64
        if half_steps % 20 == 0:
            found, wanted = prior.apply(params, quality), prior.apply(params, jnp.asarray(quality))
            assert found.log_scale.shape == (1, 1, 1, 5) == wanted.log_scale.shape
            assert (found.log_scale * 256 == np.rint(found.log_scale * 256)).all()
            np.testing.assert_allclose(found.log_scale, wanted.log_scale, atol=1.01 / 256)
    # An artifact's state is what decides.
    (kept,) = found.export_state().values()
    again = prior.apply({"params": {"log_scale": logs.astype(np.float32) + 9}, "state": kept}, quality)
    np.testing.assert_array_equal(again.log_scale, found.log_scale)


def test_water_filling_minimises_the_loss():
    for lmbda in (*kltnet.LAMBDAS, 0.01):

        def loss(log_step, lmbda=lmbda):
            # Uniform error, three coefficients a pixel.
            return lmbda * 255**2 * np.exp(2 * log_step) / 12 - 3 * log_step / np.log(2)

        least = optimize.minimize_scalar(loss, bounds=(-8, 2), method="bounded", options={"xatol": 1e-9}).x
        assert kltnet.water_filling(lmbda) == pytest.approx(np.exp(least), rel=1e-6)


def test_widths_that_make_no_sense():
    for changes in ({"steps": 3}, {"steps": 1}, {"steps": 4, "M": 26}):
        with pytest.raises(UsageError, match="steps are 2 or 4"):
            zoo.make("kltnet", **{**kltnet.TOY, **changes})
    for changes in ({"C": 0}, {"F": 2.0}, {"blocks_8": 1 << 20}):
        with pytest.raises(UsageError, match="out of range"):
            zoo.make("kltnet", **{**kltnet.TOY, **changes})


# ---------------------------------------------------------------------- before training


@functools.cache
def untrained():
    codec = zoo.make("kltnet", **kltnet.TOY)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    assert state == {}
    return codec, codec.export(params, state, list(small.crops(2, 64)))


# Of qualities 0, 50 and 100, on a photo.
BPP, PSNR = ((0.22, 0.3), (0.43, 0.53), (0.7, 0.9)), ((27.4, 28.4), (30.3, 31.3), (30.9, 31.9))


def test_a_codec_before_training():
    codec, artifact = untrained()
    image, found = picture(), {}
    for quality in (0, 50, 100):
        data = api.compress(image, artifact, quality)
        found[quality] = (8 * len(data) / (128 * 192), psnr_db(image, api.decompress(data, artifact)))
    low, mid, high = found.values()
    assert low[0] < mid[0] < high[0] and low[1] < mid[1] < high[1]
    # M is 24 of 768 coefficients: what they leave out bounds the PSNR at 31.5 dB.
    for (bpp, psnr), bpp_range, psnr_range in zip(found.values(), BPP, PSNR, strict=True):
        assert bpp_range[0] < bpp < bpp_range[1] and psnr_range[0] < psnr < psnr_range[1]


def test_the_transform_before_training_is_the_block_transform():
    # At full width analysis and synthesis are inverse: networks add nothing, gains cancel.
    module = kltnet.KltNet(**{**kltnet.TOY, "M": 768})
    shapes = jax.eval_shape(
        lambda key: module.init(key, jnp.zeros((1, 64, 64, 3)), coders.Estimating, jnp.zeros(1)), jax.random.key(0)
    )
    variables = {"params": init.materialise(shapes["params"], jax.random.key(0))}
    image = small.crops(1, 64).astype(np.float32) / 255
    quality = jnp.float32([33])

    @jax.jit
    def through(image):
        latents = module.apply(variables, image, quality, method="analyze")
        y = sum(kltnet.scatter(latents[f"y_{step}"], step, 2) for step in range(2))
        return y, module.apply(variables, y, quality, method="synthesize")

    y, back = through(image)
    np.testing.assert_allclose(back, image, atol=1e-4)
    # An error of one in a coefficient is one quantisation step of the picture's, which water filling chose.
    log = np.interp(33, [0, 100], np.log(kltnet.LAMBDAS))
    step = np.sqrt(((image - 0.5) ** 2).sum() / (np.asarray(y) ** 2).sum())
    assert step == pytest.approx(kltnet.water_filling(np.exp(log)), rel=1e-4)


def test_gradients_reach_every_parameter():
    codec = zoo.make("kltnet", **{**kltnet.TOY, "steps": 4}, proxy="mixed")
    batch = {"image": jnp.asarray(small.crops(4, 64)), "position": jnp.arange(4)}
    keys = jax.random.split(jax.random.key(3), 4)
    gradient = jax.jit(jax.grad(lambda params: codec.objectives["rd"].loss(params, {}, batch, keys, 0)[0]))

    def largest(params):
        found = {name: np.abs(g).max() for name, g in flatten(jax.device_get(gradient(params))).items()}
        assert np.isfinite(list(found.values())).all()
        return found

    assert [name for name, value in largest(small.noisy(4)[1].params).items() if value == 0] == []
    # Before training the last layers beside the two shortcuts are zero: they learn, what stands before them waits.
    params, _ = codec.init(jax.random.key(0), (64, 64, 3))
    last = {
        name.removesuffix("/kernel") for name, array in flatten(params).items() if "kernel" in name and not array.any()
    }
    assert last == {"analysis/layers_1/branches_1/layers_8", "synthesis/layers_1/branches_1/layers_7"}
    beside = tuple(name[: name.rindex("/") + 1] for name in last)
    found = largest(params)
    assert {name for name, value in found.items() if value == 0} == {
        name for name in found if name.startswith(beside) and name.rsplit("/", 1)[0] not in last
    }


# ---------------------------------------------------------------------- files


@in_steps
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (70, 130)], ids=str)
def test_files(steps, size):
    codec, artifact = small.noisy(steps)
    image = picture(*size)
    for quality in (0.0, 37.5, 100.0) if size == (70, 130) else (62.5,):
        data = api.compress(image, artifact, quality)
        assert api.info(data)["quality"] == quality
        found = api.decompress(data, artifact)
        stream, received = latent_coding.encode(small.of_every_rate(steps), artifact, image, quality)
        np.testing.assert_array_equal(
            latent_coding.reconstruct(small.of_every_rate(steps), artifact, received, size, quality), found
        )
        assert container.unpack(data)[1][0].content == stream
        assert psnr_db(image, found) > 10


def test_windows_give_the_whole():
    # More windows than one for all networks, at sides of windows that are made small.
    module, artifact = small.of_every_rate(2), small.noisy(2)[1]
    quality = np.float32([37.5])
    bound = module.bind({"params": artifact.params})
    x = np.random.default_rng(0).random((1, 192, 256, 3), np.float32)
    y = np.random.default_rng(1).normal(0, 9, (1, 12, 16, kltnet.TOY["M"])).astype(np.float32)
    for stack, given in ((bound.analysis, x), (bound.synthesis, y)):
        alone, variables = stack.unbind()
        wanted = np.asarray(jax.jit(alone.apply)(variables, jnp.asarray(given), quality))
        found = alone.clone(cores=(3, 5), pixels=False).apply(variables, given, quality)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max())


def test_a_file_of_another_quality_is_not_taken_for_this():
    artifact = small.noisy(2)[1]
    image = picture(70, 130)
    data = api.compress(image, artifact, 37.5)
    header, chunks = container.unpack(data)
    whole, refused = api.decompress(data, artifact), 0
    for quality in (37.0, 38.0, 80.0, 0.0):
        forged = container.pack(header._replace(quality=quality), chunks)
        try:
            assert (api.decompress(forged, artifact) != whole).any()
        except CorruptStreamError:
            refused += 1
    assert refused >= 2
    with pytest.raises(CorruptStreamError, match="lacks its quality"):
        api.decompress(container.pack(header._replace(quality=None), chunks), artifact)


def test_quality_is_needed_and_has_a_default():
    codec, artifact = untrained()
    image = picture(16, 16)
    with pytest.raises(UsageError, match="needs a quality"):
        codec.compress(artifact, image, None)
    assert codec.traits.default_quality == 50.0 and codec.traits.ladder[0] == 0 and codec.traits.ladder[-1] == 100
    assert api.compress(image, artifact) == api.compress(image, artifact, 50)


@in_steps
def test_two_decoders_find_the_same_symbols(steps, monkeypatch):
    artifact = small.noisy(steps)[1]
    read, call, found = rangecoder.Decoder.read, coders.Decoding.__call__, {}

    def reading(decoder, indexes, *rest):
        found["last"] = read(decoder, indexes, *rest), np.array(indexes)
        return found["last"][0]

    def calling(decoding, name, prior):
        value = call(decoding, name, prior)
        found[name], found[f"{name}_rows"] = found.pop("last")
        found[f"{name}_means"] = np.broadcast_to(256 * np.asarray(prior.center), value.shape)
        return value

    monkeypatch.setattr(rangecoder.Decoder, "read", reading)
    monkeypatch.setattr(coders.Decoding, "__call__", calling)
    rows, means = set(), set()
    for size, quality in (((1, 1), 0), ((70, 130), 37.5), ((67, 3), 99.5), ((64, 64), 100)):
        data = api.compress(picture(*size), artifact, quality)
        found.clear()
        api.decompress(data, artifact)
        other = reference.decode(data, artifact)
        assert {"z", "z_rows", *(f"y_{step}_means" for step in range(steps))} <= other.keys()
        for name, array in other.items():
            np.testing.assert_array_equal(found[name][0], array, err_msg=name)
        rows |= {row for step in range(steps) for row in np.unique(other[f"y_{step}_rows"])}
        means |= {mean for step in range(steps) for mean in np.unique(other[f"y_{step}_means"])}
    # or this would prove little
    assert len(rows) > 12 and len(means) > 300


@in_steps
def test_export(steps):
    codec, artifact = small.noisy(steps)
    assert set(artifact.state) == {"h_s", "context", "prior_z"} and set(artifact.tables) == {"log_gaussian"}
    assert set(artifact.state["h_s"]) == {"input", "layer_0", "layer_1", "layer_2"} == set(artifact.state["context"])
    assert artifact.state["prior_z"]["log_scale"].shape == (kltnet.LEVELS, kltnet.TOY["Z"])
    # Exporting what was exported changes nothing, nor does a way through a file.
    again = codec.export(artifact.params, artifact.state, list(small.crops(2, 64)))
    assert again.fingerprint == artifact.fingerprint


def test_integers_hold_every_quality():
    """Each of the quality's constants is 1 somewhere; none may be cut off there."""
    steps = small.noisy(2)[1].state["h_s"]["input"]["step"][-kltnet.LEVELS :]
    assert (127 * 2.0**steps >= 1).all()


def test_the_objective_of_priors():
    codec = zoo.make("kltnet", **kltnet.TOY)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    batch = {"image": jnp.asarray(small.crops(2, 64)), "position": jnp.arange(2)}
    keys = jax.random.split(jax.random.key(1), 2)
    objective = codec.objectives["priors"]
    assert set(objective.owns) == {"h_s", "context", "prior_z"}
    loss = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    (value, (metrics, _)), found = loss(params, state, batch, keys, 0)
    assert value == metrics["loss"] and metrics["bpp"] > 0
    for name, leaves in found.items():
        reached = [bool(np.abs(leaf).max() > 0) for leaf in jax.tree.leaves(leaves)]
        assert any(reached) if name in objective.owns else not any(reached), name
    # A step down the slope saves bits.
    lower = jax.tree.map(lambda a, g: a - 1e-3 * g, params, found)
    assert loss(lower, state, batch, keys, 0)[0][0] < value


def test_targets():
    artifact, image = untrained()[1], picture(64, 64)
    forty = api.compress(image, artifact, 40)
    targets = {"bpp": 8 * len(forty) / 64**2}, {"psnr_db": psnr_db(image, api.decompress(forty, artifact))}
    for target in targets:
        data = api.compress_to(image, artifact, **target)
        quality = api.info(data)["quality"]
        assert data == api.compress(image, artifact, quality)
        # The next half step towards the target's harder side misses it.
        other = api.compress(image, artifact, quality + (0.5 if "bpp" in target else -0.5))
        if "bpp" in target:
            assert 8 * len(data) / 64**2 <= target["bpp"] < 8 * len(other) / 64**2
        else:
            reached = [psnr_db(image, api.decompress(file, artifact)) for file in (data, other)]
            assert reached[0] >= target["psnr_db"] > reached[1]
    with pytest.raises(UsageError, match="no quality meets 90 dB: quality 100 gives"):
        api.compress_to(image, artifact, psnr_db=90)


@pytest.mark.slow
def test_training_with_the_rounding_of_files():
    """`quantise_from`: from that step on the parse path computes as files do, and still has gradients."""
    codec = zoo.make("kltnet", **kltnet.TOY, quantise_from=1)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    images = jnp.asarray(small.crops(2, 64))
    keys = jax.random.split(jax.random.key(1), 2)

    @jax.jit
    def gradient(params, state, step):
        loss = jax.value_and_grad(codec.objectives["rd"].loss, has_aux=True)
        return loss(params, state, {"image": images, "position": jnp.arange(2)}, keys, step)

    for step in range(3):
        (value, (_, state)), found = gradient(params, state, step)
        assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
        assert np.abs(found["h_s"]["layers_0"]["kernel"]).max() > 0
        params = jax.tree.map(lambda a, g: a - 1e-4 * g, params, found)
    artifact = codec.export(jax.device_get(params), jax.device_get(state))
    picture = np.asarray(images[0])
    coded = api.compress(picture, artifact, 50)
    estimate = codec.estimate(artifact.params, artifact.state, picture[None], 50)
    assert np.abs(api.decompress(coded, artifact) - np.asarray(estimate["reconstruction"][0], int)).max() <= 1


@pytest.mark.slow
def test_training_may_clip_what_it_shows():
    """What lies beyond black and white costs nothing then; what lies within costs what it did."""
    plain, clipped = (zoo.make("kltnet", **kltnet.TOY, clipped=value) for value in (False, True))
    params, _ = plain.init(jax.random.key(0), (64, 64, 3))
    losses = {}
    grey = np.random.default_rng(0).integers(110, 140, (2, 64, 64, 3))
    edge = np.where(np.arange(64)[:, None] < 27, 0, 255) * np.ones((2, 64, 64, 3))  # it rings
    for name, values in (("grey", grey), ("edge", edge)):
        batch = {"image": values.astype(np.uint8)}
        keys = jax.random.split(jax.random.key(1), 2)
        of = [codec.objectives["rd"].loss(params, {}, batch, keys, 0)[1][0] for codec in (plain, clipped)]
        assert of[0]["bpp"] == of[1]["bpp"]
        losses[name] = [float(one["mse255"]) for one in of]
    assert losses["grey"][0] == losses["grey"][1] and losses["edge"][1] < 0.95 * losses["edge"][0]
    with pytest.raises(UsageError, match="clipped"):
        zoo.make("kltnet", **kltnet.TOY, clipped=1)

"""Latent codecs: what is compressed comes back, and is what the encoder and the estimate announced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import toys
from sparing import one_of

from mlic_jax import zoo
from mlic_jax.errors import CorruptStreamError, ModelError, UsageError
from mlic_jax.families import latent_coding
from mlic_jax.fileformat.artifact import Artifact, flatten

SIZES = [(1, 1), (1, 67), (67, 1), (33, 47), (65, 97), (512, 768)]
names = pytest.mark.parametrize("name", small.NAMES)
one_name = one_of("name", "mbt2018-mean", small.NAMES)


def picture(height, width):
    (photo,) = (p for p in small.photos() if p.shape == (576, 768, 3))
    return np.ascontiguousarray(photo[:height, :width])


@names
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_decoder_makes_what_the_encoder_announced(name, size):
    codec, artifact = small.imported(name)
    image = picture(*size)
    (chunk,) = codec.compress(artifact, image, None)
    decoded = codec.decompress(artifact, (chunk,), size)
    assert decoded.shape == image.shape and decoded.dtype == np.uint8

    stream, received = latent_coding.encode(small.MODULES[name], artifact, image)
    assert stream == chunk
    np.testing.assert_array_equal(latent_coding.reconstruct(small.MODULES[name], artifact, received, size), decoded)

    if size != (33, 47):
        return  # compiling the rest is what would take long
    estimate = codec.estimate(artifact.params, artifact.state, image[None])
    assert estimate["reconstruction"].shape == (1, *image.shape)
    difference = np.abs(np.asarray(estimate["reconstruction"][0], int) - decoded)
    # Another program computed the latents: where one lies on the border of two integers, a patch may differ.
    assert (difference > 1).mean() < 1e-3
    assert estimate["mse255"][0] == pytest.approx(np.square(image.astype(float) - decoded).mean(), rel=1e-3)


def test_estimate_of_a_batch_is_that_of_its_images():
    codec, artifact = small.imported("mbt2018-mean")
    images = small.crops(2, 48)
    whole = codec.estimate(artifact.params, artifact.state, images)
    for i, image in enumerate(images):
        single = codec.estimate(artifact.params, artifact.state, image[None])
        for key, value in single.items():
            np.testing.assert_allclose(value[0], whole[key][i], rtol=1e-4, atol=1.0 if key == "reconstruction" else 0)


@names
def test_errors_of_use(name):
    codec, artifact = small.imported(name)
    image = picture(16, 16)
    chunks = codec.compress(artifact, image, None)
    with pytest.raises(UsageError, match="one rate"):
        codec.compress(artifact, image, 50.0)
    for wrong in ((), chunks * 2):
        with pytest.raises(CorruptStreamError, match="one chunk"):
            codec.decompress(artifact, wrong, (16, 16))
    with pytest.raises(CorruptStreamError):
        codec.decompress(artifact, (chunks[0] + bytes(16),), (16, 16))
    with pytest.raises(CorruptStreamError, match="multiple of 4"):
        codec.decompress(artifact, (chunks[0] + b"x",), (16, 16))


@names
def test_damaged_streams_raise_nothing_else(name):
    codec, artifact = small.imported(name)
    image = picture(40, 50)
    (chunk,) = codec.compress(artifact, image, None)
    rng = np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(chunk)
        for place in rng.integers(0, len(chunk), 3):
            damaged[place] = rng.integers(256)
        damaged = bytes(damaged) if trial % 2 else chunk[: 4 * rng.integers(len(chunk) // 4)]
        try:
            assert codec.decompress(artifact, (damaged,), (40, 50)).shape == image.shape
        except CorruptStreamError:
            pass


@names
def test_initial_values(name):
    codec = zoo.make(name, **small.WIDTHS)
    first, state = codec.init(jax.random.key(0), (64, 64, 3))
    again, _ = codec.init(jax.random.key(0), (128, 96, 3))
    other, _ = codec.init(jax.random.key(1), (64, 64, 3))
    wider = zoo.make(name, N=8, M=20).init(jax.random.key(0), (64, 64, 3))[0]
    assert state == {}
    differing = 0
    for path, array in flatten(first).items():
        assert array.dtype == np.float32 and np.isfinite(array).all()
        np.testing.assert_array_equal(array, flatten(again)[path])
        if np.ptp(array) > 0 and array.size > 1 and not path.endswith("gamma"):
            differing += (array != flatten(other)[path]).any()
            assert (array != flatten(other)[path]).any(), path
    assert differing > 10
    # What another layer's width is does not matter.
    np.testing.assert_array_equal(first["g_a"]["layers_2"]["kernel"], wider["g_a"]["layers_2"]["kernel"])
    # Nor does what stands beside it.
    if name != "bmshj2018-factorized":
        factorized = zoo.make("bmshj2018-factorized", **small.WIDTHS).init(jax.random.key(0), (64, 64, 3))[0]
        for part in ("g_a", "g_s"):
            jax.tree.map(np.testing.assert_array_equal, factorized[part], first[part])


@one_name
def test_export(name):
    codec = zoo.make(name, **small.WIDTHS)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    images = list(small.crops(2, 64))
    artifact = codec.export(params, state, images)
    on_device = codec.export(jax.tree.map(jnp.asarray, params), jax.tree.map(jnp.asarray, state), images)
    assert on_device.to_bytes() == artifact.to_bytes()
    with jax.disable_jit():
        assert codec.export(params, state, images).to_bytes() == artifact.to_bytes()
    # Exporting what was exported changes nothing: the medians are those of the state.
    assert codec.export(artifact.params, artifact.state, images).to_bytes() == artifact.to_bytes()
    (prior,) = (part for part in artifact.state if part.startswith("prior"))
    assert artifact.state[prior]["medians"].shape == (len(params[prior]["matrix_0"]),)
    assert set(artifact.state) - {prior} == ({"h_s"} if prior == "prior_z" else set())


def test_what_is_not_finite_is_not_exported():
    codec = zoo.make("bmshj2018-factorized", **small.WIDTHS)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    params["g_s"]["layers_0"]["bias"][2] = np.inf
    with pytest.raises(ModelError, match="g_s/layers_0/bias is not finite"):
        codec.export(params, state)


def made(name, patch=64, **arguments):
    """(loss of parameters, codec, parameters, images) of a fresh model on two crops."""
    codec = zoo.make(name, **small.WIDTHS, lmbda=0.01, **arguments)
    params, state = codec.init(jax.random.key(0), (patch, patch, 3))
    batch = {"image": small.crops(2, patch), "position": np.arange(2, dtype=np.int32)}
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    return lambda params: codec.objectives["rd"].loss(params, state, batch, keys, 0), codec, params, batch["image"]


@functools.cache
@functools.cache
def metrics_of(name, patch=64, **arguments):
    loss, _, params, _ = made(name, patch, **arguments)
    value, (metrics, state) = jax.jit(loss)(params)
    assert state == {} and value == metrics["loss"] and value.dtype == jnp.float32
    return {key: float(value) for key, value in metrics.items()}


@one_name
def test_loss_without_noise_is_what_the_estimate_computes(name):
    _, codec, params, images = made(name)
    metrics, estimate = metrics_of(name, proxy="ste"), codec.estimate(params, {}, images)
    assert metrics["bpp"] == pytest.approx(estimate["bits"].mean().item() / 64**2, rel=1e-4)
    # The estimate's picture is one of 8 bits: what lies outside of 0..255 is cut off.
    mse255 = estimate["mse255"].mean().item()
    assert mse255 < metrics["mse255"] < 1.2 * mse255
    assert estimate["loss"].mean().item() == pytest.approx(0.01 * mse255 + metrics["bpp"], rel=1e-4)


@one_name
def test_priors_alone(name):
    """The objective "priors" trains what `transmit` uses, on latents as the encoder rounds them."""
    _, codec, params, images = made(name)
    objective = codec.objectives["priors"]
    assert set(objective.owns) == {key for key in params if key not in ("g_a", "h_a", "g_s")}
    batch = {"image": images, "position": np.arange(2, dtype=np.int32)}
    keys = jax.vmap(jax.random.key)(jnp.arange(2))

    @jax.jit
    def loss_and_step(params):
        (value, (metrics, state)), slope = jax.value_and_grad(
            lambda params: objective.loss(params, {}, batch, keys, 0), has_aux=True
        )(params)
        return value, metrics, state, slope, jax.tree.map(lambda a, g: a - 0.1 * g, params, slope)

    value, metrics, state, slope, lower = loss_and_step(params)
    assert state == {} and value == metrics["loss"] == metrics["bpp"]
    # It is the rate that the estimate states: both round as files do.
    estimate = codec.estimate(params, {}, images)["bits"].mean() / 64**2
    assert metrics["bpp"] == pytest.approx(float(estimate), rel=1e-4)
    for key, leaves in slope.items():
        reached = [bool(np.abs(leaf).max() > 0) for leaf in jax.tree.leaves(leaves)]
        assert any(reached) if key in objective.owns else not any(reached), key
    assert loss_and_step(lower)[0] < value


@pytest.mark.slow
def test_loss_of_the_mixed_proxy():
    # The rate of noise, the distortion of rounding.
    mixed, noise, ste = (metrics_of("bmshj2018-factorized", proxy=proxy) for proxy in ("mixed", "noise", "ste"))
    assert mixed["bpp"] == pytest.approx(noise["bpp"], rel=1e-5)
    assert mixed["mse255"] == pytest.approx(ste["mse255"], rel=1e-5)
    assert mixed["mse255"] != pytest.approx(noise["mse255"], rel=1e-5)


def test_loss_of_images_that_do_not_fit_the_stride():
    metrics = metrics_of("bmshj2018-factorized", patch=50)
    assert metrics["loss"] == pytest.approx(0.01 * metrics["mse255"] + metrics["bpp"], rel=1e-5)


def test_loss_in_half_precision():
    exact, half = metrics_of("mbt2018-mean", proxy="ste"), metrics_of("mbt2018-mean", proxy="ste", dtype=jnp.bfloat16)
    assert half == pytest.approx(exact, rel=0.02)


def test_estimate_does_not_depend_on_the_training_precision():
    one, other = (zoo.make("bmshj2018-factorized", **small.WIDTHS, dtype=dtype) for dtype in (None, jnp.bfloat16))
    artifact = small.imported("bmshj2018-factorized")[1]
    image = picture(32, 32)
    first, second = (codec.estimate(artifact.params, artifact.state, image[None]) for codec in (one, other))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert one.compress(artifact, image, None) == other.compress(artifact, image, None)


HYPERPRIORS = small.NAMES[1:]
one_hyperprior = one_of("name", "mbt2018-mean", HYPERPRIORS)


def lively(name):
    """Parameters with which z, and all behind it, depends on the picture."""
    params = jax.tree.map(np.copy, small.imported(name)[1].params)
    params["h_a"]["layers_4"]["kernel"] *= 50
    return params


@one_hyperprior
def test_quantisation_aware_training(name):
    plain = zoo.make(name, **small.WIDTHS, lmbda=0.01)
    codec = zoo.make(name, **small.WIDTHS, lmbda=0.01, quantise_from=3)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    jax.tree.map(np.testing.assert_array_equal, params, plain.init(jax.random.key(0), (64, 64, 3))[0])
    params = lively(name)
    batch = {"image": small.crops(2, 64), "position": np.arange(2, dtype=np.int32)}
    keys = jax.vmap(jax.random.key)(jnp.arange(2))

    @functools.cache
    def compiled(loss):
        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    def step(codec, params, state, number):
        (_, (metrics, state)), grads = compiled(codec.objectives["rd"].loss)(params, state, batch, keys, number)
        return float(metrics["bpp_y"]), state, grads

    value, after, _ = step(codec, params, state, 0)
    without, _, _ = step(plain, params, {}, 0)
    assert value == pytest.approx(without, rel=1e-6), "rounding began before its step"
    largest = after["h_s"]["largest"]
    assert set(largest) == {"layer_0", "layer_1"} and not after["h_s"]["quantised"]
    assert all(
        (value > 0).any() and value.shape == state["h_s"]["largest"][key].shape for key, value in largest.items()
    )
    # A second step averages: the same examples leave nearly everything as it is.
    value, again, grads = step(codec, params, after, 3)
    assert again["h_s"]["quantised"]
    assert value != without and value == pytest.approx(without, rel=0.02)
    for key in largest:
        np.testing.assert_allclose(again["h_s"]["largest"][key], largest[key], rtol=0.02, atol=1e-6)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["h_s"]))
    # The order of the batch, and with it the number of devices, does not matter.
    flipped = {key: value[::-1] for key, value in batch.items()}
    (_, (_, other)), _ = compiled(codec.objectives["rd"].loss)(params, after, flipped, keys[::-1], 3)
    other, again = jax.device_get((other, again))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), other, again)

    # The estimate is that of the rounding, the artifact has its ranges, and loses what only training needs.
    image = batch["image"][:1]
    estimates = [codec.estimate(params, s, image)["bits"].item() for s in (after, again)]
    assert estimates[0] != estimates[1]

    def exported(room):
        largest = {key: room * np.asarray(value) for key, value in again["h_s"]["largest"].items()}
        return codec.export(params, {"h_s": {**again["h_s"], "largest": largest}}, list(small.crops(2, 64)))

    artifact, roomy = exported(1), exported(16)
    assert set(artifact.state["h_s"]) == {"layer_0", "layer_1", "layer_2"}
    live = np.asarray(largest["layer_0"]) > 1e-3
    shifts = [a.state["h_s"]["layer_0"]["shift"].astype(int)[live] for a in (artifact, roomy)]
    assert (shifts[1] - shifts[0]).max() >= 3
    estimate = codec.estimate(artifact.params, artifact.state, image)["bits"].item()
    assert estimate == pytest.approx(estimates[1], rel=0.01)


def test_networks_that_train_with_rounding_can_be_left_out():
    for wrong in (-2, 1.5, True, None):
        with pytest.raises(UsageError, match="quantise_from"):
            zoo.make("mbt2018-mean", **small.WIDTHS, quantise_from=wrong)
    codec = zoo.make("bmshj2018-factorized", **small.WIDTHS, quantise_from=0)
    assert codec.init(jax.random.key(0), (64, 64, 3))[1] == {}


@pytest.mark.parametrize("name", HYPERPRIORS)
def test_pictures_for_calibration(name):
    codec, params = small.imported(name)[0], lively(name)
    flat, busy = (codec.export(params, {}, images) for images in (small.crops(2, 64) // 32, small.crops(9, 64)))
    shifts = [a.state["h_s"]["layer_1"]["shift"] for a in (flat, busy)]
    assert (shifts[0] != shifts[1]).any()


@pytest.mark.parametrize("name", HYPERPRIORS)
def test_models_without_sound_integers_are_refused(name):
    codec, artifact = small.imported(name)
    for change in (
        lambda state: state.pop("h_s"),
        lambda state: state["h_s"].pop("layer_1"),
        lambda state: state["h_s"]["layer_1"].update(bias=np.full_like(state["h_s"]["layer_1"]["bias"], 1 << 23)),
        lambda state: state["prior_z"].update(medians=np.zeros(3, np.float32)),
    ):
        state = jax.tree.map(np.copy, artifact.state)
        change(state)
        broken = Artifact(artifact.model, artifact.architecture, artifact.params, state, artifact.tables)
        with pytest.raises(ModelError):
            codec.compress(broken, picture(16, 16), None)


@names
def test_nothing_is_compiled_for_a_size(name):
    codec, artifact = small.imported(name)
    # Both lengths of windows along both axes.
    for size in ((512, 768), (90, 300), (300, 90), (50, 50)):
        codec.decompress(artifact, codec.compress(artifact, picture(*size), None), size)
    with toys.CompileCount() as count:
        for size in ((1, 1), (77, 320), (240, 50), (333, 444)):
            codec.decompress(artifact, codec.compress(artifact, picture(*size), None), size)
    assert count.names == []

"""Jiang 2017: the released networks' counts and phases, what each objective trains, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import crops

from mlic_jax import zoo
from mlic_jax.families import standard
from mlic_jax.fileformat.artifact import flatten
from mlic_jax.layers import Conv, init, upsample
from mlic_jax.layers.windows import to_float, to_uint8
from mlic_jax.models import jiang2017

SMALL = {**jiang2017.TOY, "channels": 1, "low": 30, "high": 30}


def module(**changes):
    fields = {"codec": "jpeg", "channels": 1, "features": 4, "com_layers": 3, "rec_layers": 4, "form": "published",
              "padding": "edge", "part": "both", "conditional": False}  # fmt: skip
    return jiang2017.Jiang2017(**{**fields, **changes})


def started(noise=0.05, **arguments):
    """(codec, params, state) with noise on every weight."""
    codec = zoo.make("jiang2017", **{**SMALL, **arguments})
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    rng = np.random.default_rng(0)
    return codec, jax.tree.map(lambda a: (a + noise * rng.normal(size=a.shape)).astype(np.float32), params), state


def batch(count=2, size=32):
    return {"image": jnp.asarray(crops(count, size)), "position": jnp.arange(count)}


def keys(count=2):
    return jax.random.split(jax.random.key(1), count)


@pytest.mark.parametrize("channels, com, rec", [(1, 38_145, 665_921), (3, 40_451, 668_227)])
def test_parameters_of_the_released_networks(channels, com, rec):
    codec = zoo.make("jiang2017", channels=channels, **jiang2017.PUBLISHED)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    counts = {name: flatten(params[name]) for name in ("com", "rec")}
    norm = {name: a for name, a in counts["rec"].items() if "BatchNorm" in name}
    assert sum(a.size for a in counts["com"].values()) == com
    assert sum(a.size for a in norm.values()) == 2304
    assert sum(a.size for a in counts["rec"].values()) - 2304 == rec
    assert sum(a.size for a in flatten(state).values()) == 2304
    kernel = counts["rec"]["EdgeConv_5/kernel"]
    assert np.std(kernel) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_receptive_field_of_the_restoring_network_is_41():
    net = jiang2017.RecCNN(1, 2, 20, "published", "edge", False)
    x = jnp.zeros((1, 64, 64, 1))
    params, state = (jax.tree.map(lambda a: jnp.full(a.shape, 0.1), tree) for tree in _filled(net, x))

    def residual(x):
        shown = net.apply({"params": params, "state": state}, x, None)
        return (shown - upsample(x))[0, 64, 64, 0]

    touched = np.argwhere(np.asarray(jax.jit(jax.grad(residual))(x))[0, ..., 0])
    # Samples 44 to 84 of the enlarged picture; by interpolation, what lies within two of 21.75 and 41.75 in the small.
    assert touched.min(0).tolist() == [20, 20] and touched.max(0).tolist() == [43, 43]


def _filled(net, x):
    boxed = jax.eval_shape(net.init, jax.random.key(0), x, None)
    filled = init.materialise({"params": boxed["params"], "state": boxed["state"]}, jax.random.key(0))
    return filled["params"], filled["state"]


def test_the_stride_is_centred_as_the_released_weights_expect():
    layer = Conv(1, 3, 2, padding="edge")
    params = {"params": {"kernel": np.ones((3, 3, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}}
    impulse = np.zeros((1, 8, 8, 1), np.float32)
    impulse[0, 2, 2] = 1
    found = np.asarray(layer.apply(params, impulse))[0, ..., 0]
    assert found[0, 0] == 0 and found[1, 1] == 1 and found.sum() == 1  # padding of (0, 1) would reach (0, 0)


def test_a_pair_that_says_nothing_halves_by_means_and_enlarges_by_cubic_interpolation():
    codec, params, state = started(noise=0.0)
    net = module(form="compact", com_layers=2)
    x = jnp.asarray(crops(1, 32)[..., :1] / 255.0, jnp.float32)
    small = net.apply({"params": params, "state": state}, x, jnp.zeros(1), method="before")
    np.testing.assert_allclose(small[0, 3, 5], np.mean(x[0, 6:8, 10:12]), rtol=1e-6)
    shown = net.apply({"params": params, "state": state}, small, jnp.zeros(1), method="after")
    np.testing.assert_array_equal(shown, upsample(small))


@pytest.mark.parametrize("objective, mine", [("rec", "rec"), ("com", "com")])
def test_each_objective_moves_its_own_network_only(objective, mine):
    codec, params, state = started()
    assert codec.objectives[objective].owns == (mine,)
    loss = jax.jit(jax.grad(lambda p: codec.objectives[objective].loss(p, state, batch(), keys(), 0)[0]))
    gradients = loss(params)
    assert max(np.abs(a).max() for a in jax.tree.leaves(gradients[mine])) > 0
    if objective == "rec":  # the codec passes no gradient on
        assert max(np.abs(a).max() for a in jax.tree.leaves(gradients["com"])) == 0


def test_the_codec_left_out_is_the_gradient_of_the_composed_networks():
    codec, params, state = started(com_gradient="skip_codec")
    image = standard.with_channels(batch()["image"], 1)
    net = module(form="compact", com_layers=2)

    def direct(p):
        shown = net.apply({"params": p, "state": state}, image, jnp.zeros(2))
        return jnp.mean((shown - image) ** 2) * 255**2 / float(standard.worth_of_a_bit(np.float32(30), 2))

    expected = jax.grad(direct)(params)["com"]
    found = jax.grad(lambda p: codec.objectives["com"].loss(p, state, batch(), keys(), 0)[0])(params)["com"]
    for name, value in flatten(expected).items():
        np.testing.assert_allclose(flatten(found)[name], value, rtol=2e-4, atol=1e-6, err_msg=name)


def test_the_released_gradient_is_the_error_made_small():
    codec, params, state = started(com_gradient="residual_ste")
    image = standard.with_channels(batch()["image"], 1)
    net = module(form="compact", com_layers=2)
    variables = {"params": params, "state": state}
    quality = jnp.full(2, 30.0)
    condition = standard.condition_of("jpeg", quality)
    small = net.apply(variables, image, condition, method="before")
    coded, _ = standard.simulated("jpeg", to_float(to_uint8(small)), quality, "hard")
    error = net.apply(variables, coded, condition, method="after") - image
    error = jax.image.resize(error, small.shape, "cubic")

    def surrogate(p):
        small = net.apply({**variables, "params": p}, image, condition, method="before")
        return jnp.sum(small * error) / image.size * 255**2 / float(standard.worth_of_a_bit(np.float32(30), 2))

    expected = jax.grad(surrogate)(params)["com"]
    found = jax.grad(lambda p: codec.objectives["com"].loss(p, state, batch(), keys(), 0)[0])(params)["com"]
    for name, value in flatten(expected).items():
        np.testing.assert_allclose(flatten(found)[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("codec_name", ["jpeg2000", "webp"])
def test_other_codecs_train_through_their_own_files(codec_name):
    codec, params, state = started(codec=codec_name)
    assert set(codec.objectives) == {"rec", "com"}  # without a differentiable form there is no rate to train with
    loss = jax.jit(jax.value_and_grad(lambda p: codec.objectives["rec"].loss(p, state, batch(), keys(), 0)[0]))
    value, gradients = loss(params)
    assert np.isfinite(value) and max(np.abs(a).max() for a in jax.tree.leaves(gradients["rec"])) > 0


def test_one_network_alone():
    for part, other in (("com", "rec"), ("rec", "com")):
        codec, params, _ = started(part=part)
        assert set(params) == {part} and other not in codec.objectives
        assert codec.objectives["rd"].owns == (part,)


def test_jpeg_in_the_program_is_jpeg_on_disk():
    image = jnp.asarray(crops(4, 64))[..., :1]
    for codec in standard.DIFFERENTIABLE:
        quality = jnp.array([10.0, 30.0, 50.0, 80.0])
        real, bits = standard.real_codec(codec, image, quality)
        decoded, estimated = standard.simulated(codec, to_float(image), quality, "hard")
        error = np.mean((np.asarray(decoded) * 255 - real) ** 2, axis=(1, 2, 3))
        assert 10 * np.log10(255**2 / error.mean()) > 44
        np.testing.assert_allclose(estimated, bits, rtol=0.25)

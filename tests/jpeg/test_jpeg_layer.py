"""The differentiable JPEG layer against Pillow's files, and its gradients against differences."""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jpeg_pictures import KINDS, QUALITIES, photo, pillow
from PIL import Image

import mlic_jax
from mlic_jax import errors, jpeg
from mlic_jax.jpeg import arithmetic, rounding, tables
from mlic_jax.metrics import psnr

PHOTOS = sorted((pathlib.Path(mlic_jax.__file__).parent / "data" / "photos").glob("*.png"))
SHARED = pathlib.Path(__file__).parents[2].parent / "shared"
KODAK = sorted((SHARED / "data" / "kodak").glob("*.png"))
simulate = jax.jit(jpeg.simulate, static_argnames=("subsampling", "rounding", "clip", "integers"))


def batch(image):
    return image[None].astype(np.float32)


def smooth_image(shape, seed=0):
    """float64 in 30..220: a few waves, nothing near a clip."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[1], : shape[2]]
    waves = [np.sin(rng.uniform(0.1, 1) * x + rng.uniform(0.1, 1) * y + c) for c in range(3 * shape[3])]
    image = np.stack([sum(waves[c::3]) for c in range(shape[3])], -1)[None]
    return np.broadcast_to(125 + 28 * image / np.abs(image).max() * 3, shape).astype(np.float64)


def decibels(a, b):
    return psnr.psnr_db(np.asarray(a).astype(np.uint8), np.asarray(b).astype(np.uint8))


# ---------------------------------------------------------------- constants and arithmetic


def test_tables_are_pillows_at_every_quality():
    for quality in range(1, 101):
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, "JPEG", quality=quality)
        quantisation = Image.open(out).quantization
        ours = jpeg.quantisation_tables(quality)
        for identity in (0, 1):
            # Pillow gives tables in natural order.
            np.testing.assert_array_equal(np.reshape(quantisation[identity], (8, 8)), ours[identity])
        np.testing.assert_array_equal(tables.ALL_TABLES[quality - 1], ours)


def test_zigzag():
    assert sorted(tables.ZIGZAG) == list(range(64))
    assert list(tables.ZIGZAG[:6]) == [0, 1, 8, 16, 9, 2] and tables.ZIGZAG[-1] == 63
    np.testing.assert_array_equal(tables.ZIGZAG[tables.NATURAL], np.arange(64))


def test_dct_is_orthonormal_and_its_integer_form_close():
    np.testing.assert_allclose(arithmetic.DCT @ arithmetic.DCT.T, np.eye(8), atol=1e-12)
    blocks = np.random.default_rng(0).integers(-128, 128, (50, 8, 8))
    smooth = arithmetic.dct8(blocks.astype(np.float64))
    np.testing.assert_allclose(arithmetic.idct(smooth / 8), blocks, atol=1e-9)
    assert np.abs(arithmetic.dct8(blocks) - smooth).max() < 3  # eighths
    assert np.abs(arithmetic.idct(np.rint(smooth / 8).astype(np.int64)) - blocks).max() <= 2
    in_float32 = arithmetic.idct(arithmetic.dct8(jnp.asarray(blocks, jnp.float32)) / 8)
    np.testing.assert_allclose(in_float32, blocks, atol=1e-3)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 200, 255])
def test_a_constant_block_has_only_dc(value):
    expected = np.zeros((8, 8))
    expected[0, 0] = 64 * (value - 128)
    np.testing.assert_array_equal(arithmetic.dct8(np.full((8, 8), value - 128)), expected)
    np.testing.assert_allclose(arithmetic.dct8(np.full((8, 8), value - 128.0)), expected, atol=1e-9)


def test_colour_round_trip():
    image = np.random.default_rng(1).integers(0, 256, (1000, 3))
    back = arithmetic.ycbcr_to_rgb(*arithmetic.rgb_to_ycbcr(image.astype(np.float64)))
    np.testing.assert_allclose(back, image, atol=1e-2)  # libjpeg's weight of Cb in green has five digits
    # Each of Y, Cb, Cr is off by up to 1/2, which the inverse multiplies by up to 1.772.
    assert np.abs(arithmetic.ycbcr_to_rgb(*arithmetic.rgb_to_ycbcr(image)) - image).max() <= 2
    assert np.abs(arithmetic.ycbcr_to_rgb(*arithmetic.rgb_to_ycbcr(image)) - image).mean() < 0.6
    greys = np.repeat(np.arange(256)[:, None], 3, 1)
    np.testing.assert_array_equal(arithmetic.ycbcr_to_rgb(*arithmetic.rgb_to_ycbcr(greys)), greys)


# ---------------------------------------------------------------- agreement with libjpeg


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_libjpegs(kind):
    """Every sample of every bundled photo, at 256x256; without integers it still comes near."""
    floats = []
    for quality in QUALITIES:
        scores = []
        for path in PHOTOS:
            image = photo(path, kind, (40, 30, 296, 286))
            _, expected = pillow(image, quality, kind)
            decoded, _ = simulate(batch(image), quality, subsampling=KINDS[kind][1], rounding="hard")
            assert decoded.dtype == jnp.float32
            scores.append(min(100, decibels(decoded[0], expected)))
            if path == PHOTOS[0]:
                near, _ = simulate(batch(image), quality, subsampling=KINDS[kind][1], integers=False)
                floats.append(decibels(np.rint(near[0]), expected))
        assert np.mean(scores) >= 48 and min(scores) >= 43
        # What is measured, with libjpeg-turbo 3: not one sample differs.
        assert min(scores) == 100
    assert min(floats) >= 38


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (2, 4), (17, 33), (41, 37), (24, 8)])
def test_any_size(size, kind):
    height, width = size
    image = photo(PHOTOS[2], kind, (200, 100, 200 + width, 100 + height))
    for quality in (10, 50, 95):
        decoded, coefficients = simulate(batch(image), quality, subsampling=KINDS[kind][1])
        assert decoded.shape == (1, *image.shape)
        factor = 2 if kind == "4:2:0" else 1
        rows, columns = (-(-side // (8 * factor)) for side in size)
        assert coefficients.y.shape == (1, factor * rows, factor * columns, 8, 8)
        if image.shape[-1] == 3:
            assert coefficients.cb.shape == coefficients.cr.shape == (1, rows, columns, 8, 8)
        else:
            assert coefficients.cb is None
        assert decibels(decoded[0], pillow(image, quality, kind)[1]) >= (40 if min(size) > 16 else 25)


@pytest.mark.slow
@pytest.mark.skipif(not KODAK, reason="needs the Kodak images beside the repository")
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_libjpegs_on_kodak(kind):
    for quality in QUALITIES:
        scores = []
        for path in KODAK:
            image = photo(path, kind)
            image = image.swapaxes(0, 1) if image.shape[0] > image.shape[1] else image
            decoded, _ = simulate(batch(image), quality, subsampling=KINDS[kind][1])
            scores.append(min(100, decibels(decoded[0], pillow(image, quality, kind)[1])))
        assert np.mean(scores) >= 48 and min(scores) >= 43


def test_tables_in_place_of_quality():
    image = batch(photo(PHOTOS[0], box=(0, 0, 48, 40)))
    luma, chroma = jpeg.quantisation_tables(30)
    expected, _ = simulate(image, 30)
    np.testing.assert_array_equal(simulate(image, tables=(luma, chroma))[0], expected)
    np.testing.assert_array_equal(simulate(image, tables=(luma[None] + 0.4, chroma))[0], expected)


def test_tables_can_be_learnt():
    image = batch(photo(PHOTOS[0], box=(0, 0, 48, 40)))
    luma, chroma = jpeg.quantisation_tables(30).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda pair: jpeg.rate(jpeg.simulate(image, tables=pair)[1]).sum()))((luma, chroma))
    assert gradient[0].max() < 0 and gradient[1].max() < 0  # coarser steps, fewer bits


# ---------------------------------------------------------------- one, many, traced


def test_quality_for_each_example():
    images = np.stack([photo(path, box=(60, 60, 100, 92)) for path in PHOTOS[:3]]).astype(np.float32)
    quality = jnp.array([5, 50, 95])
    together, coefficients = simulate(images, quality)
    mapped, _ = jax.jit(jax.vmap(lambda x, q: jax.tree.map(lambda y: y[0], jpeg.simulate(x[None], q))))(images, quality)
    for index in range(3):
        alone, expected = simulate(images[index : index + 1], int(quality[index]))
        np.testing.assert_array_equal(together[index], alone[0])
        np.testing.assert_array_equal(mapped[index], alone[0])
        for ours, other in zip(coefficients.components, expected.components):
            np.testing.assert_allclose(ours[index], other[0], atol=1e-4)


def test_jit_changes_nothing():
    image = batch(photo(PHOTOS[1], box=(60, 60, 101, 93)))
    a, b = jpeg.simulate(image, 40), simulate(image, 40)
    np.testing.assert_array_equal(a[0], b[0])
    for ours, other in zip(a[1].components, b[1].components):
        np.testing.assert_allclose(ours, other, atol=1e-4)


def test_keys():
    images = np.repeat(batch(photo(PHOTOS[1], "grey", (60, 60, 84, 84))), 2, 0)
    key = jax.random.key(3)
    one = simulate(images, 20, rounding="noise", key=key)[0]
    assert np.abs(one[0] - one[1]).max() > 0
    np.testing.assert_array_equal(one, simulate(images, 20, rounding="noise", key=jax.random.PRNGKey(3))[0])
    each = simulate(images, 20, rounding="noise", key=jax.random.split(key, 2))[0]
    np.testing.assert_array_equal(one, each)
    swapped = simulate(images, 20, rounding="noise", key=jax.random.split(key, 2)[::-1])[0]
    np.testing.assert_array_equal(swapped, one[::-1])


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", jpeg.ROUNDINGS)
def test_roundings(name):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 1)
        z = jnp.asarray(np.random.default_rng(0).uniform(-6, 6, (1, 400)))
        z = z[:, np.abs(z[0] % 1 - 0.5) > 1e-3] if name != "noise" else z

        def f(z):
            return jpeg.ROUNDINGS[name](z, keys)

        value = f(z)
        assert np.abs(value - z).max() <= 0.6  # Gibbs' overshoot, for "fourier"
        if name in rounding.INTEGER:
            np.testing.assert_array_equal(value, np.rint(z))
        gradient = jax.grad(lambda z: f(z).sum())(z)
        fraction = np.asarray(z - np.rint(z))
        known = {"hard": 0.0 * fraction, "ste": 1 + 0 * fraction, "ste_cubic": 3 * fraction**2}
        differences = known.get(name, (f(z + 1e-6) - f(z - 1e-6)) / 2e-6)
        np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-6)


def test_halves_are_rounded_away_from_zero():
    z = jnp.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.499, -0.499, 0.0])
    np.testing.assert_array_equal(rounding.half_away(z), [-3, -2, -1, 1, 2, 3, 0, 0, 0])


@pytest.mark.parametrize(
    "name, kind",
    [("cubic", "4:2:0"), ("sin", "grey"), ("soft", "4:4:4"), ("noise", "grey"), ("fourier", "grey")],
)
def test_gradients_are_those_of_differences(name, kind):
    """Of the smooth layer: with integers the function has steps, and the gradient is meant to ignore them."""
    with jax.enable_x64(True):
        channels = 1 if kind == "grey" else 3
        image = smooth_image((1, 17, 19, channels))
        rng = np.random.default_rng(0)
        weight = rng.normal(size=image.shape)

        def f(x):
            decoded, coefficients = jpeg.simulate(
                x, 60, subsampling=KINDS[kind][1], rounding=name, key=jax.random.key(0), integers=False
            )
            return (decoded * weight).sum() + 0.01 * jpeg.rate(coefficients, proxy="log_square").sum()

        f = jax.jit(f)
        gradient = jax.jit(jax.grad(f))(jnp.asarray(image))
        length = jnp.sqrt((gradient**2).sum())
        step = 1e-6 * gradient / length
        assert length == pytest.approx(float(f(image + step) - f(image - step)) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_straight_through_is_the_gradient_without_quantiser(kind):
    image = jnp.asarray(smooth_image((1, 24, 20, 1 if kind == "grey" else 3)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(0).normal(size=image.shape), jnp.float32)

    def unquantised(x):
        planes = [x[..., 0]] if kind == "grey" else arithmetic.rgb_to_ycbcr(x)
        if kind == "4:2:0":
            planes[1:] = [arithmetic.upsample(arithmetic.downsample(p)[:, :12, :10], 24, 20) for p in planes[1:]]
        return ((planes[0][..., None] if kind == "grey" else arithmetic.ycbcr_to_rgb(*planes)) * weight).sum()

    def layer(x):
        return (jpeg.simulate(x, 50, subsampling=KINDS[kind][1])[0] * weight).sum()

    gradient = jax.jit(jax.grad(layer))(image)
    np.testing.assert_allclose(gradient, jax.jit(jax.grad(unquantised))(image), atol=2e-3)
    assert np.abs(gradient).min() > 0


@pytest.mark.parametrize("name, channels", [*((name, 1) for name in jpeg.ROUNDINGS), ("ste", 3)])
def test_gradients_are_finite(name, channels):
    images = np.zeros((4, 16, 24, channels), np.float32)
    images[1], images[2] = 255, 128
    images[3] = np.random.default_rng(0).integers(0, 2, (16, 24, channels)) * 255

    def loss(x):
        decoded, coefficients = jpeg.simulate(x, 30, rounding=name, key=jax.random.key(0))
        return (decoded**2).mean() + jpeg.rate(coefficients).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(images)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_clips():
    # An image whose decoded samples lie beyond the range: black and white columns, coarsely quantised.
    image = batch(
        np.tile(np.repeat(np.array([0, 255, 0, 0, 255, 0, 255, 255]), 2), (16, 1))[..., None].astype(np.uint8)
    )
    gradients = {}
    for clip in ("hard", "soft"):
        gradients[clip] = jax.grad(lambda x, clip=clip: simulate(x, 10, clip=clip)[0].sum())(image)
        np.testing.assert_array_equal(simulate(image, 10, clip=clip)[0], simulate(image, 10)[0])
    outside = jnp.full((1, 8, 8, 1), 300.0)
    assert np.abs(gradients["soft"] - gradients["hard"]).max() > 0
    assert not jax.grad(lambda x: simulate(x, 90)[0].sum())(outside).any()
    assert jax.grad(lambda x: simulate(x, 90, clip="soft")[0].sum())(outside).all()
    unclipped = simulate(image, 10, clip="none")[0]
    assert unclipped.min() < 0 and unclipped.max() > 255
    np.testing.assert_array_equal(jnp.clip(unclipped, 0, 255), simulate(image, 10)[0])


def test_a_constant_quality_within_a_jitted_function():
    """Of an array made outside; whether jax traces one made inside depends on its version."""
    image = jnp.full((2, 8, 8, 1), 100.0)
    right, wrong = jnp.array([10, 50]), jnp.array([0, 50])
    inside = jax.jit(lambda x: jpeg.simulate(x, right)[0])(image)
    np.testing.assert_array_equal(inside, simulate(image, right)[0])
    with pytest.raises(errors.UsageError, match="1 to 100"):
        jax.jit(lambda x: jpeg.simulate(x, wrong)[0])(image)


# ---------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(rounding="floor"), "ste_cubic"),
        (dict(subsampling="4:2:2"), "4:2:0, 4:4:4"),
        (dict(clip="round"), "hard, soft, none"),
        (dict(rounding="noise"), "key"),
        (dict(rounding="noise", key=jax.random.split(jax.random.key(0), 3)), "keys"),
        (dict(quality=0), "1 to 100"),
        (dict(quality=101), "1 to 100"),
        (dict(quality=50.0), "whole number"),
        (dict(quality=np.array([1, 2, 3])), "1 to 100"),
        (dict(quality=None), "tables"),
        (dict(quality=None, tables=(np.ones((8, 8)),)), "two"),
        (dict(quality=None, tables=(np.ones((8, 8)), np.ones((3, 8, 8)))), "two"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(errors.UsageError, match=message):
        jpeg.simulate(np.zeros((2, 8, 8, 3), np.float32), **{"quality": 50, **arguments})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.uint8])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(errors.UsageError, match="float32"):
        jpeg.simulate(jnp.zeros((1, 8, 8, 3), dtype), 50)


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8, 2), (1, 0, 8, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(errors.UsageError, match="B, H, W"):
        jpeg.simulate(jnp.zeros(shape), 50)


@pytest.mark.gpu
def test_pixels_are_libjpegs_on_an_accelerator():
    for kind in KINDS:
        image = photo(PHOTOS[0], kind)
        for quality in QUALITIES:
            decoded, _ = simulate(batch(image), quality, subsampling=KINDS[kind][1])
            np.testing.assert_array_equal(decoded[0], pillow(image, quality, kind)[1])

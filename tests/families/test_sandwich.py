"""Networks around a standard codec: layers that leave no frame, windows, real files, and what a file may hold."""

import io
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small import photos

from mlic_jax import api, classical, zoo
from mlic_jax.cli import main as cli
from mlic_jax.errors import CorruptStreamError, LimitError, UsageError
from mlic_jax.families import sandwich
from mlic_jax.fileformat import embedded
from mlic_jax.fileformat.container import EXIF, ICC, XMP
from mlic_jax.layers import BatchNorm, upsample
from mlic_jax.models import jiang2017, talebi2020

GREY = {**jiang2017.TOY, "channels": 1, "low": 5, "high": 60}
COLOUR = {**jiang2017.TOY, "channels": 3, "low": 5, "high": 60}
EDITOR = {**talebi2020.TOY, "low": 5, "high": 60}


def made(name, seed=0, noise=0.05, **arguments):
    """(codec, artifact) with noise on every weight: fresh networks here say nothing."""
    codec = zoo.make(name, **arguments)
    params, state = codec.init(jax.random.key(seed), (64, 64, 3))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: (a + noise * rng.normal(size=a.shape)).astype(np.float32), params)
    return codec, codec.export(params, state)


def grey(image):
    return np.repeat(image[..., 1:2], 3, axis=-1)


# ---------------------------------------------------------------------- layers


def test_upsampling_is_keys_cubic():
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 3)).astype(np.float32)
    ours = np.asarray(upsample(jnp.asarray(x)))
    reference = np.asarray(jax.image.resize(x, (2, 18, 14, 3), "cubic"))
    np.testing.assert_allclose(ours[:, 4:-4, 4:-4], reference[:, 4:-4, 4:-4], atol=1e-5)
    flat = np.full((1, 3, 3, 1), 0.7, np.float32)
    np.testing.assert_allclose(upsample(flat), np.full((1, 6, 6, 1), 0.7), atol=1e-6)


def test_a_flat_picture_stays_flat_with_edges_repeated_and_not_with_zeros():
    x = np.full((1, 12, 12, 1), 0.5, np.float32)
    spread = {}
    for padding in ("edge", "zero"):
        codec, artifact = made("jiang2017", **{**GREY, "padding": padding})
        module = jiang2017.Jiang2017("jpeg", 1, 4, 2, 4, "compact", padding, "both", True)
        shown = module.apply(artifact.variables, x, np.zeros(1, np.float32))
        # Each of the four samples that come from one may differ from its neighbours, but not from the next such four.
        spread[padding] = max(np.ptp(shown[:, i::2, j::2]) for i in (0, 1) for j in (0, 1))
    assert spread["edge"] < 1e-5 < 1e-3 < spread["zero"]


def test_batch_norm_normalises_and_remembers():
    x = 3 + 2 * np.random.default_rng(0).normal(size=(4, 8, 8, 2)).astype(np.float32)
    layer = BatchNorm(decay=0.5)
    variables = {"params": {"scale": np.ones(2, np.float32), "bias": np.zeros(2, np.float32)},
                 "state": {"mean": np.zeros(2, np.float32), "variance": np.ones(2, np.float32)}}  # fmt: skip
    y, changed = layer.apply(variables, x, True, mutable=["state"])
    np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, (0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(changed["state"]["mean"], x.mean((0, 1, 2)) / 2, rtol=1e-5)
    for _ in range(30):
        _, changed = layer.apply({**variables, **changed}, x, True, mutable=["state"])
    np.testing.assert_allclose(layer.apply({**variables, **changed}, x, False), y, atol=1e-4)


# ---------------------------------------------------------------------- windows


@pytest.mark.parametrize("name, arguments", [
    ("jiang2017", COLOUR),
    ("talebi2020", EDITOR),
    ("talebi2020", {**EDITOR, "variant": "cascade"}),
    ("talebi2020", {**EDITOR, "form": "published"}),
], ids=lambda value: value if isinstance(value, str) else value.get("variant", value["form"]))  # fmt: skip
def test_windows_give_what_the_whole_picture_gives(name, arguments, monkeypatch):
    codec, artifact = made(name, **arguments)
    image = photos()[0][:168, :200]
    whole = api.decompress(api.compress(image, artifact), artifact)
    jax.clear_caches()
    monkeypatch.setattr(sandwich, "WINDOW", 32)
    parts = api.decompress(api.compress(image, artifact), artifact)
    assert np.abs(whole.astype(int) - parts).max() <= 1
    assert (whole != parts).mean() < 1e-3


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("name, arguments", [
    ("jiang2017", {**COLOUR, "codec": codec}) for codec in ("jpeg", "jpeg-optimised", "jpeg444", "jpeg2000", "webp")
] + [("jiang2017", GREY), ("talebi2020", EDITOR), ("talebi2020", {**EDITOR, "variant": "warp"})])  # fmt: skip
def test_a_file_holds_the_standard_codecs_own(name, arguments):
    if arguments.get("codec") == "heic" and classical.CODECS["heic"].missing():
        pytest.skip(classical.CODECS["heic"].missing())
    codec, artifact = made(name, **arguments)
    for height, width in ((1, 1), (33, 47), (96, 64)):
        image = photos()[1][:height, :width]
        image = grey(image) if arguments.get("channels") == 1 else image
        data = api.compress(image, artifact, 20)
        inside, extension = api.to_standard(data)
        scale = 2 if name == "jiang2017" else 1
        assert Image.open(io.BytesIO(inside)).size == (-(-width // scale), -(-height // scale))
        assert embedded.extension_of(inside) == extension and inside in data
        decoded = api.decompress(data, artifact)
        assert decoded.shape == image.shape
        estimate = codec.estimate(artifact.params, artifact.state, image[None], 20)
        assert float(estimate["bits"][0]) == pytest.approx(8 * len(inside), rel=0.01)
        if name == "talebi2020":
            np.testing.assert_array_equal(decoded, np.asarray(Image.open(io.BytesIO(inside))))


def test_heic_in_the_middle():
    if classical.CODECS["heic"].missing():
        pytest.skip(classical.CODECS["heic"].missing())
    _, artifact = made("jiang2017", **{**COLOUR, "codec": "heic"})
    image = photos()[1][:96, :128]
    data = api.compress(image, artifact, 30)
    assert api.to_standard(data)[1] == ".heic"
    assert api.decompress(data, artifact).shape == image.shape


def test_grey_pictures_have_grey_files():
    image = grey(photos()[2][:64, :64])
    for name in ("jpeg", "jpeg-optimised", "jpeg444", "jpeg2000"):
        codec = classical.get(name)
        data = codec.encode(image, 50)
        assert Image.open(io.BytesIO(data)).mode == "L"
        assert np.ptp(codec.decode(data), axis=-1).max() == 0


def test_qualities_and_pictures_that_a_model_cannot_have():
    _, artifact = made("jiang2017", **GREY)
    colour = photos()[0][:32, :32]
    with pytest.raises(UsageError, match="codes grey pictures"):
        api.compress(colour, artifact, 20)
    for quality in (4, 61):
        with pytest.raises(UsageError, match=f"made for qualities 5 to 60, not {quality}"):
            api.compress(grey(colour), artifact, quality)
    _, single = made("jiang2017", **{**GREY, "low": 30, "high": 30})
    with pytest.raises(UsageError, match="one rate"):
        api.compress(grey(colour), single, 30)
    with pytest.raises(UsageError, match="no effort but 0"):
        api.compress(grey(colour), single, effort=1)
    data = api.compress(colour[..., 0], single)
    assert api.info(data)["quality"] is None and api.decompress(data, single).shape == (32, 32)


def test_a_target_is_met_within_the_models_qualities():
    _, artifact = made("talebi2020", noise=0.0, **EDITOR)
    image = photos()[0][:128, :128]
    size = len(api.compress(image, artifact, 30)) + 1
    data = api.compress_to(image, artifact, size=size)
    assert len(data) <= size < len(api.compress(image, artifact, api.info(data)["quality"] + 1))
    with pytest.raises(UsageError, match="no quality meets 100 bytes: quality 5"):
        api.compress_to(image, artifact, size=100)


def test_a_file_with_another_picture_inside_is_refused():
    codec, artifact = made("jiang2017", **COLOUR)
    image = photos()[0][:32, :32]
    (inside,) = codec.compress(artifact, image, 20)
    for chunks in ((inside[: len(inside) // 2],), (b"",), (inside, inside), (classical.get("jpeg").encode(image, 20),)):
        with pytest.raises(CorruptStreamError):
            codec.decompress(artifact, chunks, (32, 32), 20)
    with pytest.raises(CorruptStreamError):
        codec.decompress(artifact, (inside,), (32, 32), 99)
    with pytest.raises(CorruptStreamError):
        codec.decompress(artifact, (inside,), (32, 32), None)


@pytest.mark.parametrize("name, arguments, words", [
    ("jiang2017", {"codec": "gif"}, "codec 'gif' is not known"),
    ("jiang2017", {"low": 0}, "no range of whole numbers"),
    ("jiang2017", {"low": 60, "high": 50}, "no range of whole numbers"),
    ("jiang2017", {"channels": 2}, "channels=2"),
    ("jiang2017", {"form": "large"}, "form 'large' is not known: use one of published, compact"),
    ("jiang2017", {"com_gradient": "none"}, "com_gradient 'none' is not known"),
    ("jiang2017", {"com_layers": 2}, "com_layers=2 is out of range"),
    ("talebi2020", {"codec": "webp"}, "talebi2020 writes JPEG"),
    ("talebi2020", {"variant": "blur"}, "variant 'blur' is not known: use one of smooth, warp, cascade"),
    ("talebi2020", {"rounding": "up"}, "rounding 'up' is not known"),
    ("talebi2020", {"perceptual": 2}, "perceptual=2 is a share"),
])  # fmt: skip
def test_arguments_that_make_no_model(name, arguments, words):
    with pytest.raises(UsageError, match=words):
        zoo.make(name, **arguments)


# ---------------------------------------------------------------------- metadata and the command line


def _picture(tmp_path):
    image = Image.fromarray(photos()[3][:48, :64])
    exif = Image.Exif()
    exif[0x010E] = "a photo"
    path = tmp_path / "photo.png"
    image.save(path, exif=exif, icc_profile=bytes(range(256)) * 300)
    return path


def test_a_plain_jpeg_has_the_pictures_metadata(tmp_path, capsys):
    _, artifact = made("talebi2020", noise=0.0, **EDITOR)
    artifact.save(tmp_path / "editor.mlicm")
    path = _picture(tmp_path)
    out = tmp_path / "photo.jpg"
    arguments = ["compress", "-m", str(tmp_path / "editor.mlicm"), "-q", "30", str(path), "-o", str(out)]
    assert cli.main([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["bytes"] == out.stat().st_size and record["bpp"] == 8 * record["bytes"] / (48 * 64)
    written = Image.open(out)
    written.load()
    assert written.format == "JPEG" and written.size == (64, 48)
    assert written.getexif()[0x010E] == "a photo"
    assert written.info["icc_profile"] == bytes(range(256)) * 300
    # An editor that says nothing yet changes nothing: the file is the standard codec's.
    assert cli.main([*arguments, "-f", "--metadata", "none"]) == 0
    assert out.read_bytes() == classical.get("jpeg-optimised").encode(np.asarray(Image.open(path)), 30)


def test_extract(tmp_path, capsys):
    _, artifact = made("jiang2017", **COLOUR)
    artifact.save(tmp_path / "pair.mlicm")
    path = _picture(tmp_path)
    stream = tmp_path / "photo.mlic"
    assert cli.main(["compress", "-m", str(tmp_path / "pair.mlicm"), str(path), "-o", str(stream)]) == 0
    assert cli.main(["extract", str(stream)]) == 0
    assert Image.open(tmp_path / "photo.jpg").size == (32, 24)
    assert cli.main(["extract", str(stream)]) == 3  # it exists
    assert cli.main(["extract", str(stream), "-o", str(tmp_path / "other.webp")]) == 2
    assert cli.main(["extract", str(path)]) == 4
    assert cli.main(["compress", str(path), "-o", str(tmp_path / "own.mlic")]) == 0
    assert cli.main(["extract", str(tmp_path / "own.mlic")]) == 2
    errors = capsys.readouterr().err
    assert "names another kind" in errors and "no standard file is inside" in errors


def test_a_picture_is_no_place_for_a_stream(tmp_path, capsys):
    path = _picture(tmp_path)
    assert cli.main(["compress", str(path), "-o", str(tmp_path / "photo.jpg")]) == 2
    assert "need a decoder" in capsys.readouterr().err
    _, artifact = made("talebi2020", noise=0.0, **EDITOR)
    artifact.save(tmp_path / "editor.mlicm")
    transparent = tmp_path / "alpha.png"
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(transparent)
    arguments = ["compress", "-m", str(tmp_path / "editor.mlicm"), str(transparent), "-o", str(tmp_path / "a.jpg")]
    assert cli.main(arguments) == 2
    assert "alpha" in capsys.readouterr().err and not (tmp_path / "a.jpg").exists()


def test_metadata_that_jpeg_cannot_hold():
    data = classical.get("jpeg").encode(photos()[0][:16, :16], 50)
    assert embedded.with_metadata(data, {}) == data
    for kind, name in ((EXIF, "EXIF"), (XMP, "XMP")):
        with pytest.raises(LimitError, match=name):
            embedded.with_metadata(data, {kind: bytes(65536)})
    with pytest.raises(LimitError, match="ICC"):
        embedded.with_metadata(data, {ICC: bytes(17_000_000)})
    both = embedded.with_metadata(data, {XMP: b"<x:xmpmeta/>", EXIF: b"II*\0\x08\0\0\0\0\0\0\0\0\0"})
    assert Image.open(io.BytesIO(both)).info["xmp"] == b"<x:xmpmeta/>"


_ON_ONE_CORE = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
import numpy as np
from mlic_jax.families import standard
image = np.zeros((4, 256, 256, 3), np.uint8)
run = jax.jit(lambda image, quality: standard.real_codec("jpeg", image + 1, quality))
for i in range(20):
    decoded, bits = run(image + i, np.full(4, 50, np.float32))
assert decoded.shape == image.shape and bits.min() > 0
"""


def test_a_callback_on_one_core_does_not_wait_for_itself():
    subprocess.run([sys.executable, "-c", _ON_ONE_CORE], check=True, timeout=120)

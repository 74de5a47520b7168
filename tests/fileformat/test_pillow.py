"""The plugin through Pillow's own interface."""

import io
import pathlib
import subprocess
import sys

import numpy as np
import plain
import pytest
from inputs import HUGE, forge, zeros
from pictures import exif, sample, stated, tags_of
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

import mlic_jax.pillow
from mlic_jax import api
from mlic_jax.fileformat import container, model_store, modes

pytestmark = pytest.mark.usefixtures("plain_zoo")


@pytest.fixture
def model(tmp_path, monkeypatch):
    path = tmp_path / "plain.mlicm"
    plain.artifact(rates=2).save(path)
    monkeypatch.setenv("MLIC_MODEL", str(path))
    return path


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 47)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16"])
def test_round_trip(tmp_path, model, mode, size):
    array = sample({"I;16": "L;16"}.get(mode, mode), size)
    original = Image.fromarray(array)
    original.save(tmp_path / "a.mlic")
    with Image.open(tmp_path / "a.mlic") as image:
        assert (image.mode, image.size, image.format) == (mode, original.size, "MLIC")
        assert image.get_format_mimetype() == "image/x-mlic" == Image.MIME["MLIC"]
        assert image.tile  # nothing is decoded yet
        np.testing.assert_array_equal(np.asarray(image), stated(array))
        assert image.getpixel((0, 0)) == Image.fromarray(stated(array)).getpixel((0, 0))
    np.testing.assert_array_equal(np.asarray(original), array)  # saving changes nothing


def test_16_bit_colours_are_seen_with_8(model):
    array = sample("RGBA;16", (6, 7))
    image = Image.open(io.BytesIO(api.compress(array)))
    assert image.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(image), (array.astype(int) + 128) // 257)


def test_open_files_and_streams(tmp_path, model):
    array = sample("RGB", (9, 8))
    file = io.BytesIO()
    Image.fromarray(array).save(file, "MLIC")
    (tmp_path / "nameless").write_bytes(file.getvalue())
    file.seek(0)
    for source in (file, tmp_path / "nameless", str(tmp_path / "nameless"), open(tmp_path / "nameless", "rb")):
        np.testing.assert_array_equal(np.asarray(Image.open(source)), array)
    np.testing.assert_array_equal(np.asarray(Image.open(file, formats=["MLIC"])), array)
    image = Image.open(tmp_path / "nameless")
    opened = image.fp
    image.load()
    assert opened.closed and image.load() is not None
    with open(tmp_path / "nameless", "rb") as ours:
        Image.open(ours).load()
        assert not ours.closed


def test_what_people_do_with_images(tmp_path, model):
    array = sample("RGB", (60, 90))
    path = tmp_path / "a.mlic"
    Image.fromarray(array).save(path)
    reference = Image.fromarray(array)
    copy = Image.open(path).copy()
    assert copy.tobytes() == reference.tobytes()
    for change in (
        lambda image: image.convert("L"),
        lambda image: image.crop((3, 5, 40, 50)),
        lambda image: image.resize((20, 20)),
        lambda image: image.rotate(90, expand=True),
        lambda image: ImageOps.exif_transpose(image),
        lambda image: image.getchannel("G"),
    ):
        assert change(Image.open(path)).tobytes() == change(reference).tobytes()
    small, expected = Image.open(path), reference.copy()
    small.thumbnail((30, 30))
    expected.thumbnail((30, 30))
    assert small.size == (30, 20) and small.tobytes() == expected.tobytes()
    drawn = Image.open(path)
    drawn.putpixel((1, 1), (1, 2, 3))
    assert drawn.getpixel((1, 1)) == (1, 2, 3)
    drawn.save(path)  # over the file it came from
    assert Image.open(path).getpixel((1, 1)) == (1, 2, 3)
    frames = Image.open(path)
    assert frames.tell() == 0 and getattr(frames, "n_frames", 1) == 1
    with pytest.raises(EOFError):
        frames.seek(1)
    parser = ImageFile.Parser()
    parser.feed(path.read_bytes())
    assert parser.close().getpixel((1, 1)) == (1, 2, 3)


def test_metadata(tmp_path, model):
    image = Image.fromarray(sample("L", (6, 9)))
    image.info.update(icc_profile=b"profile", exif=exif(6), xmp=b"<xmp/>")
    image.save(tmp_path / "a.mlic", quality=30)
    opened = Image.open(tmp_path / "a.mlic")
    assert opened.tile and opened.size == (6, 9)[:2]  # upright
    info = dict(opened.info)
    assert tags_of(info.pop("exif")) == tags_of(exif(1)) and opened.getexif()[0x010F] == "a maker"
    assert info == {"icc_profile": b"profile", "xmp": b"<xmp/>", "model": "plain", "quality": 30.0}
    opened.load()
    assert {"icc_profile", "exif", "xmp"} <= opened.info.keys()
    # Arguments come before what is in info.
    image.save(tmp_path / "b.mlic", icc_profile=b"other", exif=b"", metadata="icc,exif")
    assert {"icc_profile": b"other"}.items() <= Image.open(tmp_path / "b.mlic").info.items()
    assert not {"exif", "xmp"} & Image.open(tmp_path / "b.mlic").info.keys()
    image.save(tmp_path / "c.mlic", metadata="none")
    assert not {"icc_profile", "exif", "xmp"} & Image.open(tmp_path / "c.mlic").info.keys()
    assert Image.open(tmp_path / "c.mlic").size == (6, 9)


def test_save_arguments(tmp_path, model, monkeypatch):
    image, path = Image.fromarray(sample("RGB", (5, 5))), tmp_path / "a.mlic"
    for arguments, message in (
        ({"quality": 101}, "0 to 100"),
        ({"quality": "web_low"}, "0 to 100"),
        ({"metadata": "jfif"}, "icc,exif,xmp"),
    ):
        with pytest.raises(ValueError, match=message):
            image.save(path, **arguments)
    for mode in ("CMYK", "F"):
        with pytest.raises(OSError, match=f"mode {mode}"):
            image.convert(mode).save(path)
    with pytest.raises(OSError, match="none.mlicm"):
        image.save(path, model=tmp_path / "none.mlicm")
    with pytest.raises(KeyError, match="MLIC"):  # as of every format without it
        image.save(path, save_all=True)
    monkeypatch.delenv("MLIC_MODEL")
    monkeypatch.setattr(model_store, "OWN_MODEL", tmp_path / "own.mlicm")  # the package's, which is used then
    with pytest.raises(OSError, match="own.mlicm"):
        image.save(path)
    assert not path.exists()
    image.save(path, model=model)
    image.save(path, model=plain.artifact(name=3))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(image))


# ---------------------------------------------------------------------- damage


def test_foreign_files():
    for data in (b"", b"MLIC" + bytes(100), bytes(100)):
        with pytest.raises(UnidentifiedImageError):
            Image.open(io.BytesIO(data))
        with pytest.raises(SyntaxError):
            mlic_jax.pillow.MlicImageFile(io.BytesIO(data))
    file = io.BytesIO()
    Image.new("RGB", (3, 3)).save(file, "PNG")
    assert Image.open(file).format == "PNG"


def test_every_prefix(model):
    image = Image.fromarray(sample("RGBA", (4, 5)))
    image.info["xmp"] = b"<xmp/>"
    file = io.BytesIO()
    image.save(file, "MLIC")
    data = file.getvalue()
    for length in range(len(data)):
        with pytest.raises(OSError):
            Image.open(io.BytesIO(data[:length]))


def test_every_flipped_bit(model):
    image = Image.fromarray(sample("RGBA", (2, 3)))
    image.info["xmp"] = b"<xmp/>"
    file = io.BytesIO()
    image.save(file, "MLIC")
    opened = 0
    for place in range(8 * len(file.getvalue())):
        damaged = bytearray(file.getvalue())
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(OSError):
            with Image.open(io.BytesIO(damaged)) as image:
                opened += 1
                image.load()
        with pytest.raises(OSError):
            with Image.open(io.BytesIO(damaged)) as image:
                image.verify()
    assert opened > 100  # damage of the picture's own data is found on load


def test_verify(tmp_path, model, monkeypatch):
    Image.fromarray(sample("RGB", (5, 5))).save(tmp_path / "a.mlic")
    monkeypatch.delenv("MLIC_MODEL")
    model_store._by_fingerprint.clear()
    with Image.open(tmp_path / "a.mlic") as image:
        image.verify()  # without a model
        assert image.fp is None
    with Image.open(tmp_path / "a.mlic") as image, pytest.raises(OSError, match="needs the model plain"):
        image.load()


def test_bombs():
    for data in (forge(**HUGE), forge(32768, 32768)):
        with pytest.raises(Image.DecompressionBombError, match="pixels"):
            Image.open(io.BytesIO(data))
    chunks = [container.Chunk(container.DATA, b"x"), container.Chunk(container.ICC, zeros(64))]
    with pytest.raises(OSError, match="inflates to more"):
        Image.open(io.BytesIO(forge(chunks=chunks)))
    wide = forge(32768, 4000, chunks=[container.Chunk(container.DATA, bytes(2000))])
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(wide))


def test_importing_is_enough_and_light(tmp_path):
    """A program that only looks at headers needs neither jax nor a model."""
    header = container.Header(2, bytes(6), 30, 20, "LA;16", 50)
    content = container.pack(header, [container.Chunk(container.DATA, b"x"), container.Chunk(container.ALPHA, b"y")])
    (tmp_path / "a.mlic").write_bytes(content)
    code = f"""
import sys, mlic_jax.pillow
from PIL import Image
with Image.open({str(tmp_path / "a.mlic")!r}) as image:
    print(image.format, image.mode, image.size, image.info)
assert not {{"jax", "flax", "scipy", "constriction", "orbax"}} & set(sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert out.strip() == "MLIC LA (30, 20) {'model': 'bmshj2018-hyperprior', 'quality': 50.0}"
    assert modes.pillow_mode("LA;16") == "LA" and pathlib.Path(mlic_jax.pillow.__file__).exists()


def test_register_again():
    before = (list(Image.ID), dict(Image.EXTENSION))
    mlic_jax.pillow.register()
    assert (list(Image.ID), dict(Image.EXTENSION)) == before and Image.EXTENSION[".mlic"] == "MLIC"

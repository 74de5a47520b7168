"""Nothing of a picture is lost in silence: frames, EXIF wherever it stands, resolutions, formats of the output."""

import io
import json
import os
import threading
import zlib

import numpy as np
import plain
import pytest
from commands import run
from files import png, tiff, tiff_of
from pictures import exif, sample, stated, tags_of
from PIL import Image

import mlic_jax as mlic
import mlic_jax.pillow
from mlic_jax.data import images
from mlic_jax.errors import InputError, LossWarning, UsageError
from mlic_jax.fileformat import container, metadata, modes

pytestmark = pytest.mark.usefixtures("plain_zoo")
rng = np.random.default_rng(0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the lossless model in it."""
    monkeypatch.chdir(tmp_path)
    plain.artifact().save("m.mlicm")
    monkeypatch.setenv("MLIC_MODEL", "m.mlicm")
    monkeypatch.setattr("mlic_jax.runtime.prepare_jax", lambda: None)
    return tmp_path


def opened(data):
    return images.open_image(io.BytesIO(data), "picture")


# ---------------------------------------------------------------------- EXIF


def orientation(value=6):
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = value, "a maker"
    return tags


def test_an_exif_object_turns_the_picture(here):
    array = sample("RGB", (40, 60))
    image = Image.fromarray(array)
    image.save("a.mlic", exif=orientation())
    other = Image.fromarray(array)
    other.info["exif"] = orientation()
    for data in (open("a.mlic", "rb").read(), mlic.compress(other, "m.mlicm")):
        back = mlic.decompress_image(data)
        assert back.size == (40, 60)
        np.testing.assert_array_equal(np.asarray(back), np.rot90(array, -1))
        assert tags_of(back.info["exif"]) == {0x0112: 1, 0x010F: "a maker"}
    image.info["exif"] = exif(3)
    image.save("b.mlic", exif=orientation())  # what is given counts
    assert Image.open("b.mlic").size == (40, 60)


def test_metadata_of_other_types(here):
    for name, value in (("exif", [1]), ("xmp", 5), ("icc_profile", {"a": 1})):
        image = Image.new("RGB", (4, 4))
        image.info[name] = value
        with pytest.raises(UsageError, match=f"{name} is a {type(value).__name__}: bytes"):
            mlic.compress(image, "m.mlicm")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("deflated", [False, True])
def test_exif_of_tiff(order, deflated):
    array = sample("RGB", (8, 12))
    tags = {"tag_271": (2, b"a maker\0"), "tag_274": (3, [6]), "tag_282": (5, [(300, 1)]), "tag_283": (5, [(300, 1)]),
            "tag_296": (3, [2]), "tag_33432": (2, b"somebody\0")}  # fmt: skip
    picture = modes.from_pillow(opened(tiff_of(array, order, deflated=deflated, **tags)))
    np.testing.assert_array_equal(picture.rgb, np.rot90(array, -1))
    kept = tags_of(picture.metadata[container.EXIF])
    assert kept.pop(0x0112, 1) == 1
    assert kept == {271: "a maker", 282: 300, 283: 300, 296: 2, 33432: "somebody"}
    assert not modes.from_pillow(
        opened(tiff_of(array, order)),
    ).metadata
    assert container.EXIF not in modes.from_pillow(opened(tiff_of(array, order, **tags)), {container.XMP}).metadata


def test_exif_of_tiff_has_its_own_directories():
    tags = Image.Exif()
    tags[271] = "a maker"
    tags[0x8769], tags[0x8825] = {0x829A: 0.5}, {1: "N"}  # exposure; a place
    out = io.BytesIO()
    Image.fromarray(sample("RGB", (8, 8))).save(out, "TIFF", exif=tags.tobytes())
    kept = Image.Exif()
    kept.load(modes.from_pillow(opened(out.getvalue())).metadata[container.EXIF])
    assert kept[271] == "a maker" and kept.get_ifd(0x8769)[0x829A] == 0.5 and kept.get_ifd(0x8825)[1] == "N"


def raw_profile(kind, content):
    digits = content.hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    text = f"\n{kind}\n{len(content):8}\n" + "\n".join(lines) + "\n"
    return f"Raw profile type {kind}".encode() + b"\0\0" + zlib.compress(text.encode())


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind, prefix", [("exif", b"Exif\0\0"), ("exif", b""), ("APP1", b"Exif\0\0")])
def test_exif_in_old_pngs(kind, prefix, place):
    array = sample("RGB", (8, 12))
    content = prefix + exif(6).removeprefix(b"Exif\0\0")
    data = png(array, 8, **{place: [(b"zTXt", raw_profile(kind, content))]})
    picture = modes.from_pillow(opened(data))
    assert tags_of(picture.metadata[container.EXIF])[0x010F] == "a maker"
    assert tags_of(picture.metadata[container.EXIF])[0x0112] == 1
    if kind == "exif":  # of APP1, Pillow itself reads nothing
        np.testing.assert_array_equal(picture.rgb, np.rot90(array, -1))


def test_xmp_in_old_pngs():
    xmp = b"<x:xmpmeta>words</x:xmpmeta>"
    for kind, content in (("xmp", xmp), ("APP1", b"http://ns.adobe.com/xap/1.0/\0" + xmp)):
        data = png(sample("L", (4, 4)), 8, before=[(b"zTXt", raw_profile(kind, content))])
        assert modes.from_pillow(opened(data)).metadata == {container.XMP: xmp}
    damaged = png(sample("L", (4, 4)), 8, before=[(b"tEXt", b"Raw profile type exif\0\nexif\n 8\nnot digits")])
    assert modes.from_pillow(opened(damaged)).metadata == {}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_resolutions(here, capsys, format):
    Image.fromarray(sample("RGB", (9, 9))).save("a." + format.lower(), dpi=(300, 200))
    assert run(capsys, "compress", "a." + format.lower(), "-o", "a.mlic")[0] == 0
    for name, more in (("b.png", ()), ("b.jpg", ("--output-quality", "90")), ("b.tiff", ())):
        assert run(capsys, "decompress", "a.mlic", "-o", name, *more)[0] == 0
        assert np.allclose([float(x) for x in Image.open(name).info["dpi"]], (300, 200), atol=0.1), name
    assert metadata.of_pillow({"dpi": (72, 72)}, {container.EXIF}) == {}


# ---------------------------------------------------------------------- frames


def frames_of(format):
    """(content of a file of three frames, their pixels)."""
    frames = [np.full((16, 24, 3), value, np.uint8) for value in (40, 120, 200)]
    first, *others = map(Image.fromarray, frames)
    out = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    first.save(out, format, save_all=True, append_images=others, **options)
    return out.getvalue(), frames


@pytest.mark.parametrize("format", ["TIFF", "GIF", "PNG", "WEBP", "AVIF", "MPO"])
def test_frames_are_said_and_chosen(here, capsys, format):
    data, frames = frames_of(format)
    with open("a.picture", "wb") as file:
        file.write(data)
    status, _, err = run(capsys, "compress", "a.picture")
    assert status == 0 and "mlic: warning: a.picture: the first of 3 frames alone is taken" in err
    assert err.count("\n") == 1
    for number, pixels in enumerate(frames):
        status, _, err = run(capsys, "compress", "a.picture", "-f", "--frame", number)
        assert status == 0 and not err
        got = mlic.decompress(open("a.mlic", "rb").read())[..., :3].astype(int)
        assert np.abs(got.reshape(16, 24, -1) - pixels[..., :1]).max() <= 6, number
    status, _, err = run(capsys, "compress", "a.picture", "-f", "--frame", 3)
    assert status == 2 and "frame 3 is not there, the image has 3 frames from 0 on" in err
    # For programs.
    with pytest.warns(LossWarning, match="the first of 3 frames"):
        mlic.compress(Image.open(io.BytesIO(data)), "m.mlicm")
    with pytest.warns(LossWarning, match="the first of 3 frames"):
        Image.open(io.BytesIO(data)).save("b.mlic")
    with pytest.warns(LossWarning, match="the first of 3 frames"):
        images.decode_image(data)


def test_who_chose_a_frame_is_not_warned(here, recwarn):
    data, frames = frames_of("TIFF")
    image = Image.open(io.BytesIO(data))
    image.seek(2)
    for one in (mlic.compress(image, "m.mlicm"), mlic.compress(Image.open(io.BytesIO(data)), "m.mlicm", frame=2)):
        np.testing.assert_array_equal(mlic.decompress(one), frames[2])
    assert not [warning for warning in recwarn if warning.category is LossWarning]
    for frame in (3, -1, 0.5, "0"):
        with pytest.raises(UsageError, match="is not there"):
            mlic.compress(Image.open(io.BytesIO(data)), "m.mlicm", frame=frame)
    with pytest.raises(UsageError, match="of an array"):
        mlic.compress(frames[0], "m.mlicm", frame=0)


def test_pages_of_different_kinds(here):
    grey, colour = sample("L;16", (5, 6)), sample("RGB", (7, 8))
    pages = [
        (grey.astype("<u2").tobytes(), 6, 5, {258: (3, [16]), 262: (3, [1]), 277: (3, [1])}),
        (colour.tobytes(), 8, 7, {258: (3, [8] * 3), 262: (3, [2]), 277: (3, [3])}),
    ]
    for frame, array in enumerate((grey, colour)):
        back = mlic.decompress(mlic.compress(opened_quietly(tiff(pages)), "m.mlicm", frame=frame))
        np.testing.assert_array_equal(back, stated(array))


def opened_quietly(data):
    return images.open_image(io.BytesIO(data), "picture", frame=0)


# ---------------------------------------------------------------------- outputs


@pytest.mark.parametrize("suffix", [".ico", ".icns", ".gif", ".mpo", ".pdf", ".pcx", ".eps", ".sgi", ".xbm"])
def test_outputs_that_change_pictures_are_refused(here, capsys, suffix):
    Image.fromarray(sample("L", (20, 30))).save("a.png")
    assert run(capsys, "compress", "a.png")[0] == 0
    status, _, err = run(capsys, "decompress", "a.mlic", "-o", "x" + suffix)
    assert status == 2 and "names no picture format that can be written, try .png" in err
    assert not os.path.exists("x" + suffix)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp", ".jp2", ".bmp", ".ppm", ".tga"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "L;16"])
def test_other_outputs_are_lossless(here, capsys, suffix, mode):
    data = mlic.compress(sample(mode, (301, 451)), "m.mlicm")
    with open("a.mlic", "wb") as file:
        file.write(data)
    status, _, err = run(capsys, "decompress", "a.mlic", "-o", "x" + suffix)
    if status:
        assert status == 2 and "cannot hold" in err
        return
    expected = np.asarray(mlic.decompress_image(data))
    got = np.asarray(Image.open("x" + suffix).convert({"L;16": "I", "L": "L"}.get(mode, mode)))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("suffix", [".jpg", ".avif"])
def test_lossy_outputs_need_a_quality(here, capsys, suffix):
    smooth = np.linspace(0, 255, 120 * 90).reshape(90, 120).astype(np.uint8)
    Image.fromarray(smooth).save("a.png")
    assert run(capsys, "compress", "a.png")[0] == 0
    status, _, err = run(capsys, "decompress", "a.mlic", "-o", "x" + suffix)
    assert status == 2 and "--output-quality" in err and not os.path.exists("x" + suffix)
    sizes = []
    for quality in (20, 95):
        assert run(capsys, "decompress", "a.mlic", "-f", "-o", "x" + suffix, "--output-quality", quality)[0] == 0
        sizes.append(os.path.getsize("x" + suffix))
    assert sizes[0] < sizes[1] and Image.open("x" + suffix).size == (120, 90)
    status, _, err = run(capsys, "decompress", "a.mlic", "-o", "y.png", "--output-quality", 90)
    assert status == 2 and "PNG is written lossless" in err


def test_metadata_that_an_output_has_no_place_for(here, capsys):
    Image.fromarray(sample("RGB", (9, 9))).save("a.png", exif=exif(1))
    assert run(capsys, "compress", "a.png")[0] == 0
    status, _, err = run(capsys, "decompress", "a.mlic", "-o", "x.ppm")
    assert status == 0 and "mlic: warning: x.ppm: PPM files have no place for exif" in err
    assert not run(capsys, "decompress", "a.mlic", "-o", "y.ppm", "--metadata", "none")[2]


def test_alpha_of_16_bits_that_becomes_8(here, capsys):
    for mode, said in (("RGBA;16", True), ("LA;16", True), ("RGB;16", False), ("RGBA", False)):
        with open("a.mlic", "wb") as file:
            file.write(mlic.compress(sample(mode, (8, 9)), "m.mlicm"))
        status, _, err = run(capsys, "decompress", "a.mlic", "-f", "-o", "x.png")
        assert status == 0 and ("mlic: warning: x.png: alpha of 16 bits is written with 8" in err) == said


@pytest.mark.parametrize("suffix", [".tif", ".avif", ".png", ".webp"])
@pytest.mark.parametrize("xmp", [b"", b"<x/>"])
def test_exif_that_is_no_tiff(here, capsys, suffix, xmp):
    image = Image.fromarray(sample("RGB", (9, 9)))
    image.info["exif"] = b"no structure of any kind"
    if xmp:
        image.info["xmp"] = xmp
    with open("a.mlic", "wb") as file:
        file.write(mlic.compress(image, "m.mlicm"))
    more = ["--output-quality", 90] if suffix == ".avif" else []
    status, _, err = run(capsys, "decompress", "a.mlic", "-o", "x" + suffix, *more)
    assert status in (0, 2) and len(err.splitlines()) == (status > 0)
    assert run(capsys, "decompress", "a.mlic", "-f", "-o", "x" + suffix, "--metadata", "icc,xmp", *more)[0] == 0


def test_importance_of_16_bits(here, capsys):
    plain.planes().save("p.mlicm")
    Image.fromarray(sample("RGB", (8, 8))).save("a.png")
    wide = np.zeros((8, 8), np.uint16)
    wide[:, 4:] = 65535
    Image.fromarray(wide).save("map16.png")
    Image.fromarray((wide // 257).astype(np.uint8)).save("map8.png")
    files = []
    for name in ("map8.png", "map16.png"):
        assert run(capsys, "compress", "a.png", "-f", "-m", "p.mlicm", "--importance", name)[0] == 0
        files.append(open("a.mlic", "rb").read())
    assert files[0] == files[1]


@pytest.mark.parametrize("loaded", [False, True])
def test_tiffs_that_pillow_has_loaded(here, loaded):
    """Saving by the plugin, and a call with an image that was loaded, keep what a file has that was just opened."""
    wide = sample("L;16", (5, 7))
    Image.fromarray(wide).save("a.tif", tiffinfo={262: 0, 271: "a maker", 274: 6})
    content = open("a.tif", "rb").read()
    Image.open(io.BytesIO(content)).save("b.mlic")
    # Pillow itself reads noise where it maps such a file by its name; `compress` does not let it.
    again = Image.open(io.BytesIO(content) if loaded else "a.tif")
    if loaded:
        again.load()
    for data in (open("b.mlic", "rb").read(), mlic.compress(again, "m.mlicm")):
        np.testing.assert_array_equal(mlic.decompress(data), np.rot90(stated(65535 - wide), -1))
        assert tags_of(mlic.decompress_image(data).info["exif"])[271] == "a maker"


def test_a_pipe_with_a_bitmap_does_not_hang(here, capsys):
    """Pillow maps bitmaps by the name of their file, and would wait for a pipe of that name."""
    out = io.BytesIO()
    Image.fromarray(sample("L", (8, 8))).save(out, "BMP")
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: open("pipe", "wb").write(out.getvalue()))
    writer.start()
    assert run(capsys, "compress", "pipe", "-o", "a.mlic")[0] == 0
    writer.join(20)


def test_info_says_what_is_kept(here, capsys):
    Image.fromarray(sample("RGB", (8, 12))).save("a.tif", tiffinfo={271: "a maker"})
    assert run(capsys, "compress", "a.tif")[0] == 0
    assert list(json.loads(run(capsys, "info", "a.mlic", "--json")[1])["metadata"]) == ["exif"]


def test_heic(here, capsys, monkeypatch):
    import sys

    pillow_heif = pytest.importorskip("pillow_heif")
    smooth = np.linspace(0, 255, 64 * 96).reshape(64, 96).astype(np.uint8)
    image = Image.merge("RGB", [Image.fromarray(smooth)] * 3)
    pillow_heif.from_pillow(image).save("a.heic", quality=90)
    assert run(capsys, "compress", "a.heic")[0] == 0
    assert np.abs(mlic.decompress(open("a.mlic", "rb").read()).astype(int) - np.asarray(image)).max() < 12
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    status, _, err = run(capsys, "compress", "a.heic", "-f")
    assert status == 3 and "a.heic: reading HEIC needs pillow_heif" in err and "[heic]" in err
    with pytest.raises(InputError, match=r"pip install .*\[heic\]"):
        images.read_image("a.heic")

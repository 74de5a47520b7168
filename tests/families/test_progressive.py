"""Files that are pictures before they are whole: prefixes, truncation at every byte, and importance maps."""

import functools
import io
import json
import warnings

import numpy as np
import plain
import pytest
from commands import run
from pictures import exif, sample
from PIL import Image

from mlic_jax import api
from mlic_jax.errors import CorruptStreamError, InputError, MlicError, TruncationWarning, UsageError
from mlic_jax.evaluation.report import prefixes as report
from mlic_jax.fileformat import container
from mlic_jax.metrics.psnr import psnr_db

pytestmark = pytest.mark.usefixtures("plain_zoo")


@functools.cache
def picture(height=20, width=30):
    return sample("RGB", (height, width))


def top_bits(image, count):
    return image & (0xFF00 >> count & 0xFF)


def test_iterations_are_leading_chunks():
    image = picture()
    data = api.compress(image, plain.planes())
    for count in range(1, 9):
        np.testing.assert_array_equal(api.decompress(data, iterations=count), top_bits(image, count))
    np.testing.assert_array_equal(api.decompress(data), image)
    np.testing.assert_array_equal(np.asarray(api.decompress_image(data, iterations=3)), top_bits(image, 3))


@pytest.mark.parametrize("count", [0, 9, -1, 1.5, "2"])
def test_iterations_that_are_not_there(count):
    with pytest.raises(UsageError, match="1 to 8"):
        api.decompress(api.compress(picture(), plain.planes()), iterations=count)


def test_other_models_have_no_iterations():
    data = api.compress(picture(), plain.artifact())
    with pytest.raises(UsageError, match="read whole"):
        api.decompress(data, iterations=1)
    with pytest.raises(UsageError, match="nothing before it is whole"):
        list(api.prefixes(data))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_truncation_at_every_byte(mode):
    """The picture of the longest whole prefix and a warning, or a clear error."""
    image = sample(mode, (9, 13))
    data = api.compress(image, plain.planes())
    _, places = container.read_header(data)
    ends = [container.end_of(place) for place in places if place.type == container.DATA]
    first = max(ends[0], *[container.end_of(place) for place in places if place.type == container.ALPHA], 0)
    whole = {count: api.decompress(data, iterations=count) for count in range(1, 9)}
    for size in range(len(data)):
        if size < first:
            with pytest.raises(CorruptStreamError, match="truncated|begin"):
                api.decompress(data[:size])
            continue
        count = sum(end <= size for end in ends)
        with pytest.warns(TruncationWarning, match=f"{size} of {len(data)} bytes are there, with {count} of 8 parts"):
            found = api.decompress(data[:size])
        np.testing.assert_array_equal(found, whole[count])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(api.decompress(data), whole[8])


def test_other_files_are_not_shown_in_part():
    data = api.compress(picture(), plain.artifact())
    for size in (len(data) - 1, len(data) // 2):
        with pytest.raises(CorruptStreamError, match=f"truncated: {size} bytes, its header says {len(data)}"):
            api.decompress(data[:size])


def test_alpha_and_metadata_stand_behind_the_first_part():
    image = Image.fromarray(sample("RGBA", (12, 10)))
    image.info.update(icc_profile=b"profile" * 30, exif=exif(5))
    data = api.compress(image, plain.planes())
    kinds = [place.type for place in container.read_header(data)[1]]
    assert kinds[0] == container.DATA and kinds[1] == container.ALPHA and kinds[-7:] == [container.DATA] * 7
    with pytest.warns(TruncationWarning):
        found = api.decompress_image(data[:-1])
    assert found.info["icc_profile"] == b"profile" * 30 and found.mode == "RGBA"


def test_damage_is_no_truncation():
    data = bytearray(api.compress(picture(), plain.planes()))
    data[-10] ^= 1
    with pytest.raises(CorruptStreamError, match="checksum"):
        api.decompress(bytes(data))
    with pytest.raises(CorruptStreamError, match="goes on behind"):
        api.decompress(api.compress(picture(), plain.planes()) + b"x")


def test_prefixes():
    image = picture()
    data = api.compress(image, plain.planes())
    found = list(api.prefixes(data))
    assert [prefix.iterations for prefix in found] == list(range(1, 9))
    for prefix in found:
        np.testing.assert_array_equal(prefix.image, top_bits(image, prefix.iterations))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if prefix.iterations < 8 else "error")
            np.testing.assert_array_equal(api.decompress(data[: prefix.bytes]), prefix.image)
        with pytest.raises(MlicError) if prefix.iterations == 1 else pytest.warns(TruncationWarning):
            shorter = api.decompress(data[: prefix.bytes - 1])
            np.testing.assert_array_equal(shorter, top_bits(image, prefix.iterations - 1))
    with pytest.warns(TruncationWarning):
        assert len(list(api.prefixes(data[: found[4].bytes]))) == 5


# ---------------------------------------------------------------- importance maps


def test_importance():
    image = picture()
    wanted = np.zeros(image.shape[:2])
    wanted[:, 10:] = 1
    expected = image.copy()
    expected[:, :10] &= 0xF0
    pictures = [wanted, wanted > 0, (255 * wanted).astype(np.uint8), Image.fromarray((255 * wanted).astype(np.uint8))]
    files = {api.compress(image, plain.planes(), importance=given) for given in pictures}
    assert len(files) == 1
    np.testing.assert_array_equal(api.decompress(files.pop()), expected)


@pytest.mark.parametrize(
    "given, message",
    [
        (np.zeros((30, 20)), "30x20 pixels"),
        (np.zeros((20, 30, 3)), "one number each"),
        (np.full((20, 30), 1.5), "outside of 0..1"),
        (np.full((20, 30), np.nan), "outside of 0..1"),
        (np.zeros((20, 30), np.int32), "int32"),
        (np.zeros((20, 30), np.uint16), "uint16"),
    ],
)
def test_importance_of_another_kind(given, message):
    with pytest.raises(InputError, match=message):
        api.compress(picture(), plain.planes(), importance=given)


def test_importance_for_a_model_that_takes_none():
    with pytest.raises(UsageError, match="takes no importance map"):
        api.compress(picture(), plain.artifact(), importance=np.zeros((20, 30)))


# ---------------------------------------------------------------- commands


@pytest.fixture
def files(tmp_path):
    """(folder, picture, model's file, .mlic file)."""
    Image.fromarray(picture()).save(tmp_path / "photo.png")
    plain.planes().save(tmp_path / "planes.mlicm")
    (tmp_path / "photo.mlic").write_bytes(api.compress(picture(), plain.planes()))
    return tmp_path


def test_decompress_iterations(capsys, files):
    model = ("-m", files / "planes.mlicm")
    status, _, _ = run(capsys, "decompress", files / "photo.mlic", *model, "--iterations", 2, "-o", files / "x.png")
    assert status == 0
    np.testing.assert_array_equal(np.asarray(Image.open(files / "x.png")), top_bits(picture(), 2))
    for word, expected in (("9", "1 to 8"), ("0", "1 or more"), ("many", "many")):
        status, _, err = run(
            capsys, "decompress", files / "photo.mlic", *model, "--iterations", word, "-o", files / "y.png"
        )
        assert status == 2 and expected in err and not (files / "y.png").exists()


def test_decompress_truncated(capsys, files):
    model, short = ("-m", files / "planes.mlicm"), files / "short.mlic"
    data = (files / "photo.mlic").read_bytes()
    short.write_bytes(data[:-5])
    status, out, err = run(capsys, "decompress", short, *model, "-o", files / "x.png", "--json")
    assert status == 0 and "warning" in err and "short.mlic" in err and "7 of 8 parts" in err
    assert json.loads(out)["truncated"] == {"parts": 7, "of": 8}
    np.testing.assert_array_equal(np.asarray(Image.open(files / "x.png")), top_bits(picture(), 7))
    short.write_bytes(data[:60])
    status, _, err = run(capsys, "decompress", short, *model, "-o", files / "y.png")
    assert status == 4 and "for the first picture" in err and not (files / "y.png").exists()


def test_prefixes_as_a_table_an_animation_a_page_and_files(capsys, files):
    words = ("prefixes", files / "photo.mlic", "-m", files / "planes.mlicm", "--metrics", "psnr")
    status, out, _ = run(capsys, *words, "--original", files / "photo.png", "--json")
    rows = json.loads(out)
    assert status == 0 and [row["iterations"] for row in rows] == list(range(1, 9))
    assert rows[3]["psnr_db"] == psnr_db(picture(), top_bits(picture(), 4)) and rows[-1]["psnr_db"] is None
    assert rows[-1]["bytes"] == (files / "photo.mlic").stat().st_size

    status, out, _ = run(capsys, *words, "-o", files / "x.gif")
    assert status == 0 and len(out.strip().splitlines()) == 10
    with Image.open(files / "x.gif") as animation:
        assert animation.n_frames == 8
        animation.seek(1)
        shown = np.asarray(animation.convert("RGB"), int)
    assert np.abs(shown - top_bits(picture(), 2)).mean() < 8  # 64 colours, and GIF has 256

    status, _, _ = run(capsys, *words, "-o", files / "x.html", "--original", files / "photo.png")
    page = (files / "x.html").read_text()
    assert status == 0 and "8 of 8" in page and page.count('<figure class="ours" data-figures') == 8

    status, _, _ = run(capsys, *words, "-o", files / "all")
    np.testing.assert_array_equal(np.asarray(Image.open(files / "all" / "photo-03.png")), top_bits(picture(), 3))
    assert len(list((files / "all").iterdir())) == 8


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["-o", "x.html"], 2, "--original"),
        (["-o", "x.avi"], 2, ".gif"),
        (["-o", "photo.png", "--original", "other.png"], 2, ".gif"),
        (["--original", "other.png"], 3, "20x20"),
        (["--metrics", "beauty"], 2, "beauty"),
        (["-o", "there.gif"], 3, "add -f"),
    ],
)
def test_prefixes_of_bad_input(capsys, files, monkeypatch, words, status, message):
    monkeypatch.chdir(files)
    Image.fromarray(picture(20, 20)).save("other.png")
    (files / "there.gif").write_bytes(b"")
    found, _, err = run(capsys, "prefixes", "photo.mlic", "-m", "planes.mlicm", *words)
    assert found == status and message in err and (files / "there.gif").read_bytes() == b""


def test_prefixes_of_a_truncated_file(capsys, files):
    short = files / "short.mlic"
    short.write_bytes((files / "photo.mlic").read_bytes()[:-5])
    status, out, err = run(capsys, "prefixes", short, "-m", files / "planes.mlicm", "--json")
    assert status == 0 and len(json.loads(out)) == 7 and "warning" in err


def test_compress_with_an_importance_map(capsys, files):
    wanted = np.zeros((20, 30), np.uint8)
    wanted[:, 10:] = 255
    Image.fromarray(wanted).save(files / "map.png")
    words = ("compress", files / "photo.png", "-m", files / "planes.mlicm", "-o", files / "x.mlic")
    assert run(capsys, *words, "--importance", files / "map.png")[0] == 0
    found = api.decompress((files / "x.mlic").read_bytes())
    np.testing.assert_array_equal(found[:, 10:], picture()[:, 10:])
    np.testing.assert_array_equal(found[:, :10], picture()[:, :10] & 0xF0)
    (files / "map.txt").write_text("no picture")
    status, _, err = run(capsys, *words, "-f", "--importance", files / "map.txt")
    assert status == 3 and "map.txt" in err
    status, _, err = run(capsys, *words, "-f", "--importance", "-")
    assert status == 2 and "standard input" in err


def test_an_animation_keeps_equal_pictures():
    images = [np.full((8, 8, 3), 100, np.uint8)] * 3
    with Image.open(io.BytesIO(report.to_gif(images))) as animation:
        assert animation.size == (8, 8)

"""Reading images: every kind of file becomes upright 8-bit RGB, or one clear line."""

import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from mlic_jax.data import MAX_PIXELS, bundled, decode_image, list_images, read_image
from mlic_jax.errors import InputError, LimitError

# pytest undoes the package's own filter of these.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_rgb_comes_back_as_it_was(tmp_path):
    pixels = read_image(saved(tmp_path / "a.png", RGB))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, RGB)
    np.testing.assert_array_equal(decode_image((tmp_path / "a.png").read_bytes()), RGB)


def test_grey_and_one_bit(tmp_path):
    np.testing.assert_array_equal(
        read_image(saved(tmp_path / "grey.png", RGB[..., 0])), np.repeat(RGB[..., :1], 3, axis=-1)
    )
    bits = RGB[..., 0] > 127
    np.testing.assert_array_equal(read_image(saved(tmp_path / "bit.png", bits))[..., 1], bits * np.uint8(255))


def test_palette_with_and_without_transparency(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    picture.save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), [[[10, 20, 30], [40, 50, 60]]])
    picture.save(tmp_path / "clear.png", transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), [[[10, 20, 30], [255, 255, 255]]])


def test_alpha_is_composited_on_white(tmp_path):
    rgba = np.array([[[200, 100, 0, 0], [200, 100, 0, 255], [200, 100, 0, 51]]], np.uint8)
    got = read_image(saved(tmp_path / "a.png", rgba))
    np.testing.assert_allclose(got, [[[255, 255, 255], [200, 100, 0], [244, 224, 204]]], atol=1)
    grey_alpha = np.array([[[0, 0], [0, 255]]], np.uint8)
    np.testing.assert_array_equal(read_image(saved(tmp_path / "la.png", grey_alpha))[..., 0], [[255, 0]])


def test_sixteen_bits(tmp_path):
    grey = np.array([[0, 128, 129, 257 * 100, 65535]], np.uint16)
    saved(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[..., 0], [[0, 0, 1, 100, 255]])
    (tmp_path / "colour.png").write_bytes(imagecodecs.png_encode(RGB.astype(np.uint16) * 257))
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png"), RGB)
    saved(tmp_path / "grey.tif", grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.tif")[..., 2], [[0, 0, 1, 100, 255]])


def test_cmyk_jpeg(tmp_path):
    flat = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    got = read_image(saved(tmp_path / "a.jpg", flat, "CMYK", quality=95))
    np.testing.assert_allclose(got, flat, atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", RGB, exif=exif)
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    got = read_image(path)
    assert got.shape == ((7, 5, 3) if orientation >= 5 else (5, 7, 3)) and got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)


def test_damaged_exif_does_not_matter(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x00garbage")
    assert read_image(path).shape == RGB.shape


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp")[0, 0], [255, 0, 0])


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 300
    return text


def test_missing_and_folder(tmp_path):
    with pytest.raises(InputError) as error:
        read_image(tmp_path / "none.png")
    assert one_line(error) == f"{tmp_path / 'none.png'}: no such file"
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)


def test_not_an_image(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("a.png", "empty.jpg"):
        with pytest.raises(InputError) as error:
            read_image(tmp_path / name)
        assert "not an image" in one_line(error) and name in one_line(error)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "ppm"])
def test_truncated(tmp_path, suffix):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = saved(tmp_path / f"whole.{suffix}", noise).read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError) as error:
            read_image(cut)
        assert cut.name in one_line(error)


def test_damage_never_escapes_as_another_error(tmp_path):
    originals = [saved(tmp_path / f"a.{suffix}", RGB).read_bytes() for suffix in ("png", "jpg", "webp", "tif", "bmp")]
    refused = 0
    for trial in range(400):
        data = bytearray(originals[trial % len(originals)])
        for place in RNG.integers(0, len(data), 4):
            data[place] = RNG.integers(0, 256)
        try:
            assert decode_image(bytes(data)).shape[-1] == 3
        except (InputError, LimitError):
            refused += 1
    assert refused > 20


def test_float_pixels_are_refused(tmp_path):
    saved(tmp_path / "a.tif", RNG.random((4, 4), dtype=np.float32))
    with pytest.raises(InputError, match="floating-point"):
        read_image(tmp_path / "a.tif")
    saved(tmp_path / "b.tif", np.array([[0, 70000]], np.int32))
    with pytest.raises(InputError, match="32-bit"):
        read_image(tmp_path / "b.tif")


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bomb(side):
    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(LimitError, match=str(MAX_PIXELS)):
        decode_image(png)


def test_list_images(tmp_path):
    for name in ("b/2.PNG", "b/1.jpeg", "a.webp", "c/d/x.tiff", ".hidden/h.png", "._a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == [
        "a.webp",
        "b/1.jpeg",
        "b/2.PNG",
        "c/d/x.tiff",
    ]


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path):
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for folder in (photos / "a", elsewhere / "deep"):
        folder.mkdir(parents=True)
        (folder / "x.png").touch()
    (photos / "linked").symlink_to(elsewhere)
    (photos / "a" / "up").symlink_to(photos)
    (photos / "a" / "self").symlink_to(".")
    (elsewhere / "deep" / "back").symlink_to(photos)
    (photos / "gone").symlink_to(tmp_path / "gone")
    (photos / "y.png").symlink_to(elsewhere / "deep" / "x.png")
    found = [path.relative_to(photos).as_posix() for path in list_images(photos)]
    assert found == ["a/x.png", "linked/deep/x.png", "y.png"]
    (tmp_path / "way").symlink_to(photos)
    assert len(list_images(tmp_path / "way")) == 3


def test_list_images_errors(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list_images(tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="is a file"):
        list_images(tmp_path / "notes.txt")
    with pytest.raises(InputError) as error:
        list_images(tmp_path)
    assert "no images" in one_line(error) and ".png" in one_line(error) and ".webp" in one_line(error)


def test_importing_and_reading_imports_nothing_heavy():
    code = (
        "import sys, mlic_jax.data as data, mlic_jax.data.sources\n"
        f"data.read_image({str(bundled()[0])!r})\n"
        "print([m for m in ('jax', 'grain', 'tensorflow_datasets', 'tensorflow', 'orbax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

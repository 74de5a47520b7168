"""A file's samples arrive at their depth and with what is transparent, where Pillow alone changes them."""

import io
import sys

import numpy as np
import pytest
from files import chunk, png, tiff, tiff_of
from PIL import Image

from mlic_jax.data import images
from mlic_jax.data.samples import samples
from mlic_jax.errors import InputError, LossWarning
from mlic_jax.fileformat import modes

rng = np.random.default_rng(0)


def opened(data):
    return images.open_image(io.BytesIO(data), "picture")


def wide(*shape):
    return rng.integers(0, 65536, shape, np.uint16)


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(channels, interlace):
    array = wide(11, 13, channels)
    got = samples(opened(png(array, 16, interlace=interlace)))
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got.reshape(array.shape), array)
    picture = modes.from_pillow(opened(png(array, 16, interlace=interlace)))
    assert picture.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels] + ";16"
    if channels in (2, 4):
        np.testing.assert_array_equal(picture.alpha, array[..., -1])


def test_grey_and_alpha_of_16_bits_are_grey():
    picture = modes.from_pillow(opened(png(np.stack([wide(9, 9), np.full((9, 9), 65535)], -1), 16)))
    assert (picture.rgb == picture.rgb[..., :1]).all()


def test_16_bits_of_a_file_on_disk(tmp_path):
    array = wide(7, 5, 3)
    (tmp_path / "a.png").write_bytes(png(array, 16))
    np.testing.assert_array_equal(samples(Image.open(tmp_path / "a.png")), array)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), (array.astype(int) + 128) // 257)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels, more", [(3, {}), (4, {"tag_338": (3, [2])}), (4, {})])
def test_tiff_of_16_bits(order, channels, more):
    array = wide(6, 9, channels)
    np.testing.assert_array_equal(samples(opened(tiff_of(array, order, **more))), array)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_compressed_tiff_of_16_bits(order, channels):
    array = wide(6, 9, channels)
    got = samples(opened(tiff_of(array, order, deflated=True)))
    np.testing.assert_array_equal(got.reshape(array.shape), array)


def test_16_bits_of_another_page():
    first, second = wide(4, 5, 3), wide(4, 5, 3)
    tags = {258: (3, [16] * 3), 262: (3, [2]), 277: (3, [3])}
    data = tiff([(array.astype("<u2").tobytes(), 5, 4, tags) for array in (first, second)])
    for frame, array in enumerate((first, second)):
        image = images.open_image(io.BytesIO(data), "picture", frame=frame)
        np.testing.assert_array_equal(samples(image), array)


# ---------------------------------------------------------------------- colour keys


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_key_of_grey(depth, loaded):
    array = rng.integers(0, 2**depth, (16, 17)) & ~3 if depth > 4 else rng.integers(0, 2**depth, (16, 17))
    key = int(array[3, 4])
    image = opened(png(array, depth, (key,)))
    if loaded:
        image.load()
    got = samples(image)
    assert got.dtype == (np.uint16 if depth == 16 else np.uint8) and got.shape == (16, 17, 2)
    np.testing.assert_array_equal(got[..., 1] == 0, array == key)
    top = 65535 if depth == 16 else 255
    np.testing.assert_array_equal(got[..., 0], array * top // (2**depth - 1))
    assert modes.from_pillow(opened(png(array, depth, (key,)))).mode == ("LA;16" if depth == 16 else "LA")


def test_key_that_no_pixel_has():
    got = samples(opened(png(np.full((4, 4), 2), 2, (1,))))
    assert (got[..., 1] == 255).all()


def test_key_of_8_bit_colours():
    array = rng.integers(0, 3, (9, 9, 3), np.uint8)
    key = tuple(int(x) for x in array[2, 2])
    got = samples(opened(png(array, 8, key)))
    np.testing.assert_array_equal(got[..., 3] == 0, (array == key).all(-1))


def test_key_of_16_bit_colours():
    array = wide(8, 8, 3)
    array[:4] = (1000, 2000, 3000)
    array[0, 0] = (1001, 2000, 3000)  # the same high bytes
    picture = modes.from_pillow(opened(png(array, 16, (1000, 2000, 3000))))
    assert picture.mode == "RGBA;16"
    np.testing.assert_array_equal(picture.alpha == 0, (array == (1000, 2000, 3000)).all(-1))
    assert picture.alpha[0, 0] == 65535 and (picture.alpha == 0).sum() == 31
    # What Pillow has loaded lacks the low bytes: it is said.
    image = opened(png(array, 16, (1000, 2000, 3000)))
    image.load()
    with pytest.warns(LossWarning, match="has 16 bits, and Pillow has loaded"):
        assert (modes.from_pillow(image).alpha[1:4] == 0).all()


def test_alpha_of_a_palette():
    palette = rng.integers(0, 256, (4, 3))
    array = rng.integers(0, 4, (8, 8))
    got = samples(opened(png(array, 2, bytes([0, 100]), palette=palette)))
    np.testing.assert_array_equal(got[..., 3], np.array([0, 100, 255, 255])[array])
    np.testing.assert_array_equal(got[..., :3], palette[array])


def test_read_image_shows_white_through_a_key():
    array = np.full((3, 3), 1)
    array[1, 1] = 2
    got = images.decode_image(png(array, 2, (2,)))
    assert (got[1, 1] == 255).all() and (got[0, 0] == 85).all()


# ---------------------------------------------------------------------- TIFF


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero(bits, photometric):
    array = rng.integers(0, 2**bits, (5, 6)).astype(f"u{bits // 8}")
    got = samples(opened(tiff_of(array, photometric=photometric)))
    np.testing.assert_array_equal(got, array if photometric else 2**bits - 1 - array)


def test_white_is_zero_as_pillow_writes_it():
    array, out = wide(5, 6), io.BytesIO()
    Image.fromarray(array).save(out, "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(samples(opened(out.getvalue())), 65535 - array)
    compressed = io.BytesIO()
    Image.fromarray(array).save(compressed, "TIFF", tiffinfo={262: 0}, compression="tiff_lzw")
    np.testing.assert_array_equal(samples(opened(compressed.getvalue())), 65535 - array)


def test_12_bits_fill_the_range():
    values = np.array([[0, 1, 2048, 4095]])
    packed = bytes([0x00, 0x00, 0x01, 0x80, 0x0F, 0xFF])
    data = tiff([(packed, 4, 1, {258: (3, [12]), 262: (3, [1]), 277: (3, [1])})])
    np.testing.assert_array_equal(samples(opened(data)), np.round(values * 65535 / 4095))


def test_what_pillow_misreads_is_refused():
    planes = {"tag_284": (3, [2]), "tag_273": (4, [0, 60, 120]), "tag_279": (4, [60] * 3)}
    for data in (tiff_of(wide(5, 6, 3), **planes), tiff_of(np.zeros((4, 4), np.uint8), tag_339=(3, [2]))):
        with pytest.raises(InputError, match="is not read: save it"):
            modes.from_pillow(opened(data))
        with pytest.raises(InputError, match="picture: a TIFF of .* is not read"):
            images.decode_image(data, "picture")


# ---------------------------------------------------------------------- what colours mean


@pytest.mark.parametrize(
    "before, words",
    [
        ([(b"gAMA", (100000).to_bytes(4, "big"))], "gamma of 1 is not kept"),
        ([(b"cICP", bytes([9, 16, 0, 1]))], "cICP 9/16/0/1, which is not kept"),
        ([(b"gAMA", (45455).to_bytes(4, "big"))], None),
        ([(b"gAMA", (100000).to_bytes(4, "big")), (b"sRGB", b"\0")], None),
        ([(b"cICP", bytes([1, 13, 0, 1]))], None),
        ([], None),
    ],
)
def test_other_colours_are_said(before, words, recwarn):
    array = rng.integers(0, 256, (4, 4, 3), np.uint8)
    picture = modes.from_pillow(opened(png(array, 8, before=before)))
    np.testing.assert_array_equal(picture.rgb, array)
    said = [str(warning.message) for warning in recwarn if warning.category is LossWarning]
    assert (len(said) == 1 and words in said[0] and said[0].startswith("picture: ")) if words else not said


def test_png_maker():
    """The maker of these files is right where Pillow is."""
    array = rng.integers(0, 256, (5, 6, 4), np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(array, 8, interlace=True)))), array)
    assert chunk(b"IEND", b"") == b"\0\0\0\0IEND\xaeB`\x82" and sys.byteorder in ("little", "big")

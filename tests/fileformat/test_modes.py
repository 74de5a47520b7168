"""Every mode goes to what a codec sees and back as it is stated, and nothing else is taken."""

import numpy as np
import pytest
from pictures import sample, stated
from PIL import Image

from mlic_jax.errors import InputError, LimitError
from mlic_jax.fileformat import container, modes

rng = np.random.default_rng(0)
SIZES = [(1, 1), (1, 9), (7, 1), (16, 16), (33, 47)]


def through(seen):
    return modes.to_array(seen.mode, seen.rgb, *([] if seen.alpha is None else [seen.alpha]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", container.MODES)
def test_arrays(mode, size):
    array = sample(mode, size)
    seen = modes.from_array(array)
    assert seen.mode == mode and seen.rgb.dtype == np.uint8 and seen.rgb.shape == (*size, 3)
    assert seen.rgb.flags.c_contiguous and (seen.alpha is None) == (not container.has_alpha(mode))
    back = through(seen)
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, stated(array))


def test_other_layouts_of_arrays():
    for mode in ("L", "1", "L;16"):
        array = sample(mode, (5, 6))
        np.testing.assert_array_equal(through(modes.from_array(array[..., None])), stated(array))
    array = sample("RGBA;16", (5, 6))
    for odd in (array.astype(">u2"), np.asfortranarray(array), array[::-1][::-1]):
        np.testing.assert_array_equal(through(modes.from_array(odd)), stated(array))


def test_mapping_of_16_bits():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    eight = modes.from_array(every).rgb[..., 0]
    np.testing.assert_array_equal(eight, (every.astype(int) + 128) // 257)
    np.testing.assert_array_equal(eight, np.round(every / 257))
    every8 = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    np.testing.assert_array_equal(modes.to_array("L;16", every8), every8[..., 0] * np.uint16(257))


def test_grey_and_1_bit_of_what_a_codec_returned():
    rgb = rng.integers(0, 256, (40, 40, 3), np.uint8)
    r, g, b = (rgb[..., i].astype(int) for i in range(3))
    luma = (299 * r + 587 * g + 114 * b + 500) // 1000
    np.testing.assert_array_equal(modes.to_array("L", rgb), luma)
    np.testing.assert_array_equal(modes.to_array("L;16", rgb), luma * 257)
    np.testing.assert_array_equal(modes.to_array("1", rgb), luma >= 128)
    grey = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    np.testing.assert_array_equal(modes.to_array("L", grey)[0], np.arange(256))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "LA;16", "RGBA;16"])
@pytest.mark.parametrize("size", [*SIZES, (97, 130)])
def test_hidden_colours(mode, size):
    array = sample(mode, size, hidden=True)
    seen, back = modes.from_array(array), through(modes.from_array(array))
    np.testing.assert_array_equal(back[..., -1], array[..., -1])
    visible = array[..., -1] > 0
    np.testing.assert_array_equal(back[visible], stated(array)[visible])
    # What is hidden does not change what is coded.
    other = array.copy()
    other[~visible, :-1] = 77
    np.testing.assert_array_equal(modes.from_array(other).rgb, seen.rgb)


def test_hidden_colours_are_cheap():
    y, x = np.mgrid[:200, :300]
    array = np.zeros((200, 300, 4), np.uint8)
    array[..., :3] = rng.integers(0, 256, (200, 300, 3))
    array[np.hypot(x - 150, y - 100) < 60] = (200, 100, 50, 255)
    np.testing.assert_array_equal(modes.from_array(array).rgb, np.broadcast_to([200, 100, 50], (200, 300, 3)))
    array[..., 3] = 0
    assert len(np.unique(modes.from_array(array).rgb)) == 1


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 3), np.int8), np.zeros((4, 4, 3), np.uint32), np.zeros(4, np.uint8),
     np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4, 0), np.uint8), np.zeros((1, 4, 4, 3), np.uint8),
     np.zeros((4, 4, 3), bool), np.zeros((), np.uint8), np.zeros((4, 4), complex), np.zeros((4, 4), object)],
    ids=lambda a: f"{a.dtype}{a.shape}",
)  # fmt: skip
def test_other_arrays(array):
    with pytest.raises(InputError, match=r"uint8 or uint16 \[H, W\]"):
        modes.from_array(array)


def test_sizes_out_of_range():
    for shape in ((0, 5, 3), (5, 0), (1, 32769), (32769, 1, 4)):
        with pytest.raises(LimitError):
            modes.from_array(np.zeros(shape, np.uint8))
    with pytest.raises(LimitError, match="pixels are possible"):
        modes.from_array(np.broadcast_to(np.uint8(0), (32768, 32768, 3)))


# ---------------------------------------------------------------------- Pillow


def test_pillow_modes():
    for mode in container.MODES:
        array = sample(mode, (9, 13))
        seen = modes.from_array(array)
        image = modes.to_pillow(mode, through(seen))
        assert image.mode == modes.pillow_mode(mode) and image.size == (13, 9)
        again = modes.from_pillow(image)
        np.testing.assert_array_equal(again.rgb, seen.rgb)
        assert again.mode == (mode if mode == "L;16" else mode.removesuffix(";16"))
        if seen.alpha is not None:
            eight = seen.alpha if seen.alpha.dtype == np.uint8 else (seen.alpha.astype(int) + 128) // 257
            np.testing.assert_array_equal(again.alpha, eight)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_16_bit_grey_of_pillow(mode):
    array = sample("L;16", (6, 5))
    stored = array.astype({"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2"))
    image = Image.frombytes(mode, (5, 6), stored.tobytes())
    seen = modes.from_pillow(image)
    assert seen.mode == "L;16"
    np.testing.assert_array_equal(through(seen), stated(array))


def test_32_bit_grey_beyond_16():
    for value in (-1, 65536):
        with pytest.raises(InputError, match="16 bits hold 0 to 65535"):
            modes.from_pillow(Image.fromarray(np.full((2, 2), value, np.int32)))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "F"])
def test_refused_modes(mode):
    with pytest.raises(InputError, match=f"mode {mode}: .*(convert it to RGB first|scale it to 8 or 16 bits)"):
        modes.from_pillow(Image.new(mode, (4, 4)))


def test_palettes_and_transparent_colours():
    colours = Image.fromarray(sample("RGB", (8, 8))).quantize(16)
    assert modes.from_pillow(colours).mode == "RGB"
    np.testing.assert_array_equal(modes.from_pillow(colours).rgb, np.asarray(colours.convert("RGB")))
    colours.info["transparency"] = 3
    seen = modes.from_pillow(colours)
    assert seen.mode == "RGBA"
    np.testing.assert_array_equal(seen.alpha, np.where(np.asarray(colours) == 3, 0, 255))
    for array, key, mode in (
        (sample("L", (8, 8)) // 64, 2, "LA"),
        (sample("L;16", (8, 8)) // 20000, 2, "LA;16"),
        (sample("RGB", (8, 8)) // 128, (1, 0, 1), "RGBA"),
    ):
        image = Image.fromarray(array)
        image.info["transparency"] = key
        seen = modes.from_pillow(image)
        hidden = (array.reshape(64, -1) == key).all(1).reshape(8, 8)
        assert seen.mode == mode and hidden.any()
        np.testing.assert_array_equal(seen.alpha == 0, hidden)


def test_premultiplied_alpha():
    image = Image.fromarray(sample("RGBA", (5, 5))).convert("RGBa")
    seen = modes.from_pillow(image)
    assert seen.mode == "RGBA"
    np.testing.assert_array_equal(seen.alpha, np.asarray(image)[..., 3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "I;16"])
def test_orientations(orientation, mode):
    from PIL import ImageOps

    array = sample({"I;16": "L;16"}.get(mode, mode), (6, 9))
    image = Image.fromarray(array)
    tags = image.getexif()
    tags[0x0112] = orientation
    image.info["exif"] = tags.tobytes()
    seen = modes.from_pillow(image)
    upright = ImageOps.exif_transpose(image)
    assert seen.rgb.shape[:2] == upright.size[::-1]
    np.testing.assert_array_equal(through(seen), stated(np.asarray(upright)))
    turned = Image.Exif()
    turned.load(seen.metadata[container.EXIF])
    assert turned[0x0112] == 1
    # Dropping the EXIF does not lay the picture on its side.
    np.testing.assert_array_equal(modes.from_pillow(image, ()).rgb, seen.rgb)
    assert not modes.from_pillow(image, ()).metadata


def test_a_damaged_image(tmp_path):
    Image.fromarray(sample("RGB", (64, 64))).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    with Image.open(tmp_path / "b.png") as image, pytest.raises(InputError, match="truncated"):
        modes.from_pillow(image)

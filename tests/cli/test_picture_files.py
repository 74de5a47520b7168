"""Picture files out: modes and metadata arrive, or it is said why they cannot."""

import io

import numpy as np
import pytest
from pictures import exif, sample, tags_of
from PIL import Image

from mlic_jax.cli import picture_files
from mlic_jax.data import images
from mlic_jax.errors import UsageError
from mlic_jax.fileformat import container, modes

METADATA = {"icc_profile": b"profile" * 50, "exif": exif(1), "xmp": "<x:xmpmeta>ä</x:xmpmeta>".encode()}


def quality_of(format):
    return 95 if format in ("JPEG", "AVIF") else None


def image_of(mode):
    array = sample(mode, (12, 17))
    return modes.to_pillow(mode, array)


@pytest.mark.parametrize("mode", container.MODES)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF", "BMP", "PPM", "JPEG2000", "TGA"])
def test_modes(format, mode):
    image = image_of(mode)
    image.info.update(METADATA)
    refused = container.has_alpha(mode) and format not in ("PNG", "TIFF", "WEBP", "AVIF", "JPEG2000", "TGA")
    refused |= mode == "L;16" and format not in ("PNG", "TIFF", "PPM", "JPEG2000")
    if refused:
        with pytest.raises(UsageError, match=f"{format} cannot hold"):
            picture_files.check(format, mode)
        return
    picture_files.check(format, mode)
    written = Image.open(io.BytesIO(picture_files.to_bytes(image, format, quality_of(format))))
    assert written.format == format and written.size == image.size
    if format in ("PNG", "TIFF"):
        assert written.mode == image.mode
    if format in ("PNG", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000", "TGA"):  # losslessly
        common = "I" if mode == "L;16" else "RGBA"
        one, other = (np.asarray(x.convert(common)) for x in (written, image))
        if format == "WEBP":
            one, other = one * (one[..., 3:] > 0), other * (other[..., 3:] > 0)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_metadata(format):
    image = image_of("RGB")
    image.info.update(METADATA)
    written = images.open_image(io.BytesIO(picture_files.to_bytes(image, format, quality_of(format))), "picture")
    assert written.info["icc_profile"] == METADATA["icc_profile"]
    assert written.info["xmp"] == METADATA["xmp"]
    tags = dict(written.getexif())
    expected = tags_of(METADATA["exif"])
    if format == "AVIF":
        expected.pop(0x0112)  # which is in the picture's own boxes
    assert expected.items() <= tags.items()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "PPM"])
@pytest.mark.parametrize("name", METADATA)
def test_some_metadata(format, name):
    image = image_of("L")
    image.info[name] = METADATA[name]
    written = images.open_image(io.BytesIO(picture_files.to_bytes(image, format, quality_of(format))), "picture")
    if format != "PPM":
        assert dict(written.getexif()) if (name, format) == ("exif", "TIFF") else name in written.info
    assert not (METADATA.keys() - {name}) & written.info.keys()


def test_metadata_that_does_not_fit():
    image = image_of("RGB")
    image.info["xmp"] = bytes(70000)
    with pytest.raises(UsageError, match="cannot be written as JPEG .*XMP.*--metadata none"):
        picture_files.to_bytes(image, "JPEG", 90)


def test_format_of():
    assert picture_files.format_of("a/b.PNG") == "PNG" and picture_files.format_of("b.jpeg") == "JPEG"
    for path in ("x", "x.abc", "x.psd", "x.mlicm", "x.gif", "x.ico"):
        with pytest.raises(UsageError, match="names no picture format that can be written, try .png"):
            picture_files.format_of(path)

"""Pictures of every mode, and their metadata, for the tests of what is around a codec."""

import numpy as np
from PIL import Image

from mlic_jax.fileformat import container

rng = np.random.default_rng(0)
KINDS = {
    "L": (np.uint8, ()), "LA": (np.uint8, (2,)), "RGB": (np.uint8, (3,)), "RGBA": (np.uint8, (4,)), "1": (bool, ()),
    "L;16": (np.uint16, ()), "LA;16": (np.uint16, (2,)), "RGB;16": (np.uint16, (3,)), "RGBA;16": (np.uint16, (4,)),
}  # fmt: skip


def sample(mode, size, hidden=False):
    """Random pixels of a mode; none is fully transparent unless `hidden`."""
    dtype, channels = KINDS[mode]
    if dtype is bool:
        return rng.integers(0, 2, size).astype(bool)
    top = np.iinfo(dtype).max
    pixels = rng.integers(0, top, (*size, *channels), dtype, endpoint=True)
    if container.has_alpha(mode):
        pixels[..., -1] = rng.integers(0, 2, size) * pixels[..., -1] if hidden else pixels[..., -1] | top // 255
    return pixels


def stated(array):
    """What a lossless codec has to give back: 16 bits lose what 8 do not hold, alpha nothing."""
    if array.dtype != np.uint16:
        return array
    colours = (((array.astype(int) + 128) // 257) * 257).astype(np.uint16)
    if array.ndim == 3 and array.shape[-1] in (2, 4):
        colours[..., -1] = array[..., -1]
    return colours


def exif(orientation, endian="<", maker=b""):
    tags = Image.Exif()
    tags.endian = endian
    tags[0x010F] = "a maker" + maker.decode()
    tags[0x0112] = orientation
    tags[0x0132] = "2020:02:02 02:02:02"
    return tags.tobytes()


def tags_of(content):
    tags = Image.Exif()
    tags.load(content)
    return dict(tags)

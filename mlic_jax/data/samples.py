"""The samples of a Pillow image as its file has them: at their depth, with what is transparent.

Pillow reads every format, with these gaps, which are closed here:
- colours of 16 bits come with their high bytes alone: the file is read a second time for the low ones;
- the one colour that PNG can make transparent is compared with samples of another depth;
- grey TIFFs of 16 bits in which 0 is white, or of 12 bits, come as they are stored;
- TIFFs that lie on their side are not read by mapping the file, which gives noise;
- TIFFs of 16 bits with a plane for each colour, and of signed bytes, come as noise: they are refused.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
from PIL import Image

from mlic_jax.errors import InputError, LossWarning

# Pillow's modes that a picture is converted from, to what; with transparency, to what.
_CONVERTED = {"P": ("RGB", "RGBA"), "PA": ("RGBA", "RGBA"), "La": ("LA", "LA"), "RGBa": ("RGBA", "RGBA"),
              "RGBX": ("RGB", "RGBA")}  # fmt: skip
_AS_THEY_ARE = ("1", "L", "LA", "RGB", "RGBA")

_NATIVE, _SWAPPED = ("L", "B") if sys.byteorder == "little" else ("B", "L")
# Pillow unpacks 16 bits by keeping the byte that it takes for the high one: with the other order, it keeps the low one.
_LOW_BYTES = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", _SWAPPED))
}
_GREY_AND_ALPHA = "LA;16B"
_BITS_OF_PNG = {"1": 1, "L;2": 2, "L;4": 4, "I;16B": 16, "RGB;16B": 16}

# Primaries, transfer, matrix, range of cICP: sRGB, and BT.709, whose transfer screens take for the same.
_SRGB_CODINGS = ((1, 13, 0, 1), (1, 1, 0, 1))

_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
_WHITE_IS_ZERO, _SEPARATE, _SIGNED = 0, 2, 2


def samples(image: Image.Image) -> np.ndarray:
    """Loads an image, and returns bool [H, W], or uint8 or uint16 [H, W] or [H, W, 2 to 4]: as stored, not yet upright.

    Colours have 16 bits where the image comes from a file and was not loaded before; Pillow keeps 8 of them.

    Raises:
      InputError: a mode without a meaning in RGB of 8 or 16 bits. What Pillow raises on damaged files goes through.
    """
    refuse_misread(image)
    bits = _bits_of_key(image)
    array = _colours_of_16_bits(image)
    _load(image)
    if array is None:
        if image.mode.startswith("I"):
            array = _grey_of_16_bits(image)
        elif image.mode in _AS_THEY_ARE:
            array = np.asarray(image)
        elif image.mode in _CONVERTED:
            return np.asarray(image.convert(_CONVERTED[image.mode][image.has_transparency_data]))
        else:
            reason = (
                "floating-point pixels have no stated range: scale it to 8 or 16 bits"
                if image.mode == "F"
                else "grey and RGB, with or without alpha, are coded; convert it to RGB first"
            )
            raise InputError(f"a picture of mode {image.mode}: {reason}")
    key = image.info.get("transparency")
    has_alpha = array.ndim == 3 and array.shape[2] in (2, 4)
    if has_alpha or not isinstance(key, int | tuple):
        return array
    return _with_key(array, np.atleast_1d(key), bits)


def _load(image: Image.Image) -> None:
    """Loads an image without mapping its file: a TIFF that says it lies on its side is mapped with its sides exchanged,
    and comes as noise."""
    name = getattr(image, "filename", None)
    if name and hasattr(image, "tag_v2"):
        image.filename = ""
        try:
            image.load()
        finally:
            image.filename = name
    else:
        image.load()


def refuse_misread(image: Image.Image) -> None:
    """Raises InputError for a TIFF that Pillow would read as other pixels than it holds."""
    tags = getattr(image, "tag_v2", {})
    bits = _tag(tags, _BITS, (1,))
    if _tag(tags, _PLANES, (1,))[0] == _SEPARATE and len(bits) > 1 and max(bits) > 8:
        raise InputError(f"a TIFF of {max(bits)} bits with a plane for each colour is not read: save it without planes")
    if _SIGNED in _tag(tags, _SAMPLE_FORMAT, (1,)) and max(bits) <= 8:
        raise InputError("a TIFF of signed bytes is not read: save it with samples of 0 to 255")


def _tag(tags, number: int, default: tuple) -> tuple:
    value = tags.get(number, default)
    return value if isinstance(value, tuple) else (value,)


# ---------------------------------------------------------------------- 16 bits


def _grey_of_16_bits(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image)  # [H, W]
    if grey.dtype.kind == "i":
        if grey.min() < 0 or grey.max() > 65535:
            raise InputError(
                f"32-bit pixels of {grey.min()} to {grey.max()}: 16 bits hold 0 to 65535, scale them first"
            )
        return grey.astype(np.uint16)
    grey = grey.astype(np.uint16, copy=False)
    tags = getattr(image, "tag_v2", {})
    if _tag(tags, _BITS, (16,)) == (12,):
        grey = ((grey.astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16)
    if _tag(tags, _PHOTOMETRIC, (1,))[0] == _WHITE_IS_ZERO:
        grey = 65535 - grey
    return grey


def _colours_of_16_bits(image: Image.Image) -> np.ndarray | None:
    """uint16 [H, W, 2 to 4] of an image of 16 bits that Pillow is about to read with 8; None for every other image.

    Frames of an animated PNG are drawn over each other in 8 bits, and stay so.
    """
    tiles, file = getattr(image, "tile", None), getattr(image, "fp", None)
    animated = image.format != "TIFF" and getattr(image, "is_animated", False)
    if image.format not in ("PNG", "TIFF") or not tiles or file is None or animated:
        return None
    rawmode = _rawmode(tiles[0])
    if rawmode != _GREY_AND_ALPHA and rawmode not in _LOW_BYTES:
        return None
    other = "RGBA" if rawmode == _GREY_AND_ALPHA else _LOW_BYTES[rawmode]
    place = file.tell()
    twin = Image.open(file, formats=[image.format])
    if twin.tell() != image.tell():
        twin.seek(image.tell())
    twin.tile = [tile._replace(args=_with_rawmode(tile, other)) for tile in twin.tile]
    low = np.asarray(twin)  # which loads it
    file.seek(place)
    if rawmode == _GREY_AND_ALPHA:  # its 4 bytes were read as 4 samples
        return np.ascontiguousarray(low).view(">u2").astype(np.uint16)
    _load(image)
    wide = np.asarray(image).astype(np.uint16)
    wide <<= 8
    wide |= low
    return wide


def _rawmode(tile) -> str:
    return tile.args if isinstance(tile.args, str) else tile.args[0]


def _with_rawmode(tile, rawmode: str):
    return rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:])


# ---------------------------------------------------------------------- the one transparent colour


def _bits_of_key(image: Image.Image) -> int | None:
    """Bits of a PNG's samples, in which its transparent colour is stated; None where they cannot be known any more."""
    if image.format != "PNG" or not getattr(image, "tile", None):
        return None
    return _BITS_OF_PNG.get(_rawmode(image.tile[0]), 8)


def _with_key(array: np.ndarray, key: np.ndarray, bits: int | None) -> np.ndarray:
    """An array [H, W] or [H, W, 3] with alpha: 0 where it has the colour `key`, which is stated in so many bits."""
    if array.dtype == bool:
        array, bits = array * np.uint8(255), 1
    colours = array if array.ndim == 3 else array[..., None]
    if key.size != colours.shape[2]:
        return array
    if bits is None:
        bits = _likely_bits(colours, key)
    opaque = np.iinfo(array.dtype).max
    key = (np.minimum(key, 2**bits - 1).astype(np.int64) * opaque) // (2**bits - 1)
    visible = (colours != key.astype(array.dtype)).any(-1, keepdims=True)
    return np.concatenate([colours, visible * array.dtype.type(opaque)], -1)


def _likely_bits(colours: np.ndarray, key: np.ndarray) -> int:
    """The depth in which a loaded image's key was stated: that in which it is one of the picture's colours."""
    if colours.dtype == np.uint16:
        return 16
    if key.max() > 255:
        warnings.warn(
            f"the transparent colour {tuple(key.tolist())} has 16 bits, and Pillow has loaded the image with 8: what "
            "has the same high bytes becomes transparent. Give the image before it is loaded",
            LossWarning,
            stacklevel=2,
        )
        return 16
    if colours.shape[2] == 1 and not (colours == key).any():
        for bits, step in ((4, 17), (2, 85)):
            if (colours % step == 0).all() and (colours == key * step).any():
                return bits
    return 8


# ---------------------------------------------------------------------- what the colours mean


def colours_unsaid(image: Image.Image) -> list[str]:
    """What a PNG that was not loaded yet says about its colours other than by a profile, where it is not what is taken
    for granted, that samples are sRGB: in words, for a warning."""
    if image.format != "PNG" or "icc_profile" in image.info:
        return []
    coding = _chunk_before_pixels(image, b"cICP")
    if coding is not None and tuple(coding) not in _SRGB_CODINGS:
        return [f"its colours are those of cICP {'/'.join(map(str, coding))}, which is not kept: convert it to sRGB"]
    gamma = image.info.get("gamma")
    if coding is None and "srgb" not in image.info and gamma and abs(gamma - 1 / 2.2) > 0.01:
        return [f"its gamma of {gamma:g} is not kept, it will be taken for that of sRGB: convert it to sRGB"]
    return []


def _chunk_before_pixels(image: Image.Image, name: bytes) -> bytes | None:
    """The content of a PNG's chunk; None where there is none before the pixels, or the file is closed."""
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None):
        return None
    place, found = file.tell(), None
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        length = int.from_bytes(head[:4], "big")
        if head[4:] == name:
            found = file.read(min(length, 64))
            break
        file.seek(length + 4, 1)
    file.seek(place)
    return found

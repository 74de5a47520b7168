"""Image files in: from a path or bytes to 8-bit RGB, or one clear error.

The command line reads through this file too, so it imports Pillow and NumPy and nothing heavier.

What is done to an image on the way in, always the same, so that training and evaluation see the same pixels:
- the EXIF orientation is applied;
- grey, palette, CMYK and YCbCr images become RGB; of 16-bit images the 8 most significant bits' worth is kept
  (grey: v / 257 rounded; colour: as Pillow does it, the high byte);
- transparency is composited on white, since hidden pixels under it are arbitrary and not worth learning;
- of an animation, the first frame;
- no colour management: the numbers stored are the numbers returned, taken to be sRGB.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from mlic_jax.errors import InputError, LimitError

# What `list_images` takes for an image. `read_image` does not look at the name.
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

# Pillow warns from here on (a "decompression bomb") and refuses twice this; one limit that always refuses is simpler.
MAX_PIXELS = 89_478_485

# Pillow warns of oddities in files; here a file either gives a picture or raises.
warnings.filterwarnings("ignore", module=r"PIL\.")

# What Pillow's decoders raise on damaged files, beyond OSError.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)

_EXIF_ORIENTATION = 0x0112

# What turns the stored array [H, W, ...] upright, by EXIF orientation.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def read_image(path) -> np.ndarray:
    """The image file at `path` as uint8 RGB [H, W, 3], C-contiguous, writeable and upright; see above.

    Raises:
      InputError: no such file, a folder, not an image, damaged or truncated, or of a kind without an 8-bit meaning.
      LimitError: more than `MAX_PIXELS` pixels.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, an image file was expected")
    try:
        with open(path, "rb") as file:
            return _decode(file, str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except PermissionError:
        raise InputError(f"{path}: not readable (permission denied)") from None


def decode_image(data: bytes, name: str = "image") -> np.ndarray:
    """Encoded bytes (PNG, JPEG, ...) as uint8 RGB [H, W, 3]. `name` is what errors call it; otherwise `read_image`."""
    return _decode(io.BytesIO(data), name)


def list_images(folder) -> list[pathlib.Path]:
    """All image files below `folder`, recursively, sorted by their path relative to it; hidden ones are skipped.

    Raises:
      InputError: `folder` is missing, is not a folder, cannot be read, or holds no file with one of `EXTENSIONS`.
    """
    folder = pathlib.Path(folder)
    if not folder.exists():
        raise InputError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file, a folder of images was expected")

    def refuse(error: OSError):
        raise InputError(f"{error.filename}: folder not readable ({error.strerror})")

    paths = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        # macOS leaves hidden `._photo.jpg` files, which are no images, beside the photos.
        paths += [
            pathlib.Path(parent, name)
            for name in files
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    if not paths:
        raise InputError(f"{folder}: no images found; accepted are files ending in {', '.join(EXTENSIONS)}")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


@contextlib.contextmanager
def refusing_damage(name: str, most_pixels: int = MAX_PIXELS):
    """Turns what Pillow's decoders raise, inside, into an InputError or LimitError that begins with `name`."""
    try:
        yield
    except Image.DecompressionBombError:
        raise LimitError(f"{name}: more than {most_pixels} pixels") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{name}: not an image that can be read (PNG, JPEG, WebP, BMP, TIFF, PPM, ...)") from None
    except (FileNotFoundError, PermissionError):
        raise
    except _DAMAGE as error:
        raise InputError(f"{name}: damaged or truncated image ({_one_line(error)})") from None


def open_image(file, name: str, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """A loaded Pillow image of an open file, as it is stored. Raises as `read_image`; errors call it `name`."""
    with refusing_damage(name, most_pixels):
        image = Image.open(file)
    width, height = image.size
    if width * height > most_pixels:
        raise LimitError(f"{name}: {width}x{height} pixels, at most {most_pixels} in all are accepted")
    with refusing_damage(name, most_pixels):
        image.load()
    return image


def upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """The pixels [H, W, ...] of an image, contiguous and turned as its EXIF orientation says."""
    turn = _UPRIGHT.get(_orientation(image))
    return np.ascontiguousarray(turn(pixels) if turn else pixels)


def _decode(file, name: str) -> np.ndarray:
    image = open_image(file, name)
    with refusing_damage(name):
        pixels = _to_rgb(image, name)
    return upright(pixels, image)


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """A loaded Pillow image of any mode as uint8 [H, W, 3], not yet turned upright."""
    if image.mode == "F":
        raise InputError(f"{name}: floating-point pixels; convert the image to 8 or 16 bits per channel")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)  # [H, W]
        if grey.size and (grey.min() < 0 or grey.max() > 65535):
            raise InputError(f"{name}: 32-bit pixels beyond 0..65535; convert the image to 8 or 16 bits per channel")
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    # A photo with a damaged EXIF block is still a photo.
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DAMAGE:
        return 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Image files in: from a path or bytes to 8-bit RGB, or one clear error.

Everything that opens a picture file of somebody else's does it by `open_image`. It imports Pillow and NumPy and nothing
heavier.

What is done to an image on the way in, always the same, so that training and evaluation see the same pixels:
- the EXIF orientation is applied;
- grey, palette, CMYK and YCbCr images become RGB; of 16-bit images v / 257 is kept, rounded;
- transparency is composited on white, since hidden pixels under it are arbitrary and not worth learning;
- of several frames, the first, with a LossWarning;
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

from mlic_jax import extras, runtime
from mlic_jax.data import samples
from mlic_jax.errors import InputError, LimitError, LossWarning, UsageError

# The formats that are opened, by Pillow's names, whatever a file is called. Pillow knows some forty more; among them
# are some that start other programs (PostScript starts Ghostscript), and many that hardly anybody tests.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "TIFF", "GIF", "BMP", "DIB", "PPM", "JPEG2000")
_IN_WORDS = "PNG, JPEG, WebP, AVIF, HEIC, TIFF, GIF, BMP, PPM and JPEG 2000 are"

# What `list_images` takes for an image. `read_image` does not look at the name.
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

# Pillow warns from here on (a "decompression bomb") and refuses twice this; one limit that always refuses is simpler.
MAX_PIXELS = 89_478_485

# Pillow warns of oddities in files; here a file either gives a picture or raises.
warnings.filterwarnings("ignore", module=r"PIL\.")

# What Pillow's decoders raise on damaged files: nearly everything (of AVIF, RuntimeError).
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError,
           AssertionError, RuntimeError, struct.error, zlib.error)  # fmt: skip

_EXIF_ORIENTATION = 0x0112

# Brands of HEIF files coded with HEVC, at byte 8; AVIF, of the same container, is Pillow's own.
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Modes that Pillow converts to RGB; a codec's own pictures must not come from them (`fileformat.modes`).
_OTHER_COLOURS = ("CMYK", "YCbCr", "LAB", "HSV")

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

    Links to folders are followed, except to one that they lie in.

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

    paths, lineage = [], {str(folder): {_identity(folder)}}  # a folder -> itself and all that it lies in
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        above = lineage.pop(parent)
        below = {name: _identity(os.path.join(parent, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name, identity in below.items() if identity not in above]
        lineage |= {os.path.join(parent, name): above | {below[name]} for name in folders}
        # macOS leaves hidden `._photo.jpg` files, which are no images, beside the photos.
        paths += [
            pathlib.Path(parent, name)
            for name in files
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    if not paths:
        raise InputError(f"{folder}: no images found; accepted are files ending in {', '.join(EXTENSIONS)}")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def _identity(folder) -> tuple[int, int] | None:
    """What a folder is, by whatever path; None where it is gone."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def refusing_damage(name: str, most_pixels: int = MAX_PIXELS):
    """Turns what Pillow's decoders raise, inside, into an InputError or LimitError that begins with `name`."""
    try:
        yield
    except Image.DecompressionBombError:
        raise LimitError(f"{name}: more than {most_pixels} pixels") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{name}: not an image that can be read: {_IN_WORDS}") from None
    except (FileNotFoundError, PermissionError):
        raise
    except MemoryError:
        raise LimitError(f"{name}: not enough memory to read the image") from None
    except _DAMAGE as error:
        raise InputError(f"{name}: damaged or truncated image ({_one_line(error)})") from None


def open_image(file, name: str, most_pixels: int = MAX_PIXELS, frame: int | None = None) -> Image.Image:
    """A Pillow image of an open file, of which the header was read. The one place where picture files are opened.

    Args:
      file: seekable, open as long as the image is not loaded.
      name: what errors call it; the image has it as its attribute `called`.
      most_pixels: more are refused.
      frame: which of several frames, from 0 on; None for the first, with a LossWarning where there are more.

    Raises:
      InputError: not of one of FORMATS, damaged, or HEIC without pillow-heif.
      LimitError: too many pixels.
      UsageError: no such frame.
    """
    _prepare_for(file, name)
    with refusing_damage(name, most_pixels):
        image = Image.open(file, formats=[format for format in FORMATS if format in _openable()])
    # Not its filename: Pillow maps the file of that name where it can, and a pipe of that name would be waited for.
    image.called = name
    _check_pixels(image, name, most_pixels)
    image = choose_frame(image, frame, name)
    _check_pixels(image, name, most_pixels)
    return image


def _check_pixels(image: Image.Image, name: str, most_pixels: int) -> None:
    width, height = image.size
    if width * height > most_pixels:
        raise LimitError(f"{name}: {width}x{height} pixels, at most {most_pixels} in all are accepted")


def _openable() -> dict:
    Image.init()
    return Image.OPEN


def _prepare_for(file, name: str) -> None:
    """HEIC is read by a library of its own, which is asked for when there is such a file. Raises InputError."""
    place = file.tell()
    start = file.read(64)
    file.seek(place)
    if start[4:8] != b"ftyp" or start[8:12] not in _HEIC or b"avif" in start:
        return
    try:
        import pillow_heif
    except ImportError:
        raise InputError(f"{name}: {extras.missing('pillow_heif', 'reading HEIC needs')}") from None
    pillow_heif.register_heif_opener()


def read_grey(data: bytes, name: str, most_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An encoded picture as uint8 [H, W], upright: its luma. Raises as `open_image`."""
    return grey_of(open_image(io.BytesIO(data), name, most_pixels), name)


def grey_of(image: Image.Image, name: str = "the image") -> np.ndarray:
    """A Pillow image as uint8 [H, W], upright: its luma, on white where it is transparent. Raises InputError."""
    with refusing_damage(name):
        return upright(np.asarray(Image.fromarray(_to_rgb(image, name)).convert("L")), image)


def choose_frame(image: Image.Image, frame: int | None, name: str) -> Image.Image:
    """The image at one of its frames. None leaves it where it is, and warns where nobody has chosen among several.

    Raises:
      InputError: damaged.
      UsageError: no such frame.
    """
    with refusing_damage(name):
        count = getattr(image, "n_frames", 1)
    if frame is None:
        if count > 1 and image.tell() == 0:
            warn(f"{name}: the first of {count} frames alone is taken; --frame or frame= 0 to {count - 1} chooses one")
        return image
    number = runtime.number(frame)
    if number is None or not 0 <= number < count or number != int(number):
        raise UsageError(f"{name}: frame {frame} is not there, the image has {_count(count)} from 0 on")
    with refusing_damage(name):
        if number != image.tell():
            image.seek(int(number))
    return image


def _count(frames: int) -> str:
    return f"{frames} frame{'s' * (frames > 1)}"


def warn(loss: str) -> None:
    """A LossWarning with these words."""
    warnings.warn(loss, LossWarning, stacklevel=4)


def name_of(image: Image.Image, otherwise: str = "the image") -> str:
    """What messages call an image: what `open_image` was told, or the name of its file."""
    name = getattr(image, "called", None) or getattr(image, "filename", None)
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) and name else otherwise


def orientation_of(image: Image.Image, given: Image.Exif | bytes | None = None) -> int:
    """The orientation 1 to 8 that EXIF given for a loaded image states, or else its own EXIF or XMP; 1 where there is
    none that can be read. Pillow turns TIFFs itself, whatever else is given: 1 for them."""
    # A photo with a damaged EXIF block is still a photo.
    try:
        stated = image.info.get("exif") if given is None else given
        if hasattr(image, "tag_v2"):
            return 1
        if isinstance(stated, Image.Exif):
            return stated.get(_EXIF_ORIENTATION, 1)
        if given is None:
            return image.getexif().get(_EXIF_ORIENTATION, 1)
        tags = Image.Exif()
        tags.load(given)
        return tags.get(_EXIF_ORIENTATION, 1)
    except _DAMAGE:
        return 1


def upright(pixels: np.ndarray, image: Image.Image, given: Image.Exif | bytes | None = None) -> np.ndarray:
    """The pixels [H, W, ...] of an image, contiguous and turned as `orientation_of` says."""
    orientation = orientation_of(image, given)
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return np.ascontiguousarray(turn(pixels) if turn else pixels)


def _decode(file, name: str) -> np.ndarray:
    image = open_image(file, name)
    with refusing_damage(name):
        pixels = _to_rgb(image, name)
        return upright(pixels, image)


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """A Pillow image of any mode as uint8 [H, W, 3], not yet turned upright."""
    try:
        samples.refuse_misread(image)
        array = samples.samples(image.convert("RGB") if image.mode in _OTHER_COLOURS else image)
    except InputError as reason:
        raise InputError(f"{name}: {reason}") from None
    array = to_8_bits(array)
    if array.ndim == 2:
        return np.repeat(array[..., None], 3, axis=-1)
    if array.shape[2] in (2, 4):
        picture = Image.fromarray(array).convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        array = np.asarray(Image.alpha_composite(white, picture))[..., :3]
    return np.array(array)


def to_8_bits(samples: np.ndarray) -> np.ndarray:
    """Samples of bool, uint8 or uint16 as uint8: 0 or 255; as they are; v / 257, rounded."""
    if samples.dtype == bool:
        return samples * np.uint8(255)
    if samples.dtype == np.uint16:
        # (v + 128) // 257 without leaving 16 bits: the largest values give 255 anyway
        return ((np.minimum(samples, 65535 - 128) + np.uint16(128)) // np.uint16(257)).astype(np.uint8)
    return samples


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

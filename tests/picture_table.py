"""docs/pictures.md: what becomes of every kind of picture file, found out by reading one of each.

python tests/picture_table.py        writes the page; tests/test_picture_table.py fails where it would differ
"""

from __future__ import annotations

import io
import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from files import png, tiff, tiff_of
from pictures import exif
from PIL import Image, PngImagePlugin

from mlic_jax.data import images
from mlic_jax.errors import LossWarning, MlicError
from mlic_jax.fileformat import container, modes

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "pictures.md"

RNG = np.random.default_rng(0)


class Row(NamedTuple):
    """A kind of file.

    Attributes:
      format, kind: its first columns.
      make: () -> (content, samples that it holds, upright, or None where a lossy format keeps none exactly).
    """

    format: str
    kind: str
    make: Callable[[], tuple[bytes, np.ndarray | None]]


def saved(array, format, mode=None, **options) -> bytes:
    out = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(out, format, **options)
    return out.getvalue()


def heic(image) -> bytes:
    import pillow_heif

    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=90)
    return out.getvalue()


def noise(depth, *shape):
    return RNG.integers(0, 2**depth, shape).astype(np.uint16 if depth == 16 else np.uint8)


def _png_rows():
    names = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGBA"}
    for channels, name in names.items():
        for depth in (1, 2, 4, 8, 16) if channels == 1 else (8, 16):

            def make(channels=channels, depth=depth):
                array = noise(depth, 8, 8, channels)
                if channels in (2, 4):
                    array[..., -1] |= 1  # where alpha is 0 colours are not kept
                shown = array.astype(int) * ((65535 if depth == 16 else 255) // (2**depth - 1))
                shown = shown.astype(array.dtype)
                return png(array, depth), (array[..., 0].astype(bool) if depth == 1 else shown)

            yield Row("PNG", f"{name}, {depth} bit{'s' * (depth > 1)}", make)
    for channels, depth in ((1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (3, 8), (3, 16)):

        def make(channels=channels, depth=depth):
            array = noise(depth, 8, 8, channels)
            key = tuple(int(value) for value in array[0, 0])
            top = 65535 if depth == 16 else 255
            alpha = np.where((array == key).all(-1, keepdims=True), 0, top)
            shown = np.concatenate([array.astype(int) * (top // (2**depth - 1)), alpha], -1)
            return png(array, depth, key), shown.astype(np.uint16 if depth == 16 else np.uint8)

        yield Row("PNG", f"{names[channels]}, {depth} bit{'s' * (depth > 1)}, a transparent colour", make)

    def palette(key=None):
        colours, array = noise(8, 4, 3), noise(2, 8, 8)
        shown = colours[array]
        if key:
            alpha = np.array([*key, *[255] * (4 - len(key))], np.uint8)[array]
            shown = np.concatenate([shown, alpha[..., None]], -1)
        return png(array, 2, key, palette=colours), shown

    yield Row("PNG", "palette", palette)
    yield Row("PNG", "palette with alpha", lambda: palette(bytes([9, 100])))
    frames = [Image.fromarray(noise(8, 8, 8, 3)) for _ in range(3)]
    yield Row("PNG", "animated", lambda: (_several(frames, "PNG"), np.asarray(frames[0])))
    for words, chunk in (
        ("gamma 1", (b"gAMA", (100000).to_bytes(4, "big"))),
        ("cICP of BT.2020 and PQ", (b"cICP", bytes([9, 16, 0, 1]))),
    ):
        array = noise(8, 8, 8, 3)
        yield Row("PNG", f"RGB, {words}", lambda array=array, chunk=chunk: (png(array, 8, before=[chunk]), array))


def _several(frames, format, **options):
    first, *others = frames
    return saved(first, format, save_all=True, append_images=others, **options)


def _tiff_rows():
    for name, array, more in (
        ("grey, 8 bits", noise(8, 8, 8), {}),
        ("grey, 8 bits, 0 is white", noise(8, 8, 8), {"photometric": 0}),
        ("grey, 16 bits", noise(16, 8, 8), {}),
        ("grey, 16 bits, 0 is white", noise(16, 8, 8), {"photometric": 0}),
        ("RGB, 8 bits", noise(8, 8, 8, 3), {}),
        ("RGB, 16 bits", noise(16, 8, 8, 3), {}),
        ("RGBA, 16 bits", noise(16, 8, 8, 4) | 1, {"tag_338": (3, [2])}),
        ("RGB and a fourth channel that is no alpha, 8 bits", noise(8, 8, 8, 4), {"tag_338": (3, [0])}),
        ("RGB, 16 bits, a plane for each colour", noise(16, 8, 8, 3), {"tag_284": (3, [2])}),
        ("grey, signed bytes", noise(8, 8, 8), {"tag_339": (3, [2])}),
        ("CMYK", noise(8, 8, 8, 4), {"photometric": 5}),
    ):

        def make(name=name, array=array, more=more):
            shown = np.iinfo(array.dtype).max - array if more.get("photometric") == 0 else array
            return tiff_of(array, **more), shown[..., :3] if "no alpha" in name else shown

        yield Row("TIFF", name, make)
    yield Row("TIFF", "grey, 12 bits", lambda: (_of_12_bits(), np.array([[0, 16, 32776, 65535]], np.uint16)))
    yield Row("TIFF", "floating point", lambda: (saved(np.zeros((8, 8), np.float32), "TIFF"), None))
    yield Row("TIFF", "32 bits beyond 65535", lambda: (saved(np.full((8, 8), 70000, np.int32), "TIFF"), None))
    pages = [Image.fromarray(noise(8, 8, 8, 3)) for _ in range(2)]
    yield Row("TIFF", "two pages", lambda: (_several(pages, "TIFF"), np.asarray(pages[0])))
    turned = noise(8, 8, 12, 3)
    yield Row("TIFF", "RGB, orientation 6", lambda: (saved(turned, "TIFF", tiffinfo={274: 6}), np.rot90(turned, -1)))


def _of_12_bits():
    return tiff([(bytes([0x00, 0x00, 0x01, 0x80, 0x0F, 0xFF]), 4, 1, {258: (3, [12]), 262: (3, [1]), 277: (3, [1])})])


def _other_rows():
    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    grey = Image.fromarray(smooth)
    colour = Image.merge("RGB", [grey, grey.rotate(90), grey])
    clear = colour.copy()
    clear.putalpha(grey.point(lambda value: value | 1))
    frames = [colour, colour.rotate(90), colour.rotate(180)]
    for format in ("JPEG", "WebP", "AVIF"):
        lossless = {"lossless": True} if format == "WebP" else {}
        kinds = (("grey", grey), ("RGB", colour), ("RGBA", clear), ("CMYK", colour.convert("CMYK")))
        for name, image in kinds:
            if (format, name) in (
                ("JPEG", "RGBA"),
                ("WebP", "CMYK"),
                ("AVIF", "CMYK"),
                ("WebP", "grey"),
                ("AVIF", "grey"),
            ):
                continue
            shown = np.asarray(image) if lossless else None
            options = lossless
            yield Row(format, name, lambda f=format, i=image, s=shown, o=options: (saved(i, f, **o), s))
        turned = exif(6)
        yield Row(format, "RGB, orientation 6", lambda f=format, t=turned: (saved(colour, f, exif=t), None))
        several = "MPO" if format == "JPEG" else format
        name = "several pictures (MPO, as phones write)" if format == "JPEG" else "animated"
        yield Row(format, name, lambda s=several: (_several(frames, s), None))
    yield Row("HEIC", "RGB", lambda: (heic(colour), None))
    yield Row("HEIC", "RGBA", lambda: (heic(clear), None))
    few = colour.quantize(8)
    yield Row("GIF", "colours", lambda: (saved(few, "GIF"), np.asarray(few.convert("RGB"))))
    yield Row("GIF", "a transparent colour", lambda: (saved(few, "GIF", transparency=3), _keyed(few, 3)))
    yield Row("GIF", "animated", lambda: (_several([one.quantize(8) for one in frames], "GIF"), None))
    for format in ("BMP", "PPM", "JPEG2000"):
        name = "JPEG 2000" if format == "JPEG2000" else format
        for kind, image in (("grey", grey), ("RGB", colour)):
            yield Row(name, kind, lambda f=format, i=image: (saved(i, f), np.asarray(i)))
    wide = noise(16, 8, 8)
    yield Row("PPM", "grey, 16 bits", lambda: (saved(wide, "PPM"), wide))
    black = noise(1, 8, 8).astype(bool)
    yield Row("BMP, PPM", "1 bit", lambda: (saved(black, "PPM"), black))


def _keyed(image, index):
    places = np.asarray(image)
    return np.concatenate([np.asarray(image.convert("RGB")), np.where(places == index, 0, 255)[..., None]], -1).astype(
        np.uint8
    )


def outcome(content: bytes, expected: np.ndarray | None) -> tuple[str, str]:
    """(mode in the file, what comes back of the samples), or ("refused", why)."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            picture = modes.from_pillow(images.open_image(io.BytesIO(content), "the file"))
        except MlicError as reason:
            return "refused", str(reason).removeprefix("the file: ")
    back = modes.to_array(picture.mode, picture.rgb, picture.alpha)
    words = "as decoded"
    if expected is not None:
        expected = expected[..., 0] if expected.ndim == 3 and expected.shape[2] == 1 else expected
        words = _compared(back, expected)
    words += "".join(f"; {container.NAMES[kind].upper()}" for kind in picture.metadata)
    losses = [str(one.message).removeprefix("the file: ") for one in said if one.category is LossWarning]
    losses = list(dict.fromkeys(losses))  # of opening and of reading
    return picture.mode, words + "".join(f". Warning: {loss}" for loss in losses)


def _compared(back, expected) -> str:
    if back.shape != expected.shape or back.dtype != expected.dtype:
        return f"CHANGED: {back.dtype} {back.shape} for {expected.dtype} {expected.shape}"
    if back.ndim == 3 and back.shape[2] in (2, 4) and not np.array_equal(back[..., -1], expected[..., -1]):
        return "CHANGED alpha"
    seen = np.ones(back.shape[:2], bool) if back.ndim == 2 or back.shape[2] == 3 else back[..., -1] > 0
    if np.array_equal(back[seen], expected[seen]):
        return "exact"
    rounded = (expected.astype(int) + 128) // 257 * 257
    if back.ndim == 3 and back.shape[2] in (2, 4):
        rounded[..., -1] = expected[..., -1]
    if np.array_equal(back[seen], rounded[seen]):
        return "colours rounded to 8 bits" + (", alpha exact" if back.ndim == 3 and back.shape[2] in (2, 4) else "")
    return "CHANGED"


def metadata_rows():
    """(format, what is kept of a profile, of EXIF, of XMP, and of 300 dpi), of files that Pillow writes."""
    image = Image.fromarray(noise(8, 16, 16, 3))
    given = {"icc_profile": b"profile" * 50, "exif": exif(1), "xmp": b"<x:xmpmeta/>", "dpi": (300, 300)}
    for format in ("PNG", "JPEG", "WebP", "AVIF", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"):
        words = []
        for name, value in given.items():
            options = {name: value}
            if (format, name) == ("PNG", "xmp"):
                options = {"pnginfo": PngImagePlugin.PngInfo()}
                options["pnginfo"].add(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + value)
            if (format, name) == ("TIFF", "xmp"):
                options = {"tiffinfo": {700: value}}
            picture = modes.from_pillow(images.open_image(io.BytesIO(saved(image, format, **options)), "the file"))
            words.append(", ".join(container.NAMES[kind].upper() for kind in picture.metadata) or "-")
        yield format, *words


def page() -> str:
    """The whole page: its words as they stand, and the tables as they come out."""
    text = PAGE.read_text()
    files = ["| format | what it holds | mode | samples, metadata, warnings |", "|---|---|---|---|"]
    for row in (*_png_rows(), *_other_rows(), *_tiff_rows()):
        mode, words = outcome(*row.make())
        files.append(f"| {row.format} | {row.kind} | {mode.replace(';16', ', 16 bits')} | {words} |")
    kept = ["| format | ICC profile | EXIF | XMP | 300 dpi |", "|---|---|---|---|---|"]
    kept += [f"| {' | '.join(row)} |" for row in metadata_rows()]
    for heading, lines in (("## Files", files), ("## Metadata", kept)):
        before, after = text.split(f"{heading}\n\n")
        rest = after[after.index("\n\n") :] if "\n\n" in after else "\n"
        text = before + f"{heading}\n\n" + "\n".join(lines) + rest
    return text


if __name__ == "__main__":
    PAGE.write_text(page())

"""Fuzzes what opens picture files of others: the reader of `mlic compress`, and that of training.

    python fuzz/picture_files.py SECONDS [SEED]     damaged files of every format that is opened
    python fuzz/picture_files.py --replay FILE...   inputs once more

It needs no atheris: the decoders are C, of which atheris sees nothing. Findings are every exception that is not an
`MlicError`, every child process, and more than ten seconds. An input that is one is written to .cache/fuzz before it is
run, so that one which ends the process is there, too.
"""

from __future__ import annotations

import io
import pathlib
import random
import sys
import time
import warnings
import zlib

import numpy as np
from inputs import damaged
from PIL import Image

from mlic_jax.data import images
from mlic_jax.errors import LossWarning, MlicError
from mlic_jax.fileformat import container, metadata, modes

CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "fuzz"
LONGEST_SECONDS = 10.0
# Where a decoder of C may take memory and time for them: real readers allow more.
MOST_PIXELS = 1 << 22
_CHILDREN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")


class ChildProcess(BaseException):
    """A reader tried to start a program."""


def _watch(event: str, arguments) -> None:
    if event in _CHILDREN:
        raise ChildProcess(event)


def seeds() -> list[bytes]:
    """Files of every format, of many modes and with all that a reader looks at: metadata, frames, keys."""
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    colour, grey = Image.fromarray(rgb), Image.fromarray(rgb[..., 0])
    clear = colour.copy()
    clear.putalpha(grey)
    wide = Image.fromarray(rgb[..., 1].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8825] = 6, "a maker", {1: "N"}
    more = {"exif": exif.tobytes(), "icc_profile": bytes(200), "xmp": b'<x tiff:Orientation="6"/>'}
    found = []

    def add(image, format, **options):
        out = io.BytesIO()
        image.save(out, format, **options)
        found.append(out.getvalue())

    for image in (colour, grey, clear, wide, grey.convert("1"), colour.quantize(7), clear.convert("LA")):
        add(image, "PNG", exif=more["exif"], dpi=(300, 300))
        add(image, "TIFF", compression="tiff_lzw")
        add(image, "TIFF")
    add(grey, "PNG", transparency=7)
    add(colour, "PNG", transparency=(1, 2, 3))
    add(wide, "TIFF", tiffinfo={262: 0, 271: "a maker", 274: 6})
    for format in ("JPEG", "WEBP", "TIFF", "AVIF"):
        add(colour, format, **more)
    add(clear, "WEBP", lossless=True)
    add(colour.convert("CMYK"), "JPEG")
    add(colour, "JPEG", progressive=True)
    for format in ("PNG", "TIFF", "GIF", "WEBP", "MPO", "AVIF"):
        add(colour, format, save_all=True, append_images=[colour.rotate(90), colour.rotate(180)])
    for format in ("BMP", "PPM", "JPEG2000"):
        add(colour, format)
    return found


def resealed(data: bytes) -> bytes:
    """A PNG whose chunks have checksums that fit, as far as it can be followed: damage reaches what is behind them."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        length = int.from_bytes(out[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out)


def run(data: bytes) -> bool:
    """One input; whether it was a picture. Anything but an MlicError goes through."""
    began = time.process_time()
    read = False
    for frame in (None, 1):
        try:
            image = images.open_image(io.BytesIO(data), "picture", MOST_PIXELS, frame)
            picture = modes.from_pillow(image, frame=frame)
            metadata.to_chunks(picture.metadata)
            container.check_size(picture.rgb.shape[1], picture.rgb.shape[0])
            modes.to_pillow(picture.mode, modes.to_array(picture.mode, picture.rgb, picture.alpha))
            read = True
        except MlicError:
            pass
    try:
        if read:
            images.decode_image(data, "picture")
    except MlicError:
        pass
    seconds = time.process_time() - began
    assert seconds < LONGEST_SECONDS, f"{seconds:.1f} seconds for {len(data)} bytes"
    return read


def fuzz(seconds: float, seed: int) -> tuple[int, int]:
    """Runs damaged files for so long; returns how many, and how many of them were pictures still."""
    rng, files = random.Random(seed), seeds()
    CACHE.mkdir(parents=True, exist_ok=True)
    current = CACHE / f"picture-{seed}"
    end, count, read = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        data = damaged(rng, rng.choice(files), rng.choice(files))
        if data.startswith(b"\x89PNG") and rng.random() < 0.7:
            data = resealed(data)
        current.write_bytes(data)
        read += run(data)
        count += 1
    current.unlink()
    return count, read


def main(words: list[str]) -> None:
    warnings.simplefilter("ignore", LossWarning)
    Image.init()
    sys.addaudithook(_watch)
    if words[0] == "--replay":
        for name in words[1:]:
            run(pathlib.Path(name).read_bytes())
        print(len(words) - 1, "inputs without a finding")
        return
    seed = int(words[1]) if words[1:] else 0
    count, read = fuzz(float(words[0]), seed)
    print(f"{count} damaged picture files (seed {seed}), {read} of them still pictures: no finding")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Inputs that are hard on a reader of files: pictures of every kind, damaged files, forged files, bombs.

Tests and benchmarks share them; `target.py` and its corpus are for a fuzzer.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

import google_crc32c
import numpy as np
from PIL import Image

from mlic_jax.fileformat import container
from mlic_jax.fileformat.container import (
    ALPHA,
    DATA,
    EXIF,
    ICC,
    LARGEST_PICTURE,
    LARGEST_SIDE,
    METADATA,
    MODES,
    PAD,
    SIGNATURE,
    XMP,
    Chunk,
)

# ---------------------------------------------------------------------- pictures

KINDS = (
    *("L", "LA", "RGB", "RGBA", "P", "P with transparency", "1", "I;16"),
    *("uint16 of 1", "uint16 of 2", "uint16 of 3", "uint16 of 4"),
)


def picture(kind: str, rgb: np.ndarray) -> Image.Image | np.ndarray:
    """A picture of one of KINDS, a Pillow image or an array uint16 [H, W, C], made of a photo uint8 [H, W, 3].

    Its alpha, where it has one, is 0 in dark places, opaque in bright ones, and follows the photo between.
    """
    image = Image.fromarray(rgb)
    alpha = np.clip(3 * rgb[..., 1].astype(int) - 200, 0, 255).astype(np.uint8)
    if kind.startswith("uint16"):
        samples = np.concatenate([rgb, alpha[..., None]], -1).astype(np.uint16)
        # Low bytes that are not the high ones.
        samples = samples * np.uint16(256) + (samples * np.uint16(7) + np.uint16(3)) % np.uint16(256)
        return samples[..., {"1": [0], "2": [0, 3], "3": [0, 1, 2], "4": [0, 1, 2, 3]}[kind[-1]]]
    if kind in ("LA", "RGBA"):
        image = image.convert(kind[:-1])
        image.putalpha(Image.fromarray(alpha))
        return image
    if kind == "I;16":
        return Image.fromarray(rgb[..., 1].astype(np.uint16) * np.uint16(256) + rgb[..., 0])
    if kind.startswith("P"):
        image = image.quantize(32)
        if kind != "P":
            image.info["transparency"] = 3
        return image
    return image.convert(kind)


def metadata(image: Image.Image) -> None:
    """Gives a picture some EXIF, an ICC profile and XMP."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 1, "words " * 9
    image.info.update(exif=exif.tobytes(), icc_profile=bytes(range(256)), xmp=b"<x:xmpmeta>" + b"words" * 20)


# ---------------------------------------------------------------------- forged files


def crc(data: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


ONE = (Chunk(DATA, b"x" * 40),)
FINGERPRINT = bytes(range(6))
LONGEST = varint((1 << 32) - 1)


def forge(
    width: int = 3,
    height: int = 2,
    chunks: Sequence[Chunk] = ONE,
    *,
    version: int = 1,
    mode: int = 2,
    model: bytes = b"\x02",
    fingerprint: bytes = FINGERPRINT,
    quality: bytes = b"",
    count: bytes | None = None,
    lengths: Sequence[bytes] | None = None,
    tail: bytes = b"",
) -> bytes:
    """A file as a careful forger would write it: any claim, with checksums that fit.

    Args:
      width, height: of 1..32768.
      chunks: what the file holds.
      model, quality, count, lengths: the fields of the header as they stand in it; by default those that fit.
      tail: what follows the last chunk.
    """
    lengths = lengths or [varint(len(chunk.content)) for chunk in chunks]
    more = len(chunks) > 1 or count is not None
    sides = (width - 1) | (height - 1) << 15 | bool(quality) << 30 | more << 31
    head = SIGNATURE + bytes([version << 4 | mode]) + struct.pack("<I", sides) + model + fingerprint + quality
    head += lengths[0]
    if more:
        head += varint(len(chunks) - 1) if count is None else count
        head += b"".join(bytes([chunk.type]) + length for chunk, length in zip(chunks[1:], lengths[1:], strict=True))
    bodies = [chunk.content + crc(bytes([chunk.type]) + chunk.content) for chunk in chunks]
    return head + crc(head) + b"".join(bodies) + tail


def reforged(data: bytes, chunks: Sequence[Chunk] | None = None, **claim) -> bytes:
    """A file with some of `forge`'s claims changed, or with other chunks; its lengths and checksums fit."""
    header, own = container.unpack(data)
    kept = {
        "width": header.width,
        "height": header.height,
        "mode": MODES.index(header.mode),
        "model": varint(header.model_id),
        "fingerprint": header.fingerprint,
        "quality": b"" if header.quality is None else bytes([round(2 * header.quality)]),
    }
    return forge(chunks=own if chunks is None else chunks, **{**kept, **claim})


# ---------------------------------------------------------------------- damage


def damaged(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Data with one to three random changes: bytes, insertions, deletions, exchanges, or a splice with other data."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not mutated:
            break
        at, length = rng.randrange(len(mutated)), rng.choice((1, 1, 2, 4, 4, 16))
        action = rng.randrange(6)
        if action == 0:
            mutated[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            mutated[at : at + length] = rng.randbytes(min(length, len(mutated) - at))
        elif action == 2:
            mutated[at:at] = rng.randbytes(length)
        elif action == 3:
            del mutated[at : at + length]
        elif action == 4:
            to = rng.randrange(len(mutated))
            mutated[at : at + length], mutated[to : to + length] = mutated[to : to + length], mutated[at : at + length]
        else:
            mutated[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(mutated)


def damaged_inside(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A file with damage in one chunk, or with another claim about the picture. Lengths and checksums fit."""
    header, chunks = container.unpack(data)
    if rng.randrange(4) == 0:
        sides = {"width": header.width, "height": header.height}
        side = rng.choice(("width", "height"))
        sides[side] = rng.choice((1, 2, 64, 65, 4096, 5000, 30000, 32768, rng.randint(1, 200), sides[side] + 64))
        if rng.randrange(4) == 0:
            sides = {"width": rng.randint(1, 32768), "height": rng.randint(1, 6000)}
        sides["mode"] = rng.choice((MODES.index(header.mode), MODES.index(header.mode), rng.randrange(9)))
        # Padded where it has to be: a claim that the header's own limits refuse reaches nothing.
        missing = sides["width"] * sides["height"] // container.PIXELS_PER_BYTE - len(data)
        return reforged(data, [*chunks, Chunk(PAD, bytes(missing))] if missing > 0 else chunks, **sides)
    place = rng.choice((0, rng.randrange(len(chunks))))
    _, others = container.unpack(other)
    # In whole words, half of the time: the entropy decoder refuses streams of other lengths at once.
    content = damaged(rng, chunks[place].content, rng.choice(others).content)
    if place == 0 and rng.random() < 0.5:
        content += bytes(-len(content) % 4)
    return reforged(data, [*chunks[:place], Chunk(chunks[place].type, content), *chunks[place + 1 :]])


def header(rng: random.Random, files: Sequence[bytes]) -> tuple[bytes, int]:
    """A header, random or like that of a file, and the length that its file should have; half have a CRC that fits."""
    kind = rng.randrange(3)
    if kind == 0:
        head = SIGNATURE + rng.choice((b"\x12", rng.randbytes(1))) + rng.randbytes(rng.randrange(60))
    elif kind == 1:
        data = bytearray(rng.choice(files)[:40])
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(3, len(data))] = rng.randrange(256)
        head = bytes(data[: rng.randrange(4, len(data) + 1)])
    else:
        extreme = (0, 1, 127, 128, 200, 255)
        more, has_quality = rng.randrange(2), rng.randrange(2)
        head = SIGNATURE + bytes([rng.choice((0x10, 0x11, 0x12, 0x13, 0x14, 0x18, 0x19, 0x22))])
        head += struct.pack("<I", rng.getrandbits(30) >> rng.randrange(30) | has_quality << 30 | more << 31)
        head += varint(rng.choice((1, 2, 3, rng.randrange(1 << 16), 1 << 16))) + rng.randbytes(6)
        head += bytes([rng.choice(extreme)]) * has_quality + varint(rng.getrandbits(32) >> rng.randrange(33))
        if more:
            count = rng.choice((0, 1, 2, 3, 255, 256))
            head += varint(count)
            for _ in range(rng.choice((count, rng.randrange(count + 1)))):
                head += bytes([rng.choice((0, 1, 2, 128, 129, 130, 131, 200))]) + varint(rng.getrandbits(9))
    if rng.randrange(2):
        head += crc(head)
    return head, rng.choice((len(head), len(head) + rng.randrange(1 << rng.randrange(1, 33))))


# ---------------------------------------------------------------------- bombs


def zeros(mebibytes: int) -> bytes:
    """So many MiB of zeros as a zlib stream, made without having them all at once."""
    stream = zlib.compressobj(9)
    return b"".join(stream.compress(bytes(1 << 20)) for _ in range(mebibytes)) + stream.flush()


def dictionary() -> bytes:
    """A zlib stream that needs a preset dictionary."""
    stream = zlib.compressobj(9, zdict=b"abc")
    return stream.compress(b"abcabc") + stream.flush()


HUGE = dict(width=LARGEST_SIDE, height=LARGEST_PICTURE // LARGEST_SIDE)
PADDING = Chunk(PAD, bytes(LARGEST_PICTURE // container.PIXELS_PER_BYTE))


def bombs(forge: Callable[..., bytes] = forge) -> dict[str, Callable[[], bytes]]:
    """Small files that claim much, each made by a function; `forge` names the model that they are for."""

    def with_alpha(content, mode=3, **claim):
        return forge(mode=mode, chunks=(*ONE, *ONE, Chunk(ALPHA, content), PADDING), **claim)

    def with_metadata(*chunks):
        return forge(chunks=(*ONE, *ONE, *chunks))

    def with_data(content, width=30000, height=5000):
        return forge(width, height, chunks=(Chunk(DATA, content),))

    noise = random.Random(0).randbytes
    return {
        "largest picture in a few bytes": lambda: forge(**HUGE),
        "all 30 bits of size": lambda: forge(32768, 32768),
        "32768 squared, padded": lambda: forge(32768, 32768, chunks=(*ONE, Chunk(PAD, bytes(20000)))),
        "data of 4 GiB": lambda: forge(lengths=[LONGEST]),
        "length of many bytes": lambda: forge(lengths=[b"\xff" * 100_000]),
        "255 chunks of 4 GiB": lambda: forge(chunks=ONE * 256, lengths=[LONGEST] * 256),
        "table that is missing": lambda: forge(count=b"\xff\x01"),
        "padding of 4 GiB": lambda: forge(chunks=(*ONE, Chunk(PAD, b"")), lengths=[varint(40), LONGEST]),
        "unknown critical of 4 GiB": lambda: forge(chunks=(*ONE, Chunk(99, b"")), lengths=[varint(40), LONGEST]),
        "255 profiles": lambda: with_metadata(*[Chunk(ICC, zlib.compress(bytes(1000)))] * 254),
        "profile of 128 MiB": lambda: with_metadata(Chunk(ICC, zeros(128))),
        "exif of 64 MiB": lambda: with_metadata(Chunk(EXIF, zeros(64))),
        "xmp of 9 MiB": lambda: with_metadata(Chunk(XMP, zeros(9))),
        "24 MiB of metadata": lambda: with_metadata(*(Chunk(type, zeros(8)) for type in METADATA)),
        "stored metadata of 9 MiB": lambda: with_metadata(Chunk(ICC, bytes(9 << 20))),
        "compressed twice": lambda: with_metadata(Chunk(ICC, zlib.compress(zeros(128)) + b"x")),
        "preset dictionary": lambda: with_metadata(Chunk(ICC, dictionary())),
        "alpha of 128 MiB for 6 pixels": lambda: with_alpha(b"\0" + zeros(128)),
        "alpha of 16 bits, 128 MiB": lambda: with_alpha(b"\3" + zeros(128), mode=8),
        "largest alpha in a few bytes": lambda: with_alpha(b"\0" + zlib.compress(bytes(5000)), **HUGE),
        "alpha of an unknown predictor": lambda: with_alpha(b"\xff" * 100, **HUGE),
        "constant alpha of half a sample": lambda: with_alpha(b"\4\xff", mode=8, **HUGE),
        "alpha that does not end": lambda: with_alpha(b"\0" + zlib.compress(bytes(6))[:-5]),
        "two streams of alpha": lambda: with_alpha(b"\0" + zlib.compress(bytes(6)) + zeros(64)),
        "largest picture, no data": lambda: forge(chunks=(Chunk(DATA, b""), Chunk(DATA, b""), PADDING), **HUGE),
        "largest picture of noise": lambda: with_data(noise(4000), **HUGE),
        "30000x5000 of noise": lambda: with_data(noise(2400)),
        "30000x5000 of zeros": lambda: with_data(bytes(2400)),
        "30000x5000 of ones": lambda: with_data(b"\xff" * 2400),
        "30000x5000 of one word": lambda: with_data(noise(4) * 600),
        "one row of noise": lambda: with_data(noise(40), 32768, 1),
        "one column of noise": lambda: with_data(noise(40), 1, 32768),
    }

"""Writes the seeds of fuzz/corpus: small valid inputs of all entry points, and the damage that was thought of.

    python fuzz/make_corpus.py

What a long run found beside them is added by hand: see README.md.
"""

from __future__ import annotations

import hashlib
import io
import pathlib
import sys
import zlib

import numpy as np
from PIL import Image

from mlic_jax.fileformat import alpha, container
from mlic_jax.fileformat.container import Chunk, Header

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import target

FOLDER = pathlib.Path(__file__).parent / "corpus"
FILE, BESIDE, READ, WRITE = range(4)


def files():
    """Whole files: every mode, every chunk type, and what is wrong by one."""
    rng = np.random.default_rng(0)
    for i, mode in enumerate(container.MODES):
        chunks = [Chunk(container.DATA, rng.bytes(8))]
        if container.has_alpha(mode):
            chunks.append(Chunk(container.ALPHA, b"\4" + bytes(container.bit_depth(mode) // 8)))
        yield container.pack(Header(i + 1, bytes(range(6)), 3, 4, mode, i * 12.5 if i % 2 else None), chunks)
    everything = [Chunk(0, b"abcd"), Chunk(0, b""), *(Chunk(kind, zlib.compress(b"x")) for kind in (128, 129, 130))]
    whole = container.pack(Header(65535, b"\xff" * 6, 7, 9, "RGB", 50.0), [*everything, Chunk(200, b"?")])
    yield whole
    yield container.pack(Header(2, bytes(6), 32768, 5461, "RGB"), [Chunk(0, b"abcd")])  # the largest, with padding
    plain = container.pack(Header(3, bytes(6), 64, 64), [Chunk(0, b"12345678")])
    yield plain
    yield plain + b"\0"
    yield plain[:-1]
    for place, value in ((0, 0x8C), (3, 0x20), (3, 0x1F), (7, 0x80), (7, 0xFF), (4, 0xFF), (8, 0), (15, 0x80), (15, 9)):
        changed = bytearray(plain)
        changed[place] = value
        yield bytes(changed)
    for old, new in ((whole[16:18], b"\x84\0"), (b"\x06\0", b"\x00"), (b"\xc8", b"\x05"), (b"\x81", b"\x80")):
        yield whole.replace(old, new, 1)
    yield plain.replace(b"\x03\0\0\0\0\0\0", b"\x83\0\0\0\0\0\0\0", 1)  # a varint with a superfluous byte


def beside():
    """mode, height - 1, width - 1, content."""
    rng = np.random.default_rng(1)
    for mode in range(len(container.MODES)):
        depth = max(8, container.bit_depth(container.MODES[mode]))
        dtype = np.uint8 if depth == 8 else np.uint16
        y, x = np.mgrid[:5, :7]
        for samples in (np.full((5, 7), 200), 9 * x, 11 * y, 5 * x * y, rng.integers(0, 1 << depth, (5, 7))):
            yield bytes([mode, 4, 6]) + alpha.encode(samples.astype(dtype))
        yield bytes([mode, 4, 6, 1]) + rng.bytes(5 * 7 * depth // 8)
        yield bytes([mode, 4, 6, 3]) + zlib.compress(bytes(5 * 7 * depth // 8 + 1))
    image, exif = Image.new("L", (1, 1)), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    for endian in ("<", ">"):
        exif.endian = endian
        yield bytes([1, 255, 0]) + exif.tobytes()
    yield bytes([1, 0, 0]) + exif.tobytes().removeprefix(b"Exif\0\0")
    out = io.BytesIO()
    image.save(out, "TIFF")
    yield bytes([0, 10, 0]) + out.getvalue()
    yield bytes([2, 255, 0]) + b"<x:xmpmeta tiff:Orientation='6'/>"
    yield bytes([0, 255, 0]) + zlib.compress(bytes(1 << 16))[:-2]


def symbols():
    """Flags, three sizes, stride of the rows, then a stream or symbols."""
    rng = np.random.default_rng(2)
    for flags in range(16):
        for sizes in ((0, 0, 0), (3, 2, 3), (68, 1, 0)):
            start = bytes([flags, *sizes, int(rng.integers(256))])
            for content in (b"\1" + rng.integers(-2, 3, 40).astype(np.int8).tobytes(), b"\0" + rng.bytes(80)):
                yield WRITE, start + rng.bytes(2) + content
            models, rows, limit, _ = target._latent_of(start)
            encoder = target.rangecoder.Encoder()
            most = 2 if limit is None else min(limit, 200)
            encoder.write(rng.integers(-most, most + 1, rows.shape).astype(np.int32), rows, models, limit)
            yield READ, start + encoder.finish()
        yield READ, start + rng.bytes(4 * flags)
        yield READ, start + b"\xff" * 4 * flags  # points behind the last entry
        yield READ, start + bytes(flags)  # not always whole words


def main():
    FOLDER.mkdir(exist_ok=True)
    inputs = [*((FILE, file) for file in files()), *((BESIDE, content) for content in beside()), *symbols()]
    for entry, content in inputs:
        content = bytes([entry]) + content
        (FOLDER / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    sizes = [file.stat().st_size for file in FOLDER.iterdir()]
    print(f"{len(inputs)} seeds; {FOLDER} holds {len(sizes)} files of {sum(sizes)} bytes together")


if __name__ == "__main__":
    main()

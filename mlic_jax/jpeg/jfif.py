"""Baseline JPEG files, written and read: for learning, and for checking the layer against. NumPy only.

    FFD8  FFE0 "JFIF"  FFDB tables  FFC0 size, sampling  FFC4 Huffman codes  FFDA  scan  FFD9

The bytes that `encode` writes are those of libjpeg, and so of Pillow; so are the pixels that `decode` reads. Read are
8-bit baseline files of one interleaved scan, grey or YCbCr with 4:4:4 or 4:2:0 sampling; everything else (progressive
scans, arithmetic codes, 12 bits, restart intervals) is refused by name.

Sources: ITU-T T.81, Annexes B and F; E. Hamilton, "JPEG file interchange format, version 1.02" (1992).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from mlic_jax import errors
from mlic_jax.jpeg import arithmetic, huffman, scan
from mlic_jax.jpeg.blocks import SUBSAMPLINGS, Coefficients, pad_to_mcus
from mlic_jax.jpeg.tables import NATURAL, ZIGZAG, quantisation_tables

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_APP0 = bytes.fromhex("4a46494600 0101 00 0001 0001 0000")  # "JFIF", version 1.1, square pixels, no thumbnail
_OTHER_FRAMES = {0xC1: "extended sequential", 0xC2: "progressive", 0xC3: "lossless", 0xC9: "arithmetic-coded"}


class Jpeg(NamedTuple):
    """What a file holds."""

    height: int
    width: int
    tables: np.ndarray  # int32 [1 or 2, 8, 8]: the steps for luma and, of colour, chroma
    coefficients: Coefficients  # int32 [rows, columns, 8, 8] for each component, in steps


def encode(image: np.ndarray, quality: int, subsampling: str = "4:2:0", huffman: str = "default") -> bytes:
    """uint8 [H, W, 1 or 3] -> the bytes of the file that libjpeg writes (`huffman` "optimised": optimize=True).

    Raises:
      UsageError: an image, quality, subsampling or code of another kind.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise errors.UsageError(
            f"JPEG: the image must be uint8 [H, W, 1 or 3], got {image.dtype} of shape {list(image.shape)}"
        )
    return write(analyse(image, quantisation_tables(quality), subsampling), huffman)


def decode(data: bytes) -> np.ndarray:
    """A baseline file -> uint8 [H, W, 1 or 3]. Raises CorruptStreamError where `read` does."""
    return synthesise(read(data))


def analyse(image: np.ndarray, tables: np.ndarray, subsampling: str = "4:2:0") -> Jpeg:
    """uint8 [H, W, 1 or 3] and integers [2, 8, 8] -> its quantised coefficients; grey keeps the first table alone.

    Raises:
      UsageError: an unknown subsampling.
    """
    if subsampling not in SUBSAMPLINGS:
        raise errors.UsageError(f"JPEG: subsampling is {subsampling!r}; possible are {', '.join(SUBSAMPLINGS)}")
    height, width, channels = image.shape
    tables = np.asarray(tables, np.int32)[: 1 if channels == 1 else 2]
    image = image.astype(np.int32)
    planes = [image[..., 0]] if channels == 1 else arithmetic.rgb_to_ycbcr(image)
    factor = 2 if channels == 3 and subsampling == "4:2:0" else 1
    if factor == 2:
        planes[1:] = [arithmetic.downsample(plane) for plane in planes[1:]]
    coefficients = []
    for index, plane in enumerate(planes):
        rows, columns = (-(-side // 8) for side in plane.shape)
        eighths = arithmetic.dct8(arithmetic.to_blocks(arithmetic.pad_edge(plane, 8 * rows, 8 * columns)) - 128)
        step = 8 * tables[min(index, 1)]
        steps = np.sign(eighths) * ((np.abs(eighths) + step // 2) // step)  # halves away from zero
        coefficients.append(pad_to_mcus(steps, 1 if index else factor))
    return Jpeg(height, width, tables, Coefficients(*coefficients))


def synthesise(jpeg: Jpeg) -> np.ndarray:
    """Quantised coefficients -> uint8 [H, W, 1 or 3]."""
    height, width = jpeg.height, jpeg.width
    is_420 = jpeg.coefficients.subsampling == "4:2:0"
    planes = []
    for index, component in enumerate(jpeg.coefficients.components):
        samples = arithmetic.idct(component.astype(np.int64) * jpeg.tables[min(index, 1)]) + 128
        plane = np.clip(arithmetic.from_blocks(samples), 0, 255)
        if index and is_420:
            plane = arithmetic.upsample(plane[: -(-height // 2), : -(-width // 2)], height, width)
        planes.append(plane[:height, :width])
    image = planes[0][..., None] if len(planes) == 1 else arithmetic.ycbcr_to_rgb(*planes)
    return np.clip(image, 0, 255).astype(np.uint8)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _header(jpeg: Jpeg, codes: tuple[huffman.Code, ...]) -> bytes:
    """Everything before the scan."""
    count = len(jpeg.coefficients.components)
    sampling = 0x22 if jpeg.coefficients.subsampling == "4:2:0" else 0x11
    parts = [SOI, _segment(0xE0, _APP0)]
    for identity, table in enumerate(jpeg.tables):
        parts.append(_segment(0xDB, bytes([identity]) + table.reshape(64)[ZIGZAG].astype(np.uint8).tobytes()))
    frame = struct.pack(">BHHB", 8, jpeg.height, jpeg.width, count)
    for index in range(count):
        frame += bytes([index + 1, 0x11 if index else sampling, min(index, 1)])
    parts.append(_segment(0xC0, frame))
    for number, code in enumerate(codes):
        chroma, is_ac = divmod(number, 2)
        parts.append(_segment(0xC4, bytes([16 * is_ac + chroma, *code.counts]) + code.symbols))
    components = b"".join(bytes([index + 1, 0x11 * min(index, 1)]) for index in range(count))
    parts.append(_segment(0xDA, bytes([count]) + components + bytes([0, 63, 0])))
    return b"".join(parts)


def write(jpeg: Jpeg, huffman: str = "default") -> bytes:
    """Quantised coefficients -> a file.

    Raises:
      UsageError: sides above 65500, another number of blocks than the sides need, tables that are not integers from 1
        to 255 for each kind of component, coefficients too large for baseline files, or an unknown `huffman`.
    """
    if not 1 <= min(jpeg.height, jpeg.width) <= max(jpeg.height, jpeg.width) <= 65500:
        raise errors.UsageError(f"JPEG: the image is {jpeg.width}x{jpeg.height}; sides must be from 1 to 65500")
    count, is_420 = len(jpeg.coefficients.components), jpeg.coefficients.subsampling == "4:2:0"
    grid = tuple((2 if is_420 else 1) * -(-side // (16 if is_420 else 8)) for side in (jpeg.height, jpeg.width))
    if jpeg.coefficients.y.shape != (*grid, 8, 8):
        raise errors.UsageError(
            f"JPEG: {jpeg.width}x{jpeg.height} needs luma of shape {[*grid, 8, 8]}, "
            f"got {list(jpeg.coefficients.y.shape)}"
        )
    is_integer = np.issubdtype(jpeg.tables.dtype, np.integer)
    if jpeg.tables.shape != (min(count, 2), 8, 8) or not is_integer or jpeg.tables.min() < 1 or jpeg.tables.max() > 255:
        raise errors.UsageError(f"JPEG: quantisation tables must be integers from 1 to 255, [{min(count, 2)}, 8, 8]")
    stream = scan.tokens(jpeg.coefficients)
    codes = scan.codes_for(stream, huffman)
    return _header(jpeg, codes) + scan.encode(stream, codes) + EOI


def header_bytes(jpeg: Jpeg, huffman: str = "default") -> int:
    """Bytes of its file outside the scan, end marker included; with Annex K's codes 330 for grey, 625 for colour."""
    codes = scan.codes_for(scan.tokens(jpeg.coefficients), huffman)
    return len(_header(jpeg, codes)) + len(EOI)


class _Reader:
    """Walks the segments of a file and keeps what they define."""

    def __init__(self, data: bytes):
        self.data = bytes(data)
        self.tables, self.codes = {}, {}
        self.frame = None

    def fail(self, what: str):
        raise errors.CorruptStreamError(f"JPEG: {what}")

    def segment(self, position: int) -> tuple[int, bytes, int]:
        """(marker, body, position after it)."""
        while self.data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        head = self.data[position : position + 4]
        if len(head) < 4:
            self.fail(f"the file of {len(self.data)} bytes is cut short")
        if head[0] != 0xFF or not 0xC0 <= head[1] <= 0xFE or 0xD0 <= head[1] <= 0xD9:
            self.fail(f"a marker segment is expected at byte {position}, found {head[:2].hex()}")
        end = position + 2 + int.from_bytes(head[2:], "big")
        if end < position + 4 or end > len(self.data):
            self.fail(f"the segment at byte {position} does not fit the file of {len(self.data)} bytes")
        return head[1], self.data[position + 4 : end], end

    def define_tables(self, body: bytes):
        if len(body) % 65 or not body:
            self.fail(f"a segment of 8-bit quantisation tables has {len(body)} bytes, which is no multiple of 65")
        for start in range(0, len(body), 65):
            values = np.frombuffer(body, np.uint8, 64, start + 1)
            if body[start] > 3 or not values.all():
                self.fail("a quantisation table is not one of four 8-bit ones, or has a step of 0")
            self.tables[body[start]] = values[NATURAL].reshape(8, 8).astype(np.int32)

    def define_codes(self, body: bytes):
        while body:
            counts = tuple(body[1:17])
            symbols = body[17 : 17 + sum(counts)]
            if len(counts) < 16 or body[0] & 0xEC:
                self.fail("a Huffman table is cut short, or not one of eight")
            self.codes[body[0]] = huffman.lookup(huffman.Code(counts, symbols)).tolist()
            body = body[17 + len(symbols) :]

    def define_frame(self, body: bytes):
        if self.frame or len(body) < 6 or len(body) != 6 + 3 * body[5]:
            self.fail("the frame header has a wrong size, or is the second one")
        precision, height, width, count = struct.unpack_from(">BHHB", body)
        components = [tuple(body[start : start + 3]) for start in range(6, len(body), 3)]
        sampling = [component[1] for component in components]
        if precision != 8 or not height or not width or count not in (1, 3):
            self.fail(
                f"{count} components of {precision} bits, {width}x{height}: only 8 bits, grey or colour, are read"
            )
        if count == 3 and (sampling[1:] != [0x11, 0x11] or sampling[0] not in (0x11, 0x22)):
            self.fail(f"its sampling is {'/'.join(f'{factors:02x}' for factors in sampling)}; read are 4:2:0 and 4:4:4")
        self.frame = height, width, components

    def scan_header(self, body: bytes) -> list[tuple[list[int], list[int]]]:
        """The Huffman codes of each component, in the frame's order."""
        if self.frame is None:
            self.fail("the scan comes before the frame header")
        components = self.frame[2]
        wanted = 4 + 2 * len(components)
        if len(body) != wanted or body[0] != len(components) or tuple(body[-3:]) != (0, 63, 0):
            self.fail("the scan is not one of all components and coefficients, as baseline files that are read have")
        codes = []
        for index, (identity, _, table) in enumerate(components):
            name, choice = body[1 + 2 * index : 3 + 2 * index]
            dc, ac = self.codes.get(choice >> 4), self.codes.get(0x10 | choice & 15) if choice & 15 < 4 else None
            if name != identity or dc is None or ac is None or choice >> 4 > 3 or table not in self.tables:
                self.fail("the scan refers to a component or table that is not defined")
            codes.append((dc, ac))
        return codes

    def read(self) -> Jpeg:
        if self.data[:2] != SOI:
            self.fail("this is no JPEG file: it does not begin with FFD8")
        position = 2
        while True:
            marker, body, position = self.segment(position)
            if marker == 0xDB:
                self.define_tables(body)
            elif marker == 0xC4:
                self.define_codes(body)
            elif marker == 0xC0:
                self.define_frame(body)
            elif marker == 0xDD:
                if body != b"\x00\x00":
                    self.fail("the file has restart intervals, which this reader does not know")
            elif marker == 0xDA:
                return self.read_scan(self.scan_header(body), position)
            elif not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                kind = _OTHER_FRAMES.get(marker, f"of a kind (marker FF{marker:02X})")
                self.fail(f"the file is {kind}; only baseline files are read")

    def read_scan(self, codes, start: int) -> Jpeg:
        end = start
        while True:
            end = self.data.find(b"\xff", end)
            if end < 0 or end + 1 >= len(self.data):
                self.fail("the file is cut short: it has no end marker")
            if self.data[end + 1]:
                break
            end += 2
        if self.data[end : end + 2] != EOI:
            self.fail(
                f"the scan is interrupted by a marker FF{self.data[end + 1]:02X}; one scan without restarts is read"
            )
        height, width, components = self.frame
        factor = 2 if len(components) == 3 and components[0][1] == 0x22 else 1
        layout = [0] * factor**2 + [1, 2] if len(components) == 3 else [0]
        rows, columns = (-(-side // (8 * factor)) for side in (height, width))
        data = self.data[start:end].replace(b"\xff\x00", b"\xff")
        mcus = scan.decode(data, layout, rows * columns, codes)
        tables = [self.tables[component[2]] for component in components]
        if len(tables) == 3 and not np.array_equal(tables[1], tables[2]):
            self.fail("Cb and Cr have different quantisation tables, which this reader does not know")
        luma = mcus[:, : factor**2].reshape(rows, columns, factor, factor, 8, 8).swapaxes(1, 2)
        chroma = [mcus[:, -index].reshape(rows, columns, 8, 8) for index in (2, 1) if len(components) == 3]
        coefficients = Coefficients(luma.reshape(factor * rows, factor * columns, 8, 8), *chroma)
        return Jpeg(height, width, np.stack(tables[:2]), coefficients)


def read(data: bytes) -> Jpeg:
    """A baseline file -> its coefficients and tables.

    A scan must end where the last block does; whatever follows the end marker is ignored.

    Raises:
      CorruptStreamError: no JPEG, cut short, damaged, or of a kind that this reader does not know, which is named.
    """
    return _Reader(data).read()

"""Integer coefficients to the bits of a baseline scan and back: runs, sizes, Huffman codes. NumPy only.

Of a block, in zigzag order, the DC coefficient is coded as its difference from that of the component's block before,
every other that is not 0 along with the number of zeros before it. A number's Huffman symbol tells its size, n bits for
magnitudes 2^(n-1) to 2^n - 1, and n plain bits follow: the number, or the number - 1 modulo 2^n if it is negative.
Source: ITU-T T.81, Annex F.1.2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlic_jax import errors
from mlic_jax.jpeg.blocks import Coefficients, to_mcus
from mlic_jax.jpeg.huffman import Code, build, code_words
from mlic_jax.jpeg.tables import HUFFMAN, ZIGZAG

HUFFMANS = ("default", "optimised")
END_OF_BLOCK, ZERO_RUN = 0x00, 0xF0  # no more non-zeros; sixteen zeros and no number
MAX_DC_BITS, MAX_AC_BITS = 11, 10  # of baseline JPEG with 8-bit samples

# Huffman tables are numbered 2 * (component is chroma) + (0 for DC, 1 for AC).
DEFAULT_CODES = tuple(Code(*HUFFMAN[chroma][kind]) for chroma in (0, 1) for kind in (0, 1))


class Tokens(NamedTuple):
    """A scan as symbols in order, all [N]: which table codes it, which symbol, and the bits that follow it."""

    table: np.ndarray
    symbol: np.ndarray
    extra: np.ndarray
    extra_bits: np.ndarray


def mcu_components(coefficients: Coefficients) -> list[int]:
    """The component, 0 to 2, of each block of an MCU: one block of each, or four of luma for 4:2:0."""
    count = len(coefficients.components)
    if count == 1:
        return [0]
    return [0] * (4 if coefficients.subsampling == "4:2:0" else 1) + [1, 2]


def tokens(coefficients: Coefficients) -> Tokens:
    """Coefficients of one image, integers [rows, columns, 8, 8] -> the symbols of its scan.

    Raises:
      UsageError: not integers, or too large for baseline JPEG.
    """
    layout = mcu_components(coefficients)
    by_mcu = []
    for index, component in enumerate(coefficients.components):
        component = np.asarray(component)
        if not np.issubdtype(component.dtype, np.integer) or component.ndim != 4:
            raise errors.UsageError(
                "JPEG: a scan needs integer coefficients [rows, columns, 8, 8], got "
                f"{component.dtype} of shape {list(component.shape)}"
            )
        by_mcu.append(to_mcus(component, 2 if layout.count(index) == 4 else 1).astype(np.int64))
    blocks = np.concatenate(by_mcu, axis=1).reshape(-1, 64)[:, ZIGZAG]  # [N, 64]
    component = np.tile(layout, len(blocks) // len(layout))
    first = np.zeros(len(blocks), np.int64)
    for index in set(layout):
        first[component == index] = np.diff(blocks[component == index, 0], prepend=0)

    block, place = np.nonzero(blocks[:, 1:])
    place += 1
    same = np.diff(block, prepend=-1) == 0
    run = place - 1 - np.where(same, np.roll(place, 1), 0)
    long = np.repeat(np.arange(len(run)), run // 16)  # one entry for each sixteen zeros
    last = np.zeros(len(blocks), np.int64)
    np.maximum.at(last, block, place)
    ended = np.flatnonzero(last < 63)

    value = np.concatenate([first, np.zeros(len(long), np.int64), blocks[block, place], np.zeros_like(ended)])
    size = np.frexp(np.abs(value))[1].astype(np.int64)
    is_ac = np.arange(len(value)) >= len(first)
    if np.any(size > np.where(is_ac, MAX_AC_BITS, MAX_DC_BITS)):
        raise errors.UsageError(f"JPEG: coefficients of up to {np.abs(value).max()} are too large for a baseline file")
    zeros = [np.zeros_like(first), np.full_like(long, ZERO_RUN), 16 * (run % 16), np.full_like(ended, END_OF_BLOCK)]
    owner = np.concatenate([np.arange(len(blocks)), block[long], block, ended])
    position = np.concatenate([np.zeros_like(first), 2 * place[long], 2 * place + 1, np.full_like(ended, 128)])
    order = np.argsort(129 * owner + position, kind="stable")
    table = 2 * (component[owner] > 0) + is_ac
    extra = np.where(value < 0, value + (1 << size) - 1, value)
    return Tokens(table[order], (np.concatenate(zeros) + size)[order], extra[order], size[order])


def codes_for(stream: Tokens, huffman: str = "default") -> tuple[Code, ...]:
    """The two Huffman codes of a grey image or the four of a colour one: Annex K's, or those made for these symbols.

    Raises:
      UsageError: another name than "default" and "optimised".
    """
    if huffman not in HUFFMANS:
        raise errors.UsageError(f"JPEG: huffman is {huffman!r}; possible are {', '.join(HUFFMANS)}")
    count = 4 if np.any(stream.table > 1) else 2
    if huffman == "default":
        return DEFAULT_CODES[:count]
    return tuple(build(np.bincount(stream.symbol[stream.table == table], minlength=256)) for table in range(count))


def _words(stream: Tokens, codes: tuple[Code, ...]) -> tuple[np.ndarray, np.ndarray]:
    values, lengths = (np.stack(arrays) for arrays in zip(*(code_words(code) for code in codes)))
    return values[stream.table, stream.symbol], lengths[stream.table, stream.symbol]


def scan_bits(coefficients: Coefficients, *, huffman: str = "default") -> np.ndarray:
    """The exact number of bits of the scans of a batch, without stuffing and padding (0.2 to 0.4 % of a file).

    Args:
      coefficients: integers [B, rows, columns, 8, 8] for each component.
      huffman: "default" for the codes of Annex K, "optimised" for codes made for each image.

    Returns:
      int64 [B].

    Raises:
      UsageError: floats (see `quantised`), coefficients too large, an unknown code.
    """
    bits = []
    for image in zip(*coefficients.components):
        stream = tokens(Coefficients(*image))
        _, lengths = _words(stream, codes_for(stream, huffman))
        bits.append(int(lengths.sum() + stream.extra_bits.sum()))
    return np.array(bits, np.int64)


def quantised(coefficients: Coefficients) -> Coefficients:
    """What `simulate` returns -> int32 NumPy arrays as a file holds them: rounded, halves away from zero."""

    def nearest(z):  # as `rounding.half_away`, which says why it adds 1e-4
        z = np.asarray(z, np.float64)
        return (np.sign(z) * np.floor(np.abs(z) + (0.5 + 1e-4))).astype(np.int32)

    return Coefficients(*(nearest(component) for component in coefficients.components))


def encode(stream: Tokens, codes: tuple[Code, ...]) -> bytes:
    """The scan's bytes: padded with ones, and a zero after each byte 255, which would look like a marker."""
    values, lengths = _words(stream, codes)
    values, lengths = (values << stream.extra_bits) | stream.extra, lengths + stream.extra_bits
    ends = np.cumsum(lengths)
    word = np.repeat(np.arange(len(values)), lengths)  # for each bit
    bits = (values[word] >> (ends[word] - 1 - np.arange(len(word)))) & 1
    padding = np.ones(-len(bits) % 8, np.int64)
    return np.packbits(np.concatenate([bits, padding]).astype(np.uint8)).tobytes().replace(b"\xff", b"\xff\x00")


def decode(data: bytes, layout: list[int], mcus: int, tables: list[tuple[list[int], list[int]]]) -> np.ndarray:
    """A scan's bytes -> integers [mcus, blocks of an MCU, 64] in natural order.

    Args:
      data: without stuffing.
      layout: the component of each block of an MCU.
      mcus: how many there are.
      tables: `huffman.lookup` of the DC and the AC code of each component, as lists.

    Raises:
      CorruptStreamError: bits that no code begins with, runs past a block's end, too few bits or too many.
    """
    total = 8 * len(data)
    blocks = mcus * len(layout)
    if total < 2 * blocks:
        raise errors.CorruptStreamError(
            f"JPEG: {len(data)} bytes are too few for {blocks} blocks: the file is cut short"
        )
    # The 40 bits from each byte on hold, after up to 7 bits, any code and the bits that follow it. What lies behind the
    # end is enough for one block.
    octets = np.frombuffer(data + bytes(260), np.uint8).astype(np.int64)
    windows = sum(octets[offset : len(octets) - 4 + offset] << (32 - 8 * offset) for offset in range(5)).tolist()
    places, numbers = [], []
    predictions = [0] * len(tables)
    position = 0
    for number in range(blocks):
        component = layout[number % len(layout)]
        dc_table, ac_table = tables[component]
        base = 64 * number
        place = 0
        while place < 64:
            bits = (windows[position >> 3] >> (8 - (position & 7))) & 0xFFFFFFFF
            entry = (ac_table if place else dc_table)[bits >> 16]
            symbol, length = entry >> 5, entry & 31
            size = symbol & 15 if place else symbol
            if not length or size > (MAX_AC_BITS if place else MAX_DC_BITS):
                raise errors.CorruptStreamError(f"JPEG: the scan is damaged before bit {position}")
            position += length + size
            value = (bits >> (32 - length - size)) & ((1 << size) - 1)
            if size and value < 1 << (size - 1):
                value -= (1 << size) - 1
            if place == 0:
                value = predictions[component] = predictions[component] + value
            elif symbol == END_OF_BLOCK:
                break
            else:
                place += symbol >> 4
                if place > 63 or (size == 0 and symbol != ZERO_RUN):
                    raise errors.CorruptStreamError(f"JPEG: the scan is damaged before bit {position}")
            if value:
                places.append(base + place)
                numbers.append(value)
            place += 1
        if position > total:
            raise errors.CorruptStreamError(f"JPEG: the scan ends in block {number} of {blocks}: the file is cut short")
    if total - position > 7:
        raise errors.CorruptStreamError(f"JPEG: {total - position} bits are left after the last block")
    if numbers and max(map(abs, numbers)) > 2047:
        raise errors.CorruptStreamError(
            "JPEG: the scan is damaged: a coefficient is larger than 8-bit samples can give"
        )
    result = np.zeros((blocks, 64), np.int32)
    block, place = np.divmod(np.array(places, np.int64), 64)
    result[block, ZIGZAG[place]] = numbers
    return result.reshape(mcus, len(layout), 64)

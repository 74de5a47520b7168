"""Picture files made byte by byte, of kinds that no writer at hand makes. They follow the formats' specifications."""

import struct
import zlib

import numpy as np

# Colour types of PNG by the number of channels.
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def png(samples, depth, key=None, before=(), after=(), palette=None, interlace=False):
    """A PNG file.

    Args:
      samples: whole numbers [H, W] or [H, W, 1 to 4], below 2 ** depth; places in the palette, if there is one.
      depth: bits a sample.
      key: the transparent colour, as a number for each channel; or bytes, the alpha of a palette.
      before, after: chunks (name, content) before and behind the pixels.
      palette: uint8 [colours, 3].
      interlace: whether pixels are stored in Adam7's order.
    """
    samples = np.atleast_3d(np.asarray(samples))
    height, width, channels = samples.shape
    colour_type = _COLOUR_TYPES[channels] if palette is None else 3
    out = b"\x89PNG\r\n\x1a\n"
    out += chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlace))
    out += b"".join(chunk(*one) for one in before)
    if palette is not None:
        out += chunk(b"PLTE", np.asarray(palette, np.uint8).tobytes())
    if key is not None:
        out += chunk(b"tRNS", key if isinstance(key, bytes) else struct.pack(f">{len(key)}H", *key))
    passes = [samples]
    if interlace:
        starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        passes = [samples[row::down, column::right] for row, column, down, right in starts]
    rows = b"".join(b"\0" + _packed(row, depth) for one in passes if one.size for row in one)
    out += chunk(b"IDAT", zlib.compress(rows)) + b"".join(chunk(*one) for one in after)
    return out + chunk(b"IEND", b"")


def _packed(row, depth):
    values = row.reshape(-1)
    if depth == 16:
        return values.astype(">u2").tobytes()
    bits = (values[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def tiff(pages, order="<"):
    """A TIFF file without compression.

    Args:
      pages: (pixels as bytes, width, height, {tag: (type, values)}) each; type 1, 2, 3, 4 or 5: bytes, text, numbers of
        16 and 32 bits, pairs.
      order: "<" or ">".
    """
    out = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    link = 4  # where the place of the next directory is to be written
    for pixels, width, height, page_tags in pages:
        strip = len(out)
        out += pixels + bytes(len(pixels) % 2)
        entries = {
            256: (4, [width]), 257: (4, [height]), 259: (3, [1]), 273: (4, [strip]), 278: (4, [height]),
            279: (4, [len(pixels)]), **page_tags,
        }  # fmt: skip
        if 273 in page_tags:  # places of several strips, from the first one's
            entries[273] = (4, [strip + place for place in page_tags[273][1]])
        stored = {}
        for tag, (kind, values) in sorted(entries.items()):
            if kind in (1, 2):
                content = bytes(values)
                count = len(content)
            elif kind == 5:
                content = struct.pack(f"{order}{2 * len(values)}I", *sum(map(tuple, values), ()))
                count = len(values)
            else:
                content = struct.pack(f"{order}{len(values)}{'HI'[kind - 3]}", *values)
                count = len(values)
            if len(content) > 4:
                place = len(out)
                out += content + bytes(len(content) % 2)
                content = struct.pack(f"{order}I", place)
            stored[tag] = struct.pack(f"{order}HHI", tag, kind, count) + content.ljust(4, b"\0")
        out[link : link + 4] = struct.pack(f"{order}I", len(out))
        out += struct.pack(f"{order}H", len(stored)) + b"".join(stored.values())
        link = len(out)
        out += bytes(4)
    return bytes(out)


def tiff_of(array, order="<", photometric=None, deflated=False, **more):
    """A TIFF of one page from an array uint8 or uint16 [H, W] or [H, W, C]; `more` as tag_262=(3, [0])."""
    array = np.asarray(array)
    channels = array.shape[2] if array.ndim == 3 else 1
    bits = 8 * array.dtype.itemsize
    tags = {
        258: (3, [bits] * channels),
        262: (3, [(2 if channels > 2 else 1) if photometric is None else photometric]),
        277: (3, [channels]),
        **{int(name.removeprefix("tag_")): value for name, value in more.items()},
    }
    pixels = array.astype(array.dtype.newbyteorder(order)).tobytes()
    if deflated:
        pixels, tags[259] = zlib.compress(pixels), (3, [8])
    return tiff([(pixels, array.shape[1], array.shape[0], tags)], order)

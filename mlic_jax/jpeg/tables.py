"""The constants of baseline JPEG: quantisation tables and their scaling, zigzag order, Huffman codes. NumPy only.

Sources: ITU-T T.81 (1992), Annex K.1 (quantisation tables), K.3 (Huffman codes) and Figure A.6 (zigzag); the scale from
1 to 100 is that of the Independent JPEG Group's library, which all but a few encoders use.
"""

from __future__ import annotations

import numpy as np

from mlic_jax import errors

LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA = np.full((8, 8), 99)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def quantisation_tables(quality: int) -> np.ndarray:
    """int32 [2, 8, 8], luma and chroma: the steps that libjpeg uses at `quality`, 1 (coarse) to 100 (all ones).

    Raises:
      UsageError: a quality that is no whole number from 1 to 100.
    """
    if not isinstance(quality, (int, np.integer)) or isinstance(quality, bool) or not 1 <= quality <= 100:
        raise errors.UsageError(f"JPEG: quality is {quality!r}; it must be a whole number from 1 to 100")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((np.stack([LUMA, CHROMA]) * percent + 50) // 100, 1, 255).astype(np.int32)


ALL_TABLES = np.stack([quantisation_tables(quality) for quality in range(1, 101)])  # int32 [100, 2, 8, 8]


def _zigzag() -> np.ndarray:
    """int64 [64]: 8 * row + column in the order of transmission; even anti-diagonals are walked upwards."""

    def place(position):
        row, column = divmod(position, 8)
        diagonal = row + column
        return diagonal, row if diagonal % 2 else column

    return np.array(sorted(range(64), key=place))


ZIGZAG = _zigzag()
NATURAL = np.argsort(ZIGZAG)  # [64]: where in zigzag order a place of the block is

# Annex K.3: how many codes have 1 to 16 bits, and their symbols in order of code. DC symbols are size categories; AC
# symbols are 16 * (zeros before) + size category.
_DC_SYMBOLS = bytes(range(12))
_AC_LUMA_SYMBOLS = bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a43"
    "4445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2"
    "b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
)
_AC_CHROMA_SYMBOLS = bytes.fromhex(
    "000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a"
    "434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9"
    "aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)
# (lengths, symbols) by [component is chroma][0 for DC, 1 for AC]
HUFFMAN = (
    (
        ((0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0), _DC_SYMBOLS),
        ((0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125), _AC_LUMA_SYMBOLS),
    ),
    (
        ((0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0), _DC_SYMBOLS),
        ((0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119), _AC_CHROMA_SYMBOLS),
    ),
)

"""The arithmetic of libjpeg between pixels and coefficients, written once for integers and for floats.

Every step of libjpeg is a sum of samples with integer weights, a bias, and a shift to the right. Given an integer array
the functions below do just that, and what they give equals libjpeg's to the last bit. Given floats they leave bias
and rounding out: the smooth function whose gradient stands for the integer one's. NumPy and JAX arrays both do
(int32 never overflows on what an image can give; a reader of other people's files takes int64).

Sources, for weights, biases and the order of steps: libjpeg-turbo 3, jccolor.c, jcsample.c, jfdctint.c, jidctint.c,
jdsample.c, jdcolor.c. The transform is that of Loeffler, Ligtenberg and Moschytz, "Practical fast 1-D DCT algorithms
with 11 multiplications" (1989), with factors of 13 bits; sums of integers do not depend on their order, so its
butterflies are equal to the one matrix that they multiply with.
"""

from __future__ import annotations

import numpy as np

# Weights of 16 bits: a row each for Y, Cb, Cr out of R, G, B. Rows of chroma sum to 0, that of luma to 2^16.
_TO_YCBCR = ((19595, 38470, 7471), (-11058, -21710, 32768), (32768, -27439, -5329))
_RED_OF_CR, _BLUE_OF_CB, _GREEN_OF_CB, _GREEN_OF_CR = 91881, 116130, -22554, -46802


def _is_integer(x) -> bool:
    return np.issubdtype(x.dtype, np.integer)


def _shift(total, bits: int, bias=None):
    """total / 2^bits: rounded to integers after adding `bias` (a half by default), or as it is for floats."""
    if not _is_integer(total):
        return total / 2**bits
    return (total + ((1 << bits) // 2 if bias is None else bias)) >> bits


def rgb_to_ycbcr(image):
    """[..., 3] R, G, B in 0..255 -> list of Y, Cb, Cr, each [...] in 0..255, full range as JFIF has it."""
    planes = []
    for component, weights in enumerate(_TO_YCBCR):
        total = sum(image[..., channel] * weight for channel, weight in enumerate(weights))
        planes.append(_shift(total, 16) if component == 0 else _shift(total + (128 << 16), 16, bias=(1 << 15) - 1))
    return planes


def ycbcr_to_rgb(luma, cb, cr):
    """Three of [...] -> [..., 3], not yet clipped to 0..255."""
    cb, cr = cb - 128, cr - 128
    red = luma + _shift(cr * _RED_OF_CR, 16)
    green = luma + _shift(cb * _GREEN_OF_CB + cr * _GREEN_OF_CR, 16)
    blue = luma + _shift(cb * _BLUE_OF_CB, 16)
    return luma.__array_namespace__().stack([red, green, blue], -1)


def pad_edge(plane, rows: int, columns: int):
    """[..., h, w] -> [..., rows, columns]: the last row and column repeated."""
    height, width = plane.shape[-2:]
    if (height, width) == (rows, columns):
        return plane
    widths = [(0, 0)] * (plane.ndim - 2) + [(0, rows - height), (0, columns - width)]
    return plane.__array_namespace__().pad(plane, widths, mode="edge")


def downsample(plane):
    """[..., h, w] -> [..., ceil(h / 2), 8 ceil(w / 16)]: means of 2x2, odd columns rounded up, even ones down at ties.

    Columns are repeated to the end of a block before, as libjpeg does it, and rows after (by the caller).
    """
    height, width = plane.shape[-2:]
    plane = pad_edge(plane, height + height % 2, -(-width // 16) * 16)
    total = plane[..., ::2, ::2] + plane[..., ::2, 1::2] + plane[..., 1::2, ::2] + plane[..., 1::2, 1::2]
    return _shift(total, 2, bias=1 + np.arange(total.shape[-1], dtype=np.int32) % 2)


def upsample(plane, height: int, width: int):
    """[..., ceil(h / 2), ceil(w / 2)] -> [..., h, w]: each sample is 3/4 of the nearer and 1/4 of the farther one.

    Only what the image covers may be passed, since the outermost samples are repeated. Like libjpeg it repeats
    all samples instead where the image is four or fewer pixels wide.
    """
    xp = plane.__array_namespace__()
    if plane.shape[-1] <= 2:
        return xp.repeat(xp.repeat(plane, 2, axis=-2), 2, axis=-1)[..., :height, :width]
    near = xp.concatenate([plane[..., :1, :], plane, plane[..., -1:, :]], -2)
    rows = xp.stack([3 * plane + near[..., :-2, :], 3 * plane + near[..., 2:, :]], -2)
    rows = rows.reshape(*plane.shape[:-2], -1, plane.shape[-1])[..., :height, :]
    near = xp.concatenate([rows[..., :1], rows, rows[..., -1:]], -1)
    both = [_shift(3 * rows + near[..., :-2], 4, bias=8), _shift(3 * rows + near[..., 2:], 4, bias=7)]
    return xp.stack(both, -1).reshape(*rows.shape[:-1], -1)[..., :width]


def to_blocks(plane):
    """[..., 8 r, 8 c] -> [..., r, c, 8, 8]."""
    *batch, height, width = plane.shape
    return plane.reshape(*batch, height // 8, 8, width // 8, 8).swapaxes(-3, -2)


def from_blocks(blocks):
    """[..., r, c, 8, 8] -> [..., 8 r, 8 c]."""
    *batch, rows, columns, _, _ = blocks.shape
    return blocks.swapaxes(-3, -2).reshape(*batch, rows * 8, columns * 8)


def _dct_matrix() -> np.ndarray:
    frequency, place = np.ogrid[:8, :8]
    return np.sqrt(np.where(frequency == 0, 1, 2) / 8) * np.cos((2 * place + 1) * frequency * np.pi / 16)


DCT = _dct_matrix()  # float64 [8, 8], orthonormal: coefficients of a column of samples x are DCT @ x


def _integer_dct_matrix() -> np.ndarray:
    """int64 [8, 8]: 2^13 sqrt(8) DCT, up to the error of the eleven rounded factors of which each entry is a sum."""
    factor = {name: round(value * 2**13) for name, value in _FACTORS.items()}
    a, b, c, d, e = (factor[name] for name in "abcde")
    low, high = factor["low"] + factor["even"], factor["even"] - factor["high"]
    even = np.array(
        [[2**13] * 4, [low, factor["even"], -factor["even"], -low], [2**13, -(2**13), -(2**13), 2**13],
         [factor["even"], high, -high, -factor["even"]]]
    )  # fmt: skip
    # Of the differences of samples 0 and 7, 1 and 6, 2 and 5, 3 and 4.
    odd = np.array(
        [[factor["7"] - a - d + e, e, e - d, e - a], [e, factor["6"] - b - c + e, e - b, e - c],
         [e - d, e - b, factor["5"] - b - d + e, e], [e - a, e - c, e, factor["4"] - a - c + e]]
    )  # fmt: skip
    matrix = np.empty((8, 8), np.int64)
    matrix[::2] = np.hstack([even, even[:, ::-1]])
    matrix[1::2] = np.hstack([odd, -odd[:, ::-1]])
    return matrix


_FACTORS = {
    "even": 0.541196100, "low": 0.765366865, "high": 1.847759065,
    "a": 0.899976223, "b": 2.562915447, "c": 1.961570560, "d": 0.390180644, "e": 1.175875602,
    "4": 0.298631336, "5": 2.053119869, "6": 3.072711026, "7": 1.501321110,
}  # fmt: skip
_INTEGER_DCT = _integer_dct_matrix()


def _product(matrix, blocks):
    """matrix @ block for each of [..., 8, 8], in the blocks' dtype."""
    return _along_rows(blocks.swapaxes(-1, -2), matrix).swapaxes(-1, -2)


def _along_rows(blocks, matrix):
    """block @ matrix.T for each of [..., 8, 8], in the blocks' dtype."""
    matrix = matrix.T.astype(blocks.dtype)
    if isinstance(blocks, np.ndarray):
        return blocks @ matrix
    # Matrix units would otherwise round factors to 8 or 11 bits: one flipped coefficient costs a block 20 dB.
    return blocks.__array_namespace__().matmul(blocks, matrix, precision="highest")


def dct8(blocks):
    """[..., 8, 8] of samples less 128 -> 8 times their orthonormal DCT."""
    if not _is_integer(blocks):
        return 8 * _product(DCT, _along_rows(blocks, DCT))
    rows = _shift(_along_rows(blocks, _INTEGER_DCT), 11)
    return _shift(_product(_INTEGER_DCT, rows), 15)


def idct(blocks):
    """[..., 8, 8] of dequantised coefficients -> samples less 128, not yet clipped."""
    if not _is_integer(blocks):
        return _product(DCT.T, _along_rows(blocks, DCT.T))
    columns = _shift(_product(_INTEGER_DCT.T, blocks), 11)
    return _shift(_along_rows(columns, _INTEGER_DCT.T), 18)

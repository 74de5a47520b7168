"""Lossless coding of one plane of samples: alpha.

A byte that names a predictor, then one zlib stream of the residuals in raster order, modulo the sample's range; of 16
bits, the high bytes of the whole plane before the low ones. Samples outside the plane count as 0. All predictors are
linear, so that residuals and their inverse are differences and sums along the axes.

    0  none        r = v                          1  left      r = v - left
    2  up          r = v - up                     3  gradient  r = v - left - up + upper left

Or the byte 4, and one sample (1 or 2 bytes, big endian) which is that of the whole plane: most alpha is opaque.
"""

from __future__ import annotations

import zlib

import numpy as np

from mlic_jax.errors import CorruptStreamError
from mlic_jax.fileformat import container

# The axes along which a predictor takes differences.
_AXES = ((), (1,), (0,), (0, 1))
_CONSTANT = 4
# Predictors are compared on so many samples from the middle of the plane.
_COMPARED = 1 << 20
# No deflate stream expands further.
_MOST_EXPANSION = 1032


def _residuals(plane: np.ndarray, predictor: int) -> bytes:
    for axis in _AXES[predictor]:
        plane = np.diff(plane, axis=axis, prepend=np.zeros_like(plane[:1] if axis == 0 else plane[:, :1]))
    if plane.dtype == np.uint8:
        return plane.tobytes()
    return (plane >> 8).astype(np.uint8).tobytes() + plane.astype(np.uint8).tobytes()


def encode(plane: np.ndarray) -> bytes:
    """A plane uint8 or uint16 [H, W] as bytes, by the predictor that suits it best."""
    if (plane == plane[0, 0]).all():
        return bytes([_CONSTANT]) + int(plane[0, 0]).to_bytes(plane.itemsize, "big")
    rows = max(1, _COMPARED // plane.shape[1])
    middle = plane[max(0, (plane.shape[0] - rows) // 2) :][:rows]
    best = min(range(len(_AXES)), key=lambda predictor: len(zlib.compress(_residuals(middle, predictor), 6)))
    return bytes([best]) + zlib.compress(_residuals(plane, best), 9)


def decode(content: bytes, height: int, width: int, depth: int) -> np.ndarray:
    """The plane [H, W] that `encode` was given, of depth 8 (uint8) or 16 (uint16) bits; it may be read-only.

    Raises CorruptStreamError or LimitError where the content is damaged or of another size; nothing larger than the
    plane is made.
    """
    if len(content) == 1 + depth // 8 and content[0] == _CONSTANT:
        value = int.from_bytes(content[1:], "big")
        # A view: what follows may refuse the file, and until then a few bytes should not make megabytes.
        return np.broadcast_to(np.array(value, np.uint8 if depth == 8 else np.uint16), (height, width))
    size = height * width * (depth // 8)
    predictor = content[0] if content else len(_AXES)
    if predictor >= len(_AXES) or len(content) * _MOST_EXPANSION < size:
        raise CorruptStreamError(f"the alpha chunk is damaged: {len(content)} bytes for {width}x{height} samples")
    samples = container.inflate(content[1:], size, "alpha chunk")
    if len(samples) != size:
        raise CorruptStreamError(f"the alpha chunk is damaged: {len(samples)} bytes of samples, {size} are needed")
    plane = np.frombuffer(samples, np.uint8)
    if depth == 16:
        high, low = plane.reshape(2, -1)
        plane = high.astype(np.uint16) << 8 | low
    plane = plane.reshape(height, width)
    for axis in _AXES[predictor]:
        plane = np.cumsum(plane, axis=axis, dtype=plane.dtype)
    return plane

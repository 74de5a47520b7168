"""A standard codec inside a model: its own files, and where there is one its differentiable form (mlic_jax.jpeg)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax import classical, jpeg
from mlic_jax.errors import UsageError
from mlic_jax.layers.windows import to_float

# Standard codecs that there is a differentiable form of: name -> (chroma subsampling, Huffman codes).
DIFFERENTIABLE = {
    "jpeg": ("4:2:0", "default"),
    "jpeg-optimised": ("4:2:0", "optimised"),
    "jpeg444": ("4:4:4", "default"),
}
# Bytes that a callback is given at a time. XLA copies more than 100 kB by a thread of its pool, for which the callback
# would wait; on one core it is the only thread, and waits for the callback.
_PART = 1 << 16
# What a bit is worth in squared error at quality 20, for a picture that JPEG codes in full size: measured by trying
# (a pre-editor gains most with 300 times bits per pixel beside the mean squared error in steps of 8 bits). It grows
# with the square of the quantiser's step.
_WORTH, _WORTH_AT = 300.0, 250.0


def table_scale(quality):
    """libjpeg's factor of its quantisation tables in percent: quality 1..100 -> 5000..0 (Annex K's are 50)."""
    return jnp.where(quality < 50, 5000 / jnp.maximum(quality, 1.0), 200 - 2 * quality)


def condition_of(codec: str, quality: jax.Array) -> jax.Array:
    """How networks are told the quality: about -1..1, growing with the strength of quantisation; float [B]."""
    quality = jnp.asarray(quality, jnp.float32)
    if codec in DIFFERENTIABLE:
        return jnp.log2(jnp.maximum(table_scale(quality), 1.0) / 250) / 2
    return (50 - quality) / 50


def worth_of_a_bit(quality: jax.Array, scale: int) -> jax.Array:
    """The squared error, in steps of 8 bits, at which JPEG itself trades a bit per pixel; float [B].

    A picture that is coded smaller has scale^2 times fewer bits to spend for each pixel.
    """
    return _WORTH * scale**2 * (table_scale(jnp.asarray(quality, jnp.float32)) / _WORTH_AT) ** 2


def real_codec(codec: str, image: jax.Array, quality: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A standard codec's own encoder and decoder, called from a jitted program on the host; no gradient.

    Args:
      codec: name in mlic_jax.classical.
      image: uint8 [B, h, w, c].
      quality: float [B].

    Returns:
      What its files decode to, uint8 [B, h, w, c], and their sizes in bits, float32 [B].
    """

    def run(quality, *parts):
        return on_host(codec, np.concatenate([np.asarray(part) for part in parts]).reshape(image.shape), quality)

    shapes = (jax.ShapeDtypeStruct(image.shape, jnp.uint8), jax.ShapeDtypeStruct(image.shape[:1], jnp.float32))
    flat = image.reshape(-1)
    parts = [flat[i : i + _PART] for i in range(0, flat.size, _PART)]
    return jax.pure_callback(run, shapes, quality, *parts)


def on_host(codec: str, image: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `real_codec`, for NumPy arrays."""
    coded = [through(codec, one, float(q)) for one, q in zip(np.asarray(image), np.asarray(quality), strict=True)]
    return np.stack([decoded for _, decoded in coded]), np.array([8 * len(data) for data, _ in coded], np.float32)


def through(codec: str, image: np.ndarray, quality: float) -> tuple[bytes, np.ndarray]:
    """One picture uint8 [h, w, c] as a standard codec's file, and what that decodes to."""
    data = classical.get(codec).encode(three_channels(image), float(quality))
    return data, received(codec, data, image.shape[-1])


def received(codec: str, data: bytes, channels: int) -> np.ndarray:
    """uint8 [h, w, channels] of a standard codec's file."""
    decoded = classical.get(codec).decode(data)
    return decoded if channels == 3 else decoded[..., :1]


def three_channels(image: np.ndarray) -> np.ndarray:
    """[h, w, 1 or 3] -> [h, w, 3]."""
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def simulated(codec: str, image: jax.Array, quality: jax.Array, rounding: str, keys=None):
    """JPEG in JAX: float [B, h, w, c] in [0, 1] -> (the same decoded, bits [B]), both with gradients."""
    subsampling, huffman = DIFFERENTIABLE[codec]
    clip = "none" if rounding == "noise" else "hard"
    decoded, coefficients = jpeg.simulate(
        image * 255, quality.astype(jnp.int32), subsampling=subsampling, rounding=rounding, clip=clip, key=keys
    )
    return decoded / 255, jpeg.rate(coefficients, huffman=huffman)


def check_range(model: str, codec: str, channels: int, low: int, high: int) -> None:
    """Raises UsageError for an unknown standard codec, channels other than 1 or 3, or qualities out of order."""
    if codec not in classical.CODECS:
        raise UsageError(f"{model}: codec {codec!r} is not known: use one of {', '.join(classical.CODECS)}")
    if channels not in (1, 3):
        raise UsageError(f"{model}: channels={channels!r}: pictures have 1 (grey) or 3")
    if not (type(low) is int and type(high) is int and 1 <= low <= high <= 100):
        raise UsageError(f"{model}: qualities {low!r} to {high!r} are no range of whole numbers within 1 to 100")


def with_channels(image: jax.Array, channels: int) -> jax.Array:
    """uint8 [B, H, W, 3] -> float [B, H, W, channels] in [0, 1]; grey is JPEG's luma, rounded to 8 bits."""
    image = to_float(image)
    if channels == 3:
        return image
    luma = image @ jnp.array([0.299, 0.587, 0.114], jnp.float32)
    return jnp.round(luma * 255)[..., None] / 255

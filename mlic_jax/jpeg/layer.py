"""JPEG as a function with gradients: what libjpeg makes of an image, in JAX.

    image -> 8 bits -> YCbCr -> chroma 2x2 -> DCT / table -> ROUNDING -> x table, IDCT -> chroma x2 -> RGB -> decoded
                                                   \\-> coefficients (for the rate)

Every arrow but ROUNDING is libjpeg's integer arithmetic (`arithmetic`), with the gradient of the same step in real
numbers. ROUNDING, the step that loses information, has no useful gradient of its own: several surrogates are known.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax import errors
from mlic_jax.jpeg import arithmetic
from mlic_jax.jpeg.blocks import SUBSAMPLINGS, Coefficients, pad_to_mcus
from mlic_jax.jpeg.rounding import INTEGER, ROUNDINGS, straight_through
from mlic_jax.jpeg.tables import ALL_TABLES

CLIPS = ("hard", "soft", "none")
SLOPE_OUTSIDE = 1e-3  # of clip="soft" (Reich et al. 2024)


def simulate(
    image: jax.Array,
    quality: jax.Array | int | None = None,
    *,
    subsampling: str = "4:2:0",
    rounding: str = "ste",
    clip: str = "hard",
    key: jax.Array | None = None,
    tables: tuple[jax.Array, jax.Array] | None = None,
    integers: bool = True,
) -> tuple[jax.Array, Coefficients]:
    """Encodes to JPEG and decodes, without the file in between.

    With rounding "hard", "ste" or "ste_cubic" the result is, sample by sample, what Pillow (libjpeg-turbo) decodes
    from the file that it writes. What coefficients go through instead of, or along with, their rounding, z being the
    coefficient over its step and r its rounding (halves away from zero):

    | rounding | forward | gradient | source |
    |---|---|---|---|
    | "hard" | r | 0 | |
    | "ste" | r | 1 | Bengio, Leonard and Courville 2013; Theis et al. 2017 |
    | "cubic" | r + (z - r)^3 | 3 (z - r)^2 | Shin and Song, "JPEG-resistant adversarial images" (2017) |
    | "ste_cubic" | r | 3 (z - r)^2 | Reich et al., "Differentiable JPEG: the devil is in the details" (2024) |
    | "noise" | z + U(-1/2, 1/2) | 1 | Balle, Laparra and Simoncelli 2017 |
    | "sin" | z - sin(2 pi z) / (2 pi) | 1 - cos(2 pi z) | Korus and Memon 2019 |
    | "fourier" | z - sum_k<=10 (-1)^(k+1) sin(2 pi k z) / (k pi) | its own | Xing, Qian and Chen 2021 |
    | "soft" | floor z + 1/2 + tanh(5 t) / (2 tanh 5/2), t = z - floor z - 1/2 | its own | Agustsson and Theis 2020 |

    "ste" suits networks on both sides of a codec; "noise" is the choice for networks before it alone, which learn to
    fool the other surrogates. "cubic", "ste_cubic" and "sin" have no gradient at integers, and so hardly any at
    the zeros that most coefficients are rounded to.

    Args:
      image: float32 [B, H, W, C] in 0..255, C = 1 (grey) or 3 (RGB), of any size. It is rounded to the 8 bits of which
        a file is made, straight-through.
      quality: libjpeg's, 1 to 100: a whole number, or integers [B], one for each example. May be traced; values
        beyond 1..100 are then the nearest of them.
      subsampling: "4:2:0" or "4:4:4"; does not matter for grey.
      rounding: a name of `ROUNDINGS`.
      clip: "hard", or "soft" for a gradient of 1e-3 where a sample is clipped, or "none": decoded samples stay as they
        are, beyond 0..255 too. With "noise" only that is harmless: its errors are as large where JPEG's are none, and
        a network that is judged behind a clip learns to hide them in black and white.
      key: for "noise": one PRNG key, or one for each example.
      tables: in place of a quality, the steps for luma and chroma, each [8, 8] or [B, 8, 8]. They are rounded
        straight-through to integers from 1 to 255, so that they can be learnt. Only the first counts for grey.
      integers: False leaves all roundings out but that of the coefficients: a function that can be differentiated by
        differences, but 40 to 55 dB away from libjpeg's result.

    Returns:
      decoded: float32 [B, H, W, C] in 0..255; integers in value unless `integers` is False.
      coefficients: `Coefficients` before rounding, [B, rows, columns, 8, 8] for each component. `rate` takes them.

    Raises:
      UsageError: anything else.
    """
    image = _check_image(image)
    _check_choices(subsampling, rounding, clip)
    batch, height, width, channels = image.shape
    steps = _steps_of(quality, tables, batch)
    keys = _check_keys(key, batch) if rounding == "noise" else None
    stages = _Stages(rounding, clip, integers)
    factor = 2 if channels == 3 and subsampling == "4:2:0" else 1

    image = stages.to_8_bits(image)
    planes = [image[..., 0]] if channels == 1 else stages.exactly(arithmetic.rgb_to_ycbcr, image)
    if factor == 2:
        planes[1:] = [stages.exactly(arithmetic.downsample, plane) for plane in planes[1:]]
    steps = [steps[:, min(index, 1), None, None] for index in range(channels)]  # each [B, 1, 1, 8, 8]
    coefficients = [stages.analyse(plane) / (8 * step) for plane, step in zip(planes, steps)]
    rounded = stages.rounded(coefficients, keys)
    coefficients = [pad_to_mcus(z, 1 if index else factor) for index, z in enumerate(coefficients)]
    samples = [stages.synthesise(z * step) for z, step in zip(rounded, steps)]
    samples[0] = samples[0][:, :height, :width]
    samples[1:] = [plane[:, : -(-height // factor), : -(-width // factor)] for plane in samples[1:]]
    if factor == 2:
        samples[1:] = [stages.exactly(lambda x: arithmetic.upsample(x, height, width), x) for x in samples[1:]]
    decoded = samples[0][..., None] if channels == 1 else stages.to_rgb(samples)
    return decoded, Coefficients(*coefficients)


class _Stages:
    """The steps of the codec, each with an exact value and a smooth gradient."""

    def __init__(self, name: str, clip: str, integers: bool):
        self.round = ROUNDINGS[name]
        self.clip = clip
        self.integers = integers
        self.integer_coefficients = integers and name in INTEGER

    def exactly(self, step, x):
        """step(x) in integers, with the gradient of step(x) in floats; x has integer values."""
        if not self.integers:
            return step(x)
        exact = jax.tree.map(lambda y: y.astype(x.dtype), step(jax.lax.stop_gradient(x).astype(jnp.int32)))
        return jax.tree.map(straight_through, step(x), exact)

    def nearest(self, x):
        """Rounded straight-through, halves up."""
        return straight_through(x, jnp.floor(x + 0.5)) if self.integers else x

    def clipped(self, x):
        """In 0..255; the borders count as inside."""
        inside = (x >= 0) & (x <= 255)
        exact = jax.lax.stop_gradient(jnp.clip(x, 0, 255))
        return straight_through(jnp.where(inside, x, (SLOPE_OUTSIDE if self.clip == "soft" else 0.0) * x), exact)

    def shown(self, x):
        """Decoded samples as far as they are clipped."""
        return x if self.clip == "none" else self.clipped(x)

    def to_8_bits(self, image):
        return self.nearest(self.clipped(image)) if self.integers else image

    def analyse(self, plane):
        """[B, h, w] -> 8 times the coefficients, [B, ceil(h / 8), ceil(w / 8), 8, 8]."""
        rows, columns = (-(-side // 8) for side in plane.shape[-2:])
        padded = arithmetic.pad_edge(plane, 8 * rows, 8 * columns)
        return self.exactly(arithmetic.dct8, arithmetic.to_blocks(padded) - 128)

    def rounded(self, coefficients, keys):
        """All components at once: one draw of noise compiles in a third of the time of three."""
        batch = len(coefficients[0])
        together = jnp.concatenate([z.reshape(batch, -1, 8, 8) for z in coefficients], 1)
        counts = [z.shape[1] * z.shape[2] for z in coefficients]
        parts = jnp.split(self.round(together, keys), np.cumsum(counts)[:-1], 1)
        return [part.reshape(z.shape) for part, z in zip(parts, coefficients)]

    def synthesise(self, dequantised):
        """[B, r, c, 8, 8] -> samples [B, 8 r, 8 c]."""
        if self.integer_coefficients:
            samples = self.exactly(arithmetic.idct, dequantised)
        else:
            samples = self.nearest(arithmetic.idct(dequantised))
        return self.shown(arithmetic.from_blocks(samples) + 128)

    def to_rgb(self, samples):
        planes = jnp.stack(samples, -1)
        rgb = self.exactly(lambda x: arithmetic.ycbcr_to_rgb(x[..., 0], x[..., 1], x[..., 2]), planes)
        return self.shown(rgb)


def _check_image(image) -> jax.Array:
    image = image if hasattr(image, "dtype") else np.asarray(image)
    if image.dtype not in (np.float32, np.float64):
        raise errors.UsageError(
            f"JPEG: the image is {image.dtype}; it must be float32, 0 to 255 (in 16 bits coefficients would flip)"
        )
    if image.ndim != 4 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise errors.UsageError(f"JPEG: the image must be [B, H, W, 1 or 3], got {list(image.shape)}")
    return jnp.asarray(image)


def _check_choices(subsampling: str, rounding: str, clip: str) -> None:
    choices = (("subsampling", subsampling, SUBSAMPLINGS), ("rounding", rounding, ROUNDINGS), ("clip", clip, CLIPS))
    for name, value, possible in choices:
        if value not in possible:
            raise errors.UsageError(f"JPEG: {name} is {value!r}; possible are {', '.join(possible)}")


def _steps_of(quality, tables, batch: int) -> jax.Array:
    """float [B, 2, 8, 8], by the one of the two that is given."""
    if (quality is None) == (tables is None):
        raise errors.UsageError("JPEG: give either a quality or tables")
    return _tables_of(quality, batch) if tables is None else _check_tables(tables, batch)


def _tables_of(quality, batch: int) -> jax.Array:
    """float32 [B, 2, 8, 8]."""
    quality = quality if hasattr(quality, "dtype") else np.asarray(quality)
    if not np.issubdtype(quality.dtype, np.integer) or quality.shape not in ((), (batch,)):
        raise errors.UsageError(
            f"JPEG: quality is {quality.dtype} of shape {list(quality.shape)}; it must be a whole number from 1 to "
            f"100, or {batch} of them, one for each example"
        )
    # By NumPy: within a jitted function jax would trace the comparison of its own constants.
    if not isinstance(quality, jax.core.Tracer) and not set(np.unique(np.asarray(quality))) <= set(range(1, 101)):
        raise errors.UsageError(f"JPEG: quality is {quality}; it must be a whole number from 1 to 100")
    table = jnp.take(jnp.asarray(ALL_TABLES, jnp.float32), quality - 1, axis=0, mode="clip")
    return jnp.broadcast_to(table, (batch, 2, 8, 8))


def _check_tables(pair, batch: int) -> jax.Array:
    """float [B, 2, 8, 8]."""
    shapes = [jnp.shape(table) for table in pair]
    if len(pair) != 2 or any(shape not in ((8, 8), (batch, 8, 8)) for shape in shapes):
        raise errors.UsageError(
            f"JPEG: tables must be two, for luma and chroma, of shape [8, 8] or [{batch}, 8, 8]; got "
            f"{', '.join(str(list(shape)) for shape in shapes)}"
        )
    both = jnp.stack([jnp.broadcast_to(jnp.asarray(table, jnp.float32), (batch, 8, 8)) for table in pair], 1)
    return straight_through(both, jnp.clip(jnp.floor(both + 0.5), 1, 255))


def _check_keys(key, batch: int) -> jax.Array:
    """One key for each example, [B]."""
    if key is None:
        raise errors.UsageError('JPEG: rounding="noise" needs a key: one PRNG key, or one for each example')
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 0:
        key = jax.random.split(key, batch)
    if key.shape != (batch,):
        raise errors.UsageError(f"JPEG: got {list(key.shape)} keys; it must be one, or {batch}, one for each example")
    return key

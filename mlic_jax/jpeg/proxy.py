"""The size of a JPEG file from coefficients that are not rounded, with a gradient.

A scan costs, nearly, a logarithm for each coefficient and a constant for each block:

    bits = a sum_AC g(z) + d sum_DC g(z - z of the block before) + b blocks + 8 header bytes

z being coefficients in steps of their table and "the block before" that of the same component in the order of the
scan, which goes MCU by MCU. g is one of

    "log"         log2(1 + |z|)          (Sandwiched compression, Guleryuz et al. 2021-24, without DC differences)
    "log_square"  log2(1 + (3 z)^2) / 2  the same for large z, but small z, which are rounded to nothing, cost nothing

The constants are fitted, for the least mean relative error of the scan, to files that Pillow wrote of 106 photos (crops
of 256x256, scaled down by 0.5 to 1 before; none of Kodak) at qualities 5, 10, 20, 30, 50, 75, 90 and 95, in colour with
4:2:0 and with 4:4:4 and in grey. Mean relative error of the scan in percent, same qualities, 4:2:0 / 4:4:4 / grey:

                          twelve bundled photos, cropped     Kodak, whole
    log, default                5.7 / 6.8 / 6.6           3.4 / 3.5 / 4.2
    log_square, default         2.7 / 3.3 / 4.5           2.7 / 2.1 / 4.5
    log, optimised              9.2 / 9.0 / 10.4          6.1 / 4.4 / 8.3
    log_square, optimised       4.0 / 3.5 / 4.8           3.8 / 3.0 / 4.4

Most of it is due to quality 5 (12 to 34 for "log", 5 to 10 for "log_square"). What a batch's own files say is better:
`calibrated`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mlic_jax import errors
from mlic_jax.jpeg.blocks import Coefficients, to_mcus
from mlic_jax.jpeg.scan import HUFFMANS

# Bytes of Pillow's files outside the scan, by the number of components: 328 and 623 before it and the end marker. Codes
# made for a picture list only the symbols that occur; of those the mean is given (305 at quality 5, 380 at 95).
HEADER_BYTES = {"default": {1: 330, 3: 625}, "optimised": {1: 197, 3: 338}}


class Proxy(NamedTuple):
    """A cost g(z), and by kind of Huffman code its bits per unit for AC, for differences of DC, and bits per block."""

    cost: Callable
    weights: dict[str, tuple[float, float, float]]


def _log(z: jax.Array) -> jax.Array:
    return jnp.log2(1 + jnp.abs(z))


def _log_square(z: jax.Array) -> jax.Array:
    return jnp.log2(1 + 9 * z * z) / 2


PROXIES = {
    "log": Proxy(_log, {"default": (2.655, 0.650, 3.094), "optimised": (2.558, 2.006, -0.056)}),
    "log_square": Proxy(_log_square, {"default": (1.861, 1.027, 4.583), "optimised": (1.884, 1.332, 1.712)}),
}


def rate(
    coefficients: Coefficients, *, proxy: str = "log", huffman: str = "default", header: float | None = None
) -> jax.Array:
    """The bits of each image's file, estimated and differentiable.

    Args:
      coefficients: of `simulate`: [B, rows, columns, 8, 8] for each component, not rounded.
      proxy: a name of `PROXIES`. "log_square" has half the error of "log", and no gradient where z is 0.
      huffman: "default" for the codes of Annex K, as Pillow uses them, "optimised" for codes made for each picture.
      header: bytes to add for what is not the scan; `HEADER_BYTES` by default, 0 for the scan alone.

    Returns:
      float32 [B].

    Raises:
      UsageError: unknown names, or coefficients of other shapes.
    """
    if proxy not in PROXIES:
        raise errors.UsageError(f"JPEG: proxy is {proxy!r}; possible are {', '.join(PROXIES)}")
    if huffman not in HUFFMANS:
        raise errors.UsageError(f"JPEG: huffman is {huffman!r}; possible are {', '.join(HUFFMANS)}")
    cost, weights = PROXIES[proxy]
    ac_weight, dc_weight, block_weight = weights[huffman]
    factor = 2 if coefficients.subsampling == "4:2:0" else 1
    bits = 8.0 * (HEADER_BYTES[huffman][len(coefficients.components)] if header is None else header)
    for index, z in enumerate(coefficients.components):
        if z.ndim != 5:
            raise errors.UsageError(f"JPEG: coefficients must be [B, rows, columns, 8, 8], got {list(z.shape)}")
        batch = z.shape[0]
        dc = to_mcus(z[..., 0, 0], 1 if index else factor).reshape(batch, -1)
        ac = z.reshape(batch, -1, 64)[..., 1:]
        bits += ac_weight * cost(ac).sum((1, 2)) + dc_weight * cost(jnp.diff(dc, axis=-1, prepend=0)).sum(-1)
        bits += block_weight * dc.shape[-1]
    return bits


def calibrated(bits: jax.Array, measured: jax.Array) -> jax.Array:
    """Estimates scaled by one factor, without gradient, so that they agree with real files of the same batch.

    Sandwiched compression refits the factor at every step from a file; here as many files as one likes may count.

    Args:
      bits: [B], of `rate`.
      measured: [k], 1 <= k <= B: the true bits of the first k examples, as of `scan_bits` or of files.

    Returns:
      [B]: bits * sum(measured) / sum(bits[:k]).
    """
    return bits * jax.lax.stop_gradient(jnp.sum(measured) / jnp.sum(bits[: measured.shape[0]]))

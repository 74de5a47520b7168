"""PSNR-HVS: PSNR with errors weighed by how well the eye sees their frequency.

Egiazarian, Astola, Ponomarenko, Lukin, Battisti, Carli, "New full-reference quality metrics based on HVS" (VPQM 2006):
the orthonormal DCT of 8x8 blocks, and coefficients that are weighed by the inverse of JPEG's table for luma. It has not
the masking of PSNR-HVS-M. The constant is that of the authors' program.
"""

from __future__ import annotations

import math

import numpy as np

from mlic_jax.jpeg.arithmetic import DCT, to_blocks
from mlic_jax.jpeg.tables import LUMA
from mlic_jax.metrics import psnr

# How much an error of each frequency counts.
SENSITIVITY = 25.735088 / LUMA


def psnr_hvs_db(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR-HVS of two uint8 [H, W, 1] pictures in dB; infinite for identical ones, nan of a side below 8 pixels.

    Of whole blocks from the corner: up to 7 rows and columns at the other end are left out, as in the authors' program.
    Raises InputError as `psnr.psnr_db`.
    """
    psnr.check_pair(a, b)
    rows, columns = (length // 8 * 8 for length in np.shape(a)[:2])
    if not rows * columns:
        return math.nan
    difference = (np.asarray(a, np.float64) - b)[:rows, :columns, 0]
    error = np.mean((DCT @ to_blocks(difference) @ DCT.T * SENSITIVITY) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf

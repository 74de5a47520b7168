"""bls2017 (Ballé, Laparra, Simoncelli, ICLR 2017): three layers, GDN, and a factorized prior.

    mlic train --config bls2017:4 --workdir runs/bls2017-4

The part after the colon is the quality, 1 to 8 (the lambda of CompressAI's zoo; 128 channels up to 5, 192 above;
default 4), one with `-ms-ssim` behind it, or `tiny`: a narrow model on the bundled photos, which two CPU cores train
in minutes.

What to expect at full length: some dB less than bmshj2018_factorized, at a quarter of its arithmetic: 22 kMAC a pixel.
"""

from mlic_jax.models import bls2017 as paper
from mlic_jax.training.recipes import of_quality

VARIANTS = (
    "1", "2", "3", "4", "5", "6", "7", "8", "tiny",
    "1-ms-ssim", "2-ms-ssim", "3-ms-ssim", "4-ms-ssim", "5-ms-ssim", "6-ms-ssim", "7-ms-ssim", "8-ms-ssim",
)  # fmt: skip


def get_config(quality: str = "4"):
    return of_quality(quality, "bls2017", paper.WIDTHS, paper.LAMBDAS, paper.LAMBDAS_MS_SSIM, paper.TINY)

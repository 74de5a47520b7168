"""mbt2018-mean (Minnen, Ballé, Toderici, NeurIPS 2018, without the context model).

    mlic train --config mbt2018_mean:4 --workdir runs/mbt2018_mean-4

The part after the colon is the quality, 1 to 8 (widths and lambda of CompressAI's zoo; default 4), one with
`-ms-ssim` behind it, or `tiny`: a narrow model on the bundled photos, which two CPU cores train in minutes.

What to expect at full length (Kodak, CompressAI's published models):
quality 1 27.70 dB at 0.124 bpp, 4 32.95 dB at 0.461, 8 40.63 dB at 1.619.
They took 4 to 5 million steps of batch 16 or 32 on Vimeo-90k; give such a set by --config.data.source=FOLDER.
"""

from mlic_jax.models import mbt2018 as paper
from mlic_jax.training.recipes import of_quality

VARIANTS = (
    "1", "2", "3", "4", "5", "6", "7", "8", "tiny",
    "1-ms-ssim", "2-ms-ssim", "3-ms-ssim", "4-ms-ssim", "5-ms-ssim", "6-ms-ssim", "7-ms-ssim", "8-ms-ssim",
)  # fmt: skip


def get_config(quality: str = "4"):
    return of_quality(quality, "mbt2018-mean", paper.WIDTHS, paper.LAMBDAS, paper.LAMBDAS_MS_SSIM, paper.TINY)

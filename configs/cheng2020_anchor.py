"""cheng2020-anchor (Cheng et al., CVPR 2020): residual transforms and a serial context, without attention.

    mlic train --config cheng2020_anchor:4 --workdir runs/cheng2020_anchor-4

The part after the colon is the quality, 1 to 6 (widths and lambda of CompressAI's zoo; default 4), one with
`-ms-ssim` behind it, or `tiny`: a narrow model on the bundled photos, which two CPU cores train in minutes.
`--config.model.arguments.mixtures=3` is the paper's mixture of Gaussians in place of one.

What to expect at full length (Kodak, CompressAI's published models, of one Gaussian):
quality 1 28.58 dB at 0.120 bpp, 4 33.39 dB at 0.417, 6 36.70 dB at 0.806.
They took 4 to 5 million steps of batch 16 or 32 on Vimeo-90k; give such a set by --config.data.source=FOLDER.
"""

from mlic_jax.models import cheng2020 as paper
from mlic_jax.training.recipes import of_quality

VARIANTS = (
    "1", "2", "3", "4", "5", "6",
    "1-ms-ssim", "2-ms-ssim", "3-ms-ssim", "4-ms-ssim", "5-ms-ssim", "6-ms-ssim",
    "tiny",
)  # fmt: skip


def get_config(quality: str = "4"):
    config = of_quality(quality, "cheng2020-anchor", paper.WIDTHS, paper.LAMBDAS, paper.LAMBDAS_MS_SSIM, paper.TINY)
    config.model.arguments.mixtures = 1
    return config

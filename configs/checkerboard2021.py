"""cheng2020-anchor-checkerboard (He et al., CVPR 2021): cheng2020-anchor with a spatial context in two passes.

    mlic train --config checkerboard2021:4 --workdir runs/checkerboard2021-4

The part after the colon is the quality, 1 to 6 (widths and lambda of cheng2020 in CompressAI's zoo; default 4), one
with `-ms-ssim` behind it, or `tiny`: a narrow model on the bundled photos, which two CPU cores train in minutes.

What to expect at full length: nobody published weights. The paper: within 2 % of the bits of the serial context, which
decodes 40 times as slowly there.
"""

from mlic_jax.models import checkerboard2021 as paper
from mlic_jax.training.recipes import of_quality

VARIANTS = (
    "1", "2", "3", "4", "5", "6",
    "1-ms-ssim", "2-ms-ssim", "3-ms-ssim", "4-ms-ssim", "5-ms-ssim", "6-ms-ssim",
    "tiny",
)  # fmt: skip


def get_config(quality: str = "4"):
    name, tables = "cheng2020-anchor-checkerboard", (paper.WIDTHS, paper.LAMBDAS, paper.LAMBDAS_MS_SSIM)
    config = of_quality(quality, name, *tables, paper.TINY)
    config.model.arguments.proxy = "mixed"
    return config

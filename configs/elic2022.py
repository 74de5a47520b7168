"""elic2022 (ELIC: He et al., CVPR 2022): uneven groups of channels, each in two passes over a checkerboard.

    mlic train --config elic2022:4 --workdir runs/elic2022-4

The part after the colon is the quality, 1 to 8 (the lambda of CompressAI's zoo, all at the paper's widths; default 4),
one with `-ms-ssim` behind it, or `tiny`: a narrow model on the bundled photos, which two CPU cores train in minutes.

What to expect at full length (Kodak, the paper): 26.6 % fewer bits than BPG at equal PSNR. At 32 million parameters and
some 400 kMAC a pixel it wants a GPU.
"""

from mlic_jax.models import elic2022 as paper
from mlic_jax.training.recipes import of_quality

VARIANTS = (
    "1", "2", "3", "4", "5", "6", "7", "8", "tiny",
    "1-ms-ssim", "2-ms-ssim", "3-ms-ssim", "4-ms-ssim", "5-ms-ssim", "6-ms-ssim", "7-ms-ssim", "8-ms-ssim",
)  # fmt: skip


def get_config(quality: str = "4"):
    widths = dict.fromkeys(paper.LAMBDAS, (paper.PAPER["N"], paper.PAPER["M"]))
    config = of_quality(quality, "elic2022", widths, paper.LAMBDAS, paper.LAMBDAS_MS_SSIM, paper.TINY)
    config.model.arguments.update(paper.TINY if quality == "tiny" else paper.PAPER, proxy="mixed")
    return config

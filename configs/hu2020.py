"""hu2020 (Hu, Yang, Liu, AAAI 2020): coarse-to-fine, two layers of hyperpriors and all of them in the synthesis.

    mlic train --config hu2020:4 --workdir runs/hu2020-4

The part after the colon is the quality, 1 to 7 (widths of the paper, 192 up to quality 3 and 384 above; the lambdas are
CompressAI's; default 4), or `tiny`: a narrow model on the bundled photos, which two CPU cores train in minutes. Of the
550,000 steps the first 130,000 are stages of growing models, see mlic_jax/models/hu2020.py; with
--config.model.arguments.stages="()" all is trained from the start.

What to expect at full length (Kodak, the authors' points): 30.06 dB at 0.207 bpp, 32.30 dB at 0.363, 36.23 dB at 0.795.
"""

from mlic_jax.models import hu2020 as paper
from mlic_jax.training.config import defaults
from mlic_jax.training.recipes import make_tiny, quality_of

VARIANTS = ("1", "2", "3", "4", "5", "6", "7", "tiny")


def get_config(argument: str = "4"):
    quality = quality_of(argument, paper.WIDTHS)
    widths = paper.WIDTHS.get(quality, paper.TINY)
    config = defaults()
    config.model.name = "hu2020"
    config.model.arguments = {
        **widths, "lmbda": paper.LAMBDAS[quality or 4], "distortion": "mse", "proxy": "mixed", "quantise_from": -1,
        "stages": paper.STAGES if quality else (300, 500, 700),
    }  # fmt: skip
    if quality is None:
        make_tiny(config)
        return config
    # As published: constant until step 400,000, then halved four times.
    config.data.batch_size = 16
    config.data.flip = False
    config.optimizer.clip_norm = 10.0
    config.optimizer.schedule = "steps"
    config.optimizer.boundaries = (400_000, 450_000, 475_000, 500_000)
    config.optimizer.factor = 0.5
    config.train.steps = 550_000
    config.train.evaluate_every = config.train.checkpoint_every = 5000
    return config

"""bmshj2018-hyperprior (Ballé et al., ICLR 2018).

    mlic train --config configs/bmshj2018_hyperprior.py:4 --workdir runs/hyperprior-4

The part after the colon is the quality 1..8 (widths and lambda of CompressAI's zoo; default 4), or `tiny`: a narrow model
on the bundled photos, which two CPU cores train in minutes.

What to expect at full length (Kodak, CompressAI's published models, PSNR at bpp): quality 1 27.58 dB at 0.131, 4 32.84 dB
at 0.478, 8 40.56 dB at 1.660. They took 4 to 5 million steps of batch 16 or 32 on Vimeo-90k.
"""

from mlic_jax.config import defaults
from mlic_jax.models import bmshj2018


def get_config(quality: str = "4"):
    config = defaults()
    config.model.name = "bmshj2018-hyperprior"
    if quality == "tiny":
        config.model.arguments = {**bmshj2018.TINY, "lmbda": 0.0130}
        config.data.batch_size = 8
        config.data.patch_size = 128
        config.optimizer.learning_rate = 1e-3
        config.train.steps = 2000
        return config
    q = int(quality)
    N, M = bmshj2018.WIDTHS[q]
    config.model.arguments = {"N": N, "M": M, "lmbda": bmshj2018.LAMBDAS[q]}
    config.data.batch_size = 16
    config.optimizer.schedule = "steps"
    # In place of CompressAI's halving on a plateau: known in advance, so that a run can be resumed and repeated.
    config.optimizer.boundaries = (2_000_000, 2_750_000, 3_250_000, 3_600_000, 3_850_000)
    config.optimizer.factor = 0.5
    config.train.steps = 4_000_000
    config.train.evaluate_every = 5000
    config.train.checkpoint_every = 5000
    return config

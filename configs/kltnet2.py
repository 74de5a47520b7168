"""KltNet 2: one model for every rate, whose receiver suits one CPU core.

    mlic train --config configs/kltnet2.py:nano --workdir runs/nano --config.data.source=/data/photos
    mlic train --config configs/kltnet2.py:nano-large --workdir runs/nano-large --config.init_from=runs/nano ...
    mlic train --config configs/kltnet2.py:nano-priors --workdir runs/nano-priors --config.init_from=runs/nano-large ...

There are no trained weights of it yet, and no rates and distortions: docs/training.md has it in its queue, and
docs/lab/kltnet2.md says what is known. `mlic compress` uses configs/kltnet.py's model.

Variants: `nano`, a receiver of some 5 kMAC/pixel; `tiny2`, one of 20 at most; `toy` is for tests. Stages as in
configs/kltnet.py: `-large` goes on with larger patches, `-priors` trains what decides probabilities on larger ones yet.
"""

from mlic_jax.errors import UsageError
from mlic_jax.models import kltnet2
from mlic_jax.training import config as base

SMALLEST = "toy"
WIDTHS = {"toy": kltnet2.TOY, "nano": kltnet2.NANO, "tiny2": kltnet2.TINY2}
# Stage -> batch and side of patches, learning rate, steps at it, and down to zero.
STAGES = {
    "": (8, 128, 1e-3, 27_000, 18_000),
    "large": (2, 256, 4e-4, 9_000, 9_000),
    "priors": (2, 384, 6e-4, 1_000, 4_000),
}


def get_config(variant: str = "nano"):
    width, _, stage = variant.partition("-")
    if width not in WIDTHS or stage not in STAGES or variant.endswith("-"):
        known = ", ".join(f"{width}, {width}-large, {width}-priors" for width in WIDTHS)
        raise UsageError(f"variant {variant!r} is not known: use one of {known}")
    config = base.defaults()
    config.model.name = "kltnet2"
    config.model.arguments = {
        **WIDTHS[width],
        "distortion": "mse",
        "proxy": "split",
        "quantise_from": -1,
        "clipped": True,
    }
    config.data.detail_weight = 1.0
    config.data.cache_mib = 2048
    config.optimizer.arguments.b2 = 0.99
    config.optimizer.warmup_steps = 100
    config.optimizer.schedule = "wsd"
    config.train.ema = 0.998
    config.train.log_every = 100
    config.train.evaluate_every = config.train.checkpoint_every = 1000
    if stage == "priors":
        config.schedule = ("priors",)
        config.train.ema = 0.99
    batch, patch, rate, constant, decay = STAGES[stage]
    config.data.batch_size, config.data.patch_size = batch, patch
    config.optimizer.learning_rate = rate
    config.optimizer.decay_from, config.optimizer.decay_steps = constant, decay
    config.train.steps = constant + decay
    return config

"""KltNet, one model for every rate: what `mlic compress` uses.

    mlic train --config configs/kltnet.py:tiny --workdir runs/klt-tiny --config.data.source=/data/photos

Variants: `tiny`, whose weights are in the package, trains on two CPU cores; `base` is for a GPU; `toy` is for tests.
What was tried before this recipe was chosen, and what it reached, stands in docs/training.md.
"""

from mlic_jax import config as base
from mlic_jax.errors import UsageError
from mlic_jax.models import kltnet

SMALLEST = "toy"
WIDTHS = {"toy": kltnet.TOY, "tiny": kltnet.TINY, "base": kltnet.BASE}


def get_config(variant: str = "tiny"):
    if variant not in WIDTHS:
        raise UsageError(f"variant {variant!r} is not known: use one of {', '.join(WIDTHS)}")
    config = base.defaults()
    config.model.name = "kltnet"
    config.model.arguments = {
        **WIDTHS[variant],
        "distortion": "mse",
        "proxy": "split",
        "quantise_from": -1,
        "clipped": True,
    }
    config.data.detail_weight = 1.0
    config.data.cache_mib = 2048
    config.optimizer.arguments.b2 = 0.99
    config.optimizer.warmup_steps = 100
    # Constant, then down to zero: a run can be prolonged as long as the decay has not begun (docs/training.md).
    config.optimizer.schedule = "wsd"
    config.train.ema = 0.998
    config.train.log_every = 100
    config.train.evaluate_every = config.train.checkpoint_every = 1000
    if variant == "base":
        # Untried: no GPU has been at hand. Checkpoints every minute or so, for leases of a few.
        config.data.batch_size, config.data.patch_size = 32, 256
        config.optimizer.learning_rate = 6e-4
        config.optimizer.decay_from, config.optimizer.decay_steps = 40_000, 20_000
        config.train.bfloat16 = True
    else:
        # Two and a half hours of two cores, at five steps a second.
        config.data.batch_size, config.data.patch_size = 8, 128
        config.optimizer.learning_rate = 1e-3
        config.optimizer.decay_from, config.optimizer.decay_steps = 27_000, 18_000
    config.train.steps = config.optimizer.decay_from + config.optimizer.decay_steps
    return config

"""KltNet, one model for every rate: what `mlic compress` uses.

    mlic train --config configs/kltnet.py:tiny --workdir runs/klt --config.data.source=/data/photos
    mlic train --config configs/kltnet.py:tiny-large --workdir runs/klt-large --config.init_from=runs/klt ...
    mlic train --config configs/kltnet.py:tiny-priors --workdir runs/klt-priors --config.init_from=runs/klt-large ...

Variants: `tiny`, whose weights are in the package, trains on two CPU cores; `base` is for a GPU; `toy` is for tests.
Each is trained in three stages. The second, `-large`, goes on with larger patches, since small ones teach the priors
the borders of patches; the third, `-priors`, trains the priors alone, on larger ones yet, for symbols as files have
them. What was tried before this recipe was chosen, and what it reached, stands in docs/lab/kltnet.md.
"""

from mlic_jax.errors import UsageError
from mlic_jax.models import kltnet
from mlic_jax.training import config as base

SMALLEST = "toy"
ALSO_TESTED = ("toy-priors",)
WIDTHS = {"toy": kltnet.TOY, "tiny": kltnet.TINY, "base": kltnet.BASE}
# Stage -> batch and side of patches of the widths for CPUs and GPUs, learning rate, steps at it, and down to zero.
STAGES = {
    "": {"cpu": (8, 128, 1e-3, 27_000, 18_000), "gpu": (32, 256, 6e-4, 40_000, 20_000)},
    "large": {"cpu": (2, 256, 4e-4, 9_000, 9_000), "gpu": (16, 384, 3e-4, 5_000, 10_000)},
    "priors": {"cpu": (2, 384, 6e-4, 1_000, 4_000), "gpu": (16, 384, 6e-4, 1_000, 4_000)},
}


def get_config(variant: str = "tiny"):
    width, _, stage = variant.partition("-")
    if width not in WIDTHS or stage not in STAGES or variant.endswith("-"):
        known = ", ".join(f"{width}, {width}-large, {width}-priors" for width in WIDTHS)
        raise UsageError(f"variant {variant!r} is not known: use one of {known}")
    config = base.defaults()
    config.model.name = "kltnet"
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
    # Constant, then down to zero: a run can be prolonged as long as the decay has not begun (docs/training.md).
    config.optimizer.schedule = "wsd"
    config.train.ema = 0.998
    config.train.log_every = 100
    config.train.evaluate_every = config.train.checkpoint_every = 1000
    if stage == "priors":
        config.schedule = ("priors",)
        config.train.ema = 0.99
    # Tiny takes two and a half hours of two cores, at five steps a second, then one, then a quarter. Base has not been
    # trained by these steps yet; one takes some 13 ms on an H100 (docs/lab/gpu.md).
    config.train.bfloat16 = width == "base"
    batch, patch, rate, constant, decay = STAGES[stage]["gpu" if width == "base" else "cpu"]
    config.data.batch_size, config.data.patch_size = batch, patch
    config.optimizer.learning_rate = rate
    config.optimizer.decay_from, config.optimizer.decay_steps = constant, decay
    config.train.steps = constant + decay
    return config

"""Jiang 2017: a network before a standard codec and one after it.

    mlic train --config jiang2017:tiny --workdir runs/jiang --config.data.source=/data/photos

Variants: `paper` (grey, JPEG quality 50 in the middle, 20 layers of 64, networks trained in turn; needs a GPU); `tiny`
(grey, one pair for qualities 5 to 60, both trained at once through differentiable JPEG; two CPU cores); `colour`, the
same for colour pictures; `alternating`, the tiny pair at JPEG quality 30 as the paper trains; `jpeg2000` and `heic`,
the same with another codec in the middle. `toy` and `toy_...` are for tests.
"""

from mlic_jax.errors import UsageError
from mlic_jax.models import jiang2017
from mlic_jax.training import config as base
from mlic_jax.training import recipes

VARIANTS = ("tiny", "colour", "alternating", "jpeg2000", "heic", "paper")
SMALLEST = "toy"
ALSO_TESTED = ("toy_alternating", "toy_jpeg2000", "toy_heic")


def get_config(variant: str = "tiny"):
    toy = variant.split("_")[0] == "toy"
    if variant not in (*VARIANTS, SMALLEST, *ALSO_TESTED):
        raise UsageError(f"variant {variant!r} is not known: use one of {', '.join(VARIANTS)}")
    variant = variant.removeprefix("toy_")
    config = base.defaults()
    config.model.name = "jiang2017"
    widths = jiang2017.TOY if toy else jiang2017.PUBLISHED if variant == "paper" else jiang2017.TINY
    config.model.arguments = {
        "codec": "jpeg", "channels": 1, "low": 5, "high": 60, **widths, "padding": "edge", "part": "both",
        "com_gradient": "skip_codec", "rate": 1.0, "rounding": "ste",
    }  # fmt: skip
    arguments = config.model.arguments
    config.train.ema = 0.998
    if variant == "paper":
        # 30 epochs of 500 batches for either network; the learning rates of the released code, log-spaced there.
        arguments.low = arguments.high = 50
        config.schedule, config.phases = ("rec", "com"), (15_000, 15_000)
        config.data.batch_size, config.data.patch_size, config.data.scale_range = 128, 40, (0.5, 1.0)
        config.optimizer.learning_rate = 1e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.final_fraction = 0.01
        config.optimizer.decay_steps = 60_000
        config.optimizers.com = {"learning_rate": 1e-4, "final_fraction": 0.1}
        config.train.steps = 120_000
        config.train.ema = 0.0
        return config
    recipes.make_tiny(config, patch_size=64, steps=5000)
    config.data.detail_weight = 1.0
    config.data.cache_mib = 1024
    config.optimizer.warmup_steps = 100
    config.train.log_every = 100
    if variant == "colour" or toy:
        arguments.channels = 3
    if variant in ("alternating", "jpeg2000", "heic"):
        # No weight is put on bits: ComCNN learns with the codec left out, RecCNN behind the real one.
        settings = {"alternating": ("jpeg", 30), "jpeg2000": ("jpeg2000", 40), "heic": ("heic", 30)}
        arguments.codec, arguments.low = settings[variant]
        arguments.high = arguments.low
        config.schedule, config.phases = ("rec", "com"), (2, 1) if toy else (150, 60)
        config.optimizers.com = {"learning_rate": 2e-4}
    return config

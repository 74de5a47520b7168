"""Talebi-style pre-editing: a network that edits pictures so that JPEG needs fewer bits.

    mlic train --config talebi2020:tiny --workdir runs/talebi --config.data.source=/data/photos

Variants: `paper` (the layers of the re-implementation, qualities 8 to 25; needs a GPU); `tiny` (five layers of 24,
qualities 5 to 60, MSE); `perceptual`, the same with half of the distortion in LPIPS (extra `lpips`); `warp` and
`cascade`; `toy`, for tests.
"""

from mlic_jax.errors import UsageError
from mlic_jax.models import talebi2020
from mlic_jax.training import config as base
from mlic_jax.training import recipes

SMALLEST = "toy"
VARIANTS = ("tiny", "perceptual", "warp", "cascade", "paper")


def get_config(variant: str = "tiny"):
    if variant not in (*VARIANTS, SMALLEST):
        raise UsageError(f"variant {variant!r} is not known: use one of {', '.join(VARIANTS)}")
    config = base.defaults()
    config.model.name = "talebi2020"
    widths = {"paper": talebi2020.PUBLISHED, "toy": talebi2020.TOY}.get(variant, talebi2020.TINY)
    config.model.arguments = {
        "codec": "jpeg-optimised", "channels": 3, "low": 5, "high": 60, "variant": "smooth", **widths,
        "rounding": "edit", "rate": 1.0, "perceptual": 0.0, "smoothness": 10.0,
    }  # fmt: skip
    arguments = config.model.arguments
    config.train.ema = 0.998
    if variant == "paper":
        arguments.low, arguments.high = 8, 25
        config.data.batch_size, config.data.patch_size = 8, 256
        config.optimizer.learning_rate = 1e-4
        config.train.steps = 200_000
        return config
    if variant in ("warp", "cascade"):
        arguments.variant = variant
    if variant == "perceptual":
        arguments.perceptual = 0.5
    recipes.make_tiny(config, patch_size=64, steps=4000)
    config.data.detail_weight = 1.0
    config.data.cache_mib = 1024
    config.optimizer.warmup_steps = 50
    config.train.log_every = 100
    return config

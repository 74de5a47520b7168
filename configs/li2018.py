"""Li 2018: binary codes, and an importance map that says how many bits a cell of 8x8 pixels sends.

    mlic train --config li2018:tiny_no_map --workdir runs/first
    mlic train --config li2018:tiny --workdir runs/li2018 --config.init_from=runs/first

Variants: `tiny` (compact networks, 16 bits a cell, two CPU cores, minutes); `paper` (the released networks, 64 bits a
cell, below 0.5 bits per pixel; needs a GPU) and `paper_high` (128 bits, above). Each with `_no_map` sends all bits of
every cell: the first of the paper's two stages, with whose weights the second begins. Without it the map goes to zero
before the networks have learned to use bits. Each trains the transform first, and then, on fixed codes, the entropy
model.

`toy` is for tests. Rates are chosen by `model.arguments.r0` and `gamma`; there is one model for each.
"""

from mlic_jax.errors import UsageError
from mlic_jax.models import li2018
from mlic_jax.training import config as base
from mlic_jax.training import recipes

VARIANTS = ("tiny", "tiny_no_map", "paper", "paper_no_map", "paper_high", "paper_high_no_map")
SMALLEST = "toy"
ALSO_TESTED = ("toy_no_map",)
WIDTHS = {
    "toy": li2018.TOY,
    "tiny": li2018.TINY,
    "paper": li2018.PUBLISHED,
    "paper_high": li2018.PUBLISHED_HIGH,
}


def get_config(variant: str = "tiny"):
    if variant not in (*VARIANTS, SMALLEST, *ALSO_TESTED):
        raise UsageError(f"variant {variant!r} is not known: use one of {', '.join(VARIANTS)}")
    size = variant.removesuffix("_no_map")
    config = base.defaults()
    config.model.name = "li2018"
    config.model.arguments = {
        **WIDTHS[size], "importance": "none" if variant.endswith("_no_map") else "map", "floor_levels": "released",
        "mask_gradient": "local", "rate": "hinge", "r0": 0.5, "gamma": 0.2, "entropy": "trimmed", "nested": False,
    }  # fmt: skip
    arguments = config.model.arguments
    if size.startswith("paper"):
        # Batches and rates as published; the paper lowers its rate where the loss stalls, here that is at fixed steps.
        # The coder's networks come last, as long as their own schedule (TCAE's).
        config.schedule, config.phases = ("rd", "entropy"), (600_000, 360_000)
        config.data.batch_size, config.data.patch_size = 32, 128
        config.optimizer.learning_rate = 1e-4
        config.optimizer.schedule = "steps"
        config.optimizer.boundaries = (300_000, 450_000)
        config.optimizers.entropy = {"learning_rate": 3e-4, "boundaries": (120_000, 240_000)}
        config.train.steps = 960_000
        config.train.evaluate_every = config.train.checkpoint_every = 5000
        return config
    recipes.make_tiny(config, patch_size=64, steps=1500)
    config.schedule, config.phases = ("rd", "entropy"), (1, 1) if size == "toy" else (1200, 300)
    config.data.batch_size = 16
    config.data.cache_mib = 1024
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = 1200
    config.optimizers.entropy = {"learning_rate": 5e-3, "warmup_steps": 20, "decay_steps": 300}
    config.train.ema = 0.99
    config.train.log_every = 100
    # Weights above 1 empty the map sooner than networks of this size learn to order their bits.
    arguments.r0, arguments.gamma = 0.0, 0.75
    return config

"""Toderici 2017: recurrent networks that code, pass by pass, what the passes before left over. One model, every rate.

    mlic train --config toderici2017:tiny --workdir runs/toderici --config.data.source=/data/photos

Variants: `paper` (the paper's widths, 16 passes, 2 bpp; needs a GPU); `tiny` (about a sixteenth of the widths, 8
passes, 1 bpp; two CPU cores). Another cell: --config.model.arguments.cell=residual_gru; another framework:
--config.model.arguments.framework=one_shot. `toy` is for tests. The networks are trained
first, then, alone, the entropy coder of their bits.
"""

from mlic_jax.errors import UsageError
from mlic_jax.models import toderici2017
from mlic_jax.training import config as base
from mlic_jax.training import recipes

VARIANTS = ("tiny", "paper")
SMALLEST = "toy"
# Steps of the networks, then of the entropy coder.
PHASES = {"paper": (1_000_000, 200_000), "tiny": (500, 150), "toy": (2, 1)}


def get_config(variant: str = "tiny"):
    if variant not in PHASES:
        raise UsageError(f"variant {variant!r} is not known: use one of {', '.join(VARIANTS)}")
    networks, coder = PHASES[variant]
    config = base.defaults()
    config.model.name = "toderici2017"
    widths = {"paper": toderici2017.PUBLISHED, "tiny": toderici2017.TINY, "toy": toderici2017.TOY}[variant]
    config.model.arguments = {
        "cell": "lstm", "framework": "additive", **widths, "copies": 4, "entropy": "binary_rnn",
        "remat": variant == "paper",
    }  # fmt: skip
    recipes.make_tiny(config, patch_size=64, steps=networks)
    config.schedule, config.phases = ("rd", "entropy"), (networks, coder)
    config.train.steps = networks + coder
    config.data.batch_size = 4
    config.optimizer.learning_rate = 6e-3
    config.optimizer.warmup_steps = 0 if variant == "toy" else 50
    # In place of the paper's choice of tiles that PNG compresses worst.
    config.data.detail_weight = 1.0
    config.data.cache_mib = 1024
    # Lengths are counted in an objective's own steps.
    config.optimizers.entropy = {"learning_rate": 2e-3, "decay_steps": coder, "warmup_steps": 0}
    if variant == "paper":
        # The paper sweeps rates with a large epsilon of Adam; these are a public implementation's.
        config.data.batch_size, config.data.patch_size = 32, 32
        config.data.scale_range = (1.0, 1.0)
        config.optimizer.learning_rate = 5e-4
        config.optimizers.entropy = {"learning_rate": 1e-3, "decay_steps": coder, "warmup_steps": 0}
        config.train.evaluate_every = config.train.checkpoint_every = 5000
    return config

"""Johnston 2018: the networks of Toderici 2017 with priming, a loss weighted by SSIM, and bits where they are needed.

    mlic train --config johnston2018:tiny --workdir runs/johnston --config.data.source=/data/photos

Variants: `paper` (the paper's widths, 16 passes, three of priming; needs a GPU); `tiny` (about a sixteenth of the
widths, 6 passes; two CPU cores). Without priming: --config.model.arguments.prime_steps=0; with the plain loss:
--config.model.arguments.loss=l1. `toy` and `toy_adaptive` are for tests. The networks are trained first, then, alone,
the entropy coder of their bits.
"""

from mlic_jax.errors import UsageError
from mlic_jax.models import johnston2018
from mlic_jax.training import config as base
from mlic_jax.training import recipes

VARIANTS = ("tiny", "paper")
SMALLEST = "toy"
ALSO_TESTED = ("toy_adaptive",)
# Steps of the networks, then of the entropy coder.
PHASES = {"paper": (1_000_000, 200_000), "tiny": (400, 150), "toy": (2, 1)}


def get_config(variant: str = "tiny"):
    if variant not in (*VARIANTS, SMALLEST, *ALSO_TESTED):
        raise UsageError(f"variant {variant!r} is not known: use one of {', '.join(VARIANTS)}")
    allocation = "uniform" if variant == "toy" else "adaptive"
    variant = variant.split("_")[0]
    networks, coder = PHASES[variant]
    config = base.defaults()
    config.model.name = "johnston2018"
    widths = {"paper": johnston2018.PUBLISHED, "tiny": johnston2018.TINY, "toy": johnston2018.TOY}[variant]
    config.model.arguments = {
        "cell": "gru", "framework": "additive", **widths, "copies": 4, "hidden_kernels": "3x3",
        "prime_steps": 1 if variant == "toy" else 3, "diffuse_steps": 0, "loss": "ssim_l1", "masked": 0.5,
        "entropy": "binary_rnn", "allocation": allocation, "remat": variant == "paper",
    }  # fmt: skip
    recipes.make_tiny(config, patch_size=64, steps=networks)
    config.schedule, config.phases = ("rd", "entropy"), (networks, coder)
    config.train.steps = networks + coder
    config.data.batch_size = 4
    config.data.detail_weight = 1.0
    config.data.cache_mib = 1024
    config.optimizer.learning_rate = 4e-3
    config.optimizer.warmup_steps = 0 if variant == "toy" else 50
    # Lengths are counted in an objective's own steps.
    config.optimizers.entropy = {"learning_rate": 2e-3, "decay_steps": coder, "warmup_steps": 0}
    if variant == "paper":
        config.data.batch_size, config.data.patch_size = 32, 128
        config.optimizer.learning_rate = 2e-4
        config.optimizers.entropy = {"learning_rate": 1e-3, "decay_steps": coder, "warmup_steps": 0}
        config.train.evaluate_every = config.train.checkpoint_every = 5000
    return config

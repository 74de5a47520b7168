"""KltNet 2: one model for every rate, whose receiver suits one CPU core.

    mlic train --config kltnet2:nano --workdir runs/nano --config.data.source=/data/photos
    mlic train --config kltnet2:nano-large --workdir runs/nano-large --config.init_from=runs/nano ...
    mlic train --config kltnet2:nano-priors --workdir runs/nano-priors --config.init_from=runs/nano-large ...

There are no trained weights of it yet, and no rates and distortions: docs/training.md has it in its queue, and
docs/lab/kltnet2.md says what is known. `mlic compress` uses configs/kltnet.py's model.

Variants: `nano`, a receiver of some 5 kMAC/pixel; `tiny2`, one of 20 at most; `toy` is for tests. Stages as in
configs/kltnet.py: `-large` goes on with larger patches, `-priors` trains what decides probabilities on larger ones yet.
"""

from mlic_jax.models import kltnet2
from mlic_jax.training import recipes

VARIANTS = ("nano", "nano-large", "nano-priors", "tiny2", "tiny2-large", "tiny2-priors")
SMALLEST = "toy"
# Stage -> batch and side of patches, learning rate, steps at it, and down to zero.
STAGES = {
    "": (8, 128, 1e-3, 27_000, 18_000),
    "large": (2, 256, 4e-4, 9_000, 9_000),
    "priors": (2, 384, 6e-4, 1_000, 4_000),
}
SIZES = {"toy": (kltnet2.TOY, STAGES), "nano": (kltnet2.NANO, STAGES), "tiny2": (kltnet2.TINY2, STAGES)}


def get_config(variant: str = "nano"):
    return recipes.in_stages(variant, "kltnet2", SIZES)

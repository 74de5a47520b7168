"""KltNet, one model for every rate: what `mlic compress` uses.

    mlic train --config kltnet:tiny --workdir runs/klt --config.data.source=/data/photos
    mlic train --config kltnet:tiny-large --workdir runs/klt-large --config.init_from=runs/klt ...
    mlic train --config kltnet:tiny-priors --workdir runs/klt-priors --config.init_from=runs/klt-large ...

Variants: `tiny`, whose weights are in the package, trains on two CPU cores; `base` is for a GPU; `toy` is for tests.
Each is trained in three stages. The second, `-large`, goes on with larger patches, since small ones teach the priors
the borders of patches; the third, `-priors`, trains the priors alone, on larger ones yet, for symbols as files have
them. What was tried before this recipe was chosen, and what it reached, stands in docs/lab/kltnet.md.
"""

from mlic_jax.models import kltnet
from mlic_jax.training import recipes

VARIANTS = ("tiny", "tiny-large", "tiny-priors", "base", "base-large", "base-priors")
SMALLEST = "toy"
ALSO_TESTED = ("toy-priors",)
# Stage -> batch and side of patches, learning rate, steps at it, and down to zero. Tiny takes two and a half hours of
# two cores, at five steps a second, then one, then a quarter. Base has not been trained by these steps yet; one takes
# some 13 ms on an H100 (docs/lab/gpu.md).
CPU = {
    "": (8, 128, 1e-3, 27_000, 18_000),
    "large": (2, 256, 4e-4, 9_000, 9_000),
    "priors": (2, 384, 6e-4, 1_000, 4_000),
}
GPU = {
    "": (32, 256, 6e-4, 40_000, 20_000),
    "large": (16, 384, 3e-4, 5_000, 10_000),
    "priors": (16, 384, 6e-4, 1_000, 4_000),
}
SIZES = {"toy": (kltnet.TOY, CPU), "tiny": (kltnet.TINY, CPU), "base": (kltnet.BASE, GPU)}


def get_config(variant: str = "tiny"):
    config = recipes.in_stages(variant, "kltnet", SIZES)
    config.train.bfloat16 = variant.startswith("base")
    return config

"""bmshj2018-factorized (Ballé et al., ICLR 2018).

    mlic train --config configs/bmshj2018_factorized.py:4 --workdir runs/bmshj2018_factorized-4

The part after the colon is the quality, 1 to 8 (widths and lambda of CompressAI's zoo; default 4), or `tiny`: a narrow
model on the bundled photos, which two CPU cores train in minutes.

What to expect at full length (Kodak, CompressAI's published models):
quality 1 26.91 dB at 0.123 bpp, 4 31.28 dB at 0.440, 8 39.62 dB at 1.833.
They took 4 to 5 million steps of batch 16 or 32 on Vimeo-90k; give such a set by --config.data.source=FOLDER.
"""

from mlic_jax import config as base
from mlic_jax.models import bmshj2018


def get_config(quality: str = "4"):
    config = base.defaults()
    config.model.name = "bmshj2018-factorized"
    config.model.arguments.distortion = "mse"
    config.model.arguments.proxy = "noise"
    q = base.quality_of(quality, bmshj2018.WIDTHS)
    config.model.arguments.lmbda = bmshj2018.LAMBDAS[q or 4]
    config.model.arguments.update(bmshj2018.TINY if q is None else dict(zip("NM", bmshj2018.WIDTHS[q], strict=True)))
    base.make_tiny(config) if q is None else base.published_recipe(config)
    return config

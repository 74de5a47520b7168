"""What `launch/demo.sh` trains: the codec whose weights are in the package, from nothing, for four minutes.

    mlic train --config demo --workdir runs/demo
    mlic train --config demo:priors --workdir runs/demo-priors --config.init_from=runs/demo

Eight bundled photos and two CPU cores. First everything, on small patches; then for half a minute the priors alone, on
patches so large that they see more than borders. The shipped weights have seen more photos, for much longer:
configs/kltnet.py.
"""

from mlic_jax.errors import UsageError
from mlic_jax.models import kltnet
from mlic_jax.training import config as base
from mlic_jax.training import recipes

VARIANTS = ("all", "priors")
SMALLEST = "all"


def get_config(stage: str = "all"):
    if stage not in VARIANTS:
        raise UsageError(f"stage {stage!r} is not known: use one of {', '.join(VARIANTS)}")
    config = base.defaults()
    config.model.name = "kltnet"
    config.model.arguments = {**kltnet.TINY, "proxy": "split", "clipped": True}
    # Half the batch of other tiny configs and more steps: as far by each step, and twice as many in the time.
    recipes.make_tiny(config, steps=1100)
    config.data.batch_size = 4
    config.data.detail_weight = 1.0
    config.optimizer.arguments.b2 = 0.99
    config.optimizer.warmup_steps = 50
    config.train.ema = 0.99
    config.train.log_every = 20
    config.train.evaluate_every = config.train.checkpoint_every = 550
    if stage == "priors":
        recipes.make_tiny(config, patch_size=384, steps=200)
        config.schedule = ("priors",)
        config.data.batch_size = 2
        config.optimizer.warmup_steps = 10
        config.train.ema = 0.9
    return config

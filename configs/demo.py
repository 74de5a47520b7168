"""What `launch/demo.sh` trains: the codec whose weights are in the package, from nothing, for four minutes.

    mlic train --config configs/demo.py --workdir runs/demo

Eight bundled photos and two CPU cores. The shipped weights have seen more photos, for much longer: configs/kltnet.py.
"""

from mlic_jax import config as base
from mlic_jax.models import kltnet


def get_config():
    config = base.defaults()
    config.model.name = "kltnet"
    config.model.arguments = {**kltnet.TINY, "proxy": "mixed"}
    base.make_tiny(config)
    config.data.detail_weight = 1.0
    config.optimizer.arguments.b2 = 0.99
    config.optimizer.warmup_steps = 50
    config.optimizer.decay_steps = config.train.steps = 1200
    # Half the batch of `tiny` and more steps: as far by each step, and twice as many in the time.
    config.data.batch_size = 4
    config.train.ema = 0.99
    config.train.log_every = 20
    config.train.evaluate_every = config.train.checkpoint_every = 400
    return config

"""What `launch/demo.sh` trains: a narrow mean-scale hyperprior, four minutes on two CPU cores, on eight bundled photos.

    mlic train --config configs/demo.py --workdir runs/demo

It shows the way through the project, not what learned compression can do: some thousand steps on eight photos are a
ten-thousandth of a published model's training.
"""

from mlic_jax import config as base


def get_config():
    config = base.defaults()
    config.model.name = "mbt2018-mean"
    config.model.arguments = {"N": 32, "M": 48, "lmbda": 0.0035, "distortion": "mse", "proxy": "mixed"}
    base.make_tiny(config)
    config.data.detail_weight = 1.0
    config.optimizer.warmup_steps = 50
    config.optimizer.learning_rate = 2e-3
    config.optimizer.decay_steps = config.train.steps = 2400
    # Half the batch of `tiny` and more steps: as far by each step, and twice as many in the time.
    config.data.batch_size = 4
    config.train.ema = 0.99
    config.train.log_every = 20
    config.train.evaluate_every = config.train.checkpoint_every = 400
    return config

"""Trains the model of snake_hyperprior.py, in minutes, on the bundled photos:

PYTHONPATH=. mlic train --config config.py --workdir run
"""

from mlic_jax.training import recipes
from mlic_jax.training.config import defaults


def get_config():
    config = defaults()
    config.model.name = "snake_hyperprior:codec"
    config.model.arguments = {"N": 32, "M": 48, "lmbda": 0.013}
    recipes.make_tiny(config)
    return config

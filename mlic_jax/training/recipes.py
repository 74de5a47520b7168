"""Recipes that several configs share: how long a model is trained, and how fast."""

from __future__ import annotations

from ml_collections import ConfigDict

from mlic_jax.errors import UsageError
from mlic_jax.training.config import defaults


def quality_of(argument: str, qualities) -> int | None:
    """The quality that stands behind the colon of `--config file.py:argument`; None for `tiny`.

    Raises UsageError naming what would be possible.
    """
    if argument == "tiny":
        return None
    if not argument.isdigit() or int(argument) not in qualities:
        known = list(qualities)
        raise UsageError(f"quality {argument!r} is not known: use {known[0]} to {known[-1]}, or tiny")
    return int(argument)


def make_tiny(config: ConfigDict, patch_size: int = 128, steps: int = 2000) -> None:
    """Turns a config into one that two CPU cores train in minutes, on the bundled photos. Sets no width."""
    config.data.batch_size = 8
    config.data.patch_size = patch_size
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_steps = steps
    config.train.steps = steps
    config.train.evaluate_every = 500
    config.train.checkpoint_every = 500


def published_recipe(config: ConfigDict) -> None:
    """The recipe of CompressAI's published models: 4 million steps of batch 16, Adam at 1e-4, halved on plateaus.

    Here the halvings are at fixed steps, so that a run can be resumed and repeated.
    """
    config.data.batch_size = 16
    config.optimizer.schedule = "steps"
    config.optimizer.boundaries = (2_000_000, 2_750_000, 3_250_000, 3_600_000, 3_850_000)
    config.optimizer.factor = 0.5
    config.train.steps = 4_000_000
    config.train.evaluate_every = 5000
    config.train.checkpoint_every = 5000


def of_quality(argument: str, name: str, widths, lambdas, tiny) -> ConfigDict:
    """The config of a model that comes in qualities, as CompressAI's zoo has them.

    Args:
      argument: what stands behind the colon, a quality or `tiny`.
      name: of the model in the zoo.
      widths: quality -> (N, M).
      lambdas: quality -> weight of the distortion.
      tiny: the widths of the tiny variant, which takes the lambda of quality 4.

    Raises UsageError as `quality_of` does.
    """
    quality = quality_of(argument, widths)
    N, M = (tiny["N"], tiny["M"]) if quality is None else widths[quality]
    config = defaults()
    config.model.name = name
    config.model.arguments = {"N": N, "M": M, "lmbda": lambdas[quality or 4], "distortion": "mse", "proxy": "noise"}
    # The step from which the parse path trains with the rounding it will have in files; -1: rounded at export alone.
    config.model.arguments.quantise_from = -1
    make_tiny(config) if quality is None else published_recipe(config)
    return config

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


# What stands behind a quality for the objective of MS-SSIM.
MS_SSIM = "-ms-ssim"


def of_quality(argument: str, name: str, widths, lambdas, lambdas_ms_ssim, tiny) -> ConfigDict:
    """The config of a model that comes in qualities, as CompressAI's zoo has them.

    Args:
      argument: what stands behind the colon: a quality, one with MS_SSIM behind it, or `tiny`.
      name: of the model in the zoo.
      widths: quality -> (N, M), or (N,).
      lambdas: quality -> weight of the distortion.
      lambdas_ms_ssim: quality -> weight of 1 - MS-SSIM.
      tiny: the arguments of the tiny variant, which takes the lambda of quality 4.

    Raises UsageError as `quality_of` does.
    """
    quality = quality_of(argument.removesuffix(MS_SSIM), widths)
    distortion = "ms-ssim" if argument.endswith(MS_SSIM) else "mse"
    config = defaults()
    config.model.name = name
    config.model.arguments = dict(tiny) if quality is None else dict(zip("NM", widths[quality], strict=False))
    weights = lambdas_ms_ssim if distortion == "ms-ssim" else lambdas
    config.model.arguments.update(lmbda=weights[quality or 4], distortion=distortion, proxy="noise")
    # The step from which the parse path trains with the rounding it will have in files; -1: rounded at export alone.
    config.model.arguments.quantise_from = -1
    make_tiny(config) if quality is None else published_recipe(config)
    if quality and distortion == "ms-ssim":
        # CompressAI's were trained for squared errors before, see `init_from`.
        config.optimizer.learning_rate = 1e-5
    return config


def in_stages(variant: str, name: str, sizes) -> ConfigDict:
    """The config of a model of every rate that is trained in three stages: all, on larger patches, the priors alone.

    Args:
      variant: what stands behind the colon: a size, or one with `-large` or `-priors` behind it.
      name: of the model in the zoo.
      sizes: size -> (the model's widths, stage "", "large" or "priors" -> (batch, side of patches, learning rate, steps
        at it, steps on which it falls to zero)).

    Raises UsageError naming what would be possible.
    """
    size, _, stage = variant.partition("-")
    if size not in sizes or stage not in sizes[size][1] or variant.endswith("-"):
        known = ", ".join(f"{size}, {size}-large, {size}-priors" for size in sizes)
        raise UsageError(f"variant {variant!r} is not known: use one of {known}")
    widths, stages = sizes[size]
    config = defaults()
    config.model.name = name
    config.model.arguments = {
        **widths,
        "distortion": "mse",
        "proxy": "split",
        "quantise_from": -1,
        "clipped": True,
    }
    config.data.detail_weight = 1.0
    config.data.cache_mib = 2048
    config.optimizer.arguments.b2 = 0.99
    config.optimizer.warmup_steps = 100
    # Constant, then down to zero: a run can be prolonged as long as the decay has not begun (docs/training.md).
    config.optimizer.schedule = "wsd"
    config.train.ema = 0.998
    config.train.log_every = 100
    config.train.evaluate_every = config.train.checkpoint_every = 1000
    if stage == "priors":
        config.schedule = ("priors",)
        config.train.ema = 0.99
    config.data.batch_size, config.data.patch_size, rate, constant, decay = stages[stage]
    config.optimizer.learning_rate = rate
    config.optimizer.decay_from, config.optimizer.decay_steps = constant, decay
    config.train.steps = constant + decay
    return config

"""Optimisers from a config."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import optax
from ml_collections import ConfigDict

from mlic_jax.errors import TrainingError, UsageError
from mlic_jax.training import parallel
from mlic_jax.training.config import optimizer_of
from mlic_jax.training.matrix_optimizers import SMALLEST, has_matrices, muon, soap

SCHEDULES = ("constant", "cosine", "steps", "wsd")

# Ours, which come before those of optax.
OWN = {"soap": soap, "muon": muon}


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """updates -> learning rate. Raises UsageError for an unknown or impossible schedule."""
    for key in ("learning_rate", "warmup_steps", "final_fraction", "factor"):
        if not 0 <= config[key] < math.inf:
            raise UsageError(f"optimizer.{key} is {config[key]}: expected 0 or more")
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif config.schedule == "cosine":
        if config.decay_steps <= warmup:
            raise UsageError(f"optimizer.decay_steps is {config.decay_steps}: a cosine needs more than the warm-up")
        after = optax.cosine_decay_schedule(peak, config.decay_steps - warmup, alpha=config.final_fraction)
    elif config.schedule == "steps":
        if min(config.boundaries, default=warmup) < warmup:
            raise UsageError(f"optimizer.boundaries {tuple(config.boundaries)} begin within the warm-up of {warmup}")
        boundaries = {int(b) - warmup: config.factor for b in config.boundaries}
        after = optax.piecewise_constant_schedule(peak, boundaries)
    elif config.schedule == "wsd":
        # Warm-up, stable, decay. Steps before the decay do not depend on when it begins, so that a run can be continued
        # for longer than was planned.
        if config.decay_from < warmup:
            raise UsageError(f"optimizer.decay_from is {config.decay_from}: wsd decays after the warm-up of {warmup}")
        if config.decay_steps < 1:
            raise UsageError(f"optimizer.decay_steps is {config.decay_steps}: wsd needs 1 or more")
        final = peak * config.final_fraction
        after = optax.linear_schedule(peak, final, config.decay_steps, config.decay_from - warmup)
    else:
        raise UsageError(f"optimizer.schedule {config.schedule!r} is not known: use one of {', '.join(SCHEDULES)}")
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def check_resume(saved: Mapping[str, Any], config: ConfigDict, step: int) -> None:
    """Raises TrainingError where a changed `decay_from` would have changed the steps before a checkpoint.

    Args:
      saved: `optimizer` of the config that the checkpoint was written with.
      config: the same of the run that goes on.
      step: of the checkpoint.
    """
    before, now = saved.get("decay_from", 0), config.decay_from
    if config.schedule == "wsd" and before != now and step > min(before, now):
        raise TrainingError(
            f"optimizer.decay_from was {before} and is {now}: the checkpoint is of step {step}, when the decay of one "
            f"of them had begun. Go on from an earlier one, or with optimizer.decay_from={before}"
        )


def make(config: ConfigDict) -> optax.GradientTransformation:
    """The optimiser that a config's `optimizer` describes. Raises UsageError naming what is wrong with it."""
    factory = OWN.get(config.name) or getattr(optax, config.name, None)
    if not inspect.isfunction(factory) or "learning_rate" not in inspect.signature(factory).parameters:
        raise UsageError(
            f"optimizer.name {config.name!r} is neither {' nor '.join(OWN)} nor an optimiser of optax: "
            "try adam, adamw or sgd"
        )
    rate = learning_rate(config)
    if not 0 <= config.clip_norm < math.inf:  # a negative one turns the gradient round
        raise UsageError(f"optimizer.clip_norm is {config.clip_norm}: expected a norm above 0, or 0 for no clipping")
    try:
        optimizer = factory(learning_rate=rate, **config.arguments.to_dict())
    except (TypeError, UsageError) as reason:
        raise UsageError(f"optimizer.arguments do not fit {config.name!r}: {reason}") from reason
    if config.clip_norm:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer


def make_all(config: ConfigDict) -> dict[str, optax.GradientTransformation]:
    """Objective -> optimiser, for the objectives of a whole config's schedule. Raises UsageError as `make` does."""
    for name, changes in config.optimizers.items():
        if name not in config.schedule:
            raise UsageError(f"optimizers.{name}: the schedule has only the objectives {', '.join(config.schedule)}")
        for key in changes:
            if key not in config.optimizer:
                raise UsageError(f"optimizers.{name}.{key} is not known: use one of {', '.join(config.optimizer)}")
    return {name: make(optimizer_of(config, name)) for name in dict.fromkeys(config.schedule)}


def without_matrices(config: ConfigDict, states: Mapping[str, Any]) -> list[str]:
    """Sentences about objectives whose optimiser is for matrices and has found none, so that it is Adam.

    Args:
      config: a whole config.
      states: objective -> optax state.
    """
    said = []
    for name, state in states.items():
        of_it = optimizer_of(config, name)
        if of_it.name in OWN and not has_matrices(state):
            smallest = of_it.arguments.get("smallest", SMALLEST)
            said.append(
                f"optimizer.name {of_it.name!r} is Adam here: no kernel of objective {name!r} has {smallest} channels "
                "on both sides (optimizer.arguments.smallest). Choose adam, or set that lower"
            )
    return said


def learning_rates(config: ConfigDict, states: Mapping[str, Any]) -> dict[str, float]:
    """Objective -> the learning rate of its latest update.

    Args:
      config: a whole config.
      states: objective -> optax state, on the devices. It has counted the updates: steps that were skipped are not
        among them.
    """
    rates = {}
    for name, state in states.items():
        counts = [parallel.local(count) for _, count in optax.tree_utils.tree_get_all_with_path(state, "count")]
        updates = max(map(int, counts), default=1)
        rates[name] = float(learning_rate(optimizer_of(config, name))(max(updates - 1, 0)))
    return rates

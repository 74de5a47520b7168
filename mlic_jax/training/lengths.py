"""How long a run is: making it shorter or longer as a whole, and saying what a length does not reach."""

from __future__ import annotations

import itertools

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from mlic_jax.errors import UsageError
from mlic_jax.training.config import optimizer_of

# A part of a schedule that may be missing without a word: at its end little happens.
HARDLY = 0.05


def stretch(config: ConfigDict, steps: int) -> None:
    """Sets the steps of a config; phases, and the lengths of all learning rates' schedules, change by the same factor.

    A warm-up stays shorter than what follows it, a decay and a phase have at least one step, and what ended with the
    run does so again. Steps that arguments of a model count stay as they are. Raises UsageError for steps below 1.
    """
    if steps < 1:
        raise UsageError(f"steps is {steps}: 1 or more are needed")
    before = config.train.steps

    def down(length: int) -> int:
        return length * steps // before

    def up(length: int) -> int:
        return -(-length * steps // before)

    for optimizer in (config.optimizer, *config.optimizers.values()):
        for key, rounded in (("warmup_steps", down), ("decay_from", down), ("decay_steps", up)):
            if key in optimizer:
                optimizer[key] = rounded(optimizer[key])
        if "boundaries" in optimizer:
            optimizer.boundaries = tuple(map(down, optimizer.boundaries))
    ends = [0, *map(down, itertools.accumulate(config.phases))]
    config.phases = tuple(max(1, end - begin) for begin, end in itertools.pairwise(ends))
    config.train.steps = steps


def as_overrides(config: ConfigDict, steps: int) -> list[str]:
    """What `stretch` changes of a config, as words for `config.load`. Raises as `stretch`."""
    other = ConfigDict(config.to_dict())
    stretch(other, steps)
    before, after = (flatten_dict(one.to_dict(), sep=".") for one in (config, other))
    return [f"--config.{key}={value}" for key, value in after.items() if value != before[key]]


def not_reached(config: ConfigDict, planned: ConfigDict) -> list[str]:
    """What a run does not come to, or is without a learning rate for, though its config file had it so. In sentences.

    Args:
      config: of the run.
      planned: of the file alone.
    """
    said = []
    for name in dict.fromkeys(config.schedule):
        own, length, kind, final = _course(config, name)
        before, planned_length, *_ = _course(planned, name)
        if not own and before:
            first = sum(config.phases[: tuple(config.schedule).index(name)]) + 1
            said.append(f"{name!r} is never trained: its phase begins at step {first} of {config.train.steps}")
        elif own < length and own / length < min(1, before / planned_length if planned_length else 1) - HARDLY:
            said.append(f"the learning rate of {name!r} ({kind}) is cut off at {own} of its {length} steps")
        elif length < own and kind in ("cosine", "wsd") and not final and planned_length >= before:
            said.append(f"the learning rate of {name!r} ({kind}) is 0 from its step {length} of {own} on")
    return said


def steps_of(config: ConfigDict, name: str, steps: int) -> int:
    """In how many of the first `steps` steps of a run an objective is trained."""
    phases, schedule = tuple(config.phases), tuple(config.schedule)
    if not phases or len(phases) != len(schedule):
        return steps if name in schedule else 0
    rounds, rest = divmod(steps, sum(phases))
    begins = [0, *itertools.accumulate(phases)]
    mine = [place for place, other in enumerate(schedule) if other == name]
    return sum(rounds * phases[p] + min(max(rest - begins[p], 0), phases[p]) for p in mine)


def _course(config: ConfigDict, name: str) -> tuple[int, int, str, float]:
    """(an objective's own steps, those until its learning rate's schedule ends, the schedule, its final fraction)."""
    own = optimizer_of(config, name)
    length = {
        "cosine": own["decay_steps"],
        "wsd": own["decay_from"] + own["decay_steps"],
        "steps": max(own["boundaries"], default=0),
    }.get(own["schedule"], own["warmup_steps"])
    return steps_of(config, name, config.train.steps), length, own["schedule"], own["final_fraction"]

"""The trainings of a claim: their configs, their folders, and what of each is done. Starts no device of jax."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mlic_jax import atomic
from mlic_jax.errors import InputError, TrainingError, UsageError
from mlic_jax.evaluation.claim.spec import Arm, Claim, slug
from mlic_jax.training.config import change, load
from mlic_jax.training.lengths import stretch

# In a run's folder, beside what the trainer writes: from which step of which run it began.
BEGAN = "began_from.json"


class Run(NamedTuple):
    """One training.

    Attributes:
      arm: what is trained.
      point: index into the arm's points.
      point_name: what tables and folders call it.
      seed: of the training.
      config: all of it, JSON types.
      folder: its workdir.
      after: the run whose weights it begins with.
    """

    arm: Arm
    point: int
    point_name: str
    seed: int
    config: dict[str, Any]
    folder: pathlib.Path
    after: Run | None

    @property
    def name(self) -> str:
        """For people: "arm, point, seed 0"."""
        point = f"{self.point_name}, " if len(self.arm.points) > 1 else ""
        return f"{self.arm.name}, {point}seed {self.seed}"

    @property
    def steps(self) -> int:
        """How many it is to have."""
        return self.config["train"]["steps"]


def all_of(claim: Claim, workdir, source: str | None = None, steps: int | None = None) -> list[Run]:
    """The runs of a claim in the order in which they are trained: all arms of a seed, then those of the next.

    Args:
      claim: checked.
      workdir: of the claim; a run's is WORKDIR/<arm>/<point>/seed-<n>.
      source: of training photos, instead of the configs'.
      steps: of every run, instead of the claim's and the configs'.

    Raises:
      UsageError: a config or a key of one that does not exist, or a value of the wrong type.
    """
    made: dict[tuple[str, int, int], Run] = {}
    for seed in claim.seeds:
        for arm in claim.arms:
            if arm.of:
                continue
            names = point_names(arm)
            for point, changes in enumerate(arm.points):
                after = None
                if arm.after:
                    after = made.get((arm.after, point, seed)) or made[arm.after, 0, seed]
                config = make_config(arm, changes, claim.steps, steps)
                config.seed = seed
                if source is not None:
                    config.data.source = source
                if after is not None:
                    config.init_from = str(after.folder)
                folder = pathlib.Path(workdir, slug(arm.name), names[point], f"seed-{seed}")
                plain = json.loads(json.dumps(config.to_dict(), default=list))
                made[arm.name, point, seed] = Run(arm, point, names[point], seed, plain, folder, after)
    return list(made.values())


def make_config(arm: Arm, point: Mapping[str, Any], steps: int | None, instead: int | None) -> ConfigDict:
    """The config of a point of an arm: the file's, `steps`, the changes, and last `instead`, which replaces the steps.

    Either number of steps stretches the phases and schedules that it finds. Raises UsageError.
    """
    config = load(arm.config, [])
    try:
        if steps is not None:
            stretch(config, steps)
        for key, value in {**arm.changes, **point}.items():
            change(config, key, value)
        if instead is not None:
            stretch(config, instead)
    except UsageError as reason:
        raise UsageError(f"arm {arm.name!r}: {reason}") from reason
    return config


def point_names(arm: Arm) -> list[str]:
    """A name for each point, of its changes: "lmbda=0.01"; "only" where there are none; all different."""
    names = []
    for index, changes in enumerate(arm.points):
        name = slug("_".join(f"{key.split('.')[-1]}={value}" for key, value in changes.items())) or "only"
        names.append(name if len(name) <= 60 and name not in names else f"point-{index}")
    return names


# ---------------------------------------------------------------------- what is done


def done(run: Run) -> int:
    """The step of the run's latest checkpoint; 0 without one."""
    steps = [
        int(path.name) for path in (run.folder / "checkpoints").glob("*") if path.name.isdecimal() and path.is_dir()
    ]
    return max(steps, default=0)


def finished(run: Run) -> bool:
    """Whether the run has all its steps."""
    return done(run) == run.steps


def check(run: Run) -> None:
    """Raises TrainingError for a folder that has something else than this run: another config, another beginning, or
    more steps."""
    from mlic_jax.training.checkpoint import differences

    if not done(run):
        return
    try:
        saved = json.loads(atomic.read_bytes(run.folder / "config.json"))
        began = json.loads(atomic.read_bytes(run.folder / BEGAN)) if run.after else None
    except (InputError, ValueError) as reason:
        raise TrainingError(f"{run.name}: {str(run.folder)!r} is damaged: {reason}") from reason
    if lines := differences(saved, run.config):
        raise TrainingError(
            f"{run.name}: {str(run.folder)!r} belongs to another config; take a new --workdir. {'; '.join(lines)}"
        )
    if done(run) > run.steps:
        raise TrainingError(f"{run.name}: {str(run.folder)!r} has {done(run)} steps, more than {run.steps}")
    if run.after and began["step"] != run.after.steps:
        raise TrainingError(
            f"{run.name}: {str(run.folder)!r} began with step {began['step']} of {run.after.name}, which is to have "
            f"{run.after.steps}; take a new --workdir"
        )


def begin(run: Run) -> None:
    """Notes with what weights a run that has no checkpoint yet begins. Raises InputError."""
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise InputError(f"cannot make the workdir {str(run.folder)!r}: {reason.strerror}") from reason
    if run.after and not done(run):
        content = {"run": str(run.after.folder), "step": done(run.after)}
        atomic.write_bytes(run.folder / BEGAN, json.dumps(content).encode())


def minutes_left(run: Run, others: Sequence[Run]) -> float | None:
    """How long the steps that a run lacks take: at its own speed, that of others of its arm, or that of the claim's
    file; None where nothing is known of it."""
    left = run.steps - done(run)
    if not left:
        return 0.0
    measured = [speed(other)[1] for other in (run, *(other for other in others if other.arm.name == run.arm.name))]
    rate = next((rate for rate in measured if rate), run.arm.steps_per_second)
    return left / rate / 60 if rate else None


def speed(run: Run) -> tuple[float | None, float | None]:
    """(minutes, steps per second) of a run's steps, over all its resumes, from metrics.jsonl; None where unknown.

    Starting and compiling are not in it, nor is work that a kill undid: its lines are dropped by the run that goes on.
    """
    steps, timed, seconds, before = 0, 0, 0.0, 0
    try:
        lines = atomic.read_bytes(run.folder / "metrics.jsonl").splitlines()
    except InputError:
        return None, None
    for line in lines:
        try:
            record = json.loads(line)
            if record["kind"] != "train":
                continue
            count, before = record["step"] - before, record["step"]
        except (ValueError, KeyError, TypeError):  # the last line of a run that was killed
            continue
        steps += count
        if rate := record.get("steps_per_second"):
            timed += count
            seconds += count / rate
    if not timed:
        return None, None
    return steps / timed * seconds / 60, timed / seconds

"""Checkpoints: the only file that imports orbax.

A checkpoint holds the train state, the position of the data, and the config. It is written in the background and
renamed when whole, so that a kill at any moment leaves the one before it.
"""

from __future__ import annotations

import logging
import pathlib
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mlic_jax.config import FREE_TO_CHANGE
from mlic_jax.errors import InputError, TrainingError

LOSS = "loss"


class Restored(NamedTuple):
    """What `restore` returns: the step, the train state, the data's position and the config of that run."""

    step: int
    state: Any
    data: dict
    config: dict


def _flat(tree, prefix="") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            # JSON knows no tuples, so lists and tuples are the same here.
            flat[prefix + key] = list(value) if isinstance(value, tuple | list) else value
    return flat


def differences(saved: dict, config: dict) -> list[str]:
    """One line per key on which two configs differ in a way that changes what a step computes."""
    old, new = _flat(saved), _flat(config)
    lines = []
    for key in sorted(old.keys() | new.keys()):
        if key in FREE_TO_CHANGE or (key in old and key in new and old[key] == new[key]):
            continue
        lines.append(f"{key}: {old.get(key, 'not set')!r} in the checkpoint, {new.get(key, 'not set')!r} now")
    return lines


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: the run's folder; checkpoints stand in its `checkpoints`.
      keep: how many of the latest are kept, besides the one of least validation loss.
      read_only: never writes or deletes.
    """

    def __init__(self, workdir, keep: int = 2, read_only: bool = False):
        self.path = pathlib.Path(workdir).absolute() / "checkpoints"
        if read_only and not self.path.is_dir():
            raise InputError(f"{str(workdir)!r} has no checkpoints: give the --workdir of a run of `mlic train`")
        managers = ocp.checkpoint_managers

        def loss(metrics):
            return metrics[LOSS]

        # The best alone would let the latest go, and with it the step to resume from.
        policy = managers.AnyPreservationPolicy(
            [
                managers.LatestN(keep),
                managers.BestN(get_metric_fn=loss, reverse=True, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        if read_only:
            options = ocp.CheckpointManagerOptions(read_only=True, best_fn=loss, best_mode="min")
        else:
            options = ocp.CheckpointManagerOptions(
                preservation_policy=policy, cleanup_tmp_directories=True, best_fn=loss, best_mode="min"
            )
        self._manager = ocp.CheckpointManager(self.path, options=options)

    def save(self, step: int, state, data: dict, config: ConfigDict, loss: float | None = None) -> None:
        """Begins to write a checkpoint and returns. `loss`: the validation loss, if it was measured at this step."""
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data), config=ocp.args.JsonSave(config.to_dict())
        )
        self._manager.save(step, args=items, metrics=None if loss is None else {LOSS: float(loss)})

    def restore(self, state, step: int | None = None) -> Restored | None:
        """The latest checkpoint that can be read, onto the shapes and shardings of `state`; None if there is none.

        Args:
          state: a train state, concrete or abstract.
          step: a certain checkpoint instead of the latest.

        Raises:
          TrainingError: checkpoints exist but none can be read, or their arrays have other shapes.
        """
        steps = [step] if step is not None else sorted(self._manager.all_steps(), reverse=True)
        failures = []
        for candidate in steps:
            try:
                items = ocp.args.Composite(
                    state=ocp.args.StandardRestore(_abstract(state)),
                    data=ocp.args.JsonRestore(),
                    config=ocp.args.JsonRestore(),
                )
                found = self._manager.restore(candidate, args=items)
                return Restored(candidate, found.state, found.data, found.config)
            except Exception as reason:  # damage shows in many ways: each means "try the one before"
                failures.append(f"step {candidate}: {' '.join(str(reason).split())[:300]}")
                logging.getLogger(__name__).warning("checkpoint cannot be read: %s", failures[-1])
        if failures:
            raise TrainingError(f"no checkpoint in {str(self.path)!r} can be read: {'; '.join(failures)}")
        return None

    def config(self) -> dict | None:
        """The config of the latest checkpoint, or None."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore())).config
            except Exception:  # a damaged one: restore will say so
                continue
        return None

    def latest(self) -> int | None:
        """The step of the latest checkpoint."""
        return max(self._manager.all_steps(), default=None)

    def best(self) -> int | None:
        """The step of least validation loss; the latest where none was measured."""
        best = self._manager.best_step()
        return self.latest() if best is None else best

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _abstract(tree):
    def shape(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))

    return jax.tree.map(shape, tree)

"""Checkpoints: the only file that imports orbax.

A checkpoint holds the train state, the position of the data, the config, the validation loss, and a CRC32C of each of
these and of every array. It is written in the background and renamed when whole, so that a kill at any moment leaves
the one before it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import google_crc32c
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from mlic_jax.errors import InputError, TrainingError
from mlic_jax.training import parallel, places
from mlic_jax.training.config import FREE_TO_CHANGE, defaults

# The JSON items of a checkpoint, beside "state".
DATA, CONFIG, VALIDATION = "data", "config", "validation"
# CRC32C of these items and of the arrays, by name. Checkpoints from before it was invented have none.
CHECKSUMS = "checksums"

log = logging.getLogger(__name__)


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
    # A key that is younger than the checkpoint had its default value in effect.
    old = {key: value for key, value in _flat(defaults().to_dict()).items() if key in new} | old
    lines = []
    for key in sorted(old.keys() | new.keys()):
        if key in FREE_TO_CHANGE or (key in old and key in new and old[key] == new[key]):
            continue
        lines.append(f"{key}: {old.get(key, 'not set')!r} in the checkpoint, {new.get(key, 'not set')!r} now")
    return lines


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: the run's folder, or gs://BUCKET/PATH; checkpoints stand in its `checkpoints`.
      keep: how many of the latest are kept, besides the one of least validation loss.
      read_only: never writes or deletes.

    Raises:
      InputError: read_only, and there is no such folder; or it cannot be made.
    """

    def __init__(self, workdir, keep: int = 2, read_only: bool = False):
        self.path = places.absolute(workdir) / "checkpoints"
        self.read_only = read_only
        if read_only and not self.path.is_dir():
            raise InputError(f"{str(workdir)!r} has no checkpoints: give the --workdir of a run of `mlic train`")
        # (Orbax's own option read_only logs three warnings; this has the same effect.)
        writing = {"preservation_policy": _LatestAndBest(keep, self.best), "cleanup_tmp_directories": True}
        options = ocp.CheckpointManagerOptions(**({"create": False} if read_only else writing))
        try:
            self._manager = ocp.CheckpointManager(self.path, options=options)
        except OSError as reason:
            raise InputError(f"cannot make {str(self.path)!r}: {reason.strerror or reason}") from reason
        self._losses = {step: self._read(step, VALIDATION, {}).get("loss") for step in self._manager.all_steps()}

    def save(self, step: int, state, data: dict, config: ConfigDict, loss: float | None = None) -> None:
        """Begins to write a checkpoint and returns.

        Args:
          step: its number, larger than that of all others.
          state: arrays.
          data: the position of the data, as JSON types.
          config: of the run.
          loss: the validation loss, if it was measured at this step.

        Raises:
          TrainingError: this or the previous checkpoint cannot be written (disk full, no permission).
        """
        self._losses[step] = loss if loss is not None and math.isfinite(loss) else None
        items = {DATA: data, CONFIG: config.to_dict(), VALIDATION: {"loss": self._losses[step]}}
        items[CHECKSUMS] = {name: _checksum(item) for name, item in items.items()} | _checksums_of_arrays(state)
        items = {name: ocp.args.JsonSave(item) for name, item in items.items()}
        items["state"] = ocp.args.StandardSave(parallel.across_processes(state))
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, state, step: int | None = None) -> Restored | None:
        """The latest checkpoint that can be read, onto the shapes and shardings of `state`; None if there is none.

        Later ones that cannot be read are moved to the workdir's `damaged` (unless read_only): the run that goes on
        will write these steps again.

        Args:
          state: a train state, concrete or abstract.
          step: a certain checkpoint instead of the latest.

        Raises:
          InputError: there is no checkpoint of that step.
          TrainingError: checkpoints exist but none can be read, or their arrays have other shapes.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if step is not None:
            if step not in steps:
                there = ", ".join(map(str, sorted(steps))) or "none"
                raise InputError(f"{str(self.path)!r} has no checkpoint of step {step}: there are {there}")
            steps = [step]
        failures = {}
        for candidate in steps:
            restored, failure = None, ""
            try:
                restored = self._restore(candidate, state)
            except Exception as reason:  # damage shows in many ways: each means "try the one before"
                failure = " ".join(str(reason).split())[:300]
            if not parallel.anywhere(restored is None):
                if failures and not self.read_only:
                    self.set_aside(failures)
                    log.warning("the run goes on from the checkpoint of step %d", candidate)
                return restored
            failures[candidate] = f"step {candidate}: {failure or 'another process cannot read it'}"
            log.warning("checkpoint cannot be read: %s", failures[candidate])
        if failures:
            raise TrainingError(f"no checkpoint in {str(self.path)!r} can be read: {'; '.join(failures.values())}")
        return None

    def config(self) -> dict | None:
        """The config of the latest checkpoint that has a readable one, or None."""
        configs = (self._read(step, CONFIG) for step in sorted(self._manager.all_steps(), reverse=True))
        return next((config for config in configs if config is not None), None)

    def steps(self) -> list[int]:
        """The steps of all checkpoints, from the first to the latest."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The step of the latest checkpoint."""
        return max(self._manager.all_steps(), default=None)

    def best(self) -> int | None:
        """The step of least validation loss; the latest where none was measured."""
        measured = [step for step in self._manager.all_steps() if self._losses.get(step) is not None]
        return min(measured, key=self._losses.get) if measured else self.latest()

    def wait(self) -> None:
        """Waits until everything is written. Raises as `save` does."""
        with self._writing():
            self._manager.wait_until_finished()

    def reload(self) -> None:
        """Looks again at what is there: another process, a run at work, may write and delete checkpoints."""
        self._manager.reload()
        for step in self._manager.all_steps():
            if step not in self._losses:
                self._losses[step] = self._read(step, VALIDATION, {}).get("loss")

    def close(self) -> None:
        """Waits as `wait`, and ends. Raises as `save` does."""
        self.wait()
        self._manager.close()

    def _restore(self, step: int, state) -> Restored:
        """One checkpoint. Raises whatever Orbax does, and ValueError where a checksum is wrong."""
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(_abstract(state)),
            **{name: ocp.args.JsonRestore() for name in (DATA, CONFIG)},
        )
        restored = self._manager.restore(step, args=items)
        expected = self._checksums(step)
        if expected is not None:
            found = {DATA: _checksum(restored.data), CONFIG: _checksum(restored.config)}
            found |= {VALIDATION: _checksum(self._manager.restore(step, args=_json(VALIDATION))[VALIDATION])}
            found |= _checksums_of_arrays(restored.state)
            wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            if wrong:
                more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
                raise ValueError(f"damaged, by the CRC32C of {', '.join(wrong[:3])}{more}")
        return Restored(step, restored.state, restored.data, restored.config)

    def _checksums(self, step: int) -> dict[str, int] | None:
        """Those of a checkpoint, None for an old one that has none. Raises whatever Orbax does for damaged ones."""
        if not (self.path / str(step) / CHECKSUMS).exists():
            return None
        return self._manager.restore(step, args=_json(CHECKSUMS))[CHECKSUMS]

    def _read(self, step, item, otherwise=None):
        """A JSON item of a checkpoint; `otherwise` if it is damaged, of which `restore` will say more."""
        try:
            found, expected = self._manager.restore(step, args=_json(item))[item], self._checksums(step)
        except Exception:
            return otherwise
        return found if expected is None or expected.get(item) == _checksum(found) else otherwise

    def set_aside(self, steps) -> None:
        """Moves checkpoints to the workdir's `damaged`: the run that goes on will write these steps again."""
        folder = self.path.parent / "damaged"
        if parallel.is_main():
            folder.mkdir(exist_ok=True)
            for step in steps:
                epath.Path(folder / str(step)).rmtree(missing_ok=True)
                (self.path / str(step)).rename(folder / str(step))
        parallel.wait_for_all("set aside")
        self._manager.reload()
        log.warning("checkpoints moved to %s: steps %s", folder, ", ".join(map(str, sorted(steps))))

    @contextlib.contextmanager
    def _writing(self):
        # Orbax writes in the background and raises what went wrong there at the next call.
        try:
            yield
        except (OSError, ValueError) as reason:
            raise TrainingError(f"cannot write a checkpoint to {str(self.path)!r}: {reason}") from reason


class _LatestAndBest:
    """Which checkpoints Orbax keeps. The best alone would let the latest go, and with it the step to resume from."""

    def __init__(self, keep: int, best: Callable[[], int | None]):
        self.keep, self.best = keep, best

    def should_preserve(self, checkpoints, *, context):
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self.keep :], self.best()}
        return [step in kept for step in steps]


def _json(item: str):
    return ocp.args.Composite(**{item: ocp.args.JsonRestore()})


def _checksum(item) -> int:
    """CRC32C of JSON types, the same before they are written and after they are read."""
    plain = json.loads(json.dumps(item))  # JSON has neither tuples nor keys that are numbers
    return google_crc32c.value(json.dumps(plain, sort_keys=True).encode())


def _checksums_of_arrays(tree) -> dict[str, int]:
    """Path of an array in a replicated tree -> CRC32C of its bytes."""
    host = jax.device_get(parallel.local(tree))
    arrays = jax.tree_util.tree_leaves_with_path(host)
    return {jax.tree_util.keystr(path): google_crc32c.value(np.asarray(array).tobytes()) for path, array in arrays}


def _abstract(tree):
    def shape(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))

    return jax.tree.map(shape, tree)

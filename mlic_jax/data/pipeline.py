"""Training patches as a Grain pipeline.

    images -> shuffle -> repeat -> random patches of each -> this process's share of every batch -> batches -> prefetch

Sample n of a run is the image at place n of the shuffled, endlessly repeated source, with augmentations drawn from a
generator keyed on (seed, n); with one crop of each image, batch t is the samples [t B, (t + 1) B), and with k crops the
batches t k to t k + k - 1 are a crop each of them. So a batch is a pure function of (seed, t): it depends neither on
threads, workers or processes nor on what was read before, and resuming is a matter of one integer. An image that cannot
be read is replaced by the next of the source.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import time
import weakref
from typing import Any

import grain
import numpy as np
from absl import flags

from mlic_jax import runtime
from mlic_jax.data.patches import RandomPatch, check
from mlic_jax.data.unreadable import Readable, Unreadable
from mlic_jax.errors import TrainingError

log = logging.getLogger(__name__)

# Batches that are prepared ahead of the training step, beyond one by each thread: the time they take varies little.
AHEAD = 8


# The iterators to be closed when the program ends: torn down with the interpreter, Grain's workers complain.
_OPEN = weakref.WeakSet()


@atexit.register
def _close_all():
    for iterator in list(_OPEN):
        iterator.close()


def make_train_iterator(
    source,
    *,
    seed: int,
    batch_size: int,
    patch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    scale_range: tuple[float, float] = (0.5, 1.0),
    flip: bool = True,
    detail_weight: float = 0.0,
    num_threads: int | None = None,
    num_workers: int = 0,
    start: int = 0,
    crops: int = 1,
    max_unreadable: int = 0,
    other_files: bool = False,
) -> TrainIterator:
    """Endless training batches, the same for the same `seed` however the work is divided.

    Each batch is {"image": uint8 [B_local, P, P, 3], "position": int32 [B_local]}, with B_local = batch_size /
    process_count, P = patch_size, and position the example's index in the whole batch, 0 .. batch_size - 1. Process p
    has positions [p B_local, (p + 1) B_local): joined in the order of the processes, the parts are exactly the batch
    of a single process.

    Args:
      source: a sequence of uint8 [H, W, 3], see `make_source`. Smaller images than the patch are enlarged.
      seed: of order and augmentation, 0 or more.
      batch_size: examples in a step over all processes; a multiple of `process_count`.
      patch_size: side of the patches in pixels.
      process_index, process_count: which share of each batch this process gets.
      scale_range: images are scaled by a factor drawn from this range, within (0, 1], but not so far that they become
        smaller than the patch. (1, 1) keeps the pixels as they are, for sets without compression traces.
      flip: mirror every other patch, left to right.
      detail_weight: 0 cuts patches uniformly at random; otherwise one of `CANDIDATES` in patches.py is chosen with a
        chance that grows with its mean gradient to this power (1: in proportion): flat sky does not fill most batches.
      num_threads: threads that prepare batches; None for one per core in all; 0 for none, and no prefetch.
      num_workers: processes that prepare batches, each with its own threads and image cache; 0 for none. They are
        spawned, so that a script needs its `if __name__ == "__main__"`.
      start: the step whose batch comes first.
      crops: patches that are cut from an image whenever it is decoded; they stand in as many batches one after another.
      max_unreadable: images that cannot be read are skipped, and each is named in a warning; more of them than this
        raise InputError. Each process counts its own.
      other_files: go on from states that were saved with other images.

    Raises:
      UsageError: an argument out of its range, naming it.
    """
    check(seed >= 0, "seed", seed, "0 or more")
    check(start >= 0, "start", start, "0 or more")
    check(len(source) >= 1, "source", source, "at least one image")
    reading = _Reading(num_threads, num_workers, crops)
    cut = RandomPatch(patch_size, tuple(scale_range), flip, detail_weight)
    # Two seeds that are unrelated, for neighbouring seeds of the user too: Grain adds the epoch to the first.
    order_seed, augment_seed = (int(word) for word in np.random.SeedSequence(seed).generate_state(2))
    samples = grain.MapDataset.source(Readable(source, max_unreadable)).shuffle(seed=order_seed).repeat()
    samples = samples.random_map(_Crops(cut, crops), seed=augment_seed).map_with_index(_Label(batch_size))
    groups = _Share(samples, batch_size, process_index, process_count).batch(batch_size // process_count)
    identity = {
        "seed": seed,
        "batch_size": batch_size,
        "patch_size": patch_size,
        "images": len(source),
    }
    if hasattr(source, "digest"):
        identity["files"] = source.digest()
    return TrainIterator(groups, start, reading, identity, Unreadable(source, max_unreadable), other_files)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """How batches are prepared: by how many threads (None: one per core) and workers, in groups of how many batches."""

    num_threads: int | None
    num_workers: int
    crops: int

    def __post_init__(self):
        threads = self.num_threads
        check(threads is None or threads >= 0, "num_threads", threads, "None, or 0 or more")
        check(self.num_workers >= 0, "num_workers", self.num_workers, "0 or more")
        check(self.crops >= 1, "crops", self.crops, "1 or more")

    def iterator(self, groups: grain.MapDataset) -> grain.DatasetIterator:
        workers = self.num_workers
        threads = max(1, runtime.cores() // max(1, workers)) if self.num_threads is None else self.num_threads
        ahead = threads + min(threads, -(-AHEAD // self.crops))
        dataset = groups.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))
        if workers:
            # Grain's workers ask for absl flags, which only programs started by `absl.app.run` have parsed.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
            dataset = dataset.mp_prefetch(options)
        return iter(dataset)


class TrainIterator(grain.DatasetIterator):
    """The batches of `make_train_iterator`; its state is the number of the next step and nothing else.

    Grain's own iterators have a state that depends on threads and workers. This one's can be restored into any number
    of them, and by arithmetic: `set_state({"step": t})`. `grain.checkpoint.CheckpointSave` and `CheckpointRestore`
    take it as it is. Not for use from several threads at once.
    """

    def __init__(
        self,
        groups: grain.MapDataset,
        start: int,
        reading: _Reading,
        identity: dict[str, Any],
        unreadable: Unreadable,
        other_files: bool,
    ):
        super().__init__()
        self._groups, self._reading, self._identity = groups, reading, dict(identity)
        self._unreadable, self._other_files = unreadable, other_files
        self._step = start
        self._inner = None
        self._waited, self._steps = 0.0, 0  # seconds and steps since `figures` was called

    def __next__(self) -> dict[str, np.ndarray]:
        self._assert_not_closed()
        began = time.perf_counter()
        self.start_prefetch()
        crop = self._step % self._reading.crops
        if crop == 0 or self._group is None:
            self._group = self._next_group()
        batch = {"image": np.ascontiguousarray(self._group["image"][:, crop]), "position": self._group["position"]}
        self._step += 1
        self._waited, self._steps = self._waited + time.perf_counter() - began, self._steps + 1
        return batch

    def _next_group(self) -> dict[str, np.ndarray]:
        """{"image": [B_local, crops, P, P, 3], "position": [B_local]}."""
        group = next(self._inner)
        if self._reading.num_workers:
            # Out of the worker's shared memory, which otherwise lives as long as any use of the batch: when the program
            # ends with one still in hand, Python reports a leak.
            group = {key: np.array(value) for key, value in group.items()}
        self._unreadable.note(group.pop("replaced"))
        return group

    def figures(self) -> dict[str, float]:
        """For the logs: "data_wait_ms", the mean time that a step has waited for its batch since this was called last,
        and "unreadable", how many images this process has skipped in all, where there are any."""
        figures = {"data_wait_ms": 1000 * self._waited / max(1, self._steps)}
        self._waited, self._steps = 0.0, 0
        return figures | ({"unreadable": float(len(self._unreadable.names))} if self._unreadable.names else {})

    def start_prefetch(self) -> None:
        """Starts preparing batches in the background, if that has not begun yet."""
        if self._inner is None:
            self._group, self._inner = None, self._reading.iterator(self._groups[self._step // self._reading.crops :])
            _OPEN.add(self)
        self._inner.start_prefetch()

    def get_state(self) -> dict[str, Any]:
        """{"step": the step whose batch comes next, ...} as JSON types; the rest says which run it belongs to."""
        return {"step": self._step, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on with the batch of `state["step"]`. Warns where the state is of a run with other settings.

        Raises TrainingError where it was saved with other images, unless `other_files` was given.
        """
        changed = {key: state[key] for key, mine in self._identity.items() if state.get(key, mine) != mine}
        if not self._other_files and not changed.keys().isdisjoint(("images", "files")):
            raise TrainingError(
                f"the data are others than when this checkpoint was saved: {state['images']} images then, "
                f"{self._identity['images']} now, and their names differ, so the batches would be others. Bring "
                "them back, or give --config.data.other_files=True to go on with what is there now"
            )
        for key, old in changed.items():
            log.warning(
                "data pipeline: %s was %s when this state was saved and is %s now; the batches will differ",
                key,
                old,
                self._identity[key],
            )
        self._stop()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stops threads and workers. Otherwise the end of the program does."""
        self._closed = True
        self._stop()

    def _stop(self):
        # `close` also runs when construction failed half-way.
        inner = self.__dict__.get("_inner")
        if inner is not None:
            inner.close()
            self._inner = None

    def __str__(self) -> str:
        return f"TrainIterator(step={self._step}, {self._identity})"


@dataclasses.dataclass(frozen=True)
class _Crops:
    """((uint8 [H, W, 3], replaced), generator) -> patches uint8 [count, P, P, 3] of one image, as a sample."""

    cut: RandomPatch
    count: int

    def __call__(self, sample: tuple[np.ndarray, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        image, replaced = sample
        return {"image": np.stack([self.cut(image, rng) for _ in range(self.count)]), "replaced": np.int32(replaced)}


@dataclasses.dataclass(frozen=True)
class _Label:
    """Tells a sample its place in the whole batch."""

    batch_size: int

    def __call__(self, index: int, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return sample | {"position": np.int32(index % self.batch_size)}


class _Share(grain.MapDataset):
    """One process's samples: of every `batch_size` samples of the parent, the consecutive part that it gets.

    Slicing with a stride would be one line, but would leave the joined batch in another order than a single process's.
    """

    def __init__(self, parent: grain.MapDataset, batch_size: int, index: int, count: int):
        super().__init__(parent)
        check(count >= 1, "process_count", count, "1 or more")
        check(0 <= index < count, "process_index", index, f"0 .. {count - 1}")
        whole = batch_size >= 1 and batch_size % count == 0
        check(whole, "batch_size", batch_size, f"a positive multiple of the {count} processes")
        self._batch, self._part = batch_size, batch_size // count
        self._offset = index * self._part

    def __len__(self) -> int:
        # Grain's `batch` computes its length in floats, where the endless parent's would be more than `len` may be.
        return min(len(self._parent) // self._batch, 2**52) * self._part

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        step, row = divmod(index, self._part)
        return self._parent[step * self._batch + self._offset + row]

    def __str__(self) -> str:
        return f"_Share({self._offset}..{self._offset + self._part - 1} of {self._batch})"

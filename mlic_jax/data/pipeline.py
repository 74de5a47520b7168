"""Training patches as a Grain pipeline, and fixed validation patches.

    images -> shuffle -> repeat -> random patch of each -> this process's share of every batch -> batches -> prefetch

Sample n of a run is the image at place n of the shuffled, endlessly repeated source, with augmentations drawn from a
generator keyed on (seed, n); batch t is the samples [t B, (t + 1) B). So a batch is a pure function of (seed, t): it
depends neither on threads, workers or processes nor on what was read before, and resuming is a matter of one integer.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import weakref
from typing import Any

import grain
import numpy as np
from absl import flags
from PIL import Image

from mlic_jax.errors import UsageError

# From how many candidates a patch is chosen when `detail_weight` is not 0.
CANDIDATES = 8

# Mean absolute difference, in 8-bit steps, that a perfectly flat patch is taken to have: keeps its weight above 0.
_FLAT = 0.25


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
      detail_weight: 0 cuts patches uniformly at random; otherwise one of `CANDIDATES` is chosen with a chance that
        grows with its mean gradient to this power (1: in proportion), so that flat sky does not fill most batches.
      num_threads: threads that prepare batches; None for one per core, at most 8 in all; 0 for none, and no prefetch.
      num_workers: processes that prepare batches, each with its own threads and image cache; 0 for none. They are
        spawned, so that a script needs its `if __name__ == "__main__"`.
      start: the step whose batch comes first.

    Raises:
      UsageError: an argument out of its range, naming it.
    """
    _check(seed >= 0, "seed", seed, "0 or more")
    _check(patch_size >= 1, "patch_size", patch_size, "1 or more pixels")
    _check(process_count >= 1, "process_count", process_count, "1 or more")
    _check(0 <= process_index < process_count, "process_index", process_index, f"0 .. {process_count - 1}")
    _check(
        batch_size >= 1 and batch_size % process_count == 0,
        "batch_size",
        batch_size,
        f"a positive multiple of the {process_count} processes",
    )
    _check(
        len(scale_range) == 2 and 0 < scale_range[0] <= scale_range[1] <= 1,
        "scale_range",
        scale_range,
        "(low, high) with 0 < low <= high <= 1",
    )
    _check(detail_weight >= 0, "detail_weight", detail_weight, "0 or more")
    _check(num_threads is None or num_threads >= 0, "num_threads", num_threads, "None, or 0 or more")
    _check(num_workers >= 0, "num_workers", num_workers, "0 or more")
    _check(start >= 0, "start", start, "0 or more")
    _check(len(source) >= 1, "source", source, "at least one image")

    # Two seeds that are unrelated, for neighbouring seeds of the user too: Grain adds the epoch to the first.
    order_seed, augment_seed = (int(word) for word in np.random.SeedSequence(seed).generate_state(2))
    samples = grain.MapDataset.source(source).shuffle(seed=order_seed).repeat()
    samples = samples.random_map(
        RandomPatch(patch_size, tuple(scale_range), flip, detail_weight), seed=augment_seed
    ).map_with_index(_Label(batch_size))
    batches = _Share(samples, batch_size, process_index, process_count).batch(batch_size // process_count)
    identity = {
        "seed": seed,
        "batch_size": batch_size,
        "patch_size": patch_size,
        "images": len(source),
    }
    return TrainIterator(batches, start, num_threads, num_workers, identity)


class TrainIterator(grain.DatasetIterator):
    """The batches of `make_train_iterator`; its state is the number of the next step and nothing else.

    Grain's own iterators have a state that depends on threads and workers. This one's can be restored into any number
    of them, and by arithmetic: `set_state({"step": t})`. `grain.checkpoint.CheckpointSave` and `CheckpointRestore`
    take it as it is. Not for use from several threads at once.
    """

    def __init__(self, batches: grain.MapDataset, start: int, num_threads: int | None, num_workers: int, identity):
        super().__init__()
        self._batches, self._num_workers, self._identity = batches, num_workers, dict(identity)
        share = max(1, min(os.cpu_count() or 1, 8) // max(1, num_workers))
        self._num_threads = share if num_threads is None else num_threads
        self._step = start
        self._inner = None

    def __next__(self) -> dict[str, np.ndarray]:
        self._assert_not_closed()
        self.start_prefetch()
        batch = next(self._inner)
        self._step += 1
        if self._num_workers:
            # Out of the worker's shared memory, which otherwise lives as long as any use of the batch: when the program
            # ends with one still in hand, Python reports a leak.
            batch = {key: np.array(value) for key, value in batch.items()}
        return batch

    def start_prefetch(self) -> None:
        """Starts preparing batches in the background, if that has not begun yet."""
        if self._inner is None:
            # A few batches ahead of the training step are enough: the time they take varies little.
            options = grain.ReadOptions(num_threads=self._num_threads, prefetch_buffer_size=2 * self._num_threads)
            batches = self._batches[self._step :].to_iter_dataset(options)
            if self._num_workers:
                # Grain's workers ask for absl flags, which only programs started by `absl.app.run` have parsed.
                if not flags.FLAGS.is_parsed():
                    flags.FLAGS.mark_as_parsed()
                batches = batches.mp_prefetch(
                    grain.MultiprocessingOptions(num_workers=self._num_workers, per_worker_buffer_size=2)
                )
            self._inner = iter(batches)
            _OPEN.add(self)
        self._inner.start_prefetch()

    def get_state(self) -> dict[str, Any]:
        """{"step": the step whose batch comes next, ...} as JSON types; the rest says which run it belongs to."""
        return {"step": self._step, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on with the batch of `state["step"]`. Warns where the state is of a run with other data or settings."""
        for key, mine in self._identity.items():
            if state.get(key, mine) != mine:
                logging.getLogger(__name__).warning(
                    "data pipeline: %s was %s when this state was saved and is %s now; the batches will differ",
                    key,
                    state[key],
                    mine,
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


def validation_batch(source, patch_size: int, count: int) -> np.ndarray:
    """Fixed patches to watch training with: uint8 [count, P, P, 3], the same in every run.

    The first is the centre of the first image, the next the centre of the second, and so on; where `count` exceeds
    the number of images, further rounds take other fixed places. Nothing is scaled, except images smaller than P.

    Raises:
      UsageError: `patch_size` or `count` below 1.
    """
    _check(patch_size >= 1, "patch_size", patch_size, "1 or more pixels")
    _check(count >= 1, "count", count, "1 or more")
    patches = []
    for index in range(count):
        round_, image_index = divmod(index, len(source))
        image = source[image_index]
        height, width, _ = image.shape
        side = min(patch_size, height, width)
        # The R2 sequence: places that stay well spread over the image however many there are; the first is the centre.
        top = round((0.5 + 0.5698402909980532 * round_) % 1 * (height - side))
        left = round((0.5 + 0.7548776662466927 * round_) % 1 * (width - side))
        patches.append(_resize(image[top : top + side, left : left + side], patch_size))
    return np.stack(patches)


@dataclasses.dataclass(frozen=True)
class RandomPatch:
    """(uint8 [H, W, 3], generator) -> uint8 [P, P, 3]: scale, cut and mirror at random.

    Scaling the image by f and cutting P pixels is cutting P / f pixels and scaling those to P, at a fraction of the
    cost; the two differ only in a filter's width along the border. Where the image is smaller than the patch, its
    largest square is enlarged: blurrier than a photo, but unlike padding still a picture.
    """

    patch_size: int
    scale_range: tuple[float, float]
    flip: bool
    detail_weight: float

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width, _ = image.shape
        shortest = min(height, width)
        low, high = self.scale_range
        # The scale that just fits the patch is the lowest possible.
        scale = rng.uniform(min(max(low, self.patch_size / shortest), high), high)
        side = min(round(self.patch_size / scale), shortest)
        mirror = self.flip and rng.random() < 0.5
        count = CANDIDATES if self.detail_weight > 0 else 1
        tops = rng.integers(0, height - side + 1, count)
        lefts = rng.integers(0, width - side + 1, count)
        choice = 0
        if count > 1:
            detail = np.array([_detail(image[t : t + side, s : s + side]) for t, s in zip(tops, lefts)])
            weight = (detail / detail.max()) ** self.detail_weight
            choice = rng.choice(count, p=weight / weight.sum())
        top, left = tops[choice], lefts[choice]
        patch = _resize(image[top : top + side, left : left + side], self.patch_size)
        return np.ascontiguousarray(patch[:, ::-1] if mirror else patch)


def _detail(region: np.ndarray) -> float:
    """Mean absolute gradient of a region [S, S, 3], in 8-bit steps, from the green of every other row and column."""
    green = region[::2, ::2, 1].astype(np.int16)
    if min(green.shape) < 2:
        return _FLAT
    return _FLAT + np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean()


def _resize(region: np.ndarray, size: int) -> np.ndarray:
    """uint8 [S, S, 3] -> uint8 [size, size, 3], untouched if it has that size."""
    if region.shape[0] == size:
        return region
    return np.asarray(Image.fromarray(region).resize((size, size), Image.Resampling.LANCZOS))


@dataclasses.dataclass(frozen=True)
class _Label:
    """Makes a patch an example that knows its place in the whole batch."""

    batch_size: int

    def __call__(self, index: int, patch: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": patch, "position": np.int32(index % self.batch_size)}


class _Share(grain.MapDataset):
    """One process's samples: of every `batch_size` samples of the parent, the consecutive part that it gets.

    Slicing with a stride would be one line, but would leave the joined batch in another order than a single process's.
    """

    def __init__(self, parent: grain.MapDataset, batch_size: int, index: int, count: int):
        super().__init__(parent)
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


def _check(valid: bool, name: str, value, accepted: str):
    if not valid:
        raise UsageError(f"{name} {value!r}: expected {accepted}")

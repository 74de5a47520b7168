"""Prepared sets: pieces of pictures, cut once and stored so that reading one costs next to nothing.

    FOLDER/prepared.json                            what was prepared and how, written last
    FOLDER/train-00000-of-00012.array_record, ...   the shards: pieces of so many pictures each
    FOLDER/plan.json                                what is being prepared; a set of another plan is refused

A record is a piece as pixels (`_HEADER` and uint8 [H, W, 3]) or as PNG. Shards are written whole or not at all, and
those that are there are not written again: a preparation that was interrupted goes on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import json
import logging
import multiprocessing
import os
import pathlib
import struct
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from mlic_jax import atomic, extras, runtime
from mlic_jax.data import sources
from mlic_jax.data.images import decode_image
from mlic_jax.errors import InputError, LimitError, UsageError

log = logging.getLogger(__name__)

INDEX, PLAN = "prepared.json", "plan.json"
ENCODINGS = ("raw", "png")
# The splits that a set has.
SPLITS = ("train", "validation")

_HEADER = struct.Struct("<4sII")  # magic, height, width
_MAGIC = b"RGB8"
# One record a chunk, so that reading one reads no other; pixels are not compressed, PNG is already.
_WRITING = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is prepared.

    Attributes:
      source: as for `make_source`.
      data_dir: where TFDS keeps its sets.
      side: of the pieces in pixels; a smaller picture is a piece as it is.
      scales: by which pictures are scaled before they are cut, each in (0, 1]: pieces of all of them are kept. A
        picture that would become smaller than `side` is left out at that scale, unless the scale is the first.
      encoding: "raw" (pixels) or "png".
      pictures_per_shard: how many pictures a shard has the pieces of.
    """

    source: str
    data_dir: str | None = None
    side: int = 512
    scales: tuple[float, ...] = (1.0,)
    encoding: str = "raw"
    pictures_per_shard: int = 256

    def check(self) -> None:
        """Raises UsageError for values that make no sense, naming them."""
        if self.side < 1 or self.pictures_per_shard < 1:
            raise UsageError(f"side {self.side}, pictures per shard {self.pictures_per_shard}: expected 1 or more")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise UsageError(f"scales {self.scales}: expected numbers above 0 and at most 1")
        if self.encoding not in ENCODINGS:
            raise UsageError(f"encoding {self.encoding!r}: expected {' or '.join(ENCODINGS)}")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to be written: pieces of the pictures `first` to `last` - 1 of a split."""

    split: str
    file: str
    first: int
    last: int


def is_one(folder) -> bool:
    """Whether a folder holds a prepared set, or the beginnings of one."""
    return any((pathlib.Path(folder) / name).is_file() for name in (INDEX, PLAN))


class Pieces:
    """The pieces of a prepared set's split ("all": of both): uint8 [H, W, 3].

    Raises:
      InputError: the set is not whole, or not readable.
      UsageError: it has no such split.
    """

    def __init__(self, folder, split: str):
        extras.require(f"{folder}: prepared sets need", "array_record")
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        folder = pathlib.Path(folder)
        index = _index_of(folder)
        wanted = index["shards"] if split == "all" else {split: index["shards"].get(split)}
        shards = [shard for of_split in wanted.values() for shard in of_split or ()]
        if not shards:
            raise UsageError(f"{folder}: prepared without pieces for the split {split!r}")
        missing = [shard["file"] for shard in shards if not (folder / shard["file"]).is_file()]
        if missing:
            raise InputError(f"{folder}: {missing[0]} is not there any more: mlic prepare writes it again")
        self._folder, self._shards, self._title = str(folder), shards, f"{folder}/{split}"
        self._records = ArrayRecordDataSource([str(folder / shard["file"]) for shard in shards])
        expected = sum(shard["pieces"] for shard in shards)
        if len(self._records) != expected:
            raise InputError(f"{folder}: {len(self._records)} pieces, {expected} were written: prepare it again")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3], read-only. Raises InputError for a damaged record."""
        try:
            record = self._records[index]
        except (RuntimeError, ValueError, OSError) as reason:
            raise InputError(f"{self.name(index)}: cannot be read ({' '.join(str(reason).split())[:200]})") from None
        if not record.startswith(_MAGIC):
            return decode_image(record, self.name(index))
        _, height, width = _HEADER.unpack_from(record)
        if len(record) != _HEADER.size + 3 * height * width:
            raise InputError(f"{self.name(index)}: damaged, {len(record)} bytes for {height}x{width} pixels")
        return np.frombuffer(record, np.uint8, offset=_HEADER.size).reshape(height, width, 3)

    def name(self, index: int) -> str:
        return f"{self._title}[{index}]"

    def digest(self) -> str:
        return sources.digest_of(json.dumps(shard, sort_keys=True) for shard in self._shards)

    def __repr__(self) -> str:
        return f"Pieces({self._title}, {len(self)})"


def _index_of(folder: pathlib.Path) -> dict:
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder}: is being prepared, or was interrupted: the same mlic prepare finishes it")
    try:
        index = json.loads(atomic.read_bytes(folder / INDEX))
        index["shards"].items()
    except (ValueError, KeyError, AttributeError, TypeError):
        raise InputError(f"{folder / INDEX}: damaged: mlic prepare writes it again") from None
    return index


# ---------------------------------------------------------------------- writing


def prepare(plan: Plan, folder, jobs: int = 1, say: Callable[[str], None] = log.info) -> dict:
    """Writes a prepared set, or what is missing of it.

    Args:
      plan: what is prepared.
      folder: where to; it is made.
      jobs: processes; 0 for one per core.
      say: is told about every shard and every picture that cannot be read.

    Returns:
      The index: {"plan": .., "pictures": {split: count}, "shards": {split: [{"file", "pieces", "digest"}]}}.

    Raises:
      UsageError: a plan that makes no sense, or the folder has a set of another plan.
      InputError: a source that cannot be read at all, or a folder that cannot be written to.
    """
    plan.check()
    extras.require("mlic prepare needs", "array_record")
    folder = pathlib.Path(folder)
    counts = {split: len(_source(plan, split)) for split in SPLITS}
    about = {
        "plan": json.loads(json.dumps(dataclasses.asdict(plan))),
        "pictures": counts,
        "files": {split: _source(plan, split).digest() for split in SPLITS},
    }
    _begin(folder, about)
    shards = [shard for split in SPLITS for shard in _shards_of(split, counts[split], plan.pictures_per_shard)]
    written: dict[str, list] = {split: [] for split in SPLITS}
    for number, (shard, (pieces, unreadable)) in enumerate(zip(shards, _write_all(plan, folder, shards, jobs)), 1):
        for line in unreadable:
            say(f"skipped: {line}")
        say(f"{number} of {len(shards)}: {shard.file}, {pieces} pieces")
        if pieces:
            digest = about["files"][shard.split]
            written[shard.split].append({"file": shard.file, "pieces": pieces, "digest": digest})
    if not written["train"]:
        raise InputError(f"{plan.source}: no picture could be read")
    index = about | {"shards": written}
    atomic.write_bytes(folder / INDEX, json.dumps(index, indent=1).encode())
    for left in folder.glob("*.part"):  # of runs that were killed
        left.unlink(missing_ok=True)
    return index


def _begin(folder: pathlib.Path, about: dict) -> None:
    """Makes the folder and notes what it is for. Raises UsageError where that is something else already."""
    atomic.make_folder(folder)
    plan = folder / PLAN
    if plan.is_file():
        if json.loads(atomic.read_bytes(plan)) != about:
            raise UsageError(f"{folder}: holds a set of other pictures or settings ({PLAN}): take another folder")
    elif any(folder.iterdir()):
        raise UsageError(f"{folder}: is not empty: take another folder")
    else:
        atomic.write_bytes(plan, json.dumps(about, indent=1).encode())


def _shards_of(split: str, pictures: int, each: int) -> list[Shard]:
    count = -(-pictures // each)
    names = [f"{split}-{number:05}-of-{count:05}.array_record" for number in range(count)]
    return [Shard(split, name, n * each, min(pictures, (n + 1) * each)) for n, name in enumerate(names)]


def _write_all(plan: Plan, folder: pathlib.Path, shards: list[Shard], jobs: int) -> Iterator[tuple[int, list[str]]]:
    """(pieces, lines about what cannot be read) for every shard, in order."""
    write = functools.partial(_write, plan, folder)
    jobs = min(jobs or runtime.cores(), len(shards))
    if jobs <= 1:
        yield from map(write, shards)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(write, shards)


def _write(plan: Plan, folder: pathlib.Path, shard: Shard) -> tuple[int, list[str]]:
    """Writes a shard that is not there yet: (its pieces, lines about what cannot be read)."""
    from array_record.python import array_record_module

    path = folder / shard.file
    if path.is_file():
        with contextlib.suppress(RuntimeError, ValueError):
            return array_record_module.ArrayRecordReader(str(path)).num_records(), []
    source, unreadable, pieces = _source(plan, shard.split), [], 0
    part = path.with_suffix(f".{os.getpid()}.part")
    writer = array_record_module.ArrayRecordWriter(str(part), _WRITING)
    for number in range(shard.first, shard.last):
        try:
            picture = source[number]
        except (InputError, LimitError) as reason:
            unreadable.append(str(reason))
            continue
        for piece in cut(picture, plan.side, plan.scales):
            writer.write(_encoded(piece, plan.encoding))
            pieces += 1
    writer.close()
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    return pieces, unreadable


@functools.lru_cache(maxsize=2)
def _source(plan: Plan, split: str) -> sources.Source:
    return sources.make_source(plan.source, split, plan.data_dir, cache_mib=0)


def cut(picture: np.ndarray, side: int, scales: tuple[float, ...]) -> Iterator[np.ndarray]:
    """Pieces uint8 [side, side, 3] that cover a picture uint8 [H, W, 3] at every scale, overlapping where its sides are
    no multiples; of a picture that is smaller, one that is as narrow or low."""
    height, width, _ = picture.shape
    for scale in dict.fromkeys(scales):
        size = round(width * scale), round(height * scale)
        if min(size) < side and scale != scales[0]:
            continue
        scaled = picture if scale == 1 else np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
        for top in _starts(size[1], side):
            for left in _starts(size[0], side):
                yield np.ascontiguousarray(scaled[top : top + side, left : left + side])


def _starts(length: int, side: int) -> list[int]:
    """Where pieces begin that cover a length evenly."""
    count = -(-length // side)
    return [round(start) for start in np.linspace(0, max(0, length - side), count)]


def _encoded(piece: np.ndarray, encoding: str) -> bytes:
    if encoding == "raw":
        return _HEADER.pack(_MAGIC, *piece.shape[:2]) + piece.tobytes()
    out = io.BytesIO()
    Image.fromarray(piece).save(out, "PNG")
    return out.getvalue()

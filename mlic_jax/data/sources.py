"""Where images come from: the bundled photos, a folder, a prepared or a TFDS set. One factory, `make_source`.

A source is a random-access sequence, which is all that Grain asks for: `len(source)`, and `source[i]` -> uint8 RGB
[H, W, 3] of any size. It also has `source.name(i)`, which error messages and reports use, and `source.digest()`, which
tells one list of images from another. Sources can be pickled (Grain does so for worker processes) and read from several
threads.

The splits are "train", "validation" and "all"; what they mean for each kind of source stands at its function below.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import pathlib
import threading
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from mlic_jax.data.images import list_images, read_image
from mlic_jax.errors import UsageError

SPLITS = ("train", "validation", "all")

# The validation split of the bundled photos: a landscape, an animal, a building and a night scene, each of which has a
# counterpart among the eight that are left for training. Fixed: published curves on the bundled photos depend on it.
HELD_OUT = ("aitzgorri.png", "chelsea.png", "colosseum.png", "singapore.png")

# One image in so many of a folder is held out for validation, where the folder has no such split of its own.
FOLDER_HOLD_OUT = 16

_PHOTOS = pathlib.Path(str(importlib.resources.files("mlic_jax.data") / "photos"))

_ACCEPTED = "'bundled', 'folder:PATH', the path of a folder, or 'tfds:NAME'"


class Source(Protocol):
    """What the pipeline reads from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...

    def name(self, index: int) -> str: ...

    def digest(self) -> str: ...


def make_source(spec: str, split: str = "train", data_dir=None, *, cache_mib: float = 256) -> Source:
    """The images that `spec` stands for.

    Args:
      spec: "bundled" (the 12 photos that come with the package); "folder:PATH" or just PATH (all images below it, or
        the pieces that `mlic prepare` has written there);
        "tfds:NAME" or "tfds:NAME/CONFIG" (an image set of tensorflow-datasets), with "#FEATURE" behind it where an
        example holds several images.
      split: "train", "validation" or "all"; for TFDS also any of its split expressions, such as "test" or "train[:9%]".
      data_dir: where TFDS keeps its sets; its own default (~/tensorflow_datasets) if None. TFDS only.
      cache_mib: how many MiB of decoded images to keep in memory (per process that reads), 0 for none. What does not
        fit is decoded anew each time.

    Raises:
      UsageError: a spec or split that makes no sense, or a TFDS set that needs TensorFlow to be prepared.
      InputError: a missing or empty folder, or a TFDS set that cannot be read or downloaded.
    """
    if not isinstance(spec, str) or not spec:
        raise UsageError(f"data source {spec!r}: expected {_ACCEPTED}")
    kind, _, rest = spec.partition(":")
    if kind == "tfds":
        from mlic_jax.data import tfds_sets

        source = tfds_sets.tfds_source(rest, split, data_dir)
    elif split not in SPLITS:
        raise UsageError(f"split {split!r} of data source {spec!r}: expected one of {', '.join(SPLITS)}")
    elif spec == "bundled":
        source = ImageFiles(bundled(split), _PHOTOS)
    elif kind == "folder":
        source = _folder(pathlib.Path(rest).expanduser(), split)
    elif pathlib.Path(spec).exists():
        source = _folder(pathlib.Path(spec), split)
    else:
        raise UsageError(f"data source {spec!r}: no such folder; expected {_ACCEPTED}")
    return Cached(source, cache_mib) if cache_mib > 0 else source


def bundled(split: str = "all") -> list[pathlib.Path]:
    """Paths of the bundled photos, sorted: the 8 of "train", the 4 of "validation" (`HELD_OUT`), or "all" 12.

    Raises:
      UsageError: another split.
      InputError: the photos are not where the package was installed.
    """
    if split not in SPLITS:
        raise UsageError(f"split {split!r} of the bundled photos: expected one of {', '.join(SPLITS)}")
    paths = list_images(_PHOTOS)
    return [path for path in paths if split == "all" or (path.name in HELD_OUT) == (split == "validation")]


def _folder(folder: pathlib.Path, split: str) -> Source:
    """A folder of images, or of pieces of them."""
    from mlic_jax.data import prepared

    if prepared.is_one(folder):
        return prepared.Pieces(folder, split)
    return ImageFiles(_of_split(folder, split), folder)


def _of_split(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    """The images of a folder's split.

    Subfolders named "train" and "validation" are the splits where both exist. Otherwise 1 image in `FOLDER_HOLD_OUT`,
    at least one, is for validation: chosen by a hash of its relative path, so that adding images moves none from one
    split to the other (except in a small folder's only one). A folder of one image is both splits at once.
    """
    paths = list_images(folder)
    if split == "all":
        return paths
    if (folder / "train").is_dir() and (folder / "validation").is_dir():
        return list_images(folder / split)
    if len(paths) == 1:
        return paths
    digest = {
        path: int.from_bytes(hashlib.sha256(os.fsencode(path.relative_to(folder).as_posix())).digest()[:8], "big")
        for path in paths
    }
    held_out = {path for path in paths if digest[path] % FOLDER_HOLD_OUT == 0}
    if not held_out or len(held_out) == len(paths):
        held_out = {min(paths, key=digest.get)}
    return [path for path in paths if (path in held_out) == (split == "validation")]


def digest_of(words: Iterable[str]) -> str:
    """16 hexadecimal digits that differ between lists of words."""
    return hashlib.sha256(b"\0".join(map(os.fsencode, words))).hexdigest()[:16]


class ImageFiles:
    """Image files below `folder`, decoded when they are asked for."""

    def __init__(self, paths, folder):
        self._paths, self._folder = [str(path) for path in paths], str(folder)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 RGB [H, W, 3]. Raises InputError or LimitError as `read_image` does."""
        return read_image(self._paths[index])

    def name(self, index: int) -> str:
        return self._paths[index]

    def digest(self) -> str:
        """Of the files' paths below the folder: the folder itself may move."""
        return digest_of(os.path.relpath(path, self._folder) for path in self._paths)

    def __repr__(self) -> str:
        return f"ImageFiles({len(self)} images)"


class Cached:
    """Keeps the first `mib` MiB of decoded images of `source` in memory.

    Nothing is ever evicted: shuffled epochs visit every image once, so the one not seen for longest is as likely to be
    wanted next as any other.
    """

    def __init__(self, source: Source, mib: float):
        self._source, self._mib = source, mib
        self._forget()

    def _forget(self):
        self._images: dict[int, np.ndarray] = {}
        self._room = int(self._mib * 2**20)  # bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3], read-only, since it is shared."""
        image = self._images.get(index)
        if image is not None:
            return image
        image = self._source[index]
        image.flags.writeable = False
        with self._lock:
            if index not in self._images and image.nbytes <= self._room:
                self._images[index] = image
                self._room -= image.nbytes
        return image

    def name(self, index: int) -> str:
        return self._source.name(index)

    def digest(self) -> str:
        return self._source.digest()

    # A worker process fills a cache of its own; the images need not travel.
    def __getstate__(self):
        return self._source, self._mib

    def __setstate__(self, state):
        self._source, self._mib = state
        self._forget()

    def __repr__(self) -> str:
        return f"Cached({self._source!r}, {self._mib:g} MiB)"

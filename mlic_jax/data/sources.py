"""Where images come from: the bundled photos, a folder, a TFDS set. One factory, `make_source`.

A source is a random-access sequence, which is all that Grain asks for: `len(source)`, and `source[i]` -> uint8 RGB
[H, W, 3] of any size. It also has `source.name(i)`, which error messages and reports use. Sources can be pickled (Grain
does so for worker processes) and read from several threads.

The splits are "train", "validation" and "all"; what they mean for each kind of source stands at its function below.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import inspect
import os
import pathlib
import threading
from typing import Protocol

import numpy as np

from mlic_jax import extras
from mlic_jax.data.images import decode_image, list_images, read_image
from mlic_jax.errors import InputError, UsageError

SPLITS = ("train", "validation", "all")

# The validation split of the bundled photos: a landscape, an animal, a building and a night scene, each of which has a
# counterpart among the eight that are left for training. Fixed: published curves on the bundled photos depend on it.
HELD_OUT = ("aitzgorri.png", "chelsea.png", "colosseum.png", "singapore.png")

# One image in so many of a folder is held out for validation, where the folder has no such split of its own.
FOLDER_HOLD_OUT = 16

# Among several images per TFDS example, these are the whole picture at full resolution ("hr" is DIV2K's).
_TFDS_PREFERRED = ("image", "hr")

_ACCEPTED = "'bundled', 'folder:PATH', the path of a folder, or 'tfds:NAME'"


class Source(Protocol):
    """What the pipeline reads from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...

    def name(self, index: int) -> str: ...


def make_source(spec: str, split: str = "train", data_dir=None, *, cache_mib: float = 256) -> Source:
    """The images that `spec` stands for.

    Args:
      spec: "bundled" (the 12 photos that come with the package); "folder:PATH" or just PATH (all images below it);
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
        source = _tfds_source(rest, split, data_dir)
    elif split not in SPLITS:
        raise UsageError(f"split {split!r} of data source {spec!r}: expected one of {', '.join(SPLITS)}")
    elif spec == "bundled":
        source = ImageFiles(bundled(split))
    elif kind == "folder":
        source = ImageFiles(_folder(pathlib.Path(rest), split))
    elif pathlib.Path(spec).exists():
        source = ImageFiles(_folder(pathlib.Path(spec), split))
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
    paths = list_images(pathlib.Path(str(importlib.resources.files("mlic_jax.data") / "photos")))
    return [path for path in paths if split == "all" or (path.name in HELD_OUT) == (split == "validation")]


def _folder(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    """The images of a folder's split.

    Subfolders named "train" and "validation" are the splits where both exist. Otherwise 1 image in `FOLDER_HOLD_OUT`,
    at least one, is for validation: chosen by a hash of its relative path, so that adding images moves none from one
    split to the other (except in a small folder's only one). A folder of one image is both splits at once.
    """
    folder = folder.expanduser()
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


class ImageFiles:
    """Image files, decoded when they are asked for."""

    def __init__(self, paths):
        self._paths = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 RGB [H, W, 3]. Raises InputError or LimitError as `read_image` does."""
        return read_image(self._paths[index])

    def name(self, index: int) -> str:
        return self._paths[index]

    def __repr__(self) -> str:
        return f"ImageFiles({len(self)} images)"


class EncodedImages:
    """A source of encoded images (PNG, JPEG, ...) made into one of pixels. `records[i]` -> dict with bytes."""

    def __init__(self, records, feature: str, title: str):
        self._records, self._feature, self._title = records, feature, title

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 RGB [H, W, 3]. Raises InputError or LimitError as `decode_image` does."""
        return decode_image(self._records[index][self._feature], self.name(index))

    def name(self, index: int) -> str:
        return f"{self._title}[{index}]"

    def __repr__(self) -> str:
        return f"EncodedImages({self._title}, {len(self)} images)"


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

    # A worker process fills a cache of its own; the images need not travel.
    def __getstate__(self):
        return self._source, self._mib

    def __setstate__(self, state):
        self._source, self._mib = state
        self._forget()

    def __repr__(self) -> str:
        return f"Cached({self._source!r}, {self._mib:g} MiB)"


def _tfds_source(name: str, split: str, data_dir) -> EncodedImages:
    """A TFDS image set, prepared as ArrayRecord if it is not there yet, read without TensorFlow.

    "train" and "all" are TFDS's own; "validation" is what the set calls "validation", "valid" or "test".
    """
    name, _, feature = name.partition("#")
    if not name:
        raise UsageError("data source 'tfds:': expected the name of an image set behind it, such as 'tfds:clic'")
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UsageError(extras.missing("tensorflow_datasets", f"data source 'tfds:{name}' needs")) from None

    builder = _tfds_prepared(tfds, name, data_dir)
    feature = _tfds_feature(tfds, builder.info.features, name, feature)
    splits = list(builder.info.splits)
    if split == "validation" and split not in splits:
        split = next((other for other in ("valid", "test") if other in splits), split)
    try:
        # The bytes are decoded here rather than by TFDS: the same rules for every source (orientation, alpha, 16 bits).
        records = builder.as_data_source(split=split, decoders={feature: tfds.decode.SkipDecoding()})
    except (ValueError, KeyError):
        raise UsageError(
            f"split {split!r} of data source 'tfds:{name}': expected one of {', '.join(splits)}, "
            "or an expression such as 'train[:90%]'"
        ) from None
    except NotImplementedError:
        raise UsageError(
            f"data source 'tfds:{name}': {builder.data_dir} is prepared in a format without random access; "
            "delete it, or give another data_dir, and it is prepared as ArrayRecord"
        ) from None
    if not len(records):
        raise InputError(f"data source 'tfds:{name}': split {split!r} is empty")
    return EncodedImages(records, feature, f"tfds:{name}/{split}")


def _tfds_prepared(tfds, name: str, data_dir):
    """The builder of a set that is on disk afterwards."""
    needs_tensorflow = UsageError(
        extras.missing("tensorflow", f"data source 'tfds:{name}': preparing this set (reading it does not) needs")
    )
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise UsageError(
            f"data source 'tfds:{name}': TFDS knows no such set, nor is one prepared in {data_dir or 'its folder'}"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"data source 'tfds:{name}': {_one_line(error)}") from error
    if builder.is_prepared():
        return builder
    # Most of TFDS's own builders list files with TensorFlow, but do so only after downloading gigabytes.
    if importlib.util.find_spec("tensorflow") is None and _mentions_tensorflow(type(builder)):
        raise needs_tensorflow
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        # TFDS wraps what builders and downloads raise in kinds of its own.
        missing = _missing_module(error)
        if missing == "tensorflow":
            raise needs_tensorflow from error
        if missing:
            raise UsageError(f"data source 'tfds:{name}': preparing this set needs: pip install {missing}") from error
        raise InputError(
            f"data source 'tfds:{name}': cannot be prepared ({type(error).__name__}: {_one_line(error)})"
        ) from error
    return builder


def _mentions_tensorflow(builder_class: type) -> bool:
    """Whether a builder that comes with TFDS uses TensorFlow. Of builders from elsewhere nothing is known."""
    module = inspect.getmodule(builder_class)
    if module is None or not module.__name__.startswith("tensorflow_datasets."):
        return False
    return "import tensorflow as tf" in inspect.getsource(module)


def _missing_module(error: BaseException | None) -> str | None:
    """The top-level module whose absence is behind `error`, if that is its reason."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _tfds_feature(tfds, features, name: str, wanted: str) -> str:
    """Which feature of an example is the image."""
    images = sorted(key for key, feature in features.items() if isinstance(feature, tfds.features.Image))
    if wanted:
        if wanted not in images:
            raise UsageError(
                f"data source 'tfds:{name}#{wanted}': no such image feature; it has {', '.join(images) or 'none'}"
            )
        return wanted
    for key in _TFDS_PREFERRED:
        if key in images:
            return key
    if not images:
        raise UsageError(f"data source 'tfds:{name}': has no image feature, only {', '.join(sorted(features))}")
    if len(images) > 1:
        raise UsageError(
            f"data source 'tfds:{name}': has the images {', '.join(images)}; choose one as 'tfds:{name}#{images[0]}'"
        )
    return images[0]

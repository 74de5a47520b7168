"""Image sets of tensorflow-datasets, read without TensorFlow."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io

import numpy as np

from mlic_jax import extras
from mlic_jax.data.images import decode_image
from mlic_jax.data.sources import digest_of
from mlic_jax.errors import InputError, UsageError

# Among several images per example, these are the whole picture at full resolution ("hr" is DIV2K's).
_PREFERRED = ("image", "hr")


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

    def digest(self) -> str:
        return digest_of([self._title, self._feature, str(len(self))])

    def __repr__(self) -> str:
        return f"EncodedImages({self._title}, {len(self)} images)"


def tfds_source(name: str, split: str, data_dir) -> EncodedImages:
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

    builder = _prepared(tfds, name, data_dir)
    images = sorted(key for key, kind in builder.info.features.items() if isinstance(kind, tfds.features.Image))
    feature = _image_of(images, builder.info.features, name, feature)
    splits = list(builder.info.splits)
    if split == "validation" and split not in splits:
        split = next((other for other in ("valid", "test") if other in splits), split)
    try:
        # The bytes are decoded here rather than by TFDS: the same rules for every source (orientation, alpha, 16 bits).
        # The others are not decoded at all.
        records = builder.as_data_source(split=split, decoders=dict.fromkeys(images, tfds.decode.SkipDecoding()))
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


def _prepared(tfds, name: str, data_dir):
    """The builder of a set that is on disk afterwards."""
    builder = _builder(tfds, name, data_dir)
    if builder.is_prepared():
        return builder
    # Most of TFDS's own builders list files with TensorFlow, but do so only after downloading gigabytes.
    if importlib.util.find_spec("tensorflow") is None and _mentions_tensorflow(type(builder)):
        raise _lacking(name, "tensorflow")
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        # TFDS wraps what builders and downloads raise in kinds of its own.
        if missing := _missing_module(error):
            raise _lacking(name, missing) from error
        raise InputError(
            f"data source 'tfds:{name}': cannot be prepared ({type(error).__name__}: {_one_line(error)})"
        ) from error
    return builder


def _builder(tfds, name: str, data_dir):
    """The builder of a set; where its code needs a library that is not here, of what is on disk."""
    try:
        # TFDS prints a paragraph of advice where TensorFlow is not installed.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise UsageError(
            f"data source 'tfds:{name}': TFDS knows no such set, nor is one prepared in {data_dir or 'its folder'}"
        ) from None
    except (ValueError, RuntimeError, ImportError) as error:
        missing = _missing_module(error)
        if missing is None:
            raise UsageError(f"data source 'tfds:{name}': {_one_line(error)}") from error
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise _lacking(name, missing) from None


def _lacking(name: str, library: str) -> UsageError:
    """What is said where a set's own code lacks a library."""
    who_needs = f"data source 'tfds:{name}': preparing this set (reading it does not) needs"
    if library == "tensorflow":
        return UsageError(extras.missing(library, who_needs))
    return UsageError(f"{who_needs}: pip install {library}")


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


def _image_of(images: list[str], features, name: str, wanted: str) -> str:
    """Which of an example's images is meant."""
    if wanted:
        if wanted not in images:
            raise UsageError(
                f"data source 'tfds:{name}#{wanted}': no such image feature; it has {', '.join(images) or 'none'}"
            )
        return wanted
    for key in _PREFERRED:
        if key in images:
            return key
    if not images:
        raise UsageError(f"data source 'tfds:{name}': has no image feature, only {', '.join(sorted(features))}")
    if len(images) > 1:
        raise UsageError(
            f"data source 'tfds:{name}': has the images {', '.join(images)}; choose one as 'tfds:{name}#{images[0]}'"
        )
    return images[0]

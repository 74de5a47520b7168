"""What several subcommands need."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `mlic info` starts without NumPy
    import argparse

    import numpy as np

    from mlic_jax.fileformat.artifact import Artifact


# As many pictures of `--calibrate` are looked at.
CALIBRATION_PICTURES = 32


def bpp(rate: float) -> str:
    """A rate as every command prints it."""
    return f"{rate:.4f} bpp"


def db(quality: float) -> str:
    """A quality in dB as every command prints it."""
    return f"{quality:.2f} dB"


def seconds(time: float) -> str:
    """A time as every command prints it."""
    return f"{time:.2f} s"


def percent(ratio: float) -> str:
    """A ratio as every command prints it."""
    return f"{100 * ratio:.1f} %"


def pictures(folder: str | None, limit: int) -> list[tuple[str, np.ndarray]]:
    """Names and pixels uint8 [H, W, 3] of a folder's pictures, or of the bundled ones held out from training.

    Args:
      folder: None for the bundled ones; or "tfds:NAME", an image set of tensorflow-datasets, its validation split.
      limit: the first so many; 0 for all.

    Raises InputError; UsageError for a set that is not known.
    """
    from mlic_jax import data

    if folder and folder.startswith("tfds:"):
        source = data.make_source(folder, "validation", cache_mib=0)
        return [(f"{index:04}", source[index]) for index in range(min(limit or len(source), len(source)))]
    paths = data.list_images(folder) if folder else data.bundled("validation")
    root = pathlib.Path(folder) if folder else paths[0].parent
    return list(zip(_names(paths, root), map(data.read_image, paths[: limit or None]), strict=False))


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibrate",
        metavar="DIR",
        help="pictures (the first 32) by which integer ranges of the parse path are chosen (default: bundled photos)",
    )


def calibration_pictures(folder: str | None) -> list[np.ndarray] | None:
    """Those that `--calibrate` names, or None for the bundled photos. Raises InputError."""
    return [image for _, image in pictures(folder, CALIBRATION_PICTURES)] if folder else None


def about_model(artifact: Artifact, path: str) -> str:
    """What commands say of a model that they wrote."""
    from mlic_jax.fileformat import model_folder

    size = model_folder.size_of(path)
    return f"{path}: {artifact.model}, {size / 1e6:.2f} MB, fingerprint {artifact.fingerprint.hex()}"


def _names(paths: Sequence[pathlib.Path], root: pathlib.Path) -> list[str]:
    """What reports call pictures: the names of their files without suffix; where several have one, their paths in the
    folder with it. Bytes that are no UTF-8 are escaped."""
    counts = collections.Counter(path.stem for path in paths)
    words = [path.stem if counts[path.stem] == 1 else path.relative_to(root).as_posix() for path in paths]
    return [os.fsencode(word).decode(errors="backslashreplace") for word in words]

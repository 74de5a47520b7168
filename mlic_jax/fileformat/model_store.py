"""Models of this process, found by a path, by the name of one in the package, or by the fingerprint in a file.

A model that was used once is kept, so that it is neither read nor put on a device again. Two variables of the
environment say where models are: MLIC_MODEL names the file that is used where none is given, and MLIC_MODELS the
folders, separated as in PATH, in which a file's model is looked for.

All of it can be called from several threads. Importing it needs no NumPy.
"""

from __future__ import annotations

import os
import pathlib
import threading
from typing import TYPE_CHECKING

from mlic_jax import zoo
from mlic_jax.errors import ModelError

if TYPE_CHECKING:
    from mlic_jax.fileformat import container
    from mlic_jax.fileformat.artifact import Artifact

# The model file that is used where none is named; without it, it is the package's own.
MODEL = "MLIC_MODEL"
BUNDLED = pathlib.Path(__file__).parents[1] / "weights"
OWN_MODEL = BUNDLED / "kltnet-tiny.mlicm"
# Folders in which models are looked for by the fingerprint that a file names.
FOLDERS = "MLIC_MODELS"

# What a user can do who lacks a model.
ADVICE = (
    f"Ask whoever wrote the file for its .mlicm file, and give it as the model or put it into a folder of {FOLDERS}"
)

_lock = threading.RLock()
# Path -> ((time, size) of the file when it was read, its model).
_by_path: dict[pathlib.Path, tuple[tuple[int, int], Artifact]] = {}
_by_fingerprint: dict[bytes, Artifact] = {}


def load(model: str | os.PathLike | Artifact | None = None) -> Artifact:
    """A model from its file (read again only where the file has changed), or the one given.

    Args:
      model: a path; or the bare name of a file in the package, as "talebi2020", where there is no such file here; or
        an Artifact. None for the file that MLIC_MODEL names, or else the package's own.

    Raises ModelError where the file is missing, damaged, or of a model that this version does not know.
    """
    from mlic_jax.fileformat.artifact import Artifact

    if not isinstance(model, str | os.PathLike | Artifact | None):
        raise ModelError(f"a model is the path of a .mlicm file or an Artifact: a {type(model).__name__} is neither")
    model = model or os.environ.get(MODEL) or OWN_MODEL
    with _lock:
        if not isinstance(model, Artifact):
            model = _read(_bundled(model) or pathlib.Path(model))
        zoo.stream_id(model.model)
        _by_fingerprint[model.fingerprint] = model
    return model


def find(fingerprint: bytes, wanted: str) -> Artifact:
    """The model that a file was written with: one used before, or one in MLIC_MODEL, the package, or MLIC_MODELS.

    Args:
      fingerprint: of the weights, from the file's header.
      wanted: how the error names the model.

    Raises ModelError where there is none; its message says where was looked, and which files there cannot be read.
    """
    from mlic_jax.fileformat.artifact import SUFFIX

    named = os.environ.get(MODEL)
    folders = [folder for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    unreadable = []
    with _lock:
        if fingerprint in _by_fingerprint:
            return _by_fingerprint[fingerprint]
        paths = [path for folder in folders for path in sorted(pathlib.Path(folder).glob(f"*{SUFFIX}"))]
        for path in ([named] if named else []) + sorted(BUNDLED.glob(f"*{SUFFIX}")) + paths:
            try:
                if (model := load(path)).fingerprint == fingerprint:
                    return model
            except ModelError:
                unreadable.append(str(path))
    looked = f"none of the {SUFFIX} files in {', '.join(folders)} is it" if folders else f"{FOLDERS} names no folder"
    if unreadable:
        looked += f" ({', '.join(unreadable)} cannot be read)"
    raise ModelError(f"the file needs {wanted}, and {looked}. {ADVICE}")


def of_file(header: container.Header, model: str | os.PathLike | Artifact | None = None) -> Artifact:
    """The model that a file was written with: the one given, as for `load`, or else found.

    Raises ModelError where it is missing, or the one given is another.
    """
    wanted = describe(header)
    if model is None:
        return find(header.fingerprint, wanted)
    artifact = load(model)
    if (zoo.stream_id(artifact.model), artifact.fingerprint) != (header.model_id, header.fingerprint):
        given = f"{artifact.model} with fingerprint {artifact.fingerprint.hex()}"
        raise ModelError(f"the file needs {wanted}; given is {given}. {ADVICE}")
    return artifact


def describe(header: container.Header) -> str:
    """The name of a file's model and its fingerprint. Raises ModelError for a model that this version does not know."""
    fingerprint = f"with fingerprint {header.fingerprint.hex()}"
    try:
        return f"the model {zoo.name_of(header.model_id)} {fingerprint}"
    except ModelError as reason:
        raise ModelError(f"{reason} ({fingerprint}): a newer mlic_jax may") from reason


def _bundled(name) -> pathlib.Path | None:
    """The package's model of a bare name, unless a file here has this name."""
    if os.path.basename(name) != os.fspath(name) or os.path.exists(name):
        return None
    from mlic_jax.fileformat.artifact import SUFFIX

    path = BUNDLED / f"{os.fspath(name).removesuffix(SUFFIX)}{SUFFIX}"
    return path if path.exists() else None


def _read(path: pathlib.Path) -> Artifact:
    from mlic_jax.fileformat.artifact import Artifact

    path = path.absolute()
    try:
        stat = path.stat()
    except OSError as reason:
        raise ModelError(f"model {str(path)!r} cannot be read: {reason.strerror}") from reason
    state = (stat.st_mtime_ns, stat.st_size)
    if path not in _by_path or _by_path[path][0] != state:
        _by_path[path] = (state, Artifact.load(path))
    return _by_path[path][1]

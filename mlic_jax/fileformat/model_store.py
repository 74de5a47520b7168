"""Models of this process, found by a path, by a name, or by the fingerprint in a file.

A model that was used once is kept, so that it is neither read nor put on a device again. Two variables of the
environment say where models are: MLIC_MODEL names the file that is used where none is given, and MLIC_MODELS the
folders, separated as in PATH, in which a file's model is looked for.

Names are those of model files in the package, in the folders of MLIC_MODELS, and in other distributions. Such a
distribution registers an entry point of the group "mlic_jax.models" that gives the folder of its model files. Entry
points are read only where neither the package nor a folder that is named has the model.

All of it can be called from several threads. Importing it needs no NumPy.
"""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlic_jax import zoo
from mlic_jax.errors import ModelError
from mlic_jax.fileformat import model_folder, model_names

if TYPE_CHECKING:
    from mlic_jax.fileformat import container
    from mlic_jax.fileformat.artifact import Artifact

# The model file that is used where none is named; without it, it is the package's own.
MODEL = "MLIC_MODEL"
BUNDLED = pathlib.Path(__file__).parents[1] / "weights"
OWN_MODEL = BUNDLED / "kltnet-tiny.mlicm"
# In a clone of the repository, what the second distribution is built from: there it need not be installed.
BESIDE = pathlib.Path(__file__).parents[2] / "weights" / "mlic_jax_base"
# Folders in which models are looked for by the fingerprint that a file names.
FOLDERS = "MLIC_MODELS"
# Entry points of other distributions: each gives a folder, as a path.
GROUP = "mlic_jax.models"

_lock = threading.RLock()
# Path -> ((time, size) of the file when it was read, its model).
_by_path: dict[pathlib.Path, tuple[tuple[int, int], Artifact]] = {}
_by_fingerprint: dict[bytes, Artifact] = {}


def load(model: str | os.PathLike | Artifact | None = None) -> Artifact:
    """A model from its file (read again only where the file has changed), or the one given.

    Args:
      model: the path of a `.mlicm` file, or of a model's folder (see model_folder.py); or a name, as "base" or
        "kltnet-base", where there is no such file here; or an Artifact. None for the one that MLIC_MODEL names, or else
        the package's own.

    Raises ModelError where the file is missing, damaged, or of a model that this version does not know, or no model has
    the name; its message lists the names.
    """
    from mlic_jax.fileformat.artifact import Artifact

    if not isinstance(model, str | os.PathLike | Artifact | None):
        raise ModelError(f"a model is a path, a name or an Artifact: a {type(model).__name__} is none of these")
    model = model or os.environ.get(MODEL) or OWN_MODEL
    if isinstance(model, str) and not zoo.needs_weights(model):
        return without_weights(model)
    with _lock:
        if not isinstance(model, Artifact):
            model = _read(_named(os.fspath(model)) or pathlib.Path(model))
        zoo.stream_id(model.model)
        _by_fingerprint[model.fingerprint] = model
    return model


@functools.cache
def without_weights(name: str) -> Artifact:
    """The model of a codec that has none: its name."""
    from mlic_jax.fileformat.artifact import Artifact

    return Artifact(name, {}, {}, {}, {})


def find(fingerprint: bytes, wanted: str) -> Artifact:
    """The model that a file was written with: one used before, or one in MLIC_MODEL, the package, MLIC_MODELS, or
    another distribution.

    Args:
      fingerprint: of the weights, from the file's header.
      wanted: how the error names the model.

    Raises ModelError where there is none; its message says where was looked, which files there cannot be read, and
    what installs the model if it is known.
    """
    from mlic_jax.fileformat.artifact import SUFFIX, Artifact

    named = os.environ.get(MODEL)
    folders = _of_the_user()
    unreadable = []
    with _lock:
        if fingerprint in _by_fingerprint:
            return _by_fingerprint[fingerprint]
        files = (path for folder in _folders() for path in _models_in(folder))
        for path in itertools.chain([named] if named else [], files):
            try:
                path = _named(os.fspath(path)) or path
                # Models are large: only the one that is needed is read whole.
                if Artifact.fingerprint_in(path) == fingerprint:
                    return load(path)
            except ModelError:
                unreadable.append(str(path))
    looked = f"none of the {SUFFIX} files in {', '.join(map(str, folders))} is it"
    looked = looked if folders else f"{FOLDERS} names no folder"
    if unreadable:
        looked += f" ({', '.join(unreadable)} cannot be read)"
    raise ModelError(f"the file needs {wanted}, and {looked}. {advice(fingerprint)}")


def of_file(header: container.Header, model: str | os.PathLike | Artifact | None = None) -> Artifact:
    """The model that a file was written with: the one given, as for `load`, or else found.

    The one given is of no account to a file that needs no weights.

    Raises ModelError where it is missing, or the one given is another.
    """
    wanted = describe(header)
    name = zoo.name_of(header.model_id)
    if not zoo.needs_weights(name):
        model = name
    if model is None:
        return find(header.fingerprint, wanted)
    artifact = load(model)
    if (zoo.stream_id(artifact.model), artifact.fingerprint) != (header.model_id, header.fingerprint):
        name = model_names.name_of(artifact.fingerprint, artifact.model)
        given = f"{name} with fingerprint {artifact.fingerprint.hex()}"
        raise ModelError(f"the file needs {wanted}; given is {given}. {advice(header.fingerprint)}")
    return artifact


def describe(header: container.Header) -> str:
    """The name of a file's model and its fingerprint. Raises ModelError for a model that this version does not know."""
    fingerprint = f"with fingerprint {header.fingerprint.hex()}"
    try:
        name = model_names.name_of(header.fingerprint, zoo.name_of(header.model_id))
        return f"the model {name} {fingerprint}"
    except ModelError as reason:
        raise ModelError(f"{reason} ({fingerprint}): a newer mlic_jax may") from reason


def advice(fingerprint: bytes) -> str:
    """What a user can do who lacks the model of a fingerprint."""
    if known := model_names.by_fingerprint(fingerprint):
        return known.advice
    return f"Ask whoever wrote the file for its .mlicm file: give it as the model, or put it into a folder of {FOLDERS}"


def default() -> pathlib.Path:
    """The model that is used where none is named. Raises ModelError as `load`."""
    named = os.environ.get(MODEL)
    return (_named(named) or pathlib.Path(named)) if named else OWN_MODEL


def installed() -> Iterator[tuple[str, pathlib.Path]]:
    """(what `load` takes, file or folder) of the models of this machine; of one in two places, twice."""
    if named := os.environ.get(MODEL):
        yield named, default()
    for folder in _folders():
        yield from ((path.stem, path) for path in _models_in(folder))


def _of_the_user() -> list[pathlib.Path]:
    return [pathlib.Path(folder) for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]


def _folders() -> Iterator[pathlib.Path]:
    """Where models are: in the package, in a clone, in the folders of MLIC_MODELS, in other distributions."""
    yield BUNDLED
    yield BESIDE
    yield from _of_the_user()
    yield from _registered()


def _models_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Model files, and folders of models."""
    from mlic_jax.fileformat.artifact import SUFFIX

    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX or model_folder.is_one(path))


def _registered() -> Iterator[pathlib.Path]:
    """The folders that other distributions register. One that is broken is passed over with a warning."""
    import importlib.metadata

    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            folder = pathlib.Path(entry.load())
        except Exception as reason:  # whatever the module of someone else trips over
            warnings.warn(f"models of {entry.value!r} cannot be found: {reason!r}", stacklevel=2)
        else:
            yield folder


def _named(name: str) -> pathlib.Path | None:
    """The model file of a name; None for a path, and where a file here has the name. Raises ModelError, see `load`."""
    from mlic_jax.fileformat.artifact import SUFFIX

    if os.path.basename(name) != name or os.path.isfile(name) or model_folder.is_one(name):
        return None
    known = model_names.by_name(name.removesuffix(SUFFIX))
    stem = known.name if known else name.removesuffix(SUFFIX)
    for folder in _folders():
        for path in (folder / f"{stem}{SUFFIX}", folder / stem):
            if path.is_file() or model_folder.is_one(path):
                return path
    if known:
        raise ModelError(f"the model {known.name} is not installed: {known.advice}")
    if name.endswith(SUFFIX):
        return None
    raise ModelError(f"{name!r} is neither a file here nor a model that is known: there are {_names()}")


def _names() -> str:
    """The names that `load` takes, for people."""
    there = {path.stem for folder in _folders() for path in _models_in(folder)}
    words = []
    for known in model_names.KNOWN:
        word = known.name if known.short == known.name else f"{known.short} or {known.name}"
        words.append(word if known.name in there else f"{word} (not here: {known.advice})")
    return "; ".join(words + sorted(there - {known.name for known in model_names.KNOWN}))


def _read(path: pathlib.Path) -> Artifact:
    from mlic_jax.fileformat.artifact import Artifact

    path = path.absolute()
    try:
        stat = (path / model_folder.CONFIG if path.is_dir() else path).stat()
    except OSError as reason:
        raise ModelError(f"model {str(path)!r} cannot be read: {reason.strerror}") from reason
    state = (stat.st_mtime_ns, stat.st_size)
    if path not in _by_path or _by_path[path][0] != state:
        _by_path[path] = (state, Artifact.load(path))
    return _by_path[path][1]

"""Pictures to files and back, for programs: `mlic_jax.compress`, `decompress`, `info` and `load_model`."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from mlic_jax import container, zoo
from mlic_jax.artifact import SUFFIX, Artifact
from mlic_jax.errors import InputError, ModelError, UsageError

# Folders in which models are looked for by the fingerprint a file names, separated as in PATH.
MODEL_PATH = "MLIC_MODELS"

# Models of this process, so that a model that was used once is neither read nor put on a device again.
_by_path: dict[tuple, Artifact] = {}
_by_fingerprint: dict[bytes, Artifact] = {}


def load_model(model: str | os.PathLike | Artifact) -> Artifact:
    """A model from its `.mlicm` file (kept for the next call), or the one given.

    Raises ModelError if the file is missing, damaged, or of a model this version does not know.
    """
    if not isinstance(model, Artifact):
        path = pathlib.Path(model).absolute()
        try:
            stat = path.stat()
        except OSError as reason:
            raise ModelError(f"model {str(model)!r} cannot be read: {reason.strerror}") from reason
        key = (path, stat.st_mtime_ns, stat.st_size)
        if key not in _by_path:
            _by_path[key] = Artifact.load(model)
        model = _by_path[key]
    zoo.stream_id(model.model)
    _by_fingerprint[model.fingerprint] = model
    return model


def _find_model(fingerprint: bytes, name: str) -> Artifact:
    """The model a file was written with: one already loaded, or one in the folders of MLIC_MODELS."""
    if fingerprint in _by_fingerprint:
        return _by_fingerprint[fingerprint]
    folders = [folder for folder in os.environ.get(MODEL_PATH, "").split(os.pathsep) if folder]
    for folder in folders:
        for path in sorted(pathlib.Path(folder).glob(f"*{SUFFIX}")):
            if load_model(path).fingerprint == fingerprint:
                return _by_fingerprint[fingerprint]
    looked = f"no {SUFFIX} file in {', '.join(folders)} is it" if folders else f"{MODEL_PATH} names no folder to search"
    raise ModelError(
        f"the file needs the model {name} with fingerprint {fingerprint.hex()}, and none was given: {looked}"
    )


def _pixels(image: Any) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        mode = getattr(image, "mode", None)
        if mode is None:
            raise InputError(f"cannot compress a {type(image).__name__}: give a uint8 array [H, W, 3] or a PIL image")
        if mode != "RGB":
            raise InputError(f"a picture of mode {mode}: this version codes RGB, convert it with image.convert('RGB')")
        image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise InputError(f"an array of {image.dtype} {list(image.shape)}: uint8 [H, W, 3] is needed")
    container.check_size(image.shape[1], image.shape[0])
    return np.ascontiguousarray(image)


def compress(image: Any, model: str | os.PathLike | Artifact, quality: float | None = None) -> bytes:
    """A picture as the content of a `.mlic` file.

    Args:
      image: uint8 [H, W, 3] or a PIL image of mode RGB, of any size.
      model: path of a `.mlicm` file, or what `load_model` returned.
      quality: 0..100 for models of several rates; None for their default, and for models of one rate.

    Raises:
      InputError, LimitError: a picture of another kind, or too large.
      ModelError: no such model.
      UsageError: a quality out of range, or for a model of one rate.
    """
    image = _pixels(image)
    artifact = load_model(model)
    if quality is not None and not 0 <= quality <= 100:
        raise UsageError(f"quality {quality} is out of range: 0 to 100")
    chunks = zoo.codec_of(artifact).compress(artifact, image, quality)
    height, width, _ = image.shape
    return container.pack(
        container.Header(zoo.stream_id(artifact.model), artifact.fingerprint, width, height), tuple(chunks)
    )


def decompress(data: bytes, model: str | os.PathLike | Artifact | None = None) -> np.ndarray:
    """The picture uint8 [H, W, 3] of a `.mlic` file's content.

    Args:
      data: the file's content.
      model: as for `compress`; None to search the models used so far and the folders in MLIC_MODELS.

    Raises:
      CorruptStreamError: not such a file, or a damaged one.
      ModelError: the model is missing, or is not the one the file was written with.
      LimitError: sides beyond the format's.
    """
    header, chunks = container.unpack(data)
    name = zoo.name_of(header.model_id)
    if model is None:
        artifact = _find_model(header.fingerprint, name)
    else:
        artifact = load_model(model)
        if (artifact.model, artifact.fingerprint) != (name, header.fingerprint):
            raise ModelError(
                f"the file was written with {name}, fingerprint {header.fingerprint.hex()}; "
                f"the model given is {artifact.model}, fingerprint {artifact.fingerprint.hex()}"
            )
    return zoo.codec_of(artifact).decompress(artifact, chunks, (header.height, header.width))


def info(data: bytes) -> dict[str, Any]:
    """What a `.mlic` file says about itself; needs no model and imports no jax.

    Returns:
      {"model", "fingerprint", "width", "height", "bytes", "bpp", "chunks": bytes of each}.

    Raises:
      CorruptStreamError, LimitError: as `decompress`.
    """
    header, chunks = container.unpack(data)
    try:
        name = zoo.name_of(header.model_id)
    except ModelError:
        name = f"unknown (id {header.model_id})"
    return {
        "model": name,
        "fingerprint": header.fingerprint.hex(),
        "width": header.width,
        "height": header.height,
        "bytes": len(data),
        "bpp": 8 * len(data) / (header.width * header.height),
        "chunks": [len(chunk) for chunk in chunks],
    }

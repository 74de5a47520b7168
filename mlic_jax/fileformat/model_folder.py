"""A model as a folder, in the layout that model hubs expect, and back.

    model.safetensors   the arrays, under the names that they have in a .mlicm file
    config.json         what about.json is there
    README.md           a card for people, with the YAML header that hubs read; a card that is there already is kept

Importing it needs no NumPy; reading and writing need the library safetensors.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import TYPE_CHECKING

from mlic_jax import atomic, extras
from mlic_jax.errors import ModelError

if TYPE_CHECKING:
    from mlic_jax.fileformat.artifact import Artifact

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_CARD = """\
---
library_name: mlic_jax
tags:
- image-compression
- jax
---

# {name}

A model for learned image compression. Its folder is read by mlic_jax:

    mlic compress photo.jpg -m {name}
    mlic decompress photo.mlic -m {name}

| | |
|---|---|
{rows}

```json
{card}
```
"""


def is_one(path: str | os.PathLike) -> bool:
    """Whether there is a folder of a model, whatever its files hold."""
    return all(os.path.isfile(os.path.join(path, name)) for name in (WEIGHTS, CONFIG))


def size_of(path: str | os.PathLike) -> int:
    """Bytes of a model's file, or of the files of its folder."""
    path = pathlib.Path(path)
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def save(artifact: Artifact, folder: str | os.PathLike) -> None:
    """Writes the folder, each file whole or not at all; the last one says of which weights it is.

    Raises InputError where that is not possible, UsageError where safetensors is missing.
    """
    extras.require("a model's folder needs", "safetensors")
    from safetensors import numpy

    folder = pathlib.Path(folder)
    atomic.make_folder(folder)
    if not (folder / CARD).exists():
        atomic.write_bytes(folder / CARD, _card(artifact, folder.resolve().name).encode())
    atomic.write_bytes(folder / WEIGHTS, numpy.save(artifact.stored()))
    about = {"library_name": "mlic_jax", **artifact.about()}
    atomic.write_bytes(folder / CONFIG, json.dumps(about, indent=1, sort_keys=True).encode())


def load(folder: str | os.PathLike) -> Artifact:
    """Reads what `save` wrote. Raises ModelError for anything else, UsageError where safetensors is missing."""
    from mlic_jax.fileformat.artifact import Artifact

    if not is_one(folder):
        raise ModelError(f"cannot read {str(folder)!r}: a folder of a model has {WEIGHTS} and {CONFIG}")
    extras.require("a model's folder needs", "safetensors")
    from safetensors import numpy

    folder = pathlib.Path(folder)
    about, data = (atomic.read_bytes(folder / name, ModelError) for name in (CONFIG, WEIGHTS))
    try:
        return Artifact.of_stored(json.loads(about), numpy.load(data))
    except Exception as reason:  # whatever a damaged file trips over
        raise ModelError(f"{str(folder)!r} is not a model's folder, or a damaged one: {reason}") from reason


def _card(artifact: Artifact, name: str) -> str:
    rows = {
        "architecture": f"`{artifact.model}`",
        "arguments": f"`{json.dumps(artifact.architecture)}`",
        "fingerprint": artifact.fingerprint.hex(),
        "portable": "yes" if artifact.portable else "no: its files are read on machines of one kind",
        "parameters": f"{artifact.parameters:,}",
    }
    lines = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return _CARD.format(name=name, rows=lines, card=json.dumps(artifact.card, indent=1, sort_keys=True))

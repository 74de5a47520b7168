"""What a trained model is outside of training: weights, integer tables, and a card. NumPy alone.

On disk an artifact is one uncompressed `.npz` file (suffix `.mlicm`): arrays by name, and one JSON document.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlic_jax import files
from mlic_jax.entropy.tables import Table, check
from mlic_jax.errors import ModelError

SUFFIX = ".mlicm"
_FORMAT = 1
_DTYPES = ("<f4", "<f8", "<i4", "<i8", "|i1", "|u1")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts of arrays -> {"a/b/c": array}, sorted by name."""
    flat = {}
    for name in sorted(tree):
        value = tree[name]
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}/"))
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The reverse of `flatten`. Raises ValueError where a name is both an array and a folder."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        if name in node:
            raise ValueError(f"{path} is both an array and a folder")
        node[name] = value
    return tree


def _portable(array: np.ndarray) -> np.ndarray:
    """The same array, contiguous and little-endian."""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _read_array(content: bytes) -> np.ndarray:
    """The array of a .npy file. Raises ValueError for anything but plain little-endian numbers of the right size."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array has an unknown version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    data = content[file.tell() :]
    if fortran or dtype.str not in _DTYPES or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of {dtype} {shape} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape).copy()


class Artifact:
    """A model ready for use.

    Attributes:
      model: name in the zoo.
      architecture: the keyword arguments of the zoo's factory that decide shapes and streams.
      params, state: nested dicts of NumPy arrays.
      tables: family -> Table of integer frequencies.
      card: anything worth knowing about the weights (training data, steps, date); not part of the fingerprint.
    """

    def __init__(self, model, architecture, params, state, tables, card=None):
        self.model: str = model
        self.architecture: dict[str, Any] = dict(architecture)
        self.params = unflatten(flatten(params))
        self.state = unflatten(flatten(state))
        self.tables: dict[str, Table] = {family: Table(*map(np.asarray, table)) for family, table in tables.items()}
        self.card: dict[str, Any] = dict(card or {})

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, in the order of the fingerprint."""
        tables = {family: table._asdict() for family, table in self.tables.items()}
        return flatten({"params": self.params, "state": self.state, "tables": tables})

    @functools.cached_property
    def fingerprint(self) -> bytes:
        """6 bytes: files name the weights they need by these."""
        digest = hashlib.sha256(json.dumps([self.model, self.architecture], sort_keys=True).encode())
        for name, array in self.arrays().items():
            array = _portable(array)
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.digest()[:6]

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """{"params", "state"} on the default device, put there once."""
        import jax

        return jax.device_put({"params": self.params, "state": self.state})

    @functools.cached_property
    def models(self) -> dict[str, Any]:
        """family -> the range coder's models, made at first use and kept."""
        from mlic_jax.entropy import rangecoder

        return {family: rangecoder.Models(table) for family, table in self.tables.items()}

    def to_bytes(self) -> bytes:
        """The content of a `.mlicm` file. The same artifact gives the same bytes."""
        about = {
            "format": _FORMAT,
            "model": self.model,
            "architecture": self.architecture,
            "card": self.card,
            "fingerprint": self.fingerprint.hex(),
        }
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            entries = {"about.json": json.dumps(about, indent=1, sort_keys=True).encode()}
            for name, array in self.arrays().items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, _portable(array), (1, 0), allow_pickle=False)
                entries[f"{name}.npy"] = buffer.getvalue()
            for name, content in entries.items():
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
        return out.getvalue()

    def save(self, path) -> None:
        """Writes the file whole or not at all."""
        files.write_bytes(path, self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "model") -> Artifact:
        """Reads what `to_bytes` wrote. Raises ModelError naming what is wrong; no pickles are read."""
        try:
            return cls._parse(data)
        except Exception as reason:  # whatever a damaged file trips over, in zipfile, json or below
            raise ModelError(f"{name} is not a model file, or a damaged one: {reason}") from reason

    @classmethod
    def _parse(cls, data):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            # What we write is not compressed, so nothing in it can be larger than the file.
            if sum(entry.file_size for entry in entries) > len(data):
                raise ValueError("its entries are larger than the file")
            if len({entry.filename for entry in entries}) < len(entries):
                raise ValueError("it has two entries of one name")
            contents = {entry.filename: archive.read(entry) for entry in entries}
        about = json.loads(contents.pop("about.json"))
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']} is not known, {_FORMAT} is")
        if not (isinstance(about["model"], str) and isinstance(about["architecture"], dict)):
            raise TypeError("it names no model")
        tree = unflatten({entry.removesuffix(".npy"): _read_array(content) for entry, content in contents.items()})
        if not tree.keys() <= {"params", "state", "tables"}:
            raise ValueError(f"it has unknown parts: {', '.join(tree)}")
        tables = {family: Table(**arrays) for family, arrays in tree.get("tables", {}).items()}
        for table in tables.values():
            check(table)
        params, state = tree.get("params", {}), tree.get("state", {})
        artifact = cls(about["model"], about["architecture"], params, state, tables, about["card"])
        if artifact.fingerprint.hex() != about["fingerprint"]:
            raise ValueError("its fingerprint does not fit its content")
        return artifact

    @classmethod
    def load(cls, path) -> Artifact:
        """Reads a `.mlicm` file. Raises ModelError if it is missing or damaged."""
        return cls.from_bytes(files.read_bytes(path, ModelError), repr(str(path)))

    def __repr__(self):
        return f"Artifact({self.model}, {self.architecture}, fingerprint {self.fingerprint.hex()})"

"""What a trained model is outside of training: weights, integer tables, and a card. NumPy alone.

On disk an artifact is one uncompressed `.npz` file (suffix `.mlicm`): arrays by name, and one JSON document. Parameters
of a packed one stand there in fewer bits, under "packed" in place of "params".
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlic_jax import atomic
from mlic_jax.entropy.tables import Table, check
from mlic_jax.errors import ModelError
from mlic_jax.fileformat import model_folder

SUFFIX = ".mlicm"
_FORMAT = 1
_DTYPES = ("<f2", "<f4", "<f8", "<i2", "<i4", "<i8", "|i1", "|u1")
# Arguments of a model's factory of which files know nothing: a card's "encoder" may have them.
_ENCODER = ("round_for_rate",)
# Parameters with fewer entries are not worth packing.
_LEAST_PACKED = 4096
# Bytes of the JSON document. Ours have some thousand.
_LONGEST_ABOUT = 1 << 24


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


def check_arrays(needed: Mapping[str, Any], given: Mapping[str, Any], name: str) -> None:
    """Raises ModelError unless `given` has finite float32 arrays of the names and shapes in `needed`, both nested."""
    shapes = {path: tuple(array.shape) for path, array in _leaves(needed)}
    arrays = dict(_leaves(given))
    if shapes.keys() != arrays.keys():
        missing, unexpected = sorted(shapes.keys() - arrays.keys()), sorted(arrays.keys() - shapes.keys())
        raise ModelError(f"{name}: parameters missing: {missing[:5]}, unexpected: {unexpected[:5]}")
    for path, array in arrays.items():
        if array.shape != shapes[path] or array.dtype != np.float32:
            wanted = f"float32 {shapes[path]}"
            raise ModelError(f"{name}: parameter {path} is {array.dtype} {array.shape}, {wanted} is needed")
        if not np.isfinite(array).all():
            raise ModelError(f"{name}: parameter {path} is not finite")


def _leaves(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


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


def _unpacked(packed: Mapping[str, np.ndarray]) -> np.ndarray:
    """float32 of one packed parameter: {"half"} or {"bytes", "scale"}. The same numbers on every machine."""
    if packed.keys() == {"half"} and packed["half"].dtype == np.float16:
        return packed["half"].astype(np.float32)
    integers, scale = packed["bytes"], packed["scale"]
    if packed.keys() != {"bytes", "scale"} or integers.dtype != np.int8 or scale.dtype != np.float32:
        raise ValueError(f"a packed parameter has {', '.join(packed)} of other types than it should")
    if scale.shape != integers.shape[-1:]:
        raise ValueError(f"a packed parameter of {integers.shape} has scales of {scale.shape}")
    return integers.astype(np.float32) * scale


def _checked_about(about):
    """The same. Raises ValueError, TypeError or KeyError for what `Artifact.about` never gives."""
    if about["format"] != _FORMAT:
        raise ValueError(f"format {about['format']} is not known, {_FORMAT} is")
    if not (isinstance(about["model"], str) and isinstance(about["architecture"], dict)):
        raise TypeError("it names no model")
    if not isinstance(about["card"], dict) or len(bytes.fromhex(about["fingerprint"])) != 6:
        raise ValueError("its card or fingerprint makes no sense")
    return about


class Artifact:
    """A model ready for use.

    Attributes:
      model: name in the zoo.
      architecture: the keyword arguments of the zoo's factory that decide shapes and streams.
      params, state: nested dicts of NumPy arrays.
      tables: family -> Table of integer frequencies.
      card: anything worth knowing about the weights (training data, steps, date); not part of the fingerprint.
      packed: params' names -> what is stored of them, see `pack`.
    """

    def __init__(self, model, architecture, params, state, tables, card=None, packed=None):
        self.model: str = model
        self.architecture: dict[str, Any] = dict(architecture)
        self.params = unflatten(flatten(params))
        self.state = unflatten(flatten(state))
        self.tables: dict[str, Table] = {family: Table(*map(np.asarray, table)) for family, table in tables.items()}
        self.card: dict[str, Any] = dict(card or {})
        self.packed: dict[str, dict[str, np.ndarray]] = dict(packed or {})

    @property
    def encoder(self) -> dict[str, Any]:
        """How an encoder makes the best of these weights: keyword arguments of the zoo's factory, from the card. They
        change no file's meaning, so they are not part of the fingerprint. Raises ModelError for any others."""
        found = self.card.get("encoder", {})
        if not isinstance(found, Mapping) or not found.keys() <= set(_ENCODER):
            raise ModelError(f"the card's encoder is {found}: it may have {', '.join(_ENCODER)} alone")
        return dict(found)

    def pack(self, half: tuple[str, ...] = ()) -> Artifact:
        """The same model with rounded parameters, in a quarter of the space: another model, with its own fingerprint.

        Kernels [..., Cout] of 4096 entries or more become integers of 8 bits with a scale for each output channel;
        parameters whose name contains one of `half` become numbers of 16 bits.
        """
        params, packed = flatten(self.params), {}
        for name, array in params.items():
            if any(part in name for part in half):
                packed[name] = {"half": array.astype(np.float16)}
            elif array.size >= _LEAST_PACKED and array.ndim > 1:
                largest = np.abs(array).max(axis=tuple(range(array.ndim - 1)))
                scale = np.maximum(largest / 127, np.float32(1e-12)).astype(np.float32)
                packed[name] = {"bytes": np.rint(array / scale).astype(np.int8), "scale": scale}
            else:
                continue
            params[name] = _unpacked(packed[name])
        return Artifact(self.model, self.architecture, unflatten(params), self.state, self.tables, self.card, packed)

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

    @property
    def portable(self) -> bool:
        """Whether every machine reads its files, see mlic_jax.codec.Traits."""
        return self.card.get("portable") is not False

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(array.size for array in flatten(self.params).values())

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """{"params", "state"} on the default device, put there once."""
        import jax

        with jax.ensure_compile_time_eval():  # the first use may stand within a program's jit
            return jax.device_put({"params": self.params, "state": self.state})

    @functools.cached_property
    def models(self) -> dict[str, Any]:
        """family -> the range coder's models, made at first use and kept."""
        from mlic_jax.entropy import rangecoder

        return {family: rangecoder.Models(table) for family, table in self.tables.items()}

    def about(self) -> dict[str, Any]:
        """What is stored of it beside arrays."""
        return {
            "format": _FORMAT,
            "model": self.model,
            "architecture": self.architecture,
            "card": self.card,
            "fingerprint": self.fingerprint.hex(),
        }

    def stored(self) -> dict[str, np.ndarray]:
        """The arrays that are stored of it, by name, contiguous and little-endian."""
        whole = self.arrays()
        for name in self.packed:
            del whole[f"params/{name}"]
        return {name: _portable(array) for name, array in {**whole, **flatten({"packed": self.packed})}.items()}

    def to_bytes(self) -> bytes:
        """The content of a `.mlicm` file. The same artifact gives the same bytes."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            entries = {"about.json": json.dumps(self.about(), indent=1, sort_keys=True).encode()}
            for name, array in self.stored().items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, array, (1, 0), allow_pickle=False)
                entries[f"{name}.npy"] = buffer.getvalue()
            for name, content in entries.items():
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
        return out.getvalue()

    def save(self, path) -> None:
        """Writes the file whole or not at all."""
        atomic.write_bytes(path, self.to_bytes())

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
        return cls.of_stored(about, {name.removesuffix(".npy"): _read_array(array) for name, array in contents.items()})

    @classmethod
    def of_stored(cls, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Artifact:
        """Of what `about` and `stored` gave. Raises whatever the content of a damaged file trips over."""
        about = _checked_about(about)
        tree = unflatten(arrays)
        if not tree.keys() <= {"params", "packed", "state", "tables"}:
            raise ValueError(f"it has unknown parts: {', '.join(tree)}")
        packed: dict[str, dict[str, np.ndarray]] = {}
        for path, array in flatten(tree.get("packed", {})).items():
            name, _, kind = path.rpartition("/")
            packed.setdefault(name, {})[kind] = array
        tables = {family: Table(**arrays) for family, arrays in tree.get("tables", {}).items()}
        for table in tables.values():
            check(table)
        whole = flatten(tree.get("params", {}))
        if whole.keys() & packed.keys():
            raise ValueError("a parameter is there twice")
        params = unflatten({**whole, **{name: _unpacked(parts) for name, parts in packed.items()}})
        state = tree.get("state", {})
        artifact = cls(about["model"], about["architecture"], params, state, tables, about["card"], packed)
        if artifact.fingerprint.hex() != about["fingerprint"]:
            raise ValueError("its fingerprint does not fit its content")
        return artifact

    @staticmethod
    def about_in(path) -> dict[str, Any]:
        """What a `.mlicm` file or a model's folder says of itself, as `about` has it; nothing else of it is read, and
        `load` checks whether it is true.

        Raises ModelError if there is none.
        """
        try:
            if os.path.isdir(path):
                content = pathlib.Path(path, model_folder.CONFIG).read_bytes()
            else:
                with zipfile.ZipFile(path) as archive, archive.open("about.json") as about:
                    content = about.read(_LONGEST_ABOUT)
            return _checked_about(json.loads(content))
        except Exception as reason:  # as in `from_bytes`
            raise ModelError(f"{str(path)!r} is not a model file, or a damaged one: {reason}") from reason

    @classmethod
    def fingerprint_in(cls, path) -> bytes:
        """The fingerprint that `about_in` has. Raises ModelError as it does."""
        return bytes.fromhex(cls.about_in(path)["fingerprint"])

    @classmethod
    def load(cls, path) -> Artifact:
        """Reads a `.mlicm` file or a model's folder. Raises ModelError if it is missing or damaged."""
        if os.path.isdir(path):
            return model_folder.load(path)
        return cls.from_bytes(atomic.read_bytes(path, ModelError), repr(str(path)))

    def __repr__(self):
        return f"Artifact({self.model}, {self.architecture}, fingerprint {self.fingerprint.hex()})"

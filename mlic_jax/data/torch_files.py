"""Reading what `torch.save` and `torch.jit.save` wrote, without PyTorch.

Only dicts, lists, numbers, strings and dense tensors can come out of it, and nothing in a file is executed.
"""

from __future__ import annotations

import functools
import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable

import numpy as np

from mlic_jax import atomic
from mlic_jax.errors import ModelError

_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1",
}  # fmt: skip


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The weights in a checkpoint that `torch.save` wrote, without PyTorch.

    Args:
      path: a state dict, or a training checkpoint with one under "state_dict".

    Returns:
      name -> array, in torch's layout.

    Raises:
      ModelError: missing or damaged file, or anything but tensors in it. Nothing in it is executed.
    """
    return of_checkpoint(atomic.read_bytes(path, ModelError), path)


def of_checkpoint(data: bytes, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """As `read_checkpoint`, from the content of a file; errors name its path."""

    def tensors(data):
        checkpoint = _of_zip(data) if data[:2] == b"PK" else _of_pickles(data)
        return checkpoint.get("state_dict", checkpoint)

    return _weights(data, path, tensors)


def of_script(data: bytes, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The weights of a network that `torch.jit.save` wrote, without PyTorch; its code is not looked at.

    Args:
      data: the content of the file.
      path: which errors name.

    Returns:
      name -> array, in torch's layout; names have dots between modules, as in a state dict.

    Raises:
      ModelError: as `read_checkpoint`.
    """
    return _weights(data, path, lambda data: dict(_flat(_of_zip(data))))


def _weights(data, path, tensors):
    try:
        weights = {str(name): value for name, value in tensors(data).items() if isinstance(value, np.ndarray)}
    except Exception as reason:  # whatever a damaged file trips over, in zipfile or pickle
        raise ModelError(f"{str(path)!r} is not a checkpoint with plain tensors: {reason}") from reason
    if not weights:
        raise ModelError(f"{str(path)!r} holds no weights")
    return weights


class _Dict(dict):
    """Stands in for OrderedDict, and leaves out the attributes that torch hangs on it."""

    def __setstate__(self, state):
        pass


class _Module(dict):
    """Stands in for a module of TorchScript: its attributes by name."""

    def __setstate__(self, state):
        self.update(state)


def _flat(module, prefix=""):
    """(name, value) of all attributes of a module and of those inside."""
    for name, value in module.items():
        yield from _flat(value, f"{prefix}{name}.") if isinstance(value, _Module) else [(prefix + name, value)]


def _of_zip(data):
    """The object in a file of torch 1.6 or later."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > len(data):
            raise ValueError("its entries are larger than the file")
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = name.removesuffix("data.pkl")
        order = root + "byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("it is not little-endian")

        @functools.cache
        def storage(key, dtype):
            return np.frombuffer(archive.read(f"{root}data/{key}"), dtype)

        return _Unpickler(io.BytesIO(archive.read(name)), storage).load()


# Of what a pickle remembers.
_LARGEST_NUMBER = 1 << 20
# What the files of earlier versions begin with.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def _of_pickles(data):
    """The object in a file of an earlier version: pickles, the last of them the keys of storages, then these.

    Storages are needed to read the object, and stand behind it: it is read twice.
    """
    stream, dtypes = io.BytesIO(data), {}
    magic, protocol, system = (_Unpickler(stream, None).load() for _ in range(3))
    if (magic, protocol, system["little_endian"]) != (_MAGIC, _PROTOCOL, True):
        raise ValueError("it is no file of torch.save, or not little-endian")
    start = stream.tell()
    _Unpickler(stream, dtypes.__setitem__).load()
    storages = {}
    for key in _Unpickler(stream, None).load():
        count = int.from_bytes(stream.read(8), "little")
        storages[key] = np.frombuffer(stream.read(count * dtypes[key].itemsize), dtypes[key])
    stream.seek(start)
    return _Unpickler(stream, lambda key, dtype: storages[key]).load()


class _Unpickler(pickle.Unpickler):
    """Knows the four names that a state dict needs, and of TorchScript its lists, and its modules as dicts; any
    other name is refused before it is looked up.

    storage: (key, dtype) -> array of one dimension; or None, and tensors are left out, while a storage is not known.
    """

    def __init__(self, stream: io.BytesIO, storage: Callable[[str, np.dtype], np.ndarray | None]):
        super().__init__(stream)
        self._stream, self._storage = stream, storage

    def load(self):
        """The next object. A pickle could ask for any amount of memory by numbering what it remembers."""
        start = self._stream.tell()
        for operation, argument, _ in pickletools.genops(self._stream):
            if operation.name in ("PUT", "LONG_BINPUT") and argument > _LARGEST_NUMBER:
                raise ValueError("a pickle that asks for much memory")
        self._stream.seek(start)
        return super().load()

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        if module.split(".")[0] == "__torch__":
            return _Module
        if (module, name) == ("torch.jit._pickle", "build_intlist"):
            return list
        raise ValueError(f"{module}.{name} is not allowed")

    def persistent_load(self, reference):
        kind, dtype, key, _, count, *view = reference
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(part is not None for part in view):
            raise ValueError("a reference to something unknown")
        storage = self._storage(key, dtype)
        if storage is not None and (len(storage) < count or storage.dtype != dtype):
            raise ValueError("a tensor is longer than its data")
        return storage


def _tensor(storage, offset, shape, strides, *_):
    """A dense array out of a storage, copied; None without one."""
    if storage is None:
        return None
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("a tensor whose shape and strides do not fit")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) > len(storage) or (math.prod(shape) and last >= len(storage)):
        raise ValueError("a tensor is longer than its data")
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()

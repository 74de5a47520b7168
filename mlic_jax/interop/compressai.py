"""Weights from CompressAI (https://github.com/InterDigitalInc/CompressAI), and back to it, without PyTorch.

    artifact = artifact_of("bmshj2018-hyperprior-3-6d87be32.pth.tar", "bmshj2018-hyperprior", quality=3)

which `mlic import compressai` calls. Apart, to go on with parameters:

    weights = read_checkpoint("bmshj2018-hyperprior-3-6d87be32.pth.tar")
    codec = zoo.make("bmshj2018-hyperprior", **architecture_of("bmshj2018-hyperprior", weights))
    params, state = from_compressai("bmshj2018-hyperprior", weights)

The networks are the same and give the same numbers (tests/models/test_parity.py); streams are not interchangeable. The
medians are CompressAI's (the middle ones of its `quantiles`), its integer tables are left out: `export` makes ours.

    CompressAI                               shape            here
    g_a.0.weight (convolution)               [O, I, k, k]     g_a/layers_0/kernel  [k, k, I, O]
    g_s.0.weight (transposed convolution)    [I, O, k, k]     g_s/layers_0/kernel  [k, k, I, O], flipped in both k
    g_a.1.beta, .gamma                       [C], [C, C]      g_a/layers_1/beta, gamma
    context_prediction.weight                [O, I, k, k]     context_prediction/layers_0/kernel, with a mask
    entropy_bottleneck.matrices.0 ..         [C, f', f]       prior_z/matrix_0 .. (prior_y in the factorized model)
    entropy_bottleneck.quantiles             [C, 1, 3]        state: prior_z/medians [C]
"""

from __future__ import annotations

import functools
import io
import math
import os
import pathlib
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from mlic_jax import atomic, zoo
from mlic_jax.entropy.priors.factorized import quantiles
from mlic_jax.entropy.scanning import Raster
from mlic_jax.errors import ModelError
from mlic_jax.families.common import check_choices
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.models import bmshj2018, mbt2018

_TRANSPOSED = re.compile(r"g_s\.\d+|h_s\.[02]")  # in all models here
# What CompressAI saves and computes anew: tables, and bounds as buffers.
_DERIVED = re.compile(
    r"gaussian_conditional\..*|context_prediction\.mask|.*_reparam\..*|.*likelihood_lower_bound\..*"
    r"|entropy_bottleneck\.(_offset|_quantized_cdf|_cdf_length|target)"
)
_OLD_NAMES = {"_matrix": "matrices.", "_bias": "biases.", "_factor": "factors."}
# model -> quality -> (N, M), as in CompressAI's zoo.
QUALITIES = {
    "bmshj2018-factorized": bmshj2018.WIDTHS,
    "bmshj2018-hyperprior": bmshj2018.WIDTHS,
    "mbt2018-mean": mbt2018.WIDTHS,
    "mbt2018": mbt2018.WIDTHS_JOINT,
}
_QUANTILES = "entropy_bottleneck.quantiles"
_TAIL_MASS = 1e-9  # CompressAI's


def architecture_of(model: str, weights: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The widths {"N", "M"} of CompressAI weights, from their shapes. Raises ModelError where there are none."""
    weights = _renamed(weights)
    try:
        return {"N": int(weights["g_a.0.weight"].shape[0]), "M": int(weights["g_a.6.weight"].shape[0])}
    except (KeyError, IndexError) as reason:
        raise ModelError(f"no CompressAI weights of {model}: g_a.0.weight or g_a.6.weight is missing") from reason


def artifact_of(
    path: str | os.PathLike, model: str, quality: int | None = None, images: Sequence[np.ndarray] | None = None
) -> Artifact:
    """The model of a checkpoint that CompressAI's users saved, with integers and tables of ours.

    Args:
      path: see `read_checkpoint`.
      model: name in the zoo, which is CompressAI's: one of QUALITIES.
      quality: 1..8 of CompressAI's zoo, which the widths must be those of; the card tells it. None: any widths.
      images: uint8 [H, W, 3], by which the integer ranges of the parse path are chosen; None for the bundled photos.

    Raises:
      UsageError: a model that is not in CompressAI's zoo and here, or a quality that it does not have.
      ModelError: a file that cannot be read, or weights of another model or quality.
    """
    check_choices("import", ("model", model, tuple(QUALITIES)))
    if quality is not None:
        check_choices("import", ("quality", quality, tuple(QUALITIES[model])))
    weights = read_checkpoint(path)
    params, state = from_compressai(model, weights)
    architecture = architecture_of(model, weights)
    if quality is not None and tuple(architecture.values()) != QUALITIES[model][quality]:
        widths, found = (f"N={N}, M={M}" for N, M in (QUALITIES[model][quality], architecture.values()))
        raise ModelError(f"{str(path)!r} holds {model} with {found}: quality {quality} has {widths}")
    artifact = zoo.make(model, **architecture).export(params, state, images)
    artifact.card |= {"weights": f"CompressAI's {model}, from {pathlib.Path(path).name}"}
    if quality is not None:
        artifact.card |= {"quality": quality}
    return artifact


def from_compressai(model: str, weights: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """(params, state) of a model from CompressAI's state dict.

    Args:
      model: name in the zoo, which is CompressAI's: one of the four that this package shares with it.
      weights: name -> array in torch's layout; old names (`_matrix0`) and the prefix `module.` are understood.

    Raises:
      ModelError: unknown model; missing or unexpected names; shapes that do not fit.
    """
    weights = {name: np.asarray(a) for name, a in _renamed(weights).items() if not _DERIVED.fullmatch(name)}
    names = _names(model, architecture_of(model, weights))
    missing, unexpected = sorted({*names, _QUANTILES} - weights.keys()), sorted(weights.keys() - {*names, _QUANTILES})
    if missing or unexpected:
        raise ModelError(
            f"these are no CompressAI weights of {model}: missing {_some(missing)}; unexpected {_some(unexpected)}"
        )
    params = {}
    for name, (path, shape) in names.items():
        array = _to_jax(name, weights[name]).astype(np.float32)
        if array.shape != shape:
            raise ModelError(f"{name} has shape {weights[name].shape}, which does not fit {model}'s {path} {shape}")
        params[path] = array
    prior = _prior(names)
    channels = params[f"{prior}/matrix_0"].shape[0]
    if weights[_QUANTILES].shape != (channels, 1, 3):
        raise ModelError(f"{_QUANTILES} has shape {weights[_QUANTILES].shape}, ({channels}, 1, 3) is needed")
    return unflatten(params), {prior: {"medians": weights[_QUANTILES][:, 0, 1].astype(np.float32)}}


def to_compressai(model: str, params, state=None) -> dict[str, np.ndarray]:
    """The state dict that CompressAI's model loads, in torch's layout; call `net.update(force=True)` there afterwards.

    Args:
      model: name in the zoo.
      params, state: as `init`, training or an artifact has them. Medians are taken from state where it has them.

    Raises:
      ModelError: unknown model.
    """
    flat = flatten(params)
    architecture = {"N": flat["g_a/layers_0/kernel"].shape[-1], "M": flat["g_a/layers_6/kernel"].shape[-1]}
    names = _names(model, architecture)
    weights = {name: _to_torch(name, flat[path]) for name, (path, _) in names.items()}
    if (context := "context_prediction.weight") in weights:
        mask = np.float32(Raster(weights[context].shape[-1]).mask())
        weights[context] = weights[context] * mask
        weights["context_prediction.mask"] = np.broadcast_to(mask, weights[context].shape).copy()
    prior = _prior(names)
    medians_and_tails = quantiles(params[prior], [_TAIL_MASS / 2, 0.5, 1 - _TAIL_MASS / 2])
    if state and prior in state:
        medians_and_tails[:, 1] = state[prior]["medians"]
    weights[_QUANTILES] = medians_and_tails[:, None].astype(np.float32)
    return weights


def _renamed(weights):
    """Today's names for old ones."""
    renamed = {}
    for name, array in weights.items():
        name = name.removeprefix("module.")
        old = re.fullmatch(r"(entropy_bottleneck\.)(_matrix|_bias|_factor)(\d)", name)
        renamed[f"{old[1]}{_OLD_NAMES[old[2]]}{old[3]}" if old else name] = array
    return renamed


def _some(names):
    """The first of them, in words."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "nothing") + more


def _names(model, architecture) -> dict[str, tuple[str, tuple[int, ...]]]:
    """CompressAI's name -> (our path, our shape)."""
    codec = zoo.make(model, **architecture)
    params = codec.init(jax.random.key(0), (64, 64, 3))[0]
    names = {}
    for path, array in flatten(params).items():
        top, rest = path.split("/", 1)
        if top.startswith("prior_"):
            kind, k = rest.split("_")
            name = f"entropy_bottleneck.{_OLD_NAMES['_' + kind]}{k}"
        else:
            name = f"{top}.{rest.removeprefix('layers_').replace('/', '.')}".replace("kernel", "weight")
            name = name.replace("context_prediction.0", "context_prediction")
        names[name] = path, array.shape
    return names


def _prior(names) -> str:
    return names["entropy_bottleneck.matrices.0"][0].split("/")[0]


def _to_jax(name, array):
    if array.ndim != 4:
        return array
    return array[..., ::-1, ::-1].transpose(2, 3, 0, 1) if _TRANSPOSED.match(name) else array.transpose(2, 3, 1, 0)


def _to_torch(name, array):
    if array.ndim != 4:
        return array
    return array.transpose(2, 3, 0, 1)[..., ::-1, ::-1] if _TRANSPOSED.match(name) else array.transpose(3, 2, 0, 1)


# --- Reading what torch.save wrote. Only dicts, lists, numbers, strings and dense tensors can come out of it.

_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1",
}  # fmt: skip


def read_checkpoint(path) -> dict[str, np.ndarray]:
    """The weights in a checkpoint that `torch.save` wrote, without PyTorch.

    Args:
      path: a state dict, or a training checkpoint with one under "state_dict".

    Returns:
      name -> array, in torch's layout.

    Raises:
      ModelError: missing or damaged file, or anything but tensors in it. Nothing in it is executed.
    """
    data = atomic.read_bytes(path, ModelError)
    try:
        checkpoint = _of_zip(data) if data[:2] == b"PK" else _of_pickles(data)
        tensors = checkpoint.get("state_dict", checkpoint)
        weights = {str(name): value for name, value in tensors.items() if isinstance(value, np.ndarray)}
    except Exception as reason:  # whatever a damaged file trips over, in zipfile or pickle
        raise ModelError(f"{str(path)!r} is not a checkpoint with plain tensors: {reason}") from reason
    if not weights:
        raise ModelError(f"{str(path)!r} holds no weights")
    return weights


class _Dict(dict):
    """Stands in for OrderedDict, and leaves out the attributes that torch hangs on it."""

    def __setstate__(self, state):
        pass


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
    """Knows the four names that a state dict needs; any other one is refused before it is looked up.

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

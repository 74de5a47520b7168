"""The registry of models: a name, a factory, and the id that files carry. There is no other list of models.

Ids are literals and never reused: a file written today must name the same model in ten years, whatever is added.
Factories are named, not imported, so that reading a file's header needs neither jax nor flax.

Models of other packages are named by their factory, "mypackage.mymodel:codec", wherever a model's name stands:

    from mlic_jax import zoo

    @zoo.factory
    def codec(*, width: int = 64, **training):
        ...
        return latent_codec(module, model="mypackage.mymodel:codec", architecture={"width": width}, **training)

Their files carry an id of the range EXPERIMENTS, made of the name; the weights' fingerprint tells them apart. A file or
model that somebody sent must not decide what Python imports and calls: a name in it is followed into packages alone
that are imported already or that MLIC_MODULES names, and to functions alone that `factory` marks.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import sys
import zlib
from collections.abc import Callable
from typing import NamedTuple

from mlic_jax.errors import ModelError, UsageError


class Entry(NamedTuple):
    """A model.

    Attributes:
      stream_id: what files carry, 1..65535.
      factory: "module:function", called with keyword arguments, returns a Codec.
      has_weights: whether it needs a model file; a codec without is there by its name alone.
    """

    stream_id: int
    factory: str
    has_weights: bool = True


MODELS = {
    "bmshj2018-factorized": Entry(1, "mlic_jax.models.bmshj2018:factorized"),
    "bmshj2018-hyperprior": Entry(2, "mlic_jax.models.bmshj2018:hyperprior"),
    "mbt2018-mean": Entry(3, "mlic_jax.models.mbt2018:mean_scale"),
    "kltnet": Entry(4, "mlic_jax.models.kltnet:kltnet"),
    "jiang2017": Entry(5, "mlic_jax.models.jiang2017:jiang2017"),
    "talebi2020": Entry(6, "mlic_jax.models.talebi2020:talebi2020"),
    "li2018": Entry(7, "mlic_jax.models.li2018:li2018"),
    "toderici2017": Entry(8, "mlic_jax.models.toderici2017:toderici2017"),
    "johnston2018": Entry(9, "mlic_jax.models.johnston2018:johnston2018"),
    "kltnet2": Entry(10, "mlic_jax.models.kltnet2:kltnet2"),
    "bitmap": Entry(11, "mlic_jax.families.bitmap:bitmap", has_weights=False),
    "mbt2018": Entry(12, "mlic_jax.models.mbt2018:joint"),
    "minnen2020": Entry(13, "mlic_jax.models.minnen2020:channel_wise"),
    "hu2020": Entry(14, "mlic_jax.models.hu2020:coarse_to_fine"),
    "cheng2020-anchor": Entry(15, "mlic_jax.models.cheng2020:anchor"),
    "cheng2020-attn": Entry(16, "mlic_jax.models.cheng2020:attention"),
    "cheng2020-anchor-checkerboard": Entry(17, "mlic_jax.models.checkerboard2021:checkerboard"),
    "elic2022": Entry(18, "mlic_jax.models.elic2022:elic"),
    "bls2017": Entry(19, "mlic_jax.models.bls2017:bls2017"),
}


# Ids of models that are in no release.
EXPERIMENTS = range(0xE000, 0xF000)
# Packages, separated by commas, whose models files may name.
MODULES = "MLIC_MODULES"
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_MARK = "_makes_codec_of_mlic_jax"


def factory(function: Callable) -> Callable:
    """Marks a function of another package as one that makes a Codec; a model file can have no other called."""
    setattr(function, _MARK, True)
    return function


def _entry(name: str) -> Entry:
    if name in MODELS:
        return MODELS[name]
    if _REFERENCE.fullmatch(name):
        return Entry(EXPERIMENTS[zlib.crc32(name.encode()) % len(EXPERIMENTS)], name)
    raise ModelError(
        f"model {name!r} is not known: use one of {', '.join(MODELS)}, or package.module:function of a model of yours"
    )


def stream_id(name: str) -> int:
    """The id that files carry for a model. Raises ModelError for an unknown name."""
    return _entry(name).stream_id


def needs_weights(name: str) -> bool:
    """Whether a model is one of a model file; of names that are not known it is."""
    return name not in MODELS or MODELS[name].has_weights


def name_of(stream_id: int) -> str:
    """The name that belongs to a file's model id. Raises ModelError for an unknown id."""
    for name, entry in MODELS.items():
        if entry.stream_id == stream_id:
            return name
    if stream_id in EXPERIMENTS:
        return f"experiment-{stream_id}"
    raise ModelError(f"the file was written by a model with id {stream_id}, which this version does not know")


def _factory(name: str) -> Callable:
    """The function that makes a model. Raises ModelError where its package is missing, or it is none."""
    module, function = _entry(name).factory.split(":")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as reason:
        if name in MODELS or not (reason.name and f"{module}.".startswith(f"{reason.name}.")):
            raise
        raise ModelError(
            f"the model is {name!r}, and there is no module {reason.name!r} here: install the package that has it, or "
            "put its folder on PYTHONPATH"
        ) from reason
    if name not in MODELS and not getattr(found, _MARK, False):
        raise ModelError(f"{name!r} makes no model: a function is needed that mlic_jax.zoo.factory marks")
    return found


def _check_trust(name: str) -> None:
    """Raises ModelError for a model of a package that nobody here asked for."""
    top = _entry(name).factory.partition(":")[0].partition(".")[0]
    named = [word.strip() for word in os.environ.get(MODULES, "").split(",")]
    if name not in MODELS and top not in named and top not in sys.modules:
        raise ModelError(
            f"the model is {name!r}, of another package: where you trust it, import {top} first, or set {MODULES}={top}"
        )


@functools.lru_cache(maxsize=64)
def _make(name, arguments, types):
    del types  # 8 and 8.0 are one key otherwise
    function = _factory(name)
    try:
        # Factories pass what they do not know on to latent_codec; there it is a TypeError that names the argument.
        return function(**dict(arguments))
    except TypeError as reason:
        known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        raise UsageError(
            f"model {name!r} cannot be made: {reason} (arguments: {', '.join(known)}, and those of training)"
        ) from reason


def _hashable(value):
    """Lists as tuples, in which they are handed to factories."""
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _types(value):
    return tuple(map(_types, value)) if isinstance(value, tuple) else type(value)


def make(name: str, /, **arguments):
    """The Codec of a model; the same object for the same arguments.

    Args:
      name: a key of MODELS, or "package.module:function".
      **arguments: of its factory: widths, `lmbda`, `distortion`, `proxy`, `dtype`, `precision`; lists become tuples.

    Raises:
      ModelError: unknown name, a module that is not there, or a function that is no factory.
      UsageError: arguments that the factory does not take, or values out of range.
    """
    items = tuple((key, _hashable(arguments[key])) for key in sorted(arguments))
    try:
        return _make(name, items, _types(items))
    except TypeError as reason:  # a dict is not hashable, and no factory takes one
        raise UsageError(f"model {name!r} cannot be made of {arguments}: {reason}") from reason


def codec_of(artifact):
    """The Codec that an Artifact was exported from. Raises ModelError for an unknown model, one of a package that is
    missing or that nobody asked for, or an odd architecture."""
    _check_trust(artifact.model)
    try:
        return make(artifact.model, **artifact.architecture, **artifact.encoder)
    except UsageError as reason:
        raise ModelError(f"the model file is damaged: {reason}") from reason

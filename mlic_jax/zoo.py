"""The registry of models: a name, a factory, and the id that files carry. There is no other list of models.

Ids are literals and never reused: a file written today must name the same model in ten years, whatever is added.
Factories are named, not imported, so that reading a file's header needs neither jax nor flax.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import NamedTuple

from mlic_jax.errors import ModelError, UsageError


class Entry(NamedTuple):
    """A model.

    Attributes:
      stream_id: what files carry, 1..65535.
      factory: "module:function", called with keyword arguments, returns a Codec.
    """

    stream_id: int
    factory: str


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
}


def _entry(name: str) -> Entry:
    if name not in MODELS:
        raise ModelError(f"model {name!r} is not known: use one of {', '.join(MODELS)}")
    return MODELS[name]


def stream_id(name: str) -> int:
    """The id that files carry for a model. Raises ModelError for an unknown name."""
    return _entry(name).stream_id


def name_of(stream_id: int) -> str:
    """The name that belongs to a file's model id. Raises ModelError for an unknown id."""
    for name, entry in MODELS.items():
        if entry.stream_id == stream_id:
            return name
    raise ModelError(f"the file was written by a model with id {stream_id}, which this version does not know")


@functools.lru_cache(maxsize=64)
def _make(name, arguments, types):
    del types  # 8 and 8.0 are one key otherwise
    module, function = _entry(name).factory.split(":")
    factory = getattr(importlib.import_module(module), function)
    try:
        # Factories pass what they do not know on to latent_codec; there it is a TypeError that names the argument.
        return factory(**dict(arguments))
    except TypeError as reason:
        known = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD]
        raise UsageError(
            f"model {name!r} cannot be made: {reason} (arguments: {', '.join(known)}, and those of training)"
        ) from reason


def make(name: str, /, **arguments):
    """The Codec of a model; the same object for the same arguments.

    Args:
      name: a key of MODELS.
      **arguments: of its factory: widths, `lmbda`, `distortion`, `proxy`, `dtype`, `precision`.

    Raises:
      ModelError: unknown name.
      UsageError: arguments that the factory does not take, or values out of range.
    """
    try:
        return _make(name, tuple(sorted(arguments.items())), tuple(type(arguments[key]) for key in sorted(arguments)))
    except TypeError as reason:  # a list or dict is not hashable, and no factory takes one
        raise UsageError(f"model {name!r} cannot be made of {arguments}: {reason}") from reason


def codec_of(artifact):
    """The Codec that an Artifact was exported from. Raises ModelError for an unknown model or an odd architecture."""
    try:
        return make(artifact.model, **artifact.architecture)
    except UsageError as reason:
        raise ModelError(f"the model file is damaged: {reason}") from reason

"""Learned image compression in JAX.

    import mlic_jax as mlic

    data = mlic.compress(image, "model.mlicm")       # uint8 [H, W, 3] or a PIL image -> bytes of a .mlic file
    image = mlic.decompress(data, "model.mlicm")     # bytes -> uint8 [H, W, 3]

Everything is imported when it is first used: `import mlic_jax` is instant and needs no accelerator.
"""

import importlib

from mlic_jax.errors import (
    CorruptStreamError,
    InputError,
    LimitError,
    MlicError,
    ModelError,
    TrainingError,
    UsageError,
)

__version__ = "0.1.0"

_HOME = {"compress": "api", "decompress": "api", "info": "api", "load_model": "api", "Artifact": "artifact"}

__all__ = [
    "CorruptStreamError",
    "InputError",
    "LimitError",
    "MlicError",
    "ModelError",
    "TrainingError",
    "UsageError",
    *_HOME,
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__():
    return sorted(__all__)

"""Learned image compression in JAX.

    import mlic_jax as mlic

    data = mlic.compress(image, quality=40)      # an array or a PIL image -> bytes of a .mlic file
    data = mlic.compress_to(image, size=20_000)  # the best quality that fits
    image = mlic.decompress(data)                # bytes -> an array of the same kind
    image = mlic.decompress_image(data)          # bytes -> a PIL image, with ICC, EXIF and XMP
    for part in mlic.prefixes(data): ...         # what a progressive file shows while it arrives
    model = mlic.load("tiny")                    # its networks, for a program's own jit and grad
    mlic.models()                                # the models of this machine, their sizes and rates

Everything is imported when it is first used: `import mlic_jax` is instant and needs no accelerator.
"""

import importlib
from collections.abc import Mapping

from mlic_jax.errors import (
    CorruptStreamError,
    InputError,
    LimitError,
    LossWarning,
    MlicError,
    ModelError,
    TrainingError,
    TruncationWarning,
    UsageError,
)

__version__ = "0.1.0"

_HOME = {
    "compress": "api",
    "compress_to": "api",
    "decompress": "api",
    "decompress_image": "api",
    "info": "api",
    "prefixes": "api",
    "load": "training.loading",
    "load_model": "api",
    "Artifact": "fileformat.artifact",
}

__all__ = [
    "CorruptStreamError",
    "InputError",
    "LimitError",
    "LossWarning",
    "MlicError",
    "ModelError",
    "TrainingError",
    "TruncationWarning",
    "UsageError",
    *_HOME,
]


def imported_when_used(package: str, home: Mapping[str, str], name: str):
    """What a package's `__getattr__` gives: `name` of the module of the package that `home` says.

    Raises AttributeError for other names.
    """
    if name not in home:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{package}.{home[name]}"), name)


def __getattr__(name: str):
    if name == "models":  # a package, which lists the installed models where it is called
        return importlib.import_module(f"{__name__}.models")
    return imported_when_used(__name__, _HOME, name)


def __dir__():
    return sorted(__all__)

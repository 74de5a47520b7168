"""The models of this machine, and what they are like, from their cards. NumPy alone."""

from __future__ import annotations

import pathlib
import warnings
from typing import NamedTuple

from mlic_jax.errors import ModelError
from mlic_jax.fileformat import model_folder, model_names, model_store
from mlic_jax.fileformat.artifact import Artifact


class Installed(NamedTuple):
    """A model.

    Attributes:
      name: what `mlic_jax.load` and `-m` take.
      architecture: its name in the zoo.
      fingerprint: of the weights, in hexadecimal digits.
      path: of its file or folder.
      bytes: of that.
      bpp: bits per pixel of its lowest and its highest quality, on Kodak; for one that somebody exported, twice an
        estimate on validation patches at its default quality. None where its card does not say.
      kmac_per_pixel: thousands of multiply-accumulates of encoding and of decoding, or None.
      portable: whether every machine reads its files.
      default: whether it is the one that is used where none is named.
    """

    name: str
    architecture: str
    fingerprint: str
    path: str
    bytes: int
    bpp: tuple[float, float] | None
    kmac_per_pixel: tuple[float, float] | None
    portable: bool
    default: bool


def models() -> list[Installed]:
    """The models in the package, in a clone, in other distributions, in the folders of MLIC_MODELS, and in MLIC_MODEL.

    What cannot be read is passed over with a warning.
    """
    found: dict[pathlib.Path, Installed] = {}
    for name, path in model_store.installed():
        try:
            found.setdefault(path.resolve(), _one(name, path))
        except (ModelError, OSError) as reason:
            warnings.warn(f"a model is passed over: {reason}", stacklevel=2)
    return list(found.values())


def _one(name, path):
    about = Artifact.about_in(path)
    known, card = model_names.by_fingerprint(bytes.fromhex(about["fingerprint"])), about["card"]
    return Installed(
        known.short if known else name,
        about["model"],
        about["fingerprint"],
        str(path.absolute()),
        model_folder.size_of(path),
        known.bpp if known else _numbers(card, "validation", "bpp", "bpp"),
        known.kmac_per_pixel if known else _numbers(card, "kmac_per_pixel", "encoding", "decoding"),
        card.get("portable") is not False,
        path.resolve() == model_store.default().resolve(),
    )


def _numbers(card, key, *names):
    """Numbers on a card, which anybody may have written; None where there are none."""
    found = card.get(key)
    values = tuple(found.get(name) for name in names) if isinstance(found, dict) else (None,)
    return values if all(isinstance(value, int | float) for value in values) else None

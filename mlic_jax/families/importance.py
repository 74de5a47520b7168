"""A user's importance map, which says where bits are to go, as every codec that takes one has it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mlic_jax.data import images
from mlic_jax.errors import InputError

# Kind of a NumPy type -> what means 1.
_LARGEST = {"u": 255, "b": 1, "f": 1}


def importance_map(given: np.ndarray | Image.Image | None, size: tuple[int, int]) -> np.ndarray | None:
    """float32 [H, W] in 0..1, the higher the more bits; None for None.

    Args:
      given: a grey picture; or numbers [H, W]: floats in 0..1, integers of 8 bits, or bool.
      size: (H, W) of the picture that it belongs to.

    Raises InputError for a map of another size or kind.
    """
    if given is None:
        return None
    if isinstance(given, Image.Image):
        given = images.grey_of(given, "the importance map")
    array = np.asarray(given)
    if array.shape != size:
        raise InputError(
            f"the importance map has shape {list(array.shape)}, the picture {size[1]}x{size[0]} pixels: one number each"
        )
    kind = array.dtype.kind
    if kind not in _LARGEST or (kind == "u" and array.dtype.itemsize > 1):
        raise InputError(
            f"the importance map is {array.dtype}: floats in 0..1, integers of 8 bits or bool are possible"
        )
    array = array.astype(np.float32) / _LARGEST[kind]
    if not (np.isfinite(array) & (array >= 0) & (array <= 1)).all():
        raise InputError("the importance map has numbers outside of 0..1")
    return array

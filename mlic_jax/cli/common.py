"""What several subcommands need."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `mlic info` starts without NumPy
    import numpy as np


def pictures(folder: str | None, limit: int) -> list[tuple[str, np.ndarray]]:
    """Names and pixels uint8 [H, W, 3] of a folder's pictures, or of the bundled ones held out from training.

    Args:
      folder: None for the bundled ones.
      limit: the first so many; 0 for all.

    Raises InputError.
    """
    from mlic_jax import data

    paths = data.list_images(folder) if folder else data.bundled("validation")
    return [(path.stem, data.read_image(path)) for path in paths[: limit or None]]

"""`mlic_jax.load`: a model for programs, of a run too."""

from __future__ import annotations

import os

from mlic_jax import api, extras
from mlic_jax.families.loaded import Model
from mlic_jax.fileformat.artifact import Artifact


def load(model: str | os.PathLike | Artifact | None = None) -> Model:
    """A model for programs: its networks within jit, grad and vmap, its parameters, and its files.

    Args:
      model: as for `mlic_jax.load_model`; or the workdir of `mlic train`, whose best checkpoint is exported.

    Raises:
      As `load_model`; of a run, as `mlic_jax.training.runs.load_run`, and UsageError without the extra `train`.
    """
    if isinstance(model, str | os.PathLike) and os.path.isdir(os.path.join(model, "checkpoints")):
        extras.require("runs need", *extras.TRAINING)
        from mlic_jax.training.runs import export_run

        model = export_run(model)
    return Model(api.load_model(model))

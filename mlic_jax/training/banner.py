"""What a run says of itself before its first step, and what can be done with it after its last."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
from collections import Counter

import jax
from ml_collections import ConfigDict

from mlic_jax.data import TrainIterator
from mlic_jax.training import optimizers
from mlic_jax.training.config import validation_source
from mlic_jax.training.step import TrainState

# Where Linux's driver of NVIDIA says its version.
DRIVER = "/proc/driver/nvidia/version"


def opening(
    config: ConfigDict, train_state: TrainState, batches: TrainIterator, held_out: int, workdir: os.PathLike, start: int
) -> list[str]:
    """Lines about a run: model, devices, photos, batch, workdir; and a warning where a GPU lies idle.

    Args:
      config: of the run.
      train_state: for the number of parameters, and what optimisers make of them.
      batches: for the number of photos.
      held_out: the number of photos to validate on.
      workdir: of the run.
      start: step from which it goes on.
    """
    data, count = config.data, sum(leaf.size for leaf in jax.tree.leaves(train_state.params))
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    kinds = ", ".join(f"{n} x {kind}" for kind, n in Counter(device.device_kind for device in jax.devices()).items())
    lines = [
        f"model    {config.model.name}, {count:,} parameters",
        f"devices  {kinds}{processes}, jax {jax.__version__}",
        f"photos   {batches.get_state()['images']:,} to train on ({data.source}), {held_out:,} to validate on "
        f"({validation_source(config)}), by {data.validation_images} patches",
        f"batch    {data.batch_size} patches of {data.patch_size}x{data.patch_size} pixels",
        f"steps    {config.train.steps:,}",
        f"workdir  {workdir}" + (f", resumed at step {start}" if start else ""),
    ]
    warnings = optimizers.without_matrices(config, train_state.optimizer)
    return lines + [f"warning  {sentence}" for sentence in filter(None, [*warnings, idle_gpu()])]


def idle_gpu() -> str | None:
    """A warning where there is an NVIDIA GPU that jax does not see, and nobody has chosen so."""
    if _chosen() or jax.default_backend() != "cpu" or not (os.path.exists(DRIVER) or shutil.which("nvidia-smi")):
        return None
    return (
        "there is an NVIDIA GPU, and jax sees none: pip install 'jax[cuda13]' (cuda12 for older drivers); "
        "JAX_PLATFORMS=cpu if the CPU is meant"
    )


def _chosen() -> str | None:
    return jax.config.jax_platforms  # JAX_PLATFORMS, too


def next_commands(workdir) -> str:
    """What is typed after a run."""
    run, model = shlex.quote(str(workdir)), shlex.quote(f"{pathlib.Path(workdir).resolve().name}.mlicm")
    rows = (
        (f"mlic evaluate --run {run} --compare", "real files, beside standard codecs"),
        (f"mlic export --run {run} -o {model}", "a model file"),
        (f"mlic compress PHOTO -m {model}", "which compresses your photos"),
    )
    width = max(len(command) for command, _ in rows)
    return "\n".join(["next:", *(f"  {command:{width}}  # {what}" for command, what in rows)])

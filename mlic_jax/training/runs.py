"""Runs of the trainer from outside: the codec and the first state of a config, a run's weights, and its export.

`train` begins with `make_codec` and `initialise`; whatever uses a run afterwards takes `load_run` or `export_run`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from mlic_jax import zoo
from mlic_jax.codec import Codec
from mlic_jax.errors import InputError, TrainingError, UsageError
from mlic_jax.fileformat import model_folder
from mlic_jax.fileformat.artifact import SUFFIX, Artifact
from mlic_jax.layers.precision import Precision
from mlic_jax.training import config as configs
from mlic_jax.training import optimizers, parallel, places
from mlic_jax.training.checkpoint import Checkpoints
from mlic_jax.training.step import TrainState, initial_state
from mlic_jax.training.writer import METRICS, line_step

log = logging.getLogger(__name__)


class Run(NamedTuple):
    """A run at one of its checkpoints.

    Attributes:
      config: all of it.
      params: nested dicts of NumPy arrays; averaged parameters where the run has them.
      state: what the model keeps beside the parameters, nested dicts of NumPy arrays.
      step: of the checkpoint.
    """

    config: ConfigDict
    params: Mapping[str, Any]
    state: Mapping[str, Any]
    step: int


def make_codec(config: ConfigDict) -> Codec:
    """The codec that a config describes. Raises ModelError or UsageError."""
    arguments = config.model.arguments.to_dict()
    if config.train.bfloat16:
        arguments["dtype"] = jnp.bfloat16
    if config.train.rounded_products:
        arguments["precision"] = Precision.BFLOAT16_OPERANDS
    return zoo.make(config.model.name, **arguments)


def initialise(codec: Codec, config: ConfigDict, weights: bool = True) -> TrainState:
    """The train state before step 0, on every device.

    Args:
      codec, config: what is trained.
      weights: whether to load those of `config.init_from`; not needed where a checkpoint replaces them.

    Raises:
      As `load_weights`.
    """
    size = config.data.patch_size
    params, state = codec.init(jax.random.key(config.seed), (size, size, 3))
    if weights and config.init_from:
        params, state = load_weights(config.init_from, params, state)
    made = optimizers.make_all(config)
    return parallel.replicate(initial_state(codec, params, state, made, config.train.ema))


def load_weights(path: str, params, state):
    """Weights of a previous stage, for `config.init_from`.

    Args:
      path: the workdir of a run (its best checkpoint is taken), a .mlicm file, or a model's folder.
      params, state: what they replace; what the file lacks stays, what it has beyond is left.

    Raises:
      InputError, ModelError: nothing there.
      TrainingError: an array has another shape than the model's, or nothing fits at all.
    """
    source = Artifact.load(path) if path.endswith(SUFFIX) or model_folder.is_one(path) else load_run(path)
    old = flatten_dict({"params": params, "state": state}, sep="/")
    new = flatten_dict({"params": source.params, "state": source.state}, sep="/")
    common = [name for name in old if name in new]
    wrong = [f"{n}: {new[n].shape} there, {old[n].shape} here" for n in common if new[n].shape != old[n].shape]
    if wrong or not common:
        raise TrainingError(f"init_from {path!r} does not fit the model: {'; '.join(wrong[:5]) or 'no common names'}")
    log.info("init_from %s: %d of %d arrays", path, len(common), len(old))
    both = unflatten_dict({**old, **{name: new[name] for name in common}}, sep="/")
    return both["params"], both.get("state", {})


def load_run(workdir: str | os.PathLike, which: str | int = "best") -> Run:
    """A finished or running run, on the host.

    Args:
      workdir: of `mlic train`.
      which: "best" (least validation loss), "latest", or a step.

    Raises:
      UsageError: `which` is none of these.
      InputError: no checkpoint there, or not that step.
      TrainingError: the checkpoint cannot be read.
    """
    if which not in ("best", "latest") and not str(which).isdecimal():
        raise UsageError(f"checkpoint {which!r} is not known: use best, latest or a step")
    checkpoints = Checkpoints(workdir, read_only=True)
    with contextlib.closing(checkpoints):
        return _load(checkpoints, workdir, which)


def _load(checkpoints: Checkpoints, workdir: str | os.PathLike, which: str | int) -> Run:
    if checkpoints.latest() is None:
        raise InputError(f"{str(workdir)!r} has no checkpoint yet")
    saved = checkpoints.config()
    if saved is None:
        raise TrainingError(f"no checkpoint in {str(workdir)!r} can be read")
    config = ConfigDict(saved)
    step = {"best": checkpoints.best(), "latest": None}[which] if which in ("best", "latest") else int(which)
    start = initialise(make_codec(config), config, weights=False)
    restored = jax.device_get(checkpoints.restore(start, step).state)
    return Run(config, restored.average or restored.params, restored.state, int(restored.step))


def export_run(
    workdir: str | os.PathLike,
    which: str | int = "best",
    images: Sequence[np.ndarray] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Artifact:
    """The model of a run. Its card has the config that it was trained with, the step, what it was like on the run's
    validation patches then (estimated, at its default quality), and what it computes for a pixel.

    Args:
      workdir, which: as for `load_run`.
      images: uint8 [H, W, 3], by which the integer ranges of the parse path are chosen; None for the bundled photos.
      changes: dotted keys of the config -> values that are set after the training, as far as the weights fit the model
        that results; they stand in the card too.

    Raises:
      As `load_run`; UsageError for a change that cannot be made.
    """
    run = load_run(workdir, which)
    card = {"trained_with": json.loads(json.dumps(run.config.to_dict(), default=list)), "step": run.step}
    run.config.train.bfloat16 = run.config.train.rounded_products = False  # how it was trained, not what it is
    for key, value in (changes or {}).items():
        configs.change(run.config, key, value)
    codec = make_codec(run.config)
    artifact = codec.export(run.params, run.state, images)
    work = codec.kmac_per_pixel()
    artifact.card |= card | ({"changed": dict(changes)} if changes else {}) | _validated(workdir, run.step)
    if work is not None:
        parts = work["analysis"], work["synthesis"]
        encoding, decoding = (round(part + work["probabilities"], 2) for part in parts)
        artifact.card["kmac_per_pixel"] = {"encoding": encoding, "decoding": decoding}
    return artifact


def _validated(workdir, step):
    """{"validation": figures} of a step, where the run was validated then."""
    path = places.path_of(workdir) / METRICS
    lines = path.read_bytes().splitlines() if path.exists() else []
    for record in (json.loads(line) for line in lines if line_step(line) == step):
        if record["kind"] == "validation":
            return {"validation": {key: record[key] for key in ("bpp", "psnr_db")}}
    return {}

"""Defaults that every config shares. A config file changes what its paper needs and nothing else."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
import traceback
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from mlic_jax.errors import MlicError, UsageError
from mlic_jax.training import config_files

# Keys that may differ between a checkpoint and the run that resumes it: they change neither the model nor what any
# step computes. (`train.steps`: train longer. A schedule's length is a key of its own, `optimizer.decay_steps`.)
FREE_TO_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.keep",
    "train.samples",
    "train.max_bad_steps",
    # A stable phase may be made longer, or ended, as long as the checkpoint is from before its end.
    "optimizer.decay_from",
    "data.threads",
    "data.workers",
    "data.cache_mib",
    "data.dir",
    "data.max_unreadable",
    "data.other_files",
    "data.source",
    "data.validation",
    "data.validation_images",
    "data.validation_patch",
    "init_from",
)

# What processes of one run may each have for themselves: where photos are, and how they are read.
OF_A_PROCESS = ("data.source", "data.dir", "data.validation", "data.threads", "data.workers", "data.cache_mib")

# The parts of a config that take keys of any name: arguments of factories.
OPEN = ("model.arguments.", "optimizer.arguments.", "optimizers.")


def optimizer() -> ConfigDict:
    """Adam as nearly all papers of the field use it."""
    c = ConfigDict()
    c.name = "adam"  # adam, adamw, sgd, any optimiser of optax that takes a learning rate; or ours: soap, muon
    c.learning_rate = 1e-4
    c.arguments = ConfigDict()  # further keyword arguments of the optimiser, as b1 or weight_decay
    c.schedule = "constant"  # constant, cosine, steps (see boundaries), or wsd: constant, then a linear decay
    c.warmup_steps = 0  # linear, from 0
    c.decay_steps = 0  # length of the cosine, warm-up included; or of wsd's decay
    c.decay_from = 0  # the step at which wsd's decay begins
    c.final_fraction = 0.0  # of the learning rate, where the cosine or the decay ends
    c.boundaries = ()  # for "steps": where the learning rate is multiplied ...
    c.factor = 0.1  # ... by this
    c.clip_norm = 1.0  # global norm of the gradients; 0: no clipping
    return c


def defaults() -> ConfigDict:
    """A config without a model."""
    c = ConfigDict()
    c.seed = 0
    # The model: its name in the zoo, and the arguments of its factory.
    c.model = ConfigDict({"name": "", "arguments": ConfigDict()})
    # Objectives that run in one step, in this order, each on its own part of the batch.
    c.schedule = ("rd",)
    # Or each of them alone for so many steps, in turn, over and over: as many numbers as the schedule has objectives.
    c.phases = ()
    # Weights to begin with: the workdir of a run, a model's file or folder. Parameters that it lacks stay as they are.
    c.init_from = ""

    c.data = ConfigDict()
    c.data.source = "bundled"  # bundled, a folder, or tfds:name
    c.data.split = "train"
    c.data.dir = ""  # where TFDS finds its sets
    # As source; "": the photos that are held out of the source where its split is "train", the bundled ones otherwise.
    c.data.validation = ""
    c.data.validation_split = "validation"
    c.data.validation_images = 4
    c.data.validation_patch = 256  # pixels
    c.data.batch_size = 8  # over all devices and processes
    c.data.patch_size = 256  # pixels
    c.data.scale_range = (0.5, 1.0)  # random downscaling, against traces of JPEG; (1.0, 1.0) for lossless sets
    c.data.flip = True
    c.data.detail_weight = 0.0  # > 0 prefers patches with strong gradients
    c.data.crops = 1  # patches cut from a picture whenever it is decoded, for as many batches one after another
    c.data.max_unreadable = 100  # pictures that cannot be read are skipped and named; more of them end the run
    c.data.other_files = False  # go on from a checkpoint although the names of the pictures are others now
    c.data.cache_mib = 256  # decoded images kept in memory
    c.data.threads = -1  # that prepare batches; -1: one per core
    c.data.workers = 0  # processes that prepare batches

    c.optimizer = optimizer()
    # Objective -> keys of `optimizer` that differ for it.
    c.optimizers = ConfigDict()

    c.train = ConfigDict()
    c.train.steps = 1_000_000
    c.train.accumulate = 1  # micro-batches that a step's batch is cut into, to save memory
    c.train.ema = 0.0  # decay of an exponential moving average of the parameters; 0: none
    c.train.bfloat16 = False  # transforms compute in bfloat16; parameters and priors stay float32
    # Products and convolutions round their operands to bfloat16; all else, sums included, is float32.
    c.train.rounded_products = False
    c.train.max_bad_steps = 20  # non-finite steps in a row, skipped, before training goes back or stops
    c.train.log_every = 50
    c.train.evaluate_every = 1000
    c.train.checkpoint_every = 1000
    c.train.checkpoint_minutes = 10.0  # at least so often, too; 0: by steps alone
    c.train.keep = 2  # latest checkpoints kept, besides the best
    c.train.samples = 4  # validation images whose reconstructions are saved as pictures
    return c


def check(config: ConfigDict) -> None:
    """Raises UsageError for a value of `train` that cannot work; `optimizers` and the data check theirs."""
    train = config.train
    for name in ("steps", "accumulate", "log_every", "checkpoint_every", "keep", "max_bad_steps"):
        if train[name] < 1:
            raise UsageError(f"train.{name} is {train[name]}: expected 1 or more")
    for name in ("evaluate_every", "samples", "checkpoint_minutes"):
        if not 0 <= train[name] < math.inf:
            raise UsageError(f"train.{name} is {train[name]}: expected 0 or more")
    if not 0 <= train.ema < 1:
        raise UsageError(f"train.ema is {train.ema}: expected a decay from 0 (none) to below 1, as 0.999")


def shared(config: ConfigDict) -> dict[str, Any]:
    """Dotted key -> value, as far as it has to be the same in all processes of a run."""
    flat = flatten_dict(config.to_dict(), sep=".")
    return {key: value for key, value in flat.items() if key not in OF_A_PROCESS}


def validation_source(config: ConfigDict) -> str:
    """What `data.validation` means: the training photos' own held-out part, unless something else is named."""
    c = config.data
    return c.validation or (c.source if c.split == "train" else "bundled")


def optimizer_of(config: ConfigDict, objective: str) -> ConfigDict:
    """`optimizer` of a whole config, with what differs for an objective."""
    return ConfigDict({**config.optimizer.to_dict(), **config.optimizers.get(objective, {})})


def objectives_of_phases(config: ConfigDict) -> list[tuple[str, ...]]:
    """The objectives of a step, for each of the phases; all of them in every step where there are none.

    Raises UsageError for phases that do not fit the schedule.
    """
    names, phases = tuple(config.schedule), tuple(config.phases)
    if not phases:
        return [names]
    if len(phases) != len(names) or any(type(steps) is not int or steps < 1 for steps in phases):
        raise UsageError(f"phases {phases} do not fit the schedule {names}: a number of steps for each is expected")
    return [(name,) for name in names]


def batch_parts(config: ConfigDict) -> int:
    """Into how many equal parts each device's share of a batch is cut in a step. Raises UsageError as
    `objectives_of_phases`."""
    return max(map(len, objectives_of_phases(config))) * config.train.accumulate


def phase_at(phases, step: int) -> int:
    """Which phase a step, counted from 0, belongs to."""
    if not phases:
        return 0
    return bisect.bisect_right(list(itertools.accumulate(phases)), step % sum(phases))


def load(path: str, overrides: list[str]):
    """The config of a file (`file.py` or `file.py:variant`) or of a name (`mbt2018_mean:tiny`), locked, with overrides
    `--config.key=value`. `config_files` says where names are looked for.

    Raises UsageError naming the file or the key that is wrong.
    """
    from absl import flags
    from ml_collections import config_flags

    name, colon, variant = path.partition(":")
    found = config_files.find(name)
    if found is None:
        raise config_files.unknown(name)
    values = flags.FlagValues()
    words = ["mlic", f"--config={found}{colon}{variant}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=words)
    try:
        rest = values(words)
        if len(rest) > 1:
            raise UsageError(f"{rest[1]!r} is not understood: options of a config begin with --config.")
        return values.config
    except MlicError:
        raise
    except Exception as reason:  # a config is a program of the user's, and ml_collections raises many kinds
        text = " ".join(str(reason).replace("\\n", " ").replace("\\", "").split())
        place = _place(reason, found)
        if place:
            text = f"{type(reason).__name__}: {text}"
        elif isinstance(reason, KeyError | AttributeError):
            text = f"no such key: {text}"
        raise UsageError(f"config {path!r}{place}: {text or type(reason).__name__}") from reason


def _place(reason: BaseException, path) -> str:
    """ ", line 12 of FILE" where an error is of a config's file, "" where it is of the command line."""
    if isinstance(reason, SyntaxError):
        return f", line {reason.lineno} of {reason.filename}"
    lines = [frame for frame in traceback.extract_tb(reason.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1].lineno} of {lines[-1].filename}" if lines else ""


def change(config: ConfigDict, key: str, value: Any) -> None:
    """Sets a dotted key. Raises UsageError for one that does not exist, and for a value of another type."""
    *parents, name = key.split(".")
    node = config
    try:
        for parent in parents:
            node = node[parent]
        with node.unlocked() if key.startswith(OPEN) else contextlib.nullcontext():
            node[name] = value
    except (KeyError, AttributeError, TypeError, ValueError) as reason:
        text = " ".join(str(reason).split())
        raise UsageError(f"config {key!r} cannot be set to {value!r}: {text}") from reason

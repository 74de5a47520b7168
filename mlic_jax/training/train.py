"""The training loop, to be read from top to bottom.

    mlic train --config configs/bmshj2018_hyperprior.py --workdir runs/hyper

The same command resumes: where the workdir has a checkpoint, the run goes on from it, with the same batches and the
same noise that an uninterrupted run would have seen. Weights come from, in this order: the checkpoint in the workdir;
`config.init_from`; the seed. SIGTERM saves a checkpoint and ends the program with exit status 0.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import logging
import pathlib
import signal
import threading
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from clu import parameter_overview
from ml_collections import ConfigDict
from PIL import Image

from mlic_jax import atomic, zoo
from mlic_jax.codec import Codec
from mlic_jax.errors import InputError, TrainingError, UsageError
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.layers.precision import Precision
from mlic_jax.training import optimizers, parallel
from mlic_jax.training.checkpoint import Checkpoints, differences
from mlic_jax.training.config import batch_parts, schedules, whose_turn
from mlic_jax.training.progress import Progress
from mlic_jax.training.step import TrainState, check_schedule, initial_state, make_step
from mlic_jax.training.writer import Writer

log = logging.getLogger(__name__)


def make_codec(config: ConfigDict) -> Codec:
    """The codec that a config describes. Raises ModelError or UsageError."""
    arguments = {key: _hashable(value) for key, value in config.model.arguments.to_dict().items()}
    if config.train.bfloat16:
        arguments["dtype"] = jnp.bfloat16
    if config.train.rounded_products:
        arguments["precision"] = Precision.BFLOAT16_OPERANDS
    return zoo.make(config.model.name, **arguments)


def _hashable(value):
    # A config that comes back from a checkpoint is JSON, with lists where it had tuples.
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


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


def step_functions(codec: Codec, config: ConfigDict) -> list[Callable]:
    """The functions (TrainState, dealt batch) -> (TrainState, metrics), over all devices, of a config's turns.

    One for each part of `config.schedule` that has steps alone, see `config.phases`. Raises UsageError.
    """
    check_schedule(codec, config.schedule)
    made = optimizers.make_all(config)
    settings = {name: config.train[name] for name in ("accumulate", "ema")}
    return [
        parallel.pmap(make_step(codec, turn, made, seed=config.seed, axis=parallel.AXIS, **settings))
        for turn in schedules(config)
    ]


def load_weights(path: str, params, state):
    """Weights of a previous stage, for `config.init_from`.

    Args:
      path: the workdir of a run (its best checkpoint is taken) or a .mlicm file.
      params, state: what they replace; what the file lacks stays, what it has beyond is left.

    Raises:
      InputError, ModelError: nothing there.
      TrainingError: an array has another shape than the model's, or nothing fits at all.
    """
    if path.endswith(".mlicm"):
        artifact = Artifact.load(path)
        found_params, found_state = artifact.params, artifact.state
    else:
        found_params, found_state = load_run(path)[1:3]
    old, new = flatten({"params": params, "state": state}), flatten({"params": found_params, "state": found_state})
    common = [name for name in old if name in new]
    wrong = [f"{n}: {new[n].shape} there, {old[n].shape} here" for n in common if new[n].shape != old[n].shape]
    if wrong or not common:
        raise TrainingError(f"init_from {path!r} does not fit the model: {'; '.join(wrong[:5]) or 'no common names'}")
    log.info("init_from %s: %d of %d arrays", path, len(common), len(old))
    both = unflatten({**old, **{name: new[name] for name in common}})
    return both["params"], both.get("state", {})


def load_run(workdir, which: str | int = "best"):
    """(config, params, state, step) of a finished or running run, on the host; averaged parameters if it has them.

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
    if checkpoints.latest() is None:
        raise InputError(f"{str(workdir)!r} has no checkpoint yet")
    saved = checkpoints.config()
    if saved is None:
        raise TrainingError(f"no checkpoint in {str(workdir)!r} can be read")
    config = ConfigDict(saved)
    step = {"best": checkpoints.best(), "latest": None}[which] if which in ("best", "latest") else int(which)
    found = jax.device_get(checkpoints.restore(initialise(make_codec(config), config, weights=False), step).state)
    checkpoints.close()
    return config, found.average or found.params, found.state, int(found.step)


def validate(codec: Codec, train_state: TrainState, images: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Estimated figures on fixed patches (rounded latents, no noise), and the reconstructions uint8 [n, P, P, 3]."""
    params = parallel.local(train_state.average or train_state.params)
    state = parallel.local(train_state.state)
    parts = [jax.device_get(codec.estimate(params, state, image[None])) for image in images]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    pixels = images.shape[1] * images.shape[2]
    figures = {
        "loss": joined["loss"].mean(),
        "bpp": joined["bits"].mean() / pixels,
        "psnr_db": np.mean(20 * np.log10(255) - 10 * np.log10(np.maximum(joined["mse255"], 1e-10))),
    }
    return {key: float(value) for key, value in figures.items()}, joined["reconstruction"]


def save_samples(writer: Writer, workdir: pathlib.Path, step: int, images: np.ndarray, reconstructions: np.ndarray):
    """One picture: originals above, reconstructions below."""
    grid = np.concatenate([np.concatenate(list(images), 1), np.concatenate(list(reconstructions), 1)], 0)
    out = io.BytesIO()
    Image.fromarray(grid).save(out, "PNG")
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)
    atomic.write_bytes(folder / f"step_{step:08d}.png", out.getvalue())
    writer.image(step, "samples", out.getvalue(), grid.shape[:2], grid)


def train(config: ConfigDict, workdir, quiet: bool = False) -> TrainState:
    """Trains until `config.train.steps`, or until SIGTERM.

    Args:
      config: see mlic_jax.training.config.
      workdir: the run's folder; it is made if it does not exist.
      quiet: no progress bar.

    Returns:
      The last train state.

    Raises:
      UsageError, ModelError, InputError: a config that cannot work, named by its key.
      TrainingError: a workdir that belongs to another config, or `max_bad_steps` non-finite steps in a row.
    """
    from mlic_jax.data import make_source, make_train_iterator, validation_batch

    # ------------------------------------------------------------------ what is trained
    for name in ("steps", "accumulate", "log_every", "checkpoint_every", "keep", "max_bad_steps"):
        if config.train[name] < 1:
            raise UsageError(f"train.{name} is {config.train[name]}: expected 1 or more")
    codec = make_codec(config)
    step_of_turn = step_functions(codec, config)
    parallel.check_batch(config.data.batch_size, batch_parts(config))

    # ------------------------------------------------------------------ data
    data = config.data
    source = make_source(data.source, data.split, data.dir or None, cache_mib=data.cache_mib)
    held_out = make_source(data.validation, data.validation_split, data.dir or None, cache_mib=data.cache_mib)
    validation = validation_batch(held_out, data.validation_patch, data.validation_images)
    batches = make_train_iterator(
        source,
        seed=config.seed,
        batch_size=data.batch_size,
        patch_size=data.patch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        scale_range=tuple(data.scale_range),
        flip=data.flip,
        detail_weight=data.detail_weight,
        num_threads=None if data.threads < 0 else data.threads,
        num_workers=data.workers,
    )

    # ------------------------------------------------------------------ workdir, resume
    workdir = pathlib.Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise InputError(f"cannot make the workdir {str(workdir)!r}: {reason.strerror}") from reason
    checkpoints = Checkpoints(workdir, config.train.keep)
    saved = checkpoints.config()
    if saved is not None and (lines := differences(saved, json.loads(json.dumps(config.to_dict())))):
        raise TrainingError(f"{str(workdir)!r} belongs to another config; take a new --workdir. {'; '.join(lines)}")
    train_state = initialise(codec, config, weights=saved is None)
    if (found := checkpoints.restore(train_state)) is not None:
        train_state = found.state
        batches.set_state(found.data)
    start = found.step if found else 0
    if found and (before := saved["optimizer"].get("decay_from", 0)) != config.optimizer.decay_from:
        if config.optimizer.schedule == "wsd" and start > min(before, config.optimizer.decay_from):
            raise TrainingError(
                f"optimizer.decay_from was {before} and is {config.optimizer.decay_from}: the checkpoint is of step "
                f"{start}, when the decay of one of them had begun. Go on from an earlier one, or with "
                f"optimizer.decay_from={before}"
            )
    writer = Writer(workdir, start) if parallel.is_main() else None
    if writer:
        atomic.write_bytes(workdir / "config.json", json.dumps(config.to_dict(), indent=1, default=list).encode())
        overview = parameter_overview.get_parameter_overview(parallel.local(train_state.params), include_stats=False)
        atomic.write_bytes(workdir / "parameters.txt", overview.encode())

    # ------------------------------------------------------------------ the loop
    stop = []
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.append(True)) if _in_main_thread() else None
    progress = Progress(start, config.train.steps, quiet or not parallel.is_main())
    in_flight = collections.deque()  # metrics of steps that may still be computing
    since_log: list[dict] = []
    timed_at, timed_step = None, start  # since when, and since which step, the speed is measured

    def settle(down_to: int):
        """Fetches the metrics of finished steps; this is where a run that diverges is stopped."""
        while len(in_flight) > down_to:
            number, measured = in_flight.popleft()
            measured = {key: np.asarray(value) for key, value in parallel.local(measured).items()}
            since_log.append(measured)
            if measured["bad_steps"] >= config.train.max_bad_steps:
                raise TrainingError(
                    f"the loss or its gradient was not finite in {measured['bad_steps']} steps in a row, up to step "
                    f"{number}: lower optimizer.learning_rate, or look at the data"
                )

    with contextlib.ExitStack() as exits:
        for part in (batches, checkpoints, writer):
            if part:
                exits.callback(part.close)
        if previous is not None:
            exits.callback(signal.signal, signal.SIGTERM, previous)
        exits.enter_context(progress)
        for step in range(start + 1, config.train.steps + 1):
            take_step = step_of_turn[whose_turn(config.phases, step - 1)]
            train_state, measured = take_step(train_state, parallel.deal(next(batches)))
            in_flight.append((step, measured))
            settle(2 if timed_at else 0)
            if timed_at is None:  # compiling is over
                timed_at, timed_step = time.perf_counter(), step

            last, stopping = step == config.train.steps, parallel.any_process(bool(stop), step)
            if step % config.train.log_every == 0 or last:
                settle(0)
                figures = _averages(since_log)
                since_log.clear()
                if step > timed_step:
                    now = time.perf_counter()
                    figures["steps_per_second"] = (step - timed_step) / (now - timed_at)
                    timed_at, timed_step = now, step
                progress.show(step, figures)
                if writer:
                    writer.scalars(step, "train", figures)
            else:
                progress.advance(step)

            loss = None
            if (config.train.evaluate_every and step % config.train.evaluate_every == 0) or last:
                figures, reconstructions = validate(codec, train_state, validation)
                loss = figures["loss"]
                progress.note(step, figures)
                if writer:
                    writer.scalars(step, "validation", figures)
                    count = config.train.samples
                    if count:
                        save_samples(writer, workdir, step, validation[:count], reconstructions[:count])

            if step % config.train.checkpoint_every == 0 or last or stopping or loss is not None:
                settle(0)
                checkpoints.save(step, train_state, batches.get_state(), config, loss)
            if stopping:
                log.warning("SIGTERM: the run ends with the checkpoint of step %d; the same command goes on", step)
                break
    return train_state


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _averages(measured: list[dict]) -> dict[str, float]:
    """Means over the steps that have a figure, without those that are not finite; the two counters as they stand."""
    figures = {}
    for key in dict.fromkeys(key for one in measured for key in one):
        values = np.array([one[key] for one in measured if key in one], np.float32)
        if key in ("skipped", "bad_steps"):
            figures[key] = float(values[-1])
        else:
            finite = np.isfinite(values)
            mean = clu_metrics.Average.from_model_output(values[finite]).compute() if finite.any() else np.nan
            figures[key] = float(mean)
    return figures

"""The training loop, to be read from top to bottom.

    mlic train --config bmshj2018_hyperprior --workdir runs/hyper

The same command resumes: where the workdir has a checkpoint, the run goes on from it, with the same batches and the
same noise that an uninterrupted run would have seen. Weights come from, in this order: the checkpoint in the workdir;
`config.init_from`; the seed. SIGTERM saves a checkpoint and ends the program with exit status 0.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from mlic_jax import atomic, data
from mlic_jax.codec import Codec
from mlic_jax.errors import InputError, TrainingError, UsageError
from mlic_jax.training import optimizers, parallel
from mlic_jax.training.banner import opening
from mlic_jax.training.checkpoint import Checkpoints, differences
from mlic_jax.training.config import batch_parts, objectives_of_phases, phase_at
from mlic_jax.training.meter import Meter
from mlic_jax.training.progress import Progress
from mlic_jax.training.runs import initialise, make_codec
from mlic_jax.training.step import TrainState, check_schedule, make_step
from mlic_jax.training.validation import save_samples, validate
from mlic_jax.training.writer import Writer

log = logging.getLogger(__name__)

AT_LEAST_1 = ("steps", "accumulate", "log_every", "checkpoint_every", "keep", "max_bad_steps")


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
    # ------------------------------------------------------------------ what is trained
    for name in AT_LEAST_1:
        if config.train[name] < 1:
            raise UsageError(f"train.{name} is {config.train[name]}: expected 1 or more")
    codec = make_codec(config)
    step_of_phase = step_functions(codec, config)
    parallel.check_batch(config.data.batch_size, batch_parts(config))

    # ------------------------------------------------------------------ data
    batches, held_out = make_data(config)

    # ------------------------------------------------------------------ workdir, resume
    workdir = make_workdir(workdir)
    checkpoints = Checkpoints(workdir, config.train.keep)
    with closing_after_failure(batches, checkpoints):
        train_state, start = start_or_resume(codec, config, workdir, checkpoints, batches)
    writer = make_writer(workdir, config, train_state, start) if parallel.is_main() else None

    # ------------------------------------------------------------------ the loop
    meter = Meter(start, config.train.max_bad_steps, config.data.batch_size)
    progress = Progress(start, config.train.steps, quiet or not parallel.is_main())
    progress.say("\n".join(opening(config, train_state.params, batches, workdir, start)))
    with contextlib.ExitStack() as exits:
        for part in (batches, checkpoints, writer):
            if part:
                exits.callback(part.close)
        terminated = exits.enter_context(sigterm())
        exits.enter_context(progress)
        for step in range(start + 1, config.train.steps + 1):
            take_step = step_of_phase[phase_at(config.phases, step - 1)]
            train_state, metrics = take_step(train_state, parallel.shard(next(batches)))
            meter.add(step, metrics)
            last, stopping = step == config.train.steps, parallel.any_process(terminated(), step)

            if step % config.train.log_every == 0 or last:
                figures = meter.figures(step) | learning_rates(config, train_state, step) | batches.figures()
                progress.show(step, figures)
                if writer:
                    writer.scalars(step, "train", figures)
            else:
                progress.advance(step)

            loss = None
            if (config.train.evaluate_every and step % config.train.evaluate_every == 0) or last:
                figures, reconstructions = validate(codec, train_state, held_out)
                loss = figures["loss"]
                progress.note(step, figures)
                if writer:
                    writer.scalars(step, "validation", figures)
                    count = config.train.samples
                    save_samples(writer, workdir, step, held_out[:count], reconstructions[:count])

            if step % config.train.checkpoint_every == 0 or last or stopping or loss is not None:
                meter.fetch()
                checkpoints.save(step, train_state, batches.get_state(), config, loss)
            if stopping:
                log.warning("SIGTERM: the run ends with the checkpoint of step %d; the same command goes on", step)
                break
    return train_state


# ---------------------------------------------------------------------- its parts, in this order


def step_functions(codec: Codec, config: ConfigDict) -> list[Callable]:
    """The functions (TrainState, sharded batch) -> (TrainState, metrics), over all devices: one for each phase.

    Raises UsageError.
    """
    check_schedule(codec, config.schedule)
    made = optimizers.make_all(config)
    settings = {name: config.train[name] for name in ("accumulate", "ema")}
    return [
        parallel.pmap(make_step(codec, objectives, made, seed=config.seed, axis=parallel.AXIS, **settings))
        for objectives in objectives_of_phases(config)
    ]


def make_data(config: ConfigDict) -> tuple[data.TrainIterator, np.ndarray]:
    """This process's part of the batches, and held-out patches uint8 [n, P, P, 3]. Raises UsageError, InputError."""
    c = config.data
    source = data.make_source(c.source, c.split, c.dir or None, cache_mib=c.cache_mib)
    held_out = data.make_source(c.validation, c.validation_split, c.dir or None, cache_mib=c.cache_mib)
    patches = data.validation_batch(held_out, c.validation_patch, c.validation_images)
    batches = data.make_train_iterator(
        source,
        seed=config.seed,
        batch_size=c.batch_size,
        patch_size=c.patch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        scale_range=tuple(c.scale_range),
        flip=c.flip,
        detail_weight=c.detail_weight,
        num_threads=None if c.threads < 0 else c.threads,
        num_workers=c.workers,
        crops=c.crops,
        max_unreadable=c.max_unreadable,
        other_files=c.other_files,
    )
    return batches, patches


def make_workdir(workdir) -> pathlib.Path:
    """The run's folder. Raises InputError where it can be no folder."""
    workdir = pathlib.Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise InputError(f"cannot make the workdir {str(workdir)!r}: {reason.strerror}") from reason
    return workdir


def start_or_resume(
    codec: Codec, config: ConfigDict, workdir: pathlib.Path, checkpoints: Checkpoints, batches: data.TrainIterator
) -> tuple[TrainState, int]:
    """The train state to go on from, on every device, and its step; `batches` go on where that run stood.

    Raises TrainingError where the checkpoints are of a run that this config cannot continue.
    """
    saved = checkpoints.config()
    if saved is not None and (lines := differences(saved, json.loads(json.dumps(config.to_dict())))):
        raise TrainingError(f"{str(workdir)!r} belongs to another config; take a new --workdir. {'; '.join(lines)}")
    train_state = initialise(codec, config, weights=saved is None)
    restored = checkpoints.restore(train_state)
    if restored is None:
        return train_state, 0
    optimizers.check_resume(saved["optimizer"], config.optimizer, restored.step)
    batches.set_state(restored.data)
    return restored.state, restored.step


def learning_rates(config: ConfigDict, train_state: TrainState, step: int) -> dict[str, float]:
    """The learning rates of a step's updates, for the logs: "learning_rate", or "NAME/learning_rate" for several."""
    objectives = objectives_of_phases(config)[phase_at(config.phases, step - 1)]
    states = {name: train_state.optimizer[name] for name in dict.fromkeys(objectives)}
    prefix = "{}/" if len(train_state.optimizer) > 1 else ""
    rates = optimizers.learning_rates(config, states)
    return {f"{prefix.format(name)}learning_rate": rate for name, rate in rates.items()}


@contextlib.contextmanager
def closing_after_failure(*parts) -> Iterator[None]:
    """Closes what was begun where something fails inside: threads that are torn down with the interpreter complain."""
    try:
        yield
    except BaseException:
        for part in parts:
            part.close()
        raise


def make_writer(workdir: pathlib.Path, config: ConfigDict, train_state: TrainState, start: int) -> Writer:
    """What figures are written to; the config and a table of the parameters are written at once."""
    writer = Writer(workdir, start)
    atomic.write_bytes(workdir / "config.json", json.dumps(config.to_dict(), indent=1, default=list).encode())
    overview = parameter_overview.get_parameter_overview(parallel.local(train_state.params), include_stats=False)
    atomic.write_bytes(workdir / "parameters.txt", overview.encode())
    return writer


@contextlib.contextmanager
def sigterm() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGTERM came; inside, it does not end the process."""
    received = []
    if threading.current_thread() is not threading.main_thread():  # where Python sets no handlers
        yield lambda: False
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)

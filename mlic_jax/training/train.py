"""The training loop, to be read from top to bottom.

    mlic train --config bmshj2018_hyperprior --workdir runs/hyper

The same command resumes: where the workdir has a checkpoint, the run goes on from it, with the same batches and the
same noise that an uninterrupted run would have seen. Weights come from, in this order: the checkpoint in the workdir;
`config.init_from`; the seed. Signals that ask a run to stop (`stopping.py`) save a checkpoint and end it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from mlic_jax import atomic, data
from mlic_jax.codec import Codec
from mlic_jax.errors import TrainingError
from mlic_jax.training import config as configs
from mlic_jax.training import lock, optimizers, parallel, places, together
from mlic_jax.training.banner import opening
from mlic_jax.training.checkpoint import Checkpoints, differences
from mlic_jax.training.meter import Meter
from mlic_jax.training.progress import Progress
from mlic_jax.training.recovery import WayBack
from mlic_jax.training.runs import initialise, make_codec
from mlic_jax.training.step import TrainState, check_schedule, make_step
from mlic_jax.training.stopping import signals
from mlic_jax.training.together import Wishes
from mlic_jax.training.validation import save_samples, validate
from mlic_jax.training.writer import METRICS, NoWriter, Writer

log = logging.getLogger(__name__)


def train(config: ConfigDict, workdir, quiet: bool = False) -> TrainState:
    """Trains until `config.train.steps`, or until a signal asks it to stop. Returns the last train state.

    Args:
      config: see mlic_jax.training.config.
      workdir: the run's folder, which is made if it does not exist, or gs://BUCKET/PATH.
      quiet: no progress bar.

    Raises:
      UsageError, ModelError, InputError: a config that cannot work, named by its key.
      TrainingError: a workdir of another config, or of a run at work; or a run that diverges again and again.
    """
    with contextlib.ExitStack() as exits:
        stop_asked = exits.enter_context(signals())
        # -------------------------------------------------------------- what is trained
        workdir = places.path_of(workdir)
        configs.check(config)
        codec = make_codec(config)
        step_of_phase = step_functions(codec, config)
        parallel.check_batch(config.data.batch_size, configs.batch_parts(config))

        # -------------------------------------------------------------- data
        batches, held_out, photos = make_data(config)
        exits.enter_context(closing(batches))
        together.agree(configs.shared(config) | batches.get_state(), "Give all of them the same config and photos")

        # -------------------------------------------------------------- workdir, resume
        logs = exits.enter_context(places.logs_of(workdir, parallel.is_main(), resumed=(METRICS,)))
        if parallel.is_main():
            exits.enter_context(lock.locked(logs.folder))
        checkpoints = exits.enter_context(closing(Checkpoints(workdir, config.train.keep)))
        train_state, step = start_or_resume(codec, config, workdir, checkpoints, batches)
        together.agree({"the step to go on from": step}, "Give all of them a --workdir that all of them see")
        writer = exits.enter_context(closing(make_writer(logs.folder, config, train_state, step)))

        # -------------------------------------------------------------- the loop
        meter, wishes, way_back = Meter(step, config.data.batch_size), Wishes(step), WayBack(checkpoints, step)
        progress = Progress(step, config.train.steps, quiet or not parallel.is_main())
        progress.say("\n".join(opening(config, train_state, batches, photos, workdir, step)))
        exits.enter_context(progress)
        stopping = unsaved = False
        while step < config.train.steps and not stopping:
            step += 1
            take_step = step_of_phase[configs.phase_at(config.phases, step - 1)]
            train_state, metrics = take_step(train_state, parallel.shard(next(batches)))
            meter.add(step, metrics)
            last = step == config.train.steps
            stopping, by_time = wishes.of_all(step, stop_asked() != "", config.train.checkpoint_minutes)

            if step % config.train.log_every == 0 or last:
                figures = meter.figures(step) | learning_rates(config, train_state, step) | batches.figures()
                progress.show(step, figures)
                writer.scalars(step, "train", figures)
            else:
                progress.advance(step)

            loss = None
            if (config.train.evaluate_every and step % config.train.evaluate_every == 0) or last:
                figures = validated(codec, train_state, held_out, config.train.samples, writer, step)
                loss = figures["loss"]
                progress.note(step, figures)

            unsaved |= step % config.train.checkpoint_every == 0 or last or by_time or stopping or loss is not None
            if unsaved:
                meter.fetch()
            if unsaved and not meter.bad_steps:  # what is saved can be gone on from
                logs.copy()
                checkpoints.save(step, train_state, batches.get_state(), config, loss)
                unsaved = False
                wishes.saved()
            if meter.bad_steps >= config.train.max_bad_steps:
                step, train_state, position, _ = way_back.take(meter, train_state)
                batches.set_state(position)
                unsaved = False
                meter, wishes = Meter(step, config.data.batch_size), Wishes(step)
                progress.go_back(step)
                writer.go_back(step)
        if stopping or unsaved:
            say_where_it_ends(checkpoints, meter, stop_asked(), stopping)
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
        for objectives in configs.objectives_of_phases(config)
    ]


def make_data(config: ConfigDict) -> tuple[data.TrainIterator, np.ndarray, int]:
    """This process's part of the batches; held-out patches uint8 [n, P, P, 3]; of how many photos these are.

    Raises UsageError, InputError.
    """
    c = config.data
    source = data.make_source(c.source, c.split, c.dir or None, cache_mib=c.cache_mib)
    held_out = data.make_source(
        configs.validation_source(config), c.validation_split, c.dir or None, cache_mib=c.cache_mib
    )
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
    return batches, patches, len(held_out)


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
    objectives = configs.objectives_of_phases(config)[configs.phase_at(config.phases, step - 1)]
    states = {name: train_state.optimizer[name] for name in dict.fromkeys(objectives)}
    prefix = "{}/" if len(train_state.optimizer) > 1 else ""
    rates = optimizers.learning_rates(config, states)
    return {f"{prefix.format(name)}learning_rate": rate for name, rate in rates.items()}


@contextlib.contextmanager
def closing(part: Any) -> Iterator[Any]:
    """Closes a part at the end. After a failure, too, as threads that are torn down with the interpreter complain; but
    not in one of several processes, where closing may wait for one that waits for this one."""
    try:
        yield part
    except BaseException:
        if jax.process_count() == 1:
            part.close()
        raise
    part.close()


def make_writer(workdir: pathlib.Path, config: ConfigDict, train_state: TrainState, start: int) -> Writer | NoWriter:
    """What figures are written to; the config and a table of the parameters are written at once."""
    if not parallel.is_main():
        return NoWriter()
    writer = Writer(workdir, start)
    atomic.write_bytes(workdir / "config.json", json.dumps(config.to_dict(), indent=1, default=list).encode())
    overview = parameter_overview.get_parameter_overview(parallel.local(train_state.params), include_stats=False)
    atomic.write_bytes(workdir / "parameters.txt", overview.encode())
    return writer


def validated(codec: Codec, train_state: TrainState, held_out: np.ndarray, samples: int, writer, step: int) -> dict:
    """Figures on the held-out patches, which are written, too; and the first `samples` of them as pictures."""
    figures, reconstructions = validate(codec, train_state, held_out)
    writer.scalars(step, "validation", figures)
    save_samples(writer, step, held_out[:samples], reconstructions[:samples])
    return figures


def say_where_it_ends(checkpoints: Checkpoints, meter: Meter, signal: str, stopped: bool) -> None:
    """One line about a run that was asked to stop, or of which the last steps could not be saved."""
    checkpoints.wait()
    latest = checkpoints.latest()
    where = "before its first checkpoint" if latest is None else f"with the checkpoint of step {latest}"
    why = f"{signal or 'another process was asked to stop'}: " if stopped else ""
    bad = f"; its last {meter.bad_steps} steps were not finite, and are not saved" if meter.bad_steps else ""
    log.warning("%sthe run ends %s%s; the same command goes on", why, where, bad)

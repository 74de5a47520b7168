"""`mlic train`."""

from __future__ import annotations

import sys

from mlic_jax import runtime
from mlic_jax.cli import command


def add_arguments(parser):
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME:VARIANT",
        help="name of a config (mlic configs lists them) or path of its file, with a variant behind a colon",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run; a checkpoint in it is resumed")
    parser.add_argument(
        "--steps",
        type=command.steps,
        metavar="N",
        help="a run of N steps in all, with phases and schedules as long in proportion (default: as the config says)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


# Libraries that log at the level of warnings what needs no attention. What they raise is an error all the same.
_TALKATIVE = ("absl", "grain", "jax", "orbax", "tensorflow")


def _quieten() -> None:
    """Of training's libraries, only errors are printed; our own warnings are."""
    import logging
    import warnings

    from absl import logging as absl_logging  # has a class of loggers of its own, which has to come first

    absl_logging.set_verbosity(absl_logging.ERROR)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Grain forks its workers before they import anything, and they never run jax.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)


def train(arguments) -> int:
    from mlic_jax.training import supervisor

    _quieten()
    if not supervisor.expected():
        return _train(arguments, several=False)
    supervisor.supervise()
    from mlic_jax.training import together

    together.start_processes()
    with together.failing_together():
        return _train(arguments, several=True)


def _train(arguments, several: bool) -> int:
    """Trains, and returns the exit status."""
    from mlic_jax.training import banner, lengths, parallel, stopping
    from mlic_jax.training import config as configs

    runtime.prepare_jax(start=False)
    planned = configs.load(arguments.config, [])
    shorter = lengths.as_overrides(planned, arguments.steps) if arguments.steps else []
    config = configs.load(arguments.config, [*shorter, *arguments.rest])
    if not several:
        parallel.use_all_cores(config.data.batch_size, configs.batch_parts(config))
    runtime.start_jax()
    if parallel.is_main() and not arguments.quiet:
        _warn(lengths.not_reached(config, planned), config.train.steps)
    from mlic_jax.training.train import train

    with stopping.second_interrupt_kills():
        state = train(config, arguments.workdir, arguments.quiet)
    if int(parallel.local(state.step)) < config.train.steps:
        return stopping.PREEMPTED
    if parallel.is_main() and not arguments.quiet:
        print(banner.next_commands(arguments.workdir), file=sys.stderr)
    return 0


def _warn(sentences, steps: int) -> None:
    for sentence in sentences:
        print(f"mlic: warning: {sentence}", file=sys.stderr)
    if sentences:
        print(f"mlic: for a whole run of {steps} steps, give --steps {steps}", file=sys.stderr)


COMMAND = command.Command(
    "train",
    "Train a model, or go on with a run that was stopped.",
    add_arguments,
    train,
    "Any value of the config can be set, as --config.optimizer.learning_rate=2e-4; mlic_jax/training/config.py says "
    f"what there is. {command.EXIT_CODES}",
    passes_on=True,
    examples=(
        "mlic train --config mbt2018_mean:tiny --workdir runs/tiny                 # again: resumes",
        "mlic train --config mbt2018_mean:tiny --workdir runs/short --steps 200    # all of it, shorter",
        "mlic train --config kltnet:tiny --workdir runs/klt --config.data.source=/data/photos",
    ),
)

"""`mlic train`."""

from __future__ import annotations

from mlic_jax import runtime
from mlic_jax.cli import command


def add_arguments(parser):
    parser.add_argument("--config", required=True, help="config file, with its argument behind a colon: file.py:4")
    parser.add_argument("--workdir", required=True, help="folder of the run; a checkpoint in it is resumed")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def train(arguments):
    from mlic_jax.training import config as configs
    from mlic_jax.training import parallel

    several = parallel.start_processes()
    runtime.prepare_jax(start=False)
    config = configs.load(arguments.config, arguments.rest)
    if not several:
        parallel.use_all_cores(config.data.batch_size, configs.batch_parts(config))
    runtime.start_jax()
    from mlic_jax.training.train import train

    train(config, arguments.workdir, arguments.quiet)


COMMAND = command.Command(
    "train",
    "Train a model, or go on with a run that was stopped.",
    add_arguments,
    train,
    "Any value of the config can be set: --config.train.steps=1000",
    passes_on=True,
)

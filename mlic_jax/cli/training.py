"""`mlic train` and `mlic export`."""

from __future__ import annotations

import pathlib

from mlic_jax.cli import batch, common
from mlic_jax.training import config as configs


def train(arguments, rest):
    from mlic_jax.training import parallel

    several = parallel.start_processes()
    common.prepare_jax()
    config = configs.load(arguments.config, rest)
    if not several:
        parallel.use_all_cores(config.data.batch_size, configs.batch_parts(config))
    from mlic_jax.training.train import train

    train(config, arguments.workdir, arguments.quiet)


def export(arguments):
    batch.refuse_overwriting(arguments.output, arguments.force)
    common.prepare_jax()
    artifact = common.artifact_of_run(arguments.run, arguments.which, arguments.calibrate)
    if arguments.pack:
        artifact = artifact.pack(tuple(arguments.half))
    artifact.save(arguments.output)
    size = pathlib.Path(arguments.output).stat().st_size
    print(f"{arguments.output}: {artifact.model}, {size / 1e6:.2f} MB, fingerprint {artifact.fingerprint.hex()}")

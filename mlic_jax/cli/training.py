"""`mlic train` and `mlic export`."""

from __future__ import annotations

import pathlib

from mlic_jax import runtime
from mlic_jax.cli import batch, common
from mlic_jax.training import config as configs

# As many pictures of `mlic export --calibrate` are looked at.
CALIBRATION_PICTURES = 32


def train(arguments, rest):
    from mlic_jax.training import parallel

    several = parallel.start_processes()
    runtime.prepare_jax()
    config = configs.load(arguments.config, rest)
    if not several:
        parallel.use_all_cores(config.data.batch_size, configs.batch_parts(config))
    from mlic_jax.training.train import train

    train(config, arguments.workdir, arguments.quiet)


def export(arguments):
    batch.refuse_overwriting(arguments.output, arguments.force)
    runtime.prepare_jax()
    from mlic_jax.training.runs import export_run

    images = None
    if arguments.calibrate:
        images = [image for _, image in common.pictures(arguments.calibrate, CALIBRATION_PICTURES)]
    artifact = export_run(arguments.run, arguments.which, images)
    if arguments.pack:
        artifact = artifact.pack(tuple(arguments.half))
    artifact.save(arguments.output)
    size = pathlib.Path(arguments.output).stat().st_size
    print(f"{arguments.output}: {artifact.model}, {size / 1e6:.2f} MB, fingerprint {artifact.fingerprint.hex()}")

"""`mlic export`."""

from __future__ import annotations

import pathlib

from mlic_jax import runtime
from mlic_jax.cli import batch, command, common

# As many pictures of `mlic export --calibrate` are looked at.
CALIBRATION_PICTURES = 32


def add_arguments(parser):
    parser.add_argument("--run", required=True, help="workdir of the run")
    parser.add_argument("-o", "--output", required=True, help="model file to write (.mlicm)")
    parser.add_argument("--which", default="best", help="checkpoint: best, latest or a step")
    parser.add_argument(
        "--calibrate",
        metavar="DIR",
        help="pictures (the first 32) by which integer ranges of the parse path are chosen (default: bundled photos)",
    )
    parser.add_argument("--pack", action="store_true", help="round the weights to 8 bits: a quarter of the size")
    parser.add_argument(
        "--half",
        action="append",
        default=[],
        metavar="NAME",
        help="with --pack: 16 bits where a weight's name has this",
    )
    command.add_force(parser)


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


COMMAND = command.Command(
    "export",
    "Write a run's weights and tables as one model file.",
    add_arguments,
    export,
    command.EXIT_CODES,
    examples=("mlic export --run runs/tiny -o tiny.mlicm", "mlic export --run runs/tiny -o tiny.mlicm --pack"),
)

"""`mlic export`."""

from __future__ import annotations

import os

from mlic_jax import extras, runtime
from mlic_jax.cli import batch, command, common
from mlic_jax.errors import UsageError
from mlic_jax.fileformat import model_folder, model_store


def add_arguments(parser):
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", help="workdir of the run")
    what.add_argument("-m", "--model", help="a model that is exported already: name, file or folder")
    parser.add_argument("-o", "--output", help="model file to write (.mlicm)")
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="folder to write, as model hubs have them: model.safetensors, config.json, README.md",
    )
    parser.add_argument("--which", default="best", help="checkpoint: best, latest or a step")
    common.add_calibrate(parser)
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
    if not (arguments.output or arguments.folder):
        raise UsageError("export needs -o FILE.mlicm, or --folder DIR")
    if arguments.output:
        batch.refuse_overwriting(arguments.output, arguments.force)
    if arguments.folder:
        extras.require("--folder needs", "safetensors")
        for name in (model_folder.WEIGHTS, model_folder.CONFIG):
            batch.refuse_overwriting(os.path.join(arguments.folder, name), arguments.force)
    artifact = model_store.load(arguments.model) if arguments.model else _of_run(arguments)
    if arguments.pack:
        artifact = artifact.pack(tuple(arguments.half))
    if arguments.output:
        artifact.save(arguments.output)
    if arguments.folder:
        model_folder.save(artifact, arguments.folder)
    for path in filter(None, (arguments.output, arguments.folder)):
        print(common.about_model(artifact, path))


def _of_run(arguments):
    runtime.prepare_jax()
    from mlic_jax.training.runs import export_run

    return export_run(arguments.run, arguments.which, common.calibration_pictures(arguments.calibrate))


COMMAND = command.Command(
    "export",
    "Write a run's weights and tables as one model file, or as a folder; or a model's file as a folder, and back.",
    add_arguments,
    export,
    command.EXIT_CODES,
    examples=(
        "mlic export --run runs/tiny -o tiny.mlicm",
        "mlic export --run runs/tiny -o tiny.mlicm --pack",
        "mlic export --run runs/tiny --folder mine       # for a model hub; -m mine reads it",
        "mlic export -m mine -o mine.mlicm",
    ),
)

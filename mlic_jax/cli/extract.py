"""`mlic extract`."""

from __future__ import annotations

import os

from mlic_jax.cli import batch, command
from mlic_jax.errors import UsageError


def add_arguments(parser):
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="- for standard input")
    parser.add_argument(
        "-o", "--output", help="file, or folder for several, or - for standard output (default: beside the input)"
    )
    command.add_force(parser)


def extract(arguments):
    from mlic_jax import api
    from mlic_jax.cli import picture_files

    outputs = batch.outputs(arguments.inputs, arguments.output, "")
    unnamed = arguments.output is None or os.path.isdir(arguments.output)
    for name, path in zip(arguments.inputs, outputs, strict=True):
        data, kind = api.to_standard(batch.read(name))
        if unnamed and path != batch.STANDARD:
            path += kind  # which is known only now
        batch.refuse_overwriting(path, arguments.force)
        if path != batch.STANDARD and picture_files.suffix_of(path) not in (kind, None):
            raise UsageError(f"inside {name!r} is a {kind} file, and {path!r} names another kind")
        batch.write(path, data)
        if path != batch.STANDARD:
            print(f"{name}: {len(data)} bytes, written to {path}")


COMMAND = command.Command(
    "extract",
    "Take the standard file (as a JPEG) out of .mlic files of models around a standard codec.",
    add_arguments,
    extract,
    command.EXIT_CODES,
    examples=("mlic extract photo.mlic                           # photo.jpg, for a model around JPEG",),
)

"""`mlic prefixes`."""

from __future__ import annotations

import json
import os
import sys
import warnings

from mlic_jax import runtime
from mlic_jax.cli import batch, command
from mlic_jax.errors import TruncationWarning, UsageError


def add_arguments(parser):
    parser.add_argument("input", metavar="FILE", help="- for standard input")
    parser.add_argument(
        "-o", "--output", help="an animation (.gif), a page to compare them on (.html), or a folder for all (.png)"
    )
    parser.add_argument("--original", metavar="PICTURE", help="what was compressed: metrics are against this")
    parser.add_argument("-m", "--model", help="a name or a model file (default: as for decompress)")
    command.add_metrics(parser)
    command.add_force(parser)
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def prefixes(arguments):
    from mlic_jax import api
    from mlic_jax.data import images
    from mlic_jax.evaluation.report import prefixes as report
    from mlic_jax.evaluation.report import tables
    from mlic_jax.metrics import registry

    suffix = os.path.splitext(arguments.output or "")[1].lower()
    if suffix not in ("", ".gif", ".html"):
        raise UsageError(f"{arguments.output!r}: prefixes are shown as .gif, as .html, or as .png files in a folder")
    if suffix == ".html" and not arguments.original:
        raise UsageError("the page compares with the picture that was compressed: name it with --original")
    if arguments.output:
        batch.refuse_overwriting(arguments.output, arguments.force or os.path.isdir(arguments.output))
    names = registry.parse(arguments.metrics)
    data = batch.read(arguments.input)
    original = None
    if arguments.original:
        original = images.decode_image(batch.read(arguments.original), arguments.original)
    runtime.prepare_jax()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncationWarning)
        measured = report.measure(api.prefixes(data, arguments.model), original, names)
    for warning in caught:
        print(f"mlic: warning: {arguments.input}: {warning.message}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(tables.finite([row for row, _ in measured])))
    else:
        print(report.table(measured), end="")
    if not arguments.output:
        return
    if suffix == ".gif":
        batch.write(arguments.output, report.to_gif([image for _, image in measured]))
    elif suffix == ".html":
        report.write_page(arguments.output, os.path.basename(arguments.input), original, measured)
    else:
        os.makedirs(arguments.output, exist_ok=True)
        for path, content in report.to_files(measured, os.path.join(arguments.output, _stem(arguments.input))):
            batch.refuse_overwriting(path, arguments.force)
            batch.write(path, content)


def _stem(name: str) -> str:
    return "picture" if name == batch.STANDARD else os.path.splitext(os.path.basename(name))[0]


COMMAND = command.Command(
    "prefixes",
    "Show what a progressive file looks like while it arrives, and measure it.",
    add_arguments,
    prefixes,
    command.EXIT_CODES,
    examples=(
        "mlic prefixes photo.mlic",
        "mlic prefixes photo.mlic --original photo.png -o photo.html",
    ),
)

"""`mlic info`."""

from __future__ import annotations

import json

from mlic_jax import atomic
from mlic_jax.cli import batch, command


def add_arguments(parser):
    parser.add_argument("input", metavar="FILE", help="- for standard input")
    parser.add_argument("--json", action="store_true", help="print JSON")


def info(arguments):
    from mlic_jax import api
    from mlic_jax.fileformat import container

    start, size = batch.start_of(arguments.input, container.LONGEST_HEADER)
    if start[:2] == b"PK":
        about = _model_info(arguments.input)
    else:
        about = api.info(start, size)
    if arguments.json:
        print(json.dumps(about))
    else:
        for key, value in about.items():
            words = f"{value:.4f}" if key == "bpp" else json.dumps(value) if isinstance(value, dict | list) else value
            print(f"{key}: {words}")


def _model_info(name):
    from mlic_jax.fileformat import model_names
    from mlic_jax.fileformat.artifact import Artifact

    data = atomic.read_bytes(name)
    artifact = Artifact.from_bytes(data, repr(name))
    return {
        "model": model_names.name_of(artifact.fingerprint, artifact.model),
        "architecture": artifact.model,
        "arguments": artifact.architecture,
        "fingerprint": artifact.fingerprint.hex(),
        "portable": artifact.card.get("portable", True),
        "bytes": len(data),
        "parameters": int(sum(a.size for name, a in artifact.arrays().items() if name.startswith("params/"))),
        "card": artifact.card,
    }


COMMAND = command.Command(
    "info",
    "Say what a .mlic or .mlicm file holds.",
    add_arguments,
    info,
    command.EXIT_CODES,
    examples=("mlic info photo.mlic", "mlic info model.mlicm --json"),
)

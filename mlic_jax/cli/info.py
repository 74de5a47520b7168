"""`mlic info`."""

from __future__ import annotations

import json

from mlic_jax.cli import batch, command


def add_arguments(parser):
    parser.add_argument("input", metavar="FILE", help="or a model's folder; - for standard input")
    parser.add_argument("--json", action="store_true", help="print JSON")


def info(arguments):
    from mlic_jax import api
    from mlic_jax.fileformat import container, model_folder

    start, size = b"", None
    is_model = model_folder.is_one(arguments.input)
    if not is_model:
        start, size = batch.start_of(arguments.input, container.LONGEST_HEADER)
    about = _model_info(arguments.input) if is_model or start[:2] == b"PK" else api.info(start, size)
    if arguments.json:
        print(json.dumps(about))
    else:
        for key, value in about.items():
            words = f"{value:.4f}" if key == "bpp" else json.dumps(value) if isinstance(value, dict | list) else value
            print(f"{key}: {words}")


def _model_info(name):
    from mlic_jax.fileformat import model_folder, model_names
    from mlic_jax.fileformat.artifact import Artifact

    artifact = Artifact.load(name)
    return {
        "model": model_names.name_of(artifact.fingerprint, artifact.model),
        "architecture": artifact.model,
        "arguments": artifact.architecture,
        "fingerprint": artifact.fingerprint.hex(),
        "portable": artifact.portable,
        "bytes": model_folder.size_of(name),
        "parameters": artifact.parameters,
        "card": artifact.card,
    }


COMMAND = command.Command(
    "info",
    "Say what a .mlic or .mlicm file holds, or a model's folder.",
    add_arguments,
    info,
    command.EXIT_CODES,
    examples=("mlic info photo.mlic", "mlic info model.mlicm --json"),
)

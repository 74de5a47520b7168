"""`mlic models`."""

from __future__ import annotations

import json

from mlic_jax.cli import command


def add_arguments(parser):
    parser.add_argument("--json", action="store_true", help="print JSON")


def models(arguments):
    from mlic_jax.fileformat import installed

    found = installed.models()
    if arguments.json:
        print(json.dumps([model._asdict() for model in found]))
        return
    rows = [("name", "MB", "bpp", "kMAC/pixel", "architecture"), *map(_row, found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([word.ljust(width) for word, width in zip(row, widths, strict=False)] + [row[-1]]))


def _row(model):
    low, high = model.bpp or (None, None)
    bpp = "-" if low is None else f"{low:.2f}" if low == high else f"{low:.2f}-{high:.2f}"
    work = "-" if model.kmac_per_pixel is None else "{:.1f} / {:.1f}".format(*model.kmac_per_pixel)
    words = model.architecture + " (default)" * model.default + " (not portable)" * (not model.portable)
    return model.name, f"{model.bytes / 1e6:.2f}", bpp, work, words


COMMAND = command.Command(
    "models",
    "List the models that are here: size, bits per pixel, and kMAC/pixel to encode / to decode, as far as they say.",
    add_arguments,
    models,
    "Models are looked for in the package, in distributions with weights, and in the folders of MLIC_MODELS. Bits per "
    "pixel are of whole files on Kodak; a single number is an estimate, on the validation patches of a training.",
    examples=("mlic models", "mlic models --json"),
)

"""`mlic configs`."""

from __future__ import annotations

import json

from mlic_jax.cli import command


def add_arguments(parser):
    parser.add_argument("name", nargs="?", help="all that this one says of itself (default: a line of each)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def configs(arguments):
    from mlic_jax.training import config_files

    if arguments.name:
        listed = [config_files.about(arguments.name.split(":")[0])]
    else:
        listed = [config_files.about(name) for name in config_files.names()]
    if arguments.json:
        print(json.dumps([{**one._asdict(), "path": str(one.path)} for one in listed]))
        return
    if arguments.name:
        print(f"{listed[0].path}\n\n{listed[0].text}\n\n{_variants(listed[0])}")
        return
    for one in listed:
        print(f"{one.name}: {one.title}\n    {_variants(one)}")
    print(f"\nclaims, for mlic claim NAME: {', '.join(config_files.names(config_files.CLAIMS))}")
    print("next: mlic configs NAME, or mlic train --config NAME:VARIANT --workdir runs/NAME")


def _variants(one) -> str:
    if not one.variants:
        return "no variants"
    return ", ".join(f"{name} (default)" if name == one.default else name for name in one.variants)


COMMAND = command.Command(
    "configs",
    "List what can be trained: the configs of the package, and those in the folder configs/.",
    add_arguments,
    configs,
    command.EXIT_CODES,
    examples=(
        "mlic configs",
        "mlic configs li2018",
    ),
)

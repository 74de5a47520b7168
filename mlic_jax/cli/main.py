"""The `mlic` command.

COMMANDS lists the subcommands; each is a module of this folder, with its arguments beside its function. Bad input ends
in one line on standard error and an exit status (command.EXIT_CODES; mlic_jax.errors has the same).
"""

from __future__ import annotations

import argparse
import os
import sys

import mlic_jax
from mlic_jax.cli import compress, decompress, export, extract, info, measuring, prefixes, toy, train
from mlic_jax.errors import MlicError, UsageError

# In the order of --help.
COMMANDS = (
    train.COMMAND,
    export.COMMAND,
    measuring.EVALUATE,
    measuring.BENCHMARK,
    measuring.CLAIM,
    compress.COMMAND,
    decompress.COMMAND,
    prefixes.COMMAND,
    extract.COMMAND,
    info.COMMAND,
    toy.COMMAND,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlic", description="Learned image compression in JAX.")
    parser.add_argument("-V", "--version", action="version", version=f"mlic_jax {mlic_jax.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name, help=command.summary, description=command.summary, epilog=command.epilog
        )
        command.add_arguments(subparser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments, arguments.rest = _parser().parse_known_args(argv)
    command = next(command for command in COMMANDS if command.name == arguments.command)
    try:
        if arguments.rest and not command.passes_on:
            raise UsageError(f"{arguments.rest[0]!r} is not understood: see mlic {command.name} --help")
        status = command.run(arguments)
        sys.stdout.flush()
        return status or 0
    except MlicError as reason:
        print(f"mlic: error: {' '.join(str(reason).split())}", file=sys.stderr)
        return reason.exit_code
    except KeyboardInterrupt:
        print("mlic: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more
        return 1

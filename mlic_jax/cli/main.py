"""The `mlic` command.

COMMANDS lists the subcommands; each is a module of this folder, with its arguments beside its function. Bad input ends
in one line on standard error and an exit status (command.EXIT_CODES; mlic_jax.errors has the same).
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import functools
import gc
import os
import shutil
import sys
import textwrap
import warnings

import mlic_jax
from mlic_jax import extras
from mlic_jax.cli import (
    compress,
    configs,
    decompress,
    export,
    extract,
    importing,
    info,
    measuring,
    models,
    prefixes,
    prepare,
    toy,
    train,
)
from mlic_jax.errors import InputError, LimitError, LossWarning, MlicError, UsageError

# In the order of --help.
COMMANDS = (
    models.COMMAND,
    configs.COMMAND,
    prepare.COMMAND,
    train.COMMAND,
    export.COMMAND,
    importing.COMMAND,
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

EXAMPLES = (
    "mlic compress photo.jpg -q 70        # photo.mlic",
    "mlic decompress photo.mlic           # photo.png",
    "mlic train --config mbt2018_mean:tiny --workdir runs/tiny",
    "mlic COMMAND --help                  # more examples",
)
EPILOG = "python -m mlic_jax is the same command, where mlic is not on the PATH."


def _parser() -> argparse.ArgumentParser:
    parser = _parser_of(argparse.ArgumentParser, "Learned image compression in JAX.", EXAMPLES, EPILOG, prog="mlic")
    parser.add_argument("-V", "--version", action="version", version=f"mlic_jax {mlic_jax.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        add = functools.partial(subparsers.add_parser, command.name, help=command.summary)
        command.add_arguments(_parser_of(add, command.summary, command.examples, command.epilog))
    return parser


def _parser_of(make, summary: str, examples, epilog: str | None, **words) -> argparse.ArgumentParser:
    """A parser with examples, one a line, above the last paragraph of its help."""
    width = min(shutil.get_terminal_size().columns - 2, 100)
    parts = ["\n  ".join(["examples:", *examples])] if examples else []
    parts += [textwrap.fill(epilog, width)] if epilog else []
    return make(
        description=textwrap.fill(summary, width),
        epilog="\n\n".join(parts).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **words,
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    # Starting makes many objects that stay: looking through them is a tenth of it, and at the end a sixth of a command.
    gc.set_threshold(200_000)
    atexit.register(gc.freeze)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    arguments, arguments.rest = _parser().parse_known_args(argv)
    command = next(command for command in COMMANDS if command.name == arguments.command)
    shown = warnings.showwarning
    warnings.showwarning = _warning_as_line(shown)
    warnings.filterwarnings("always", category=LossWarning)
    try:
        if arguments.rest and not command.passes_on:
            raise UsageError(f"{arguments.rest[0]!r} is not understood: see mlic {command.name} --help")
        status = command.run(arguments)
        sys.stdout.flush()
        return status or 0
    except MlicError as reason:
        if "to standard output" in str(reason):
            _forget_output()
        return _fail(reason)
    except KeyboardInterrupt:
        print("mlic: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _forget_output()  # nobody reads any more
        return 1
    except MemoryError:
        return _fail(LimitError("not enough memory: a smaller picture or more memory is needed"))
    except ImportError as reason:
        # A library of which the machine cannot map the code: a limit of this machine, not of the installation.
        if error := extras.error_of(reason, f"mlic {command.name} needs"):
            return _fail(error)
        if not any(words in str(reason) for words in _NO_MEMORY):
            raise
        return _fail(LimitError(f"not enough memory to load a library ({reason})"))
    except OSError as reason:
        # Everything that is read or written by name is checked where it is; what is left is standard output.
        if reason.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT) or reason.filename:
            raise
        _forget_output()
        return _fail(InputError(f"cannot write to standard output: {reason.strerror}"))
    finally:
        warnings.showwarning = shown


# What the loader says where memory, not the library, is missing.
_NO_MEMORY = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory", "failed to allocate")


def _fail(reason: MlicError) -> int:
    print(f"mlic: error: {' '.join(str(reason).split())}", file=sys.stderr)
    return reason.exit_code


def _forget_output() -> None:
    """What is still to be written to standard output goes nowhere, so that Python does not try again at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warning_as_line(otherwise):
    """What prints a warning: one line for what a picture loses, `otherwise` for others."""

    def show(message, category, *place, **more):
        if issubclass(category, LossWarning):
            print(f"mlic: warning: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            otherwise(message, category, *place, **more)

    return show

"""What a subcommand is, and the arguments that several have. Modules of this folder give Commands, main.py lists them.

Modules import what their commands need when these run: `mlic info` starts without NumPy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

EXIT_CODES = (
    "Exit status: 0 done; 1 some of several files failed; 2 usage; 3 an input that cannot be read, or an output that "
    "cannot be written; 4 a damaged or unknown .mlic file; 5 a missing or wrong model; 6 a limit exceeded; 7 training "
    "failed; 75 training was asked to stop, and has saved: the same command goes on; 130 interrupted."
)


class Command(NamedTuple):
    """A subcommand of `mlic`.

    Attributes:
      name: as it is typed.
      summary: one sentence for --help.
      add_arguments: (parser) -> None.
      run: (arguments) -> exit status, or None for 0.
      epilog: the last paragraph of --help.
      examples: commands for --help, as they are typed.
      passes_on: whether words that the parser does not know are its own, in `arguments.rest`; an error otherwise.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    epilog: str | None = None
    passes_on: bool = False
    examples: Sequence[str] = ()


# ---------------------------------------------------------------------- kinds of values


def count_of_jobs(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of files at a time")
    return int(word)


def count_of_pictures(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of pictures")
    return int(word)


def iterations(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of iterations: 1 or more are possible")
    return int(word)


def steps(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of steps: 1 or more are possible")
    return int(word)


def place_of_frame(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is no number of a frame: 0 or more are possible")
    return int(word)


def quality_of_output(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= 100:
        raise argparse.ArgumentTypeError(f"{word!r} is no quality: whole numbers from 1 to 100 are possible")
    return int(word)


def bits_per_pixel(word: str) -> float:
    try:
        rate = float(word)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 24:
        raise argparse.ArgumentTypeError(f"{word!r} is no rate: bits per pixel above 0, and at most 24")
    return rate


# ---------------------------------------------------------------------- options of several commands

# What `evaluate`, `benchmark` and `prefixes` measure; the names are in mlic_jax.metrics.registry.
METRICS = "psnr,ms-ssim"


def add_metrics(parser: argparse.ArgumentParser) -> None:
    names = "psnr, ms-ssim, ssim, psnr-y, ssim-y, lpips-alex, lpips-vgg, psnr-set"
    parser.add_argument("--metrics", default=METRICS, help=f"with commas between: {names} (default {METRICS})")


def add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="overwrite")


def add_jobs(parser: argparse.ArgumentParser, never: str = "") -> None:
    parser.add_argument(
        "-j", "--jobs", type=count_of_jobs, default=1, help=f"files at a time (default 1; 0: one per core){never}"
    )


def add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", help="folder of pictures, or tfds:NAME (default: the bundled ones held out from training)"
    )
    parser.add_argument("--limit", type=count_of_pictures, default=0, help="the first so many pictures only")

"""The `mlic` command.

Each subcommand imports what it needs when it runs: `mlic info` needs neither NumPy nor jax nor a model. Bad input ends
in one line on standard error and an exit status (EXIT_CODES; mlic_jax.errors has the same).
"""

from __future__ import annotations

import argparse
import os
import sys

import mlic_jax
from mlic_jax.commands import coding, measuring, training
from mlic_jax.errors import MlicError, UsageError
from mlic_jax.toy import command as toy

EXIT_CODES = (
    "Exit status: 0 done; 1 some of several files failed; 2 usage; 3 an input that cannot be read, or an output that "
    "cannot be written; 4 a damaged or unknown .mlic file; 5 a missing or wrong model; 6 a limit exceeded; 7 training "
    "failed; 130 interrupted."
)
# What `mlic evaluate --compare` runs when it is given without names.
COMPARED = "jpeg,jpeg2000,webp,avif"
# What `evaluate` and `benchmark` measure; the names are in mlic_jax.metrics.registry.
METRICS = "psnr,ms-ssim"
METRICS_HELP = f"with commas between: psnr, ms-ssim, ssim, psnr-y, ssim-y, lpips-alex, lpips-vgg (default {METRICS})"


def _count(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of files at a time")
    return int(word)


def _number(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of pictures")
    return int(word)


def _iterations(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of iterations: 1 or more are possible")
    return int(word)


def _rate(word: str) -> float:
    try:
        rate = float(word)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 24:
        raise argparse.ArgumentTypeError(f"{word!r} is no rate: bits per pixel above 0, and at most 24")
    return rate


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlic", description="Learned image compression in JAX.")
    parser.add_argument("-V", "--version", action="version", version=f"mlic_jax {mlic_jax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, function, summary):
        added = commands.add_parser(name, help=summary, description=summary)
        added.set_defaults(function=function)
        return added

    train = command("train", training.train, "Train a model, or go on with a run that was stopped.")
    train.add_argument("--config", required=True, help="config file, with its argument behind a colon: file.py:4")
    train.add_argument("--workdir", required=True, help="folder of the run; a checkpoint in it is resumed")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    train.epilog = "Any value of the config can be set: --config.train.steps=1000"

    export = command("export", training.export, "Write a run's weights and tables as one model file.")
    export.add_argument("--run", required=True, help="workdir of the run")
    export.add_argument("-o", "--output", required=True, help="model file to write (.mlicm)")
    export.add_argument("--which", default="best", help="checkpoint: best, latest or a step")
    export.add_argument(
        "--calibrate",
        metavar="DIR",
        help="pictures (the first 32) by which integer ranges of the parse path are chosen (default: bundled photos)",
    )
    export.add_argument("--pack", action="store_true", help="round the weights to 8 bits: a quarter of the size")
    export.add_argument(
        "--half",
        action="append",
        default=[],
        metavar="NAME",
        help="with --pack: 16 bits where a weight's name has this",
    )
    export.add_argument("-f", "--force", action="store_true", help="overwrite")

    evaluate = command("evaluate", measuring.evaluate, "Measure models on real files, beside standard codecs.")
    evaluate.add_argument("--run", action="append", default=[], help="workdir of a run; can be repeated for a curve")
    evaluate.add_argument("--model", action="append", default=[], help="model file; can be repeated for a curve")
    evaluate.add_argument("--which", default="best", help="checkpoint of --run: best, latest or a step")
    evaluate.add_argument("--images", help="folder of pictures (default: the bundled ones held out from training)")
    evaluate.add_argument("--limit", type=int, default=0, help="the first so many pictures only")
    evaluate.add_argument("--compare", nargs="?", const=COMPARED, help=f"standard codecs (default {COMPARED})")
    evaluate.add_argument("--metrics", default=METRICS, help=METRICS_HELP)
    evaluate.add_argument("--out", help="folder for JSON, CSV, tables, RD plots and the HTML report")
    evaluate.add_argument("--label", help="name of our curve")
    evaluate.add_argument("--note", action="append", default=[], help="a paragraph for the report; can be repeated")
    evaluate.add_argument("--per-image", action="store_true", help="print a line per picture")
    evaluate.add_argument("--json", action="store_true", help="print JSON that CompressAI's plot tool reads")
    evaluate.add_argument("--quiet", action="store_true", help="no progress bar")

    benchmark = command("benchmark", measuring.benchmark, "Measure codecs and models on pictures, against each other.")
    benchmark.add_argument("--images", help="folder of pictures (default: the bundled ones held out from training)")
    benchmark.add_argument("--limit", type=_number, default=0, help="the first so many pictures only")
    benchmark.add_argument(
        "--codecs", default=COMPARED, help=f"standard codecs, with commas between (default {COMPARED}); all; or ''"
    )
    benchmark.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="SPEC",
        help="[label=]path[@effort]: a model file or the workdir of a run, its name, and the encoder's effort, 0 to 9; "
        "models of one rate that have the same label form one curve",
    )
    benchmark.add_argument("--which", default="best", help="checkpoint of workdirs: best, latest or a step")
    benchmark.add_argument(
        "--curves",
        nargs="+",
        default=[],
        metavar="FILE",
        help="[label=]file[:key=value,...]: published curves, as CompressAI's JSON or a list of records",
    )
    benchmark.add_argument(
        "--anchors", default="", help="curves against which BD-rates are taken (default: all but our models)"
    )
    benchmark.add_argument("--metrics", default=METRICS, help=METRICS_HELP)
    benchmark.add_argument("--out", required=True, help="folder for tables, plots, JSON and the HTML report")
    benchmark.add_argument("--cache", help="folder of results that need not be measured again (default: OUT/cache)")
    benchmark.add_argument("--fresh", action="store_true", help="measure again what the cache has")
    benchmark.add_argument(
        "-j", "--jobs", type=_count, default=1, help="files at a time (default 1; 0: one per core); never when timing"
    )
    benchmark.add_argument(
        "--at", type=_rate, default=0.3, metavar="BPP", help="where pictures and times are compared (default 0.3)"
    )
    benchmark.add_argument("--show", type=_number, default=4, help="pictures in the report (default 4)")
    benchmark.add_argument(
        "--timing", type=_number, nargs="?", const=2, default=0, metavar="N",
        help="measure time and memory, one codec after the other, on N pictures (default 2)",
    )  # fmt: skip
    benchmark.add_argument("--quiet", action="store_true", help="no progress bar")
    benchmark.epilog = EXIT_CODES

    claim = command(
        "claim", measuring.claim, "Train and compare what a paper's claim names, and write a document about it."
    )
    claim.add_argument("paper", help="name of a file of configs/claims, as jiang2017, or its path")
    claim.add_argument("--workdir", help="folder of the trainings (default: runs/claims/PAPER); what it has is kept")
    claim.add_argument("--source", help="training photos, as in --config.data.source (default: as the configs say)")
    claim.add_argument("--images", help="folder of pictures (default: the bundled ones held out from training)")
    claim.add_argument("--limit", type=_number, default=0, help="the first so many pictures only")
    claim.add_argument("--steps", type=int, help="of every training (default: as the claim says)")
    claim.add_argument("--seeds", help="with commas between, as 0,1,2 (default: as the claim says)")
    claim.add_argument("--arms", help="these only, with commas between (default: all)")
    claim.add_argument("--out", default="docs/claims", help="folder of the document (default docs/claims)")
    claim.add_argument("--only-report", action="store_true", help="no training: measure and write what there is")
    claim.add_argument("-j", "--jobs", type=_count, default=1, help="files at a time (default 1; 0: one per core)")
    claim.add_argument(
        "--show", type=_number, default=4, help="pictures in WORKDIR/report/report.html (default 4; 0: no report)"
    )
    claim.add_argument("--quiet", action="store_true", help="print nothing but errors")
    claim.epilog = EXIT_CODES

    def command_on_files(name, function, summary, what, model, force):
        added = command(name, function, summary)
        added.add_argument("inputs", nargs="+", metavar=what, help="- for standard input")
        added.add_argument("-o", "--output", help="file, or folder for several, or - for standard output " + force)
        added.add_argument("-m", "--model", help=model)
        added.add_argument(
            "--metadata", default="all", help="what is kept: all (default), none, or some of icc,exif,xmp"
        )
        added.add_argument("-j", "--jobs", type=_count, default=1, help="files at a time (default 1; 0: one per core)")
        added.add_argument("-f", "--force", action="store_true", help="overwrite")
        added.add_argument("--json", action="store_true", help="print a JSON line per file")
        added.add_argument("--quiet", action="store_true", help="print nothing but errors")
        added.epilog = EXIT_CODES
        return added

    compress = command_on_files(
        "compress",
        coding.compress,
        "Compress pictures: grey, RGB or palette, with or without alpha. Colours of 16 bits are read with 8.",
        "PICTURE",
        "model file (.mlicm; default: the one in MLIC_MODEL, or the package's own)",
        "(default: beside the input, .mlic)",
    )
    compress.add_argument("-q", "--quality", type=float, help="0 to 100, for models of several rates (default 50)")
    compress.add_argument("--target-size", type=float, metavar="BYTES", help="the best quality that fits")
    compress.add_argument("--target-bpp", type=float, metavar="BPP", help="the same in bits per pixel")
    compress.add_argument("--target-psnr", type=float, metavar="DB", help="the smallest file that reaches it")
    compress.add_argument(
        "-e",
        "--effort",
        type=int,
        default=0,
        help="0 to 9: time spent on a smaller file of the same quality (default 0: none; each step doubles it)",
    )

    compress.add_argument(
        "--importance",
        metavar="PICTURE",
        help="where bits are to go: a grey picture of the same size, white for more (li2018, johnston2018)",
    )

    decompress = command_on_files(
        "decompress",
        coding.decompress,
        "Decompress .mlic files. The suffix of the output names its format.",
        "FILE",
        "model file (default: the package's, MLIC_MODEL, and what is in the folders of MLIC_MODELS)",
        "(default: beside the input, .png; PNG goes to standard output)",
    )
    decompress.add_argument(
        "--iterations", type=_iterations, metavar="K", help="the first K parts of a progressive file (default: all)"
    )

    prefixes = command(
        "prefixes", coding.prefixes, "Show what a progressive file looks like while it arrives, and measure it."
    )
    prefixes.add_argument("input", metavar="FILE", help="- for standard input")
    prefixes.add_argument(
        "-o", "--output", help="an animation (.gif), a page to compare them on (.html), or a folder for all (.png)"
    )
    prefixes.add_argument("--original", metavar="PICTURE", help="what was compressed: metrics are against this")
    prefixes.add_argument("-m", "--model", help="model file (default: as for decompress)")
    prefixes.add_argument("--metrics", default=METRICS, help=METRICS_HELP)
    prefixes.add_argument("-f", "--force", action="store_true", help="overwrite")
    prefixes.add_argument("--json", action="store_true", help="print the table as JSON")
    prefixes.epilog = EXIT_CODES

    extract = command(
        "extract",
        coding.extract,
        "Take the standard file (as a JPEG) out of .mlic files of models around a standard codec.",
    )
    extract.add_argument("inputs", nargs="+", metavar="FILE", help="- for standard input")
    extract.add_argument(
        "-o", "--output", help="file, or folder for several, or - for standard output (default: beside the input)"
    )
    extract.add_argument("-f", "--force", action="store_true", help="overwrite")
    extract.epilog = EXIT_CODES

    toy.add_arguments(command("toy", toy.run, "Try nonlinear transform coding on sources of one or two numbers."))

    info = command("info", coding.info, "Say what a .mlic or .mlicm file holds.")
    info.add_argument("input", metavar="FILE", help="- for standard input")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.epilog = EXIT_CODES
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments, rest = _parser().parse_known_args(argv)
    try:
        if arguments.command == "train":
            status = arguments.function(arguments, rest)
        elif rest:
            raise UsageError(f"{rest[0]!r} is not understood: see mlic {arguments.command} --help")
        else:
            status = arguments.function(arguments)
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


if __name__ == "__main__":
    sys.exit(main())

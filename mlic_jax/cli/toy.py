"""`mlic toy`: the experiments of nonlinear transform coding on toy sources. docs/toy.md says what they print."""

from __future__ import annotations

import argparse
import sys
import time

from mlic_jax import runtime
from mlic_jax.cli import command

# Of `experiments.EXPERIMENTS`; here without jax, so that `mlic --help` is instant.
WHAT = {
    "sources": "what the sources look like",
    "laplace": "one number: transfer curves of NTC and LTC beside the best scalar quantiser",
    "banana": "two numbers: cells and codebooks of NTC, LTC and the best vector quantiser",
    "sawbridge": "a process of one number, which linear transforms cannot find",
    "curves": "rate and distortion of a source, beside its bound",
    "quantisers": "what stands for rounding in training, and what it is worth",
    "variable": "one model for many trade-offs, five ways",
}


def _above_zero(kind):
    def parse(word: str):
        try:
            value = kind(word)
        except ValueError:
            value = 0
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"{word!r} is no {'number' if kind is float else 'count'} above 0")
        return value

    return parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mlic toy`."""
    parser.add_argument("experiment", choices=WHAT, help="; ".join(f"{name}: {what}" for name, what in WHAT.items()))
    parser.add_argument("--figure", metavar="FILE", help="draw it: .svg, .png or .pdf")
    parser.add_argument(
        "--lam", type=_above_zero(float), default=1.0, help="bits that a unit of distortion costs (default 1)"
    )
    parser.add_argument("--steps", type=_above_zero(int), help="of each training (default: as the experiment says)")
    parser.add_argument(
        "--samples", type=_above_zero(int), default=1_000_000, help="of each measurement (default 1000000)"
    )
    parser.add_argument("--source", default="banana", help="of curves: laplace or banana (default)")
    parser.add_argument("--methods", default="ABCDE", help="of variable, as BC (default ABCDE)")
    parser.add_argument("--seed", type=int, default=0, help="of parameters, samples and noise (default 0)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> None:
    """Runs an experiment, prints its table, and draws its figure."""
    import json

    runtime.prepare_jax()
    from mlic_jax.evaluation.report.tables import finite, markdown_table
    from mlic_jax.toy import experiments, figures

    if arguments.figure:
        figures.check_path(arguments.figure)  # before minutes of training
    started = time.monotonic()

    def report(what: str, step: int, steps: int) -> None:
        end = "\n" if step >= steps else "\r"
        print(
            f"{what}: step {step} of {steps}, {time.monotonic() - started:.0f} s", end=end, file=sys.stderr, flush=True
        )

    outcome = experiments.EXPERIMENTS[arguments.experiment](
        experiments.Options(
            lam=arguments.lam,
            steps=arguments.steps,
            samples=arguments.samples,
            seed=arguments.seed,
            name=arguments.source,
            methods=arguments.methods,
            report=None if arguments.quiet else report,
        )
    )
    if arguments.json:
        print(json.dumps(finite(outcome.rows)))
    else:
        print(markdown_table(outcome.rows), end="")
    if arguments.figure:
        figures.save(arguments.figure, arguments.experiment, outcome.shown)
        if not arguments.json:
            print(f"wrote {arguments.figure}")


COMMAND = command.Command(
    "toy",
    "Run an experiment of nonlinear transform coding on toy sources.",
    add_arguments,
    run,
    command.EXIT_CODES,
    examples=("mlic toy laplace", "mlic toy banana --lam 4 --figure banana.svg"),
)

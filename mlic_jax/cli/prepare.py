"""`mlic prepare`."""

from __future__ import annotations

import argparse
import sys

from mlic_jax.cli import command


def _scales(word: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in word.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is no list of scales, as 1,0.7,0.5") from None


def add_arguments(parser):
    parser.add_argument("source", metavar="SOURCE", help="a folder, bundled, or tfds:NAME, as data.source of a config")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="where to; then data.source of a config"
    )
    parser.add_argument("--side", type=int, default=512, help="of the pieces, in pixels (default %(default)s)")
    parser.add_argument(
        "--scales",
        type=_scales,
        default=(1.0,),
        metavar="S,S,..",
        help="by which pictures are scaled before they are cut (default 1)",
    )
    parser.add_argument(
        "--encoding", default="raw", help="raw: pixels, read at once; png: about half the size, slower (default raw)"
    )
    parser.add_argument("--data-dir", help="where TFDS keeps its sets")
    parser.add_argument(
        "--pictures-per-shard", type=int, default=256, metavar="N", help="a file has the pieces of N (default 256)"
    )
    command.add_jobs(parser)


def prepare(arguments):
    from mlic_jax.data import prepared

    plan = prepared.Plan(
        arguments.source,
        arguments.data_dir,
        arguments.side,
        arguments.scales,
        arguments.encoding,
        arguments.pictures_per_shard,
    )
    index = prepared.prepare(
        plan, arguments.output, arguments.jobs, lambda line: print(f"mlic: {line}", file=sys.stderr)
    )
    for split, shards in index["shards"].items():
        pieces = sum(shard["pieces"] for shard in shards)
        print(f"{arguments.output}: {split}: {pieces} pieces of {index['pictures'][split]} pictures")


COMMAND = command.Command(
    "prepare",
    "Cut pictures into pieces that training reads at a fraction of the cost.",
    add_arguments,
    prepare,
    "Given again after an interruption, it goes on. Of every picture there are pieces that cover it, so that large "
    "ones are seen more often. With pieces of several scales, train with data.scale_range=(1.0,1.0): then nothing is "
    "scaled any more. " + command.EXIT_CODES,
    examples=(
        "mlic prepare /data/photos -o /data/pieces -j 0",
        "mlic prepare /data/photos -o /data/pieces --side 384 --scales 1,0.84,0.71,0.6,0.5",
        "mlic train --config kltnet:base --workdir runs/base --config.data.source=/data/pieces",
    ),
)

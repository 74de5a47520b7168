"""`mlic evaluate`, `mlic benchmark` and `mlic claim`."""

from __future__ import annotations

import os
import pathlib
import sys

from mlic_jax import runtime
from mlic_jax.cli import command, common
from mlic_jax.errors import UsageError


def evaluate(arguments):
    from mlic_jax import api
    from mlic_jax.evaluation import evaluate
    from mlic_jax.evaluation.report.tables import cell, markdown_table
    from mlic_jax.metrics import registry
    from mlic_jax.training.runs import export_run

    if not arguments.run and not arguments.model:
        raise UsageError("evaluate needs --run WORKDIR or --model FILE.mlicm")
    metrics = registry.parse(arguments.metrics)
    runtime.prepare_jax()
    pictures = common.pictures(arguments.images, arguments.limit)
    models = [(_label(path), export_run(path, arguments.which)) for path in arguments.run]
    models += [(_label(path), api.load_model(path)) for path in arguments.model]
    codecs = [name for name in (arguments.compare or "").split(",") if name]
    with runtime.Bar("evaluate", len(models) * len(pictures) + 2 * len(codecs), arguments.quiet) as bar:
        found = evaluate.compare(models, pictures, codecs, bar.done, metrics)
    for row in [row for rows in found["rows"] for row in rows] if arguments.per_image else []:
        values = [f"{registry.METRICS[name].label} {cell(row[registry.METRICS[name].key])}" for name in metrics]
        print(
            f"{row['name']}: {row['bytes']} bytes, {row['bpp']:.4f} bpp (estimated {row['bpp_estimated']:.4f}), "
            + ", ".join(values)
        )
    label = arguments.label or models[0][1].model
    if len(models) == 1:
        found["points"][0]["model"] = label
    if arguments.json:
        print(evaluate.to_json(label, _about(models), found["points"], found["rows"]).decode())
    else:
        print(markdown_table(evaluate.summary(found)), end="")
        for name, differences in found["bd"].items():
            for key, difference in differences.items():
                print(
                    f"BD-rate against {name} in {registry.BY_KEY[key].title}: {difference.value:+.1f} % "
                    f"({difference.interpolator}, {difference.low:.1f} to {difference.high:.1f} dB)"
                )
    if arguments.out:
        notes = [_about(models), *arguments.note]
        written = evaluate.write(arguments.out, label, notes, found, pictures)
        if not arguments.json:
            print("\n".join(f"wrote {path}" for path in written.values()))


def _label(path: str) -> str:
    return pathlib.Path(path).stem


def _about(models) -> str:
    artifact = models[0][1]
    parameters = sum(array.size for name, array in artifact.arrays().items() if name.startswith("params/"))
    words = f"{artifact.model}, {parameters / 1e6:.2f} million parameters"
    if "step" in artifact.card:
        data = artifact.card["trained_with"]["data"]
        photos = "the bundled photos" if data["source"] == "bundled" else data["source"]
        words += f", trained for {artifact.card['step']} steps of {data['batch_size']} patches of {data['patch_size']}"
        words += f"x{data['patch_size']} pixels from {photos}"
    return words + ". All rates are of whole files, all distortions of decoded 8-bit pictures."


def benchmark(arguments):
    from mlic_jax import api, classical
    from mlic_jax.evaluation.benchmark import entrants, main, results
    from mlic_jax.evaluation.report.tables import markdown_table
    from mlic_jax.metrics import registry

    codecs = [name for name in arguments.codecs.split(",") if name]
    specs = [entrants.parse(word) for word in arguments.models]
    if specs:
        runtime.prepare_jax()

    def load(path):
        from mlic_jax.training.runs import export_run

        return export_run(path, arguments.which) if os.path.isdir(path) else api.load_model(path)

    outcome = main.benchmark(
        list(classical.available()) if codecs == ["all"] else codecs,
        specs,
        load,
        arguments.curves,
        [name for name in arguments.anchors.split(",") if name],
        lambda: common.pictures(arguments.images, arguments.limit),
        arguments.out,
        main.Options(
            cache=arguments.cache or os.path.join(arguments.out, "cache"),
            fresh=arguments.fresh,
            jobs=arguments.jobs,
            bpp=arguments.at,
            shown=arguments.show,
            timed=arguments.timing,
            quiet=arguments.quiet,
            metrics=registry.parse(arguments.metrics),
        ),
    )
    curves = outcome.found.curves()
    print(f"{outcome.measured} results measured, {outcome.reused} found in the cache", file=sys.stderr)
    rates = results.bd_rates(curves, outcome.found.anchors, outcome.found.metrics)
    print(markdown_table(results.summary(outcome.found, curves, rates)))
    print("\n".join(f"wrote {path}" for path in outcome.written.values()))


def claim(arguments):
    from mlic_jax.evaluation.claim import main

    runtime.prepare_jax()
    return main.command(arguments, lambda: common.pictures(arguments.images, arguments.limit))


# ---------------------------------------------------------------------- the commands

# Standard codecs that `evaluate --compare` without names and `benchmark` run.
COMPARED = "jpeg,jpeg2000,webp,avif"


def add_evaluate_arguments(parser):
    parser.add_argument("--run", action="append", default=[], help="workdir of a run; can be repeated for a curve")
    parser.add_argument("--model", action="append", default=[], help="model file; can be repeated for a curve")
    parser.add_argument("--which", default="best", help="checkpoint of --run: best, latest or a step")
    command.add_pictures(parser)
    parser.add_argument("--compare", nargs="?", const=COMPARED, help=f"standard codecs (default {COMPARED})")
    command.add_metrics(parser)
    parser.add_argument("--out", help="folder for JSON, CSV, tables, RD plots and the HTML report")
    parser.add_argument("--label", help="name of our curve")
    parser.add_argument("--note", action="append", default=[], help="a paragraph for the report; can be repeated")
    parser.add_argument("--per-image", action="store_true", help="print a line per picture")
    parser.add_argument("--json", action="store_true", help="print JSON that CompressAI's plot tool reads")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_benchmark_arguments(parser):
    command.add_pictures(parser)
    parser.add_argument(
        "--codecs", default=COMPARED, help=f"standard codecs, with commas between (default {COMPARED}); all; or ''"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="SPEC",
        help="[label=]path[@effort]: a model file or the workdir of a run, its name, and the encoder's effort, 0 to 9; "
        "models of one rate that have the same label form one curve",
    )
    parser.add_argument("--which", default="best", help="checkpoint of workdirs: best, latest or a step")
    parser.add_argument(
        "--curves",
        nargs="+",
        default=[],
        metavar="FILE",
        help="[label=]file[:key=value,...]: published curves, as CompressAI's JSON or a list of records",
    )
    parser.add_argument(
        "--anchors", default="", help="curves against which BD-rates are taken (default: all but our models)"
    )
    command.add_metrics(parser)
    parser.add_argument("--out", required=True, help="folder for tables, plots, JSON and the HTML report")
    parser.add_argument("--cache", help="folder of results that need not be measured again (default: OUT/cache)")
    parser.add_argument("--fresh", action="store_true", help="measure again what the cache has")
    command.add_jobs(parser, "; never when timing")
    parser.add_argument(
        "--at",
        type=command.bits_per_pixel,
        default=0.3,
        metavar="BPP",
        help="where pictures and times are compared (default 0.3)",
    )
    parser.add_argument("--show", type=command.count_of_pictures, default=4, help="pictures in the report (default 4)")
    parser.add_argument(
        "--timing", type=command.count_of_pictures, nargs="?", const=2, default=0, metavar="N",
        help="measure time and memory, one codec after the other, on N pictures (default 2)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_claim_arguments(parser):
    parser.add_argument("paper", help="name of a file of configs/claims, as jiang2017, or its path")
    parser.add_argument("--workdir", help="folder of the trainings (default: runs/claims/PAPER); what it has is kept")
    parser.add_argument("--source", help="training photos, as in --config.data.source (default: as the configs say)")
    command.add_pictures(parser)
    parser.add_argument("--steps", type=int, help="of every training (default: as the claim says)")
    parser.add_argument("--seeds", help="with commas between, as 0,1,2 (default: as the claim says)")
    parser.add_argument("--arms", help="these only, with commas between (default: all)")
    parser.add_argument("--out", default="docs/claims", help="folder of the document (default docs/claims)")
    parser.add_argument("--only-report", action="store_true", help="no training: measure and write what there is")
    command.add_jobs(parser)
    parser.add_argument(
        "--show",
        type=command.count_of_pictures,
        default=4,
        help="pictures in WORKDIR/report/report.html (default 4; 0: no report)",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


EVALUATE = command.Command(
    "evaluate", "Measure models on real files, beside standard codecs.", add_evaluate_arguments, evaluate
)
BENCHMARK = command.Command(
    "benchmark",
    "Measure codecs and models on pictures, against each other.",
    add_benchmark_arguments,
    benchmark,
    command.EXIT_CODES,
)
CLAIM = command.Command(
    "claim",
    "Train and compare what a paper's claim names, and write a document about it.",
    add_claim_arguments,
    claim,
    command.EXIT_CODES,
)

"""`mlic evaluate`, `mlic benchmark` and `mlic claim`."""

from __future__ import annotations

import functools
import os
import pathlib
import sys
import tempfile

from mlic_jax import runtime
from mlic_jax.cli import command, common
from mlic_jax.errors import UsageError


def evaluate(arguments):
    """The benchmark of one curve: with the model's own estimate of the rate and seconds, and without a cache."""
    from mlic_jax.evaluation.benchmark import main, results
    from mlic_jax.evaluation.report.tables import markdown_table
    from mlic_jax.metrics import registry

    if not arguments.run and not arguments.model:
        raise UsageError("evaluate needs --run WORKDIR or --model FILE.mlicm")
    metrics = registry.parse(arguments.metrics)
    runtime.prepare_jax()
    codecs = _names(arguments.compare)
    with tempfile.TemporaryDirectory() as folder:
        outcome = main.benchmark(
            codecs,
            _specs(arguments.run, arguments.model, arguments.label),
            _loader(arguments.which, arguments.run),
            lambda: common.pictures(arguments.images, arguments.limit),
            main.Options(
                folder,
                jobs=arguments.jobs,
                shown=None if codecs or arguments.out else 0,
                quiet=arguments.quiet,
                metrics=metrics,
                detailed=True,
            ),
            out=arguments.out,
        )
    made = outcome.results
    ours = [curve for curve in made.measured if curve.entrant.family == "ours"]
    if arguments.per_image:
        print("\n".join(line for curve in ours for line in _picture_lines(curve, metrics)))
    if arguments.json:
        documents = [results.curve_json(curve).decode() for curve in ours]
        print(documents[0] if len(documents) == 1 else f"[{','.join(documents)}]")
    else:
        print(markdown_table(results.at_points(made) + _at_equal_size(made)), end="")
        print("".join(f"{line}\n" for line in _bd_lines(made)), end="")
    if arguments.out:
        words = [ours[0].entrant.about, *arguments.note]
        written = results.write(arguments.out, made, outcome.pictures, ours[0].entrant.label, words)
        if not arguments.json:
            print("\n".join(f"wrote {path}" for path in written.values()))


def benchmark(arguments):
    from mlic_jax import classical
    from mlic_jax.evaluation.benchmark import comparing, entrants, main, protocols, results
    from mlic_jax.evaluation.report.tables import markdown_table
    from mlic_jax.metrics import registry

    chosen = protocols.parse(arguments.protocol) if arguments.protocol else None

    def pictures():
        found = common.pictures(arguments.images, arguments.limit)
        if chosen:
            chosen.check(len(found))
        return found

    codecs = _names(arguments.codecs)
    specs = [entrants.parse(word) for word in arguments.models]
    if specs:
        runtime.prepare_jax()
    outcome = main.benchmark(
        list(classical.available()) if codecs == ["all"] else codecs,
        specs,
        _loader(arguments.which),
        pictures,
        main.Options(
            cache=arguments.cache or os.path.join(arguments.out, "cache"),
            fresh=arguments.fresh,
            jobs=arguments.jobs,
            bpp=arguments.at,
            shown=arguments.show,
            timed=arguments.timing,
            quiet=arguments.quiet,
            metrics=chosen.protocol.metrics if chosen else registry.parse(arguments.metrics),
            rule=chosen.rule if chosen else comparing.DEFAULT_RULE,
        ),
        arguments.curves,
        _names(arguments.anchors),
        arguments.out,
    )
    print(f"{outcome.new} results measured, {outcome.kept} found in the cache", file=sys.stderr)
    written = results.write(arguments.out, outcome.results, outcome.pictures)
    print(markdown_table(results.summary(outcome.results)))
    print("\n".join(f"wrote {path}" for path in written.values()))


def claim(arguments):
    from mlic_jax.evaluation.claim import main, training

    runtime.prepare_jax(start=False)
    options = main.Options(
        workdir=arguments.workdir,
        source=arguments.source,
        images=pathlib.Path(arguments.images).resolve().name if arguments.images else None,
        steps=arguments.steps,
        seeds=_seeds(arguments.seeds),
        arms=_names(arguments.arms),
        out=arguments.out,
        only_report=arguments.only_report,
        jobs=arguments.jobs,
        shown=arguments.show,
        quiet=arguments.quiet,
        command=_typed(arguments),
    )
    load = functools.partial(common.pictures, arguments.images, arguments.limit)
    if arguments.dry_run:
        print(main.dry_run(arguments.paper, load, options))
        return 0
    try:
        outcome = main.run(arguments.paper, load, options)
    except training.Stopped as stopped:
        if stopped.by_hand:
            raise KeyboardInterrupt from None
        return 0
    if not options.quiet:
        print("\n".join(f"wrote {path}" for path in outcome.written.values()))
    main.check(outcome)
    return 0


# ---------------------------------------------------------------------- arguments


def _names(words: str | None) -> list[str]:
    """Names with commas between."""
    return [name for name in (words or "").split(",") if name]


def _loader(which: str, runs=()):
    """path of a model file, or of the workdir of a run, of which a checkpoint is taken -> Artifact.

    A folder is a run, and what `runs` names is one whether it is there or not.
    """

    from mlic_jax.fileformat import model_folder

    def load(path):
        if path in runs or (os.path.isdir(path) and not model_folder.is_one(path)):
            from mlic_jax.training.runs import export_run  # a model file needs none of training's libraries

            return export_run(path, which)
        from mlic_jax import api

        return api.load_model(path)

    return load


def _specs(runs, models, label: str | None):
    """Workdirs as they stand, and models as `benchmark` has them, all of the one label, if there is one."""
    from mlic_jax.evaluation.benchmark import entrants

    specs = [entrants.Spec(None, run, 0) for run in runs] + [entrants.parse(word) for word in models]
    return [spec._replace(label=label or spec.label) for spec in specs]


def _seeds(words: str | None) -> list[int]:
    try:
        return [int(word) for word in _names(words)]
    except ValueError:
        raise UsageError(f"seeds {words!r}: whole numbers with commas between are needed, as 0,1,2") from None


def _typed(arguments) -> str:
    """The command for the document, with the last parts of paths: it goes to other machines."""
    words = [f"mlic claim {pathlib.Path(arguments.paper).stem}"]
    for name in ("source", "images", "steps", "seeds", "arms", "limit"):
        if value := getattr(arguments, name):
            value = pathlib.Path(value).name if name in ("source", "images") else value
            words.append(f"--{name} {value!r}" if " " in str(value) else f"--{name} {value}")
    return " ".join(words)


# ---------------------------------------------------------------------- what is printed


def _picture_lines(curve, metrics):
    """A line per point and picture: size, rate and its estimate, metrics."""
    from mlic_jax.evaluation.report.tables import cell
    from mlic_jax.metrics import registry

    for point, rows in zip(curve.entrant.points, curve.rows, strict=True):
        where = f"{point.name}, " if len(curve.rows) > 1 else ""
        for row in rows:
            estimate = f" (estimated {common.bpp(row['bpp_estimated'])})" if "bpp_estimated" in row else ""
            values = [f"{registry.METRICS[name].label} {cell(row[registry.METRICS[name].key])}" for name in metrics]
            rate = f"{row['bytes']} bytes, {common.bpp(row['bpp'])}{estimate}"
            yield f"{where}{row['name']}: {rate}, {', '.join(values)}"


def _at_equal_size(made):
    """A row per standard codec: what it is in files of the size that ours have."""
    from mlic_jax.evaluation.benchmark import results

    standard = [row for row in results.at_equal_rate(made) if made.families()[row["codec"]] != "ours"]
    return [{**row, "codec": f"{row['codec']} at equal size"} for row in standard]


def _bd_lines(results):
    """A line per BD-rate of our models."""
    from mlic_jax.metrics import registry

    families = results.families()
    for row in results.bd_rates():
        if row["mean"] is not None and families[row["name"]] == "ours":
            yield (
                f"BD-rate of {row['name']} against {row['anchor']} in {registry.METRICS[row['metric']].title}: "
                f"{row['mean']:+.1f} % ({row['interpolator']}, {row['low']:.1f} to {row['high']:.1f} dB)"
            )


# ---------------------------------------------------------------------- the commands

# Standard codecs that `evaluate --compare` without names and `benchmark` run.
COMPARED = "jpeg,jpeg2000,webp,avif"


def add_evaluate_arguments(parser):
    parser.add_argument("--run", action="append", default=[], help="workdir of a run; can be repeated for a curve")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="a name or a model file, as in benchmark's --models; can be repeated for a curve",
    )
    parser.add_argument("--which", default="best", help="checkpoint of --run: best, latest or a step")
    command.add_pictures(parser)
    parser.add_argument("--compare", nargs="?", const=COMPARED, help=f"standard codecs (default {COMPARED})")
    command.add_metrics(parser)
    parser.add_argument("--out", help="folder for JSON, CSV, tables, RD plots and the HTML report")
    parser.add_argument("--label", help="name of our curve (default: the model's name in the zoo)")
    parser.add_argument("--note", action="append", default=[], help="a paragraph for the report; can be repeated")
    parser.add_argument("--per-image", action="store_true", help="print a line per picture")
    parser.add_argument("--json", action="store_true", help="print JSON that CompressAI's plot tool reads")
    command.add_jobs(parser, "; one when timed")
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
        help="[label=]model[@effort]: a name (base), a model file or the workdir of a run, and the encoder's effort, "
        "0 to 9; models of one rate that have the same label form one curve",
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
    parser.add_argument(
        "--protocol",
        metavar="NAME:SET",
        help="a published benchmark's metrics, points and interpolation, in place of --metrics: hu2020:kodak, "
        "hu2020:tecnick or hu2020:clic; pictures are counted",
    )
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
    parser.add_argument("--out", help="folder of the document (default: the workdir)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and how long that takes")
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
    "evaluate",
    "Measure models on real files, beside standard codecs.",
    add_evaluate_arguments,
    evaluate,
    command.EXIT_CODES,
    examples=(
        "mlic evaluate --run runs/tiny --compare",
        "mlic evaluate --model tiny.mlicm --images /data/kodak --compare jpeg,avif --out report",
    ),
)
BENCHMARK = command.Command(
    "benchmark",
    "Measure codecs and models on pictures, against each other.",
    add_benchmark_arguments,
    benchmark,
    command.EXIT_CODES,
    examples=(
        "mlic benchmark --images /data/kodak --models ours=model.mlicm --out report",
        "mlic benchmark --protocol hu2020:clic --images tfds:clic --models model.mlicm --out report",
        "mlic benchmark --codecs jpeg,avif444,vvc --models model.mlicm model.mlicm@5 --timing --out report",
    ),
)
CLAIM = command.Command(
    "claim",
    "Train and compare what a paper's claim names, and write a document about it.",
    add_claim_arguments,
    claim,
    command.EXIT_CODES,
    examples=(
        "mlic claim jiang2017 --dry-run              # what is trained, and how long that takes",
        "mlic claim jiang2017 --source /data/photos --images /data/kodak",
        "mlic claim li2018 --arms map --seeds 0      # a part",
    ),
)

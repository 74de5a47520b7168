"""The `mlic` command.

Each subcommand imports what it needs when it runs: `mlic info` needs neither NumPy nor jax nor a model. Bad input ends
in one line on standard error and an exit status (EXIT_CODES; mlic_jax.errors has the same).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import sys

import mlic_jax
from mlic_jax import batch, files
from mlic_jax.errors import MlicError, UsageError

STREAM_SUFFIX = ".mlic"
EXIT_CODES = (
    "Exit status: 0 done; 1 some of several files failed; 2 usage; 3 an input that cannot be read, or an output that "
    "cannot be written; 4 a damaged or unknown .mlic file; 5 a missing or wrong model; 6 a limit exceeded; 7 training "
    "failed; 130 interrupted."
)
# As many pictures of `mlic export --calibrate` are looked at.
CALIBRATION_PICTURES = 32
# What `mlic evaluate --compare` runs when it is given without names.
COMPARED = "jpeg,jpeg2000,webp,avif"
# What `evaluate` and `benchmark` measure; the names are in mlic_jax.metrics.registry.
METRICS = "psnr,ms-ssim"
METRICS_HELP = f"with commas between: psnr, ms-ssim, ssim, psnr-y, ssim-y, lpips-alex, lpips-vgg (default {METRICS})"


def _prepare_jax() -> None:
    """Compiled programs are kept between runs: the second compress of a size starts in a second."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "mlic_jax" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# ---------------------------------------------------------------------- train


def load_config(path: str, overrides: list[str]):
    """The config of a file (`file.py` or `file.py:argument`), with `--config.key=value` overrides, locked.

    Raises UsageError naming the file or the key that is wrong.
    """
    from unittest import mock

    from absl import flags
    from ml_collections import config_flags

    name = path.split(":")[0]
    if not pathlib.Path(name).is_file():
        raise UsageError(f"config {name!r} does not exist: give a file of configs/, as configs/bmshj2018_hyperprior.py")
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    words = ["mlic", f"--config={path}", *overrides]
    try:
        with mock.patch.object(sys, "argv", words):  # where ml_collections looks for the overrides
            rest = values(words)
        if len(rest) > 1:
            raise UsageError(f"{rest[1]!r} is not understood: options of a config begin with --config.")
        return values.config
    except MlicError:
        raise
    except Exception as reason:  # a config is a program of the user's, and ml_collections raises many kinds
        text = " ".join(str(reason).replace("\\n", " ").replace("\\", "").split())
        if isinstance(reason, KeyError | AttributeError):
            text = f"no such key: {text}"
        raise UsageError(f"config {path!r}: {text or type(reason).__name__}") from reason


def _train(arguments, rest):
    from mlic_jax import parallel

    several = parallel.start_processes()
    _prepare_jax()
    config = load_config(arguments.config, rest)
    if not several:
        at_once = 1 if config.phases else len(config.schedule)
        parallel.use_all_cores(config.data.batch_size, at_once * config.train.accumulate)
    from mlic_jax.train import train

    train(config, arguments.workdir, arguments.quiet)


# ---------------------------------------------------------------------- export and evaluate


def _artifact_of_run(run: str, which: str, calibrate: str | None = None):
    from mlic_jax.train import load_run, make_codec

    config, params, state, step = load_run(run, which)
    config.train.bfloat16 = False
    images = [image for _, image in _pictures(calibrate, CALIBRATION_PICTURES)] if calibrate else None
    artifact = make_codec(config).export(params, state, images)
    artifact.card = {"trained_with": json.loads(json.dumps(config.to_dict(), default=list)), "step": step}
    return artifact


def _export(arguments):
    batch.refuse_overwriting(arguments.output, arguments.force)
    _prepare_jax()
    artifact = _artifact_of_run(arguments.run, arguments.which, arguments.calibrate)
    if arguments.pack:
        artifact = artifact.pack(tuple(arguments.half))
    artifact.save(arguments.output)
    size = pathlib.Path(arguments.output).stat().st_size
    print(f"{arguments.output}: {artifact.model}, {size / 1e6:.2f} MB, fingerprint {artifact.fingerprint.hex()}")


def _pictures(folder: str | None, limit: int):
    from mlic_jax import data

    paths = data.list_images(folder) if folder else data.bundled("validation")
    return [(path.stem, data.read_image(path)) for path in paths[: limit or None]]


def _evaluate(arguments):
    from mlic_jax import api, evaluate
    from mlic_jax.metrics import registry
    from mlic_jax.report.tables import cell, markdown_table

    if not arguments.run and not arguments.model:
        raise UsageError("evaluate needs --run WORKDIR or --model FILE.mlicm")
    metrics = registry.parse(arguments.metrics)
    _prepare_jax()
    pictures = _pictures(arguments.images, arguments.limit)
    models = [(_label(path), _artifact_of_run(path, arguments.which)) for path in arguments.run]
    models += [(_label(path), api.load_model(path)) for path in arguments.model]
    codecs = [name for name in (arguments.compare or "").split(",") if name]
    with batch.Bar("evaluate", len(models) * len(pictures) + 2 * len(codecs), arguments.quiet) as bar:
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


# ---------------------------------------------------------------------- benchmark


def _benchmark(arguments):
    from mlic_jax import api, classical
    from mlic_jax.benchmark import entrants, main, results
    from mlic_jax.metrics import registry
    from mlic_jax.report.tables import markdown_table

    codecs = [name for name in arguments.codecs.split(",") if name]
    specs = [entrants.parse(word) for word in arguments.models]
    if specs:
        _prepare_jax()

    def load(path):
        return _artifact_of_run(path, arguments.which) if os.path.isdir(path) else api.load_model(path)

    outcome = main.benchmark(
        list(classical.available()) if codecs == ["all"] else codecs,
        specs,
        load,
        arguments.curves,
        [name for name in arguments.anchors.split(",") if name],
        lambda: _pictures(arguments.images, arguments.limit),
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


# ---------------------------------------------------------------------- claim


def _claim(arguments):
    from mlic_jax.claim import main

    _prepare_jax()
    return main.command(arguments, lambda: _pictures(arguments.images, arguments.limit))


# ---------------------------------------------------------------------- compress, decompress, info


def _run(arguments, suffix, check, start, work) -> int:
    outputs = batch.outputs(arguments.inputs, arguments.output, suffix)

    def check_both(name, path):
        batch.refuse_overwriting(path, arguments.force)
        check(name, path)

    return batch.run(
        list(zip(arguments.inputs, outputs, strict=True)),
        check_both,
        start,
        work,
        jobs=arguments.jobs,
        as_json=arguments.json,
        quiet=arguments.quiet,
    )


def _compress(arguments):
    from mlic_jax import api, container, metadata, picture_files, zoo
    from mlic_jax.data import images

    metadata.choose(arguments.metadata)
    targets = {"size": arguments.target_size, "bpp": arguments.target_bpp, "psnr_db": arguments.target_psnr}
    target = {name: value for name, value in targets.items() if value is not None}
    if len(target) + (arguments.quality is not None) > 1:
        raise UsageError("give one of --quality, --target-size, --target-bpp and --target-psnr")

    def check(name, path):
        batch.can_be_read_twice(name)

    def start():
        _prepare_jax()
        return api.load_model(arguments.model)

    def work(name, path, model):
        standard = _names_a_picture(path)
        if standard and zoo.codec_of(model).extension != standard:
            raise UsageError(
                f"{path!r} names a {standard} file, and {model.model} writes {STREAM_SUFFIX} files, which need a "
                f"decoder: name a {STREAM_SUFFIX} file, or take a model whose files are standard ones, as talebi2020"
            )
        original = batch.read(name)
        image = images.open_image(io.BytesIO(original), name, container.LARGEST_PICTURE)
        common = {"effort": arguments.effort, "metadata": arguments.metadata}
        if target:
            data = api.compress_to(image, model, **target, **common)
        else:
            data = api.compress(image, model, arguments.quality, **common)
        record = {"input": name, "output": path, "input_bytes": len(original), **api.info(data)}
        if standard:
            picture_files.check(picture_files.format_of(path), container.read_header(data)[0].mode)
            data = api.to_standard(data)[0]
            record |= {"bytes": len(data), "bpp": 8 * len(data) / (record["width"] * record["height"])}
        batch.write(path, data)
        return record, (
            f"{name}: {len(original)} -> {len(data)} bytes ({len(data) / len(original):.1%}), {record['bpp']:.3f} bpp, "
            f"written to {path}"
        )

    return _run(arguments, STREAM_SUFFIX, check, start, work)


def _names_a_picture(path: str) -> str | None:
    """The suffix of a path that means a picture format, ".jpg" for all of JPEG's; None for others."""
    from PIL import Image

    suffix = os.path.splitext(path)[1].lower()
    format = Image.registered_extensions().get(suffix)
    return ".jpg" if format == "JPEG" else suffix if format else None


def _extract(arguments):
    from mlic_jax import api

    outputs = batch.outputs(arguments.inputs, arguments.output, "")
    if arguments.output is None or os.path.isdir(arguments.output):
        # The suffix depends on what is inside.
        endings = [api.to_standard(batch.read(name))[1] for name in arguments.inputs if name != batch.STANDARD]
        outputs = [path + ending for path, ending in zip(outputs, endings, strict=True)] or outputs
    for name, path in zip(arguments.inputs, outputs, strict=True):
        batch.refuse_overwriting(path, arguments.force)
        data, kind = api.to_standard(batch.read(name))
        if path != batch.STANDARD and _names_a_picture(path) not in (kind, None):
            raise UsageError(f"inside {name!r} is a {kind} file, and {path!r} names another kind")
        batch.write(path, data)
        if path != batch.STANDARD:
            print(f"{name}: {len(data)} bytes, written to {path}")


def _decompress(arguments):
    from mlic_jax import api, container, metadata, picture_files

    metadata.choose(arguments.metadata)

    def format_of(path):
        return "PNG" if path == batch.STANDARD else picture_files.format_of(path)

    def check(name, path):
        format = format_of(path)
        if batch.can_be_read_twice(name):
            header, _ = container.read_header(*batch.start_of(name, container.LONGEST_HEADER))
            picture_files.check(format, header.mode)

    def start():
        _prepare_jax()
        return api.load_model(arguments.model) if arguments.model else None

    def work(name, path, model):
        data = batch.read(name)
        header, _ = container.read_header(data)
        picture_files.check(format_of(path), header.mode)
        image = api.decompress_image(data, model, metadata=arguments.metadata)
        batch.write(path, picture_files.to_bytes(image, format_of(path)))
        record = {"input": name, "output": path, "width": header.width, "height": header.height, "mode": image.mode}
        return record, f"{name}: {header.width}x{header.height} pixels of mode {image.mode}, written to {path}"

    return _run(arguments, ".png", check, start, work)


def _info(arguments):
    from mlic_jax import api, container

    start, size = batch.start_of(arguments.input, container.LONGEST_HEADER)
    if start[:2] == b"PK":
        found = _model_info(arguments.input)
    else:
        found = api.info(start, size)
    if arguments.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key}: {json.dumps(value) if isinstance(value, dict | list) else value}")


def _model_info(name):
    from mlic_jax.artifact import Artifact

    data = files.read_bytes(name)
    artifact = Artifact.from_bytes(data, repr(name))
    return {
        "model": artifact.model,
        "architecture": artifact.architecture,
        "fingerprint": artifact.fingerprint.hex(),
        "bytes": len(data),
        "parameters": int(sum(a.size for name, a in artifact.arrays().items() if name.startswith("params/"))),
        "card": artifact.card,
    }


# ---------------------------------------------------------------------- the command line


def _count(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of files at a time")
    return int(word)


def _number(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of pictures")
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

    train = command("train", _train, "Train a model, or go on with a run that was stopped.")
    train.add_argument("--config", required=True, help="config file, with its argument behind a colon: file.py:4")
    train.add_argument("--workdir", required=True, help="folder of the run; a checkpoint in it is resumed")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    train.epilog = "Any value of the config can be set: --config.train.steps=1000"

    export = command("export", _export, "Write a run's weights and tables as one model file.")
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

    evaluate = command("evaluate", _evaluate, "Measure models on real files, beside standard codecs.")
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

    benchmark = command("benchmark", _benchmark, "Measure codecs and models on pictures, against each other.")
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

    claim = command("claim", _claim, "Train and compare what a paper's claim names, and write a document about it.")
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
        _compress,
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

    command_on_files(
        "decompress",
        _decompress,
        "Decompress .mlic files. The suffix of the output names its format.",
        "FILE",
        "model file (default: the package's, MLIC_MODEL, and what is in the folders of MLIC_MODELS)",
        "(default: beside the input, .png; PNG goes to standard output)",
    )

    extract = command(
        "extract",
        _extract,
        "Take the standard file (as a JPEG) out of .mlic files of models around a standard codec.",
    )
    extract.add_argument("inputs", nargs="+", metavar="FILE", help="- for standard input")
    extract.add_argument(
        "-o", "--output", help="file, or folder for several, or - for standard output (default: beside the input)"
    )
    extract.add_argument("-f", "--force", action="store_true", help="overwrite")
    extract.epilog = EXIT_CODES

    info = command("info", _info, "Say what a .mlic or .mlicm file holds.")
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

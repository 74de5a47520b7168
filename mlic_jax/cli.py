"""The `mlic` command.

Each subcommand imports what it needs when it runs: `mlic info` needs neither jax nor a model. Bad input ends in one
line on standard error and an exit status, see mlic_jax.errors: 2 usage, 3 input, 4 damaged file, 5 model, 6 limit,
7 training, 1 some files of a batch failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys

import mlic_jax
from mlic_jax import files
from mlic_jax.errors import InputError, MlicError, UsageError

STREAM_SUFFIX = ".mlic"
# What `mlic evaluate --compare` runs when it is given without names.
COMPARED = "jpeg,jpeg2000,webp,avif"


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
        parallel.use_all_cores(config.data.batch_size, len(config.schedule) * config.train.accumulate)
    from mlic_jax.train import train

    train(config, arguments.workdir, arguments.quiet)


# ---------------------------------------------------------------------- export and evaluate


def _artifact_of_run(run: str, which: str):
    from mlic_jax.train import load_run, make_codec

    config, params, state, step = load_run(run, which)
    config.train.bfloat16 = False
    artifact = make_codec(config).export(params, state)
    artifact.card = {"trained_with": json.loads(json.dumps(config.to_dict(), default=list)), "step": step}
    return artifact


def _export(arguments):
    _refuse_overwriting(arguments.output, arguments.force)
    _prepare_jax()
    artifact = _artifact_of_run(arguments.run, arguments.which)
    artifact.save(arguments.output)
    size = pathlib.Path(arguments.output).stat().st_size
    print(f"{arguments.output}: {artifact.model}, {size / 1e6:.2f} MB, fingerprint {artifact.fingerprint.hex()}")


def _pictures(folder: str | None, limit: int):
    from mlic_jax import data

    paths = data.list_images(folder) if folder else data.bundled("validation")
    return [(path.stem, data.read_image(path)) for path in paths[: limit or None]]


def _evaluate(arguments):
    from mlic_jax import api, evaluate
    from mlic_jax.report.tables import markdown_table

    if not arguments.run and not arguments.model:
        raise UsageError("evaluate needs --run WORKDIR or --model FILE.mlicm")
    _prepare_jax()
    pictures = _pictures(arguments.images, arguments.limit)
    models = [(_label(path), _artifact_of_run(path, arguments.which)) for path in arguments.run]
    models += [(_label(path), api.load_model(path)) for path in arguments.model]
    codecs = [name for name in (arguments.compare or "").split(",") if name]
    work = _Work(len(models) * len(pictures) + 2 * len(codecs), arguments.quiet)
    with work:
        found = evaluate.compare(models, pictures, codecs, work.done)
    for row in [row for rows in found["rows"] for row in rows] if arguments.per_image else []:
        print(
            f"{row['name']}: {row['bytes']} bytes, {row['bpp']:.4f} bpp (estimated {row['bpp_estimated']:.4f}), "
            f"{row['psnr_db']:.2f} dB, MS-SSIM {row['ms_ssim']:.4f}"
        )
    label = arguments.label or models[0][1].model
    if len(models) == 1:
        found["points"][0]["model"] = label
    if arguments.json:
        print(evaluate.to_json(label, _about(models), found["points"], found["rows"]).decode())
    else:
        print(markdown_table(evaluate.summary(found)), end="")
        for name, difference in found["bd"].items():
            print(
                f"BD-rate against {name}: {difference.value:+.1f} % "
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


class _Work:
    """A bar over pieces of work on a terminal, nothing elsewhere."""

    def __init__(self, total, quiet):
        from rich.console import Console
        from rich.progress import Progress

        console = Console(file=sys.stderr)
        self.bar = Progress(console=console, transient=True) if console.is_terminal and not quiet else None
        self.task = self.bar.add_task("evaluate", total=total) if self.bar else None

    def __enter__(self):
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def done(self, name):
        if self.bar:
            self.bar.update(self.task, advance=1, description=name)


# ---------------------------------------------------------------------- compress, decompress, info


def _refuse_overwriting(path, force) -> None:
    if pathlib.Path(path).exists() and not force:
        raise InputError(f"{str(path)!r} exists: add -f to overwrite it")


def _outputs(inputs: list[str], output: str | None, suffix: str) -> list[pathlib.Path]:
    """Where each input's result goes: the file or folder `output`, or beside the input."""
    if output and len(inputs) == 1 and not pathlib.Path(output).is_dir():
        return [pathlib.Path(output)]
    if output and not pathlib.Path(output).is_dir():
        raise InputError(f"{output!r} is not a folder: with {len(inputs)} inputs, -o names an existing folder")
    folders = [pathlib.Path(output) if output else pathlib.Path(name).parent for name in inputs]
    return [folder / (pathlib.Path(name).stem + suffix) for folder, name in zip(folders, inputs, strict=True)]


def _batch(inputs, outputs, work) -> int:
    """Runs work(input, output) on every pair and goes on past those that fail. Returns the exit status."""
    failed = []
    for name, path in zip(inputs, outputs, strict=True):
        try:
            work(name, path)
        except MlicError as reason:
            if len(inputs) == 1:
                raise
            failed.append(name)
            print(f"mlic: error: {name}: {reason}", file=sys.stderr)
    if failed:
        print(f"mlic: {len(failed)} of {len(inputs)} files failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _read_rgb(path: str, convert: bool):
    """A picture's pixels; other modes than RGB only where the user agreed to convert them."""
    from mlic_jax.data import images

    pixels = images.read_image(path)
    if not convert:
        from PIL import Image

        with Image.open(path) as picture:
            if picture.mode != "RGB":
                raise InputError(
                    f"{path!r} is a picture of mode {picture.mode}: this version codes RGB; add --convert to make it so"
                )
    return pixels


def _compress(arguments):
    outputs = _outputs(arguments.inputs, arguments.output, STREAM_SUFFIX)
    for path in outputs:
        _refuse_overwriting(path, arguments.force)
    _prepare_jax()
    from mlic_jax import api

    model = api.load_model(arguments.model)

    def work(name, path):
        pixels = _read_rgb(name, arguments.convert)
        data = api.compress(pixels, model, arguments.quality)
        files.write_bytes(path, data)
        record = {"input": name, "output": str(path), "input_bytes": os.path.getsize(name), **api.info(data)}
        if arguments.json:
            print(json.dumps(record))
        else:
            share = record["bytes"] / record["input_bytes"]
            print(
                f"{name}: {record['input_bytes']} -> {record['bytes']} bytes ({share:.1%}), {record['bpp']:.3f} bpp, "
                f"written to {path}"
            )

    return _batch(arguments.inputs, outputs, work)


def _decompress(arguments):
    import io

    from PIL import Image

    outputs = _outputs(arguments.inputs, arguments.output, ".png")
    for path in outputs:
        _refuse_overwriting(path, arguments.force)
        if path.suffix.lower() not in Image.registered_extensions():
            raise UsageError(f"{str(path)!r}: the suffix names no picture format, try .png")
    contents = {name: files.read_bytes(name) for name in arguments.inputs if len(arguments.inputs) == 1}
    _prepare_jax()
    from mlic_jax import api

    model = api.load_model(arguments.model) if arguments.model else None

    def work(name, path):
        pixels = api.decompress(contents.get(name) or files.read_bytes(name), model)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, Image.registered_extensions()[path.suffix.lower()])
        files.write_bytes(path, out.getvalue())
        if arguments.json:
            print(json.dumps({"input": name, "output": str(path), "width": pixels.shape[1], "height": pixels.shape[0]}))
        else:
            print(f"{name}: {pixels.shape[1]}x{pixels.shape[0]} pixels, written to {path}")

    return _batch(arguments.inputs, outputs, work)


def _info(arguments):
    data = files.read_bytes(arguments.input)
    if data[:2] == b"PK":
        from mlic_jax.artifact import Artifact

        artifact = Artifact.from_bytes(data, repr(arguments.input))
        found = {
            "model": artifact.model,
            "architecture": artifact.architecture,
            "fingerprint": artifact.fingerprint.hex(),
            "bytes": len(data),
            "parameters": int(sum(a.size for name, a in artifact.arrays().items() if name.startswith("params/"))),
            "card": artifact.card,
        }
    else:
        from mlic_jax import api

        found = api.info(data)
    if arguments.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key}: {json.dumps(value) if isinstance(value, dict | list) else value}")


# ---------------------------------------------------------------------- the command line


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
    export.add_argument("-f", "--force", action="store_true", help="overwrite")

    evaluate = command("evaluate", _evaluate, "Measure models on real files, beside standard codecs.")
    evaluate.add_argument("--run", action="append", default=[], help="workdir of a run; can be repeated for a curve")
    evaluate.add_argument("--model", action="append", default=[], help="model file; can be repeated for a curve")
    evaluate.add_argument("--which", default="best", help="checkpoint of --run: best, latest or a step")
    evaluate.add_argument("--images", help="folder of pictures (default: the bundled ones held out from training)")
    evaluate.add_argument("--limit", type=int, default=0, help="the first so many pictures only")
    evaluate.add_argument("--compare", nargs="?", const=COMPARED, help=f"standard codecs (default {COMPARED})")
    evaluate.add_argument("--out", help="folder for JSON, CSV, tables, RD plots and the HTML report")
    evaluate.add_argument("--label", help="name of our curve")
    evaluate.add_argument("--note", action="append", default=[], help="a paragraph for the report; can be repeated")
    evaluate.add_argument("--per-image", action="store_true", help="print a line per picture")
    evaluate.add_argument("--json", action="store_true", help="print JSON that CompressAI's plot tool reads")
    evaluate.add_argument("--quiet", action="store_true", help="no progress bar")

    compress = command("compress", _compress, "Compress pictures.")
    compress.add_argument("inputs", nargs="+", metavar="PICTURE")
    compress.add_argument("-o", "--output", help="file, or folder for several (default: beside the input, .mlic)")
    compress.add_argument("-m", "--model", required=True, help="model file (.mlicm)")
    compress.add_argument("-q", "--quality", type=float, help="0 to 100, for models of several rates")
    compress.add_argument("--convert", action="store_true", help="turn grey, palette or transparent pictures into RGB")
    compress.add_argument("-f", "--force", action="store_true", help="overwrite")
    compress.add_argument("--json", action="store_true", help="print a JSON line per file")

    decompress = command("decompress", _decompress, "Decompress .mlic files.")
    decompress.add_argument("inputs", nargs="+", metavar="FILE")
    decompress.add_argument("-o", "--output", help="picture file, or folder for several (default: beside, .png)")
    decompress.add_argument("-m", "--model", help="model file (default: searched in the folders of MLIC_MODELS)")
    decompress.add_argument("-f", "--force", action="store_true", help="overwrite")
    decompress.add_argument("--json", action="store_true", help="print a JSON line per file")

    info = command("info", _info, "Say what a .mlic or .mlicm file holds.")
    info.add_argument("input", metavar="FILE")
    info.add_argument("--json", action="store_true", help="print JSON")
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

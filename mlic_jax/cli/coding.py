"""`mlic compress`, `decompress`, `prefixes`, `extract` and `info`."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings

from mlic_jax import atomic, runtime
from mlic_jax.cli import batch
from mlic_jax.errors import TruncationWarning, UsageError

STREAM_SUFFIX = ".mlic"


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


def compress(arguments):
    from mlic_jax import api, zoo
    from mlic_jax.cli import picture_files
    from mlic_jax.data import images
    from mlic_jax.fileformat import container, metadata

    metadata.choose(arguments.metadata)
    targets = {"size": arguments.target_size, "bpp": arguments.target_bpp, "psnr_db": arguments.target_psnr}
    target = {name: value for name, value in targets.items() if value is not None}
    if len(target) + (arguments.quality is not None) > 1:
        raise UsageError("give one of --quality, --target-size, --target-bpp and --target-psnr")
    if arguments.importance == batch.STANDARD:
        raise UsageError("--importance names a file: standard input is for pictures")

    def check(name, path):
        batch.can_be_read_twice(name)

    def start():
        runtime.prepare_jax()
        return api.load_model(arguments.model)

    def work(name, path, model):
        standard = _names_a_picture(path)
        if standard and zoo.codec_of(model).traits.extension != standard:
            raise UsageError(
                f"{path!r} names a {standard} file, and {model.model} writes {STREAM_SUFFIX} files, which need a "
                f"decoder: name a {STREAM_SUFFIX} file, or take a model whose files are standard ones, as talebi2020"
            )
        original = batch.read(name)
        image = images.open_image(io.BytesIO(original), name, container.LARGEST_PICTURE)
        options = {"effort": arguments.effort, "metadata": arguments.metadata}
        if arguments.importance:
            options["importance"] = images.open_image(
                io.BytesIO(batch.read(arguments.importance)), arguments.importance, container.LARGEST_PICTURE
            )
        if target:
            data = api.compress_to(image, model, **target, **options)
        else:
            data = api.compress(image, model, arguments.quality, **options)
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
    # Pillow knows our own suffix too where mlic_jax.pillow was imported.
    format = None if suffix == STREAM_SUFFIX else Image.registered_extensions().get(suffix)
    return ".jpg" if format == "JPEG" else suffix if format else None


def extract(arguments):
    from mlic_jax import api

    outputs = batch.outputs(arguments.inputs, arguments.output, "")
    unnamed = arguments.output is None or os.path.isdir(arguments.output)
    for name, path in zip(arguments.inputs, outputs, strict=True):
        data, kind = api.to_standard(batch.read(name))
        if unnamed and path != batch.STANDARD:
            path += kind  # which is known only now
        batch.refuse_overwriting(path, arguments.force)
        if path != batch.STANDARD and _names_a_picture(path) not in (kind, None):
            raise UsageError(f"inside {name!r} is a {kind} file, and {path!r} names another kind")
        batch.write(path, data)
        if path != batch.STANDARD:
            print(f"{name}: {len(data)} bytes, written to {path}")


def decompress(arguments):
    from mlic_jax import api
    from mlic_jax.cli import picture_files
    from mlic_jax.fileformat import container, metadata

    metadata.choose(arguments.metadata)

    def format_of(path):
        return "PNG" if path == batch.STANDARD else picture_files.format_of(path)

    def check(name, path):
        format = format_of(path)
        if batch.can_be_read_twice(name):
            header, _ = container.read_header(*batch.start_of(name, container.LONGEST_HEADER), partial=True)
            picture_files.check(format, header.mode)

    def start():
        runtime.prepare_jax()
        warnings.simplefilter("ignore", TruncationWarning)  # said below, with the name of the file
        return api.load_model(arguments.model) if arguments.model else None

    def work(name, path, model):
        data = batch.read(name)
        header, places = container.read_header(data, partial=True)
        picture_files.check(format_of(path), header.mode)
        image = api.decompress_image(data, model, metadata=arguments.metadata, iterations=arguments.iterations)
        batch.write(path, picture_files.to_bytes(image, format_of(path)))
        record = {"input": name, "output": path, "width": header.width, "height": header.height, "mode": image.mode}
        there = container.whole(places, len(data))
        if there < len(places):
            parts = [sum(place.type == container.DATA for place in some) for some in (places[:there], places)]
            record["truncated"] = {"parts": parts[0], "of": parts[1]}
            print(
                f"mlic: warning: {name}: the file is truncated: the picture is that of {parts[0]} of {parts[1]} parts",
                file=sys.stderr,
            )
        return record, f"{name}: {header.width}x{header.height} pixels of mode {image.mode}, written to {path}"

    return _run(arguments, ".png", check, start, work)


def prefixes(arguments):
    from mlic_jax import api
    from mlic_jax.data import images
    from mlic_jax.evaluation.report import prefixes as report
    from mlic_jax.evaluation.report import tables
    from mlic_jax.metrics import registry

    suffix = os.path.splitext(arguments.output or "")[1].lower()
    if suffix not in ("", ".gif", ".html"):
        raise UsageError(f"{arguments.output!r}: prefixes are shown as .gif, as .html, or as .png files in a folder")
    if suffix == ".html" and not arguments.original:
        raise UsageError("the page compares with the picture that was compressed: name it with --original")
    if arguments.output:
        batch.refuse_overwriting(arguments.output, arguments.force or os.path.isdir(arguments.output))
    names = registry.parse(arguments.metrics)
    data = batch.read(arguments.input)
    original = None
    if arguments.original:
        original = images.decode_image(batch.read(arguments.original), arguments.original)
    runtime.prepare_jax()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncationWarning)
        found = report.measure(api.prefixes(data, arguments.model), original, names)
    for warning in caught:
        print(f"mlic: warning: {arguments.input}: {warning.message}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(tables.finite([row for row, _ in found])))
    else:
        print(report.table(found), end="")
    if not arguments.output:
        return
    if suffix == ".gif":
        batch.write(arguments.output, report.to_gif([image for _, image in found]))
    elif suffix == ".html":
        report.write_page(arguments.output, os.path.basename(arguments.input), original, found)
    else:
        os.makedirs(arguments.output, exist_ok=True)
        for path, content in report.to_files(found, os.path.join(arguments.output, _stem(arguments.input))):
            batch.refuse_overwriting(path, arguments.force)
            batch.write(path, content)


def _stem(name: str) -> str:
    return "picture" if name == batch.STANDARD else os.path.splitext(os.path.basename(name))[0]


def info(arguments):
    from mlic_jax import api
    from mlic_jax.fileformat import container

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
    from mlic_jax.fileformat.artifact import Artifact

    data = atomic.read_bytes(name)
    artifact = Artifact.from_bytes(data, repr(name))
    return {
        "model": artifact.model,
        "architecture": artifact.architecture,
        "fingerprint": artifact.fingerprint.hex(),
        "bytes": len(data),
        "parameters": int(sum(a.size for name, a in artifact.arrays().items() if name.startswith("params/"))),
        "card": artifact.card,
    }

"""`mlic compress`."""

from __future__ import annotations

import io
import time

from mlic_jax import runtime
from mlic_jax.cli import batch, command, common
from mlic_jax.errors import UsageError

SUFFIX = ".mlic"


def add_arguments(parser):
    batch.add_arguments(
        parser,
        "PICTURE",
        model="tiny, base, talebi2020, or a model file (.mlicm; default: the one in MLIC_MODEL, or tiny)",
        output="(default: beside the input, .mlic)",
    )
    parser.add_argument("-q", "--quality", type=float, help="0 to 100, for models of several rates (default 50)")
    parser.add_argument("--target-size", type=float, metavar="BYTES", help="the best quality that fits")
    parser.add_argument("--target-bpp", type=float, metavar="BPP", help="the same in bits per pixel")
    parser.add_argument("--target-psnr", type=float, metavar="DB", help="the smallest file that reaches it")
    parser.add_argument(
        "-e",
        "--effort",
        type=int,
        default=0,
        help="0 to 9: time spent on a file with fewer bits or errors, weighed against each other as the quality does: "
        "its PSNR moves by some tenths of a dB, which --target-psnr makes up for (default 0: none; a step takes up to "
        "twice as long)",
    )
    parser.add_argument(
        "--frame",
        type=command.place_of_frame,
        metavar="N",
        help="of files with several frames or pages, number N, from 0 on (default: the first, with a warning)",
    )
    parser.add_argument(
        "--importance",
        metavar="PICTURE",
        help="where bits are to go: a grey picture of the same size, white for more (for models that take one)",
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
        runtime.load_ahead("compress")
        return api.load_model(arguments.model)

    def work(name, path, model):
        standard = picture_files.suffix_of(path)
        if standard and zoo.codec_of(model).traits.extension != standard:
            raise UsageError(
                f"{path!r} names a {standard} file, and {model.model} writes {SUFFIX} files, which need a "
                f"decoder: name a {SUFFIX} file, or take a model whose files are standard ones"
            )
        original = batch.read(name)
        image = images.open_image(io.BytesIO(original), name, container.LARGEST_PICTURE, arguments.frame)
        options = {"effort": arguments.effort, "metadata": arguments.metadata, "frame": image.tell()}
        if arguments.importance:
            options["importance"] = images.read_grey(
                batch.read(arguments.importance), arguments.importance, container.LARGEST_PICTURE
            )
        began, measured = time.perf_counter(), {}
        if target:
            made = api.meet_target(image, model, target, **options)
            data = made.data
            measured = {"psnr_db": made.psnr_db} if made.psnr_db is not None else {}
        else:
            data = api.compress(image, model, arguments.quality, **options)
        measured["seconds"] = time.perf_counter() - began
        record = {"input": name, "output": path, "input_bytes": len(original), **api.info(data), **measured}
        if standard:
            picture_files.check(picture_files.format_of(path), container.read_header(data)[0].mode)
            data = api.to_standard(data)[0]
            record |= {"bytes": len(data), "bpp": 8 * len(data) / (record["width"] * record["height"])}
        batch.write(path, data)
        return record, _words(record)

    return batch.run_arguments(arguments, SUFFIX, check, start, work)


def _words(record) -> str:
    """What became of a picture, as `cwebp` and `cjxl` say it: no quality for models of one rate, dB where measured."""
    from mlic_jax.fileformat import encoding

    size, before = record["bytes"], record["input_bytes"]
    parts = [f"quality {record['quality']:g}"] if record["quality"] is not None else []
    parts += ["exact"] if record["architecture"] == encoding.EXACT else []
    parts += [f"{before} -> {size} bytes ({common.percent(size / before)})", common.bpp(record["bpp"])]
    parts += [common.db(record["psnr_db"])] if "psnr_db" in record else []
    return f"{record['input']}: {', '.join(parts)}, {common.seconds(record['seconds'])}, written to {record['output']}"


COMMAND = command.Command(
    "compress",
    "Compress pictures: PNG, JPEG, WebP, AVIF, HEIC, TIFF and others; grey, RGB or palette, with or without alpha.",
    add_arguments,
    compress,
    command.EXIT_CODES,
    examples=(
        "mlic compress photo.jpg -q 70                     # photo.mlic",
        "mlic compress photo.jpg --target-size 20000       # the best quality that fits",
        "mlic compress photo.jpg --target-psnr 35 -e 5     # at least 35 dB, some seconds for fewer bits",
        "mlic compress photos/*.jpg -o small -j 2          # into the folder small, two at a time",
        "cat photo.png | mlic compress - > photo.mlic",
    ),
)

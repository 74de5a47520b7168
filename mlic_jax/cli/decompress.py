"""`mlic decompress`."""

from __future__ import annotations

import sys
import time
import warnings

from mlic_jax import runtime
from mlic_jax.cli import batch, command, common
from mlic_jax.errors import TruncationWarning


def add_arguments(parser):
    batch.add_arguments(
        parser,
        "FILE",
        model="a name or a model file (default: found by the file, in what is installed, MLIC_MODEL and MLIC_MODELS)",
        output="(default: beside the input, .png; PNG goes to standard output)",
    )
    parser.add_argument(
        "--output-quality",
        type=command.quality_of_output,
        metavar="Q",
        help="1 to 100, for an output of .jpg or .avif, which lose something again; others are lossless",
    )
    parser.add_argument(
        "--iterations",
        type=command.iterations,
        metavar="K",
        help="the first K parts of a progressive file (default: all)",
    )


def decompress(arguments):
    from mlic_jax import api
    from mlic_jax.cli import picture_files
    from mlic_jax.fileformat import container, metadata

    metadata.choose(arguments.metadata)

    def format_of(path):
        return "PNG" if path == batch.STANDARD else picture_files.format_of(path)

    def check(name, path):
        format = format_of(path)
        picture_files.check_quality(format, arguments.output_quality)
        if batch.can_be_read_twice(name):
            header, _ = container.read_header(*batch.start_of(name, container.LONGEST_HEADER), partial=True)
            picture_files.check(format, header.mode)

    def start():
        runtime.prepare_jax()
        runtime.load_ahead("decompress")
        warnings.simplefilter("ignore", TruncationWarning)  # said below, with the name of the file
        return api.load_model(arguments.model) if arguments.model else None

    def work(name, path, model):
        data = batch.read(name)
        header, places = container.read_header(data, partial=True)
        picture_files.check(format_of(path), header.mode)
        began = time.perf_counter()
        image = api.decompress_image(data, model, metadata=arguments.metadata, iterations=arguments.iterations)
        taken = time.perf_counter() - began
        picture_files.warn_of_losses(image, header.mode, format_of(path), path)
        batch.write(path, picture_files.to_bytes(image, format_of(path), arguments.output_quality))
        record = {"input": name, "output": path, "width": header.width, "height": header.height, "mode": image.mode}
        record["seconds"] = taken
        there = container.whole(places, len(data))
        if there < len(places):
            parts = [sum(place.type == container.DATA for place in some) for some in (places[:there], places)]
            record["truncated"] = {"parts": parts[0], "of": parts[1]}
            print(
                f"mlic: warning: {name}: the file is truncated: the picture is that of {parts[0]} of {parts[1]} parts",
                file=sys.stderr,
            )
        what = f"{header.width}x{header.height} pixels of mode {image.mode}"
        return record, f"{name}: {what}, {common.seconds(record['seconds'])}, written to {path}"

    return batch.run_arguments(arguments, ".png", check, start, work)


COMMAND = command.Command(
    "decompress",
    "Decompress .mlic files. The suffix of the output names its format.",
    add_arguments,
    decompress,
    command.EXIT_CODES,
    examples=(
        "mlic decompress photo.mlic                        # photo.png",
        "mlic decompress small/*.mlic -o back -j 2         # into the folder back",
        "mlic decompress photo.mlic -o photo.jpg --output-quality 95",
    ),
)

"""Memory of one batch of many pictures of many sizes, through the `mlic` command.

    python benchmarks/batch_memory.py --model MODEL.mlicm [--pictures 500]

Writes PNGs of 1 to 640 pixels a side, compresses them all with one call of `mlic compress` in this process, and
decompresses them with one of `mlic decompress`. Printed: resident memory after the 50th file and on the way; its growth
from the 50th file to the last, to the largest, and from the largest until then to the largest of all; and which
programs were compiled after the 50th file (none: all sizes share them).
"""

import argparse
import pathlib
import tempfile
import time
from unittest import mock

import jax
import numpy as np
from large_pictures import resident_mib
from PIL import Image

from mlic_jax import data
from mlic_jax.cli import batch
from mlic_jax.cli import main as cli

SETTLED = 50


class Compiled(list):
    """The names of the programs that XLA compiles (or takes from its cache on disk) from here on."""

    def __init__(self):
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event, duration, fun_name="", **_):
        if event.endswith("/backend_compile_duration"):
            self.append(fun_name)


def write_pictures(folder: pathlib.Path, count: int) -> list[str]:
    """PNGs of many sizes, in a random order but for the first four, which need windows of all shapes."""
    rng = np.random.default_rng(0)
    photos = [data.read_image(path) for path in data.bundled("train")]
    sizes = [(40, 40), (40, 640), (640, 40), (640, 640)]
    while len(sizes) < count:
        sizes.append(tuple(int(640 ** rng.uniform(0, 1)) for _ in range(2)))
    names = []
    for i, (height, width) in enumerate(sizes):
        photo = np.pad(photos[i % len(photos)], ((0, 640), (0, 640), (0, 0)), mode="symmetric")
        top, left = rng.integers(0, 200, 2)
        names.append(str(folder / f"{i:03}.png"))
        Image.fromarray(photo[top : top + height, left : left + width]).save(names[-1])
    print(f"{count} pictures of {len(set(sizes))} sizes, {sum(h * w for h, w in sizes) / 1e6:.1f} Mpixel")
    return names


def run(words: list[str], compiled: Compiled) -> None:
    """One command; memory is read whenever it has written a file."""
    resident, names, write = [], [], batch.write

    def noted(name, content):
        write(name, content)
        resident.append(resident_mib())
        names.append(len(compiled))

    began = time.perf_counter()
    with mock.patch.object(batch, "write", noted):
        status = cli.main(words)
    took = time.perf_counter() - began
    count = len(resident)
    shown = [SETTLED, *range(100, count + 1, 100)]
    print(f"mlic {words[0]}: status {status}, {count} files in {took:.0f} s")
    print("  MiB resident after file " + ", ".join(f"{n}: {resident[n - 1]:.1f}" for n in shown))
    settled, largest = resident[SETTLED - 1], max(resident)
    print(
        f"  from file {SETTLED}: {resident[-1] - settled:+.1f} MiB to the last, "
        f"{largest - settled:+.1f} to the largest, "
        f"{largest - max(resident[:SETTLED]):+.1f} from the largest until then to the largest of all"
    )
    print(f"  programs compiled up to file {SETTLED}: {names[SETTLED - 1]}, after it: {compiled[names[SETTLED - 1] :]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="model file (.mlicm)")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1, help="files at a time")
    arguments = parser.parse_args()
    compiled = Compiled()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        names = write_pictures(folder, arguments.pictures)
        (folder / "png").mkdir()
        options = ["--model", arguments.model, "--jobs", str(arguments.jobs), "--quiet"]
        run(["compress", *names, *options], compiled)
        files = [str(pathlib.Path(name).with_suffix(".mlic")) for name in names]
        compiled.clear()
        run(["decompress", *files, *options, "-o", str(folder / "png")], compiled)


if __name__ == "__main__":
    main()

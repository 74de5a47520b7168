"""How many training patches a second the data pipeline delivers, against what a train step needs.

    python benchmarks/data_pipeline.py                                    # bundled photos, and those as JPEG files
    python benchmarks/data_pipeline.py --folder PHOTOS --batch 16 --step-seconds 0.2

A pipeline that delivers twice the need costs the training nothing but the cores it runs on: `cpu ms` is what they spend
on an image. Decoding is the larger part where images are not cached; `detail` is the choice among candidate patches.
"""

import argparse
import datetime
import itertools
import os
import pathlib
import platform
import tempfile
import time

from PIL import Image

from mlic_jax.data import bundled, make_source, make_train_iterator

# (cache MiB, detail_weight, threads, workers); threads are those of each worker where there are workers.
SETTINGS = [(4096, 0, 1, 0), (4096, 0, 2, 0), (4096, 1, 2, 0), (0, 0, 1, 0), (0, 0, 2, 0), (0, 1, 2, 0), (0, 0, 1, 2)]


def machine() -> str:
    """The machine in a line: processor, cores, load."""
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores{load}; Python {platform.python_version()}"


def measure(spec: str, args, cache: float, detail: float, threads: int, workers: int) -> tuple[float, float]:
    """(images per second, CPU milliseconds per image in this process)."""
    source = make_source(spec, "all", cache_mib=cache)
    batches = make_train_iterator(
        source,
        seed=0,
        batch_size=args.batch,
        patch_size=args.patch,
        detail_weight=detail,
        num_threads=threads,
        num_workers=workers,
    )
    # Until every image is cached, and the buffers that are filled meanwhile are used up.
    warm = (len(source) if cache else 0) // args.batch + 4 * max(1, threads) * max(1, workers)
    for batch in itertools.islice(batches, warm):
        assert batch["image"].shape == (args.batch, args.patch, args.patch, 3)
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < args.seconds:
        next(batches)
        count += args.batch
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    batches.close()
    return count / wall, 1000 * cpu / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="a folder of images; by default the bundled photos as JPEG files")
    parser.add_argument("--batch", type=int, default=8, help="images per train step (default %(default)s)")
    parser.add_argument("--patch", type=int, default=256, help="side of the patches in pixels (default %(default)s)")
    parser.add_argument("--step-seconds", type=float, default=0.4, help="time of a train step (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="how long to measure each line (default %(default)s)")
    args = parser.parse_args()

    need = args.batch / args.step_seconds
    print(f"{datetime.date.today()}, {machine()}")
    print(
        f"{args.patch}x{args.patch} patches; a train step of {args.batch} in {args.step_seconds:g} s needs {need:.0f}/s"
    )
    heads = (("source", 20), ("cached", 6), ("detail", 6), ("threads", 7), ("workers", 7))
    print(*(f"{head:{width}}" for head, width in heads), f"{'images/s':>8} {'cpu ms':>6} {'x need':>6}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder
        if folder is None:
            folder = temporary
            for path in bundled():
                Image.open(path).save(pathlib.Path(temporary, path.with_suffix(".jpg").name), quality=93)
        for name, spec in (("bundled (PNG)", "bundled"), ("folder (JPEG)" if not args.folder else "folder", folder)):
            for cache, detail, threads, workers in SETTINGS:
                rate, cpu = measure(spec, args, cache, detail, threads, workers)
                cpu = "-" if workers else f"{cpu:.2f}"
                row = f"{name:20} {'yes' if cache else 'no':6} {'yes' if detail else 'no':6} {threads:<7} {workers:<7} "
                print(row + f"{rate:8.0f} {cpu:>6} {rate / need:6.1f}", flush=True)


if __name__ == "__main__":
    main()

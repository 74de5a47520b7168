"""How many training patches a second the data pipeline delivers, of each kind of source, on one and on two cores.

    python benchmarks/data_pipeline.py                        # all rows
    python benchmarks/data_pipeline.py --rows JPEG,pieces     # those with one of these words
    python benchmarks/data_pipeline.py --folder PHOTOS        # of a folder of one's own

The pictures are the bundled photos, 768x512; as JPEG files; as a TFDS set; four of them enlarged to 2304x1536; and what
`mlic prepare` makes of these. `cpu ms` is what cores spend on a patch: on a machine that does other things too, it says
more than patches per second. A step waits for nothing where the pipeline delivers what it needs.
"""

import argparse
import datetime
import functools
import itertools
import os
import pathlib
import platform
import tempfile
import time

from PIL import Image

from mlic_jax.data import bundled, make_source, make_train_iterator

LARGE, SCALE = 4, 3  # how many photos are enlarged, and how much
SCALES = (1.0, 0.84, 0.71, 0.6, 0.5)
CACHE = 4096  # MiB

# Title, source, settings that differ. Decoded pictures are kept where `cache_mib` says so.
ROWS = [
    ("bundled, PNG", "bundled", {}),
    ("bundled, cached", "bundled", {"cache_mib": CACHE}),
    ("bundled, cached, by detail", "bundled", {"cache_mib": CACHE, "detail_weight": 1.0}),
    ("JPEG files", "jpeg", {}),
    ("JPEG files, two workers", "jpeg", {"num_workers": 2}),
    ("TFDS set, PNG", "tfds", {}),
    ("large JPEG files", "large", {}),
    ("large JPEG files, 4 crops of each", "large", {"crops": 4}),
    ("pieces", "pieces", {}),
    ("pieces as PNG", "pieces_png", {}),
    ("pieces of 5 scales", "pieces_scaled", {"scale_range": (1.0, 1.0)}),
]


def machine() -> str:
    """The machine in a line: processor, cores, load."""
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores{load}; Python {platform.python_version()}"


# ---------------------------------------------------------------------- the sources


def jpeg(folder: pathlib.Path) -> str:
    for path in bundled():
        Image.open(path).save(folder / f"{path.stem}.jpg", quality=93)
    return str(folder)


def large(folder: pathlib.Path) -> str:
    for path in bundled()[:LARGE]:
        photo = Image.open(path)
        size = SCALE * photo.width, SCALE * photo.height
        photo.resize(size, Image.Resampling.BICUBIC).save(folder / f"{path.stem}.jpg", quality=93)
    return str(folder)


def tfds(folder: pathlib.Path) -> str:
    import tensorflow_datasets as tfds

    class Photos(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": ((path.name, {"image": path}) for path in bundled())}

        def _generate_examples(self):
            raise NotImplementedError

    Photos(data_dir=folder).download_and_prepare(file_format="array_record")
    return "tfds:photos"


def pieces(folder: pathlib.Path, scales=(1.0,), encoding="raw") -> str:
    from mlic_jax.data import prepared

    photos = folder / "photos"
    photos.mkdir()
    plan = prepared.Plan(large(photos), scales=scales, encoding=encoding)
    began = time.perf_counter()
    index = prepared.prepare(plan, folder / "pieces")
    count = sum(shard["pieces"] for shards in index["shards"].values() for shard in shards)
    size = sum(path.stat().st_size for path in (folder / "pieces").iterdir()) / 2**20
    print(f"# {count} pieces, {size:.0f} MiB, {encoding}, {len(scales)} scales, in {time.perf_counter() - began:.1f} s")
    return str(folder / "pieces")


SOURCES = {
    "bundled": lambda folder: "bundled",
    "jpeg": jpeg,
    "large": large,
    "tfds": tfds,
    "pieces": pieces,
    "pieces_png": functools.partial(pieces, encoding="png"),
    "pieces_scaled": functools.partial(pieces, scales=SCALES),
}


# ---------------------------------------------------------------------- measuring


def measure(spec: str, data_dir, args, cores: int, changes: dict) -> tuple[float, float]:
    """(patches per second, CPU milliseconds per patch in this process) with a thread for each of so many cores."""
    settings = {"cache_mib": 0, "num_threads": cores} | changes
    source = make_source(spec, "all", data_dir, cache_mib=settings.pop("cache_mib"))
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(everywhere)[:cores])  # threads take it over
    batches = make_train_iterator(source, seed=0, batch_size=args.batch, patch_size=args.patch, **settings)
    # Until every image is cached, and the buffers that are filled meanwhile are used up.
    cached = len(source) if changes.get("cache_mib") else 0
    warm = cached // args.batch + 4 * cores * changes.get("crops", 1) * max(1, changes.get("num_workers", 0))
    for batch in itertools.islice(batches, warm):
        assert batch["image"].shape == (args.batch, args.patch, args.patch, 3)
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < args.seconds:
        for _ in range(changes.get("crops", 1)):  # the batches of the same pictures
            next(batches)
            count += args.batch
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    batches.close()
    os.sched_setaffinity(0, everywhere)
    return count / wall, 1000 * cpu / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="measure a folder of images instead, not cached and cached")
    parser.add_argument("--rows", default="", help="only those with one of these words, with commas between")
    parser.add_argument("--cores", default="1,2", help="with commas between (default %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images per train step (default %(default)s)")
    parser.add_argument("--patch", type=int, default=256, help="side of the patches in pixels (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=3, help="how long to measure each figure (default %(default)s)"
    )
    args = parser.parse_args()

    rows = [row for row in ROWS if any(word in row[0] for word in args.rows.split(","))]
    if args.folder:
        rows = [("folder", "folder", {}), ("folder, cached", "folder", {"cache_mib": CACHE})]
    cores = [int(word) for word in args.cores.split(",")]
    print(f"{datetime.date.today()}, {machine()}; {args.patch}x{args.patch} patches")
    print(f"{'source':36}", *(f"{f'{n} cores: /s':>14} {'cpu ms':>7}" for n in cores))
    sources = SOURCES | {"folder": lambda folder: args.folder}
    with tempfile.TemporaryDirectory() as temporary:
        made = {}
        for title, kind, changes in rows:
            folder = pathlib.Path(temporary, kind)
            if kind not in made:
                folder.mkdir()
                made[kind] = sources[kind](folder)
            figures = [measure(made[kind], folder, args, n, changes) for n in cores]
            shown = (f"{rate:14.0f} {'-' if 'num_workers' in changes else f'{cpu:.2f}':>7}" for rate, cpu in figures)
            print(f"{title:36}", *shown, flush=True)


if __name__ == "__main__":
    main()

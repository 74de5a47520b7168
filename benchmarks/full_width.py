"""Whether a config works at its full width: seconds and memory of a training step, and of a file there and back.

    python benchmarks/full_width.py --config configs/toderici2017.py:paper --batch 1 --patch 64 --size 768x512

Weights are the initial ones. Each objective of the schedule takes steps by itself, with its own optimiser;
then the model is exported, a bundled photo (repeated to the size) compressed and decompressed, and the file's
picture is compared with the codec's own estimate. Memory is the most that the process has held so far, with Python and
jax themselves (about 0.4 GB); of an accelerator, the most that its allocator gave.
"""

from __future__ import annotations

import argparse
import resource
import time

import jax
import numpy as np

from mlic_jax import api, data, zoo
from mlic_jax.fileformat.artifact import flatten
from mlic_jax.training import parallel
from mlic_jax.training.config import batch_parts, load, objectives_of_phases
from mlic_jax.training.runs import initialise, make_codec
from mlic_jax.training.train import step_functions


def gigabytes() -> float:
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1e9


def seconds(function, *arguments):
    began = time.perf_counter()
    value = jax.block_until_ready(function(*arguments))
    return value, time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--batch", type=int, help="examples a step (default: the config's)")
    parser.add_argument("--patch", type=int, help="pixels (default: the config's)")
    parser.add_argument("--size", default="768x512", help="of the picture, width x height")
    parser.add_argument("--steps", type=int, default=1, help="timed, after the first")
    arguments = parser.parse_args()
    config = load(arguments.config, [])
    config.data.batch_size = arguments.batch or config.data.batch_size
    config.data.patch_size = arguments.patch or config.data.patch_size
    parallel.use_all_cores(1, 1)
    codec = make_codec(config)
    state = initialise(codec, config)
    count = sum(a.size for a in flatten(jax.device_get(state.params)).values())
    print(f"{arguments.config}: {count / 1e6:.2f} M parameters, on {jax.devices()[0].device_kind}")

    batch, patch = config.data.batch_size, config.data.patch_size
    rng = np.random.default_rng(0)
    photo = data.read_image(data.bundled("validation")[0])
    corners = rng.integers(0, [photo.shape[0] - patch, photo.shape[1] - patch], (batch, 2))
    crops = np.stack([photo[y : y + patch, x : x + patch] for y, x in corners])
    for schedule, step in zip(objectives_of_phases(config), step_functions(codec, config), strict=True):
        part = batch // batch_parts(config) * len(schedule) * config.train.accumulate or 1
        shown = parallel.shard({"image": crops[:part], "position": np.arange(part, dtype=np.int32)})
        (state, _), first = seconds(step, state, shown)
        began = time.perf_counter()
        for _ in range(arguments.steps):
            state, metrics = step(state, shown)
        jax.block_until_ready(state.params)
        each = (time.perf_counter() - began) / arguments.steps
        loss = float(jax.device_get(metrics["loss"] if "loss" in metrics else metrics[f"{schedule[0]}/loss"]))
        print(
            f"step of {', '.join(schedule)}: {part} x {patch}x{patch}: {each:.2f} s ({1 / each:.2f} a second; the "
            f"first, with compilation, {first:.1f} s), loss {loss:.4g}, {gigabytes():.2f} GB"
        )

    params, kept = jax.device_get((state.params, state.state))
    artifact, exported = seconds(lambda: codec.export(params, kept))
    width, height = map(int, arguments.size.split("x"))
    times = [-(-height // photo.shape[0]), -(-width // photo.shape[1]), 1]
    image = np.ascontiguousarray(np.tile(photo, times)[:height, :width])
    codec = zoo.codec_of(artifact)
    timings = {}
    for turn in ("with compilation", "again"):
        stream, encode = seconds(api.compress, image, artifact)
        decoded, decode = seconds(api.decompress, stream, artifact)
        timings[turn] = f"{turn} {encode:.1f} and {decode:.1f} s"
    estimate = codec.estimate(artifact.params, artifact.state, image[None])
    difference = np.abs(np.asarray(estimate["reconstruction"][0], int) - decoded).max()
    print(
        f"export {exported:.1f} s; {width}x{height} to {len(stream)} bytes and back: {', '.join(timings.values())}; "
        f"largest difference to the estimate's picture {difference}; {gigabytes():.2f} GB"
    )


if __name__ == "__main__":
    main()

"""Seconds of a training step with products of float32, and with operands rounded to bfloat16, in turns.

    python benchmarks/rounded_products.py configs/kltnet.py:tiny configs/mbt2018_mean.py:4 --batch 4 --patch 128

One core of a CPU, unless --devices says more. What it buys depends on the processor: it pays on one with AMX (in
/proc/cpuinfo: amx_bf16) and on accelerators. Memory that is asked for and given back in every step costs as much as
some layers; on Linux, large pages that are kept help:

    T=glibc.malloc; export GLIBC_TUNABLES=$T.hugetlb=1:$T.mmap_threshold=4000000000:$T.trim_threshold=16000000000
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np


def make_step_of(config, batch):
    """A function that takes one step of the config's first turn and returns its seconds."""
    import jax

    from mlic_jax.training import parallel
    from mlic_jax.training.runs import initialise, make_codec
    from mlic_jax.training.train import step_functions

    codec = make_codec(config)
    step = step_functions(codec, config)[0]
    state = initialise(codec, config)

    def one():
        nonlocal state
        began = time.perf_counter()
        state, metrics = step(state, parallel.shard(batch))
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    return one


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=128, help="pixels")
    parser.add_argument("--devices", type=int, default=1, help="virtual devices of a CPU")
    parser.add_argument("--turns", type=int, default=8, help="of two steps each")
    args = parser.parse_args()
    if args.devices == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
    import jax

    jax.config.update("jax_num_cpu_devices", args.devices)
    from mlic_jax.training.config import load

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.batch, args.patch, args.patch, 3), dtype=np.uint8)
    batch = {"image": images, "position": np.arange(args.batch, dtype=np.int32)}
    print(f"{jax.devices()[0].device_kind}, {args.devices} devices, {args.batch} x {args.patch}x{args.patch}")
    print("| config | float32, fastest and median | rounded | as many steps |")
    print("|---|---|---|---|")
    for name in args.configs:
        steps = {}
        for rounded in (False, True):
            config = load(name, [])
            config.train.rounded_products = rounded
            steps[rounded] = make_step_of(config, batch)
            steps[rounded]()  # compiles
            steps[rounded]()
        seconds = {False: [], True: []}
        for turn in range(args.turns):
            for rounded in (False, True) if turn % 2 else (True, False):
                seconds[rounded] += [steps[rounded]() for _ in range(2)]
        times = {rounded: (min(taken), statistics.median(taken)) for rounded, taken in seconds.items()}
        shown = [f"{1000 * least:.0f}, {1000 * median:.0f} ms" for least, median in times.values()]
        print(f"| {name} | {shown[0]} | {shown[1]} | {times[False][1] / times[True][1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""Seconds per training step, here and in CompressAI, on the same cores in the same minutes.

    python benchmarks/train_step.py --compressai VENV/bin/python            # one thread and two: 6 minutes
    python benchmarks/train_step.py --compressai VENV/bin/python --threads 1 --rounds 12
    python benchmarks/train_step.py --compressai VENV/bin/python --model cheng2020-anchor --batch 2 --threads 1

VENV is what benchmarks/compressai_env.sh makes. One step is forward, backward, clipping of the gradients' global norm
to 1, and Adam, of a model at the widths of MODELS on 8 random images of 256x256 in float32, or --batch of --size;
CompressAI also takes its step on the quantiles, as its training script does; mlic_jax needs none.

Ours is the step of `mlic train`, `pmap`ped over as many virtual CPU devices as there are threads (--devices 1 leaves
all threads to one device). CompressAI's runs with the fastest settings found for it: channels_last and fused Adam. Both
processes are bound to the same cores, and take turns of a few steps, so that whatever else happens on the machine slows
down both. Of each side the fastest and the median step are shown, with the CPU time of the fastest.

This file runs in both environments: CompressAI's half is at its end.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time

import numpy as np
import turns

LMBDA = 0.0130
STEPS_A_TURN = 2
# Model -> our arguments, the class of CompressAI and its arguments.
MODELS = {
    "bmshj2018-factorized": ({"N": 128, "M": 192}, "FactorizedPrior", (128, 192)),
    "bmshj2018-hyperprior": ({"N": 128, "M": 192}, "ScaleHyperprior", (128, 192)),
    "mbt2018-mean": ({"N": 128, "M": 192}, "MeanScaleHyperprior", (128, 192)),
    "mbt2018": ({"N": 192, "M": 192}, "JointAutoregressiveHierarchicalPriors", (192, 192)),
    "cheng2020-anchor": ({"N": 128}, "Cheng2020Anchor", (128,)),
    "cheng2020-attn": ({"N": 128}, "Cheng2020Attention", (128,)),
    "cheng2020-anchor-checkerboard": ({"N": 128, "proxy": "mixed"}, "Cheng2020AnchorCheckerboard", (128,)),
    "elic2022": ({"proxy": "mixed"}, "Elic2022Official", ()),
}


# --------------------------------------------------------------------------------------------------- the two sides


def images(args):
    return np.random.default_rng(0).integers(0, 256, (args.batch, args.size, args.size, 3), dtype=np.uint8)


def make_our_step(args):
    """A function that takes one step and returns the loss."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_num_cpu_devices", args.devices)
    from mlic_jax.training import config as defaults
    from mlic_jax.training import parallel
    from mlic_jax.training.runs import initialise, make_codec
    from mlic_jax.training.train import step_functions

    config = defaults.defaults()
    config.model.name = args.model
    config.model.arguments = {**MODELS[args.model][0], "lmbda": LMBDA}
    codec = make_codec(config)
    (step,) = step_functions(codec, config)
    state = initialise(codec, config)
    batch = {"image": images(args), "position": np.arange(args.batch, dtype=np.int32)}

    def one():
        nonlocal state
        state, metrics = step(state, parallel.shard(batch))
        return float(metrics["loss"])

    return one, {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}


def make_their_step(args):
    from compressai_side import load_torch

    torch = load_torch(args.threads[0])
    from compressai import models
    from compressai.losses import RateDistortionLoss

    _, kind, widths = MODELS[args.model]
    # PyTorch 2.13 ends with a segmentation fault where pixels of channels_last are shuffled in a backward pass.
    form = torch.contiguous_format if kind.startswith("Cheng") else torch.channels_last
    net = getattr(models, kind)(*widths).to(memory_format=form).train()
    quantiles = [p for name, p in net.named_parameters() if name.endswith("quantiles")]
    others = [p for name, p in net.named_parameters() if not name.endswith("quantiles")]
    optimizer = torch.optim.Adam(others, lr=1e-4, fused=True)
    quantile_optimizer = torch.optim.Adam(quantiles, lr=1e-3)
    criterion = RateDistortionLoss(lmbda=LMBDA)
    image = torch.from_numpy(images(args)).permute(0, 3, 1, 2)  # of channels_last strides

    def one():
        x = (image.float() / 255).contiguous(memory_format=form)
        optimizer.zero_grad()
        quantile_optimizer.zero_grad()
        loss = criterion(net(x), x)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        net.aux_loss().backward()
        quantile_optimizer.step()
        return loss.item()

    return one, {name: importlib.metadata.version(name) for name in ("torch", "compressai")}


def work(args):
    """One side's process: takes a turn for every line on stdin, answers with [[wall, CPU] for each step]."""
    answers = turns.answers()
    one, versions = make_our_step(args) if args.work == "ours" else make_their_step(args)
    losses = [one() for _ in range(2)]  # compiles, and warms up
    print(json.dumps({"versions": versions, "losses": losses}), file=answers, flush=True)
    for _ in sys.stdin:
        turn = []
        for _ in range(STEPS_A_TURN):
            wall, cpu = time.perf_counter(), time.process_time()
            one()
            turn.append((time.perf_counter() - wall, time.process_time() - cpu))
        print(json.dumps(turn), file=answers, flush=True)


# --------------------------------------------------------------------------------------------------- taking turns


def compare(args, threads):
    """side -> {"versions", "steps": [[wall, CPU], ...]}, of one number of threads."""
    devices = args.devices or threads
    commands = {
        side: [python, __file__, "--work", side, "--threads", str(threads), "--devices", str(devices)]
        + ["--model", args.model, "--batch", str(args.batch), "--size", str(args.size)]
        for side, python in (("ours", sys.executable), ("compressai", args.compressai))
    }
    results = {}
    for side, (greeting, *asked) in turns.take_turns(commands, threads, args.rounds, greeted=True).items():
        results[side] = {**greeting, "steps": sum(asked, [])}
    return results


def processor():
    try:
        lines = open("/proc/cpuinfo").read().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def summary(steps):
    walls = [wall for wall, _ in steps]
    fastest, cpu = min(steps)
    return fastest, statistics.median(walls), cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compressai", help="the Python of an environment with CompressAI")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=8, help=f"turns of {STEPS_A_TURN} steps for each side")
    parser.add_argument("--devices", type=int, help="virtual CPU devices of ours (default: as many as threads)")
    parser.add_argument("--model", choices=MODELS, default="bmshj2018-hyperprior")
    parser.add_argument("--batch", type=int, default=8, help="images in a step")
    parser.add_argument("--size", type=int, default=256, help="side of the images")
    parser.add_argument("--json", help="a file to write all times to")
    parser.add_argument("--work", choices=("ours", "compressai"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args)
    if not args.compressai:
        parser.error("--compressai is needed: the Python that benchmarks/compressai_env.sh prints")

    results = {threads: compare(args, threads) for threads in args.threads}
    versions = {**results[args.threads[0]]["ours"]["versions"], **results[args.threads[0]]["compressai"]["versions"]}
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    print(f"{args.model}, {args.batch} images of {args.size}x{args.size}, float32; seconds per training step")
    print(f"{now}; {processor()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}; ", end="")
    print(", ".join(f"{name} {version}" for name, version in versions.items()) + "\n")
    print("| threads | side | fastest | median | CPU of the fastest | speed, CompressAI = 1 (fastest, median) |")
    print("|---|---|---|---|---|---|")
    for threads, sides in results.items():
        ours, theirs = (summary(sides[side]["steps"]) for side in ("ours", "compressai"))
        for name, (fastest, median, cpu) in (("mlic_jax", ours), ("CompressAI", theirs)):
            speed = f"{theirs[0] / fastest:.2f}, {theirs[1] / median:.2f}"
            print(f"| {threads} | {name} | {fastest:.2f} | {median:.2f} | {cpu:.2f} | {speed} |")
    if args.json:
        report = {"when": now, "processor": processor(), "cores": os.cpu_count(), "results": results}
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()

"""Kills a training again and again, and checks that its result is that of an undisturbed one.

    python benchmarks/kill_resume.py --kills 20

Trains twice with the same config: once undisturbed, and once killed with SIGKILL at random moments (while it starts,
while it trains, while it writes a checkpoint) and started again with the same command, until it has finished. Then

- every start went on from the newest checkpoint that was complete at the kill,
- the parameters are bit-identical to those of the undisturbed run,
- metrics.jsonl has each step once, with the same loss,

or the program says which of these is not so and exits with 1. It prints a table of the kills.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = str(ROOT / "configs" / "bmshj2018_hyperprior.py:tiny")
# A small model on small patches.
SMALL = (
    "model.arguments.N=8",
    "model.arguments.M=12",
    "data.patch_size=64",
    "data.validation_patch=64",
    "data.validation_images=2",
    "train.checkpoint_every=3",
    "train.samples=0",
)
CHANGES = (
    *SMALL,
    "train.steps=600",
    "train.evaluate_every=25",
    "train.log_every=1",
)
MOMENTS = ("any time", "training", "writing")


class Run:
    """One workdir, and the processes that train in it."""

    def __init__(self, workdir: pathlib.Path, config: str, changes):
        self.workdir = workdir
        # As an undisturbed `mlic train`; not --quiet, since it says from where it goes on.
        self.command = [
            sys.executable,
            "-m",
            "mlic_jax",
            "train",
            "--config",
            config,
            "--workdir",
            str(workdir),
        ]
        self.command += [f"--config.{change}" for change in changes]
        self.output = workdir.with_suffix(".log")

    def start(self) -> subprocess.Popen:
        with self.output.open("wb") as output:
            return subprocess.Popen(self.command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)

    def finish(self) -> None:
        if self.start().wait():
            sys.exit(f"{' '.join(self.command)}\nfailed:\n{self.output.read_text()[-3000:]}")

    def resumed_at(self) -> int | None:
        """From where the last start went on; None if it had not come so far."""
        text = self.output.read_text()
        match = re.search(r"resumed at step (\d+)", text)
        return int(match.group(1)) if match else (0 if "compiling" in text else None)

    def last_step(self) -> int:
        path = self.workdir / "metrics.jsonl"
        steps = re.findall(rb'^\{"step": (\d+),.*\n', path.read_bytes(), re.MULTILINE) if path.exists() else []
        return int(steps[-1]) if steps else 0

    def complete(self) -> list[int]:
        """Steps of checkpoints that are whole: Orbax gives them their name then."""
        return sorted(int(name) for name in self._checkpoints() if name.isdigit())

    def partial(self) -> list[str]:
        return sorted(name for name in self._checkpoints() if not name.isdigit())

    def _checkpoints(self):
        folder = self.workdir / "checkpoints"
        return os.listdir(folder) if folder.is_dir() else []

    def records(self, kind: str) -> list[dict]:
        lines = (json.loads(line) for line in (self.workdir / "metrics.jsonl").read_text().splitlines())
        return [line for line in lines if line["kind"] == kind]

    def params(self):
        from mlic_jax.fileformat.artifact import flatten
        from mlic_jax.training.runs import load_run

        _, params, state, _ = load_run(self.workdir, "latest")
        return flatten({"params": params, "state": state})


def kill_once(run: Run, moment: str, rng: random.Random) -> bool:
    """Starts a run and kills it at that moment; False if it ended before."""
    process = run.start()

    def until(reached, seconds=300.0):
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline and not reached():
            time.sleep(0.001)

    if moment == "any time":
        until(lambda: False, rng.uniform(0.0, 15.0))
    elif moment == "training":
        until(lambda: "compiling" in run.output.read_text())
        begin, steps = run.last_step(), rng.randint(1, 12)
        until(lambda: not begin <= run.last_step() < begin + steps)
        time.sleep(rng.uniform(0.0, 0.1))
    else:
        known = set(run.partial())
        count = rng.randint(1, 4)  # of new checkpoints that begin, the one to be hit

        def another_begins():
            nonlocal count
            new = set(run.partial()) - known
            known.update(new)
            count -= bool(new)
            return count <= 0

        until(another_begins)
        time.sleep(rng.uniform(0.0, 0.02))
    process.kill()
    return process.wait() != 0


def check(condition: bool, what: str) -> None:
    if not condition:
        sys.exit(f"FAILED: {what}")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default=CONFIG, help="as of mlic train")
    parser.add_argument("--set", nargs="*", default=CHANGES, metavar="KEY=VALUE", help="changes to the config")
    parser.add_argument("--workdir", help="where to train (default: a temporary folder)")
    options = parser.parse_args(arguments)
    folder = pathlib.Path(options.workdir or tempfile.mkdtemp(prefix="kill_resume_"))
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)

    undisturbed = Run(folder / "undisturbed", options.config, options.set)
    undisturbed.finish()
    run = Run(folder / "killed", options.config, options.set)
    print("| kill | moment | resumed at | killed after step | complete checkpoints | half written |")
    print("|---:|---|---:|---:|---|---:|")
    newest = 0
    for number in range(1, options.kills + 1):
        moment = MOMENTS[(number - 1) % len(MOMENTS)]
        check(kill_once(run, moment, rng), "the training ended before the last kill: raise train.steps")
        resumed, complete = run.resumed_at(), run.complete()
        check(resumed in (None, newest), f"resumed at step {resumed}, but the checkpoint of step {newest} was complete")
        check(max(complete, default=0) >= newest, f"the checkpoint of step {newest} is gone: {complete}")
        newest = max(complete, default=0)
        row = (number, moment, "-" if resumed is None else resumed, run.last_step(), complete, len(run.partial()))
        print("|", " | ".join(map(str, row)).replace("[", "").replace("]", ""), "|", flush=True)
    run.finish()
    check(run.resumed_at() == newest, f"resumed at step {run.resumed_at()} instead of {newest}")

    import numpy as np

    steps = [record["step"] for record in run.records("train")]
    check(steps == list(range(1, len(steps) + 1)), f"metrics.jsonl has the steps {steps}")
    for kind in ("train", "validation"):
        losses, wanted = ([(r["step"], r["loss"]) for r in one.records(kind)] for one in (run, undisturbed))
        check(losses == wanted, f"the {kind} losses differ")
    params, wanted = run.params(), undisturbed.params()
    check(params.keys() == wanted.keys(), "other parameters")
    for name in params:
        check(np.array_equal(params[name], wanted[name]), f"{name} differs")
    check(not run.partial() and not (run.workdir / "damaged").exists(), "something half written is left")

    import jax

    print(
        f"\n{options.kills} kills, {len(steps)} steps: parameters bit-identical ({len(params)} arrays), each step and "
        f"loss once in metrics.jsonl.\n{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device, Python {platform.python_version()}, "
        f"jax {jax.__version__}, seed {options.seed}."
    )


if __name__ == "__main__":
    main()

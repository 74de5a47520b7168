"""What a training survives, and how it ends where it does not.

    python benchmarks/survival.py flips signals together kills

flips     single bits of a checkpoint are flipped: each flip has to be noticed, or to change nothing
signals   SIGTERM, SIGINT, SIGHUP and SIGUSR1 to a run that saves rarely: the step at work is saved
together  two processes, of which one fails, is killed, is asked to stop, does not come or has other photos: seconds
          until both have ended, exit statuses, last lines
kills     a long run, killed again and again: memory stays as it is, logs have each step once

Prints tables, and exits with 1 where one of these is not so. benchmarks/kill_resume.py compares parameters after kills.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from kill_resume import ROOT, SMALL, Run, check

# For flips: a small model, whose checkpoints are mostly arrays.
CONFIG = str(ROOT / "configs" / "bmshj2018_factorized.py:tiny")
CHANGES = (*SMALL, "train.steps=6")
# For all else: a linear autoencoder, which compiles in a second, and a run that saves at its end alone. Where a step is
# named, process 1 fails at its batch.
TOY = """
import os, sys
sys.path.insert(0, {tests!r})
import toys
from mlic_jax.data import pipeline

class Failing(pipeline.TrainIterator):
    def __next__(self):
        if os.environ.get("MLIC_PROCESS") == "1" and self.get_state()["step"] == {fails}:
            raise RuntimeError("a fault of process 1")
        return super().__next__()

if {fails} is not None:
    pipeline.TrainIterator = Failing
toys.zoo.MODELS.update(toys.ENTRIES)
def get_config():
    return toys.config({{"train.steps": 10**6, "train.checkpoint_every": 10**6}}, "toy")
"""


def toy(folder: pathlib.Path, fails: int | None = None) -> str:
    """The path of a config file."""
    path = folder / f"toy_{fails}.py"
    path.write_text(TOY.format(tests=str(ROOT / "tests"), fails=fails))
    return str(path)


def until(reached, seconds=600.0):
    deadline = time.monotonic() + seconds
    while not reached():
        check(time.monotonic() < deadline, "this takes too long")
        time.sleep(0.05)


def flips(folder: pathlib.Path, count: int, rng: random.Random) -> None:
    """Flips one bit after the other, and restores."""
    import jax
    import numpy as np

    from mlic_jax.training import config as configs
    from mlic_jax.training.checkpoint import Checkpoints
    from mlic_jax.training.runs import initialise, make_codec

    run = Run(folder / "flips", CONFIG, CHANGES)
    run.finish()
    config = configs.load(CONFIG, [f"--config.{change}" for change in CHANGES])
    state = initialise(make_codec(config), config)

    def restored():
        return Checkpoints(run.workdir, read_only=True).restore(state)

    whole, latest = restored(), run.workdir / "checkpoints" / "6"
    files = [path for path in sorted(latest.rglob("*")) if path.is_file()]
    sizes = [path.stat().st_size for path in files]
    outcomes = {"noticed": 0, "harmless": 0, "restored": 0}
    for _ in range(count):
        (path,) = rng.choices(files, sizes)
        before = path.read_bytes()
        after = bytearray(before)
        after[rng.randrange(len(after))] ^= 1 << rng.randrange(8)
        path.write_bytes(after)
        found = restored()
        same = all(map(np.array_equal, jax.tree.leaves(found.state), jax.tree.leaves(whole.state)))
        same &= (found.data, found.config) == (whole.data, whole.config)
        outcomes["noticed" if found.step == 3 else "harmless" if same else "restored"] += 1
        path.write_bytes(before)
    print(f"{count} flips of single bits in {sum(sizes)} bytes: {outcomes}")
    check(not outcomes["restored"], "a damaged checkpoint was restored")


def signals(folder: pathlib.Path) -> None:
    """One run, asked to stop in four ways."""
    run = Run(folder / "signals", toy(folder), ())
    print("| signal | saved at step | steps lost | seconds | exit status |\n|---|---:|---:|---:|---:|")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        begin = run.last_step()
        process = run.start()
        until(lambda begin=begin: run.last_step() >= begin + 10)
        began = time.monotonic()
        process.send_signal(number)
        status = process.wait()
        saved, last = max(run.complete()), run.last_step()
        print(f"| {number.name} | {saved} | {last - saved} | {time.monotonic() - began:.1f} | {status} |", flush=True)
        check(saved == last and status == 75, run.output.read_text()[-2000:])
        check(f"{number.name}: the run ends with the checkpoint of step {saved}" in run.output.read_text(), "no word")


class Pair:
    """Two processes of one run."""

    def __init__(self, folder: pathlib.Path, config: str, changes=((), ()), alone: int | None = None):
        with socket.socket() as found:
            found.bind(("localhost", 0))
            port = found.getsockname()[1]
        self.began, self.processes, self.runs = time.monotonic(), {}, {}
        for index in (0, 1) if alone is None else (alone,):
            run = Run(folder, config, changes[index])
            run.output = folder.with_suffix(f".{index}.log")
            about = {"MLIC_COORDINATOR": f"localhost:{port}", "MLIC_PROCESSES": "2", "MLIC_PROCESS": str(index)}
            environment = os.environ | about | {"MLIC_START_SECONDS": "60", "JAX_NUM_CPU_DEVICES": "1"}
            with run.output.open("wb") as output:
                self.processes[index] = subprocess.Popen(
                    run.command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
                )
            self.runs[index] = run

    def ended(self, what: str, since: float | None = None) -> list[int]:
        """Waits, prints a row, and returns the exit statuses."""
        statuses = [process.wait(600) for process in self.processes.values()]
        seconds = time.monotonic() - (since or self.began)
        lines = [run.output.read_text().strip().splitlines()[-1] for run in self.runs.values()]
        print(f"| {what} | {seconds:.1f} | {statuses} | {' / '.join(lines)} |", flush=True)
        return statuses

    def training(self, steps: int = 5) -> float:
        until(lambda: self.runs[0].last_step() >= steps or any(p.poll() is not None for p in self.processes.values()))
        return time.monotonic()


def together(folder: pathlib.Path) -> None:
    """Two processes, and what may happen to one of them. Seconds from what happens until both have ended."""
    print("| what happens | seconds | exit statuses | last lines |\n|---|---:|---|---|")
    config = toy(folder)
    pair = Pair(folder / "exception", toy(folder, fails=100))
    since = pair.training(90)
    check(pair.ended("an exception in process 1", since) == [1, 1], "other statuses")
    for number, index in ((signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGTERM, 1)):
        pair = Pair(folder / f"{number.name}-{index}", config)
        since = pair.training()
        pair.processes[index].send_signal(number)
        statuses = pair.ended(f"{number.name} to process {index}", since)
        expected = [75, 75] if number == signal.SIGTERM else [-9, 7] if index == 0 else [7, -9]
        check(statuses == expected, f"other statuses: {statuses}")
    for index, name in ((1, "0, the coordinator,"), (0, "1")):
        pair = Pair(folder / f"absent-{index}", config, alone=index)
        check(pair.ended(f"process {name} does not come within 60 s") == [7], "another status")
    for name, count in (("many", 8), ("few", 5)):
        (folder / name).mkdir()
        for path in sorted((ROOT / "mlic_jax" / "data" / "photos").glob("*.png"))[:count]:
            shutil.copy(path, folder / name)
    changes = tuple((f"data.source={folder / name}",) for name in ("many", "few"))
    check(Pair(folder / "photos", config, changes).ended("photos differ") == [2, 2], "other statuses")


def kills(folder: pathlib.Path, count: int, steps: int, rng: random.Random) -> None:
    """A long run that is killed again and again."""
    run = Run(folder / "kills", toy(folder), (f"train.steps={steps}", "train.checkpoint_every=10"))
    for _ in range(count):
        begin, process = run.last_step(), run.start()
        wanted = begin + rng.randint(10, steps // (2 * count))
        until(lambda wanted=wanted: run.last_step() >= wanted)
        process.kill()
        process.wait()
    process, sizes = run.start(), {}
    while process.poll() is None:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        if "VmRSS" in status and (step := run.last_step()):
            sizes[step] = int(status.split("VmRSS:")[1].split()[0]) / 1024
        time.sleep(0.2)
    check(process.returncode == 0, run.output.read_text()[-2000:])
    seen = [record["step"] for record in run.records("train")]
    check(seen == list(range(1, steps + 1)), "metrics.jsonl lacks steps, or has some twice")
    begin = min(sizes)
    early = max(size for step, size in sizes.items() if step <= begin + 200)
    late = max(size for step, size in sizes.items() if step > steps - 200)
    print(
        f"{steps} steps, {count} kills: each step once in metrics.jsonl; at most {early:.0f} MiB in the first 200 steps"
    )
    print(f"after the last kill (from step {begin}), {late:.0f} MiB in the last 200")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("flips", "signals", "together", "kills"))
    parser.add_argument("--flips", type=int, default=40)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000, help="of the part kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    folder, rng = pathlib.Path(tempfile.mkdtemp(prefix="survival_")), random.Random(options.seed)
    parts = {
        "flips": lambda: flips(folder, options.flips, rng),
        "signals": lambda: signals(folder),
        "together": lambda: together(folder),
        "kills": lambda: kills(folder, options.kills, options.steps, rng),
    }
    for name in options.parts:
        print(f"\n{name}\n", flush=True)
        parts[name]()
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())

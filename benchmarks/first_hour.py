"""A newcomer's first hour, timed: an empty folder, a fresh environment, nothing but the wheel.

    python benchmarks/first_hour.py [--python python3.13] [--photos FOLDER] [--steps 300] [--log hour.log]

Builds the wheels of this checkout and installs them into a new environment. Then, in an empty folder, as README has it:
photos are compressed and back; a command whose extra is missing says what installs it; a model is trained on the folder
of photos, interrupted by Ctrl-C, and trained on; it is evaluated, exported and used. Nothing of the checkout is on
Python's path. Where a command ends with another exit code than it should, this is said, and the program ends with 1.

Printed: each command with its seconds and the last line that it wrote; what environment and folder take on disk. All
output goes into the log.
"""

import argparse
import datetime
import functools
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
TRAIN = (
    "mlic train --config mbt2018_mean:tiny --workdir runs/tiny --config.data.source=photos --steps {steps} "
    "--config.train.checkpoint_every=50"
)
# (command, exit code). `first` is a photo's name without its ending.
USE = (
    ("python -m mlic_jax --version", 0),
    ("mlic --help", 0),
    ("mlic compress photos/{first}.png", 0),
    ("mlic compress photos/{first}.png -f -q 70", 0),
    ("mlic compress photos/{first}.png --target-size 20000 -o small.mlic", 0),
    ("mlic compress photos/*.png -o small -j 2", 0),
    ("mlic info small/{first}.mlic", 0),
    ("mlic decompress small/{first}.mlic -o back.png", 0),
    ("mlic decompress small/{first}.mlic -o back.png", 3),
    ("mlic compress small/{first}.mlic", 2),
    ("mlic models", 0),
    ("mlic compress photos/{first}.png -m kltnet -o x.mlic", 5),
    ("mlic compress photos/{first}.png -m base -o x.mlic", 5),
    ("pip install {base}", 0),
    ("mlic compress photos/{first}.png -m base -o base.mlic", 0),
    ("mlic decompress base.mlic -o base.png", 0),
    ("mlic configs", 0),
    ("mlic export --run runs/tiny -o tiny.mlicm", 3),
    ("mlic train --config mbt2018_mean:tiny --workdir runs/tiny", 2),
    ("pip install {wheel}[train,bench]", 0),
)
AFTER = (
    ("mlic evaluate --run runs/tiny --images photos", 0),
    ("mlic export --run runs/tiny -o tiny.mlicm", 0),
    ("mlic info tiny.mlicm", 0),
    ("mlic compress photos/{first}.png -m tiny.mlicm -o own.mlic", 0),
    ("mlic decompress own.mlic -m tiny.mlicm -o own.png", 0),
    ("mlic benchmark --images photos --codecs jpeg,webp --models ours=tiny.mlicm --out report", 0),
    ("mlic claim jiang2017 --dry-run", 0),
)


class Stranger:
    """Types commands in a folder, with an environment's programs first on the path, and notes what happens."""

    def __init__(self, folder, environment, log, names):
        self.folder, self.log, self.names, self.wrong = folder, log, names, 0
        hidden = {"PYTHONPATH", "JAX_COMPILATION_CACHE_DIR", "MLIC_MODEL", "MLIC_MODELS"}
        self.variables = {name: value for name, value in os.environ.items() if name not in hidden}
        self.variables["PATH"] = f"{environment / 'bin'}:{self.variables['PATH']}"

    def type(self, command, expected=0, interrupt_at=None):
        """Runs a command; `interrupt_at`: once this file exists, Ctrl-C is pressed."""
        command = command.format(**self.names)
        begin, start = time.perf_counter(), self.log.tell()
        self._write(f"$ {command}\n")
        running = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's `&` ignores it
        )
        while interrupt_at is not None and running.poll() is None:
            if list(self.folder.glob(interrupt_at)):
                running.send_signal(signal.SIGINT)
                break
            time.sleep(0.2)
        code = running.wait()
        seconds = time.perf_counter() - begin
        self._write(f"exit code {code}, {seconds:.1f} s\n\n")
        shown = command.replace(str(self.names["wheel"].parent), "WHEELS")
        print(f"{seconds:6.1f} s  {shown}{'  (Ctrl-C)' if interrupt_at else ''}")
        print(f"          {self._last_line(start)}", flush=True)
        if code != expected:
            self.wrong += 1
            print(f"          exit code {code} where {expected} was expected")

    def _write(self, text):
        self.log.write(text.encode())
        self.log.flush()

    def _last_line(self, start):
        said = pathlib.Path(self.log.name).read_bytes()[start:].decode(errors="replace").replace("\r", "\n")
        lines = [line.strip() for line in said.splitlines()[1:-2] if line.strip()]
        return lines[-1][:150] if lines else "(nothing)"


def megabytes(folder) -> float:
    """What the files of a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def built(python, project, folder) -> pathlib.Path:
    """The wheel of a project."""
    before = set(folder.glob("*.whl"))
    subprocess.run(
        [python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, project], check=True, stderr=subprocess.DEVNULL
    )
    (wheel,) = set(folder.glob("*.whl")) - before
    print(f"{wheel.stat().st_size / 1e6:6.1f} MB {wheel.name}")
    return wheel


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the new environment")
    parser.add_argument("--photos", default=ROOT / "mlic_jax" / "data" / "photos", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=300, help="of the training")
    parser.add_argument("--log", default="hour.log", help="where all output goes")
    return parser.parse_args()


def main():
    options = parsed()
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder, open(options.log, "w+b") as log:
        folder = pathlib.Path(folder)
        environment, wheels, home = (folder / name for name in ("environment", "wheels", "folder"))
        wheels.mkdir()
        home.mkdir()
        wheel, base = (built(options.python, project, wheels) for project in (ROOT, ROOT / "weights"))
        shutil.copytree(options.photos, home / "photos")
        first = min((home / "photos").glob("*.png")).stem
        begin = time.perf_counter()
        stranger = Stranger(home, environment, log, {"wheel": wheel, "base": base, "first": first})
        stranger.type(f"{options.python} -m venv {environment}")
        stranger.type("python --version")
        stranger.type("pip install {wheel}")
        print(f"{megabytes(environment):6.0f} MB environment")
        for command, expected in USE:
            stranger.type(command, expected)
        print(f"{megabytes(environment):6.0f} MB environment")
        train = TRAIN.format(steps=options.steps)
        stranger.type(train, expected=130, interrupt_at="runs/tiny/checkpoints/[1-9]*")
        stranger.type(train)
        for command, expected in AFTER:
            stranger.type(command, expected)
        print(f"{megabytes(home):6.0f} MB folder, of them {megabytes(home / 'runs'):.0f} of the run")
        print(f"{(time.perf_counter() - begin) / 60:6.1f} minutes in all")
    return int(stranger.wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

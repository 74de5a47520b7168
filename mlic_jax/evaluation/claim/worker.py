"""One training in a process of its own, as `mlic train` would run it.

The process that starts it (`training`) writes one line of JSON on its standard input and keeps that open: when it
ends, because that process was killed, training saves and ends too. What goes wrong is one line on standard output.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

import mlic_jax
from mlic_jax import atomic
from mlic_jax.errors import MlicError

# In a run's folder: on what it was trained last.
MACHINE = "machine.json"


def train_here(job: Mapping[str, Any]) -> None:
    """Trains in this process, and notes the machine. job: {"config", "workdir", "quiet"}. Raises as `train.train`."""
    from ml_collections import ConfigDict

    from mlic_jax.training.train import train

    config = ConfigDict(job["config"])
    train(config, job["workdir"], job["quiet"])
    atomic.write_bytes(pathlib.Path(job["workdir"], MACHINE), json.dumps(machine()).encode())


def machine() -> dict[str, Any]:
    """{"cores", "accelerator", "versions"} of this process."""
    import jax

    from mlic_jax import runtime

    kinds = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    versions = f"mlic_jax {mlic_jax.__version__}, jax {jax.__version__}, Python {platform.python_version()}"
    accelerator = f"{len(kinds)} x {kinds[0]}" if kinds else "none"
    return {"cores": runtime.cores(), "accelerator": accelerator, "versions": versions}


def main() -> int:
    """Trains what standard input says; returns the exit status."""
    job = json.loads(sys.stdin.readline())

    def outlive_nobody():
        while os.read(0, 1):  # not sys.stdin: its lock, held here, would be missed when Python ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=outlive_nobody, daemon=True).start()
    from ml_collections import ConfigDict

    from mlic_jax import runtime
    from mlic_jax.training import parallel
    from mlic_jax.training.config import batch_parts

    # Output is for errors alone: a library that prints would be taken for one.
    words, sys.stdout = sys.stdout, sys.stderr
    runtime.prepare_jax(start=False)
    config = ConfigDict(job["config"])
    try:
        parallel.use_all_cores(config.data.batch_size, batch_parts(config))
        train_here(job)
    except MlicError as reason:
        print(" ".join(str(reason).split()), file=words, flush=True)
        return reason.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

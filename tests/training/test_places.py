"""Workdirs in buckets: a run there is killed and goes on; what is no bucket is refused at the start."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import bucket_server
import numpy as np
import pytest
import toys

from mlic_jax.errors import UsageError
from mlic_jax.training import places
from mlic_jax.training.runs import load_run
from mlic_jax.training.train import train


@pytest.fixture
def bucket(tmp_path):
    """(the folder behind gs://, variables for programs that use it)."""
    root = tmp_path / "buckets"
    (root / "bucket").mkdir(parents=True)
    server = bucket_server.start(root)
    yield root, bucket_server.environment(server, root, tmp_path / "stand_in")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("workdir", ["s3://b/x", "hdfs://b/x", "gs://", "file:///tmp/x"])
def test_other_schemes_are_refused_by_name(workdir, monkeypatch, tmp_path, toy_zoo):
    monkeypatch.chdir(tmp_path)
    for start in (lambda: train(toys.config(model="toy"), workdir), lambda: load_run(workdir)):
        with pytest.raises(UsageError, match=rf"{workdir}': expected a folder, or gs://BUCKET/PATH"):
            start()
    assert not list(tmp_path.iterdir())


def test_without_its_libraries_a_bucket_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(UsageError, match=r"gs://b/x' needs gcsfs.*\[gcs\]"):
        load_run("gs://b/x")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_a_folder():
    assert places.path_of("runs/x").as_posix() == "runs/x" and not places.in_bucket("gs:/b/x")


def start(environment, workdir, steps):
    """A training in a process of its own; it writes to workdir's name with .npz and .log in the folder `out`."""
    out = pathlib.Path(environment["OUT"])
    changes = {"train.checkpoint_every": 5, "train.log_every": 1, "train.evaluate_every": 5, "train.steps": steps}
    name = pathlib.PurePosixPath(workdir).name
    run = {"workdir": workdir, "out": out / f"{name}.npz", "changes": changes, "model": "toy"}
    return toys.start_training([run], out / f"{name}.log", **environment)


def test_a_run_in_a_bucket_is_killed_and_goes_on(bucket, tmp_path):
    root, environment = bucket
    environment["OUT"], folder = str(tmp_path), root / "bucket" / "runs" / "parts"
    process = start(environment, "gs://bucket/runs/parts", 10**6)
    deadline = time.monotonic() + 300
    while len(list(folder.glob("checkpoints/*/commit_success.txt"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "parts.log").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = max(int(path.parent.name) for path in folder.glob("checkpoints/*/commit_success.txt"))
    steps = saved + 5
    processes = [start(environment, workdir, steps) for workdir in ("gs://bucket/runs/parts", tmp_path / "whole")]
    for process in processes:
        assert process.wait(300) == 0, (tmp_path / "parts.log").read_text()

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, steps + 1))
    for name in ("config.json", "parameters.txt", f"checkpoints/{steps}/commit_success.txt"):
        assert (folder / name).is_file()
    assert len(list(folder.glob("events/*"))) == 2
    with np.load(tmp_path / "whole.npz") as one, np.load(tmp_path / "parts.npz") as other:
        assert one["step"] == steps and one.files == other.files
        for name in set(one.files) - {"compiled"}:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)

    # As export and evaluate read it.
    program = f"""
import sys; sys.path.insert(0, {os.path.dirname(toys.__file__)!r})
import toys; from mlic_jax import zoo; zoo.MODELS.update(toys.ENTRIES)
from mlic_jax.training.runs import _validated, load_run
print(load_run("gs://bucket/runs/parts", "latest").step, *_validated("gs://bucket/runs/parts", {steps}))
"""
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(steps), "validation"], done.stderr

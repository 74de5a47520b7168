"""The same training on 1, 2 and 8 devices and in 2 processes.

With SGD and without clipping: Adam and clipping would hide a gradient of the wrong scale. The devices are virtual ones
of the CPU, which jax makes at its start: so each number of them is a process of its own, started at once and waited for
where a test needs it.
"""

import os
import signal
import socket
import time

import jax
import numpy as np
import pytest
import toys

from mlic_jax import zoo
from mlic_jax.errors import TrainingError, UsageError
from mlic_jax.fileformat.artifact import flatten
from mlic_jax.training import parallel, together
from mlic_jax.training.runs import load_run
from mlic_jax.training.train import train

STEPS = 20
# A learning rate at which 20 steps move the parameters by much more than the tolerance.
SGD = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e-5, "optimizer.clip_norm": 0.0, "train.steps": STEPS}
CRITIC = {"train.steps": 3, "data.batch_size": 48, "schedule": ("critic",) * 5 + ("gen",)}
# For the toy: half of a training, and the whole.
WHOLE = {**SGD, "optimizer.learning_rate": 0.1}
HALF = {**WHOLE, "train.steps": STEPS // 2}
GAN = {"train.steps": 3, "data.batch_size": 16}
DEVICES = (pytest.param("2", marks=pytest.mark.slow), "8", "2 processes")


def final(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory, toy_zoo, request):
    """(folder, name -> processes). Files in the folder are named after the run and the devices, as "sgd 8"."""
    folder = tmp_path_factory.mktemp("devices")

    def run(name, devices, changes, model="bmshj2018-hyperprior"):
        return {
            "workdir": folder / f"{name} {devices}",
            "out": folder / f"{name} {devices}.npz",
            "changes": changes,
            "model": model,
        }

    def runs(devices):
        return [
            run("sgd", devices, SGD),
            run("whole", devices, WHOLE, "toy") if devices == "1" else run("half", devices, HALF, "toy"),
            run("gan", devices, GAN, "toy-gan"),
            run("critic", devices, CRITIC, "toy-gan"),
        ]

    started = {}
    for devices in ("8", "2") if request.config.getoption("--slow") else ("8",):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        started[devices] = [toys.start_training(runs(devices), folder / f"log {devices}", XLA_FLAGS=flags)]
    together = {"MLIC_COORDINATOR": f"localhost:{free_port()}", "MLIC_PROCESSES": "2"}
    # The last run of the two processes goes on until the test of SIGTERM ends it.
    endless = run("endless", "2 processes", {"train.steps": 10**6, "train.checkpoint_every": 10**6}, "toy")
    started["2 processes"] = [
        toys.start_training([*runs("2 processes"), endless], folder / f"log {index}", **together, MLIC_PROCESS=index)
        for index in ("0", "1")
    ]
    for one in runs("1"):
        state = train(toys.config(one["changes"], one["model"]), one["workdir"], quiet=True)
        arrays = flatten({"params": jax.device_get(state.params), "state": jax.device_get(state.state)})
        np.savez(one["out"], **arrays, devices=1, processes=1, compiled=1)
    yield folder, started
    for process in sum(started.values(), []):
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for(jobs, devices, name):
    """Waits until a run has written its outcome."""
    folder, started = jobs
    deadline = time.monotonic() + 300
    while not (folder / f"{name} {devices}.npz").exists():
        failed = any(process.poll() not in (None, 0) for process in started.get(devices, []))
        if failed or time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("log *")))
            pytest.fail(f"the run {name!r} on {devices} did not end:\n{logs}")
        time.sleep(0.1)
    time.sleep(0.2)  # np.savez may still be writing
    return final(folder, f"{name} {devices}")


def params_of(found):
    return {name: value for name, value in found.items() if name.startswith("params/")}


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


@pytest.mark.parametrize("devices", DEVICES)
def test_parameters_do_not_depend_on_the_devices(jobs, devices):
    folder, _ = jobs
    found, one = wait_for(jobs, devices, "sgd"), final(folder, "sgd 1")
    assert (found["devices"], found["processes"]) == {"2": (2, 1), "8": (8, 1), "2 processes": (2, 2)}[devices]
    assert found["compiled"] == 1
    codec = zoo.make("bmshj2018-hyperprior", N=8, M=12, lmbda=0.01)
    start = flatten({"params": codec.init(jax.random.key(0), (64, 64, 3))[0]})
    moved = largest_difference(start, params_of(one))
    difference = largest_difference(params_of(found), params_of(one))
    print(f"{devices}: parameters moved by up to {moved:.2e} and differ by up to {difference:.2e}")
    assert moved > 1e-3
    assert difference < 1e-6

    ours, theirs = toys.lines(folder / f"sgd {devices}"), toys.lines(folder / "sgd 1")
    assert [record["step"] for record in ours] == [record["step"] for record in theirs] == list(range(1, STEPS + 1))
    for key in ("loss", "grad_norm", "bpp", "mse255"):
        np.testing.assert_allclose([r[key] for r in ours], [r[key] for r in theirs], rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("devices", DEVICES)
def test_objectives_get_the_same_examples_on_all_devices(jobs, devices):
    folder, _ = jobs
    for name in ("gan", "critic"):
        found, one = wait_for(jobs, devices, name), final(folder, f"{name} 1")
        assert largest_difference(params_of(found), params_of(one)) < 1e-6
        for ours, theirs in zip(
            toys.lines(folder / f"{name} {devices}"), toys.lines(folder / f"{name} 1"), strict=True
        ):
            for key in theirs:
                if "seen" in key:  # names the positions, see test_step.py
                    assert ours[key] == theirs[key]
                elif key not in ("kind", "steps_per_second", "examples_per_second", "data_wait_ms"):
                    np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("devices", ["8", "2 processes"])
def test_a_checkpoint_of_many_devices_goes_on_on_one(jobs, devices):
    folder, _ = jobs
    wait_for(jobs, devices, "half")
    workdir = folder / f"half {devices}"
    with toys.CompileCount() as count:
        state = train(toys.config(WHOLE, "toy"), workdir, quiet=True)
    assert count.steps() == 1
    assert int(state.step) == STEPS
    found = flatten({"params": jax.device_get(state.params)})
    assert largest_difference(found, params_of(final(folder, "whole 1"))) < 1e-6
    assert [record["step"] for record in toys.lines(workdir)] == list(range(1, STEPS + 1))
    assert toys.same(load_run(workdir, "latest")[1], state.params)


def test_sigterm_to_one_process_ends_all_with_a_checkpoint(jobs):
    folder, started = jobs
    wait_for(jobs, "2 processes", "critic")
    workdir = folder / "endless 2 processes"
    deadline = time.monotonic() + 120
    while not (workdir / "metrics.jsonl").exists() or len(toys.lines(workdir)) < 3:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in started["2 processes"])
        time.sleep(0.1)
    started["2 processes"][1].send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in started["2 processes"]] == [0, 0]
    (saved,) = (int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert final(folder, "endless 2 processes")["step"] == saved
    assert [record["step"] for record in toys.lines(workdir)] == list(range(1, saved + 1))
    with pytest.raises(TrainingError, match="seed: 0 in the checkpoint, 1 now"):
        train(toys.config({"seed": 1}, "toy"), workdir, quiet=True)


def test_batches_that_cannot_be_dealt_out():
    devices = jax.device_count()
    parallel.check_batch(6 * devices, 3)
    for size in (0, devices, 4 * devices):
        with pytest.raises(UsageError, match=rf"data.batch_size {size} must be a multiple of {3 * devices}"):
            parallel.check_batch(size, 3)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MLIC_COORDINATOR": "localhost:1"}, "MLIC_PROCESSES, MLIC_PROCESS is not set"),
        ({"MLIC_COORDINATOR": "localhost:1", "MLIC_PROCESSES": "2"}, "MLIC_PROCESS is not set"),
        ({"MLIC_COORDINATOR": "localhost:1", "MLIC_PROCESSES": "two", "MLIC_PROCESS": "0"}, "MLIC_PROCESSES 'two'"),
        ({"MLIC_COORDINATOR": "localhost:1", "MLIC_PROCESSES": "2", "MLIC_PROCESS": "2"}, "MLIC_PROCESS '2'"),
    ],
)
def test_incomplete_environments_are_errors(monkeypatch, environment, words):
    for name in ("MLIC_COORDINATOR", "MLIC_PROCESSES", "MLIC_PROCESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        together.start_processes()


def test_replicate_copies():
    # The step donates the state: memory shared with the caller's arrays would be overwritten.
    values = {"a": np.arange(2000, dtype=np.float32), "b": np.int32(4)}
    step = parallel.pmap(lambda tree, batch: (jax.tree.map(lambda x: x * 0 - 1, tree), {}))
    batch = parallel.shard({"x": np.zeros((jax.device_count(), 1), np.float32)})
    done, _ = step(parallel.replicate(values), batch)
    jax.block_until_ready(done)
    assert np.array_equal(values["a"], np.arange(2000))
    assert float(parallel.local(done)["a"].sum()) == -2000

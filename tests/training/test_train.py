"""The training loop: same bits however it is interrupted, and one line for whatever goes wrong."""

import importlib.util
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings

import jax
import numpy as np
import pytest
import toys
from PIL import Image

from mlic_jax import data
from mlic_jax.errors import InputError, MlicError, ModelError, TrainingError, UsageError
from mlic_jax.fileformat.artifact import flatten
from mlic_jax.training import lock, parallel
from mlic_jax.training.checkpoint import Checkpoints, differences
from mlic_jax.training.config import validation_source
from mlic_jax.training.runs import load_run, make_codec
from mlic_jax.training.train import train

pytestmark = pytest.mark.usefixtures("toy_zoo")
ROOT = pathlib.Path(__file__).parents[2]


def run(workdir, changes=None, model="toy", **arguments):
    """The final train state, on the host."""
    return jax.device_get(parallel.local(train(toys.config(changes, model, **arguments), workdir, quiet=True)))


def steps_of(workdir, kind="train"):
    return [record["step"] for record in toys.lines(workdir, kind)]


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def undisturbed(toy_zoo, tmp_path_factory):
    """20 steps of the toy in one go: (workdir, final state)."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, run(workdir)


# ---------------------------------------------------------------------- the same bits


def test_a_seed_decides_everything(undisturbed, tmp_path):
    assert toys.same(run(tmp_path / "again"), undisturbed[1])
    assert not toys.same(run(tmp_path / "other", {"seed": 1}).params, undisturbed[1].params)


def test_watching_does_not_disturb(undisturbed, tmp_path):
    changes = {
        "train.evaluate_every": 3,
        "train.checkpoint_every": 4,
        "train.log_every": 7,
        "train.samples": 2,
        "data.threads": 2,
        "data.validation_images": 3,
    }
    assert toys.same(run(tmp_path, changes), undisturbed[1])
    assert steps_of(tmp_path) == [7, 14, 20]
    assert steps_of(tmp_path, "validation") == [3, 6, 9, 12, 15, 18, 20]
    assert len(list((tmp_path / "samples").glob("step_*.png"))) == 7
    assert json.loads((tmp_path / "config.json").read_text())["train"]["log_every"] == 7
    assert "encoder/kernel" in (tmp_path / "parameters.txt").read_text()


def test_a_resumed_run_is_an_undisturbed_run_and_compiles_once(undisturbed, tmp_path):
    events = {"train.checkpoint_every": 3, "train.evaluate_every": 5, "train.ema": 0.5}
    whole = run(tmp_path / "whole", events)
    with warnings.catch_warnings(), toys.CompileCount() as count:
        warnings.simplefilter("error")  # of donated memory that cannot be reused, for one
        for steps in (1, 7, 13, 20, 20):
            before, state = count.steps(), run(tmp_path / "parts", {**events, "train.steps": steps})
            assert int(state.step) == steps
            # Neither logging, validation nor checkpoints, nor the types of a restored state compile it a second time.
            assert count.steps() - before == (0 if before == 4 else 1)
    assert toys.same(state, whole)
    assert toys.same(state.params, undisturbed[1].params)  # an average changes no step
    assert steps_of(tmp_path / "parts") == list(range(1, 21))
    losses = [[record["loss"] for record in toys.lines(tmp_path / name)] for name in ("parts", "whole")]
    assert losses[0] == losses[1]


def test_several_objectives_resume_too(tmp_path):
    changes = {"schedule": ("critic", "critic", "gen", "gen"), "optimizers": {"gen": {"learning_rate": 0.1}}}
    whole = run(tmp_path / "whole", changes, "toy-gan")
    for steps in (9, 20):
        parts = run(tmp_path / "parts", {**changes, "train.steps": steps}, "toy-gan")
    assert toys.same(parts, whole)
    assert {"critic/loss", "gen/loss", "gen/grad_norm"} <= set(toys.lines(tmp_path / "whole")[0])


def test_objectives_take_turns_by_phases(tmp_path):
    changes = {"phases": (2, 3), "train.steps": 9}
    whole = run(tmp_path / "whole", changes, "toy-gan")
    turns = ["gen" if "gen/loss" in record else "disc" for record in toys.lines(tmp_path / "whole")]
    assert turns == ["disc"] * 2 + ["gen"] * 3 + ["disc"] * 2 + ["gen"] * 2
    assert all(("gen/loss" in record) != ("disc/loss" in record) for record in toys.lines(tmp_path / "whole"))
    for steps in (1, 4, 9):  # within a phase, at the end of none
        parts = run(tmp_path / "parts", {**changes, "train.steps": steps}, "toy-gan")
    assert toys.same(parts, whole)
    # Each has an optimiser of its own, which has counted its own steps.
    counts = {
        name: {int(a) for a in jax.tree.leaves(state) if a.dtype == np.int32} for name, state in whole.optimizer.items()
    }
    assert counts == {"disc": {4}, "gen": {5}}


def test_a_checkpoint_from_before_a_key_was_invented_goes_on(undisturbed, tmp_path):
    now = json.loads(json.dumps(toys.config().to_dict()))
    before = {key: value for key, value in now.items() if key != "phases"}
    assert differences(before, now) == []
    assert differences(before, {**now, "phases": [1]}) == ["phases: [] in the checkpoint, [1] now"]


def test_a_damaged_checkpoint_costs_steps_but_no_bits(undisturbed, tmp_path, caplog):
    run(tmp_path, {"train.steps": 12, "train.checkpoint_every": 5, "train.keep": 3})
    assert saved_steps(tmp_path) == [5, 10, 12]
    shutil.rmtree(tmp_path / "checkpoints" / "12" / "state")
    with caplog.at_level(logging.WARNING):
        state = run(tmp_path, {"train.checkpoint_every": 1, "train.keep": 20})
    assert "checkpoint cannot be read: step 12" in caplog.text
    assert toys.same(state, undisturbed[1])
    assert saved_steps(tmp_path) == [5, *range(10, 21)]
    assert steps_of(tmp_path) == list(range(1, 21))

    for step in saved_steps(tmp_path):
        shutil.rmtree(tmp_path / "checkpoints" / str(step) / "state")
    with pytest.raises(TrainingError, match="no checkpoint in .* can be read"):
        run(tmp_path)


# ---------------------------------------------------------------------- signals


@pytest.fixture
def command(tmp_path):
    """Starts `mlic train` on a config file: (config expression) -> process."""

    def start(expression, workdir):
        config = tmp_path / "config.py"
        config.write_text(f"import toys\ntoys.zoo.MODELS.update(toys.ENTRIES)\ndef get_config(): return {expression}\n")
        words = [sys.executable, "-m", "mlic_jax", "train", "--config", str(config), "--workdir", str(workdir)]
        path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        # One device, as this process has: runs are the same to the bit for one number of devices.
        env = {**os.environ, "PYTHONPATH": path, "JAX_NUM_CPU_DEVICES": "1"}
        return subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)

    return start


def test_sigterm_saves_and_the_same_command_goes_on(command, tmp_path):
    changes = {"train.steps": 200, "train.log_every": 5}
    workdir = tmp_path / "run"
    process = command(f"toys.config({changes}, 'toy')", workdir)
    while not (workdir / "metrics.jsonl").exists() or not (workdir / "metrics.jsonl").read_bytes():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=60)
    (step,) = saved_steps(workdir)
    assert process.returncode == 75, words
    assert 0 < step < 200, "SIGTERM came too late for this test"
    assert f"SIGTERM: the run ends with the checkpoint of step {step}" in words

    process = command(f"toys.config({changes}, 'toy')", workdir)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0, words
    assert f"resumed at step {step}\n" in words
    assert steps_of(workdir) == list(range(5, 201, 5))
    whole = run(tmp_path / "whole", changes)
    assert toys.same(load_run(workdir, "latest")[1:3], (whole.params, whole.state))


def test_kills_leave_no_trace(tmp_path, capsys, monkeypatch):
    # The short form of benchmarks/kill_resume.py, which says what it checks.
    spec = importlib.util.spec_from_file_location("kill_resume", ROOT / "benchmarks" / "kill_resume.py")
    kill_resume = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill_resume)
    changes = {"train.steps": 60, "train.checkpoint_every": 3, "train.evaluate_every": 20}
    (tmp_path / "config.py").write_text(
        f"import toys\ntoys.zoo.MODELS.update(toys.ENTRIES)\ndef get_config(): return toys.config({changes}, 'toy')\n"
    )
    monkeypatch.setattr(kill_resume, "MOMENTS", ("training", "writing"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    kill_resume.main(
        ["--kills", "2", "--config", f"{tmp_path}/config.py", "--set", "--workdir", str(tmp_path / "runs")]
    )
    assert "2 kills, 60 steps: parameters bit-identical" in capsys.readouterr().out


# ---------------------------------------------------------------------- steps that are not finite


def test_steps_that_are_not_finite_are_counted_and_survive_a_resume(tmp_path):
    bad = {"bad_losses": (4, 5), "bad_gradients": (9,)}
    state = run(tmp_path / "whole", {"train.log_every": 1}, **bad)
    records = toys.lines(tmp_path / "whole")  # which refuses NaN: JSON has none
    assert [record["skipped"] for record in records] == [0] * 4 + [1] + [2] * 4 + [3] * 11
    assert [record["bad_steps"] for record in records[3:7]] == [0, 1, 2, 0]
    assert [record["step"] for record in records if record["loss"] is None] == [5, 6]
    assert [record["step"] for record in records if record["grad_norm"] is None] == [10]
    assert int(state.skipped) == 3
    assert int(state.state["count"]) == 17
    for steps in (5, 20):
        parts = run(tmp_path / "parts", {"train.steps": steps, "train.log_every": 20}, **bad)
    assert toys.same(parts, state)
    # A mean over steps is one over those that could be measured.
    assert np.isfinite(toys.lines(tmp_path / "parts")[-1]["loss"])


def test_too_many_steps_in_a_row_end_the_run(tmp_path):
    bad = {"bad_losses": (2, 3, 6, 7, 8)}
    with pytest.raises(TrainingError) as error:
        run(tmp_path, {"train.max_bad_steps": 3, "train.checkpoint_every": 5}, **bad)
    assert "not finite in 3 steps in a row, up to step 9" in str(error.value)
    assert "optimizer.learning_rate" in str(error.value)
    assert saved_steps(tmp_path) == [5]
    assert steps_of(tmp_path) == list(range(1, 10))  # it went back to 5, once: the next time could be no other
    assert run(tmp_path, {"train.max_bad_steps": 4}, **bad).step == 20  # it is free to change


def test_nothing_is_saved_between_steps_that_are_not_finite(tmp_path):
    run(tmp_path, {"train.checkpoint_every": 5, "train.keep": 9}, bad_losses=(3, 4, 5, 19))
    assert saved_steps(tmp_path) == [7, 10, 15]  # neither 5 nor 20


def test_a_run_goes_back_from_a_checkpoint_from_which_it_cannot_go_on(undisturbed, tmp_path, caplog):
    config = {"train.checkpoint_every": 5, "train.keep": 9}
    run(tmp_path, {**config, "train.steps": 10})
    checkpoints = Checkpoints(tmp_path, 9)
    step, state, position, _ = checkpoints.restore(parallel.replicate(undisturbed[1]))
    adam = jax.tree.map(lambda a: a * np.nan if a.dtype == np.float32 else a, state.optimizer)
    checkpoints.save(12, state._replace(optimizer=adam), position | {"step": 12}, toys.config(config, "toy"))
    checkpoints.close()
    state = run(tmp_path, {**config, "train.max_bad_steps": 3})
    said = (
        "not finite in 3 steps in a row, up to step 15: the run goes back to the checkpoint of step 10 (1 of at most 2"
    )
    assert said in caplog.text
    assert toys.same(state, undisturbed[1])
    assert steps_of(tmp_path) == list(range(1, 21)) and saved_steps(tmp_path) == [5, 10, 15, 20]
    assert (tmp_path / "damaged" / "12").is_dir()


def test_checkpoints_by_time(tmp_path):
    run(tmp_path, {"train.steps": 3, "train.checkpoint_minutes": 1e-9, "train.keep": 9})
    assert saved_steps(tmp_path) == [1, 2, 3]


# ---------------------------------------------------------------------- one run, one workdir


def test_a_workdir_in_use_is_left_alone(tmp_path):
    with lock.locked(tmp_path), pytest.raises(TrainingError, match=rf"in use by another.*process {os.getpid()} on"):
        run(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_readers_wait_for_the_first_checkpoint_of_a_run_at_work(undisturbed, tmp_path, caplog):
    ready = tmp_path / "ready"
    shutil.copytree(undisturbed[0] / "checkpoints", ready)
    with lock.locked(tmp_path):
        threading.Timer(1.0, ready.rename, [tmp_path / "checkpoints"]).start()
        assert toys.same(load_run(tmp_path).params, undisturbed[1].params)
    assert "waiting for the first checkpoint of the run at work" in caplog.text
    with pytest.raises(InputError, match="has no checkpoints"):  # nobody is at work there
        load_run(tmp_path / "elsewhere")


def test_readers_take_another_checkpoint_where_one_goes_while_it_is_read(undisturbed, tmp_path, monkeypatch):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    folder, restore = tmp_path / "checkpoints", Checkpoints._restore
    replaced = []

    def hurried(self, step, state):
        if not replaced:  # the run goes on before anything is read
            replaced.append((folder / "20").rename(folder / "21"))
        return restore(self, step, state)

    monkeypatch.setattr(Checkpoints, "_restore", hurried)
    assert toys.same(load_run(tmp_path).params, undisturbed[1].params)
    assert replaced


# ---------------------------------------------------------------------- held-out photos


def test_a_folders_own_photos_are_validated_on(tmp_path, capsys):
    for number in range(40):
        Image.new("RGB", (16, 16), (6 * number, 0, 0)).save(tmp_path / f"{number}.png")
    config = toys.config({"train.steps": 1, "data.source": str(tmp_path)}, "toy")
    train(config, tmp_path / "run")
    held_out = len(data.make_source(str(tmp_path), "validation"))
    assert 0 < held_out < 20
    said = f"{40 - held_out} to train on ({tmp_path}), {held_out} to validate on ({tmp_path}), by 2 patches"
    assert said in capsys.readouterr().err
    config.data.split = "all"  # nothing is held out of it
    assert validation_source(config) == "bundled"


# ---------------------------------------------------------------------- configs and weights


def test_another_config_in_the_same_workdir_is_an_error(undisturbed):
    workdir, state = undisturbed
    with pytest.raises(TrainingError) as error:
        run(workdir, {"seed": 3, "optimizer.learning_rate": 0.5, "train.log_every": 9}, width=5)
    text = str(error.value)
    assert "belongs to another config" in text
    assert "seed: 0 in the checkpoint, 3 now" in text
    assert "optimizer.learning_rate: 0.01 in the checkpoint, 0.5 now" in text
    assert "model.arguments.width: 'not set' in the checkpoint, 5 now" in text
    assert "log_every" not in text
    # What is free to change is no error: the run is done, and is returned as it is.
    assert toys.same(run(workdir, {"train.log_every": 9, "train.keep": 5, "data.cache_mib": 8}), state)


def test_a_decay_that_has_begun_cannot_be_put_off(tmp_path):
    stable = {"optimizer.schedule": "wsd", "optimizer.decay_from": 10, "optimizer.decay_steps": 4, "train.steps": 5}
    run(tmp_path / "run", stable)
    run(tmp_path / "run", {**stable, "optimizer.decay_from": 6, "train.steps": 8})  # it has not begun at 5
    for begin in (7, 20):
        with pytest.raises(TrainingError, match="decay_from was 6 and is .* step 8, when the decay"):
            run(tmp_path / "run", {**stable, "optimizer.decay_from": begin, "train.steps": 12})
    run(tmp_path / "run", {**stable, "optimizer.decay_from": 6, "train.steps": 10})


def test_runs_are_loaded_by_name(tmp_path):
    changes = {"train.evaluate_every": 5, "train.checkpoint_every": 5, "train.ema": 0.9, "train.keep": 2}
    state = run(tmp_path, changes)
    config, params, codec_state, _ = load_run(tmp_path, "latest")
    assert config.train.ema == 0.9
    assert toys.same((params, codec_state), (state.average, state.state))
    losses = {record["step"]: record["loss"] for record in toys.lines(tmp_path, "validation")}
    best = min(losses, key=losses.get)
    assert toys.same(load_run(tmp_path)[1:3], load_run(tmp_path, best)[1:3])
    assert toys.same(load_run(tmp_path, "20")[1], params)
    for which, error in (("7", InputError), ("newest", UsageError), ("-1", UsageError)):
        with pytest.raises(error, match=which):
            load_run(tmp_path, which)
    with pytest.raises(InputError, match="has no checkpoints"):
        load_run(tmp_path / "nowhere")


def test_init_from_a_run_or_an_artifact(undisturbed, tmp_path):
    workdir, before = undisturbed
    freeze = {"train.steps": 1, "optimizer.name": "sgd", "optimizer.learning_rate": 0.0}
    # All of it, from the workdir.
    first = run(tmp_path / "run", {**freeze, "init_from": str(workdir)})
    assert toys.same(first.params, before.params)
    assert int(first.state["count"]) == int(before.state["count"]) + 1
    # From an artifact, into a model with one parameter more.
    config, params, state, _ = load_run(workdir)
    artifact = tmp_path / "model.mlicm"
    make_codec(config).export(params, state).save(artifact)
    more = run(tmp_path / "more", {**freeze, "init_from": str(artifact)}, extra=True)
    assert toys.same({key: more.params[key] for key in before.params}, before.params)
    assert np.array_equal(more.params["extra"]["bias"], np.full(3, 0.25, np.float32))
    assert int(more.state["count"]) == int(before.state["count"]) + 1
    # A checkpoint comes before it: the run goes on when the first stage has been deleted.
    artifact.unlink()
    longer = run(tmp_path / "more", {**freeze, "train.steps": 2, "init_from": str(artifact)}, extra=True)
    assert int(longer.step) == 2


def test_init_from_what_does_not_fit(undisturbed, tmp_path):
    workdir, _ = undisturbed
    (tmp_path / "damaged.mlicm").write_bytes(b"nonsense")
    cases = [
        ({"init_from": str(workdir)}, {"width": 7}, TrainingError, "encoder/kernel: (3, 4) there, (3, 7) here"),
        ({"init_from": str(tmp_path)}, {}, InputError, "has no checkpoints"),
        ({"init_from": str(tmp_path / "no.mlicm")}, {}, ModelError, "no.mlicm"),
        ({"init_from": str(tmp_path / "damaged.mlicm")}, {}, ModelError, "damaged.mlicm"),
    ]
    for number, (changes, arguments, kind, words) in enumerate(cases):
        with pytest.raises(kind) as error:
            run(tmp_path / str(number), changes, **arguments)
        assert words in str(error.value)
    with pytest.raises(TrainingError, match="no common names"):
        run(tmp_path / "gan", {"init_from": str(workdir)}, "toy-gan")


@pytest.mark.parametrize(
    ("changes", "model", "words"),
    [
        ({"train.steps": 0}, "toy", "train.steps is 0: expected 1 or more"),
        ({"train.accumulate": 0}, "toy", "train.accumulate is 0"),
        ({"train.log_every": 0}, "toy", "train.log_every is 0"),
        ({"train.checkpoint_every": -1}, "toy", "train.checkpoint_every is -1"),
        ({"train.max_bad_steps": 0}, "toy", "train.max_bad_steps is 0"),
        ({"train.keep": 0}, "toy", "train.keep is 0"),
        ({"train.ema": 1.5}, "toy", "train.ema is 1.5: expected a decay from 0 (none) to below 1"),
        ({"train.checkpoint_minutes": -1.0}, "toy", "train.checkpoint_minutes is -1.0: expected 0 or more"),
        ({"optimizer.clip_norm": -1.0}, "toy", "optimizer.clip_norm is -1.0: expected a norm above 0, or 0"),
        ({"optimizer.learning_rate": -1e-4}, "toy", "optimizer.learning_rate is -0.0001: expected 0 or more"),
        ({"optimizer.learning_rate": float("nan")}, "toy", "optimizer.learning_rate is nan"),
        ({"train.accumulate": 3}, "toy", "data.batch_size 8 must be a multiple of 3"),
        ({"train.accumulate": 16}, "toy", "data.batch_size 8 must be a multiple of 16"),
        ({"schedule": ("disc", "gen", "gen")}, "toy-gan", "data.batch_size 8 must be a multiple of 3"),
        ({"schedule": ("disc", "critic")}, "toy-gan", "both own the parameters 'v'"),
        ({"phases": (2,)}, "toy-gan", "a number of steps for each is expected"),
        ({"phases": (2, 0)}, "toy-gan", "a number of steps for each is expected"),
        ({"schedule": ("gen",)}, "toy", "objectives are rd"),
        ({"optimizer.name": "adm"}, "toy", "optimizer.name 'adm'"),
        ({"data.source": "nowhere"}, "toy", "nowhere"),
    ],
)
def test_configs_that_cannot_work(tmp_path, changes, model, words):
    with pytest.raises(MlicError) as error:
        run(tmp_path / "run", changes, model)
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the workdir .*file"):
        run(tmp_path / "file")


# ---------------------------------------------------------------------- options that change a step


def test_accumulation_in_a_run(undisturbed, tmp_path):
    state = run(tmp_path, {"train.accumulate": 4})
    for found, wanted in zip(*(jax.tree.leaves(s.params) for s in (state, undisturbed[1])), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_real_codec_learns_in_float32_and_in_bfloat16(tmp_path):
    changes = {"train.steps": 30, "optimizer.learning_rate": 3e-3, "train.evaluate_every": 15, "train.samples": 2}
    losses = {}
    for bfloat16 in (False, True):
        workdir = tmp_path / str(bfloat16)
        with warnings.catch_warnings(), toys.CompileCount() as count:
            warnings.simplefilter("error")
            state = run(workdir, {**changes, "train.bfloat16": bfloat16}, "bmshj2018-factorized")
        assert count.steps() == 1
        assert all(leaf.dtype in (np.float32, np.int32) for leaf in jax.tree.leaves(state))
        losses[bfloat16] = [record["loss"] for record in toys.lines(workdir)]
        assert np.mean(losses[bfloat16][-5:]) < 0.5 * np.mean(losses[bfloat16][:5])
        config, params, codec_state, _ = load_run(workdir)
        assert toys.same(flatten(params), flatten(state.params))
        assert make_codec(config).export(params, codec_state).model == "bmshj2018-factorized"
    assert losses[True] != losses[False]
    np.testing.assert_allclose(losses[True][:5], losses[False][:5], rtol=0.02)

"""Checkpoints of plain arrays: what is kept, what is read back, and what happens to damaged ones."""

import json
import logging
import pathlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mlic_jax.errors import InputError, TrainingError
from mlic_jax.training import parallel
from mlic_jax.training.checkpoint import Checkpoints, differences
from mlic_jax.training.config import defaults

# Orbax leaves coroutines behind when it meets damage; they complain when Python collects them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

CONFIG = ConfigDict({"model": {"name": "toy", "widths": (1, 2)}, "seed": 3})


def state_of(step, shape=(300, 50)):
    """A state that differs from step to step."""
    values = np.random.default_rng(step).normal(size=shape).astype(np.float32)
    return parallel.replicate({"w": values, "deep": {"step": np.int32(step)}, "empty": {}})


def save(checkpoints, step, loss=None):
    checkpoints.save(step, state_of(step), {"step": step}, CONFIG, loss)


def filled(workdir, steps=(5, 10, 15), keep=3):
    checkpoints = Checkpoints(workdir, keep)
    for step in steps:
        save(checkpoints, step)
    checkpoints.close()
    return workdir / "checkpoints"


def is_state_of(found, step):
    wanted = jax.device_get(state_of(step))
    return np.array_equal(found["w"], wanted["w"]) and int(found["deep"]["step"]) == step and found["empty"] == {}


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_what_is_saved_comes_back(tmp_path):
    filled(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.restore(state_of(0))
    assert (found.step, found.data) == (15, {"step": 15})
    assert is_state_of(found.state, 15)
    # JSON has no tuples; nothing else changes.
    assert found.config == checkpoints.config() == {"model": {"name": "toy", "widths": [1, 2]}, "seed": 3}
    assert found.state["w"].sharding == parallel.replicated()
    assert is_state_of(checkpoints.restore(state_of(0), 10).state, 10)
    with pytest.raises(InputError, match="no checkpoint of step 7: there are 5, 10, 15"):
        checkpoints.restore(state_of(0), 7)
    checkpoints.close()


def test_an_empty_workdir_has_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    found = (checkpoints.restore(state_of(0)), checkpoints.config(), checkpoints.latest(), checkpoints.best())
    assert found == (None,) * 4
    checkpoints.close()
    with pytest.raises(InputError, match="has no checkpoints"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()


def test_a_workdir_that_cannot_be_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        Checkpoints(tmp_path / "file")


def test_the_latest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    losses = {1: 5.0, 2: None, 3: 2.0, 4: 9.0, 5: None, 6: float("nan"), 7: float("-inf"), 8: None}
    for step, loss in losses.items():
        save(checkpoints, step, loss)
    assert (checkpoints.best(), checkpoints.latest()) == (3, 8)
    checkpoints.close()
    assert steps_in(tmp_path / "checkpoints") == [3, 7, 8]

    checkpoints = Checkpoints(tmp_path, keep=1)  # another process, which has to read the losses
    assert (checkpoints.best(), checkpoints.latest()) == (3, 8)
    save(checkpoints, 9, 1.0)
    assert checkpoints.best() == 9
    checkpoints.close()
    assert steps_in(tmp_path / "checkpoints") == [9]


def test_without_a_measured_loss_the_best_is_the_latest(tmp_path):
    filled(tmp_path)
    assert Checkpoints(tmp_path, read_only=True).best() == 15


def test_memory_that_is_reused_while_it_is_written_does_not_harm(tmp_path):
    # The step donates its state: the next one overwrites the arrays that are still on their way to the disk.
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    state = state_of(4, (2000, 2000))
    checkpoints.save(4, state, {}, CONFIG)
    for _ in range(3):
        state = overwrite(state)
    jax.block_until_ready(state)
    checkpoints.close()
    found = Checkpoints(tmp_path, read_only=True).restore(state_of(0, (2000, 2000))).state
    assert np.array_equal(found["w"], jax.device_get(state_of(4, (2000, 2000)))["w"])


def halve(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


DAMAGE = {
    "a digit of the data's position": lambda folder: flip(folder / "data" / "metadata", b"15", b"14"),
    "a digit of the config": lambda folder: flip(folder / "config" / "metadata", b'"seed": 3', b'"seed": 1'),
    "half the checksums": lambda folder: halve(folder / "checksums" / "metadata"),
    "no state": lambda folder: shutil.rmtree(folder / "state"),
    "half an array": lambda folder: halve(largest(folder / "state")),
    "half the metadata": lambda folder: halve(folder / "state" / "_METADATA"),
    "half the manifest": lambda folder: halve(folder / "state" / "manifest.ocdbt"),
    "half the data's position": lambda folder: halve(folder / "data" / "metadata"),
    "no config": lambda folder: shutil.rmtree(folder / "config"),
    "half the loss": lambda folder: (halve(folder / "validation" / "metadata"), shutil.rmtree(folder / "state")),
    "nothing left": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoints_give_way_to_the_one_before(tmp_path, damage, caplog):
    folder = filled(tmp_path)
    damage(folder / "15")

    reader = Checkpoints(tmp_path, read_only=True)
    assert is_state_of(reader.restore(state_of(0)).state, 10)
    assert steps_in(folder) == [5, 10, 15]  # a reader moves nothing

    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.config() is not None
    with caplog.at_level(logging.WARNING):
        found = checkpoints.restore(state_of(0))
    assert found.step == 10
    assert is_state_of(found.state, 10)
    assert "checkpoint cannot be read: step 15" in caplog.text
    assert (tmp_path / "damaged" / "15").is_dir()
    # The run goes on from 10 and must be able to save before and at 15 again.
    for step in (12, 15):
        save(checkpoints, step)
    checkpoints.close()
    assert steps_in(folder) == [10, 12, 15]
    assert is_state_of(Checkpoints(tmp_path, read_only=True).restore(state_of(0)).state, 15)


def test_no_flipped_bit_comes_back(tmp_path, caplog):
    latest = filled(tmp_path, steps=(10, 15)) / "15"
    rng = np.random.default_rng(0)
    noticed = 0
    for path in sorted(latest.rglob("*")):
        if path.is_dir():
            continue
        before = path.read_bytes()
        for place in rng.integers(0, len(before), 8 if path == largest(latest) else 1):
            after = bytearray(before)
            after[place] ^= 1 << rng.integers(8)
            path.write_bytes(after)
            found = Checkpoints(tmp_path, read_only=True).restore(state_of(0))
            assert is_state_of(found.state, found.step) and found.data == {"step": found.step}
            noticed += found.step == 10
        path.write_bytes(before)
    assert noticed >= 8
    assert "by the CRC32C of ['w']" in caplog.text


def test_a_checkpoint_from_before_there_were_checksums_is_read(tmp_path):
    shutil.rmtree(filled(tmp_path) / "15" / "checksums")
    found = Checkpoints(tmp_path, read_only=True).restore(state_of(0))
    assert found.step == 15 and is_state_of(found.state, 15)


def test_when_all_are_damaged_nothing_is_moved_or_begun_anew(tmp_path):
    folder = filled(tmp_path)
    for step in (5, 10, 15):
        shutil.rmtree(folder / str(step) / "state")
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(TrainingError, match="no checkpoint in .* can be read: step 15: .*; step 10: .*; step 5: "):
        checkpoints.restore(state_of(0))
    checkpoints.close()
    assert steps_in(folder) == [5, 10, 15]


def test_another_models_arrays_do_not_fit(tmp_path):
    filled(tmp_path, steps=(5,))
    checkpoints = Checkpoints(tmp_path)
    for wrong in (state_of(0, (300, 51)), {**state_of(0), "more": jnp.zeros(3)}, {"w": state_of(0)["w"]}):
        with pytest.raises(TrainingError, match="step 5"):
            checkpoints.restore(wrong)
    checkpoints.close()


def test_what_a_kill_leaves_half_written_is_ignored_and_removed(tmp_path):
    folder = filled(tmp_path)
    # Names as Orbax gives them while it writes.
    half = folder / "20.orbax-checkpoint-tmp"
    shutil.copytree(folder / "15", half)
    shutil.rmtree(half / "state")
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.restore(state_of(0)).step == 15
    save(checkpoints, 20)
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == ["10", "15", "20"]


def test_a_checkpoint_that_cannot_be_written_is_a_training_error(tmp_path):
    folder = filled(tmp_path, steps=(1,))
    checkpoints = Checkpoints(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # No file may become larger than this: as on a full disk, writing fails in the background.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises(TrainingError, match="cannot write a checkpoint to .*checkpoints'"):
            save(checkpoints, 2)
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert steps_in(folder) == [1]
    assert is_state_of(Checkpoints(tmp_path, read_only=True).restore(state_of(0)).state, 1)


def test_differences_name_keys_and_both_values():
    saved = json.loads(json.dumps(defaults().to_dict()))
    assert differences(saved, json.loads(json.dumps(defaults().to_dict()))) == []
    config = defaults()
    config.seed = 5
    config.data.scale_range = (0.25, 1.0)
    config.model.arguments = {"N": 8}
    config.train.steps = 7  # free to change, as are the next ones
    config.train.log_every = 1
    config.data.threads = 3
    config.init_from = "elsewhere"
    assert differences(saved, config.to_dict()) == [
        "data.scale_range: [0.5, 1.0] in the checkpoint, [0.25, 1.0] now",
        "model.arguments: {} in the checkpoint, 'not set' now",
        "model.arguments.N: 'not set' in the checkpoint, 8 now",
        "seed: 0 in the checkpoint, 5 now",
    ]


def test_relative_workdirs_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled(pathlib.Path("run"), steps=(1,))
    assert steps_in(tmp_path / "run" / "checkpoints") == [1]

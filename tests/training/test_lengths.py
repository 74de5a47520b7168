"""Runs of another length than their config's: all of it in proportion, or a word about what is not reached."""

import pathlib
import types

import pytest
from commands import run

from mlic_jax.errors import UsageError
from mlic_jax.training import config_files, lengths, optimizers
from mlic_jax.training.config import load
from mlic_jax.training.stopping import PREEMPTED

NAMES = [f"{name}:{variant}" for name in config_files.names() for variant in config_files.about(name).variants]


def shortened(name, steps, *words):
    """(the config at so many steps, that of the file)"""
    planned = load(name, [])
    return load(name, [*lengths.as_overrides(planned, steps), *words]), planned


@pytest.mark.parametrize("name", NAMES)
def test_a_config_at_its_own_steps_is_itself(name):
    config, planned = shortened(name, load(name, []).train.steps)
    assert config.to_dict() == planned.to_dict() and not lengths.as_overrides(planned, planned.train.steps)
    assert not lengths.not_reached(config, planned)


@pytest.mark.parametrize("name", [name for name in NAMES if "paper" not in name])
@pytest.mark.parametrize("steps", [1, 100, 30_000])
def test_a_run_of_any_length_is_whole(name, steps):
    """Its schedules can be made, it trains what the config trains, and ends where its schedules do."""
    config, planned = shortened(name, steps)
    optimizers.make_all(config)
    assert config.train.steps == steps and len(config.phases) == len(planned.phases)
    if steps >= 100:
        assert not lengths.not_reached(config, planned)
    if sum(planned.phases) == planned.train.steps and steps > 1:
        assert sum(config.phases) == steps


def test_what_is_stretched():
    config, _ = shortened("toderici2017:tiny", 65)
    assert config.phases == (50, 15) and config.optimizers.entropy.decay_steps == 15
    assert (config.optimizer.warmup_steps, config.optimizer.decay_steps, config.train.steps) == (5, 50, 65)
    config, _ = shortened("mbt2018_mean:4", 400)
    assert config.optimizer.boundaries == (200, 275, 325, 360, 385)
    config, _ = shortened("kltnet:tiny", 44_999)
    assert config.optimizer.decay_from + config.optimizer.decay_steps == 44_999
    with pytest.raises(UsageError, match="steps is 0"):
        lengths.stretch(config, 0)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("mbt2018_mean:tiny", ["train.steps=100"], ["of 'rd' (cosine) is cut off at 100 of its 2000 steps"]),
        ("mbt2018_mean:tiny", ["train.steps=100", "optimizer.decay_steps=100"], []),
        ("mbt2018_mean:tiny", ["train.steps=3000"], ["of 'rd' (cosine) is 0 from its step 2000 of 3000 on"]),
        ("mbt2018_mean:tiny", ["train.steps=3000", "optimizer.final_fraction=0.1"], []),
        ("mbt2018_mean:4", ["train.steps=2000000"], ["of 'rd' (steps) is cut off at 2000000 of its 3850000 steps"]),
        (
            "toderici2017:tiny",
            ["train.steps=100"],
            [
                "of 'rd' (cosine) is cut off at 100 of its 500",
                "'entropy' is never trained: its phase begins at step 501",
            ],
        ),
        ("li2018:tiny", ["train.steps=1300"], ["of 'entropy' (cosine) is cut off at 100 of its 300 steps"]),
        ("kltnet:tiny", ["train.steps=20000"], ["of 'rd' (wsd) is cut off at 20000 of its 45000 steps"]),
        ("kltnet:tiny", ["train.steps=90000", "optimizer.decay_from=72000"], []),
    ],
)
def test_what_is_not_reached_is_said(name, words, said):
    found = lengths.not_reached(load(name, [f"--config.{word}" for word in words]), load(name, []))
    assert len(found) == len(said) and all(part in whole for part, whole in zip(said, found, strict=True)), found


def test_the_command(capsys, monkeypatch):
    """`--steps` shortens all; a key of one's own comes after it; what is not reached is a warning."""
    seen = []
    stopped = types.SimpleNamespace(step=0)
    monkeypatch.setattr("mlic_jax.training.train.train", lambda config, *_: seen.append(config) or stopped)
    monkeypatch.setattr("mlic_jax.training.parallel.local", lambda tree: tree)
    monkeypatch.setattr("mlic_jax.training.parallel.use_all_cores", lambda *_: None)
    words = ["train", "--config", "li2018:tiny", "--workdir", "never-made"]
    status, _, err = run(capsys, *words, "--steps", 150, "--config.optimizer.warmup_steps=3")
    assert (status, err) == (PREEMPTED, "") and seen[0].phases == (120, 30) and seen[0].optimizer.warmup_steps == 3
    status, _, err = run(capsys, *words, "--config.train.steps=150")
    assert status == PREEMPTED and err.count("mlic: warning: ") == 2 and "'entropy' is never trained" in err
    assert err.splitlines()[-1] == "mlic: for a whole run of 150 steps, give --steps 150"
    assert run(capsys, *words, "--steps", "0")[0] == 2 and not pathlib.Path("never-made").exists()

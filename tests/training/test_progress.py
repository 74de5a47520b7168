"""What a person sees of a training: what it is, how far and how fast it is, and what comes next."""

import io
import sys

import pytest
import toys
from commands import run

from mlic_jax.training import banner, optimizers
from mlic_jax.training.progress import Progress
from mlic_jax.training.train import train

pytestmark = pytest.mark.usefixtures("toy_zoo")


class Terminal(io.StringIO):
    """A terminal of 200 columns."""

    def isatty(self):
        return True


def test_a_run_says_what_it_is_and_how_fast(tmp_path, capsys):
    changes = {"phases": (2, 3), "train.steps": 9, "optimizer.schedule": "cosine", "optimizer.decay_steps": 5}
    changes |= {"optimizer.warmup_steps": 1}
    config = toys.config(changes, "toy-gan")
    train(config, tmp_path / "run")
    err = capsys.readouterr().err
    opening = err[: err.index("compiling the train step")]
    assert [line.split()[0] for line in opening.splitlines()] == [
        "model", "devices", "photos", "batch", "steps", "workdir"
    ]  # fmt: skip
    for words in (
        "toy-gan, 6 parameters",
        "1 x cpu",
        "8 to train on (bundled), 4 to validate on (bundled), by 2 patches",
        "8 patches of 16x16",
        f"{tmp_path}/run",
    ):
        assert words in opening
    assert "step 9/9  gen loss" in err and " steps/s  " in err and "gen lr " in err
    # The learning rate is that of the objective's own updates.
    rate = optimizers.learning_rate(config.optimizer)
    records = toys.lines(tmp_path / "run")
    found = {name: [r[name] for r in records if name in r] for name in ("disc/learning_rate", "gen/learning_rate")}
    assert found == {name: [pytest.approx(float(rate(n))) for n in range(len(found[name]))] for name in found}
    assert [len(rates) for rates in found.values()] == [4, 5]
    last = records[-1]
    assert last["examples_per_second"] == pytest.approx(8 * last["steps_per_second"])
    train(config, tmp_path / "run")
    err = capsys.readouterr().err
    assert "resumed at step 9\n" in err and "all 9 steps are done" in err and "compiling" not in err


def test_the_bar_says_compiling_only_while_it_does(monkeypatch):
    for name, value in {"TERM": "xterm", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    def last():
        progress.bar.refresh()
        return terminal.getvalue().rsplit("\r", 1)[-1]

    with Progress(0, 500, False) as progress:
        assert "compiling" in last()
        progress.advance(1)
        assert "compiling" not in last() and "1/500" in last()
        progress.show(50, {"loss": 2.5, "learning_rate": 1e-3, "steps_per_second": 4.0, "examples_per_second": 32.0})
        assert "loss 2.500  lr 1.0e-03  4 steps/s  32 examples/s" in last()
        progress.say("runs/[bold]")
        assert "runs/[bold]" in terminal.getvalue()  # a path, no markup
    with Progress(500, 500, False) as progress:
        assert "compiling" not in last() and "500/500" in last()


def test_a_gpu_that_lies_idle(monkeypatch, tmp_path):
    monkeypatch.setattr(banner, "_chosen", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(banner, "DRIVER", str(tmp_path / "version"))
    assert banner.idle_gpu() is None
    (tmp_path / "version").write_text("NVRM")
    assert "jax sees none: pip install 'jax[cuda13]'" in banner.idle_gpu()
    monkeypatch.setattr(banner, "_chosen", lambda: "cpu")
    assert banner.idle_gpu() is None


def test_what_comes_next(tmp_path, capsys, monkeypatch):
    """The commands are there after the last step, and are commands."""
    config = tmp_path / "small.py"
    config.write_text("import toys\n\ndef get_config():\n    return toys.config({'train.steps': 2}, 'toy')\n")
    monkeypatch.setattr("mlic_jax.training.parallel.use_all_cores", lambda *_: None)
    words = ["train", "--config", config, "--workdir", tmp_path / "a run"]
    status, out, err = run(capsys, *words)
    assert (status, out) == (0, "")
    lines = err[err.index("next:") :].splitlines()[1:]
    assert lines[0].split("  #")[0].strip() == f"mlic evaluate --run '{tmp_path}/a run' --compare"
    assert [line.split()[1] for line in lines] == ["evaluate", "export", "compress"]
    assert run(capsys, *words, "--quiet") == (0, "", "")

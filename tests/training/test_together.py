"""Processes of one run. Two real ones: test_parallel.py, and the slow test here."""

import importlib.util
import pathlib
import sys

import jax
import numpy as np
import pytest

from mlic_jax.errors import UsageError
from mlic_jax.training import parallel, together

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


class Store:
    """What jax's coordination service keeps, with the words of another process already in it."""

    def __init__(self, other):
        self.values, self.other = {}, other

    def key_value_set(self, key, value, allow_overwrite=False):
        self.values[key] = value
        self.values[key.rpartition("/")[0] + "/1"] = self.other

    def blocking_key_value_get(self, key, milliseconds):
        return self.values[key]


def test_processes_that_differ_refuse(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    mine = {"train.steps": 20, "images": 38, "phases": (1, 2)}
    monkeypatch.setattr(together, "_service", lambda: (Store('{"train.steps": 20, "images": 38, "phases": [1, 2]}'), 0))
    together.agree(mine, "hint")
    monkeypatch.setattr(together, "_service", lambda: (Store('{"train.steps": 20, "images": 10}'), 0))
    with pytest.raises(UsageError) as error:
        together.agree(mine, "Give them the same")
    assert str(error.value) == (
        "the processes of this run differ: images is 38 in process 0, 10 in 1; phases is [1, 2] in process 0, None in "
        "1. Give them the same"
    )


def test_processes_ask_each_other_by_time(monkeypatch):
    clock = [0.0]
    asked = []
    monkeypatch.setattr(together.time, "monotonic", lambda: clock[0])
    alone = together.Wishes(0)
    assert alone.of_all(1, True, 0.0) == (True, False)
    clock[0] = 61.0
    assert alone.of_all(2, False, 1.0) == (False, True)
    alone.saved()
    assert alone.of_all(3, False, 1.0) == (False, False)

    def gathered(values):
        asked.append(step)
        return np.array([values, [step == 40, False, 0.0]])  # another process, faster and asked to stop at step 40

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel, "gathered", gathered)
    wishes, answers = together.Wishes(0), {}
    for step in range(1, 61):
        clock[0] += 0.3 if step < 31 else 5.0
        answers[step] = wishes.of_all(step, False, 0.0)[0]
    # Six steps of 0.3 s are 2 s; when steps take longer, they are asked at each.
    assert asked == [1, 7, 13, 19, 25, 31, *range(32, 61)]
    assert [step for step, stop in answers.items() if stop] == [40]


@pytest.mark.slow  # starts fourteen processes
def test_two_processes_end_together(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("survival", BENCHMARKS / "survival.py")
    survival = sys.modules["survival"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(survival)
    survival.main(["together"])
    said = capsys.readouterr().out
    assert "process 1: RuntimeError: a fault of process 1" in said
    assert "images is 7 in process 0, 4 in 1" in said

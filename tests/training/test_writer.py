"""metrics.jsonl and TensorBoard events."""

import json
import math

import numpy as np
import pytest

from mlic_jax.training.writer import Writer


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_line_has_step_kind_and_figures(tmp_path):
    writer = Writer(tmp_path)
    writer.scalars(3, "train", {"loss": np.float32(0.5), "skipped": 0})
    # On disk at once: a kill must not take what was measured.
    assert records(tmp_path) == [{"step": 3, "kind": "train", "loss": 0.5, "skipped": 0.0}]
    writer.close()


def test_numbers_that_are_not_finite_become_null(tmp_path):
    writer = Writer(tmp_path)
    writer.scalars(1, "train", {"loss": math.nan, "norm": math.inf, "bpp": 1.0})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert records(tmp_path) == [{"step": 1, "kind": "train", "loss": None, "norm": None, "bpp": 1.0}]


def test_a_metric_called_step_does_not_replace_the_step(tmp_path):
    writer = Writer(tmp_path)
    writer.scalars(7, "train", {"step": 1.0, "kind": 2.0})
    writer.close()
    assert records(tmp_path) == [{"step": 7, "kind": "train"}]


def test_lines_after_the_step_of_the_resume_are_dropped(tmp_path):
    writer = Writer(tmp_path)
    for step in range(1, 7):
        writer.scalars(step, "train", {"loss": step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "kind": "tra')  # cut off by a kill
    writer = Writer(tmp_path, 4)
    writer.scalars(5, "train", {"loss": 50})
    writer.close()
    assert [(r["step"], r["loss"]) for r in records(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]


def test_damaged_lines_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\nnonsense\n[]\n{"kind": 1}\n\xff\xfe\n{"step": 2}\n')
    Writer(tmp_path, 9).close()
    assert [r["step"] for r in records(tmp_path)] == [1, 2]


def test_tensorboard_reads_events_and_those_of_a_killed_run_are_replaced(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    picture = np.zeros((4, 6, 3), np.uint8)
    writer = Writer(tmp_path)
    for step in range(1, 7):
        writer.scalars(step, "train", {"loss": step})
    writer.image(6, "samples", b"png bytes", picture.shape[:2], picture)
    writer.close()
    # The name of an event file has its time in whole seconds, and files are read in the order of their names.
    (old,) = (tmp_path / "events").iterdir()
    old.rename(old.with_name(old.name.replace("tfevents.", "tfevents.0")))
    writer = Writer(tmp_path, 4)
    writer.scalars(5, "train", {"loss": 50})
    writer.image(5, "samples", b"png again", picture.shape[:2], picture)
    writer.close()

    events = accumulator.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]
    (image,) = events.Images("samples")
    assert (image.step, image.encoded_image_string, image.height, image.width) == (5, b"png again", 4, 6)


def test_without_tensorboard_there_are_still_lines(tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    writer = Writer(tmp_path)
    writer.scalars(1, "train", {"loss": 1.0})
    writer.image(1, "samples", b"", (1, 1), np.zeros((1, 1, 3), np.uint8))
    writer.close()
    assert records(tmp_path) == [{"step": 1, "kind": "train", "loss": 1.0}]
    assert not (tmp_path / "events").exists()


def test_a_full_disk_is_said_once_and_costs_no_lines(tmp_path, caplog):
    writer = Writer(tmp_path)
    writer.scalars(1, "train", {"loss": 1})
    file, full = writer._file, open("/dev/full", "ab", buffering=0)
    writer._file = full
    for step in (2, 3):
        writer.scalars(step, "train", {"loss": step})
    assert [record.getMessage() for record in caplog.records] == [
        "logs cannot be written, and the training goes on without them: [Errno 28] No space left on device"
    ]
    writer._file = file  # there is room again
    writer.scalars(4, "train", {"loss": 4})
    writer.close()
    full.close()
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4]

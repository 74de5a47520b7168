"""What a run says and does about its photos: those that cannot be read, other files at resume, waiting."""

import json

import jax
import numpy as np
import pytest
import toys
from PIL import Image

from mlic_jax.errors import InputError, TrainingError
from mlic_jax.training.train import train

BROKEN = ("007.png", "008.png", "059.png")


@pytest.fixture
def photos(tmp_path):
    """60 photos of which three cannot be read."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(60):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / f"{number:03}.png")
    for name in BROKEN:
        (folder / name).write_bytes((folder / name).read_bytes()[:3000])
    return folder


def go_on(photos, workdir, **changes):
    settings = {"data.source": str(photos), "data.split": "all", "train.steps": 16, "train.log_every": 4}
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    return train(toys.config(settings, "toy"), workdir, quiet=True)


def test_a_damaged_folder_is_trained_on_and_gone_on_with(photos, tmp_path, toy_zoo, caplog):
    whole = go_on(photos, tmp_path / "whole")
    assert sum("skipped" in line for line in caplog.messages) == 3
    go_on(photos, tmp_path / "parts", train__steps=8)
    parts = go_on(photos, tmp_path / "parts")
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(one, other)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in logged] == [4, 8, 12, 16]
    assert logged[-1]["unreadable"] == 3 and all(line["data_wait_ms"] >= 0 for line in logged)
    with pytest.raises(InputError, match="3 images cannot be read.*data.max_unreadable allows 2"):
        go_on(photos, tmp_path / "strict", data__max_unreadable=2)


def test_other_files_are_refused_at_resume(photos, tmp_path, toy_zoo):
    go_on(photos, tmp_path / "run", train__steps=2)
    (photos / "000.png").rename(photos / "zero.png")
    with pytest.raises(TrainingError, match="60 images then, 60 now.*data.other_files=True"):
        go_on(photos, tmp_path / "run", train__steps=4)
    assert go_on(photos, tmp_path / "run", train__steps=4, data__other_files=True).step == 4
    moved = photos.rename(tmp_path / "moved")
    assert go_on(moved, tmp_path / "run", train__steps=6).step == 6

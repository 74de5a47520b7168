"""Prepared sets: what is written, that it goes on where it was interrupted, and that training reads it."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mlic_jax.data import make_source, make_train_iterator, prepared
from mlic_jax.errors import InputError, UsageError

SHARD = 3  # pictures


@pytest.fixture
def photos(tmp_path):
    """Eight pictures of 100x70 whose pixels tell the picture and the place."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for value in range(8):
        picture = np.stack([*np.meshgrid(np.arange(100), np.arange(70)), np.full((70, 100), value)], -1)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{value}.png")
    return folder


def plan_of(photos, **changes):
    return prepared.Plan(str(photos), **{"side": 32, "pictures_per_shard": SHARD} | changes)


def files_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize("encoding", prepared.ENCODINGS)
def test_pieces_cover_every_picture(photos, tmp_path, encoding):
    index = prepared.prepare(plan_of(photos, encoding=encoding), tmp_path / "out")
    assert index["pictures"] == {"train": 7, "validation": 1}
    source = make_source(str(tmp_path / "out"), "train")
    assert len(source) == 7 * 4 * 3
    seen = {}
    for number in range(len(source)):
        piece = source[number]
        assert piece.shape == (32, 32, 3) and (piece[..., 2] == piece[0, 0, 2]).all()
        left, top = map(int, piece[0, 0, :2])
        assert (piece[..., 0] == left + np.arange(32)).all() and (piece[..., 1] == top + np.arange(32)[:, None]).all()
        seen.setdefault(int(piece[0, 0, 2]), np.zeros((70, 100), bool))[top : top + 32, left : left + 32] = True
    assert len(seen) == 7 and all(covered.all() for covered in seen.values())
    held_out = make_source(str(tmp_path / "out"), "validation")
    assert {int(held_out[n][0, 0, 2]) for n in range(len(held_out))} == set(range(8)) - set(seen)
    assert len(make_source(str(tmp_path / "out"), "all")) == 8 * 12
    again = pickle.loads(pickle.dumps(source))
    assert again.digest() == source.digest() != held_out.digest() and (again[5] == source[5]).all()


def test_scales_and_small_pictures():
    picture = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    assert [piece.shape for piece in prepared.cut(picture, 64, (1.0,))] == [(64, 64, 3)] * 2
    assert [piece.shape for piece in prepared.cut(picture, 200, (1.0, 0.5))] == [(64, 128, 3)]  # as it is
    # At half its size 4 pieces become one; a quarter would be smaller than a piece.
    found = list(prepared.cut(picture, 32, (1.0, 0.5, 0.25)))
    assert len(found) == 8 + 2
    half = np.asarray(Image.fromarray(picture).resize((64, 32), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(np.concatenate(found[8:], 1), half)
    assert sum(1 for _ in prepared.cut(picture, 32, (0.5, 1.0))) == 10


def test_a_training_reads_it(photos, tmp_path):
    prepared.prepare(plan_of(photos), tmp_path / "out")
    settings = {"seed": 0, "batch_size": 4, "patch_size": 16, "scale_range": (1, 1)}
    source = make_source(f"folder:{tmp_path / 'out'}", "train", cache_mib=0)
    one = make_train_iterator(source, **settings, num_threads=2)
    other = make_train_iterator(source, **settings, num_workers=1)
    for _ in range(3):
        np.testing.assert_array_equal(next(one)["image"], next(other)["image"])
    one.close(), other.close()


def test_it_goes_on_where_it_was_interrupted(photos, tmp_path):
    out = tmp_path / "out"
    prepared.prepare(plan_of(photos), out)
    source = make_source(str(out), "train", cache_mib=0)
    whole, digest = [source[n] for n in range(len(source))], source.digest()
    (out / prepared.INDEX).unlink()
    (out / "train-00001-of-00003.array_record").unlink()
    (out / "train-00001-of-00003.77.part").write_bytes(b"half")
    with pytest.raises(InputError, match="the same mlic prepare finishes it"):
        make_source(str(out), "train")
    before, said = files_of(out), []
    prepared.prepare(plan_of(photos), out, say=said.append)
    after = files_of(out)
    assert {name for name in after if after[name] != before.get(name)} == {
        prepared.INDEX,
        "train-00001-of-00003.array_record",
    }
    assert not list(out.glob("*.part")) and len(said) == 4
    source = make_source(str(out), "train", cache_mib=0)
    assert source.digest() == digest and all((source[n] == piece).all() for n, piece in enumerate(whole))


def test_a_kill_leaves_whole_shards_only(photos, tmp_path):
    """SIGKILL at the moment when the second shard is about to be renamed."""
    out = tmp_path / "out"
    program = (
        "import os, signal\nfrom mlic_jax.data import prepared\nrename, done = os.replace, []\n"
        "def replace(old, new):\n"
        "    if 'record' in str(new):\n        done.append(new)\n"
        "    if len(done) == 2:\n        os.kill(os.getpid(), signal.SIGKILL)\n    rename(old, new)\n"
        "os.replace = replace\n"
        f"prepared.prepare({plan_of(photos)!r}, {str(out)!r})".replace("Plan(", "prepared.Plan(")
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in out.glob("*.array_record")] == ["train-00000-of-00003.array_record"]
    assert len(list(out.glob("*.part"))) == 1
    prepared.prepare(plan_of(photos), out)
    assert len(make_source(str(out), "all")) == 8 * 12 and not list(out.glob("*.part"))


def test_what_cannot_be_read_is_skipped_and_named(photos, tmp_path):
    (photos / "3.png").write_bytes(b"not an image")
    said = []
    prepared.prepare(plan_of(photos), tmp_path / "out", say=said.append)
    assert sum("skipped: " in line and "3.png: not an image" in line for line in said) == 1
    assert len(make_source(str(tmp_path / "out"), "all")) == 7 * 12
    for path in photos.iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(InputError, match="no picture could be read"):
        prepared.prepare(plan_of(photos), tmp_path / "none", say=said.append)


def test_another_plan_or_other_pictures_are_refused(photos, tmp_path):
    out = tmp_path / "out"
    prepared.prepare(plan_of(photos), out)
    with pytest.raises(UsageError, match="other pictures or settings"):
        prepared.prepare(plan_of(photos, side=33), out)
    (photos / "0.png").rename(photos / "zero.png")
    prepared._source.cache_clear()
    with pytest.raises(UsageError, match="other pictures or settings"):
        prepared.prepare(plan_of(photos), out)
    with pytest.raises(UsageError, match="not empty"):
        prepared.prepare(plan_of(photos), photos)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"side": 0}, "side 0"),
        ({"scales": (1.5,)}, "1.5"),
        ({"scales": ()}, "scales"),
        ({"encoding": "bmp"}, "raw or png"),
    ],
)
def test_plans_that_make_no_sense(photos, tmp_path, change, words):
    with pytest.raises(UsageError, match=words):
        prepared.prepare(plan_of(photos, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_is_noticed(photos, tmp_path):
    out = tmp_path / "out"
    prepared.prepare(plan_of(photos), out)
    path = out / "train-00000-of-00003.array_record"
    content = bytearray(path.read_bytes())
    place = content.find(prepared._MAGIC, len(content) // 2)
    content[place + 40] ^= 1
    path.write_bytes(content)
    source, unreadable = make_source(str(out), "train", cache_mib=0), []
    for number in range(len(source)):
        try:
            source[number]
        except InputError as reason:
            unreadable.append(str(reason))
    assert len(unreadable) == 1 and "out/train[" in unreadable[0]
    index = json.loads((out / prepared.INDEX).read_text())
    (out / prepared.INDEX).write_text(json.dumps(index | {"shards": {"train": index["shards"]["train"]}}))
    with pytest.raises(UsageError, match="without pieces for the split 'validation'"):
        make_source(str(out), "validation")
    path.unlink()
    with pytest.raises(InputError, match="train-00000-of-00003.array_record is not there"):
        make_source(str(out), "train")
    (out / prepared.INDEX).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        make_source(str(out), "train")


def test_the_command(photos, tmp_path):
    words = [
        "prepare",
        str(photos),
        "-o",
        str(tmp_path / "out"),
        "--side",
        "32",
        "--pictures-per-shard",
        "3",
        "-j",
        "2",
    ]
    began = time.monotonic()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "mlic_jax", *words], env=os.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "train: 84 pieces of 7 pictures" in done.stdout and "validation: 12 pieces" in done.stdout
    assert time.monotonic() - began < 60

"""The training pipeline: what step t's batch is, however the work is divided, and that augmentation is as announced."""

import json
import os
import subprocess
import sys
import time

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from mlic_jax import runtime
from mlic_jax.data import make_source, make_train_iterator, validation_batch
from mlic_jax.data.patches import RandomPatch
from mlic_jax.errors import InputError, TrainingError, UsageError


class Flat:
    """`count` images of one value each: image i is all i."""

    def __init__(self, count, height=40, width=50):
        self.count, self.height, self.width = count, height, width

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return np.full((self.height, self.width, 3), index, np.uint8)


def squares(folder, count):
    """`count` files in a folder, the n-th all n."""
    folder.mkdir(parents=True, exist_ok=True)
    for value in range(count):
        Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(folder / f"{value:03}.png")
    return folder


def joined(parts):
    """Batches of several processes as those of one."""
    return [{key: np.concatenate([part[key] for part in step]) for key in step[0]} for step in zip(*parts)]


def iterator(source=None, **changes):
    settings = {"seed": 3, "batch_size": 4, "patch_size": 64, "num_threads": 0} | changes
    return make_train_iterator(source or make_source("bundled", "train"), **settings)


def take(batches, count):
    with_images = [next(batches) for _ in range(count)]
    batches.close()
    return with_images


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right):
        assert one.keys() == other.keys() == {"image", "position"}
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.fixture(scope="module")
def reference():
    """The first six batches with seed 3."""
    return take(iterator(), 6)


def test_form_of_a_batch(reference):
    for batch in reference:
        assert batch["image"].shape == (4, 64, 64, 3) and batch["image"].dtype == np.uint8
        assert batch["position"].dtype == np.int32 and batch["position"].tolist() == [0, 1, 2, 3]
    assert len({batch["image"].tobytes() for batch in reference}) == 6


@pytest.mark.parametrize("division", [{"num_threads": 1}, {"num_threads": 4}, {"num_workers": 1}, {"num_workers": 2}])
def test_threads_and_workers_do_not_matter(reference, division):
    assert_same(take(iterator(**division), 6), reference)


def test_another_seed_gives_other_batches(reference):
    other = take(iterator(seed=4), 6)
    assert all((a["image"] != b["image"]).any() for a, b in zip(reference, other))


def test_a_batch_depends_on_seed_and_step_alone(reference):
    assert_same(take(iterator(start=4), 2), reference[4:])
    assert_same(take(iterator(start=2, num_threads=2), 3), reference[2:5])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_of_the_processes_join_to_the_batch(reference, count):
    parts = [take(iterator(process_index=index, process_count=count), 6) for index in range(count)]
    assert all(batch["image"].shape[0] == 4 // count for part in parts for batch in part)
    assert_same(joined(parts), reference)


@pytest.mark.parametrize("threads, workers", [(0, 0), (3, 0), (1, 2)])
def test_resume(reference, threads, workers):
    first = iterator(num_threads=2)
    take_three = [next(first) for _ in range(3)]
    state = json.loads(json.dumps(first.get_state()))
    assert_same(take_three, reference[:3])
    # Going back on the same iterator, and going on with a new one of another make.
    first.set_state(state)
    assert_same(take(first, 3), reference[3:])
    second = iterator(num_threads=threads, num_workers=workers)
    next(second)
    second.set_state(state)
    assert second.get_state() == state
    assert_same(take(second, 3), reference[3:])


def test_state_of_another_run_is_noticed(caplog):
    batches = iterator()
    batches.set_state(batches.get_state())
    assert not caplog.records
    batches.set_state(batches.get_state() | {"seed": 9})
    assert "seed was 9" in caplog.text


@pytest.mark.parametrize("change", ["rename", "addition"])
def test_a_state_of_other_files_is_refused(tmp_path, change, caplog):
    folder = squares(tmp_path / "photos", 6)
    state = json.loads(json.dumps(iterator(make_source(str(folder), "all"), patch_size=8).get_state()))
    folder = folder.rename(tmp_path / "moved")  # as a whole: nothing that matters
    iterator(make_source(str(folder), "all"), patch_size=8).set_state(state)
    if change == "rename":
        (folder / "000.png").rename(folder / "zzz.png")
    else:
        (folder / "zzz.png").write_bytes((folder / "000.png").read_bytes())
    source = make_source(str(folder), "all")
    with pytest.raises(TrainingError, match=f"6 images then, {len(source)} now.*other_files=True"):
        iterator(source, patch_size=8).set_state(state)
    assert not caplog.records
    iterator(source, patch_size=8, other_files=True).set_state(state)
    assert "files was" in caplog.text
    older = {key: value for key, value in state.items() if key != "files"} | {"images": len(source)}
    iterator(source, patch_size=8).set_state(older)  # a checkpoint from before names were noted


def test_orbax_checkpoint(tmp_path, reference):
    batches = iterator(num_threads=2)
    for _ in range(2):
        next(batches)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(2, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(batches)))
        manager.wait_until_finished()
        assert_same(take(batches, 4), reference[2:])
        resumed = iterator(num_threads=1)
        manager.restore(2, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed)))
    assert_same(take(resumed, 4), reference[2:])


def test_every_epoch_shows_every_image_once_in_another_order():
    # 7 images and batches of 4: epochs and batches do not end together.
    batches = take(iterator(Flat(7), patch_size=8), 14)
    order = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]).reshape(8, 7)
    assert (np.sort(order, axis=1) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in order}) >= 7


def test_augmentation_differs_by_seed_and_epoch():
    patches = [take(iterator([PLACES], seed=seed, batch_size=3), 2) for seed in (0, 1, 2)]
    assert len({patch.tobytes() for run in patches for batch in run for patch in batch["image"]}) == 18


# What `RandomPatch` did to an image can be read off this one: red is the column, green the row.
HEIGHT, WIDTH = 200, 240
PLACES = np.stack([*np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), np.zeros((HEIGHT, WIDTH))], axis=-1).astype(
    np.uint8
)


def draw(count=3000, size=64, scale_range=(0.5, 1.0), flip=True, detail_weight=0.0):
    cut = RandomPatch(size, scale_range, flip, detail_weight)
    rng = np.random.default_rng(0)
    for _ in range(count):
        patch = cut(PLACES, rng)
        assert patch.shape == (size, size, 3) and patch.dtype == np.uint8 and patch.flags.c_contiguous
        centre = patch.astype(float).mean(axis=(0, 1))
        # Pixels of the image per pixel of the patch, in x and y, away from the border.
        steps = patch[32, 48, 0].astype(float) - patch[32, 16, 0], patch[48, 32, 1].astype(float) - patch[16, 32, 1]
        yield centre[0], centre[1], steps[0] / 32, steps[1] / 32


def test_statistics_of_flips_scales_and_places():
    x, y, step_x, step_y = np.array(list(draw())).T
    assert abs((step_x < 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(3000)
    assert (step_y > 0).all()  # never upside down
    np.testing.assert_allclose(np.abs(step_x), step_y, atol=0.1)  # never stretched
    scale = 1 / step_y
    assert scale.min() > 0.48 and scale.min() < 0.52 and scale.max() > 0.97 and scale.max() < 1.04
    assert abs(scale.mean() - 0.75) < 4 * (0.5 / np.sqrt(12)) / np.sqrt(3000)
    # Uniform over all places that a patch of its scale has: quantiles against the uniform distribution's.
    for centre, side, length in ((x, 64 * step_y, WIDTH), (y, 64 * step_y, HEIGHT)):
        place = np.sort((centre + 0.5 - side / 2) / (length - side))
        assert np.abs(place - (np.arange(3000) + 0.5) / 3000).max() < 2 / np.sqrt(3000)


def test_no_scaling_and_no_flips():
    for _, _, step_x, step_y in draw(200, scale_range=(1, 1), flip=False):
        assert step_x == step_y == 1
    assert {step > 0 for _, _, step, _ in draw(200, scale_range=(1, 1))} == {True, False}


def test_scaling_keeps_the_picture():
    """A patch scaled by 1/2 is the image's region scaled by 1/2, by another route."""
    photo = make_source("bundled", "train")[0]
    square = photo[:128, :128]
    patch = RandomPatch(64, (0.5, 0.5), False, 0.0)(square, np.random.default_rng(0))
    box = square.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(patch - box).mean() < 3
    assert np.abs(patch[:, ::-1] - box).mean() > 10


def test_detail_weight_prefers_detail():
    image = np.zeros((64, 512, 3), np.uint8)
    image[:, 448:] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))

    def share(weight):
        cut = RandomPatch(64, (1, 1), False, weight)
        rng = np.random.default_rng(1)
        return np.mean([cut(image, rng).any() for _ in range(300)])

    uniform, weighted = share(0.0), share(1.0)
    assert uniform < 0.25 and weighted > 0.5
    flat = RandomPatch(8, (0.5, 1), True, 2.0)(np.full((9, 9, 3), 7, np.uint8), np.random.default_rng(0))
    assert (flat == 7).all()


@pytest.mark.parametrize("shape", [(1, 1), (20, 300), (63, 64), (64, 64), (65, 64)])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_small_images(shape, weight):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for seed in range(20):
        patch = RandomPatch(64, (0.5, 1.0), True, weight)(image, np.random.default_rng(seed))
        assert patch.shape == (64, 64, 3)
        if min(shape) >= 64:  # not blurred: the pixels are the image's own
            assert {tuple(pixel) for pixel in patch.reshape(-1, 3)} <= {tuple(p) for p in image.reshape(-1, 3)}
    assert validation_batch([image], 64, 1).shape == (1, 64, 64, 3)


def test_validation_batch():
    batch = validation_batch([PLACES, PLACES[:100]], 64, 5)
    assert batch.shape == (5, 64, 64, 3) and batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[0], PLACES[68:132, 88:152])  # the centre
    np.testing.assert_array_equal(batch[1], PLACES[18:82, 88:152])
    for channel in (0, 1):  # further rounds take other places
        assert len({int(patch[0, 0, channel]) for patch in batch[::2]}) == 3
    np.testing.assert_array_equal(batch[:3], validation_batch([PLACES, PLACES[:100]], 64, 3))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"batch_size": 0},
        {"batch_size": 6, "process_count": 4},
        {"patch_size": 0},
        {"process_index": 2, "process_count": 2},
        {"scale_range": (0.0, 1.0)},
        {"scale_range": (0.9, 0.5)},
        {"scale_range": (0.5, 1.5)},
        {"detail_weight": -1.0},
        {"num_threads": -1},
        {"num_workers": -1},
        {"start": -1},
        {"crops": 0},
        {"max_unreadable": -1},
    ],
)
def test_arguments_out_of_range(changes):
    name = next(iter(changes))
    with pytest.raises(UsageError, match=f"^{name} .*expected"):
        iterator(Flat(3), **changes)


@pytest.mark.parametrize("division", [{"num_threads": 0}, {"num_threads": 2}, {"num_workers": 1}])
def test_a_damaged_image_stops_the_run_by_name(tmp_path, division):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes()[:5000])
    batches = iterator(make_source(str(tmp_path), "all"), patch_size=32, **division)
    with pytest.raises(InputError, match="c.png: damaged or truncated"):
        take(batches, 3)


@pytest.fixture
def damaged(tmp_path):
    """A folder of 60 images of which three cannot be read."""
    folder = squares(tmp_path / "photos", 60)
    (folder / "007.png").write_bytes((folder / "007.png").read_bytes()[:60])
    (folder / "008.png").write_bytes(b"not an image")
    (folder / "059.png").unlink()
    (folder / "059.png").symlink_to(folder / "gone.png")
    return folder


def test_unreadable_images_are_skipped_counted_and_named(damaged, caplog):
    settings = {"patch_size": 8, "batch_size": 10, "max_unreadable": 3}
    source = make_source(str(damaged), "all", cache_mib=0)
    batches = iterator(source, **settings)
    epoch = [next(batches) for _ in range(6)]
    shown = sorted(np.concatenate([batch["image"][:, 0, 0, 0] for batch in epoch]).tolist())
    # The next that can be read stands in for each: 9 for 7 and 8, and at the end of the list the first.
    assert shown == sorted([*(n for n in range(60) if n not in (7, 8, 59)), 9, 9, 0])
    assert [batches.figures()["unreadable"], len(caplog.records)] == [3, 3]
    for name, reason in (("007.png", "damaged or truncated"), ("008.png", "not an image"), ("059.png", "no such file")):
        assert sum(name in line and reason in line for line in caplog.messages) == 1
    for _ in range(6):
        next(batches)
    assert len(caplog.records) == 3  # each is named once
    # The same batches in whatever way they are prepared.
    for division in ({"num_threads": 3}, {"num_workers": 1}):
        assert_same(take(iterator(source, **settings, **division), 6), epoch)
    assert_same(
        joined([take(iterator(source, **settings, process_index=n, process_count=2), 6) for n in (0, 1)]), epoch
    )
    resumed = iterator(source, **settings)
    resumed.set_state({"step": 2})
    assert_same(take(resumed, 4), epoch[2:])


def test_too_many_unreadable_images_end_the_run(damaged):
    source = make_source(str(damaged), "all", cache_mib=0)
    with pytest.raises(InputError, match="3 images cannot be read, the last of them .*data.max_unreadable allows 2"):
        take(iterator(source, patch_size=8, batch_size=10, max_unreadable=2), 6)
    for path in damaged.iterdir():  # as when a disk is gone
        path.unlink()
    with pytest.raises(InputError, match="no such file"):
        take(iterator(source, patch_size=8, batch_size=10, max_unreadable=100), 1)


def test_validation_leaves_out_what_cannot_be_read(damaged, caplog):
    source = make_source(str(damaged), "all", cache_mib=0)
    assert validation_batch(source, 8, 59)[:, 0, 0, 0].tolist() == [*range(7), *range(9, 59), 0, 1]
    assert len(caplog.records) == 3
    for path in damaged.iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no such file"):
        validation_batch(source, 8, 1)


class Counting(Flat):
    """Counts what is read. An image shows where it was cut: red is its number, green the row."""

    def __init__(self, count):
        super().__init__(count, 60, 60)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        image = super().__getitem__(index)
        image[..., 1] = np.arange(self.height)[:, None]
        return image


def test_several_crops_of_an_image():
    source = Counting(6)
    settings = {"patch_size": 8, "batch_size": 2, "crops": 3, "scale_range": (1, 1), "flip": False}
    whole = take(iterator(source, **settings), 18)
    assert sorted(source.read) == sorted([*range(6)] * 2)  # 36 patches of two epochs, 12 times decoded
    images = np.stack([batch["image"][:, 0, 0, 0] for batch in whole]).reshape(6, 3, 2)
    assert (images == images[:, :1]).all()  # the crops stand in batches one after another ...
    rows = np.stack([batch["image"][:, 0, 0, 1] for batch in whole]).reshape(6, 3, 2)
    assert (rows != rows[:, :1]).any(axis=(1, 2)).all()  # ... and are others
    for start in range(6):
        assert_same(take(iterator(source, **settings, start=start, num_threads=start % 3), 5), whole[start : start + 5])
    first = iterator(source, **settings)
    next(first)
    state = first.get_state()
    assert_same(take(first, 4), whole[1:5])
    resumed = iterator(source, **settings, num_workers=1)
    resumed.set_state(state)
    assert_same(take(resumed, 6), whole[1:7])
    parts = [take(iterator(source, **settings, process_index=n, process_count=2), 6) for n in (0, 1)]
    assert_same(joined(parts), whole[:6])
    one = take(iterator(source, **settings | {"crops": 1}), 1)
    np.testing.assert_array_equal(one[0]["image"], whole[0]["image"])


@pytest.mark.parametrize("given, workers, threads", [(None, 0, 20), (None, 3, 6), (5, 0, 5), (5, 3, 5)])
def test_a_thread_for_every_core(monkeypatch, given, workers, threads):
    asked = []

    def options(**settings):
        asked.append(settings)
        raise NotImplementedError

    monkeypatch.setattr(runtime, "cores", lambda: 20)
    monkeypatch.setattr(grain, "ReadOptions", options)
    with pytest.raises(NotImplementedError):
        next(iterator(num_threads=given, num_workers=workers))
    assert asked[0]["num_threads"] == threads and asked[0]["prefetch_buffer_size"] >= threads


def test_time_spent_waiting_is_measured():
    class Slow(Flat):
        def __getitem__(self, index):
            time.sleep(0.02)
            return super().__getitem__(index)

    batches = iterator(Slow(4), patch_size=8, batch_size=2)
    next(batches), next(batches)
    assert batches.figures()["data_wait_ms"] > 39  # two images a step
    assert batches.figures() == {"data_wait_ms": 0}
    batches = iterator(Slow(4), patch_size=8, batch_size=2, num_threads=1)
    waits = []
    for _ in range(4):
        next(batches)
        waits.append(batches.figures()["data_wait_ms"])
        time.sleep(0.3)  # meanwhile batches are prepared
    assert waits[0] > 39 and min(waits[1:]) < 20


def test_a_closed_iterator_says_so():
    batches = iterator(Flat(3), num_threads=2)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


PROGRAM = """
import multiprocessing
import jax
from mlic_jax.data import make_source, make_train_iterator

if __name__ == "__main__":
    jax.numpy.zeros(3).block_until_ready()
    source = make_source("bundled", "train")
    threaded = make_train_iterator(source, seed=0, batch_size=4, patch_size=64, num_threads=2)
    spawned = make_train_iterator(source, seed=0, batch_size=4, patch_size=64, num_workers=2)
    batch = next(spawned)  # still in hand at the end
    assert (next(threaded)["image"] == batch["image"]).all()
    print(*[child.pid for child in multiprocessing.active_children()])
"""


def test_a_program_with_jax_ends_without_closing_and_leaves_no_process(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr and time.monotonic() - started < 40
    children = done.stdout.split()
    assert len(children) == 2
    deadline = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{child}") for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{child}") for child in children)

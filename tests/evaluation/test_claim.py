"""`mlic claim`: what is trained and what is not, figures against recomputed ones, the document, errors, signals."""

import csv
import json
import math
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from PIL import Image

from mlic_jax import zoo
from mlic_jax.cli import main as cli
from mlic_jax.codec import Codec, Objective, Traits
from mlic_jax.errors import InputError, TrainingError, UsageError
from mlic_jax.evaluation.benchmark import comparing, entrants
from mlic_jax.evaluation.benchmark.measuring import Curve
from mlic_jax.evaluation.claim import Arm, Claim, main, measuring, results, runs, spec, training, worker
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.fileformat.container import inflate
from mlic_jax.metrics import bd, registry

TESTS = pathlib.Path(__file__).parent
ENCODED = []  # quality of everything that the codec below encoded


def codec(*, step=16.0, ladder=False):
    """Pixels in steps, deflated. Trained is a number, towards 1, of which the step is a multiple."""

    def init(key, image_shape):
        seed = int(np.asarray(jax.random.key_data(key))[-1])
        return {"gain": {"value": np.float32([1.5 + 0.25 * seed])}}, {}

    def loss(params, state, batch, keys, number):
        value = jnp.mean((params["gain"]["value"] - 1) ** 2)
        return value, ({"loss": value}, state)

    def estimate(params, state, image):
        zero = jnp.zeros(image.shape[0])
        return {"loss": zero + params["gain"]["value"][0], "bits": zero, "mse255": zero + 1, "reconstruction": image}

    def width(artifact, quality):
        scale = step if quality is None else 2 ** (6 - quality / 20)
        return max(0.5, scale * float(artifact.params["gain"]["value"][0]))

    def compress(artifact, image, quality, effort=0, importance=None):
        ENCODED.append(quality)
        # An effort that is wasted: the same pixels, not compressed.
        steps = np.round(image / width(artifact, quality)).astype(np.uint8)
        return (zlib.compress(steps.tobytes(), 0 if effort else -1),)

    def decompress(artifact, chunks, size, quality=None):
        found = np.frombuffer(inflate(chunks[0], 3 * size[0] * size[1], "data"), np.uint8).reshape(*size, 3)
        return np.clip(np.round(found * width(artifact, quality)), 0, 255).astype(np.uint8)

    def export(params, state, images=None):
        return Artifact("steps", {"step": step, "ladder": ladder}, params, state, {})

    qualities = ((20, 40, 60, 80), 60) if ladder else ()
    return Codec(init, {"rd": Objective(("gain",), loss)}, estimate, export, compress, decompress, Traits(*qualities))


CONFIG = """
from mlic_jax import zoo
from mlic_jax.training.config import defaults
zoo.MODELS.setdefault("steps", zoo.Entry(65006, "test_claim:codec"))

def get_config(argument=""):
    c = defaults()
    c.model.name = "steps"
    c.model.arguments = {"step": 16.0}
    c.data.source = c.data.validation = "photos"
    c.data.batch_size, c.data.patch_size, c.data.threads = 8, 16, 0
    c.data.validation_images, c.data.validation_patch = 1, 16
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.clip_norm = "sgd", 0.05, 0.0
    c.train.steps, c.train.log_every, c.train.evaluate_every, c.train.samples = 4, 1, 0, 0
    return c
"""
STEPS = tuple({"model.arguments.step": step} for step in (64.0, 32.0, 16.0, 8.0))
FIRST = Arm("first", "configs/steps.py", points=STEPS)
# The same with one training for all its points.
RATES = Arm("first", "configs/steps.py", {"model.arguments.ladder": True})
SECOND = Arm("second one", "configs/steps.py", {"optimizer.learning_rate": 0.2}, after="first", points=STEPS)


def claim(**changes):
    made = Claim(
        "Steps that learn",
        "A. Nobody, *Nothing*, 2020.",
        "The second is better.",
        (FIRST, SECOND),
        seeds=(0, 1),
        steps=3,
        codecs=("jpeg",),
        anchors=("jpeg", "first"),
        metrics=("psnr",),
        rates=(2.2, 2.8),
        published=({"codec": "theirs", "PSNR dB": "28.60"},),
        notes="Few photos.",
    )
    return made._replace(**changes)


def photo(seed, height=48, width=64):
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


WHOLE = claim(arms=(RATES, SECOND))
HELD_OUT = [("one", photo(1)), ("two", photo(2))]


@pytest.fixture(scope="module", autouse=True)
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.MODELS, "steps", zoo.Entry(65006, "test_claim:codec"))
        yield


def furnish(folder):
    """A folder with a config and training photos."""
    (folder / "configs" / "claims").mkdir(parents=True)
    (folder / "configs" / "steps.py").write_text(CONFIG)
    (folder / "photos").mkdir()
    for seed in (10, 11):
        Image.fromarray(photo(seed)).save(folder / "photos" / f"{seed}.png")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(furnish(tmp_path))
    return tmp_path


class Trainer:
    """Trains here, and lists what it trained; `fail` and `stop` are names of runs."""

    def __init__(self, fail=(), stop=()):
        self.names, self.fail, self.stop = [], fail, stop

    def __call__(self, run, quiet):
        if run.name in self.stop:
            raise training.Stopped(signal.SIGTERM)
        if run.arm.name in self.fail:
            raise TrainingError("the loss was not finite")
        self.names.append(run.name)
        worker.train_here({"config": run.config, "workdir": str(run.folder), "quiet": True})


def run(made, train=None, pictures=None, **options):
    """Writes a claim as a file, as it is, and runs it."""
    path = pathlib.Path("configs/claims/steps.py")
    path.write_text("import test_claim\n\ndef get_claim():\n    return test_claim.CLAIMS['steps']\n")
    CLAIMS["steps"] = made
    options = main.Options(quiet=True, workdir="work", out="docs", **options)
    return main.run("steps", lambda: pictures or HELD_OUT, options, train or Trainer())


CLAIMS = {}
THREE = (
    Arm("first", "configs/steps.py"),
    Arm("second", "configs/steps.py", after="first"),
    Arm("third", "configs/steps.py"),
)
SMALL = dict(
    arms=THREE,
    seeds=(0,),
    codecs=(),
    anchors=("first",),
    rates=(),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder in which the three arms of SMALL are trained, to be copied."""
    folder = furnish(tmp_path_factory.mktemp("small"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(claim(**SMALL))
    return folder


@pytest.fixture
def trained(small, tmp_path, monkeypatch):
    """A function that makes a folder to be in, where those arms are trained and others are not."""

    def trained(*arms):
        shutil.copytree(small, tmp_path / "copy")
        monkeypatch.chdir(tmp_path / "copy")
        shutil.rmtree("docs")
        for arm in SMALL["arms"]:
            if arm.name not in arms:
                shutil.rmtree(pathlib.Path("work", arm.name))
        return tmp_path / "copy"

    return trained


# ---------------------------------------------------------------------- a whole claim


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A claim of two arms, two seeds and four points: (folder, trainer, outcome). The first arm has several rates."""
    folder = furnish(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trainer = Trainer()
        return folder, trainer, run(WHOLE, trainer, shown=1)


@pytest.fixture
def copy(whole, tmp_path, monkeypatch):
    """A copy of its folder, to be in."""
    shutil.copytree(whole[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def curves_of(folder, key="psnr_db"):
    """(name, seed) -> points, recomputed from the rows of images."""
    found = {}
    with open(folder / "work" / "images.csv") as file:
        for row in csv.DictReader(file):
            by_point = found.setdefault((row["name"], row["seed"]), {})
            by_point.setdefault(row["point"], []).append((float(row["bpp"]), float(row[key])))
    return {name: sorted(tuple(np.mean(v, 0)) for v in points.values()) for name, points in found.items()}


def test_all_seeds_of_all_arms_are_trained_and_measured(whole):
    folder, trainer, outcome = whole
    arms = ["first, seed {}", *(f"second one, step={step}, seed {{}}" for step in (64.0, 32.0, 16.0, 8.0))]
    assert trainer.names == [name.format(seed) for seed in (0, 1) for name in arms]
    assert not outcome.failures and not outcome.results["missing"]
    assert (folder / "work" / "second-one" / "step=8.0" / "seed-1" / "checkpoints" / "3").is_dir()
    names = {(curve["name"], curve["seed"], len(curve["points"])) for curve in outcome.results["curves"]}
    assert names == {("first", 0, 4), ("first", 1, 4), ("second one", 0, 4), ("second one", 1, 4), ("jpeg", None, 8)}
    for path in outcome.written.values():
        assert pathlib.Path(folder, path).stat().st_size > 0
    assert set(outcome.written) == {
        "results.json", "images.csv", "steps.md", "steps-psnr.svg", "steps-psnr.png", "report.html"
    }  # fmt: skip
    assert len(outcome.results["runs"]) == 10
    for one in outcome.results["runs"]:
        assert one["done"] == one["steps"] == 3 and one["minutes"] > 0 and one["steps_per_second"] > 0


def test_arms_begin_with_the_weights_of_others(whole):
    folder, _, _ = whole
    for seed in (0, 1):
        gain = 1.5 + 0.25 * seed
        for name, rate in (("first/only", 0.05), ("second-one/step=8.0", 0.2)):
            found = Artifact.load(folder / "work" / name / f"seed-{seed}" / "model-3.mlicm")
            gain = 1 + (gain - 1) * (1 - 2 * rate) ** 3  # three steps of gradient descent
            assert float(found.params["gain"]["value"][0]) == pytest.approx(gain, rel=1e-5)
            assert found.card["step"] == 3


def test_figures_are_those_of_the_rows(whole):
    folder, _, outcome = whole
    found, curves = json.loads((folder / "work" / "results.json").read_text()), curves_of(folder)
    assert found == json.loads(json.dumps(outcome.results))
    for curve in found["curves"]:
        mine = curves[curve["name"], "" if curve["seed"] is None else str(curve["seed"])]
        assert [(point["bpp"], point["psnr_db"]) for point in curve["points"]] == [pytest.approx(p) for p in mine]

    def at(name, seed, rate):
        return results.at_rate(curves[name, seed], rate)

    for row in found["at_rates"]:
        seeds = [""] if row["name"] == "jpeg" else ["0", "1"]
        values = [at(row["name"], seed, row["rate"]) for seed in seeds]
        assert row["mean"] == pytest.approx(statistics.fmean(values)) and row["n"] == len(seeds)
        if row["name"] != "jpeg":
            gains = [value - at("jpeg", "", row["rate"]) for value in values]
            assert row["gain"]["mean"] == pytest.approx(statistics.fmean(gains))
            assert row["gain"]["sd"] == pytest.approx(statistics.stdev(gains))
    rates = {(row["name"], row["anchor"]): row for row in found["bd_rates"]}
    assert set(rates) == {("first", "jpeg"), ("second one", "jpeg"), ("second one", "first"), ("jpeg", "first")}
    paired = rates["second one", "first"]
    for seed in ("0", "1"):
        both = [curves["first", seed], curves["second one", seed]]
        single = bd.bd_rate(*both, quality_range=(paired["low"], paired["high"])).value
        assert paired["values"][seed] == pytest.approx(single)
    assert paired["mean"] == pytest.approx(statistics.fmean(paired["values"].values()))
    assert paired["sd"] == pytest.approx(statistics.stdev(paired["values"].values()))
    ends = [
        f([v for _, v in curves[name, seed]]) for f in (min, max) for name in ("first", "second one") for seed in "01"
    ]
    assert (paired["low"], paired["high"]) == (pytest.approx(max(ends[:4])), pytest.approx(min(ends[4:])))
    images = {row["name"]: row for row in found["per_image"]}
    assert set(images) == {"first", "second one"} and images["first"]["anchor"] == "jpeg"
    gains = images["second one"]["gains"]
    assert set(gains) == {"one", "two"}
    assert images["second one"]["median"] == pytest.approx(statistics.fmean(gains.values()))
    assert gains[images["second one"]["best_image"]] == images["second one"]["best"] == max(gains.values())


def tables_of(text):
    """Headline -> tables below it, each a list of dicts."""
    found, headline, lines = {}, "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            headline = line.lstrip("# ")
        elif line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
        elif lines:
            found.setdefault(headline, []).append([dict(zip(lines[0], cells)) for cells in lines[2:]])
            lines = []
    return found


def test_the_document_says_what_was_found(whole):
    folder, _, outcome = whole
    text, found = (folder / "docs" / "steps.md").read_text(), outcome.results
    for words in ("# Steps that learn", "A. Nobody, *Nothing*, 2020.", "The second is better.", "Few photos.",
                  "    mlic claim steps\n", "![PSNR over rate](steps-psnr.svg)", "pchip", "akima"):  # fmt: skip
        assert words in text
    assert str(folder) not in text
    sections = tables_of(text)
    settings = {row["setting"]: row["value"] for row in sections["What was done"][0]}
    assert settings["Seeds"] == "0, 1" and settings["Steps of each training"] == "3"
    assert settings["Training photos"] == "photos (1 photo)" and settings["Photos measured"].endswith("(2 photos)")
    assert f"jax {jax.__version__}" in settings["Trained on"]

    def number(cell):
        return float(cell.split()[0].replace("−", "-"))

    (at_rates,) = sections["At equal rate"]
    assert [row["codec"] for row in at_rates] == ["first", "second one", "jpeg"]
    for entry in found["at_rates"]:
        row = next(row for row in at_rates if row["codec"] == entry["name"])
        cell, gain = row[f"PSNR dB at {entry['rate']:g} bpp"], row[f"gain at {entry['rate']:g} bpp"]
        assert number(cell) == pytest.approx(entry["mean"], abs=0.0051)
        if "gain" in entry:
            assert number(gain) == pytest.approx(entry["gain"]["mean"], abs=0.0051) and gain.endswith("(n = 2)")
            assert number(gain.split("±")[1]) == pytest.approx(entry["gain"]["sd"], abs=0.0051)
        else:
            assert gain == "0" and "±" not in cell
    (rates,) = sections["BD-rate in PSNR"]
    for entry in found["bd_rates"]:
        cell = next(row for row in rates if row["codec"] == entry["name"])[f"% against {entry['anchor']}"]
        assert number(cell) == pytest.approx(entry["mean"], abs=0.051)
        low, high = cell.split("[")[1].removesuffix(" dB]").split(" to ")
        assert (float(low), float(high)) == pytest.approx((entry["low"], entry["high"]), abs=0.051)
    (images,) = sections["Single pictures"]
    for entry in found["per_image"]:
        row = next(row for row in images if row["codec"] == entry["name"])
        assert number(row["median"]) == pytest.approx(entry["median"], abs=0.0051)
        assert row["worst"].endswith(f"({entry['worst_image']})")
    assert sections["The paper's figures"] == [[{"codec": "theirs", "PSNR dB": "28.60"}]]
    assert len(sections["Trainings"][0]) == 10


def test_a_second_call_trains_and_measures_nothing(whole, copy):
    folder, outcome = copy, whole[2]
    before = (folder / "docs" / "steps.md").read_text()
    ENCODED.clear()
    trainer = Trainer()
    again = run(WHOLE, trainer)
    assert trainer.names == [] and ENCODED == []
    assert {**again.results, "date": ""} == {**outcome.results, "date": ""}
    assert (folder / "docs" / "steps.md").read_text().replace(again.results["date"], "") == before.replace(
        outcome.results["date"], ""
    )
    # A part of it: the other arm only prepares weights then, and is no anchor.
    part = run(WHOLE, trainer, arms=["second one"], seeds=[1], only_report=True).results
    assert trainer.names == [] and part["anchors"] == ["jpeg"]
    assert {(curve["name"], curve["seed"]) for curve in part["curves"]} == {("second one", 1), ("jpeg", None)}
    assert all(row["sd"] is None for row in part["bd_rates"])


# ---------------------------------------------------------------------- interruptions and failures


def test_what_was_stopped_goes_on(trained):
    here, trainer = trained("first"), Trainer(stop=["second, seed 0"])
    with pytest.raises(training.Stopped):
        run(claim(**SMALL), trainer)
    assert trainer.names == [] and not (here / "docs" / "steps.md").exists()
    trainer = Trainer()
    outcome = run(claim(**SMALL), trainer)
    assert trainer.names == ["second, seed 0", "third, seed 0"] and not outcome.failures
    assert [run["done"] for run in outcome.results["runs"]] == [3, 3, 3]


def test_a_run_that_is_half_done_goes_on(trained):
    trained("third")
    first = runs.all_of(claim(**SMALL), "work")[0]
    half = {**first.config, "train": {**first.config["train"], "steps": 2}}
    worker.train_here({"config": half, "workdir": str(first.folder), "quiet": True})
    assert runs.done(first) == 2 and not runs.finished(first)
    run(claim(**SMALL))
    assert [line["step"] for line in toys.lines(first.folder)] == [1, 2, 3]


@pytest.mark.parametrize(("fail", "left"), [(("first",), {"third"}), (("third",), {"first", "second"})])
def test_a_failing_arm_leaves_the_others(fail, left, trained):
    here = trained(*left)
    outcome = run(claim(**SMALL), Trainer(fail=fail))
    assert {curve["name"] for curve in outcome.results["curves"]} == left
    text = (here / "docs" / "steps.md").read_text()
    assert f"- {fail[0]}, seed 0: the loss was not finite" in text
    assert ("second, seed 0: it begins with the weights of first, seed 0, which is not trained" in text) == (
        "second" not in left
    )
    with pytest.raises(TrainingError, match=f"^{fail[0]}, seed 0: the loss was not finite") as error:
        main.check(outcome)
    assert error.value.exit_code == 7
    main.check(run(claim(**SMALL)))  # the same command goes on with them


def test_a_model_that_cannot_be_measured_leaves_the_others(trained):
    trained("first", "second", "third")
    arms = (*SMALL["arms"], Arm("several", "configs/steps.py", qualities=(20, 40)))
    outcome = run(claim(**{**SMALL, "arms": arms}))
    assert "several" not in {curve["name"] for curve in outcome.results["curves"]}
    with pytest.raises(TrainingError, match="arm 'several' has qualities, and its model 'steps' has one rate"):
        main.check(outcome)


def test_when_nothing_is_trained_there_is_no_report(here):
    with pytest.raises(InputError, match="no finished training in 'work'"):
        run(claim(**SMALL), only_report=True)
    with pytest.raises(TrainingError, match=r"not finite \(and 2 more\); nothing is trained"):
        run(claim(**SMALL), Trainer(fail=("first", "third")))
    assert not (here / "docs" / "steps.md").exists()


def test_a_report_of_what_there_is(trained):
    here, trainer = trained("first", "second"), Trainer()
    outcome = run(claim(**SMALL), trainer, only_report=True)
    assert trainer.names == [] and not outcome.failures and outcome.results["missing"] == {"third": "not trained"}
    assert "- third: not trained" in (here / "docs" / "steps.md").read_text()
    assert [run["done"] for run in outcome.results["runs"]] == [3, 3, 0]
    # One point per curve: no rates, no differences, and reasons.
    assert all(row["mean"] is None and row["note"] for row in outcome.results["bd_rates"])


def test_a_model_of_several_rates_is_a_curve(here):
    several = Arm("several", "configs/steps.py", {"model.arguments.ladder": True})
    arms = (several, Arm("some", of="several", qualities=(10, 30, 50, 70, 90)))
    found = run(claim(**{**SMALL, "arms": arms, "anchors": ("several",)})).results
    points = {curve["name"]: [point["point"] for point in curve["points"]] for curve in found["curves"]}
    assert points == {
        "several": [f"quality {q}" for q in (20, 40, 60, 80)],
        "some": [f"quality {q}" for q in (10, 30, 50, 70, 90)],
    }
    (row,) = found["bd_rates"]
    assert abs(row["mean"]) < 5 and row["sd"] is None  # the same model
    text = (here / "docs" / "steps.md").read_text()
    assert len(tables_of(text)["Curves"][0]) == 9 and "n = " not in text


# ---------------------------------------------------------------------- folders of something else


def test_folders_of_another_config_are_refused_before_any_training(trained):
    trained("first", "second", "third")
    trainer = Trainer()
    for changes, options, words in (
        ({}, {"steps": 2}, "first, seed 0: 'work/first/only/seed-0' has 3 steps, more than 2"),
        ({"arms": (FIRST._replace(points=({},), changes={"optimizer.learning_rate": 0.3}),)}, {},
         "belongs to another config; take a new --workdir. optimizer.learning_rate: 0.05 in the checkpoint, 0.3 now"),
        ({}, {"steps": 5}, "'work/second/only/seed-0' began with step 3 of first, seed 0, which is to have 5; take"),
    ):  # fmt: skip
        with pytest.raises(TrainingError) as error:
            run(claim(**{**SMALL, **changes}), trainer, **options)
        assert words in str(error.value)
    assert trainer.names == []


def test_photos_that_are_trained_on_are_not_measured(here):
    trainer = Trainer()
    source = runs.all_of(claim(**SMALL), "work")[0].config["data"]
    from mlic_jax.data import make_source

    seen = make_source(source["source"], "train")[0]
    with pytest.raises(UsageError, match="picture 'renamed' is to be measured, and is in the training photos 'photos'"):
        run(claim(**SMALL), trainer, pictures=[*HELD_OUT, ("renamed", np.array(seen))])
    assert trainer.names == []
    (here / "others").mkdir()
    for name in ("a.bmp", "b.png", "c.png"):  # one of them is for validation
        Image.fromarray(photo(2)).save(here / "others" / name)
    with pytest.raises(UsageError, match="picture 'two' .* 'others'"):
        run(claim(**SMALL), trainer, source="others")


# ---------------------------------------------------------------------- configs


def test_steps_stretch_the_schedule(here):
    first = FIRST._replace(changes={"optimizer.decay_steps": 8, "optimizer.boundaries": (2, 4)}, points=({},))
    made = runs.make_config(first, {}, 12, None)
    assert (made.train.steps, made.optimizer.decay_steps) == (12, 8)  # changes are what they say
    made = runs.make_config(first, {}, 12, 24)
    assert (made.train.steps, made.optimizer.decay_steps, made.optimizer.boundaries) == (24, 16, (4, 8))
    assert runs.make_config(first, {}, None, None).train.steps == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer.rate": 1}, "arm 'first': config 'optimizer.rate' cannot be set to 1"),
        ({"nothing.here": 1}, "config 'nothing.here' cannot be set"),
        ({"data.batch_size": "many"}, "config 'data.batch_size' cannot be set to 'many'"),
    ],
)
def test_keys_that_do_not_exist(changes, words, here):
    trainer = Trainer()
    with pytest.raises(UsageError) as error:
        run(claim(arms=(FIRST._replace(changes=changes),), anchors=()), trainer)
    assert words in str(error.value) and trainer.names == []


def test_points_have_names():
    assert runs.point_names(FIRST) == ["step=64.0", "step=32.0", "step=16.0", "step=8.0"]
    arm = Arm("a", "", points=({}, {"a.b": 1, "c": (2, 3)}, {"x.b": 1, "c": "2 3"}, {"a": "x" * 80}))
    assert runs.point_names(arm) == ["only", "b=1_c=-2-3", "b=1_c=2-3", "point-3"]


def test_speed_is_that_of_the_steps_over_all_resumes(tmp_path):
    one = runs.Run(FIRST, 0, "only", 0, {}, tmp_path, None)
    assert runs.speed(one) == (None, None)
    lines = [{"step": 1, "kind": "train"}, {"step": 11, "kind": "train", "steps_per_second": 2.0},
             {"step": 11, "kind": "validation"}, {"step": 31, "kind": "train", "steps_per_second": 1.0}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4')
    minutes, speed = runs.speed(one)
    assert speed == pytest.approx(30 / 25) and minutes == pytest.approx(31 / (30 / 25) / 60)


# ---------------------------------------------------------------------- figures by hand


def test_curves_are_interpolated_over_the_logarithm_of_the_rate():
    line = [(0.1, 20.0), (1.0, 30.0), (10.0, 40.0)]
    assert results.at_rate(line, 10**-0.5) == pytest.approx(25)
    assert results.at_rate(line[:2], 10**-0.5) == pytest.approx(25)
    assert results.at_rate(line, 0.09) is results.at_rate(line[:1], 0.1) is None
    assert results.mean_gain(line, [(0.01, 11.0), (1.0, 31.0), (5.0, 31 + 10 * math.log10(5))]) == pytest.approx(1)
    assert results.mean_gain(line, [(20.0, 40.0), (30.0, 41.0)]) is None
    assert results.mean_gain(line, line[:1]) is None
    assert comparing.summary({"0": 1.0, "1": 2.0, "2": 6.0})["sd"] == pytest.approx(7**0.5)
    assert comparing.summary({}) == {"values": {}, "mean": None, "sd": None, "n": 0}


def test_differences_are_those_of_each_seed():
    """Seeds that differ much, arms that differ little: the spread is that of the differences."""

    rates = (1.0, 2.0, 4.0, 8.0)
    points = tuple(entrants.Point(str(i), {}, None, None) for i in range(4))

    def curve(name, lift):
        values = [{"name": "a", "bpp": rate, "psnr_db": 20 + 10 * math.log10(rate) + lift} for rate in rates]
        return Curve(entrants.Entrant(name, "ours", "", points, None), [[row] for row in values])

    curves = {("a", seed): curve("a", 3.0 * seed) for seed in (0, 1, 2)}
    curves |= {("b", seed): curve("b", 3.0 * seed + 1 + 0.1 * seed) for seed in (0, 1, 2)}
    made = claim(arms=(), codecs=(), anchors=("a",), seeds=(0, 1, 2), rates=(2.0,))
    found = results.compute(made, curves)
    (gain,) = [row["gain"] for row in found["at_rates"] if row["name"] == "b"]
    assert gain["values"] == pytest.approx({"0": 1.0, "1": 1.1, "2": 1.2})
    assert gain["sd"] == pytest.approx(0.1) and gain["n"] == 3
    (rate,) = found["bd_rates"]
    assert rate["values"]["0"] == pytest.approx((10**-0.1 - 1) * 100) and rate["n"] == 3
    (images,) = found["per_image"]
    assert images["gains"] == pytest.approx({"a": 1.1})
    assert comparing.spread(gain, 2, True) == "+1.10 ± 0.10 (n = 3)"
    # Seeds that are not there have no difference.
    found = results.compute(made, {key: curve for key, curve in curves.items() if key != ("a", 0) and key != ("a", 1)})
    assert found["bd_rates"][0]["values"].keys() == {"2"}


def test_grey_pictures_are_luma_three_times():
    (seen,) = measuring.pictures(HELD_OUT[:1], True)
    assert seen.image.shape == HELD_OUT[0][1].shape
    assert all(np.array_equal(seen.image[..., [c]], registry.luma(HELD_OUT[0][1])) for c in range(3))
    assert np.array_equal(measuring.pictures(HELD_OUT, False)[1].image, HELD_OUT[1][1])


# ---------------------------------------------------------------------- errors


def test_papers_that_are_not_there(here):
    for name in ("b", "a"):
        pathlib.Path(f"configs/claims/{name}.py").write_text("def get_claim():\n    pass\n")
    for paper in ("jpeg", "../steps"):
        with pytest.raises(
            UsageError, match=f"claim '{paper}' .*: give the path of a file, or one of a, b, hu2020, jiang2017"
        ):
            spec.find(paper)
    assert spec.find("a") == spec.find("configs/claims/a.py") == pathlib.Path("configs/claims/a.py")
    assert spec.find("jiang2017").parts[-3:] == ("configs", "claims", "jiang2017.py")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 +", "cannot be read: SyntaxError"),
        ("import nothing_of_this_name", "cannot be read: ModuleNotFoundError"),
        ("", "has no function get_claim"),
        ("def get_claim(): return {}['x']", "cannot be read: KeyError: 'x'"),
        ("def get_claim(): return 3", "get_claim returned a int, not a Claim"),
    ],
)
def test_claim_files_that_cannot_be_read(text, words, tmp_path):
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(UsageError) as error:
        spec.load(tmp_path / "a.py")
    assert words in str(error.value) and "a.py" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": ()}, "no arm is shown"),
        ({"arms": (FIRST._replace(shown=False),)}, "no arm is shown"),
        ({"arms": (FIRST, FIRST)}, "arm 'first' needs another name"),
        ({"arms": (FIRST._replace(name="jpeg"),)}, "arm 'jpeg' needs another name"),
        ({"arms": (FIRST._replace(name="?"),)}, "arm '?' needs another name"),
        ({"arms": ("first",)}, "arms has a str, not an Arm"),
        ({"arms": (FIRST._replace(points=()),)}, "arm 'first' has no points"),
        ({"arms": (SECOND, FIRST)}, "arm 'second one' is after 'first', which is no earlier arm: there is none"),
        ({"arms": (FIRST, SECOND._replace(after="frist"))}, "is after 'frist', which is no earlier arm: first"),
        ({"arms": (FIRST, SECOND._replace(points=STEPS[:2]))}, "arm 'second one' has 2 points, and 'first'"),
        ({"arms": (FIRST._replace(changes={"train.steps": 5}), SECOND)}, "arm 'first' changes 'train.steps'"),
        ({"arms": (FIRST._replace(points=({"seed": 5},)), SECOND._replace(after=""))}, "arm 'first' changes 'seed'"),
        ({"arms": (FIRST, Arm("again"))}, "arm 'again' needs a config, or is `of` another arm"),
        ({"arms": (FIRST, Arm("again", "configs/steps.py", of="first"))}, "and not both"),
        ({"arms": (Arm("again", of="first"), FIRST)}, "is of 'first', which is no earlier arm that is trained"),
        ({"arms": (FIRST, Arm("again", of="first", effort=10))}, "has effort 10: a whole number from 0 to 9"),
        ({"seeds": ()}, "seeds are ()"),
        ({"seeds": (1, 1)}, "seeds are (1, 1)"),
        ({"steps": 0}, "steps is 0"),
        ({"codecs": ("jpg",)}, "unknown classical codec 'jpg'"),
        ({"metrics": ("pnsr",)}, "unknown metric 'pnsr'"),
        ({"metrics": ()}, "metrics is empty"),
        ({"anchors": ("webp",)}, "anchor 'webp' is none of what is measured: jpeg, first, second one"),
        ({"rates": (0.5, 0)}, "rates are (0.5, 0)"),
    ],
)
def test_claims_that_make_no_sense(changes, words, here):
    trainer = Trainer()
    with pytest.raises(UsageError) as error:
        run(claim(**changes), trainer)
    assert words in str(error.value) and trainer.names == []


def test_an_arm_of_another_measures_its_models_again(copy):
    trainer = Trainer()
    finer = Arm("finer", "", {"model.arguments.step": 4.0}, of="second one")
    arms = (RATES._replace(shown=False), SECOND, Arm("harder", of="second one", effort=3), finer)
    outcome = run(claim(arms=arms, seeds=(0,), codecs=(), anchors=("second one",), rates=()), trainer)
    assert trainer.names == [] and [row["arm"] for row in outcome.results["runs"]] == ["first", *4 * ["second one"]]
    rows = list(csv.DictReader(pathlib.Path(outcome.written["images.csv"]).read_text().splitlines()))
    first, harder = ([row for row in rows if row["name"] == name] for name in ("second one", "harder"))
    assert len(first) == len(harder) > 0
    for one, other in zip(first, harder, strict=True):
        assert one["psnr_db"] == other["psnr_db"] and int(one["bytes"]) < int(other["bytes"])
    changed = {row["psnr_db"] for row in rows if row["name"] == "finer"}
    assert len(changed) == len(HELD_OUT) and max(changed) > max(row["psnr_db"] for row in first)


def test_the_command_line(here, capsys, monkeypatch):
    CLAIMS["steps"] = claim(**SMALL)
    (here / "configs/claims/steps.py").write_text(
        "import test_claim\ndef get_claim(): return test_claim.CLAIMS['steps']\n"
    )
    (here / "kodak").mkdir()
    for name, image in HELD_OUT:
        Image.fromarray(image).save(here / "kodak" / f"{name}.png")
    monkeypatch.setattr(main.run, "__defaults__", (Trainer(),))
    words = ["claim", "steps", "--images", str(here / "kodak"), "--quiet", "--show", "0"]
    assert cli.main([*words, "--arms", "third", "--limit", "1"]) == 0
    text = (here / "runs" / "claims" / "steps" / "steps.md").read_text()
    assert "    mlic claim steps --images kodak --arms third --limit 1\n" in text and str(here) not in text
    assert (here / "runs" / "claims" / "steps" / "third" / "only" / "seed-0" / "model-3.mlicm").exists()
    monkeypatch.setattr(main.run, "__defaults__", (Trainer(fail=("first",)),))
    capsys.readouterr()
    assert cli.main(words) == 7
    said = capsys.readouterr().err.splitlines()
    assert said == ["mlic: error: first, seed 0: the loss was not finite (and 1 more, which the document names)"]
    for more, status, expected in (
        (["--seeds", "0,x"], 2, "seeds '0,x'"),
        (["--arms", "fourth"], 2, "arm 'fourth' is not known: first, second, third are"),
        (["--steps", "0"], 2, "steps is 0"),
        (["--workdir", str(here / "kodak" / "one.png" / "x")], 3, "cannot make the folder"),
    ):
        assert cli.main([*words, *more]) == status
        assert expected in capsys.readouterr().err
    monkeypatch.setattr(main.run, "__defaults__", (Trainer(stop=("first, seed 0",)),))
    assert cli.main(words) == 0  # SIGTERM


def test_a_dry_run_says_how_long_it_takes(here, capsys, monkeypatch):
    """By the claim's speeds, and by those measured here; nothing is trained or written."""
    arms = (
        Arm("slow", "configs/steps.py", steps_per_second=0.01),
        Arm("new", "configs/steps.py", {"optimizer.learning_rate": 0.2}),
    )
    CLAIMS["steps"] = claim(**{**SMALL, "arms": arms, "anchors": (), "seeds": (0, 1)})
    (here / "configs/claims/steps.py").write_text(
        "import test_claim\ndef get_claim(): return test_claim.CLAIMS['steps']\n"
    )
    before = sorted(here.rglob("*"))
    words = ["claim", "steps", "--images", str(here / "photos"), "--source", str(here / "none"), "--dry-run"]
    monkeypatch.setattr(measuring, "refuse_overlap", lambda *_: None)
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "4 trainings, 0 of them done" in said and "slow, seed 1: 3 steps, 5.0 min" in said
    assert "in all some 10 minutes, and nobody knows for 2 of them" in said
    assert cli.main([*words, "--steps", "6", "--seeds", "0", "--arms", "slow"]) == 0
    assert "1 training, 0 of them done\n  slow, seed 0: 6 steps, 10.0 min" in capsys.readouterr().out
    assert [path for path in sorted(here.rglob("*")) if "__pycache__" not in str(path)] == before
    # A run that is done here says how fast this machine is.
    done, left = runs.all_of(claim(**{**SMALL, "arms": arms[:1], "anchors": (), "seeds": (0, 1)}), "work")
    (done.folder / "checkpoints" / "3").mkdir(parents=True)
    records = [{"step": step, "kind": "train", "steps_per_second": 0.1} for step in (1, 2, 3)]
    (done.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert runs.minutes_left(done, [done, left]) == 0 and runs.minutes_left(left, [done, left]) == pytest.approx(0.5)


def test_notes_are_about_the_steps_of_the_claim(here):
    short = claim(**{**SMALL, "arms": (Arm("only", "configs/steps.py"),), "anchors": (), "codecs": ()})
    for steps, noted in ((2, False), (3, True)):
        run(short, steps=steps)
        text = (here / "docs" / "steps.md").read_text()
        assert ("Few photos." in text) == noted and ("have other lengths than" in text) != noted


# ---------------------------------------------------------------------- processes


@pytest.fixture
def command(here, monkeypatch):
    """Starts `mlic claim` in a process, on one arm of so many steps; returns it and the run."""
    # Imported by every process at its start, the worker's too: this codec is in their zoo.
    (here / "sitecustomize.py").write_text(
        "from mlic_jax import zoo\nzoo.MODELS['steps'] = zoo.Entry(65006, 'test_claim:codec')\n"
    )
    (here / "configs/claims/steps.py").write_text(
        "import test_claim\ndef get_claim(): return test_claim.of_one_arm()\n"
    )
    path = os.pathsep.join([str(here), str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])

    def start(steps):
        words = [sys.executable, "-m", "mlic_jax", "claim", "steps", "--steps", str(steps), "--show", "0"]
        environment = {**os.environ, "PYTHONPATH": path}
        process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return process, runs.all_of(of_one_arm(), "runs/claims/steps", steps=steps)[0]

    return start


def of_one_arm():
    return claim(**{**SMALL, "arms": (Arm("only", "configs/steps.py"),), "anchors": ()})


def wait_for(condition, process=None):
    for _ in range(6000):
        if condition():
            return
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("it did not happen within a minute")


def begun(run):
    path = run.folder / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0


def test_a_signal_saves_and_the_same_command_goes_on(command):
    process, one = command(1_000_000)
    wait_for(lambda: begun(one), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    step = runs.done(one)
    assert 0 < step < 1_000_000
    assert f"stopped: only, seed 0 is saved at step {step} of 1000000; the same command goes on" in said
    process, one = command(step + 50)
    written, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert f"only, seed 0: {step + 50} steps, from step {step}" in said and "runs/claims/steps/steps.md" in written
    assert runs.finished(one)
    steps = [line["step"] for line in toys.lines(one.folder)]
    assert steps == list(range(1, step + 51))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")
def test_a_killed_command_leaves_no_training_behind(command):
    process, one = command(1_000_000)
    wait_for(lambda: begun(one), process)
    process.kill()
    process.communicate()
    wait_for(lambda: runs.done(one) > 0)


def test_a_process_that_fails_says_why(here):
    (here / "configs" / "gone.py").write_text(
        "import toys\ndef get_config(): return toys.config({'data.source': 'gone'}, 'bmshj2018-factorized')\n"
    )
    (one,) = runs.all_of(claim(**{**SMALL, "arms": (Arm("only", "configs/gone.py"),), "anchors": ()}), "work")
    with pytest.raises(TrainingError, match="data source 'gone': no such folder"):
        training.in_a_process(one, quiet=True)

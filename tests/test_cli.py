"""The command as a person types it: results, one-line errors, exit statuses, and no half-written files."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from mlic_jax import cli, data, zoo

ROOT = pathlib.Path(__file__).parent.parent


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


def run(capsys, *words):
    """(exit status, standard output, standard error)."""
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as reason:  # argparse
        status = reason.code
    out = capsys.readouterr()
    return status, out.out, out.err


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
    assert status == 0 and json.loads(out)["architecture"] == {"N": 8, "M": 12}


def test_decompress_finds_the_model_in_MLIC_MODELS(tmp_path, model, photo):
    # In a fresh process: in this one the model is already loaded.
    assert cli.main(["compress", photo, "-m", model]) == 0
    command = [sys.executable, "-m", "mlic_jax.cli", "decompress", str(tmp_path / "photo.mlic"), "-o"]
    env = {"PATH": "", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)}
    lost = subprocess.run([*command, str(tmp_path / "a.png")], env=env, capture_output=True, text=True)
    assert lost.returncode == 5 and "fingerprint" in lost.stderr and "Traceback" not in lost.stderr
    env["MLIC_MODELS"] = str(pathlib.Path(model).parent)
    found = subprocess.run([*command, str(tmp_path / "b.png")], env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "b.png").exists() and not (tmp_path / "a.png").exists()


def test_info_is_light():
    """Reading a header imports neither jax nor flax nor a model."""
    code = (
        "import sys; from mlic_jax import cli, api; "
        "print([m for m in ('jax', 'flax', 'scipy', 'constriction', 'orbax', 'tensorflow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_using_imports_neither_orbax_nor_tensorflow(model, photo):
    code = (
        "import sys; from mlic_jax import cli; "
        f"cli.main(['compress', {photo!r}, '-m', {model!r}, '-f']); "
        "print([m for m in ('orbax', 'tensorflow', 'grain', 'optax', 'clu', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().splitlines()[-1] == "[]"


def _picture(path, mode):
    Image.new(mode, (20, 10)).save(path)
    return path


BAD = [
    ("missing", lambda t, p, m: ["compress", t / "none.png", "-m", m], 3, "none.png"),
    ("text", lambda t, p, m: ["compress", t / "text.png", "-m", m], 3, "text.png"),
    ("cut", lambda t, p, m: ["compress", t / "cut.png", "-m", m], 3, "cut.png"),
    ("folder", lambda t, p, m: ["compress", t, "-m", m], 3, "folder"),
    ("grey", lambda t, p, m: ["compress", _picture(t / "grey.png", "L"), "-m", m], 3, "mode L"),
    ("rgba", lambda t, p, m: ["compress", _picture(t / "rgba.png", "RGBA"), "-m", m], 3, "--convert"),
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
    words = words(tmp_path, photo, model)
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    found, out, err = run(capsys, *words)
    assert found == status, err
    message = [line for line in err.splitlines() if "error:" in line]
    assert len(message) == 1 and named in message[0], err
    assert "Traceback" not in err and out == ""
    after = {path: path.stat().st_size for path in tmp_path.rglob("*") if "/w" not in str(path)}
    assert after == before, "a failed command left something behind"


def test_nothing_is_overwritten_without_force(capsys, tmp_path, model, photo):
    target = tmp_path / "out.mlic"
    target.write_bytes(b"precious")
    status, _, err = run(capsys, "compress", photo, "-m", model, "-o", target)
    assert status == 3 and "-f" in err and target.read_bytes() == b"precious"
    assert run(capsys, "compress", photo, "-m", model, "-o", target, "-f")[0] == 0
    assert target.read_bytes()[:4] == b"MLIC"


def test_a_batch_goes_on_past_a_bad_file(capsys, tmp_path, model, photo):
    bad = tmp_path / "bad.png"
    bad.write_text("no")
    out_folder = tmp_path / "out"
    out_folder.mkdir()
    status, out, err = run(capsys, "compress", bad, photo, "-m", model, "-o", out_folder)
    assert status == 1 and "1 of 2 files failed" in err and "photo.png" in out
    assert [path.name for path in out_folder.iterdir()] == ["photo.mlic"]


def test_convert(capsys, tmp_path, model):
    grey = tmp_path / "grey.png"
    Image.fromarray(np.full((12, 9), 90, np.uint8)).save(grey)
    assert run(capsys, "compress", grey, "-m", model, "--convert")[0] == 0
    assert run(capsys, "info", tmp_path / "grey.mlic")[0] == 0


def test_wrong_model_is_named(capsys, tmp_path, model, photo):
    codec = zoo.make("bmshj2018-factorized", N=8, M=12)
    other = tmp_path / "other.mlicm"
    codec.export(*codec.init(jax.random.key(1), (64, 64, 3))).save(other)
    assert run(capsys, "compress", photo, "-m", model)[0] == 0
    status, _, err = run(capsys, "decompress", tmp_path / "photo.mlic", "-m", other, "-o", tmp_path / "x.png")
    assert status == 5 and err.count("fingerprint") == 2 and not (tmp_path / "x.png").exists()


def test_evaluate(capsys, tmp_path, model, photo):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(data.read_image(data.bundled("validation")[1])[:200, :220]).save(folder / "a.png")
    status, out, err = run(
        capsys, "evaluate", "--model", model, "--images", folder, "--compare", "jpeg,webp", "--out", tmp_path / "e",
        "--json",
    )  # fmt: skip
    assert status == 0, err
    document = json.loads(out)
    assert set(document) >= {"name", "description", "results"}
    row = document["per_image"][0][0]
    assert document["results"]["bpp"] == [row["bpp"]] and document["results"]["psnr-rgb"] == [row["psnr_db"]]
    assert row["bpp"] == pytest.approx(8 * row["bytes"] / (200 * 220))
    written = {path.name for path in (tmp_path / "e").iterdir()}
    assert written == {"evaluation.json", "images.csv", "table.md", "rd.svg", "rd.png", "report.html"}
    table = (tmp_path / "e" / "table.md").read_text()
    assert "jpeg at equal size" in table and "webp at equal size" in table

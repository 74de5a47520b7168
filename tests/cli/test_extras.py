"""A library of an extra that is missing is one line, with the command that installs it, in every command."""

import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import types

import plain
import pytest

from mlic_jax import extras

ROOT = pathlib.Path(__file__).parents[2]
# Commands that need a library, and the extra that has it.
NEEDY = [
    (["train", "--config", "mbt2018_mean:tiny", "--workdir", "w"], "train"),
    (["export", "--run", "w", "-o", "x.mlicm"], "train"),
    (["evaluate", "--run", "w"], "train"),
    (["export", "-m", "m.mlicm", "--folder", "f"], "hub"),
    (["evaluate", "--model", "m.mlicm", "--images", "p", "--out", "o"], "bench"),
    (["benchmark", "--models", "m.mlicm", "--images", "p", "--codecs", "", "--out", "o"], "bench"),
    (["benchmark", "--images", "p", "--codecs", "jpegxl", "--out", "o"], "bench"),
    (["evaluate", "--model", "m.mlicm", "--metrics", "lpips-alex"], "lpips"),
    (["claim", "jiang2017"], "bench"),
    (["claim", "jiang2017", "--only-report"], "bench"),
    (["toy", "sources", "--quiet"], "train"),
    (["compress", "heic.png", "-m", "m.mlicm"], "heic"),
]
# Commands that need none.
CONTENT = [
    ["configs"],
    ["info", "m.mlicm"],
    ["compress", "p/a.png", "-m", "m.mlicm"],
    ["decompress", "p/a.mlic", "-m", "m.mlicm", "-o", "b.png"],
]
SCRIPT = """
import contextlib, io, json, sys
commands, libraries, tests = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(libraries))  # None: importing one fails, and nobody finds it
sys.path.insert(0, tests)
import plain
from mlic_jax import zoo
from mlic_jax.cli import main as cli
zoo.MODELS.update(plain.ENTRIES)
said = []
for words in commands:
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        status = cli.main(words)
    said.append((status, err.getvalue()))
print(json.dumps(said))
"""


def test_every_command_says_what_to_install(tmp_path, plain_zoo):
    from PIL import Image

    (tmp_path / "p").mkdir()
    Image.new("RGB", (20, 16), "grey").save(tmp_path / "p" / "a.png")
    (tmp_path / "heic.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    plain.artifact(rates=1).save(tmp_path / "m.mlicm")
    job = [[*[words for words, _ in NEEDY], *CONTENT], list(extras.EXTRAS), str(ROOT / "tests")]
    command = [sys.executable, "-c", SCRIPT, json.dumps(job)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for (words, extra), (status, line) in zip(NEEDY, said, strict=False):
        assert status == (3 if words[0] == "compress" else 2) and line.count("\n") == 1, (words, line)
        library = re.search(r" (\w+), which is not installed: pip install .*\[(.*)\]", line)
        assert library and extras.EXTRAS[library[1]] == library[2] == extra, (words, line)
    for words, (status, line) in zip(CONTENT, said[len(NEEDY) :], strict=True):
        assert (status, line) == (0, ""), words
    left = {path.name for path in tmp_path.iterdir()} - {"p", "heic.png", "m.mlicm", "b.png"}
    assert not left, "something was begun that could not be done"


def test_all_libraries_of_the_extras_are_known(monkeypatch):
    """What setup.py lists for the extras that commands need, under the names that are imported."""
    caught = {}
    monkeypatch.setattr("setuptools.setup", lambda **words: caught.update(words))
    exec(compile((ROOT / "setup.py").read_text(), ROOT / "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    imported = {"orbax_checkpoint": "orbax", "tensorflow_cpu": "tensorflow"}
    for extra in ("train", "heic", "bench", "bench-more", "tf", "lpips"):
        for line in caught["extras_require"][extra]:
            name = line.partition("[")[0].partition(">")[0].partition("=")[0].strip().replace("-", "_")
            if name != "importlib_resources":
                assert extras.EXTRAS[imported.get(name, name)] in (extra, "heic"), line


@pytest.mark.parametrize("there", [True, False])
def test_the_command_is_one_that_works(there, tmp_path, monkeypatch):
    """An installed package names the wheel that it came from, or where that is gone the libraries."""
    wheel = tmp_path / "of mine" / "mlic_jax-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    if there:
        wheel.write_bytes(b"")
    requires = ["jax>=0.10.0", 'optax>=0.2.6; extra == "train"', 'clu>=0.0.12; extra == "train"', 'x; extra == "test"']
    ours = types.SimpleNamespace(requires=requires, read_text=lambda name: json.dumps({"url": wheel.as_uri()}))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: ours)
    assert extras.command("train") == f"pip install -e '{ROOT}[train]'"
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "site-packages" / "mlic_jax" / "extras.py"))
    wanted = f"pip install '{wheel}[train]'" if there else "pip install 'optax>=0.2.6' 'clu>=0.0.12'"
    assert extras.command("train") == wanted

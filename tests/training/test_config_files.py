"""Configs and claims by name: in a checkout, in an installed package, and in a folder of one's own."""

import os
import pathlib
import subprocess
import sys

import pytest
from commands import run

from mlic_jax.errors import UsageError
from mlic_jax.training import config_files
from mlic_jax.training.config import load

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_that_is_listed_makes_a_config(name, elsewhere):
    about = config_files.about(name)
    assert about.title and about.variants and about.default in about.variants and "toy" not in about.variants
    for variant in about.variants:
        assert load(f"{name}:{variant}", []).model.name
    assert load(name, []).to_dict() == load(f"{ROOT}/configs/{name}.py:{about.default}", []).to_dict()


def test_names_have_either_line(elsewhere):
    assert config_files.find("mbt2018-mean") == config_files.find("mbt2018_mean") == ROOT / "configs/mbt2018_mean.py"
    assert config_files.names() == NAMES
    assert config_files.names(config_files.CLAIMS) == sorted(p.stem for p in (ROOT / "configs/claims").glob("*.py"))


def test_a_folder_of_ones_own_comes_first(elsewhere):
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "demo.py").write_text('"""Mine."""\n\ndef get_config(size="a"):\n    return {}\n')
    (elsewhere / "configs" / "others.py").write_text("print 'of another program'\n")
    assert config_files.about("demo")[2:] == ("Mine.", (), "a")
    assert config_files.names() == NAMES  # `others` is no config


@pytest.mark.parametrize("name", ["vgg", "../demo", "configs/demo.py", ""])
def test_what_is_not_there(name, elsewhere):
    assert config_files.find(name) is None
    with pytest.raises(UsageError, match="config '.*give the path of a file, or one of bls2017"):
        load(f"{name}:tiny", [])


def test_the_list(capsys, elsewhere):
    status, out, _ = run(capsys, "configs")
    assert status == 0 and "li2018: Li 2018: binary codes" in out and "4 (default), 5" in out
    assert "claims, for mlic claim NAME: hu2020, jiang2017, " in out
    status, out, _ = run(capsys, "configs", "mbt2018_mean")
    assert status == 0 and "quality 1 27.70 dB at 0.124 bpp" in out
    assert run(capsys, "configs", "nothing")[0] == 2


def test_an_installed_package_has_them(tmp_path):
    """As a wheel has it: built, and used in an empty folder, where no checkout is near."""
    pytest.importorskip("setuptools")
    build = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "build_py", "-d", str(tmp_path / "lib")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (tmp_path / "empty").mkdir()
    script = "import mlic_jax; from mlic_jax.training.config_files import CLAIMS, find\n"
    script += "print(mlic_jax.__file__, find('li2018'), find('li2018', CLAIMS))"
    words = {"cwd": tmp_path / "empty", "env": {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}}
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, **words).stdout
    package = tmp_path / "lib" / "mlic_jax"
    wanted = ("__init__.py", "configs/li2018.py", "configs/claims/li2018.py")
    assert said.split() == [str(package / path) for path in wanted]

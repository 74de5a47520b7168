"""Models by name: in the package, in a clone, in other distributions; and what is said where one is missing."""

import importlib.metadata
import pathlib
import runpy
import sys

import numpy as np
import plain
import pytest
from commands import run
from pictures import sample
from PIL import Image

import mlic_jax.pillow  # noqa: F401, registers the format
from mlic_jax import api, runtime, zoo
from mlic_jax.errors import ModelError
from mlic_jax.fileformat import container, model_names, model_store
from mlic_jax.fileformat.artifact import SUFFIX, Artifact

WEIGHTS = pathlib.Path(__file__).parents[2] / "weights"

pytestmark = pytest.mark.usefixtures("plain_zoo")


def register(monkeypatch, folder, name, value, module=None):
    """Puts a distribution with one entry point, and its module, on the path of Python."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{model_store.GROUP}]\n{name} = {value}\n")
    if module is not None:
        (folder / f"{name}.py").write_text(module)
    monkeypatch.setattr(sys, "path", [str(folder), *(path for path in sys.path if path != str(folder))])


def file_of(known):
    """A file as a model that is known writes it, of which nobody has read more than the header."""
    codec_id = zoo.stream_id("kltnet")
    header = container.Header(codec_id, bytes.fromhex(known.fingerprint), 8, 8, "RGB", 50.0)
    return container.pack(header, [container.Chunk(container.DATA, b"data")])


BASE = model_names.by_name("base")

# ---------------------------------------------------------------------- the table


def test_the_table_is_that_of_the_files():
    files = {
        path.stem: path for folder in (model_store.BUNDLED, model_store.BESIDE) for path in folder.glob(f"*{SUFFIX}")
    }
    assert {known.name for known in model_names.KNOWN} == files.keys()
    for known in model_names.KNOWN:
        assert Artifact.fingerprint_in(files[known.name]).hex() == known.fingerprint
        assert (files[known.name].parent == model_store.BUNDLED) == (known.distribution == "mlic_jax")
        card = files[known.name].with_suffix(".md").read_text()
        assert known.fingerprint in card
        if known.bpp is not None:
            assert "{:.2f} to {:.2f} bits per pixel on Kodak".format(*known.bpp) in card
        encoding, decoding = known.kmac_per_pixel
        work = zoo.codec_of(Artifact.load(files[known.name])).kmac_per_pixel()
        if work is not None:
            assert encoding == pytest.approx(work["analysis"] + work["probabilities"], abs=0.05)
            assert decoding == pytest.approx(work["probabilities"] + work["synthesis"], abs=0.05)
    assert model_store.OWN_MODEL == files["kltnet-tiny"]
    words = [word for known in model_names.KNOWN for word in {known.name, known.short}]
    assert len(set(words)) == len(words) and not set(words) & {"kltnet", "kltnet2"}


def test_the_second_distribution_is_what_the_table_says(monkeypatch):
    import setuptools

    made = []
    monkeypatch.setattr(setuptools, "setup", lambda **words: made.append(words))
    runpy.run_path(str(WEIGHTS / "setup.py"))
    assert made[0]["name"] == BASE.distribution and made[0]["packages"] == ["mlic_jax_base"]
    assert "install_requires" not in made[0], "pip would ask a registry for what is not there"
    (line,) = made[0]["entry_points"][model_store.GROUP]
    monkeypatch.syspath_prepend(WEIGHTS)
    folder = importlib.metadata.EntryPoint(*line.split(" = "), model_store.GROUP).load()
    assert folder == model_store.BESIDE
    shipped = {path.name for pattern in made[0]["package_data"]["mlic_jax_base"] for path in folder.glob(pattern)}
    assert shipped == {"kltnet-base.mlicm", "kltnet-base.md"}


# ---------------------------------------------------------------------- by name


@pytest.mark.parametrize("name", ["tiny", "kltnet-tiny", "kltnet-tiny.mlicm", "talebi2020"])
def test_the_packages_models_need_no_entry_points(name, alone, monkeypatch):
    def never(**group):
        raise AssertionError("entry points were read")

    monkeypatch.setattr(importlib.metadata, "entry_points", never)
    known = model_names.by_name(name.removesuffix(SUFFIX))
    assert api.load_model(name).fingerprint.hex() == known.fingerprint


def test_a_name_of_the_second_distribution(monkeypatch, tmp_path):
    for name in ("base", "kltnet-base"):
        assert model_store._named(name) == WEIGHTS / "mlic_jax_base" / "kltnet-base.mlicm"


def test_models_of_other_distributions(tmp_path, monkeypatch):
    monkeypatch.setattr(model_store, "BESIDE", tmp_path / "none")
    folder = tmp_path / "site"
    folder.mkdir()
    plain.artifact(name=6).save(folder / "six.mlicm")
    register(monkeypatch, folder, "six_models", "six_models:WHERE", f"WHERE = {str(folder)!r}\n")
    array = sample("L", (4, 5))
    data = api.compress(array, "six")
    assert api.info(data)["fingerprint"] == plain.artifact(name=6).fingerprint.hex()
    model_store._by_fingerprint.clear()
    np.testing.assert_array_equal(api.decompress(data), array)
    with pytest.raises(ModelError, match=r"talebi2020; six$"):
        api.load_model("seven")


def test_a_broken_distribution_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(model_store, "BESIDE", tmp_path / "none")
    register(monkeypatch, tmp_path, "bad_models", "bad_models:WHERE", "raise RuntimeError('no')\n")
    with (
        pytest.warns(UserWarning, match=r"bad_models:WHERE.*no"),
        pytest.raises(ModelError, match="kltnet-base is not"),
    ):
        api.load_model("base")


def test_a_file_here_goes_before_a_name(alone):
    plain.artifact(name=3).save("tiny")
    assert api.load_model("tiny").fingerprint == plain.artifact(name=3).fingerprint
    pathlib.Path("talebi2020").mkdir()  # a folder is no model file
    assert api.load_model("talebi2020").model == "talebi2020"


def test_a_wrong_name_lists_the_names(alone, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "prepare_jax", lambda: None)
    Image.fromarray(sample("L", (4, 5))).save("a.png")
    status, _, err = run(capsys, "compress", "a.png", "-m", "kltnet")
    assert status == 5 and len(err.splitlines()) == 1
    assert (
        "'kltnet' is neither a file here nor a model" in err and "tiny or kltnet-tiny; base or kltnet-base (not" in err
    )
    assert err.count("pip install ./weights") == 1 and "talebi2020" in err
    # What looks like a path is one.
    with pytest.raises(ModelError, match=r"none\.mlicm' cannot be read: No such file"):
        api.load_model("none.mlicm")
    with pytest.raises(ModelError, match=r"tiny' cannot be read: No such file"):
        api.load_model("models/tiny")


# ---------------------------------------------------------------------- what is not installed


def test_a_known_model_that_is_not_installed(alone, monkeypatch):
    says = r"`pip install \./weights` in a clone of mlic_jax installs it, as mlic_jax_base"
    for name in ("base", "kltnet-base", "kltnet-base.mlicm"):
        with pytest.raises(ModelError, match=f"the model kltnet-base is not installed: {says}"):
            api.load_model(name)
    with pytest.raises(
        ModelError, match=rf"needs the model kltnet-base with fingerprint {BASE.fingerprint}, .*\. {says}"
    ):
        api.decompress(file_of(BASE))
    with pytest.raises(ModelError, match=rf"needs the model kltnet-base .*; given is plain .*\. {says}"):
        api.decompress(file_of(BASE), plain.artifact())
    monkeypatch.setenv("MLIC_MODEL", "base")  # that this is missing is no reason not to look further
    with pytest.raises(ModelError, match=r"needs the model kltnet-base .* \(base cannot be read\)\. `pip"):
        api.decompress(file_of(BASE))


def test_only_the_model_that_is_needed_is_read_whole(alone, monkeypatch):
    for name in range(4):
        plain.artifact(name=name).save(alone / f"{name}.mlicm")
    data = api.compress(sample("L", (4, 5)), plain.artifact(name=2))
    model_store._by_fingerprint.clear()
    loads, load = [], Artifact.load.__func__
    monkeypatch.setattr(Artifact, "load", classmethod(lambda cls, path: loads.append(path.name) or load(cls, path)))
    monkeypatch.setenv("MLIC_MODELS", ".")
    api.decompress(data)
    assert loads == ["2.mlicm"]


def test_a_fingerprint_that_is_not_true_is_noticed(alone, monkeypatch):
    """What a file says of itself decides only whether it is read."""
    model = plain.artifact(name=1)
    data = api.compress(sample("L", (4, 5)), model)
    model_store._by_fingerprint.clear()
    other = plain.artifact(name=2)
    other.__dict__["fingerprint"] = model.fingerprint  # in place of the one that is computed
    other.save(alone / "1.mlicm")
    assert Artifact.fingerprint_in(alone / "1.mlicm") == model.fingerprint
    monkeypatch.setenv("MLIC_MODELS", str(alone))
    with pytest.raises(ModelError, match=r"1\.mlicm cannot be read"):
        api.decompress(data)


# ---------------------------------------------------------------------- info


def test_info_says_what_m_takes(alone, capsys):
    for known in model_names.KNOWN:
        about = api.info(file_of(known))
        assert about["model"] == known.name and about["architecture"] == "kltnet"
        assert model_names.by_name(about["model"]) == known
    about = api.info(api.compress(sample("L", (4, 5)), plain.artifact()))
    assert about["model"] == about["architecture"] == "plain"
    pathlib.Path("a.mlic").write_bytes(file_of(BASE))
    assert Image.open("a.mlic").info["model"] == "kltnet-base"
    status, out, _ = run(capsys, "info", model_store.OWN_MODEL)
    assert status == 0 and out.startswith("model: kltnet-tiny\narchitecture: kltnet\narguments: {")

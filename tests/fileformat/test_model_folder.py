"""A model as a folder of safetensors: the same model, wherever a model is asked for; damage is one error."""

import json

import numpy as np
import plain
import pytest
from commands import run
from pictures import sample

from mlic_jax import api
from mlic_jax.errors import MlicError, ModelError
from mlic_jax.fileformat import model_folder, model_store
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.fileformat.model_folder import CARD, CONFIG, WEIGHTS

safetensors = pytest.importorskip("safetensors.numpy", reason="an extra: pip install .[hub]")
pytestmark = pytest.mark.usefixtures("plain_zoo")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model's folder in it, to be in."""
    monkeypatch.chdir(tmp_path)
    made = plain.artifact(name=5)
    made.card = {"data": "photos"}
    model_folder.save(made, "five")
    return tmp_path


def test_the_same_model_comes_back():
    """Of every type that model files have; a packed model stays packed."""
    for name in ("talebi2020", "tiny"):
        artifact = api.load_model(name)
        arrays = safetensors.load(safetensors.save(artifact.stored()))
        again = Artifact.of_stored(json.loads(json.dumps(artifact.about())), arrays)
        assert again.to_bytes() == artifact.to_bytes()


def test_a_folder_stands_where_models_are_asked_for(here, capsys, monkeypatch):
    made, image = plain.artifact(name=5), sample("RGB", (12, 17))
    data = api.compress(image, "five")
    assert api.info(data)["fingerprint"] == made.fingerprint.hex() and data == api.compress(image, made)
    np.testing.assert_array_equal(api.decompress(data, here / "five"), image)
    status, out, _ = run(capsys, "info", "five", "--json")
    assert status == 0 and json.loads(out)["card"] == {"data": "photos"}
    monkeypatch.chdir(here / "five")
    with pytest.raises(ModelError, match="'five' is neither a file here nor"):
        api.load_model("five")
    # By its name and by a file's fingerprint, in a folder that the user names.
    monkeypatch.setenv("MLIC_MODELS", str(here))
    assert api.load_model("five").fingerprint == made.fingerprint
    model_store._by_fingerprint.clear()
    np.testing.assert_array_equal(api.decompress(data), image)


def test_there_and_back_by_the_command(here, capsys):
    made = plain.artifact(name=6)
    made.save("six.mlicm")
    status, out, err = run(capsys, "export", "-m", "six.mlicm", "--folder", "six")
    assert status == 0 and f"six: plain, 0.00 MB, fingerprint {made.fingerprint.hex()}" in out, err
    assert run(capsys, "export", "-m", "six", "-o", "again.mlicm")[0] == 0
    assert (here / "again.mlicm").read_bytes() == (here / "six.mlicm").read_bytes()
    status, _, err = run(capsys, "export", "-m", "six", "--folder", "six")
    assert status == 3 and "model.safetensors' exists: add -f" in err
    assert run(capsys, "export", "-m", "six")[0] == 2


def test_what_hubs_read(here):
    text = (here / "five" / CARD).read_text()
    assert text.startswith("---\nlibrary_name: mlic_jax\ntags:\n- image-compression\n") and "# five" in text
    assert plain.artifact(name=5).fingerprint.hex() in text
    config = json.loads((here / "five" / CONFIG).read_text())
    assert (config["library_name"], config["model"], config["architecture"]) == ("mlic_jax", "plain", {"rates": 1})
    # A card that somebody wrote is kept.
    (here / "five" / CARD).write_text("mine")
    model_folder.save(plain.artifact(name=7), here / "five")
    assert (here / "five" / CARD).read_text() == "mine"
    assert Artifact.load(here / "five").fingerprint == plain.artifact(name=7).fingerprint


def test_damage_is_one_error(here):
    folder = here / "five"
    config, weights = (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes()
    rng = np.random.default_rng(0)
    for file, content in ((CONFIG, config), (WEIGHTS, weights)):
        for length in (0, len(content) // 2, len(content) - 1):
            (folder / file).write_bytes(content[:length])
            with pytest.raises(ModelError, match="five' is not a model's folder, or a damaged one"):
                Artifact.load(folder)
        for _ in range(50):
            damaged = bytearray(content)
            damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
            (folder / file).write_bytes(damaged)
            try:
                assert Artifact.load(folder).fingerprint == plain.artifact(name=5).fingerprint
            except MlicError as reason:
                assert isinstance(reason, ModelError)
        (folder / file).write_bytes(content)
    other = plain.artifact(name=8)
    (folder / WEIGHTS).write_bytes(safetensors.save(other.stored()))
    with pytest.raises(ModelError, match="its fingerprint does not fit its content"):
        Artifact.load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="cannot read .*five': a folder of a model has model.safetensors"):
        Artifact.load(folder)

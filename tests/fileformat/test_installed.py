"""`mlic models` and `mlic.models()`: what is here, by the names that `-m` takes."""

import json

import plain
import pytest
from commands import run

import mlic_jax as mlic

pytestmark = pytest.mark.usefixtures("plain_zoo")


def model(name, **card):
    made = plain.artifact(name=name)
    made.card = card
    return made


def test_what_is_listed(alone, capsys, monkeypatch):
    work = {"encoding": 1.25, "decoding": 3.0}
    (alone / "mine").mkdir()
    model(1, validation={"bpp": 0.456, "psnr_db": 30.0}, kmac_per_pixel=work).save(alone / "mine" / "one.mlicm")
    model(2, portable=False).save(alone / "two.mlicm")
    monkeypatch.setenv("MLIC_MODELS", str(alone / "mine"))
    monkeypatch.setenv("MLIC_MODEL", "two.mlicm")
    status, out, err = run(capsys, "models")
    assert (status, err) == (0, "")
    words = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert list(words) == ["name", "two.mlicm", "tiny", "talebi2020", "one"]
    assert words["one"][1:] == ["0.46", "1.2", "/", "3.0", "plain"]
    assert words["tiny"] == ["6.50", "0.10-1.21", "21.0", "/", "20.3", "kltnet"]
    assert words["two.mlicm"][1:] == ["-", "-", "plain", "(default)", "(not", "portable)"]
    listed = json.loads(run(capsys, "models", "--json")[1])
    assert listed == [json.loads(json.dumps(found._asdict())) for found in mlic.models()]
    for found in listed:
        loaded = mlic.load_model(found["name"])
        assert loaded.fingerprint.hex() == found["fingerprint"] and loaded.portable == found["portable"]
    assert [found["name"] for found in listed if found["default"]] == ["two.mlicm"]
    assert listed[3]["bytes"] == (alone / "mine" / "one.mlicm").stat().st_size


def test_what_cannot_be_read_is_passed_over(alone, monkeypatch):
    (alone / "bad.mlicm").write_bytes(b"PK")
    model(9, validation="good", kmac_per_pixel={"encoding": "few"}).save(alone / "odd.mlicm")
    monkeypatch.setenv("MLIC_MODELS", str(alone))
    with pytest.warns(UserWarning, match="a model is passed over: .*bad.mlicm' is not a model file"):
        *_, odd = found = mlic.models()
    assert [one.name for one in found] == ["tiny", "talebi2020", "odd"]
    assert odd.bpp is None and odd.kmac_per_pixel is None


def test_the_package_and_the_list_share_a_name(alone):
    """Whatever was imported before."""
    from mlic_jax.models import kltnet

    assert mlic.models.kltnet is kltnet
    assert [found.name for found in mlic.models()] == ["tiny", "talebi2020"]

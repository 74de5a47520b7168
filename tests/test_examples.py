"""The example of a model in somebody's own repository: trained, exported, used, and missed, from outside."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import mlic_jax
from mlic_jax import api, data, zoo
from mlic_jax.errors import ModelError
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.training.config import load
from mlic_jax.training.train import train

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "own_model"
NAME = "snake_hyperprior"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the model file of a short training."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        config = load(str(FOLDER / "config.py"), [])
        with config.unlocked():
            config.model.arguments.update(N=8, M=12)
            config.train.update(steps=2, log_every=1, evaluate_every=2, checkpoint_every=1, samples=1)
            config.data.update(batch_size=4, patch_size=64, validation_patch=64, validation_images=1)
        train(config, folder / "run", quiet=True)
        mlic_jax.load(folder / "run").artifact.save(folder / "snake.mlicm")
        yield folder
        zoo._make.cache_clear()
        sys.modules.pop(NAME, None)


def mlic(folder, *arguments, **environment):
    """The command, in a process of its own: (exit status, what it said on stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from mlic_jax.cli import main; sys.exit(main.main(sys.argv[1:]))"]
        + list(arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environment},
    )
    return done.returncode, done.stderr


def test_a_model_from_outside(trained):
    artifact = Artifact.load(trained / "snake.mlicm")
    assert artifact.model == f"{NAME}:codec" and artifact.architecture == {"N": 8, "M": 12}
    # What `mlic models` shows of it.
    record = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()][-1]
    assert record["kind"] == "validation" and artifact.card["validation"]["bpp"] == record["bpp"] > 0
    work = artifact.card["kmac_per_pixel"]
    # By hand: layers whose output has a 4th, 16th, .. of the picture's places, and the transposed ones the other way.
    ends = 25 * (3 * 8 / 4 + 8 * 8 / 16 + 8 * 8 / 64 + 8 * 12 / 256)
    h_a, h_s = 9 * 12 * 8 / 256 + 25 * 64 * (1 / 1024 + 1 / 4096), 25 * 64 * (1 / 4096 + 1 / 1024) + 9 * 8 * 24 / 256
    assert work["encoding"] == pytest.approx((ends + h_a + h_s) / 1e3, abs=0.006)
    assert work["decoding"] == pytest.approx((h_s + ends) / 1e3, abs=0.006)
    image = np.ascontiguousarray(data.read_image(data.bundled("validation")[0])[:70, :90])
    file = api.compress(image, artifact)
    about = api.info(file)
    assert about["model"].startswith("experiment-")
    assert int(about["model"].removeprefix("experiment-")) in zoo.EXPERIMENTS
    decoded = api.decompress(file, artifact)
    codec = zoo.codec_of(artifact)
    estimate = codec.estimate(artifact.params, artifact.state, image[None])
    # `image * 2 - 1` sees floats in files as in training, and what comes out is rounded once.
    assert np.abs(np.asarray(estimate["reconstruction"][0], int) - decoded).max() <= 1
    bits = 8 * sum(chunk["bytes"] for chunk in about["chunks"] if chunk["type"] == "data")
    assert abs(float(estimate["bits"][0]) - bits) <= 0.005 * bits + 320

    (trained / "photo.mlic").write_bytes(file)
    there = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH", "")]))
    arguments = ("decompress", "photo.mlic", "-m", "snake.mlicm", "-o", "photo.png")
    status, said = mlic(trained, *arguments)
    assert status == 5 and "set MLIC_MODULES=snake_hyperprior" in said and len(said.splitlines()) == 1
    status, said = mlic(trained, *arguments, MLIC_MODULES=NAME)
    assert status == 5 and "no module 'snake_hyperprior' here: install the package" in said
    status, said = mlic(trained, *arguments, MLIC_MODULES=NAME, PYTHONPATH=there)
    assert status == 0, said
    assert np.abs(np.asarray(Image.open(trained / "photo.png"), int) - decoded).max() <= 1


def test_functions_that_make_no_model(tmp_path):
    """A model file can have nothing called but factories."""
    for name in ("os:getcwd", "mlic_jax.zoo:make"):
        with pytest.raises(ModelError, match="a function is needed that mlic_jax.zoo.factory marks"):
            zoo.codec_of(Artifact(name, {}, {}, {}, {}))
    with pytest.raises(ModelError, match="import this first, or set MLIC_MODULES=this"):
        zoo.codec_of(Artifact("this:d", {}, {}, {}, {}))
    assert "this" not in sys.modules
    with pytest.raises(ModelError, match="no module 'nowhere' here"):
        zoo.make("nowhere.model:codec")
    for wrong in ("a:b:c", "a b:c", ":c", "a:", "../a:c"):
        with pytest.raises(ModelError, match="is not known: use one of"):
            zoo.make(wrong)

"""Every config keeps the same promises: train, resume, export, write a file, read it, and count its bits honestly."""

import importlib.util
import inspect
import pathlib

import jax
import numpy as np
import pytest

from mlic_jax import api, classical, data, zoo
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.training.config import load
from mlic_jax.training.runs import load_run, make_codec
from mlic_jax.training.train import train

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


def _variants():
    """Each config in its smallest form (`SMALLEST`, or else "tiny"), so that three steps cost nothing, and in those
    that it names besides (`ALSO_TESTED`)."""
    for path in CONFIGS:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if inspect.signature(module.get_config).parameters:
            for variant in (getattr(module, "SMALLEST", "tiny"), *getattr(module, "ALSO_TESTED", ())):
                yield f"{path}:{variant}"
        else:
            yield str(path)


def _tiny(name, steps):
    config = load(name, [])
    with config.unlocked():
        config.train.update(steps=steps, log_every=1, evaluate_every=2, checkpoint_every=1, samples=1)
        config.data.update(batch_size=4, patch_size=64, validation_patch=64, validation_images=1)
    return config


@pytest.fixture(autouse=True)
def forget_programs_of_a_config():
    """Each config has programs of its own. Those of all together are more mappings of memory than Linux allows a
    process by default, and XLA ends it then."""
    yield
    jax.clear_caches()


def test_all_configs_are_here():
    assert {config.stem for config in CONFIGS} >= {"demo", "bmshj2018_factorized", "bmshj2018_hyperprior", "kltnet"}


@pytest.mark.parametrize("name", list(_variants()), ids=lambda name: pathlib.Path(name).name.replace(".py", ""))
def test_contract(name, tmp_path):
    if name.endswith("heic") and (problem := classical.CODECS["heic"].missing()):
        pytest.skip(problem)
    # Trains, and goes on where it stopped: three steps and two more are the five of an uninterrupted run.
    train(_tiny(name, 3), tmp_path / "run", quiet=True)
    resumed = train(_tiny(name, 5), tmp_path / "run", quiet=True)
    whole = train(_tiny(name, 5), tmp_path / "whole", quiet=True)
    assert int(resumed.step) == int(whole.step) == 5
    for key, value in _flat(resumed.params).items():
        np.testing.assert_array_equal(value, _flat(whole.params)[key], err_msg=key)

    # Exports to a file that is all a user needs.
    config, params, state, _ = load_run(tmp_path / "run", "latest")
    make_codec(config).export(params, state).save(tmp_path / "model.mlicm")
    artifact = Artifact.load(tmp_path / "model.mlicm")
    assert artifact.model in zoo.MODELS

    # Writes and reads files of any size; the reconstruction is the picture that the estimate is about.
    photo = data.read_image(data.bundled("validation")[0])
    codec = zoo.make(artifact.model, **artifact.architecture)
    for height, width in ((1, 1), (33, 47), (130, 190)):
        image = np.ascontiguousarray(photo[:height, :width])
        stream = api.compress(image, artifact)
        decoded = api.decompress(stream, artifact)
        assert decoded.shape == image.shape and decoded.dtype == np.uint8
        estimate = codec.estimate(artifact.params, artifact.state, image[None])
        difference = np.abs(np.asarray(estimate["reconstruction"][0], int) - decoded)
        assert difference.max() <= 1, "the estimate is about another picture"
        header = 40  # bytes of container and of the coder's last word
        # Five steps leave scales that fit nothing, so symbols escape their tables: that is cheaper than the floor of
        # the likelihood says, never dearer. Trained models are held to 0.5 % in tests/entropy.
        assert 8 * len(stream) <= 1.005 * float(estimate["bits"][0]) + 8 * header


def _flat(tree, prefix=""):
    flat = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: np.asarray(value)})
    return flat

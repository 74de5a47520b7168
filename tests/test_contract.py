"""Every config keeps the same promises: train, resume, export, write a file, read it, and count its bits honestly."""

import importlib.util
import inspect
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from mlic_jax import api, classical, data, zoo
from mlic_jax.errors import UsageError
from mlic_jax.fileformat.artifact import Artifact, flatten
from mlic_jax.training.config import load
from mlic_jax.training.runs import load_run, make_codec
from mlic_jax.training.train import train

# One contract for a family in every run; these compile for long what another config's contract shows as well.
COVERED = {
    "bls2017:tiny": "mbt2018_mean:tiny",
    "bmshj2018_factorized:tiny": "mbt2018_mean:tiny",
    "bmshj2018_hyperprior:tiny": "mbt2018_mean:tiny",
    "checkerboard2021:tiny": "mbt2018_mean:tiny",
    "cheng2020_anchor:tiny": "mbt2018_mean:tiny",
    "cheng2020_attn:tiny": "mbt2018_mean:tiny",
    "demo:all": "kltnet:toy",
    "elic2022:tiny": "mbt2018_mean:tiny",
    "hu2020:tiny": "mbt2018_mean:tiny",
    "jiang2017:toy_alternating": "jiang2017:toy",
    "jiang2017:toy_heic": "jiang2017:toy",
    "jiang2017:toy_jpeg2000": "jiang2017:toy",
    "johnston2018:toy": "toderici2017:toy",
    "johnston2018:toy_adaptive": "toderici2017:toy",
    "kltnet:toy-priors": "kltnet:toy",
    "kltnet2:toy": "kltnet:toy",
    "li2018:toy_no_map": "li2018:toy",
    "mbt2018:tiny": "mbt2018_mean:tiny",
    "minnen2020:tiny": "mbt2018_mean:tiny",
}
CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


def _variants():
    """Each config in its smallest form (`SMALLEST`, or else "tiny"), so that five steps cost nothing, and in those
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


def _tiny(name):
    config = load(name, [])
    with config.unlocked():
        config.train.update(steps=5, log_every=1, evaluate_every=5, checkpoint_every=3, samples=1)
        config.data.update(batch_size=4, patch_size=64, validation_patch=64, validation_images=1)
    return config


@pytest.fixture(autouse=True)
def forget_programs_of_a_config():
    """Each config has programs of its own. Those of all together are more mappings of memory than Linux allows a
    process by default, and XLA ends it then."""
    yield
    jax.clear_caches()


def test_all_configs_are_here():
    names = {parameter.id for parameter in _contracts()}
    assert {*COVERED, *COVERED.values()} <= names and not {*COVERED} & {*COVERED.values()}
    assert {config.stem for config in CONFIGS} >= {"demo", "bmshj2018_factorized", "bmshj2018_hyperprior", "kltnet"}


def _contracts():
    for name in _variants():
        short = pathlib.Path(name).name.replace(".py", "")
        yield pytest.param(name, id=short, marks=[pytest.mark.slow] if short in COVERED else [])


@pytest.mark.parametrize("name", list(_variants()), ids=lambda name: pathlib.Path(name).name.replace(".py", ""))
def test_every_config_makes_a_codec(name):
    codec = make_codec(load(name, []))
    assert codec.objectives and codec.traits


@pytest.mark.parametrize("name", list(_contracts()))
def test_contract(name, tmp_path):
    if name.endswith("heic") and (problem := classical.CODECS["heic"].missing()):
        pytest.skip(problem)
    _trains_and_resumes(name, tmp_path)
    codec, artifact = _exports(tmp_path)
    photo = data.read_image(data.bundled("validation")[0])
    for height, width in ((1, 1), (70, 130)):
        _writes_and_reads(codec, artifact, np.ascontiguousarray(photo[:height, :width]))
    _keeps_its_traits(codec, artifact, np.ascontiguousarray(photo[:70, :130]))


def _trains_and_resumes(name, folder):
    """What goes on from the third step's checkpoint is, after five, the run that was not stopped."""
    whole = train(_tiny(name), folder / "whole", quiet=True)
    shutil.copytree(folder / "whole" / "checkpoints" / "3", folder / "run" / "checkpoints" / "3")
    resumed = train(_tiny(name), folder / "run", quiet=True)
    assert int(resumed.step) == int(whole.step) == 5
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [4, 5]
    for key, value in flatten(resumed.params).items():
        np.testing.assert_array_equal(value, flatten(whole.params)[key], err_msg=key)


def _exports(folder):
    """To a file that is all a user needs: (codec, artifact) of it."""
    config, params, state, _ = load_run(folder / "run", "latest")
    trained = make_codec(config)
    trained.export(params, state).save(folder / "model.mlicm")
    artifact = Artifact.load(folder / "model.mlicm")
    assert artifact.model in zoo.MODELS
    codec = zoo.codec_of(artifact)
    assert codec.traits == trained.traits
    return codec, artifact


def _writes_and_reads(codec, artifact, image):
    """A file of any size; the reconstruction is the picture that the estimate is about, and its bits are counted."""
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


def _keeps_its_traits(codec, artifact, image):
    """What the rest of the package does with a codec depends on them."""
    traits, size = codec.traits, image.shape[:2]
    least, most = traits.quality_range
    assert bool(traits.ladder) == (traits.default_quality is not None)
    assert all(least <= quality <= most for quality in traits.ladder) and list(traits.ladder) == sorted(traits.ladder)
    chunks = codec.compress(artifact, image, traits.default_quality)
    if traits.progressive:
        assert codec.decompress(artifact, chunks[:1], size, traits.default_quality).shape == image.shape
    else:
        assert len(chunks) == 1
    if traits.extension:
        assert api.to_standard(api.compress(image, artifact)) == (chunks[0], traits.extension)
    given = {"importance": np.ones(size, np.float32)}
    if traits.guided:
        codec.compress(artifact, image, traits.default_quality, **given)
    for wrong in [{"effort": traits.efforts + 1}] + ([] if traits.guided else [given]):
        with pytest.raises(UsageError):
            codec.compress(artifact, image, traits.default_quality, **wrong)

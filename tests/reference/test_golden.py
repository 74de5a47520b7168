"""Files of format version 1 decode to the same symbols: in every way to compute here, and in plain NumPy."""

import functools
import json
import os
import pathlib
import subprocess
import sys
from unittest import mock

import golden_streams as golden
import jax
import numpy as np
import pytest

import mlic_jax
from mlic_jax import reference, zoo
from mlic_jax.entropy import coders
from mlic_jax.entropy.priors.gaussian import scale_index
from mlic_jax.errors import CorruptStreamError
from mlic_jax.families import latent_coding
from mlic_jax.fileformat import container, model_names

HYPERPRIORS = golden.MODELS[1:3]
EXACT = golden.MODELS[1:]
models = pytest.mark.parametrize("model", golden.MODELS)
weights = pytest.mark.parametrize("model", golden.WEIGHTS)


def test_there_are_enough():
    for model in golden.MODELS:
        assert set(golden.names(model)) == set(golden.expected()[model])
        assert sum("-0" in name or "-1" in name for name in golden.names(model)) >= 20
    modes = {container.unpack(golden.content("mbt2018-mean", name))[0].mode for name in golden.names("mbt2018-mean")}
    assert modes == {"L", "LA", "RGB", "RGBA", "1", "L;16", "LA;16", "RGB;16", "RGBA;16"}


@models
def test_reference_decoder(model):
    artifact = golden.weights(model)
    for name in golden.names(model):
        found = reference.decode(golden.content(model, name), artifact)
        wanted = golden.expected()[model][name]
        assert {key: golden.digest(found[key]) for key in wanted} == wanted, name


# Precision is what a program may set for the whole process; the CPU ignores it in part, GPUs and TPUs do not.
@pytest.mark.parametrize("way", golden.VARIANTS[:-1])
@models
def test_symbols(model, way, request):
    if model == golden.MODELS[0] and way != "plain":
        pytest.skip("no network stands on its parse path")
    if way == "batch of 7" and model != "mbt2018-mean" and not request.config.getoption("--slow"):
        pytest.skip("slow: run with --slow")
    assert golden.digests(model, way) == golden.wanted(model, way)


@pytest.mark.parametrize(
    ("way", "cores", "flags"), [("plain", 1, 1), ("4 devices", 2, 4)], ids=["1 thread", "4 devices"]
)
def test_symbols_of_other_processes(way, cores, flags):
    # Threads are those of the process: of one core, XLA makes one. Programs are optimised here, unlike in most tests.
    script = pathlib.Path(golden.__file__)
    command = [sys.executable, str(script), "--variant", way, "--model", "mbt2018-mean"]
    if hasattr(os, "sched_setaffinity"):
        some = sorted(os.sched_getaffinity(0))[:cores]
        command = [sys.executable, "-c", _ON_CORES, repr(some), *command[1:]]
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={flags}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"mbt2018-mean": golden.wanted("mbt2018-mean", way)}


# Weights that people use: fewer files, and fewer ways, as Base has 24 kMAC a pixel on its parse path.


@weights
def test_weights_have_files_of_every_rate(model):
    assert set(golden.names(model)) == set(golden.expected()[model])
    headers = [container.unpack(golden.content(model, name))[0] for name in golden.names(model)]
    assert {header.fingerprint for header in headers} == {golden.weights(model).fingerprint}
    qualities = sorted(header.quality for header in headers)
    assert qualities[0] == 0 and qualities[-1] == 100 and len(set(qualities)) == len(qualities)


@weights
def test_weights_are_sound(model):
    """Codecs do not check weights that are known: it would take a third of a first picture."""
    artifact = golden.weights(model)
    family = zoo.codec_of(artifact).compress.__self__
    assert model_names.by_name(model).fingerprint == artifact.fingerprint.hex()
    with mock.patch.object(type(family), "check_params", side_effect=AssertionError("checked")):
        family.check(artifact)
    family.check_params(artifact.params)
    family.check_state(artifact)
    assert latent_coding.latent_shapes(family.exact, (70, 130)) == latent_coding.latent_shapes(
        family.exact, (70, 130), artifact.params
    )


@weights
def test_symbols_of_weights(model):
    assert golden.digests(model) == golden.wanted(model)


@weights
def test_symbols_of_weights_at_another_precision(model):
    artifact = golden.weights(model)
    with golden.variant("bfloat16"):
        for name in ("hike-1", "one-pixel"):
            found = golden.symbols(golden.content(model, name), artifact)
            assert {key: golden.digest(array) for key, array in found.items()} == golden.expected()[model][name]


@weights
def test_reference_decoder_reads_files_of_weights(model):
    artifact = golden.weights(model)
    for name in ("one-pixel", "mode-l"):  # one of them refined
        found = reference.decode(golden.content(model, name), artifact)
        wanted = golden.expected()[model][name]
        assert {key: golden.digest(found[key]) for key in wanted} == wanted, name


_ON_CORES = """
import ast, os, runpy, sys
os.sched_setaffinity(0, ast.literal_eval(sys.argv[1]))
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("model", golden.MODELS + golden.WEIGHTS)
def test_pictures(model):
    artifact = golden.weights(model)
    looks = golden.looks(model)
    for name in golden.names(model):
        wanted, found = looks[name], golden.look(mlic_jax.decompress(golden.content(model, name), artifact))
        assert (found["shape"], found["dtype"]) == (wanted["shape"], wanted["dtype"]), name
        step = 257 if found["dtype"] == "uint16" else 1
        for one, other in zip(found["means"], wanted["means"], strict=True):
            assert one == pytest.approx(other, abs=0.3 * step), name


def test_metadata():
    image = mlic_jax.decompress_image(golden.content("mbt2018-mean", "metadata"), golden.weights("mbt2018-mean"))
    assert image.size == (50, 70), "the picture was to be turned upright"
    exif = image.getexif()
    assert exif[0x010E] == "turned to the right" and exif[0x0112] == 1
    assert image.info["xmp"].startswith(b"<x:xmpmeta") and len(image.info["icc_profile"]) > 400


@functools.cache
def photos(model):
    """Files of photos that this version writes: (picture, file)."""
    import small

    artifact = golden.weights(model)
    return [(picture, mlic_jax.compress(picture, artifact)) for picture in small.crops(20, 160, seed=7)]


@pytest.mark.parametrize("model", EXACT)
def test_new_files_are_those_of_the_reference(model):
    artifact = golden.weights(model)
    for _, data in photos(model)[:6]:
        found, wanted = golden.symbols(data, artifact), reference.decode(data, artifact)
        for key, array in found.items():
            np.testing.assert_array_equal(array, wanted[key])


# --- The negative control: the same, with the network in floating point, as every other codec has it.


def float_rows(model, change):
    """Table rows of all golden files when the network's float parameters are changed by `change`."""
    artifact = golden.weights(model)
    module = golden.module_of(artifact)
    params = {**artifact.params, "h_s": change(artifact.params["h_s"])}
    rows = []
    for name in golden.names(model):
        z = golden.symbols(golden.content(model, name), artifact)["z"] + artifact.state["prior_z"]["medians"]
        stack = module.bind({"params": params}).h_s
        scale = np.asarray(stack(z[None].astype(np.float32)))[..., : module.M]
        rows.append(scale_index(scale))
    return np.concatenate([row.ravel() for row in rows])


def rounded_like_a_matrix_unit(params):
    """Operands with the 8 significant bits of bfloat16, as TPUs and GPUs round them unless told otherwise."""
    import ml_dtypes

    return jax.tree.map(lambda a: np.asarray(a).astype(ml_dtypes.bfloat16).astype(np.float32), params)


@pytest.mark.parametrize("model", HYPERPRIORS)
def test_floats_fail(model):
    plain, other = (float_rows(model, change) for change in (lambda params: params, rounded_like_a_matrix_unit))
    flipped = (plain != other).sum()
    assert flipped > 100, "the control is no control"

    # And what that does to a file: written with one, read with the other.
    artifact = golden.weights(model)
    module = golden.module_of(artifact)
    worse = {**artifact.params, "h_s": rounded_like_a_matrix_unit(artifact.params["h_s"])}
    failed = 0
    with pytest.MonkeyPatch.context() as patch:
        for kind in (coders.Encoding, coders.Decoding):
            patch.setattr(kind, "exact", staticmethod(lambda network, latent, prior: network(latent)))
        from mlic_jax.families import latent_coding

        for picture, _ in photos(model)[:6]:
            stream, _ = latent_coding.encode(module, artifact, picture)
            elsewhere = type(artifact)(
                artifact.model, artifact.architecture, worse, artifact.state, artifact.tables, artifact.card
            )
            assert np.isfinite(latent_coding.receive(module, artifact, stream, picture.shape[:2])).all()
            try:
                latent_coding.receive(module, elsewhere, stream, picture.shape[:2])
            except CorruptStreamError:
                failed += 1
    assert failed == 6


@pytest.mark.gpu
@pytest.mark.parametrize("model", golden.MODELS + golden.WEIGHTS)
def test_symbols_on_a_gpu(model):
    assert jax.default_backend() == "gpu"
    for way in ("plain", "tensorfloat32", "bfloat16"):
        assert golden.digests(model, way) == golden.wanted(model, way)


@pytest.mark.gpu
@pytest.mark.parametrize("model", EXACT)
def test_files_of_a_gpu_are_read_by_numpy(model):
    artifact = golden.weights(model)
    for _, data in photos(model):
        found, wanted = golden.symbols(data, artifact), reference.decode(data, artifact)
        for key, array in found.items():
            np.testing.assert_array_equal(array, wanted[key])

"""hu2020: its size, what each latent depends on, its stages of training, and files that the reference decoder reads."""

import functools
import gzip
import json
import pathlib

import flax.linen as nn
import golden_streams
import jax
import numpy as np
import pytest
import small

from mlic_jax import api, reference, zoo
from mlic_jax.entropy import coders
from mlic_jax.errors import UsageError
from mlic_jax.families import latent_coding
from mlic_jax.fileformat import container
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.models import hu2020
from mlic_jax.reference import __main__ as command

WIDTHS = {"C": 12, "Y": 4, "Z": 3, "W": 12, "V": 4}
MODULE = hu2020.CoarseToFine(**WIDTHS)
GAINS = {"analysis": 3, "hyper_analysis_1": 3}
GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
LATENTS = {"z3": (4, 12), "z2": (2, 4), "z1": (1, 3)}


@functools.cache
def varied():
    """(codec, artifact) of larger weights than at the start: many rows, and symbols that are not zero."""
    codec = zoo.make("hu2020", **WIDTHS)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    flat = flatten(params)
    for path in flat:
        if path.endswith("kernel") and path.startswith(("analysis", "hyper")):
            flat[path] = flat[path] * GAINS.get(path.split("/")[0], 1.4)
    return codec, codec.export(unflatten(flat), state, list(small.crops(2, 64)))


@pytest.mark.parametrize(("widths", "count", "kmac"), [(hu2020.LOW, 21_142_979, 926), (hu2020.HIGH, 72_694_659, 3613)])
def test_size_of_the_paper_s_models(widths, count, kmac):
    """As counted in the authors' code."""
    shapes = nn.meta.unbox(latent_coding.boxed_params(hu2020.CoarseToFine(**widths)))
    assert sum(array.size for array in jax.tree.leaves(shapes)) == count
    assert sum(zoo.make("hu2020", **widths).kmac_per_pixel().values()) == pytest.approx(kmac, rel=0.02)


def test_a_latent_depends_on_the_next_coarser_alone():
    _, artifact = varied()
    rng = np.random.default_rng(0)
    latents = {name: np.float32(rng.normal(0, 4, (1, side, side, c))) for name, (side, c) in LATENTS.items()}

    @jax.jit
    def bits(latents):
        coder = coders.Estimating(latents)
        MODULE.apply({"params": artifact.params}, coder, method="transmit")
        return coder.bits

    before = bits(latents)
    for changed, others in (("z1", {"z2"}), ("z2", {"z3"}), ("z3", set())):
        after = bits({**latents, changed: latents[changed] + 3})
        assert {name for name in before if name != changed and before[name] != after[name]} == others


@pytest.mark.parametrize("size", [(70, 130), (1, 1)])
def test_the_reference_decoder_reads_its_files(size):
    codec, made = varied()
    artifact = Artifact.from_bytes(made.to_bytes())
    image = np.ascontiguousarray(small.photos()[0][: size[0], : size[1]])
    found = reference.decode(api.compress(image, artifact), artifact)
    stream = codec.compress(artifact, image, None)[0]
    z3, _, _ = latent_coding.receive(MODULE, artifact, stream, size)
    np.testing.assert_array_equal(found["z3"] + found["z3_means"] // 256, z3[0])
    assert (z3 == np.rint(z3)).all()
    if size != (1, 1):
        for name in ("z3", "z2"):
            assert len(np.unique(found[name])) > 3 and len(np.unique(found[f"{name}_rows"])) > 8


def test_the_reference_decoder_writes_its_arrays(tmp_path, capsys):
    """`python -m mlic_jax.reference FILE MODEL OUT.npz`: symbols, rows and means as they are in the file."""
    data = gzip.decompress((GOLDEN / "hu2020.mlicm.gz").read_bytes())
    (tmp_path / "model.mlicm").write_bytes(data)
    file = GOLDEN / "hu2020" / "one-pixel.mlic"
    assert command.main([str(file), str(tmp_path / "model.mlicm"), str(tmp_path / "out.npz")]) == 0
    assert "z3_rows" in capsys.readouterr().out
    wanted = reference.decode(file.read_bytes(), Artifact.from_bytes(data))
    with np.load(tmp_path / "out.npz") as found:
        assert set(found) == set(wanted)
        assert all(np.array_equal(found[name], array) for name, array in wanted.items())


def test_golden_files():
    """They decode to the symbols that they were written with, here and by the reference (golden/make_hu2020.py)."""
    artifact = Artifact.from_bytes(gzip.decompress((GOLDEN / "hu2020.mlicm.gz").read_bytes()))
    module = hu2020.CoarseToFine(**artifact.architecture)
    for name, wanted in json.loads((GOLDEN / "hu2020.json").read_text()).items():
        data = (GOLDEN / "hu2020" / f"{name}.mlic").read_bytes()
        found = reference.decode(data, artifact)
        assert {key: golden_streams.digest(array) for key, array in found.items()} == wanted, name
        header, chunks = container.unpack(data)
        z3, _, _ = latent_coding.receive(module, artifact, chunks[0].content, (header.height, header.width))
        np.testing.assert_array_equal(found["z3"] + found["z3_means"] // 256, z3[0])


def test_stages_train_what_there_is():
    codec = zoo.make("hu2020", **WIDTHS, stages=(2, 4, 6))
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    flat = flatten(params)
    flat |= {path: 2 * flat[path] for path in flat if path.startswith("analysis") and path.endswith("kernel")}
    params, keys = unflatten(flat), jax.vmap(jax.random.key)(np.arange(2))
    loss = jax.value_and_grad(codec.objectives["rd"].loss, has_aux=True)
    loss = jax.jit(functools.partial(loss, batch={"image": small.crops(2, 64)}, keys=keys))
    learns, metrics = {}, {}
    for step in (0, 2, 4, 6):
        (_, (metrics[step], _)), gradient = loss(params, state, step=step)
        moved = [path for path, g in flatten(jax.device_get(gradient)).items() if np.any(g)]
        learns[step] = {path.split("/")[0] for path in moved}
        assert any(path.startswith("synthesis/layers_1") for path in moved) == (step >= 4)
    coarsest = {"hyper_analysis_1", "hyper_synthesis_1", "predict_2", "prior_z1"}
    assert learns[0] == {*params} - coarsest and learns[2] == learns[4] == {*params}
    assert learns[6] == {*params} - {"helpers"}
    assert metrics[0]["bpp_z1"] == 0 < metrics[2]["bpp_z1"]
    assert metrics[2]["helping"] > metrics[0]["helping"] > metrics[6]["helping"] == 0
    assert "helpers" not in codec.export(params, state, list(small.crops(1, 64))).params


def test_arguments_that_make_no_sense():
    for changes, message in (
        ({"C": 13}, "C=13"), ({"Z": 0}, "Z=0"), ({"stages": (1, 2)}, "three steps"), ({"proxy": "split"}, "'split'"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            zoo.make("hu2020", **{**WIDTHS, **changes})

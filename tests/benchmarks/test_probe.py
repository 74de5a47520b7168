"""benchmarks/probe.py finds a width that is known, and a gain where there is one."""

import importlib
import pathlib
import sys

import jax
import numpy as np
import pytest
import small

from mlic_jax import zoo
from mlic_jax.models import kltnet2

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def probe(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("probe")
    for name in ("probe", "complexity"):
        sys.modules.pop(name, None)


@pytest.mark.slow  # three programs are compiled
def test_needed_and_gain(probe, monkeypatch):
    monkeypatch.setattr(probe, "QUALITIES", (50.0,))
    codec = zoo.make("kltnet2", **kltnet2.TOY)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    rng = np.random.default_rng(0)
    # Of the body's first layer two directions differ from place to place, and its block passes them on.
    first = params["synthesis"]["layers_1"]["body"]["layers_0"]
    width = first["kernel"].shape[-1]
    first["kernel"] = (first["kernel"][..., :2] @ rng.normal(size=(2, width))).astype(np.float32)
    fill = params["synthesis"]["layers_1"]["fill"]
    fill["kernel"] = rng.normal(0, 0.1, fill["kernel"].shape).astype(np.float32)
    artifact = codec.export(params, state, list(small.crops(1, 64)))
    found = probe.Probe(codec, artifact, small.crops(1, 128))
    name = "synthesis/layers_1/body/layers_0"
    assert found.seen[name][:2] == ((1, 8, 8, kltnet2.TOY["M"]), (1, 8, 8, width))
    assert probe.work(found.seen[name], 128**2)[0] == pytest.approx(kltnet2.TOY["M"] * width / 256 / 1e3)
    least, bases = found.mean_loss(), found.bases()
    mean, vectors = bases[name]
    assert found.mean_loss(name, vectors[:, :2], mean) == pytest.approx(least, rel=1e-3)
    # The filling is noise: without what it is made of the loss is another, and a smaller one.
    assert found.mean_loss(name, vectors[:, :0], mean) < 0.9 * least
    assert 1 <= found.needed(name, mean, vectors, least) <= 2
    # The random filling can be taken back where it is made.
    assert found.gain("synthesis/layers_1/fill", 0.3, 10) > 1

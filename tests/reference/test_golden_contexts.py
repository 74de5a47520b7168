"""Files of models with contexts decode to the same symbols: at every precision, and in plain NumPy."""

import json
import os
import pathlib
import subprocess
import sys

import golden_contexts as contexts
import golden_streams
import jax
import pytest

import mlic_jax

# Of each kind one in every run: programs of the others take as long to compile.
OFTEN = ("mbt2018", "cheng2020-mixtures", "checkerboard2021")
names = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.slow]) for name in contexts.MODELS]
)


@pytest.mark.parametrize("name", contexts.MODELS)
def test_reference_decoder(name):
    assert {"photo", "grey", "one-pixel"} == {*contexts.expected()[name]}
    for picture, wanted in contexts.expected()[name].items():
        found = contexts.by_reference(contexts.content(name, picture), contexts.weights(name))
        assert found == wanted["symbols"], picture


@names
def test_what_is_received_and_shown(name):
    artifact = contexts.weights(name)
    for picture, wanted in contexts.expected()[name].items():
        data = contexts.content(name, picture)
        assert contexts.received(data, artifact) == wanted["received"], picture
        found = golden_streams.look(mlic_jax.decompress(data, artifact))
        assert found["shape"] == wanted["look"]["shape"], picture
        assert found["means"] == pytest.approx(wanted["look"]["means"], abs=0.3), picture


@pytest.mark.parametrize("precision", ["bfloat16", "tensorfloat32"])
@names
def test_at_another_precision(name, precision):
    with jax.default_matmul_precision(precision):
        found = contexts.received(contexts.content(name, "grey"), contexts.weights(name))
    assert found == contexts.expected()[name]["grey"]["received"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
@pytest.mark.parametrize("cores", [1, 2])
def test_in_processes_of_so_many_threads(cores):
    script = pathlib.Path(contexts.__file__)
    some = sorted(os.sched_getaffinity(0))[:cores]
    bound = f"import os, runpy; os.sched_setaffinity(0, {some}); runpy.run_path({str(script)!r}, run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": f"{script.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", bound], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = {
        name: {picture: about["received"] for picture, about in pictures.items()}
        for name, pictures in contexts.expected().items()
    }
    assert json.loads(done.stdout) == wanted

"""A library lives with its host: settings of jax, forks, small machines, odd names, full disks, numbers of any type."""

import decimal
import fractions
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
from commands import run
from pictures import sample
from PIL import Image

import mlic_jax as mlic
from mlic_jax import runtime, zoo
from mlic_jax.cli import common
from mlic_jax.data import sources
from mlic_jax.errors import InputError, LimitError, MlicError, ModelError, UsageError

ROOT = pathlib.Path(__file__).parents[1]
PHOTO = sample("RGB", (40, 50))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that runs jax, with random weights."""
    codec = zoo.make("bmshj2018-hyperprior", N=8, M=12)
    path = tmp_path_factory.mktemp("model") / "model.mlicm"
    codec.export(*codec.init(jax.random.key(0), (64, 64, 3))).save(path)
    return str(path)


@pytest.fixture
def here(tmp_path, monkeypatch, plain_zoo):
    monkeypatch.chdir(tmp_path)
    plain.artifact().save("m.mlicm")
    Image.fromarray(PHOTO).save("a.png")
    monkeypatch.setenv("MLIC_MODEL", "m.mlicm")
    return tmp_path


def python(code, *words, **environment):
    """Runs code in a fresh process with an environment."""
    env = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], env=env, capture_output=True, text=True)


# ---------------------------------------------------------------------- settings of jax


def test_settings_of_the_host(model):
    data = mlic.compress(PHOTO, model)
    back = mlic.decompress(data, model)
    for setting in (
        lambda: jax.numpy_rank_promotion("raise"),
        lambda: jax.numpy_dtype_promotion("strict"),
        lambda: jax.transfer_guard("disallow"),
        lambda: jax.transfer_guard("disallow_explicit"),
        lambda: jax.enable_x64(True),
        lambda: jax.default_matmul_precision("bfloat16"),
        lambda: jax.debug_nans(True),
    ):
        with setting():
            assert mlic.compress(PHOTO, model) == data
            np.testing.assert_array_equal(mlic.decompress(data, model), back)
    with jax.numpy_rank_promotion("raise"):
        mlic.compress(PHOTO, model)
        with pytest.raises(ValueError, match="rank_promotion"):
            jnp.ones((2, 3)) + jnp.ones(3)


def test_a_command_under_a_guard(here, model):
    done = python(
        "import sys; from mlic_jax.cli import main; sys.exit(main.main(sys.argv[1:]))",
        "compress", "a.png", "-m", model, JAX_TRANSFER_GUARD="disallow", JAX_NUMPY_RANK_PROMOTION="raise",
        JAX_NUMPY_DTYPE_PROMOTION="strict",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_no_such_device(here, model):
    done = python(
        "import sys; from mlic_jax.cli import main; sys.exit(main.main(sys.argv[1:]))",
        "compress", "a.png", "-m", model, JAX_PLATFORMS="cuda",
    )  # fmt: skip
    assert done.returncode == 2 and "jax finds no device (JAX_PLATFORMS: cuda" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("Try JAX_PLATFORMS=cpu") and "Traceback" not in done.stderr


FORK = """
import os, sys, numpy as np, mlic_jax as mlic, signal
picture = np.zeros((16, 16, 3), np.uint8)
before = sys.argv[2] == "before"
if not before:
    mlic.compress(picture, sys.argv[1])
child = os.fork()
if not child:
    signal.alarm(200)  # a child that hangs is ended by it
    try:
        mlic.compress(picture, sys.argv[1])
        os._exit(0)
    except mlic.UsageError as reason:
        os._exit(3 if "spawn" in str(reason) else 4)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if not before:
    mlic.compress(picture, sys.argv[1])  # the parent goes on
"""


@pytest.mark.parametrize("when, status", [("after", "3"), ("before", "0")])
def test_forks(model, when, status):
    done = python(FORK, model, when)
    assert done.returncode == 0 and done.stdout.strip() == status, done.stderr


# ---------------------------------------------------------------------- the machine


def test_no_home(here, model):
    code = (
        "import os, pathlib, sys\n"
        "def nobody(*_): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = nobody\n"
        "from mlic_jax.cli import main\nsys.exit(main.main(sys.argv[1:]))"
    )
    more = {"HOME": None, "XDG_CACHE_HOME": None, "JAX_COMPILATION_CACHE_DIR": None}
    done = python(code, "compress", "a.png", "-m", model, **more)
    assert done.returncode == 0, done.stderr


def test_no_memory(here, capsys, monkeypatch):
    def greedy(error):
        def compress(*_, **__):
            raise error

        return compress

    for error in (MemoryError(), MemoryError("Unable to allocate 9 GiB"), RuntimeError("RESOURCE_EXHAUSTED: 9 GiB")):
        monkeypatch.setattr("mlic_jax.api.compress", greedy(error))
        monkeypatch.setattr("mlic_jax.runtime.prepare_jax", lambda: None)
        status, _, err = run(capsys, "compress", "a.png")
        assert status == 6 and "not enough memory" in err and len(err.splitlines()) == 1
    with pytest.raises(LimitError, match="not enough memory"), runtime.jax_of_our_own():
        raise MemoryError
    with pytest.raises(RuntimeError, match="else"), runtime.jax_of_our_own():
        raise RuntimeError("something else")


@pytest.mark.parametrize("mebibytes", [700, 1500])
def test_little_address_space(here, mebibytes):
    """Where LLVM would abort the process, there is an error."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) << 20,) * 2)\n"
        "from mlic_jax.cli import main; sys.exit(main.main(sys.argv[2:]))"
    )
    done = python(code, mebibytes, "compress", "a.png", OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 6 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"address space is limited to {mebibytes} MiB (ulimit -v)" in done.stderr


def test_a_full_standard_output(here, model):
    main = "import sys; from mlic_jax.cli import main; sys.exit(main.main(sys.argv[1:]))"
    assert python(main, "compress", "a.png", "-m", model).returncode == 0
    for words in (
        ["compress", "a.png", "-m", model, "-o", "-"], ["decompress", "a.mlic", "-m", model, "-o", "-"],
        ["info", "a.mlic"], ["compress", "a.png", "-f", "-m", model],
    ):  # fmt: skip
        with open("/dev/full", "wb") as full:
            done = subprocess.run([sys.executable, "-c", main, *words], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 3, (words, done.stderr)
        assert "cannot write to standard output: No space left on device" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


# ---------------------------------------------------------------------- names


ODD = os.fsdecode(b"caf\xe9")


def test_names_that_are_not_utf8(here):
    for folder in ("photos", "out"):
        os.mkdir(folder)
    names = [f"photos/{ODD}.png", "photos/b.png"]
    for name in names:
        Image.fromarray(PHOTO).save(name)
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import plain; from mlic_jax import zoo, runtime\n"
        "zoo.MODELS.update(plain.ENTRIES); runtime.prepare_jax = lambda: None\n"
        "from mlic_jax.cli import main; sys.exit(main.main(sys.argv[1:]))"
    )
    for more in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "compress", *names, "-m", "m.mlicm", "-o", "out", "-f", *more],
            env={**os.environ, "PYTHONIOENCODING": "utf-8:strict", "LC_ALL": "C.UTF-8"}, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert len(done.stdout.splitlines()) == 2 and b"caf\\" in done.stdout
    assert json.loads(done.stdout.splitlines()[0])["input"] == names[0]
    assert {*os.listdir("out")} == {f"{ODD}.mlic", "b.mlic"}
    done = subprocess.run(
        [sys.executable, "-c", script, "decompress", f"none-{ODD}.mlic", "-m", "m.mlicm"],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 3 and b"No such file" in done.stderr and len(done.stderr.splitlines()) == 1


def test_datasets_with_such_names(here):
    os.mkdir("photos")
    for name in (ODD, "b", "c", "d", "e"):
        Image.fromarray(PHOTO).save(f"photos/{name}.png")
    counts = [len(sources.make_source("photos", split, None, cache_mib=0)) for split in ("train", "validation")]
    assert sum(counts) >= 5
    assert [name for name, _ in common.pictures("photos", 0)] == ["b", "c", "caf\\xe9", "d", "e"]
    for name, _ in common.pictures("photos", 0):
        name.encode()  # reports are UTF-8


def test_two_pictures_of_one_stem(here):
    os.makedirs("photos/more")
    Image.fromarray(PHOTO).save("photos/same.png")
    Image.fromarray(PHOTO).save("photos/same.jpg")
    Image.fromarray(PHOTO).save("photos/more/same.png")
    Image.fromarray(PHOTO).save("photos/other.png")
    names = [name for name, _ in common.pictures("photos", 0)]
    assert names == ["more/same.png", "other", "same.jpg", "same.png"]
    assert [name for name, _ in common.pictures("photos", 2)] == ["more/same.png", "other"]


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "quality",
    [40, 40.0, np.float32(40), np.int64(40), np.array(40), jnp.float32(40), jnp.asarray(40), decimal.Decimal(40),
     fractions.Fraction(80, 2)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_numbers_of_any_type(plain_zoo, quality):
    graded = plain.graded()
    assert mlic.compress(PHOTO, graded, quality) == mlic.compress(PHOTO, graded, 40)
    effort = type(quality)(2) if not isinstance(quality, np.ndarray | jax.Array) else quality * 0 + 2
    assert mlic.compress(PHOTO, graded, 40, effort=effort) == mlic.compress(PHOTO, graded, 40, effort=2)
    wanted = type(quality)(9000) if not isinstance(quality, np.ndarray | jax.Array) else quality * 0 + 9000
    assert mlic.compress_to(PHOTO, graded, size=wanted) == mlic.compress_to(PHOTO, graded, size=9000)


@pytest.mark.parametrize("value", ["40", b"40", [40], (40,), np.array([40]), 1j, object(), {}, float("nan"), 1e400, -1])
def test_no_numbers(plain_zoo, value):
    graded = plain.graded()
    with pytest.raises(UsageError):
        mlic.compress(PHOTO, graded, value)
    with pytest.raises(UsageError):
        mlic.compress(PHOTO, graded, 40, effort=value)
    with pytest.raises(UsageError):
        mlic.compress_to(PHOTO, graded, size=value)
    with pytest.raises(UsageError):
        mlic.decompress(mlic.compress(PHOTO, plain.planes()), plain.planes(), iterations=value)


def test_other_arguments(plain_zoo):
    graded = plain.graded()
    for metadata in (["icc"], {"exif"}, None, 5, b"all"):
        with pytest.raises(UsageError, match="metadata"):
            mlic.compress(PHOTO, graded, metadata=metadata)
    for model in (5, [graded], b"m.mlicm"):
        with pytest.raises(ModelError, match="a model is a path, a name or an Artifact"):
            mlic.compress(PHOTO, model)
    for image in (None, "a.png", [[1, 2]], 5):
        with pytest.raises(InputError):
            mlic.compress(image, graded)
    for data in ("a.mlic", None, 5):
        with pytest.raises(MlicError):
            mlic.decompress(data)
    for effort in (1.5, True + 0.25, 10):
        with pytest.raises(UsageError, match="whole number from 0 to 9"):
            mlic.compress(PHOTO, graded, effort=effort)

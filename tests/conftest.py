"""What all tests share: CPU unless told otherwise, a compilation cache that outlives the run, and two markers."""

import gc
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Before the first import of jax, and inherited by the subprocesses that tests start. Compiling is what tests wait for:
# without the thresholds the cache would leave out the many programs that take less than a second each.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
CONTRACTS = "test_contract.py::test_contract"
UNOPTIMISED = "--xla_backend_optimization_level=0"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_configure(config):
    """Programs are compiled without optimisation: half the time of a run is compiling. `--slow` optimises, as users do.

    Golden files were written by optimised programs, and integers have to come out the same from either.
    """
    # Tracing makes millions of small objects, few of them garbage: looking for it was a fifteenth of a run.
    gc.set_threshold(200_000, 50, 50)
    if not config.getoption("--slow"):
        flags = os.environ.get("XLA_FLAGS", "").split()
        if UNOPTIMISED not in flags:
            os.environ["XLA_FLAGS"] = " ".join([*flags, UNOPTIMISED])


def pytest_xdist_make_scheduler(config, log):
    """One worker runs a module's tests, as they share compiled programs. A contract shares its programs with none."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return nodeid if CONTRACTS in nodeid else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # keeps the order of pytest_collection_modifyitems
    return Scheduling(config, log)


def _has_gpu():
    import jax

    return jax.default_backend() == "gpu"


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: CONTRACTS not in item.nodeid)  # the longest first, so that workers end together
    gpu = any("gpu" in item.keywords for item in items) and _has_gpu()
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if "gpu" in item.keywords and not gpu:
            item.add_marker(pytest.mark.skip(reason="needs a GPU (JAX_PLATFORMS=cuda)"))


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs are gigabytes after a few modules; those that are needed again are on disk."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="module")
def toy_zoo():
    """The codecs of toys.py, in the zoo while a module's tests run."""
    import toys

    from mlic_jax import zoo

    with pytest.MonkeyPatch.context() as patch:
        for name, entry in toys.ENTRIES.items():
            patch.setitem(zoo.MODELS, name, entry)
        yield


@pytest.fixture
def plain_zoo(monkeypatch):
    """The lossless codec of plain.py, in the zoo while a test runs; models are not shared between tests."""
    import plain

    from mlic_jax import zoo
    from mlic_jax.fileformat import model_store

    for name, entry in plain.ENTRIES.items():
        monkeypatch.setitem(zoo.MODELS, name, entry)
    monkeypatch.setattr(model_store, "_by_fingerprint", {})
    monkeypatch.setattr(model_store, "_by_path", {})
    for variable in (model_store.MODEL, model_store.FOLDERS):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder to be in, and no models but the package's."""
    import importlib.metadata

    from mlic_jax.fileformat import model_store

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_store, "BESIDE", tmp_path / "none")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **group: [])
    return tmp_path

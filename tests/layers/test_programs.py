"""Programs on disk: run without tracing, told apart by all that they compute, refused where damaged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from mlic_jax import runtime
from mlic_jax.layers import init, programs, windows
from mlic_jax.layers.conv import Conv
from mlic_jax.layers.stack import LeakyReLU, Stack, relu

STACK = Stack((Conv(4, 3), relu, Conv(2, 1)))
X = np.random.default_rng(0).normal(size=(1, 5, 9, 3)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "kept_programs", tmp_path / "programs")
    monkeypatch.setattr(windows._window, "_compiled", {})
    return tmp_path / "programs"


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(lambda key: STACK.init(key, jnp.asarray(X)), jax.random.key(0))
    return {"params": init.materialise(shapes["params"], jax.random.key(1))}


def of_a_new_process(variables, stack=STACK):
    """The result, and what was compiled or traced for it."""
    windows._window._compiled.clear()
    jax.clear_caches()
    with toys.CompileCount() as count:
        found = stack.apply(variables, X)
    return found, count.names


def test_a_second_process_traces_nothing(folder, variables):
    wanted = np.asarray(jax.jit(STACK.apply)(variables, jnp.asarray(X)))
    first, compiled = of_a_new_process(variables)
    assert compiled.count("jit(_window)") == 1
    (kept,) = folder.iterdir()
    before = kept.read_bytes()
    second, compiled = of_a_new_process(variables)
    assert compiled == [] and kept.read_bytes() == before
    np.testing.assert_array_equal(second, first)
    np.testing.assert_allclose(first, wanted, rtol=1e-5, atol=1e-6)
    # Parameters are arguments of a program.
    twice, compiled = of_a_new_process(jax.tree.map(lambda x: 2 * x, variables))
    assert compiled == [] and np.abs(twice - first).max() > 0.1


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:40] + b"x" + data[41:], lambda _: b""])
def test_a_damaged_file_is_made_again(folder, variables, spoil):
    wanted, _ = of_a_new_process(variables)
    (kept,) = folder.iterdir()
    kept.write_bytes(spoil(kept.read_bytes()))
    found, compiled = of_a_new_process(variables)
    assert compiled.count("jit(_window)") == 1
    np.testing.assert_array_equal(found, wanted)
    assert of_a_new_process(variables)[1] == []


def test_a_command_loads_ahead_what_the_last_one_used(folder, variables, monkeypatch):
    ends = []
    monkeypatch.setattr(runtime.atexit, "register", ends.append)
    monkeypatch.setattr(runtime, "_ahead", {})
    monkeypatch.setattr(runtime, "_used", {})
    runtime.load_ahead("test")
    wanted, compiled = of_a_new_process(variables)
    assert compiled.count("jit(_window)") == 1
    ends.pop()()
    note = folder / "used-by-test"
    (kept,) = set(folder.iterdir()) - {note}

    runtime._used.clear()
    runtime.load_ahead("test")
    runtime._ahead[kept.name].result()
    kept.unlink()
    found, compiled = of_a_new_process(variables)
    assert compiled == [], "what was loaded ahead needs no file any more"
    np.testing.assert_array_equal(found, wanted)
    before = note.stat().st_mtime_ns
    ends.pop()()
    assert note.stat().st_mtime_ns == before, "nothing new to note"

    runtime.load_ahead("test")  # the file is gone
    found, compiled = of_a_new_process(variables)
    assert compiled.count("jit(_window)") == 1 and (found == wanted).all()
    note.write_bytes(b"damaged")
    runtime.load_ahead("test")
    assert not runtime._ahead


def test_a_folder_that_cannot_be_written(folder, variables):
    folder.write_bytes(b"a file")
    assert of_a_new_process(variables)[0].shape == (1, 5, 9, 2)
    assert folder.read_bytes() == b"a file"


def test_a_host_keeps_nothing(tmp_path, monkeypatch, variables):
    monkeypatch.setattr(runtime, "kept_programs", None)
    monkeypatch.chdir(tmp_path)
    STACK.apply(variables, X)
    assert list(tmp_path.iterdir()) == []


def test_networks_that_compute_something_else_are_told_apart(folder):
    networks = [
        STACK,
        Stack((Conv(4, 3), LeakyReLU(0.5), Conv(2, 1))),
        Stack((Conv(4, 3), relu, Conv(2, 1, use_bias=False))),
        Stack((Conv(4, 5), relu, Conv(2, 1))),
        Stack((Conv(4, 3, dtype=jnp.bfloat16), relu, Conv(2, 1))),
        Stack((Conv(4, 3), relu, Conv(2, 1)), pixels=True),
        Stack((Conv(4, 3), relu, Conv(2, 1), windows.to_float)),
    ]
    files = {programs._file("window", network, []) for network in networks}
    assert None not in files and len(files) == len(networks)
    assert len({programs._file(name, STACK, more) for name, more in (("a", []), ("b", []), ("a", [1]))}) == 3
    assert programs._file("window", Stack((Conv(4, 3, kernel_init=init.constant(1.0)),)), []) == programs._file(
        "window", Stack((Conv(4, 3),)), []
    ), "initial values are no part of a program"


def test_other_peoples_code_is_not_kept(folder):
    def double(x):
        return 2 * x

    for stranger in (double, lambda x: x, toys.toy, np.tanh):
        assert programs._file("window", Stack((Conv(4, 3), stranger)), []) is None


@pytest.mark.parametrize("what", ["flags", "code"])
def test_the_compiler_and_the_code_are_part_of_the_name(folder, monkeypatch, what):
    before, state = programs._file("window", STACK, []), programs._state
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2") if what == "flags" else patch.setattr(
            programs, "_state", lambda path: (*state(path), path.name == "conv.py")
        )
        programs._surroundings.cache_clear()
        assert programs._file("window", STACK, []) != before
    programs._surroundings.cache_clear()
    assert programs._file("window", STACK, []) == before


def test_what_is_remembered(folder):
    calls = []
    for _ in range(2):
        found = programs.remembered("shapes", STACK, [1], lambda: calls.append(1) or {"y": [1, 2]})
        assert found == {"y": [1, 2]}
    assert calls == [1]
    assert programs.remembered("shapes", STACK, [2], lambda: 7) == 7


def test_where_jit_is_off_nothing_is_kept(folder, variables):
    with jax.disable_jit():
        found = STACK.apply(variables, X)
    np.testing.assert_allclose(found, jax.jit(STACK.apply)(variables, jnp.asarray(X)), rtol=1e-5, atol=1e-6)
    assert not folder.exists()

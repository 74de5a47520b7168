"""Compiled programs of networks, kept on disk: what one command compiled, the next one runs without tracing it again.

jax's own cache is asked for a program only when it has been traced and lowered, which for one small picture takes
longer than all its networks do. Here a program is found by what it is made of: the function, the network with all
attributes, shapes, the versions of jax, Flax and this package's own code, and the processor. Only networks made of this
package's layers are kept, since no other code is part of that; and only on a CPU, where starting is what one picture
costs.

Commands keep programs, in the folder of `runtime.kept_programs`; for a library's host nothing is written. A file is
trusted as far as its folder is, as with jax's own cache: what is in it is run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import pickle
import platform
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax

from mlic_jax import runtime

_PACKAGE = pathlib.Path(__file__).parents[1]
_lock = threading.RLock()


class Program:
    """`jax.jit` of a function (network, *arrays), whose first argument is static, with compiled programs from disk."""

    def __init__(self, function: Callable):
        self._function, self._jitted = function, jax.jit(function, static_argnums=0)
        self._compiled: dict[Any, Callable] = {}

    def __call__(self, network, *arrays):
        if runtime.kept_programs is None or jax.config.jax_disable_jit:
            return self._jitted(network, *arrays)
        leaves, tree = jax.tree.flatten(arrays)
        kinds = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        key = network, tree, kinds
        with _lock:
            if key not in self._compiled:
                self._compiled[key] = self._made(network, arrays, (str(tree), kinds))
        return self._compiled[key](*arrays)

    def _made(self, network, arrays, kinds):
        """What computes the function of this network and these shapes: from disk, compiled, or jitted as ever."""
        file = _file(f"{self._function.__module__}.{self._function.__name__}", network, kinds)
        if file is None:
            return functools.partial(self._jitted, network)
        with contextlib.suppress(Exception):  # no file, a damaged one, or one that this jax cannot load
            return runtime.kept_program(file)
        from jax.experimental import serialize_executable

        with _without_jax_cache():
            compiled = self._jitted.lower(network, *arrays).compile()
        runtime.write_kept(file, pickle.dumps(serialize_executable.serialize(compiled)))
        return compiled


def remembered(name: str, network, more: Any, compute: Callable[[], Any]) -> Any:
    """The JSON that `compute()` gives for a network and `more` (JSON as well), from disk where programs are kept."""
    file = _file(name, network, more) if runtime.kept_programs else None
    if file is None:
        return compute()
    with contextlib.suppress(ValueError, OSError):
        return json.loads(runtime.read_kept(file))
    found = compute()
    runtime.write_kept(file, json.dumps(found).encode())
    return found


# ---------------------------------------------------------------------- files


def _file(name: str, network, more) -> pathlib.Path | None:
    """Where something of a network is kept; None where it is not."""
    try:
        words = json.dumps([name, _described(network), more, _surroundings()])
    except _UnknownError:
        return None
    return runtime.kept_programs / f"{name}-{hashlib.sha256(words.encode()).hexdigest()[:32]}"


@contextlib.contextmanager
def _without_jax_cache():
    """A program that jax took from its own cache cannot be written: it lacks the code that was compiled."""
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # which asks once whether it is enabled
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


# ---------------------------------------------------------------------- what a program depends on


# Fields of every Flax module.
_NOT_COMPUTED = ("parent", "name")


class _UnknownError(Exception):
    """Something of which this module does not know what it depends on."""


def _described(value) -> Any:
    """JSON that differs wherever two networks compute something else. Raises _UnknownError."""
    if value is None or isinstance(value, bool | int | float | str | Fraction):
        return repr(value)
    if isinstance(value, nn.Module):
        # Neither where it stands nor what its parameters were in the beginning: they are arguments of a program.
        names = [name for name in value.__dataclass_fields__ if name not in _NOT_COMPUTED and name[-5:] != "_init"]
        return [_home(type(value)), {name: _described(getattr(value, name)) for name in names}]
    if isinstance(value, tuple | list):
        return [_home(type(value)), *map(_described, value)]
    if isinstance(value, functools.partial):
        return ["partial", *map(_described, (value.func, value.args, tuple(sorted(value.keywords.items()))))]
    return _home(value)


def _home(value) -> str:
    """The name of a class or function that is defined at the top of a module of this package, jax or Python."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "<")
    if module is None or "<" in name or module.partition(".")[0] not in ("mlic_jax", "builtins", "flax", "jax"):
        raise _UnknownError
    return f"{module}.{name}"


@functools.cache
def _surroundings() -> list:
    """What else a program depends on. Raises _UnknownError where it is not for one CPU."""
    device, *others = jax.local_devices()
    if device.platform != "cpu" or others:
        raise _UnknownError
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")]
    code = [(str(path.relative_to(_PACKAGE)), *_state(path)) for path in sorted(_PACKAGE.rglob("*.py"))]
    return [versions, platform.python_version(), _processor(), os.environ.get("XLA_FLAGS"), code]


def _state(path):
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _processor() -> list:
    """The processor, what it can do, and how many cores this process may use."""
    cores = runtime.cores()
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return [platform.machine(), platform.processor(), cores]
    kinds = {line for line in text.splitlines() if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return [*sorted(kinds), cores]

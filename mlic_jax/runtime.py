"""What a command or a call sets up around the work: jax as this package needs it, whatever its host has set; the cache
of compiled programs; a bar that shows how far the work is.

Importing it imports neither jax nor NumPy.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mlic_jax import atomic
from mlic_jax.errors import InputError, LimitError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

# Settings of jax that change what a program means, or forbid things that this package does: rank promotion, mixed
# dtypes, implicit transfers. The host of a library may have set them for its own code.
_SETTINGS = {
    "numpy_rank_promotion": "allow",
    "numpy_dtype_promotion": "standard",
    "enable_x64": False,
    "default_matmul_precision": None,
    "debug_nans": False,
    "debug_infs": False,
    "disable_jit": False,
}
_TRANSFER_GUARDS = ("host_to_device", "device_to_device", "device_to_host")

# Bytes that jax reserves before it has done anything, most of them for the stacks and heaps of its threads.
LEAST_ADDRESS_SPACE = 2 << 30

# The folder in which commands keep compiled programs (layers/programs.py); None: nothing is kept.
kept_programs: pathlib.Path | None = None

# Set in a child of fork whose parent had started jax: its threads, for which programs wait, exist in the parent alone.
_forked = False


def _jax_has_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()  # jax has no public name for it


def _after_fork() -> None:
    global _forked
    _forked = _forked or _jax_has_started()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def start_jax() -> None:
    """Starts jax, where it has not started.

    Raises UsageError where it cannot be: in a child of fork whose parent had started it, or without a device of the
    kind that JAX_PLATFORMS names. Raises LimitError where it would end the process for want of memory.
    """
    if _forked:
        raise UsageError(
            "jax had started before this process was forked, and does not work in the child: start processes with "
            "multiprocessing.get_context('spawn'), or fork before the first picture"
        )
    _check_address_space()
    import jax

    try:
        jax.devices()
    except Exception as reason:  # RuntimeError, AssertionError, or whatever a plugin raises
        wanted = jax.config.jax_platforms or "the default"
        text = " ".join(str(reason).split()) or "none of that kind is there"
        raise UsageError(
            f"jax finds no device (JAX_PLATFORMS: {wanted}): {text[:300]}. Try JAX_PLATFORMS=cpu"
        ) from reason


def _check_address_space() -> None:
    """Raises LimitError under a limit (ulimit -v) in which LLVM, without a word to Python, aborts the process."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise LimitError(
            f"not enough memory: the address space is limited to {limit >> 20} MiB (ulimit -v), jax needs "
            f"{LEAST_ADDRESS_SPACE >> 20} MiB to start"
        )


@contextlib.contextmanager
def jax_of_our_own() -> Iterator[None]:
    """Inside, jax has the settings that this package is written for, in this thread; the host has its own afterwards.

    A codec that works without jax has not imported it, and does not start it here.

    Raises UsageError as `start_jax`, LimitError where memory runs out inside.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_as_limit())
        if "jax" not in sys.modules:
            yield
            return
        start_jax()
        jax = sys.modules["jax"]
        for name, value in _SETTINGS.items():
            stack.enter_context(getattr(jax, name)(value))
        stack.enter_context(jax.transfer_guard("allow"))
        yield


@contextlib.contextmanager
def memory_as_limit() -> Iterator[None]:
    """Turns running out of memory, inside, into a LimitError."""
    try:
        yield
    except MemoryError as reason:
        raise LimitError(_no_memory(reason)) from reason
    except RuntimeError as reason:
        if "RESOURCE_EXHAUSTED" not in str(reason) and "Out of memory" not in str(reason):
            raise
        raise LimitError(_no_memory(reason)) from reason


def _no_memory(reason: BaseException) -> str:
    text = " ".join(str(reason).split())[:120]
    return f"not enough memory{f' ({text})' if text else ''}: a smaller picture or more memory is needed"


def prepare_jax(start: bool = True) -> None:
    """Makes jax ready for a command: with the settings of `jax_of_our_own` in every thread, and a cache on disk, so
    that the second compress of a size starts in a second. Started, too, unless devices are still to be chosen.

    Compiled programs, jax's and those of layers/programs.py, lie in JAX_COMPILATION_CACHE_DIR, or else in the user's
    cache folder, where there is one.
    Raises UsageError as `start_jax`.
    """
    global kept_programs
    import jax

    if start:
        start_jax()
    for name, value in _SETTINGS.items():
        jax.config.update(f"jax_{name}", value)
    jax.config.update("jax_transfer_guard", "allow")
    for kind in _TRANSFER_GUARDS:
        jax.config.update(f"jax_transfer_guard_{kind}", "allow")
    if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        if "://" not in folder:  # jax's cache may be a bucket
            kept_programs = pathlib.Path(folder) / "mlic_jax"
        return
    try:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor a name of the user
        return
    kept_programs = pathlib.Path(home) / "mlic_jax" / "programs"
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "mlic_jax" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# Names of files -> programs that are being loaded; and those that this process has used, in order.
_ahead: dict[str, Future] = {}
_used: dict[str, None] = {}


def load_ahead(purpose: str) -> None:
    """Begins to load the programs that the last process with this purpose used, in a thread, and notes at the end of
    this process what it used: loading is a sixth of a command for one small picture, and imports take as long.

    To be called once, as soon as jax has started.
    """
    if kept_programs is None:
        return
    note, names = kept_programs / f"used-by-{purpose}", []
    with contextlib.suppress(ValueError, OSError):
        names = json.loads(read_kept(note))
    from concurrent.futures import Future

    _ahead.update((name, Future()) for name in names)
    threading.Thread(target=_load_all, args=(note.parent, dict(_ahead))).start()

    @atexit.register
    def finish():
        if list(_used) != names:
            write_kept(note, json.dumps(list(_used)).encode())


def _load_all(folder: pathlib.Path, loading: dict[str, Future]) -> None:
    """Loads files until the process ends. What cannot be loaded is raised where the program is used."""
    for name, future in loading.items():
        if not threading.main_thread().is_alive():
            return
        try:
            future.set_result(_load(folder / name))
        except Exception as reason:
            future.set_exception(reason)


def kept_program(file: pathlib.Path) -> Callable:
    """A compiled program from its file. Raises whatever jax raises for a file that it cannot load."""
    _used[file.name] = None
    loading = _ahead.pop(file.name, None)
    return loading.result() if loading else _load(file)


def _load(file):
    import pickle

    from jax.experimental import serialize_executable

    return serialize_executable.deserialize_and_load(*pickle.loads(read_kept(file)))


def read_kept(file: pathlib.Path) -> bytes:
    """What `write_kept` wrote. Raises OSError where it is missing, ValueError where it is damaged."""
    data = file.read_bytes()
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise ValueError(f"{file} is damaged")
    return data[32:]


def write_kept(file: pathlib.Path, data: bytes) -> None:
    """Where the folder cannot be written, nothing is kept."""
    with contextlib.suppress(InputError, OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(file, hashlib.sha256(data).digest() + data)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def number(value) -> float | None:
    """A number of any type as a float: Python's, Fraction, Decimal, NumPy's, an array of jax without axes. None for
    anything else: text, None, an array with axes, a complex number."""
    if isinstance(value, str | bytes | bytearray) or getattr(value, "shape", ()) != ():
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


class Bar:
    """A bar over pieces of work on a terminal, nothing elsewhere. A context manager.

    Args:
      label: shown before the first piece is finished.
      total: number of pieces.
      quiet: no bar.
    """

    def __init__(self, label: str, total: int, quiet: bool):
        self.bar = None
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import Progress

        # Lines for a terminal go above the bar; lines for a file or a pipe go there.
        self.bar = Progress(console=Console(file=sys.stderr), transient=True, redirect_stdout=sys.stdout.isatty())
        self.task = self.bar.add_task(label, total=total)

    def __enter__(self) -> Bar:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def say(self, line: str, to) -> None:
        """Prints a line to a stream: above the bar, where the stream is a terminal."""
        if self.bar and to.isatty():
            self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=to)

    def done(self, name: str) -> None:
        """One more piece is finished."""
        if self.bar:
            self.bar.update(self.task, advance=1, description=name)

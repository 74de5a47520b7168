"""What a command sets up around the work: the cache of compiled programs, and a bar that shows how far the work is."""

from __future__ import annotations

import os
import pathlib
import sys


def prepare_jax() -> None:
    """Keeps compiled programs between processes: the second compress of a size starts in a second.

    They lie in JAX_COMPILATION_CACHE_DIR, or else in the user's cache folder.
    """
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "mlic_jax" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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

    def done(self, name: str) -> None:
        """One more piece is finished."""
        if self.bar:
            self.bar.update(self.task, advance=1, description=name)

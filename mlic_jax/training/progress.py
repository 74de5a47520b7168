"""What a person sees while training: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

# What is shown of the metrics, in this order, as far as a codec has it.
SHOWN = (("loss", "loss", "{:.3f}"), ("bpp", "bpp", "{:.3f}"), ("psnr_db", "PSNR", "{:.2f} dB"))


def _words(figures: dict[str, float]) -> str:
    # A metric of several objectives is prefixed: "gen/loss".
    words = []
    for key, label, form in SHOWN:
        for name, value in figures.items():
            if name.split("/")[-1] == key:
                prefix = name[: -len(key)].replace("/", " ")
                words.append(f"{prefix}{label} {form.format(value)}")
    if figures.get("skipped"):
        words.append(f"{figures['skipped']:.0f} skipped")
    return "  ".join(words)


class Progress:
    """Shows a run's progress. A context manager.

    Args:
      start, steps: first and last step.
      quiet: show nothing.
    """

    def __init__(self, start: int, steps: int, quiet: bool):
        self.start, self.steps, self.quiet = start, steps, quiet
        console = Console(file=sys.stderr)
        self.bar = None
        if console.is_terminal and not quiet:
            self.bar = Bar(
                TextColumn("train"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self.task = self.bar.add_task("compiling", total=steps, completed=start)
        self.began = None  # (time, step) when the first step was done: what came before was compiling

    def __enter__(self):
        if self.bar:
            self.bar.start()
        if self.start:
            self._say(f"resumed at step {self.start}")
        if not self.bar:
            self._say("compiling the train step ...")
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def _say(self, line: str):
        if self.bar:
            self.bar.console.print(line)
        elif not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def advance(self, step: int) -> None:
        """A step without new figures."""
        self.began = self.began or (time.perf_counter(), step)
        if self.bar:
            self.bar.update(self.task, completed=step)

    def show(self, step: int, figures: dict[str, float]) -> None:
        """A step with training metrics."""
        self.began = self.began or (time.perf_counter(), step)
        if self.bar:
            self.bar.update(self.task, completed=step, description=_words(figures))
        elif not self.quiet:
            began, first = self.began
            left = ""
            if step > first:
                left = f"  {(time.perf_counter() - began) / (step - first) * (self.steps - step):.0f} s left"
            self._say(f"step {step}/{self.steps}  {_words(figures)}{left}")

    def note(self, step: int, figures: dict[str, float]) -> None:
        """Figures on held-out patches."""
        self._say(f"step {step}  held-out patches, estimated: {_words(figures)}")

"""What a person sees while training: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

# What is shown of the metrics, in this order, as far as a codec has it.
SHOWN = (
    ("loss", "loss {:.3f}"),
    ("bpp", "{:.4f} bpp"),
    ("psnr_db", "{:.2f} dB"),
    ("learning_rate", "lr {:.1e}"),
    ("steps_per_second", "{:.3g} steps/s"),
    ("examples_per_second", "{:.3g} examples/s"),
)
# A bar on a terminal of less than so many columns leaves these out; lines have all. The narrowest has counts alone.
LEFT_OUT = {130: ("learning_rate",), 102: ("loss",)}
NARROWEST = min(LEFT_OUT)


def _words(figures: dict[str, float], left_out=()) -> str:
    # A metric of several objectives is prefixed: "gen/loss".
    words = []
    for key, form in SHOWN:
        for name, value in figures.items():
            if name.split("/")[-1] == key and key not in left_out:
                words.append(name[: -len(key)].replace("/", " ") + form.format(value))
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
            wide = console.width >= NARROWEST
            self.bar = Bar(
                *([BarColumn(bar_width=16)] if wide else []),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                *([TimeElapsedColumn()] if wide else []),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self.task = self.bar.add_task("compiling", total=steps, completed=start)
        self.began = None  # (time, step) when the first step was done: what came before was compiling

    def __enter__(self):
        if self.bar:
            self.bar.start()
        if self.start >= self.steps:
            self.say(f"all {self.steps} steps are done: a larger train.steps would go on")
            self._describe("done")
        elif not self.bar:
            self.say("compiling the train step ...")
        return self

    def __exit__(self, *_):
        if self.bar:
            with contextlib.suppress(OSError):
                self.bar.stop()

    def say(self, text: str) -> None:
        """Prints lines, above the bar where there is one. A closed terminal or a full disk does not end the run."""
        with contextlib.suppress(OSError):
            if self.bar:
                self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            elif not self.quiet:
                print(text, file=sys.stderr, flush=True)

    def go_back(self, step: int) -> None:
        """The run goes on from an earlier step."""
        self.began = None
        if self.bar:
            self.bar.update(self.task, completed=step)

    def _describe(self, words: str) -> None:
        if self.bar:
            self.bar.update(self.task, description=words)

    def advance(self, step: int) -> None:
        """A step without new figures."""
        if self.began is None:
            self._describe("")
        self.began = self.began or (time.perf_counter(), step)
        if self.bar:
            self.bar.update(self.task, completed=step)

    def show(self, step: int, figures: dict[str, float]) -> None:
        """A step with training metrics."""
        self.began = self.began or (time.perf_counter(), step)
        if self.bar:
            width = self.bar.console.width
            left_out = [name for columns, names in LEFT_OUT.items() if width < columns for name in names]
            words = _words(figures, left_out) or _words(figures)
            self.bar.update(self.task, completed=step, description=words)
        elif not self.quiet:
            began, first = self.began
            left = ""
            if step > first:
                left = f"  {(time.perf_counter() - began) / (step - first) * (self.steps - step):.0f} s left"
            self.say(f"step {step}/{self.steps}  {_words(figures)}{left}")

    def note(self, step: int, figures: dict[str, float]) -> None:
        """Figures on held-out patches."""
        self.say(f"step {step}  held-out patches, estimated: {_words(figures)}")

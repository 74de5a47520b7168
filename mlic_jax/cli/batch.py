"""A command over many files: several at a time, past bad ones, with records in the order of the inputs."""

from __future__ import annotations

import concurrent.futures
import gc
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mlic_jax import atomic, runtime
from mlic_jax.cli import command
from mlic_jax.errors import InputError, MlicError, UsageError

# Names standard input, and standard output.
STANDARD = "-"
# Suffixes of names that mean a file, where a folder could be meant.
_OF_FILES = (".mlic", ".mlicm", ".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".jp2", ".bmp", ".ppm")
_SLASHES = tuple(filter(None, (os.sep, os.altsep)))


def read(name: str) -> bytes:
    """The content of a file or of standard input. Raises InputError."""
    return sys.stdin.buffer.read() if name == STANDARD else atomic.read_bytes(name)


def start_of(name: str, count: int) -> tuple[bytes, int]:
    """The first `count` bytes of a file (all, where it cannot be read twice) and its length. Raises InputError."""
    if os.path.isfile(name):
        try:
            with open(name, "rb") as file:
                return file.read(count), file.seek(0, os.SEEK_END)
        except OSError:
            pass  # which read_bytes puts into words
    data = read(name)
    return data, len(data)


def can_be_read_twice(name: str) -> bool:
    """False for standard input and for pipes. Raises InputError where there is nothing to read."""
    if name != STANDARD and (os.path.isdir(name) or not os.path.exists(name)):
        atomic.read_bytes(name)
    return os.path.isfile(name)


def write(name: str, data: bytes) -> None:
    """Writes a file, whole or not at all, or to standard output. Raises InputError."""
    if name == STANDARD:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as reason:
            raise InputError(f"cannot write to standard output: {reason.strerror}") from reason
    else:
        atomic.write_bytes(name, data)


def outputs(inputs: Sequence[str], output: str | None, suffix: str) -> list[str]:
    """Where each input's result goes: into the file or folder `output`, or beside the input; STANDARD for STANDARD.
    A folder that does not exist is made: a name with a slash at its end is one, and with several inputs any name is
    that does not look like that of a file.

    Raises:
      InputError: several inputs, and an output that is no folder.
      UsageError: two inputs with one output, an output that is also an input, or several inputs to standard output.
    """
    into_folder = output is not None and (os.path.isdir(output) or output.endswith(_SLASHES))
    if output and len(inputs) > 1 and not os.path.lexists(output):
        into_folder |= pathlib.Path(output).suffix.lower() not in _OF_FILES
    if STANDARD in (*inputs, output) and len(inputs) > 1:
        raise UsageError(f"{STANDARD!r} goes with one input and one output, there are {len(inputs)} inputs")
    if len(inputs) == 1 and output and not into_folder:
        paths = [output]
    elif inputs[0] == STANDARD:
        if into_folder:
            raise UsageError(f"standard input has no name: name a file in {output!r} with -o")
        paths = [STANDARD]
    elif output and not into_folder:
        raise InputError(f"{output!r} is not a folder: with {len(inputs)} inputs, -o names a folder")
    else:
        names = [pathlib.Path(name).stem + suffix for name in inputs]
        paths = [os.path.join(output or os.path.dirname(i), name) for i, name in zip(inputs, names, strict=True)]
    _refuse_shared(inputs, paths)
    if into_folder and not os.path.isdir(output):
        atomic.make_folder(output)
    return paths


def _refuse_shared(inputs: Sequence[str], paths: Sequence[str]) -> None:
    """Raises UsageError where an output is also an input, or the output of another."""
    places = {os.path.realpath(name): name for name in inputs if name != STANDARD}
    made: dict[str, str] = {}
    for name, path in zip(inputs, paths, strict=True):
        place = os.path.realpath(path)
        if path == STANDARD:
            continue
        if place == os.path.realpath(name):
            raise UsageError(f"the result of {name!r} would be written over it: name another file or folder with -o")
        if place in places:
            raise UsageError(f"the result of {name!r} would be written over {places[place]!r}, which is an input too")
        if place in made:
            both = f"of {made[place]!r} and {name!r}" if made[place] != name else f"of {name!r}, twice given,"
            raise UsageError(f"the results {both} would both be {path!r}: use several commands, or other names")
        made[place] = name


def refuse_overwriting(path: str, force: bool) -> None:
    """Raises InputError where a file exists and is not to be overwritten. Pipes and devices are written into."""
    if path != STANDARD and not force and os.path.exists(path) and not atomic.written_through(path):
        raise InputError(f"{path!r} exists: add -f to overwrite it")


def add_arguments(parser, what: str, model: str, output: str) -> None:
    """The arguments of a command on many files, as `run_arguments` reads them.

    Args:
      parser: argparse's.
      what: how --help calls an input.
      model, output: what --help says of the model and of the default output.
    """
    parser.add_argument("inputs", nargs="+", metavar=what, help="- for standard input")
    parser.add_argument(
        "-o", "--output", help=f"file, or folder for several (made if need be), or - for standard output {output}"
    )
    parser.add_argument("-m", "--model", help=model)
    parser.add_argument("--metadata", default="all", help="what is kept: all (default), none, or some of icc,exif,xmp")
    command.add_jobs(parser)
    command.add_force(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON line per file")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run_arguments(arguments, suffix: str, check: Callable, start: Callable, work: Callable) -> int:
    """`run` with the arguments of `add_arguments`; outputs without a name have the suffix. No file is overwritten
    without --force."""

    def check_both(name, path):
        refuse_overwriting(path, arguments.force)
        check(name, path)

    return run(
        list(zip(arguments.inputs, outputs(arguments.inputs, arguments.output, suffix), strict=True)),
        check_both,
        start,
        work,
        jobs=arguments.jobs,
        as_json=arguments.json,
        quiet=arguments.quiet,
    )


def _attempt(function: Callable, *words) -> Any:
    """What a function returns, or the MlicError that it raises."""
    try:
        with runtime.memory_as_limit():
            return function(*words)
    except MlicError as reason:
        return reason


def run(
    pairs: Sequence[tuple[str, str]],
    check: Callable[[str, str], None],
    start: Callable[[], Any],
    work: Callable[[str, str, Any], tuple[dict[str, Any], str]],
    *,
    jobs: int = 1,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Works on every pair of an input and an output, and goes on past those that fail.

    Results are printed in the order of the pairs, on standard error where standard output carries the data.

    Args:
      pairs: names, or STANDARD.
      check: raises for pairs that can be refused before anything heavy is imported.
      start: called once, if anything is left to do; what it returns is handed to `work`.
      work: (input, output, started) -> (record, the same in words). Called from `jobs` threads.
      jobs: files at a time; 0 for one per core.
      as_json: print records as lines of JSON, with {"input", "error", "exit_code"} for those that failed.
      quiet: no words and no bar.

    Returns:
      The exit status: 0, or 1 where some of several failed. The error of a single file is raised.
    """
    on_standard = STANDARD in [output for _, output in pairs]
    failed = []

    def report(name, result, say):
        to = sys.stderr if on_standard else sys.stdout
        if isinstance(result, MlicError):
            text = " ".join(str(result).split())
            text = text if name in text else f"{name}: {text}"
            failed.append(name)
            if as_json:
                say(json.dumps({"input": name, "error": text, "exit_code": result.exit_code}), to)
            if len(pairs) == 1:
                raise type(result)(text) from result
            say(f"mlic: error: {text}", sys.stderr)
        elif as_json:
            say(json.dumps(result[0]), to)
        elif not quiet:
            say(result[1], to)

    refused = [_attempt(check, *pair) for pair in pairs]
    started = start() if None in refused else None
    pool = concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count())

    def work_and_tidy(*words):
        result = _attempt(work, *words)
        tidy()
        return result

    # A picture's arrays hang in cycles of Flax's, and the collector comes too rarely for things so large. It looks at
    # what a picture left only, not at the libraries: milliseconds, but for the first time.
    tidy = gc.collect if len(pairs) > 1 else lambda: None
    tidy()
    gc.freeze()
    try:
        results = [
            pool.submit(work_and_tidy, *pair, started) if reason is None else reason
            for pair, reason in zip(pairs, refused, strict=True)
        ]
        with runtime.Bar("files", len(pairs), quiet or as_json or len(pairs) == 1) as bar:
            for (name, _), result in zip(pairs, results, strict=True):
                whole = result.result() if isinstance(result, concurrent.futures.Future) else result
                report(name, whole, bar.say)
                bar.done(name)
    finally:
        pool.shutdown(cancel_futures=True)
        gc.unfreeze()
    if failed:
        print(f"mlic: {len(failed)} of {len(pairs)} files failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0

"""Damaged and forged files: a reader must answer each with an error, at once, in little memory.

    python benchmarks/robustness.py --model MODEL.mlicm [--only prefixes,flips,mutations,headers,bombs] [--quick]

The files are of a real model and of real pictures of 24 to 80 pixels a side: every mode, half of them with metadata.

- undamaged: the files as they are, 50 times; how much memory decoding them takes.
- prefixes: all prefixes of 20 files; and files of which one chunk is cut, everywhere, with lengths and checksums right.
- flips: every bit of 4 files; once more with the checksums repaired afterwards.
- mutations: 100,000 times random damage: changed bytes, insertions, deletions, exchanges, splices of two files. Half of
  them with checksums repaired afterwards, and half of these with lengths repaired, too, so that all of it reaches the
  decoders; among these are claims of up to 30000x5000 pixels.
- headers: 1,000,000 of them, to the parser alone; half with a checksum that fits.
- bombs: small files that claim much (fuzz/inputs.py), each by itself: 50 ms, and 64 MiB that
  Python and NumPy allocate, are its limits.

For each: how many were decoded, and how many raised which error; the slowest; and the peak of resident memory, above
what the process held before all of this. Any exception that is no MlicError is printed with its input, and the script
ends in failure. All programs are compiled before, and none should be compiled meanwhile.
"""

import argparse
import collections
import functools
import gc
import pathlib
import random
import sys
import time
import traceback
import tracemalloc

import numpy as np
from batch_memory import Compiled
from large_pictures import peak_mib

import mlic_jax
from mlic_jax import data, zoo
from mlic_jax.errors import MlicError
from mlic_jax.fileformat import container

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "fuzz"))
import inputs
import target

STREAMS, FLIPPED = 20, 4


def files_of(artifact) -> list[bytes]:
    """The undamaged files."""
    rng = np.random.default_rng(0)
    photos = [data.read_image(path) for path in data.bundled("train")]
    files = []
    for i in range(STREAMS):
        height, width = rng.integers(24, 81, 2)
        photo = photos[i % len(photos)]
        top, left = rng.integers(0, photo.shape[0] - height), rng.integers(0, photo.shape[1] - width)
        picture = inputs.picture(inputs.KINDS[i % len(inputs.KINDS)], photo[top : top + height, left : left + width])
        if hasattr(picture, "info") and i % 2:
            inputs.metadata(picture)
        files.append(mlic_jax.compress(picture, artifact))
    return files


def warm_up(artifact) -> None:
    """Compiles what decoding can need: windows of both lengths along both axes."""
    for height, width in ((70, 70), (70, 1700), (1700, 70), (1700, 1700)):
        mlic_jax.decompress(mlic_jax.compress(np.zeros((height, width, 3), np.uint8), artifact), artifact)


def restart_peak() -> None:
    """Forgets how large resident memory was before."""
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def claim_of(file: bytes) -> str:
    """What a file says that it holds."""
    try:
        header, _ = container.read_header(file)
        return f"{header.width}x{header.height} {header.mode} in {len(file)} bytes"
    except MlicError:
        return f"{len(file)} bytes without a readable header"


class Tally:
    """Gives inputs to a function, and notes what becomes of them."""

    def __init__(self, name: str, function, compiled: Compiled, floor: float):
        self.name, self.function, self.compiled, self.floor = name, function, compiled, floor
        self.outcomes, self.findings = collections.Counter(), 0
        self.slowest, self.slowest_input = 0.0, b""
        self.peak, self.peak_input = 0.0, b""
        self.began = self.said = time.perf_counter()
        compiled.clear()
        restart_peak()

    def _attempt(self, *given) -> float:
        began = time.perf_counter()
        try:
            self.function(*given)
            self.outcome = "decoded"
        except MlicError as error:
            self.outcome = type(error).__name__
        except Exception as error:
            self.outcome = f"FINDING: {type(error).__name__}"
            self.findings += 1
            if self.findings == 1:
                traceback.print_exc()
                print(f"input of {self.name}: {given[0].hex()}", flush=True)
        return time.perf_counter() - began

    def __call__(self, *given) -> None:
        took = self._attempt(*given)
        self.outcomes[self.outcome] += 1
        if took > self.slowest:
            # The machine may have been busy with something else.
            took = min(took, self._attempt(*given), self._attempt(*given))
            if took > self.slowest:
                self.slowest, self.slowest_input = took, given[0]
        if peak_mib() > self.peak:
            self.peak, self.peak_input = peak_mib(), given[0]
        if time.perf_counter() - self.said > 30:
            self.said = time.perf_counter()
            print(f"  {self.name}: {sum(self.outcomes.values())} cases ...", file=sys.stderr, flush=True)

    def report(self) -> int:
        """Prints the line, and returns the number of findings."""
        counts = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        took = time.perf_counter() - self.began
        print(
            f"{self.name}: {sum(self.outcomes.values())} cases in {took:.0f} s: {counts}\n"
            f"  slowest {self.slowest:.3f} s ({claim_of(self.slowest_input)}); "
            f"peak {self.peak - self.floor:.1f} MiB above start ({claim_of(self.peak_input)}); "
            f"compiled meanwhile: {list(self.compiled)}; other exceptions: {self.findings}",
            flush=True,
        )
        return self.findings


def prefixes(tally, files):
    for file in files:
        for length in range(len(file)):
            tally(file[:length])
            tally(target.repaired(file[:length]))
        _, chunks = container.unpack(file)
        for place, (type, content) in enumerate(chunks):
            for length in range(len(content)):
                cut = container.Chunk(type, content[:length])
                tally(inputs.reforged(file, [*chunks[:place], cut, *chunks[place + 1 :]]))


def flips(tally, files):
    for file in files:
        for place in range(len(file)):
            for bit in range(8):
                changed = bytearray(file)
                changed[place] ^= 1 << bit
                tally(bytes(changed))
                tally(target.repaired(changed))


def mutations(tally, files, count, seed):
    rng = random.Random(seed)
    for i in range(count):
        file, other = rng.choice(files), rng.choice(files)
        if i % 4 == 3:
            tally(inputs.damaged_inside(rng, file, other))
        else:
            changed = inputs.damaged(rng, file, other)
            tally(target.repaired(changed) if i % 4 == 1 else changed)


def headers(tally, files, count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        tally(*inputs.header(rng, files))


def bombs(tally, artifact):
    """Every bomb by itself, for its own time and memory; returns the number of those that are refused too late."""
    forge = functools.partial(
        inputs.forge, model=inputs.varint(zoo.stream_id(artifact.model)), fingerprint=artifact.fingerprint
    )
    late = decoded = 0
    for name, make in inputs.bombs(forge).items():
        bomb, took = make(), []
        for _ in range(5):
            before = tally.outcomes["decoded"]
            began = time.perf_counter()
            tally(bomb)
            took.append(time.perf_counter() - began)
            decoded += tally.outcomes["decoded"] - before
        # Not resident memory: what the heap kept from before would hide all of it.
        tracemalloc.start()
        tally(bomb)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        late += min(took) > 0.05 or peak > 64
        print(f"  {name}: {len(bomb)} bytes, {1000 * min(took):.1f} ms, {peak:.1f} MiB, {tally.outcome}")
    print(f"bombs that were decoded, took more than 50 ms or more than 64 MiB: {late + decoded}")
    return late + decoded


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="model file (.mlicm)")
    parts = ("prefixes", "flips", "mutations", "headers", "bombs")
    parser.add_argument("--only", default=",".join(parts), help=f"parts to run: {','.join(parts)}")
    parser.add_argument("--quick", action="store_true", help="a 50th of it")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if not set(parts) >= set(chosen):
        parser.error(f"--only {arguments.only}: some of {','.join(parts)}")
    share = 50 if arguments.quick else 1

    compiled = Compiled()
    artifact = mlic_jax.load_model(arguments.model)
    files = files_of(artifact)
    warm_up(artifact)
    decode = functools.partial(mlic_jax.decompress_image, model=artifact)
    restart_peak()
    floor = peak_mib()
    print(
        f"{artifact.model}, {artifact.architecture}; {len(files)} files of {min(map(len, files))} to "
        f"{max(map(len, files))} bytes; {floor:.0f} MiB resident",
        flush=True,
    )
    findings = 0
    for part in ["undamaged", *chosen]:
        function = container.read_header if part == "headers" else decode
        tally = Tally(part, function, compiled, floor)
        if part == "undamaged":
            for file in files * max(1, 50 // share):
                tally(file)
        elif part == "prefixes":
            prefixes(tally, files if share == 1 else files[:1])
        elif part == "flips":
            flips(tally, sorted(files, key=len)[: FLIPPED if share == 1 else 1])
        elif part == "mutations":
            mutations(tally, files, 100_000 // share, arguments.seed)
        elif part == "headers":
            headers(tally, files, 1_000_000 // share, arguments.seed)
        else:
            findings += bombs(tally, artifact)
        findings += tally.report()
    sys.exit(findings > 0)


if __name__ == "__main__":
    main()

"""The fuzz target without a fuzzer: its committed corpus, and inputs that differ from it at random."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import picture_files
import pytest
import target

CORPUS = pathlib.Path(target.__file__).parent / "corpus"


def test_corpus_has_no_finding():
    assert target.replay([CORPUS]) > 200
    assert sum(file.stat().st_size for file in CORPUS.iterdir()) <= 300 << 10


@pytest.mark.parametrize("seed", range(4))
def test_inputs_like_those_of_the_corpus_have_no_finding(seed):
    rng = np.random.default_rng(seed)
    inputs = [file.read_bytes() for file in sorted(CORPUS.iterdir())]
    for _ in range(1000):
        changed = bytearray(inputs[rng.integers(len(inputs))])
        for _ in range(rng.integers(1, 5)):
            place = int(rng.integers(1, min(len(changed), 60))) if len(changed) > 1 else 0
            changed[place : place + rng.integers(0, 3)] = rng.bytes(rng.integers(0, 3))
        try:
            target.run(bytes(changed))
        except BaseException:
            print("the input:", bytes(changed).hex())
            raise


def test_a_finding_is_one(monkeypatch, tmp_path):
    (tmp_path / "input").write_bytes(b"\0rest")

    def fails(data):
        assert data != b"rest"

    monkeypatch.setattr(target, "ENTRY_POINTS", (fails,))
    with pytest.raises(AssertionError):
        target.replay([tmp_path])


def test_damaged_pictures_have_no_finding():
    """In a process of its own: it refuses child processes for good."""
    words = [sys.executable, str(pathlib.Path(picture_files.__file__)), "8", "1"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    count, read = (int(word) for word in re.findall(r"(\d+) (?:damaged|of them)", done.stdout))
    assert count > 20 and 0 < read < count


def test_a_child_process_is_a_finding():
    code = "import sys, subprocess, picture_files; sys.addaudithook(picture_files._watch); subprocess.run(['true'])"
    folder = str(pathlib.Path(picture_files.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"], capture_output=True, text=True
    )
    assert done.returncode and "ChildProcess: subprocess.Popen" in done.stderr

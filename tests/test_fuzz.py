"""The fuzz target without a fuzzer: its committed corpus, and inputs that differ from it at random."""

import pathlib

import numpy as np
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

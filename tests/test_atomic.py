"""Files are written whole or not at all, from as many threads as like."""

import concurrent.futures
import os
import stat

import pytest

from mlic_jax import atomic
from mlic_jax.errors import InputError, ModelError


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    atomic.write_bytes(tmp_path / "a", b"one")
    atomic.write_bytes(str(tmp_path / "a"), b"two")
    assert atomic.read_bytes(tmp_path / "a") == b"two"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="cannot write .*No space left"):
        atomic.write_bytes(tmp_path / "a", b"three")
    assert (tmp_path / "a").read_bytes() == b"two" and os.listdir(tmp_path) == ["a"]


def test_permissions_are_a_users_own(tmp_path):
    before = os.umask(0o027)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: atomic.write_bytes(tmp_path / str(i), b"x"), range(200)))
    finally:
        assert os.umask(before) == 0o027, "another thread's files would be open to everybody"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("name", ["none/a", ".", "nul\0", "a" * 300])
def test_places_that_cannot_be_written(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        atomic.write_bytes(name, b"x")
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_read(tmp_path):
    for name in ("none", "nul\0", "."):
        with pytest.raises(InputError, match="cannot read"):
            atomic.read_bytes(tmp_path / name)
    with pytest.raises(ModelError, match="none"):
        atomic.read_bytes(tmp_path / "none", ModelError)

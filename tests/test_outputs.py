"""Writing respects what is there: links, pipes, devices, modes, folders, and names as long as names can be."""

import os
import stat
import subprocess
import sys
import threading

import plain
import pytest
from commands import run
from pictures import sample
from PIL import Image

import mlic_jax as mlic
from mlic_jax import atomic
from mlic_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("plain_zoo")
PHOTO = sample("RGB", (12, 17))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain.artifact().save("m.mlicm")
    Image.fromarray(PHOTO).save("a.png")
    monkeypatch.setenv("MLIC_MODEL", "m.mlicm")
    monkeypatch.setattr("mlic_jax.runtime.prepare_jax", lambda: None)
    return tmp_path


def leftovers(folder="."):
    return [name for name in os.listdir(folder) if name.startswith(".")]


def test_a_pipe_is_written_into(here, capsys):
    os.mkfifo("pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append(open("pipe", "rb").read()))
    reader.start()
    status, _, err = run(capsys, "compress", "a.png", "-o", "pipe")  # without -f: nothing is overwritten
    reader.join(20)
    assert status == 0, err
    assert stat.S_ISFIFO(os.stat("pipe").st_mode) and (mlic.decompress(got[0]) == PHOTO).all()


def test_a_device_is_written_into(here, capsys):
    for more in ([], ["-f"]):
        status, _, err = run(capsys, "compress", "a.png", "-o", "/dev/null", *more)
        assert status == 0 and not err
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    status, _, err = run(capsys, "compress", "a.png", "-o", "/dev/full")
    assert status == 3 and "cannot write '/dev/full': No space left on device" in err and "-f" not in err


def test_a_file_of_another_process_is_written_into(here):
    """/dev/stdout may be a file: renaming another over it would leave the shell with the old one."""
    code = "from mlic_jax import atomic; atomic.write_bytes('/dev/stdout', b'data')"
    with open("out", "wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert open("out", "rb").read() == b"data" and not leftovers()


@pytest.mark.parametrize("exists", [True, False])
def test_links_stay(here, capsys, exists):
    os.mkdir("elsewhere")
    if exists:
        open("elsewhere/real.mlic", "wb").close()
    os.symlink("elsewhere/real.mlic", "link.mlic")
    assert run(capsys, "compress", "a.png", "-f", "-o", "link.mlic")[0] == 0
    assert os.path.islink("link.mlic") and (mlic.decompress(open("elsewhere/real.mlic", "rb").read()) == PHOTO).all()
    assert not leftovers() and not leftovers("elsewhere")
    os.symlink("loop", "loop")
    with pytest.raises(InputError, match="cannot write 'loop'"):
        atomic.write_bytes("loop", b"")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_modes_are_kept(here, mode):
    open("x", "wb").close()
    os.chmod("x", mode)
    atomic.write_bytes("x", b"data")
    assert stat.S_IMODE(os.stat("x").st_mode) == mode and open("x", "rb").read() == b"data"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners_are_kept(here):
    open("x", "wb").close()
    os.chown("x", 12345, 54321)
    os.chmod("x", 0o4750)
    atomic.write_bytes("x", b"data")
    status = os.stat("x")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 54321, 0o4750)


def test_new_files_have_the_mode_of_the_umask(here):
    old = os.umask(0o027)
    try:
        atomic.write_bytes("x", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat("x").st_mode) == 0o640


def test_a_slash_means_a_folder(here, capsys):
    assert run(capsys, "compress", "a.png", "-o", "new/")[0] == 0
    assert os.path.isfile("new/a.mlic")
    assert run(capsys, "compress", "a.png", "-f", "-o", "new/")[0] == 0
    open("file", "wb").close()
    status, _, err = run(capsys, "compress", "a.png", "-o", "file/")
    assert status == 3 and len(err.splitlines()) == 1 and os.path.getsize("file") == 0


def test_names_of_255_bytes(here, capsys):
    name = "ä" * 125 + ".mlic"
    assert len(os.fsencode(name)) == 255
    assert run(capsys, "compress", "a.png", "-o", name)[0] == 0 and os.path.isfile(name)
    status, _, err = run(capsys, "compress", "a.png", "-o", "x" + name)
    assert status == 3 and "File name too long" in err and len(err.splitlines()) == 1


def test_a_folder_is_no_file(here):
    os.mkdir("folder")
    with pytest.raises(InputError, match="cannot write 'folder': Is a directory"):
        atomic.write_bytes("folder", b"")
    assert not leftovers()


def test_a_full_disk_leaves_what_was_there(here, monkeypatch):
    open("x", "wb").write(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        atomic.write_bytes("x", b"new")
    assert open("x", "rb").read() == b"old" and not leftovers()

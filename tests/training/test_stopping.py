"""Signals, and the lock on a workdir."""

import json
import os
import signal
import subprocess
import sys

import pytest

from mlic_jax.errors import TrainingError
from mlic_jax.training import lock, stopping


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_is_noted_and_ends_nothing(number):
    before = signal.getsignal(number)
    with stopping.signals() as asked:
        assert asked() == ""
        os.kill(os.getpid(), number)
        assert asked() == number.name
    assert signal.getsignal(number) is before


def test_a_second_interrupt_is_an_interrupt(capfd):
    with pytest.raises(KeyboardInterrupt), stopping.signals() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked() == "SIGINT" and "once more ends it at once" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
    words = "import os, signal\nfrom mlic_jax.training import stopping\nwith stopping.second_interrupt_kills():\n"
    words += " with stopping.signals():\n  for _ in range(2): os.kill(os.getpid(), signal.SIGINT)\nprint('no')"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "")


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stopping.signals() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked() == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_lock_is_for_one_and_goes_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.2)
    assert not lock.held(tmp_path)
    with lock.locked(tmp_path):
        assert lock.held(tmp_path)
        with pytest.raises(TrainingError, match=f"process {os.getpid()} on .*, since 20"), lock.locked(tmp_path):
            pass
    assert not lock.held(tmp_path)
    # A process that was killed leaves its words, and no lock.
    words = f"import os\nfrom mlic_jax.training import lock\nwith lock.locked({str(tmp_path)!r}): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", words]).returncode == 9
    assert json.loads((tmp_path / lock.NAME).read_text())["process"] != os.getpid()
    assert not lock.held(tmp_path)
    with lock.locked(tmp_path):
        pass


def test_without_locks_a_process_that_lives_counts(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(lock, "_take", lambda file: None)
    with lock.locked(tmp_path):
        assert "has no locks" in caplog.text
    about = {"host": lock.socket.gethostname(), "process": os.getppid(), "since": "today"}
    (tmp_path / lock.NAME).write_text(json.dumps(about))
    with pytest.raises(TrainingError, match=f"process {os.getppid()}"), lock.locked(tmp_path):
        pass
    (tmp_path / lock.NAME).write_text(json.dumps(about | {"process": 2**22 + 1}))  # more than there are
    with lock.locked(tmp_path):
        pass

"""The end of child processes."""

import os
import signal
import threading

import pytest

from torchdali.pool import _child
from torchdali.pool._child import Child, end_all


class Slow(Child):
    """Ends a while after it was killed, as where the machine has other things to do; or never."""

    def __init__(self, seconds):
        self.pid, self.seconds = 0, seconds
        self.sentinel, self._writing = os.pipe()
        self.signals, self.forgotten = [], False

    exitcode = None
    ended = False

    def signal(self, number):
        self.signals.append(number)
        if number == signal.SIGKILL and self.seconds is not None:
            threading.Timer(self.seconds, self._end).start()

    def _end(self):
        self.ended = True
        os.close(self._writing)

    def forget(self):
        assert not self.forgotten
        self.forgotten = True
        os.close(self.sentinel)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(_child, "STOP_SECONDS", 0.01)


def test_one_that_is_killed_is_waited_for_although_it_takes_its_time():
    quick, slow = Slow(0.0), Slow(0.5)
    end_all([quick, slow])
    for child in (quick, slow):
        assert child.signals == [signal.SIGTERM, signal.SIGKILL]
        assert child.ended
        assert child.forgotten


def test_one_that_does_not_end_is_not_forgotten_so_that_its_exit_code_can_still_be_taken(monkeypatch):
    monkeypatch.setattr(_child, "KILLED_SECONDS", 0.05)
    other, stuck = Slow(0.0), Slow(None)
    end_all([other, stuck])
    assert other.forgotten
    assert not stuck.forgotten
    stuck._end()
    stuck.forget()

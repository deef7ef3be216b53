"""Processes that begin something heavy one after the other."""

import os
import signal
import socket
import time
import uuid

import pytest
import torch

from tests.pipeline.support import Plain, count_to
from torchdali.pipeline import _in_turn, _staff, _stage_worker
from torchdali.pipeline._in_turn import in_turn
from torchdali.pipeline._stage_worker import StageFunction

pytestmark = pytest.mark.timeout(30)  # well below the patience of those that are not to wait


@pytest.fixture
def name():
    return f"torchdali-test-{uuid.uuid4().hex}"


def child(work):
    """Its process id, and where to read what it tells."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work(lambda text: os.write(write, text.encode()))
        finally:
            os._exit(0)
    os.close(write)
    return pid, read


def test_the_next_one_comes_when_the_one_before_has_left(name):
    ready, go = os.pipe()

    def enter(tell):
        os.read(ready, 1)
        with in_turn(name):
            tell("in")

    pid, read = child(enter)  # before there is a turn that it could inherit
    with in_turn(name):
        os.write(go, b"!")
        time.sleep(0.1)
        os.set_blocking(read, False)
        with pytest.raises(BlockingIOError):
            os.read(read, 9)
        os.set_blocking(read, True)
    assert os.read(read, 9) == b"in"
    os.waitpid(pid, 0)
    for end in (read, ready, go):
        os.close(end)


def test_a_turn_ends_with_its_process_however_that_ends(name):
    def stay(tell):
        with in_turn(name):
            tell("in")
            time.sleep(60)

    pid, read = child(stay)
    assert os.read(read, 9) == b"in"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(read)
    with in_turn(name, patience=60):
        pass


def test_nobody_waits_longer_than_he_has_patience(name):
    with in_turn(name), in_turn(name, patience=0.05):
        pass


def test_others_take_no_turns_with_these(name):
    with in_turn(name), in_turn(f"{name}-other", patience=60):
        pass


def test_where_there_are_no_such_addresses_nobody_waits(name, monkeypatch):
    class Refusing(socket.socket):
        def bind(self, address):
            raise PermissionError(1, "not permitted")

    monkeypatch.setattr(_in_turn.socket, "socket", Refusing)
    with in_turn(name, patience=60):
        pass


def test_processes_of_a_stage_make_their_contexts_one_after_the_other(monkeypatch, tmp_path):
    parent, move, prepared = os.getpid(), StageFunction._move, []

    def slowly(self, device):
        if device.type == "cuda":
            prepared.append(device)
            with (tmp_path / "log").open("a", buffering=1) as log:
                log.write("begin\n")
                time.sleep(0.1)
                log.write("end\n")
        else:
            move(self, device)

    def there_is_a_gpu():
        return os.getpid() != parent and not prepared

    monkeypatch.setattr(_staff, "expected_device", lambda request: torch.device("cuda:0"))
    monkeypatch.setattr(_stage_worker, "warm_up_decoders", lambda module, device: None)
    monkeypatch.setattr(torch.cuda, "is_available", there_is_a_gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(there_is_a_gpu()))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(StageFunction, "_move", slowly)
    with Plain(count_to(60), batch_size=2, num_workers=1, device="cpu", placement="workers", gpu_workers=3) as pipeline:
        for _ in pipeline:
            time.sleep(0.02)
    assert (tmp_path / "log").read_text().split() == 3 * ["begin", "end"]

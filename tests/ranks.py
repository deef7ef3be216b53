"""Programs that run in two processes at once, for tests of training on several ranks."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["run_program"]

_SECONDS = 100
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def run_program(folder, text, *arguments, torchrun=True):
    """Run a program, which is told the folder and the arguments; it has to end well, and to leave no process.

    Else all its processes are asked to end before they are killed, so that what multiprocessing has in /dev/shm goes too.
    """
    program = folder / "program.py"
    program.write_text(text)
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    started = subprocess.Popen(
        [sys.executable, *(_TORCHRUN if torchrun else ()), str(program), str(folder), *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = started.communicate(timeout=_SECONDS)
        assert started.returncode == 0, output
        assert _are_gone(started.pid, folder), "processes are left"
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in _of(started.pid, folder):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            if _are_gone(started.pid, folder):
                break
        started.communicate()


def _of(session, folder):
    """Processes of the program: in its session, or in one of their own and told the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if os.getsid(process.pid) == session or str(folder) in (process.info["cmdline"] or ()):
                found.append(process)
        except ProcessLookupError:
            continue
    return found


def _are_gone(session, folder):
    deadline = time.monotonic() + 5
    while _of(session, folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True

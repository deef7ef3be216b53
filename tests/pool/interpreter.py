"""An interpreter that has imported torchdali, and runs scripts in forks of itself.

A script is the ``__main__`` of its process and ends as any program does, with the interpreter's own shutdown; only the
seconds are saved that imports take, and those of looking for garbage among what was imported.
"""

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple


class Ended(NamedTuple):
    code: int
    """Exit code, negative for the number of the signal that killed it."""
    out: str
    err: str


class Program:
    """A running script, in a session and process group of its own."""

    def __init__(self, interpreter: "Interpreter", pid: int, files: tuple[Path, Path]) -> None:
        self.pid = pid
        self._interpreter = interpreter
        self._out, self._err = files
        self._code: int | None = None

    def line(self, number: int = 0, seconds: float = 10) -> Any:
        """A line of the output, as JSON, as soon as it is there."""
        deadline = time.monotonic() + seconds
        while len(lines := self._out.read_text().split("\n")) < number + 2:
            if time.monotonic() > deadline or self.poll() is not None:
                raise AssertionError(f"line {number} did not come: {self._out.read_text()!r} {self._err.read_text()}")
            time.sleep(0.002)
        return json.loads(lines[number])

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._interpreter.ask(poll=self.pid)
        return self._code

    def wait(self, seconds: float = 20) -> Ended:
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"the script did not end: {self._out.read_text()!r} {self._err.read_text()}")
            time.sleep(0.002)
        return Ended(code, self._out.read_text(), self._err.read_text())

    def end(self) -> None:
        if self.poll() is None:
            self.signal(signal.SIGKILL)
            while self.poll() is None:
                time.sleep(0.002)


class Interpreter:
    """The client's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(self, source: str, folder: Path) -> Program:
        """Run a script; its files are in ``folder``."""
        number = len(list(folder.iterdir()))
        script, out, err = (folder / f"script{number}{suffix}" for suffix in (".py", ".out", ".err"))
        script.write_text(source)
        out.touch()
        err.touch()
        return Program(self, self.ask(script=str(script), out=str(out), err=str(err)), (out, err))

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def _serve() -> str | None:
    """Answer requests; returns a script's path in the process that is to run it."""
    answers = os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "script" in request:
            answer: int | None = os.fork()
            if answer == 0:
                os.setsid()
                os.dup2(null, 0)
                for number, name in ((1, "out"), (2, "err")):
                    file = os.open(request[name], os.O_WRONLY)
                    os.dup2(file, number)
                    os.close(file)
                os.close(answers)
                os.close(null)
                return str(request["script"])
        else:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        os.write(answers, (json.dumps(answer) + "\n").encode())
    return None


if __name__ == "__main__":
    import torchdali

    assert torchdali
    # To look for garbage among what was imported would take most of a second at the end of each script.
    gc.collect()
    gc.freeze()
    runpy.run_path(str(Path(__file__).parents[1] / "huge_pages.py"))["gather"]()
    script = _serve()
    if script is not None:
        sys.argv = [script]
        runpy.run_path(script, run_name="__main__")

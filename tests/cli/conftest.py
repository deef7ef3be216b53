import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import torchdali
from torchdali.cli import main


def own_environment(**changes: str) -> dict[str, str]:
    """For processes with another working directory: they import the torchdali that is tested, installed or not."""
    path = [str(Path(torchdali.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), **changes}


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Ended]


def run_process(*arguments: object, cwd: Path, **environment: str) -> Ended:
    """``python -m torchdali`` with these arguments."""
    process = subprocess.run(
        [sys.executable, "-m", "torchdali", *map(str, arguments)],
        cwd=cwd,
        env=own_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,  # a benchmark has many processes, and each of them imports torch
        check=False,
    )
    return Ended(process.returncode, process.stdout, process.stderr)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line, within this process; where another test may have initialised CUDA, in one of its own."""

    def run(*arguments: object, cwd: Path) -> Ended:
        if torch.cuda.device_count():
            return run_process(*arguments, cwd=cwd)
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        returncode = main([str(argument) for argument in arguments])
        return Ended(returncode, *capsys.readouterr())

    return run

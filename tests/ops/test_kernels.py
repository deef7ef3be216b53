"""Runs the tests of kernels.py and kernels_of_operators.py where they can be run: in Triton's interpreter, and on a GPU."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

TESTS = [str(Path(__file__).with_name(name)) for name in ("kernels.py", "kernels_of_operators.py")]


def run(path, **environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | environment, check=False
    )


def run_all(**environment):
    with ThreadPoolExecutor() as executor:
        for done in executor.map(partial(run, **environment), TESTS):
            print(done.stdout[-4000:])
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.timeout(300)
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled where there is a GPU")
def test_kernels_do_what_the_definitions_say_in_the_interpreter():
    run_all(TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.timeout(300)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_do_what_the_definitions_say_on_the_gpu():
    run_all()

"""Fixtures of the pool's tests: pools that are closed, programs that are ended."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.pool.interpreter import Interpreter, Program
from torchdali.pool import WorkerPool

MakePool = Callable[..., WorkerPool]
RunProgram = Callable[..., Program]


@pytest.fixture(scope="session", autouse=True)
def _frozen_imports() -> Iterator[None]:
    """What was imported is no garbage: the collection after each test need not look at it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    """Makes pools that are started, and closed after the test."""
    pools: list[WorkerPool] = []

    def make(*functions: Callable[[Any], Any], workers: int = 2, **options: Any) -> WorkerPool:
        pool = WorkerPool(functions, workers, **options)
        pools.append(pool)
        pool.start()
        return pool

    yield make
    for pool in pools:
        pool.close()
    pools.clear()  # pytest keeps the function, and with it what the pools' own functions hold


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    interpreter = Interpreter()
    yield interpreter
    interpreter.close()


@pytest.fixture
def program(interpreter: Interpreter, tmp_path: Path) -> Iterator[RunProgram]:
    """Starts scripts as programs of their own, and ends them after the test.

    The end of an interpreter that has imported torch takes its time; ``abrupt`` saves it where it does not matter.
    """
    programs: list[Program] = []

    def start(source: str, *, abrupt: bool = False) -> Program:
        end = "\nimport os\nos._exit(0)\n" if abrupt else ""
        programs.append(interpreter.start(dedent(source) + end, tmp_path))
        return programs[-1]

    yield start
    for running in programs:
        running.end()

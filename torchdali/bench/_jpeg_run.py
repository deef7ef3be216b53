"""Measurements of engines, each in a process of its own that is started afresh, by turns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

from torchdali.bench._jpeg_feeds import FeedPlan
from torchdali.bench._jpeg_memory import GpuMemory, child_environment
from torchdali.bench._jpeg_tree import end_session, tree_pids

__all__ = ["Failure", "Results", "Run", "Task", "run_by_turns"]

_START_SECONDS, _CPU_START_SECONDS = 150.0, 1800.0
"""Beyond the time of measuring: imports, CUDA, a compiler, the first batches, which take long on a CPU. What takes longer
hangs."""
_END_SECONDS = 10.0
"""For the engine to end its workers; what is left is killed."""
_MESSAGE_LINES = 12


@dataclass(frozen=True)
class Task:
    """What one process is to do."""

    module: str
    plan: FeedPlan
    ask: Mapping[str, Any]
    """What the process is told beside the plan."""
    seconds: float
    """About how long it measures."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For a progress bar."""
        plan = self.plan
        return f"{plan.job} {plan.batch_size}: {plan.engine}{f', {plan.variant}' if plan.variant else ''}"


@dataclass(frozen=True)
class Run:
    """What one process found."""

    engine: str
    variant: str
    job: str
    batch_size: int
    workers: int
    round: int
    images: int
    seconds: float
    cpu_seconds: float
    first_batch_seconds: float
    output: str
    versions: dict[str, str]
    gpu_bytes: int | None
    """Of the engine's processes, at the end of what is measured; None on the CPU."""
    waited_seconds: float | None
    stalled_seconds: float | None

    @property
    def images_per_second(self) -> float:
        """Throughput."""
        return self.images / self.seconds

    @property
    def cpu_seconds_per_1000(self) -> float:
        """Processor time for 1000 images."""
        return 1000 * self.cpu_seconds / self.images


@dataclass(frozen=True)
class Failure:
    """What could not be measured."""

    engine: str
    variant: str
    job: str
    batch_size: int
    message: str


@dataclass
class Results:
    """All that was found."""

    runs: list[Run] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Engines that are not installed, with what to do about it."""
    gpu_name: str | None = None
    gpu_memory_method: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Results:
        """Of what :func:`dataclasses.asdict` made."""
        return cls(
            [Run(**run) for run in data["runs"]],
            [Failure(**failure) for failure in data["failures"]],
            dict(data["missing"]),
            data["gpu_name"],
            data["gpu_memory_method"],
        )


Measured: TypeAlias = Callable[[Results], None]
"""Called with what there is after each measurement."""


def run_by_turns(
    tasks: Iterable[Task], rounds: int, device: str, step: Callable[[str], None], measured: Measured
) -> Results:
    """Carry out all tasks, and all of them again in each round.

    An engine that is missing is not asked again, nor is one that has failed for the same task: it took time enough.

    Raises:
        OSError: no more processes can be started.
    """
    tasks, results = list(tasks), Results()
    memory = GpuMemory(device) if device != "cpu" else None
    try:
        if memory is not None:
            results.gpu_name, results.gpu_memory_method = memory.device_name, memory.method
        failed: set[int] = set()
        for number in range(rounds):
            for index, task in enumerate(tasks):
                step(f"round {number + 1}, {task.title}")
                if index in failed or task.plan.engine in results.missing:
                    continue
                if not _run(task, number, memory, results):
                    failed.add(index)
                measured(results)
    finally:
        if memory is not None:
            memory.close()
    return results


def _run(task: Task, number: int, memory: GpuMemory | None, results: Results) -> bool:
    """Whether it could be measured."""
    plan = task.plan
    if memory is not None:
        memory.before()
    try:
        answer, gpu_bytes = _converse(task, memory)
    except _FailedError as error:
        results.failures.append(Failure(plan.engine, plan.variant, plan.job, plan.batch_size, str(error)))
        return False
    if "missing" in answer:
        results.missing[plan.engine] = answer["missing"]
        return False
    results.runs.append(
        Run(
            plan.engine,
            plan.variant,
            plan.job,
            plan.batch_size,
            plan.workers,
            number,
            gpu_bytes=gpu_bytes,
            **answer["found"],
        )
    )
    return True


class _FailedError(Exception):
    """A process said nothing of use; the text is the end of what it said."""


def _converse(task: Task, memory: GpuMemory | None) -> tuple[dict[str, Any], int | None]:
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", task.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=child_environment(task.environment),
            start_new_session=True,  # so that whatever it leaves behind can be found
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"plan": dataclasses.asdict(task.plan), **task.ask}) + "\n")
            process.stdin.flush()
            start = _CPU_START_SECONDS if task.plan.device == "cpu" else _START_SECONDS
            answer = _answer(process.stdout, task.seconds + start)
            if not answer:
                raise _FailedError(_end_of(errors))
            used = None if memory is None else memory.used(tree_pids(process.pid))
            process.stdin.close()
            process.wait(_END_SECONDS)
        except BrokenPipeError:
            raise _FailedError(_end_of(errors)) from None
        except subprocess.TimeoutExpired:
            pass  # it did what it was asked for
        finally:
            end_session(process.pid)
            process.stdout.close()
            process.wait()
            with contextlib.suppress(BrokenPipeError):  # what was not yet written is not wanted any more
                process.stdin.close()
    found: dict[str, Any] = json.loads(answer)
    return found, used


def _answer(stdout: IO[str], seconds: float) -> str:
    """The only line that comes; empty if the process ends without one.

    Raises:
        _FailedError: it takes too long.
    """
    if not select.select([stdout], [], [], seconds)[0]:
        raise _FailedError(f"no answer within {seconds:.0f} s")
    return stdout.readline()


def _end_of(errors: IO[str]) -> str:
    errors.seek(0)
    lines = errors.read().strip().splitlines()
    return "\n".join(lines[-_MESSAGE_LINES:]) or "it ended without a word"

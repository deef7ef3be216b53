"""Throughput: epochs of the engines by turns, so that what disturbs the machine disturbs both."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from torchdali.bench._engines import Engine
from torchdali.bench._process import cpu_seconds
from torchdali.bench._summary import Summary, ratios
from torchdali.bench._workloads import Batch, Order, Workload

__all__ = ["Throughput", "UnequalBatchesError", "WorkloadResult", "measure_throughput"]


class UnequalBatchesError(Exception):
    """The engines gave different batches: what they took is not comparable, and one of them has a bug."""


@dataclass(frozen=True)
class Throughput:
    """Of one engine."""

    samples_per_second: Summary
    megabytes_per_second: Summary
    """Of the samples' data, in 10^6 bytes."""
    cpu_seconds_per_gigabyte: Summary
    """Processor time of the parent and the workers for 10^9 bytes."""


@dataclass(frozen=True)
class WorkloadResult:
    """What both engines did with a workload."""

    name: str
    samples: int
    nbytes: int
    """Of all samples."""
    stock: Throughput
    torchdali: Throughput
    ratio: Summary
    """torchdali's samples per second by the stock loader's, round by round."""
    bar: float

    @property
    def reaches_bar(self) -> bool:
        """Whether the median ratio is as large as it is to be."""
        return self.ratio.median >= self.bar


def measure_throughput(
    workload: Workload,
    *,
    num_workers: int,
    batch_size: int,
    rounds: int,
    step: Callable[[str], None],
    engines: Sequence[type[Engine]],
) -> WorkloadResult:
    """One epoch of each engine that does not count, in which their batches are compared, then ``rounds`` that do.

    Args:
        workload: what to load.
        num_workers: of each engine.
        batch_size: samples in a batch.
        rounds: epochs of each engine.
        step: called before each epoch, with what comes.
        engines: the one that is compared with, and the one that is compared.

    Raises:
        UnequalBatchesError: the engines' batches differ.
    """
    samples = len(workload.samples)
    nbytes = sum(workload.samples.nbytes(index) for index in range(samples))
    readings: list[list[tuple[float, float]]] = [[] for _ in engines]
    with ExitStack() as stack:
        # The stock loader has threads in the parent once it runs: the other one forks first.
        running = [stack.enter_context(engine(workload, num_workers)) for engine in reversed(engines)][::-1]
        step(f"{workload.name}: warm-up")
        _compare(running, workload.order(batch_size, 0))
        for number in range(1, rounds + 1):
            order = workload.order(batch_size, number)
            for engine, of_engine in zip(running, readings, strict=True):
                step(f"{workload.name}: {engine.name}, round {number}")
                of_engine.append(_time_epoch(engine, order, samples))
    stock, torchdali = (_throughput(of_engine, samples, nbytes) for of_engine in readings)
    ratio = ratios(torchdali.samples_per_second, stock.samples_per_second)
    return WorkloadResult(workload.name, samples, nbytes, stock, torchdali, ratio, workload.bar)


def _time_epoch(engine: Engine, order: Order, samples: int) -> tuple[float, float]:
    """(seconds by the clock, seconds of processors)."""
    cpu = cpu_seconds(engine.pids)
    start = time.perf_counter()
    count = 0
    for batch in engine.epoch(order):
        count += len(batch)
    seconds = time.perf_counter() - start
    cpu = cpu_seconds(engine.pids) - cpu
    if count != samples:
        raise UnequalBatchesError(f"{engine.name} gave {count} samples of {samples}")
    return seconds, cpu


def _throughput(readings: Sequence[tuple[float, float]], samples: int, nbytes: int) -> Throughput:
    return Throughput(
        samples_per_second=Summary.of([samples / seconds for seconds, _ in readings]),
        megabytes_per_second=Summary.of([nbytes / 1e6 / seconds for seconds, _ in readings]),
        cpu_seconds_per_gigabyte=Summary.of([cpu / (nbytes / 1e9) for _, cpu in readings]),
    )


def _compare(engines: Sequence[Engine], order: Order) -> None:
    first, *others = engines
    for other in others:
        pairs = itertools.zip_longest(first.epoch(order), other.epoch(order))
        for number, (one, another) in enumerate(pairs):
            if not _equal(one, another):
                raise UnequalBatchesError(f"batch {number} of {other.name} is not that of {first.name}")


def _equal(one: Batch | None, another: Batch | None) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(another, torch.Tensor):
        return one.dtype == another.dtype and torch.equal(one, another)
    if isinstance(one, list) and isinstance(another, list):
        return len(one) == len(another) and all(map(_equal, one, another))
    return False

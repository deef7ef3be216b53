"""What an engine costs beside the samples: its start, the start of an epoch, descriptors and memory."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from torchdali.bench._engines import Engine
from torchdali.bench._process import count_descriptors, resident_bytes
from torchdali.bench._summary import Summary
from torchdali.bench._workloads import Batch, Order, Workload

__all__ = ["DESCRIPTORS_BAR", "KEPT_BATCHES", "RESTART_BAR", "Held", "Overheads", "measure_overheads"]

KEPT_BATCHES = 20
RESTART_BAR = 1.0
"""Milliseconds that torchdali may take at most to begin an epoch."""
DESCRIPTORS_BAR = 4
"""Descriptors that torchdali may take at most for batches that are kept."""

_PAGE = 4096


@dataclass(frozen=True)
class Held:
    """What the parent holds more than before the engine was made."""

    descriptors: int
    nbytes: int
    """Of memory, shared and private, that the parent has touched."""


@dataclass(frozen=True)
class Overheads:
    """Of one engine."""

    first_batch_ms: Summary
    """From nothing to a batch: the engine is made, its workers are forked, they load."""
    restart_ms: Summary
    """With workers that wait, from the wish for an epoch until one can wait for its first batch."""
    restart_to_batch_ms: Summary
    """The same until the first batch is there."""
    none_kept: Held
    """After an epoch of which nothing was kept."""
    kept: Held
    """With batches that are kept."""
    kept_batches: int
    """How many."""
    kept_bytes: int
    """The bytes of their samples."""


def measure_overheads(
    workload: Workload,
    *,
    num_workers: int,
    batch_size: int,
    rounds: int,
    step: Callable[[str], None],
    engines: Sequence[type[Engine]],
) -> list[Overheads]:
    """Measure each engine, by turns where it is times.

    Args:
        workload: what to load.
        num_workers: of each engine.
        batch_size: samples in a batch.
        rounds: how often each time is measured.
        step: called before each step, with what comes.
        engines: which.
    """
    order = workload.order(batch_size, 0)
    first_batches: list[list[float]] = [[] for _ in engines]
    restarts: list[list[tuple[float, float]]] = [[] for _ in engines]
    for number in range(rounds):
        for kind, of_engine in zip(engines, first_batches, strict=True):
            step(f"first batch: {kind.name}, round {number + 1}")
            of_engine.append(_first_batch(kind, workload, num_workers, order))
    with ExitStack() as stack:
        # As in measuring throughput: the stock loader has threads in the parent once it runs.
        running = [stack.enter_context(engine(workload, num_workers)) for engine in reversed(engines)][::-1]
        short = order[: 4 * num_workers]  # enough for the first batches to be asked for as in any epoch
        for engine in running:
            _exhaust(engine.epoch(short))
        for number in range(rounds):
            for engine, pairs in zip(running, restarts, strict=True):
                step(f"epoch restart: {engine.name}, round {number + 1}")
                pairs.append(_restart(engine, short))
    overheads = []
    for kind, starts, pairs in zip(engines, first_batches, restarts, strict=True):
        step(f"batches kept: {kind.name}")
        none_kept, kept = _held(kind, workload, num_workers, order)
        overheads.append(
            Overheads(
                Summary.of(starts),
                Summary.of([begun for begun, _ in pairs]),
                Summary.of([arrived for _, arrived in pairs]),
                none_kept,
                kept,
                len(order[:KEPT_BATCHES]),
                sum(workload.samples.nbytes(index) for batch in order[:KEPT_BATCHES] for index in batch),
            )
        )
    return overheads


def _milliseconds_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


def _first_batch(kind: type[Engine], workload: Workload, num_workers: int, order: Order) -> float:
    start = time.perf_counter()
    with kind(workload, num_workers) as engine:
        next(engine.epoch(order))
        return _milliseconds_since(start)


def _restart(engine: Engine, order: Order) -> tuple[float, float]:
    """Milliseconds until an epoch was begun, and until its first batch was there."""
    start = time.perf_counter()
    batches = engine.epoch(order)
    begun = _milliseconds_since(start)
    next(batches)
    arrived = _milliseconds_since(start)
    _exhaust(batches)
    return begun, arrived


def _exhaust(batches: Iterator[Batch]) -> None:
    for _ in batches:
        pass


def _held(kind: type[Engine], workload: Workload, num_workers: int, order: Order) -> tuple[Held, Held]:
    gc.collect()
    descriptors, nbytes = count_descriptors(), resident_bytes()

    def held() -> Held:
        return Held(count_descriptors() - descriptors, resident_bytes() - nbytes)

    with kind(workload, num_workers) as engine:
        for batch in engine.epoch(order):
            _touch(batch)
        del batch
        none_kept = held()
        batches = engine.epoch(order)
        kept = list(itertools.islice(batches, KEPT_BATCHES))
        for batch in kept:
            _touch(batch)
        return none_kept, held()


def _touch(batch: Batch) -> None:
    """Read a byte of each page: memory that is shared counts for a process only where it has touched it."""
    for sample in batch:
        int(sample.view(torch.uint8)[::_PAGE].sum())

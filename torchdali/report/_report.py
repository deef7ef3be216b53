"""A report: what was measured, as a table, a dictionary, a picture and a trace."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchdali._spans import Span
from torchdali.report._table import table_of

__all__ = ["QueueFill", "Report", "StageTime", "WorkerTime"]


@dataclass(frozen=True)
class StageTime:
    """One stage on a batch's way."""

    name: str
    """``"source callback"``, ``"file read"``, ``"collation"``, ``"transfer to shared memory"``, ``"decode"``, ``"augment"`` or
    ``"hand-over"``."""
    where: str
    """Who does it: ``"4 workers"``, ``"stage thread"``, ``"this thread"``, ``"2 stage workers"``."""
    seconds: float
    """That it took, summed over those who do it; on a GPU the time on the stage's stream."""
    waited: float
    """Seconds that the consumer waited for it."""
    rate: float
    """Images a second that those who do it would make if they did nothing else; infinite where it took no time."""


@dataclass(frozen=True)
class WorkerTime:
    """One worker of the sources."""

    index: int
    calls: int
    """That came back: samples of a pipeline, batches of a DataLoader."""
    busy_seconds: float


@dataclass(frozen=True)
class QueueFill:
    """Batches that were ready ahead of the consumer."""

    mean: float
    """Further ones that were ready when one was handed out."""
    depth: int
    """How many there may be."""


@dataclass(frozen=True)
class Report:
    """Where the time of one consumer went. ``str()`` is a table, with :attr:`sentence` below it.

    A consumer's second is either waited or spent between a batch and the call for the next one, its *step*. The first wait of
    each iteration is apart from both: in it workers start and queues fill.
    """

    name: str
    """Of the pipeline or loader."""
    epochs: int
    """Iterations of which at least one batch was taken."""
    batches: int
    images: int
    """Samples that were handed out."""
    start_seconds: float
    """Waits for the first batches of iterations."""
    wait_seconds: float
    """All other waits."""
    device_wait_seconds: float
    """Of these, in which not this process waited, but its CUDA stream for the stage's."""
    step_seconds: float
    """The consumer's own."""
    rate: float
    """Images a second, first batches left out; 0 before the second batch."""
    step_rate: float
    """Images a second that the consumer would take if it never waited; infinite where its step took no time."""
    stages: tuple[StageTime, ...]
    """In the order in which a batch passes through them."""
    operators: dict[str, float]
    """Seconds in each child of the stage, by name."""
    workers: tuple[WorkerTime, ...]
    """Of the sources."""
    idle_seconds: float
    """That the workers waited for something to do, summed over them."""
    processor_seconds: float
    """Processor time of the workers while they were busy, summed over them."""
    queue: QueueFill
    cpu_share: float
    """The part of the images that the sources' workers decoded, from 0 to 1."""
    skipped_images: int
    """That could not be decoded: skipped, replaced, or raised for."""
    deaths: int
    """Workers that died."""
    restarts: int
    """Workers that were started in their place."""
    growth: int
    """How often a segment was added to the shared memory of slots."""
    shared_bytes: int
    """In the segments now."""
    copied_bytes: int
    """Arrived by a copy, as no slot was free or it was too small."""
    bound: str
    """What bounds the consumer: the name of a stage, ``"step"``, or ``""`` where too little was measured."""
    workers_needed: int | None
    """Workers with which that stage would no longer be the slowest; None where more of them are no answer."""
    sentence: str
    """What bounds the consumer, and what to change."""
    spans: tuple[Span, ...] = field(default=(), repr=False, compare=False)
    """What happened when; empty without :func:`torchdali.profile`."""

    @property
    def wait_share(self) -> float:
        """The part of the consumer's time that was waited, from 0 to 1; first waits left out."""
        return self.wait_seconds / max(self.wait_seconds + self.step_seconds, 1e-12)

    def __str__(self) -> str:
        return table_of(self)

    def to_dict(self) -> dict[str, Any]:
        """All but the spans, in types of JSON; what is infinite is None."""
        fields = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.name != "spans"}
        plain: dict[str, Any] = _plain(fields)
        return {**plain, "wait_share": self.wait_share}

    def plot(self) -> Any:
        """A picture: how a second of the consumer is spent, and what each stage could make.

        Returns:
            A ``matplotlib.figure.Figure``, which shows itself as the last line of a notebook's cell.

        Raises:
            ImportError: there is no matplotlib; the extra ``notebooks`` brings it.
        """
        from torchdali.report._chart import draw

        return draw(self)

    def save_trace(self, path: str | os.PathLike[str]) -> Path:
        """Write a file for https://ui.perfetto.dev or chrome://tracing, with a track for each worker, stage and consumer.

        Args:
            path: of the file, JSON; it is overwritten.

        Raises:
            ValueError: nothing was recorded; only reports of :func:`torchdali.profile` have spans.
            OSError: the file cannot be written.
        """
        from torchdali.report._chrome import write_trace

        return write_trace(self.spans, path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    return None if isinstance(value, float) and value == float("inf") else value

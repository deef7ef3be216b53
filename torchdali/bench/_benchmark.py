"""A benchmark as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torchdali.bench._copy_rate import copy_rate
from torchdali.bench._engines import ENGINES
from torchdali.bench._measure import WorkloadResult, measure_throughput
from torchdali.bench._overheads import Overheads, measure_overheads
from torchdali.bench._process import many_descriptors
from torchdali.bench._summary import Summary
from torchdali.bench._workloads import IMAGES, WORKLOADS, Workload, images

__all__ = ["Report", "Progress", "Settings", "count_steps", "measure"]

Progress: TypeAlias = Callable[[str], None]
"""Called before each step of a benchmark with what comes."""

_OVERHEADS_WORKLOAD = "blobs"
"""The one in which each sample is a tensor of its own: the hardest on descriptors and memory."""
_THREADS = (1, 2)


@dataclass(frozen=True)
class Settings:
    """What is measured, and how thoroughly."""

    subject: str = "pool"
    """``"pool"`` or ``"loader"``: what of torchdali is compared."""
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    num_workers: int = 2
    batch_size: int = 64
    rounds: int = 5
    samples_scale: float = 1.0
    """Of the number of samples in an epoch; the samples stay as they are."""
    folder: str | None = None
    """Where images come from; None: the photographs that come along."""

    def workload(self, name: str) -> Workload:
        """One of the workloads, made."""
        if name == IMAGES:
            return images(self.samples_scale, self.folder)
        return WORKLOADS[name](self.samples_scale)


def count_steps(settings: Settings) -> int:
    """How many steps :func:`measure` has with these settings."""
    throughput = len(settings.workloads) * (1 + 2 * settings.rounds)
    starts = restarts = 2 * settings.rounds
    return throughput + starts + restarts + 2 + len(_THREADS)


@dataclass(frozen=True)
class Report:
    """All that :func:`measure` finds."""

    settings: Settings
    workloads: list[WorkloadResult]
    stock: Overheads
    torchdali: Overheads
    copy_rates: dict[int, Summary]
    """The machine's, in GB/s, by the number of threads that copy at once."""


def measure(settings: Settings, step: Progress) -> Report:
    """Compare :class:`torchdali.pool.WorkerPool` or :class:`torchdali.DataLoader` with ``torch.utils.data.DataLoader``.

    Args:
        settings: what and how.
        step: called before each step with what comes.

    Raises:
        UnequalBatchesError: the two gave different samples.
        FileNotFoundError: there are no images in the folder.
        OSError: there are no more processes or descriptors.
    """
    engines = ENGINES[settings.subject]
    with many_descriptors():
        workloads = [settings.workload(name) for name in settings.workloads]  # first, as one may not be there
        results = [
            measure_throughput(
                workload,
                num_workers=settings.num_workers,
                batch_size=settings.batch_size,
                rounds=settings.rounds,
                step=step,
                engines=engines,
            )
            for workload in workloads
        ]
        stock, torchdali = measure_overheads(
            settings.workload(_OVERHEADS_WORKLOAD),
            num_workers=settings.num_workers,
            batch_size=settings.batch_size,
            rounds=settings.rounds,
            step=step,
            engines=engines,
        )
    copy_rates = {}
    for threads in _THREADS:
        step(f"copy rate, threads: {threads}")
        copy_rates[threads] = copy_rate(threads)
    return Report(settings, results, stock, torchdali, copy_rates)

"""The benchmark of JPEG files to batches: torchdali, DALI and torch's DataLoader, all of them in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torchdali.bench._jpeg_feeds import JOBS
from torchdali.bench._jpeg_run import Measured, Results, Task, run_by_turns
from torchdali.bench._jpeg_variants import FeedSettings

__all__ = ["JpegSettings", "count_jpeg_steps", "measure_jpeg"]

_MODULE = "torchdali.bench._jpeg_child"


@dataclass(frozen=True)
class JpegSettings:
    """What is measured, and how thoroughly."""

    feeds: FeedSettings
    jobs: tuple[str, ...] = tuple(JOBS)
    batch_sizes: tuple[int, ...] = (64, 256)
    rounds: int = 3
    seconds: float = 5.0
    """Of each measurement, at least."""
    warmup: int = 10
    """Batches before, at least."""
    warmup_seconds: float = 2.0
    """How long they take at least: processes of an engine come up one after the other."""


def _tasks(settings: JpegSettings) -> list[Task]:
    feeds = settings.feeds
    return [
        Task(
            _MODULE,
            plan,
            {"seconds": settings.seconds, "warmup": settings.warmup, "warmup_seconds": settings.warmup_seconds},
            settings.seconds + settings.warmup_seconds,
            feeds.environment(plan.engine),
        )
        for job in settings.jobs
        for batch_size in settings.batch_sizes
        for plan in feeds.plans(job, batch_size)
    ]


def count_jpeg_steps(settings: JpegSettings) -> int:
    """How many steps :func:`measure_jpeg` has with these settings."""
    return settings.rounds * len(_tasks(settings))


def measure_jpeg(settings: JpegSettings, step: Callable[[str], None], measured: Measured) -> Results:
    """Compare engines that make batches of JPEG files; each measurement has a process of its own, the GPU to itself.

    Args:
        settings: what and how.
        step: called before each step with what comes.
        measured: called with what there is after each measurement.

    Raises:
        OSError: no more processes can be started, or CUDA cannot be used.
    """
    return run_by_turns(_tasks(settings), settings.rounds, settings.feeds.device, step, measured)

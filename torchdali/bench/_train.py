"""The benchmark of a training that engines feed, to see whether they keep up with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torchdali.bench._jpeg_feeds import TRAINING
from torchdali.bench._jpeg_run import Measured, Results, Task, run_by_turns
from torchdali.bench._jpeg_variants import FeedSettings

__all__ = ["COMPILE_MODES", "TrainSettings", "count_train_steps", "measure_train"]

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Of ``torch.compile``."""

_MODULE = "torchdali.bench._train_child"
_SECONDS_PER_STEP, _CPU_SECONDS_PER_STEP = 1.0, 120.0
"""More is not waited for, nor is it expected."""


@dataclass(frozen=True)
class TrainSettings:
    """What is trained, and how long."""

    feeds: FeedSettings
    model: str = "resnet18"
    """One of ``torchvision.models``."""
    batch_size: int = 256
    steps: int = 80
    warmup: int = 30
    """Steps before."""
    rounds: int = 1
    image_size: int = 224
    compile_mode: str | None = COMPILE_MODES[0]
    """One of :data:`COMPILE_MODES`; None trains without ``torch.compile``."""


def _tasks(settings: TrainSettings) -> list[Task]:
    feeds = settings.feeds
    plans = feeds.plans(
        TRAINING, settings.batch_size, only_best_of_torch=True, size=settings.image_size, channels_last=True
    )
    ask = {
        "model": settings.model,
        "steps": settings.steps,
        "warmup": settings.warmup,
        "compile_mode": settings.compile_mode,
    }
    seconds = (settings.steps + settings.warmup) * (
        _CPU_SECONDS_PER_STEP if feeds.device == "cpu" else _SECONDS_PER_STEP
    )
    return [Task(_MODULE, plan, ask, seconds, feeds.environment(plan.engine)) for plan in plans]


def count_train_steps(settings: TrainSettings) -> int:
    """How many steps :func:`measure_train` has with these settings."""
    return settings.rounds * len(_tasks(settings))


def measure_train(settings: TrainSettings, step: Callable[[str], None], measured: Measured) -> Results:
    """Train a network that is fed by one engine after the other, each time in a process of its own.

    Args:
        settings: what and how.
        step: called before each step with what comes.
        measured: called with what there is after each measurement.

    Raises:
        OSError: no more processes can be started, or CUDA cannot be used.
    """
    return run_by_turns(_tasks(settings), settings.rounds, settings.feeds.device, step, measured)

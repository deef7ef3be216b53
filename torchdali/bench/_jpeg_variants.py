"""Which ways of using an engine are measured; the best of them is what it is compared by."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchdali.bench._jpeg_feeds import TRAINING, FeedPlan

__all__ = ["CROPPED", "DECODED", "IN_MAIN", "FeedSettings"]

IN_MAIN = "bytes from workers"
"""Decoded by the main process, on the device."""
DECODED = "decoded in workers"
CROPPED = "decoded and cropped in workers"


@dataclass(frozen=True)
class FeedSettings:
    """The engines, and how they are set up."""

    data: str
    engines: tuple[str, ...]
    device: str
    workers: int
    """Of torchdali."""
    torch_workers: int
    dali_workers: tuple[int, ...]
    """Each is measured."""
    dali_path: str | None = None
    """A folder that has DALI; for its own processes alone."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of :class:`torchdali.Pipeline`, beyond the number of workers."""

    def plans(
        self, job: str, batch_size: int, *, only_best_of_torch: bool = False, **common: Any
    ) -> Iterator[FeedPlan]:
        """All variants of all engines."""

        def plan(engine: str, workers: int, variant: str = "", **more: Any) -> FeedPlan:
            return FeedPlan(engine, job, batch_size, self.data, self.device, workers, variant, **more, **common)

        for engine in self.engines:
            if engine == "torchdali":
                yield plan(engine, self.workers, options=dict(self.options))
            elif engine == "dali":
                for workers in self.dali_workers:
                    yield plan(engine, workers, f"{workers} worker{'s'[: workers != 1]}")
            elif engine == "torch":
                every = (IN_MAIN, DECODED, CROPPED) if job == TRAINING else (IN_MAIN, DECODED)
                for variant in (CROPPED,) if only_best_of_torch else every:
                    yield plan(engine, self.torch_workers, variant)
            else:
                yield plan(engine, 0)

    def environment(self, engine: str) -> dict[str, str]:
        """What the engine's process needs in its environment."""
        changes = {"PYTHONPATH": self.dali_path} if engine == "dali" and self.dali_path else {}
        if self.device == "cpu" and "OMP_WAIT_POLICY" not in os.environ:
            # Threads of OpenMP that wait by looking again and again keep workers from the processors, and the more of the
            # engines the fewer threads of their own these have.
            changes["OMP_WAIT_POLICY"] = "passive"
        return changes

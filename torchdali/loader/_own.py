"""What a loader has beyond torch's: in one attribute, so that a subclass of the user's may have any others."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset

from torchdali.loader._measure import Times
from torchdali.pool import OnWorkerDeath
from torchdali.report import Meter

if TYPE_CHECKING:
    from torchdali.loader._crew import Crew
    from torchdali.loader._resume import Resume
    from torchdali.loader._stage import Stage
    from torchdali.loader._state import Progress

__all__ = ["PUBLIC", "Own", "is_iterable"]

PUBLIC = ("on_worker_death", "memory_limit", "snapshot_every_n_steps", "pipeline", "device", "prefetch")
"""Arguments that are kept raw, under their own names, for whoever makes loaders again from the public attributes."""


def is_iterable(loader: Any) -> bool:
    """Whether a loader's dataset is iterated over, and not indexed."""
    return isinstance(loader.dataset, IterableDataset)


@dataclass
class Own:
    """Options, as they were given, and what changes."""

    on_worker_death: OnWorkerDeath
    memory_limit: int | None
    snapshot_every_n_steps: int
    pipeline: Any
    device: Any
    prefetch: int
    crew: Crew | None = None
    """Workers that were started and wait for an epoch."""
    stage: Stage | None = None
    resume: Resume | None = None
    """What the next epoch goes on with."""
    progress: Progress | None = None
    """Of the epoch that was begun last."""
    epochs: int = 0
    """How many were begun."""
    accelerated: bool = False
    """Whoever set it says that accelerate is to leave the loader as it is."""
    times: Times = field(default_factory=Times)
    meter: Meter | None = None
    """Of the consumer's waits, once somebody has iterated or asked."""

    def set_public(self, loader: Any) -> None:
        """Set the loader's attributes, except those that a subclass has set for itself and did not pass on."""
        defaults = {"on_worker_death": "raise", "snapshot_every_n_steps": 1, "prefetch": 2}
        for name in PUBLIC:
            value = getattr(self, name)
            if name not in vars(loader) or value is not defaults.get(name):
                vars(loader)[name] = value

    def for_another_process(self) -> Own:
        """Without what does not follow there."""
        return dataclasses.replace(self, crew=None, stage=None, resume=None, progress=None, meter=None, times=Times())

    def next_epoch(self) -> int:
        """The number of an epoch that is begun."""
        self.epochs += 1
        return self.epochs - 1

    def take_crew(self) -> Crew | None:
        """The workers that wait, once."""
        crew, self.crew = self.crew, None
        return crew

    def take_resume(self, loader: Any) -> Resume | None:
        """What there is to go on with, once: an epoch, or the workers of one that is over."""
        resume, self.resume = self.resume, None
        if resume is None:
            return None
        self.epochs = resume.state["epoch"] + (resume.begun or resume.finished)
        if not resume.begun:
            resume.restore_between_epochs(loader)
        return resume if resume.begun or resume.continues else None

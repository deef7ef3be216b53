"""A batch that was read, and what workers have been asked to add to it before its turn in the stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchdali.ops._foresight import Script
from torchdali.pipeline._early import Begun
from torchdali.pipeline._foresee import Foreseen
from torchdali.pipeline._share_out import Route
from torchdali.pool import Job
from torchdali.source import SourceBatch

__all__ = ["Held"]


@dataclass(eq=False)
class Held:
    """What the reader gave, and what workers are to add to it."""

    batch: SourceBatch | None = None
    error: BaseException | None = None
    """Instead; StopIteration is the end of the epoch."""
    warnings: tuple[tuple[str, type[Warning]], ...] = ()
    seen: bool = False
    """It was shared out, or there was nothing in it to share out."""
    job: Job | None = None
    route: Route | None = None
    positions: npt.NDArray[np.int64] | None = None
    begun: Sequence[Begun] | None = None
    """What an engine has begun with; None: not yet."""
    asked: tuple[Script, Job] | None = None
    """For what operators will do with it."""
    foreseen: Foreseen | None = None

    @property
    def waits(self) -> bool:
        """Whether workers are not done with its files."""
        return self.job is not None and not self.job.arrived

    @property
    def is_read(self) -> bool:
        """Whether a worker may look at its files."""
        return self.waits or (self.asked is not None and not self.asked[1].arrived)

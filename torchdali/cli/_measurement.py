"""Where the time of a pipeline's epochs went, from its counters before and after them."""

from __future__ import annotations

from dataclasses import dataclass

from torchdali.pipeline import PipelineStatistics

__all__ = ["Measurement"]

_DECODERS = "decoders_"
"""How the names of decoding operators begin in a pipeline; the others augment."""


@dataclass(frozen=True)
class Measurement:
    """Seconds, summed over the images of some epochs."""

    images: int
    total: float
    """From the first batch being asked for to the last one being ready, the epochs together."""
    decode: float
    augment: float
    waiting: float
    """For workers."""
    source: float
    """In the source's code, summed over the workers, who work beside the rest."""

    @classmethod
    def between(cls, before: PipelineStatistics, after: PipelineStatistics, seconds: float) -> Measurement:
        """What lies between two readings of a pipeline's counters, which took ``seconds``."""
        stages = {name: value - before.stage_seconds.get(name, 0.0) for name, value in after.stage_seconds.items()}
        decode = sum(value for name, value in stages.items() if name.startswith(_DECODERS))
        return cls(
            images=after.samples - before.samples,
            total=seconds,
            decode=decode,
            augment=sum(stages.values()) - decode,
            waiting=after.wait_seconds - before.wait_seconds,
            source=after.source_seconds - before.source_seconds,
        )

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.total if self.total > 0 else 0.0

    @property
    def rest(self) -> float:
        """Seconds that none of the parts accounts for; on a GPU parts can overlap, then none."""
        return max(0.0, self.total - self.decode - self.augment - self.waiting)

    def milliseconds(self, seconds: float) -> float:
        """A part's time for one image."""
        return 1000 * seconds / self.images if self.images else 0.0

    def share(self, seconds: float) -> float:
        """A part's share of the total, from 0 to 1."""
        return seconds / self.total if self.total > 0 else 0.0

"""The numbers that a report is made of: counters that only grow, and what does not change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torchdali.pool import PoolStatistics

__all__ = ["Causes", "Counts", "Facts"]


STARVED_SHARE = 0.05
"""Who waited for input for more than this part of the time that a batch took is bounded by who makes the input."""


class Causes(NamedTuple):
    """What the wait for a batch was for; seconds, which together are the wait."""

    workers: float = 0.0
    """The sources' workers."""
    stage: float = 0.0
    """What comes after them: the stage, and what it needs for a batch before and after."""
    hand_over: float = 0.0
    """The batch was there."""

    @classmethod
    def of(cls, waited: float, starved: float, busy: float) -> Causes:
        """What a wait was for.

        Args:
            waited: the wait.
            starved: for so long there was no input to make the batch of.
            busy: for so long it was made, beside.
        """
        if starved > STARVED_SHARE * (starved + busy):
            return cls(workers=waited)
        return cls(stage=waited)


@dataclass
class Counts:
    """Of one pipeline or loader, since it was made; times in seconds."""

    epochs: int = 0
    batches: int = 0
    samples: int = 0
    first_samples: int = 0
    """Of these, in batches that were the first of an iteration."""
    start: float = 0.0
    """Waits for those."""
    wait: float = 0.0
    """Of the consumer for all others."""
    step: float = 0.0
    """Of the consumer, between a batch and the call for the next."""
    device_wait: float = 0.0
    """Of ``wait``: the consumer's CUDA stream for the stage's."""
    for_workers: float = 0.0
    """``wait`` by cause, as of :class:`Causes`."""
    for_stage: float = 0.0
    for_hand_over: float = 0.0
    ready: int = 0
    """Further batches that were ready when one was handed out, summed."""
    sources: PoolStatistics = field(default_factory=PoolStatistics)
    """Of the sources' workers."""
    stage_pool: PoolStatistics = field(default_factory=PoolStatistics)
    """Of the stage's workers, where it has them."""
    source: float = 0.0
    """Calling sources or the dataset in this process."""
    read: float = 0.0
    """Of that: reading files, in the library's own sources."""
    collate: float = 0.0
    """Of that: putting samples together."""
    decode: float = 0.0
    """In the stage's decoding operators, summed over its processes."""
    stage: float = 0.0
    """In all of the stage, decoding included."""
    hand_over: float = 0.0
    """Taking in what workers wrote, and bringing batches from stage workers."""
    operators: dict[str, float] = field(default_factory=dict)
    """In each child of the stage."""
    images: int = 0
    """Handed to decoding operators."""
    bad_images: int = 0
    given_images: int = 0
    """Of ``images``: the sources' workers had decoded them."""

    def since(self, before: Counts) -> Counts:
        """What has come since."""
        result = Counts()
        for name, value in vars(self).items():
            earlier: Any = getattr(before, name)
            if isinstance(value, PoolStatistics):
                setattr(result, name, value.plus(earlier, -1))
            elif isinstance(value, dict):
                setattr(result, name, {key: part - earlier.get(key, 0.0) for key, part in value.items()})
            else:
                setattr(result, name, value - earlier)
        return result


class Facts(NamedTuple):
    """What does not change while one is in use."""

    name: str
    kind: str
    """``"Pipeline"`` or ``"DataLoader"``: it decides how arguments are called."""
    workers: int
    """Of the sources; 0: they are called in this process."""
    stage_workers: int
    """Processes of the stage; 0: it runs in this one."""
    stage_where: str
    """Which thread of this process does what follows the workers, for people."""
    depth: int
    """Batches that may be ready ahead of the consumer."""
    samples_a_call: float
    """Samples that a call in a worker makes; 0: it is not known, and what was delivered counts."""
    source_functions: int
    """The pool's first so many functions are sources; others decode."""
    device: str
    """Type of the stage's device."""
    threads: int = 1
    """Of the processor, for the stage's operators."""
    own_worker: bool = False
    """The source is an iterable, which one worker has for itself."""

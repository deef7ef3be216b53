"""What a pool learns of its functions: how long a call takes, how large a result is, and what structure results have."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass

from torchdali.pool._codec import ALIGNMENT
from torchdali.pool._job import Job, Run
from torchdali.pool._structure import Structure

__all__ = ["Sizing"]

RUN_SECONDS = 0.002
"""Work in one run, as far as it can be foreseen: the cost of a message does not matter then, and waiting does not either."""

_WORKER_SECONDS = 0.001
"""And for each worker so much, if that is more: the messages of all of them are read by one process."""

_FADE = 64
"""The estimate of a result's size falls by this part with each run that needs less."""

_LEAST = 128 * 1024
"""It does not fall below this, or what it was at first if that was less."""

_HEADROOM = 2
"""A slot is this many times as large as results have been so far; memory that is not written to costs nothing."""


@dataclass
class _Known:
    """What is known of one function."""

    capacity: int
    seconds: float | None = None
    structure: Structure | None = None
    packed: bytes | None = None


class Sizing:
    """Estimates for each of ``functions`` functions.

    Args:
        functions: how many.
        capacity: bytes that a result is expected to need at first.
    """

    def __init__(self, functions: int, capacity: int) -> None:
        self._smallest = min(capacity, _LEAST)
        self._known = [_Known(capacity) for _ in range(functions)]

    def structure(self, function: int) -> Structure | None:
        """What a function's results are expected to have, if they agree."""
        return self._known[function].structure

    def packed(self, function: int) -> bytes | None:
        """Its nesting, pickled."""
        return self._known[function].packed

    def bytes_of(self, function: int, items: int, structure: Structure | None) -> int:
        """What to set aside for a job."""
        if structure is not None:
            return structure.offsets(items, ALIGNMENT)[1]
        # In steps of an eighth to a quarter: slots of one size lie in the same places again, whose memory is there already.
        capacity = self._known[function].capacity
        step = max(ALIGNMENT, 1 << max(0, capacity.bit_length() - 3))
        return -(-capacity // step) * step * items

    def split(self, function: int, items: int, workers: int) -> list[Run]:
        """A job's items in runs."""
        share = -(-items // max(1, workers))
        seconds = self._known[function].seconds
        wanted = max(RUN_SECONDS, _WORKER_SECONDS * workers)
        length = -(-share // 4) if seconds is None else int(wanted / max(seconds, 1e-9))
        length = max(1, min(length, share))
        return [Run(first, min(length, items - first)) for first in range(0, items, length)]

    def note(self, function: int, items: int, seconds: float, size: int | None) -> None:
        """Take in how long a run took, and the bytes that it needed if it was described."""
        known = self._known[function]
        if size is not None:
            # Follows at once what grows, and slowly what shrinks: one large result shall not cost room for ever.
            needed = _HEADROOM * math.ceil(size / items)
            # What was expected before the first result was a guess, and may have been a generous one.
            fallen = 0 if known.seconds is None else known.capacity - known.capacity // _FADE
            known.capacity = max(needed, self._smallest, fallen)
        each = seconds / items
        known.seconds = each if known.seconds is None else 0.9 * known.seconds + 0.1 * each

    def learn(self, job: Job) -> None:
        """Take in the structure of a complete job's results."""
        known = self._known[job.function]
        if job.structure is not None:
            if any(part.described != [] for part in job.parts.values()) and known.structure is job.structure:
                known.structure = known.packed = None
            return
        packed = {part.structure for part in job.parts.values()}
        data = packed.pop() if len(packed) == 1 else None
        if data is None:
            return
        if data != known.packed:
            try:
                known.structure, known.packed = Structure(pickle.loads(data)), data
            except Exception:  # a class of the user's that cannot be loaded here
                return
        job.agreed = known.structure

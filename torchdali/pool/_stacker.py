"""Writing a run's results into the blocks of its job, in a worker."""

from __future__ import annotations

from typing import Any

from torchdali.pool._codec import ALIGNMENT
from torchdali.pool._structure import NotStackable, Structure, flatten

__all__ = ["Stacker", "structure_of"]

GROUP_BYTES = 256 * 1024
"""Results are written when so many bytes have come together: many small ones at once, large ones while still in the cache."""


def structure_of(values: list[Any]) -> Structure | None:
    """The structure that all values have, if there is one."""
    first: Any = None
    for number, value in enumerate(values):
        try:
            nesting = flatten(value, [])
        except (NotStackable, RecursionError):
            return None
        if number == 0:
            first = nesting
        elif nesting != first:
            return None
    return Structure(first) if values else None


class Stacker:
    """Takes the results of one run after another that are expected to have one structure."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._group = max(1, GROUP_BYTES // max(1, sum(leaf.nbytes for leaf in structure.leaves)))

    def begin(self, memory: memoryview, offset: int, first: int, total: int) -> None:
        """Begin a run whose first item is number ``first`` of ``total``; the blocks begin at ``offset``."""
        starts, _ = self._structure.offsets(total, ALIGNMENT)
        self._memory = memory
        self._offsets = [offset + start for start in starts]
        self._next = first
        self._position = 0
        self._waiting: list[list[Any]] = []
        self.missing: list[int] = []
        """Positions in the run of what did not fit the structure."""

    def add(self, value: Any) -> Any:
        """Take the next result. One of another structure is returned, to be delivered in another way."""
        leaves = self._structure.match(value)
        if leaves is None:
            return self.skip(value)
        self._waiting.append(leaves)
        self._position += 1
        if len(self._waiting) >= self._group:
            self.flush()
        return None

    def skip(self, value: Any) -> Any:
        """Pass over the place of the next result."""
        self.flush()
        self.missing.append(self._position)
        self._position += 1
        self._next += 1
        return value

    def flush(self) -> None:
        """Write what was taken."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._structure.write(self._memory, self._offsets, self._next, waiting)
            self._next += len(waiting)

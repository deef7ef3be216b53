"""What parent and workers tell each other, beside the bytes in shared memory.

Task, parent to a worker: call function number ``function`` for each of ``items`` and put the results into shared memory at
``offset``, where ``capacity`` bytes are set aside. With a ``structure``, results that have it go to their places in the
blocks that begin at ``offset``, see ``_structure``; the others are described.

Result, worker to parent: the run of task ``serial`` is done. What is described has a pickle without its large pieces, and
where those lie: from the task's offset, or in a memory file that is sent along where they did not fit. A long list of
descriptions lies behind the pieces, where ``descriptions`` says how long it is. Results that are nested alike are not
described each, but all of them by one table, see ``_ragged``.
"""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

__all__ = ["Result", "Spent", "Task"]


class Task(NamedTuple):
    """A run of calls for one worker."""

    serial: int
    function: int
    offset: int
    """Of the bytes set aside for the run; with a structure, of those for the whole job."""
    capacity: int
    size: int
    """Number of items."""
    items: bytes
    """A pickled list: loaded only once the task is claimed, since that runs the user's code."""
    stack: bool = False
    """Tell what structure the results have, if they have one."""
    structure: bytes | None = None
    """The pickled nesting of a :class:`~torchdali.pool._structure.Structure` that results are expected to have."""
    first: int = 0
    """Position of the first item in the job, and the number of items in it: they tell the places in the blocks."""
    total: int = 0

    def pack(self) -> bytes:
        """As a payload."""
        return pickle.dumps(tuple(self), protocol=5)

    @classmethod
    def unpack(cls, payload: bytes) -> Task:
        """From a payload."""
        return cls(*pickle.loads(payload))


class Spent(NamedTuple):
    """Where the time of a run went; in seconds."""

    begun: float = 0.0
    """When, by ``time.perf_counter``: a clock that all processes share."""
    writing: float = 0.0
    """Writing results to shared memory, pickling included; that of the last item, times their number."""
    reading: float = 0.0
    """Reading files in the library's own sources."""
    collating: float = 0.0
    """Putting samples together to a batch."""
    processor: float = 0.0
    """Of a processor's time, in all threads of the worker."""
    empty: int = 0
    """Calls that only found the epoch at its end."""


class Result(NamedTuple):
    """What became of a task."""

    serial: int
    worker: int
    seconds: float
    """Spent on the run: in the user's function, and writing what it returned."""
    idle: float
    """Seconds that the worker waited for this task."""
    size: int
    """Bytes written for what is described, alignment included."""
    descriptions: bytes | tuple[int, int]
    """A pickled list of (description, spans of its pieces), or (offset, length) of where that lies.

    With ``ragged`` the pickle is an outline, a table and what is small, see :class:`~torchdali.pool._ragged.Outline`."""
    described: list[int] | None = None
    """Positions in the run of what is described; None: all."""
    structure: bytes | None = None
    """The pickled nesting that all results have, if it was asked for and there is one."""
    ragged: bool = False
    spent: tuple[Any, ...] = ()
    """A :class:`Spent`, as a plain tuple, whose pickle is shorter."""

    def pack(self) -> bytes:
        """As a payload."""
        return pickle.dumps(tuple(self), protocol=5)

    @classmethod
    def unpack(cls, payload: bytes) -> Result:
        """From a payload."""
        return cls(*pickle.loads(payload))

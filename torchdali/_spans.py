"""What happened when: spans of time for whoever looks on, and what a thread has read, collated and been asked for in vain.

All of the library may import this. Nothing is recorded before :func:`begin_recording`: until then each place where something
could be noted looks at one attribute of this module and goes on. Times are those of ``time.perf_counter``, which on Linux is one
clock for all processes.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch.autograd import profiler

__all__ = ["Recorder", "Span", "Tally", "begin_recording", "end_recording", "labelled", "recorder", "tally"]

MOST_SPANS = 500_000
"""The oldest are dropped beyond these: about 100 MB."""


class Span(NamedTuple):
    """Something that took its time."""

    owner: str
    """What it belongs to: a pipeline, a loader, or a pool of theirs."""
    track: str
    """Who did it: "consumer", "stage", "worker 3"."""
    name: str
    begin: float
    end: float
    detail: dict[str, Any]


class Recorder:
    """Collects spans, from any thread."""

    def __init__(self) -> None:
        self.spans: deque[Span] = deque(maxlen=MOST_SPANS)
        self.seen: dict[int, Any] = {}
        """What gave batches meanwhile, by identity: held, so that there is somebody to ask in the end."""

    def add(self, owner: str, track: str, name: str, begin: float, end: float, **detail: Any) -> None:
        """Note a span."""
        self.spans.append(Span(owner, track, name, begin, end, detail))


recorder: Recorder | None = None
"""The one at work; None: nobody looks on."""


def begin_recording() -> Recorder:
    """Record from here on.

    Raises:
        RuntimeError: that is being done already.
    """
    global recorder  # noqa: PLW0603  one for the process
    if recorder is not None:
        raise RuntimeError(
            "torchdali.profile() is at work already, and there is one at a time: end the outer `with` before this one begins"
        )
    recorder = Recorder()
    return recorder


def end_recording() -> None:
    """Record no more."""
    global recorder  # noqa: PLW0603  one for the process
    recorder = None


class Tally(threading.local):
    """What this thread has spent in parts of a call that are not the user's; seconds, since the thread began."""

    read = 0.0
    """Reading files, in sources of the library."""
    collated = 0.0
    """Putting samples together to a batch."""
    empty = 0
    """Calls that only found the epoch at its end."""


tally = Tally()

_NOTHING: AbstractContextManager[Any] = contextlib.nullcontext()


def labelled(name: str) -> AbstractContextManager[Any]:
    """Context that ``torch.profiler`` shows as a range ``torchdali: name``; nothing where none is at work."""
    return profiler.record_function(f"torchdali: {name}") if profiler._is_profiler_enabled else _NOTHING

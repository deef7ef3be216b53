"""Warnings of the library that are to be shown where the user's code waits, not where the trouble was noticed.

``warnings`` has one state for the whole process: what a thread warns of would point at a line of the thread's, and be missed
by whoever catches warnings around the call that gets the result. So a thread that works for somebody collects them, and
they are raised again where the result is handed out.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

__all__ = ["collected_warnings", "warn"]

Collected = list[tuple[str, type[Warning]]]

_collector: ContextVar[Collected | None] = ContextVar("torchdali_warnings", default=None)


def warn(text: str, category: type[Warning] = UserWarning, *, stacklevel: int = 1) -> None:
    """As ``warnings.warn``, but only noted within :func:`collected_warnings`."""
    collector = _collector.get()
    if collector is None:
        warnings.warn(text, category, stacklevel=stacklevel + 1)
    else:
        collector.append((text, category))


@contextlib.contextmanager
def collected_warnings() -> Iterator[Collected]:
    """Context, of this thread, in which warnings are put into a list instead."""
    collected: Collected = []
    token = _collector.set(collected)
    try:
        yield collected
    finally:
        _collector.reset(token)

"""What must not be in the middle of something while this process is forked."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["logging_at_rest"]

PATIENCE_SECONDS = 0.5
"""How long another thread may take to write its message."""


@contextlib.contextmanager
def logging_at_rest() -> Iterator[None]:
    """No other thread writes a log message meanwhile.

    Python makes the locks of logging's handlers anew in a forked child, but not those of the files that they write to: one
    that another thread held at that moment would be held for ever, and the child's first message wait for it.
    """
    with contextlib.ExitStack() as stack:
        for reference in list(getattr(logging, "_handlerList", [])):
            handler = reference()
            lock = getattr(handler, "lock", None)
            if lock is not None and lock.acquire(timeout=PATIENCE_SECONDS):
                stack.callback(lock.release)
        yield

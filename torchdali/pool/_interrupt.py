"""Holding back Ctrl-C where a message would be lost between two lines."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType

__all__ = ["deferred_interrupt"]


class deferred_interrupt:
    """Context in which SIGINT is noted, and acted on at its end.

    For stretches that do not wait, or not long. Only the main thread ever sees KeyboardInterrupt; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._previous: object = None
        self._noted: int | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGINT)
            if callable(previous):
                signal.signal(signal.SIGINT, self._note)
                self._previous = previous

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number  # the frame is not kept: it would keep alive whatever it works on

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        previous = self._previous
        if callable(previous):
            signal.signal(signal.SIGINT, previous)
            if self._noted is not None:
                previous(self._noted, sys._getframe())

"""Holding back Ctrl-C where a message would be lost between two lines."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["deferred_interrupt"]


# What the module `signal` is made of: without its enumerations, which cost 20 us a call for a handler that is a function.
_signal: Any = importlib.import_module("_signal") if "_signal" in sys.builtin_module_names else signal


class deferred_interrupt:
    """Context in which SIGINT is noted, and acted on at its end.

    For stretches that do not wait, or not long. Only the main thread ever sees KeyboardInterrupt; elsewhere, and within
    another such context, this does nothing.
    """

    def __init__(self) -> None:
        self._previous: object = None
        self._noted: int | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            previous = _signal.getsignal(signal.SIGINT)
            if callable(previous) and getattr(previous, "__func__", None) is not deferred_interrupt._note:
                _signal.signal(signal.SIGINT, self._note)
                self._previous = previous

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number  # the frame is not kept: it would keep alive whatever it works on

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        previous = self._previous
        if callable(previous):
            _signal.signal(signal.SIGINT, previous)
            if self._noted is not None:
                previous(self._noted, sys._getframe())

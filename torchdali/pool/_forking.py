"""What must not be in the middle of something while this process is forked, and what is made anew in the child."""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["has_locks", "logging_at_rest"]

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


_holders: weakref.WeakKeyDictionary[Any, dict[str, Callable[[], Any]]] = weakref.WeakKeyDictionary()


def has_locks(holder: object, **makers: Callable[[], Any]) -> None:
    """Give an object locks, by the names of its attributes, and new ones in each process that is forked from this one.

    The user may fork at any time. What another thread held then would be held in the child for ever, where that thread is not.
    """
    _holders[holder] = makers
    _make(holder, makers)


def _make(holder: object, makers: dict[str, Callable[[], Any]]) -> None:
    for name, make in makers.items():
        setattr(holder, name, make())


def _after_fork_in_child() -> None:
    for holder, makers in list(_holders.items()):
        _make(holder, makers)


os.register_at_fork(after_in_child=_after_fork_in_child)

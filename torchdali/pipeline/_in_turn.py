"""Processes do something one after the other.

A driver makes one context on a GPU after the other, it seems: of processes that begin at the same time all are done late. Of
those that take turns the first should be done soon. A turn is an address that only one socket can have; it is free again when
its process ends, however that happens, and leaves nothing behind.

Source: unix(7), "abstract".
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Iterator

__all__ = ["in_turn"]

_PAUSE = 0.005


@contextlib.contextmanager
def in_turn(name: str, patience: float = 10.0) -> Iterator[None]:
    """Be the only process that is here; after a while, or where there are no such addresses, another may be too.

    Args:
        name: of what takes turns, the same in all of these processes and in no others.
        patience: how long to wait for the turn at most, in seconds.
    """
    deadline = time.monotonic() + patience
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as turn:
        while time.monotonic() < deadline:
            try:
                turn.bind(f"\0{name}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    break
                time.sleep(_PAUSE)
            else:
                break
        yield

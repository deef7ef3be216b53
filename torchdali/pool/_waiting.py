"""How the parent waits: for results and for deaths together, and never without saying why."""

from __future__ import annotations

import select
import time
import warnings
from collections.abc import Callable

from torchdali.pool._dispatch import Dispatch
from torchdali.pool._interrupt import deferred_interrupt
from torchdali.pool._recovery import CHECK_SECONDS, Recovery
from torchdali.pool._workforce import Workforce

__all__ = ["wait_until"]

ROOM_SECONDS = 0.01
"""How long the parent waits at most before it tries again to send what the channel had no room for."""

SILENT_SECONDS = 60.0
"""After so long a wait it is said what is being waited for."""

Parts = tuple[Workforce, Dispatch, Recovery]


def wait_until(
    done: Callable[[], bool],
    parts: Callable[[], Parts],
    whom: Callable[[Recovery], str],
    *,
    name: str,
    timeout: float | None,
    stacklevel: int,
) -> float:
    """Wait until ``done`` says so, dealing with what happens meanwhile; returns for how many seconds.

    Args:
        done: asked after each thing that happens.
        parts: of the pool; asked each time, and raises once the pool is closed.
        whom: says what is being waited for.
        name: of the pool.
        timeout: seconds to wait at most; None: as long as it takes.
        stacklevel: as of ``warnings.warn``, for whoever called this.

    Raises:
        TimeoutError: it was not done in time.
    """
    start = time.perf_counter()
    told = False
    while not done():
        waited = time.perf_counter() - start
        _wait_once(parts(), CHECK_SECONDS if timeout is None else timeout - waited)
        if done():
            break
        if timeout is not None and waited >= timeout:
            raise TimeoutError(f"waited for {waited:.1f} s; {whom(parts()[2])}")
        if waited > SILENT_SECONDS and not told:
            told = True
            warnings.warn(f"{name} has waited for {waited:.0f} s; {whom(parts()[2])}", stacklevel=stacklevel + 1)
    return time.perf_counter() - start


def _wait_once(parts: Parts, seconds: float) -> None:
    """Wait for something to happen, and deal with it. The only place where the parent waits."""
    workforce, dispatch, recovery = parts
    results = workforce.results_out.fileno()
    poll = select.poll()
    poll.register(results, select.POLLIN)
    for child in workforce.workers.values():
        poll.register(child.sentinel, select.POLLIN)
    # Room for more tasks comes as workers take some, and then results come.
    seconds = min(seconds, ROOM_SECONDS if dispatch.waits_for_room else CHECK_SECONDS)
    ready = {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)}
    with deferred_interrupt():
        dispatch.send(held=True)  # somebody waits
        dispatch.receive()
        recovery.check_stopped()
        if not ready or ready - {results}:
            recovery.bury()

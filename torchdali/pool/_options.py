"""A pool's options, checked, and the way in which its workers are started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torchdali.pool._zygote import living_zygote, start_zygote

__all__ = ["DEFAULT_BYTES_PER_ITEM", "OnWorkerDeath", "Options", "choose_method"]

OnWorkerDeath = Literal["raise", "restart"]

DEFAULT_BYTES_PER_ITEM = 128 * 1024
"""What a result is expected to need before anything is known."""

_METHODS = ("fork", "zygote", "spawn", "forkserver")


@dataclass(frozen=True)
class Options:
    """Arguments of :class:`~torchdali.pool.WorkerPool` that can be wrong."""

    num_workers: int
    bytes_per_item: int
    start_method: Any
    dedicated: int
    on_worker_death: OnWorkerDeath
    tries: int
    stopped_seconds: float

    def check(self) -> None:
        """Raise ValueError for what is out of its range."""
        if self.num_workers < 1:
            raise ValueError(f"num_workers is {self.num_workers}; a pool needs at least 1 worker")
        if self.bytes_per_item < 1:
            raise ValueError(f"bytes_per_item is {self.bytes_per_item}; it must be at least 1")
        if isinstance(self.start_method, str):
            if self.start_method not in _METHODS:
                raise ValueError(f"start_method is {self.start_method!r}; it is one of {', '.join(_METHODS)}")
        elif not hasattr(self.start_method, "Process"):
            raise ValueError(f"start_method is {self.start_method!r}; it is a name or a context of multiprocessing")
        if not 0 <= self.dedicated <= self.num_workers:
            raise ValueError(f"dedicated is {self.dedicated}; it is from 0 to the {self.num_workers} workers")
        if self.on_worker_death not in ("raise", "restart"):
            raise ValueError(f'on_worker_death is {self.on_worker_death!r}; it is "raise" or "restart"')
        if self.tries < 1:
            raise ValueError(f"tries is {self.tries}; an item is tried at least once")
        if not self.stopped_seconds > 0:
            raise ValueError(f"stopped_seconds is {self.stopped_seconds}; it must be more than 0")


def choose_method(method: Any, before_fork: Callable[[], None] | None) -> tuple[Any, Exception | None]:
    """How workers are to be started now, and what forbids the way that was asked for, if something does.

    Raises:
        Exception: what ``before_fork`` raised, where this process would have to be forked and there is no zygote.
    """
    if method not in ("fork", "zygote"):
        return method, None
    if before_fork is None:
        return method, None
    try:
        before_fork()
    except Exception as error:
        if living_zygote() is None:
            raise
        return "zygote", error.with_traceback(None)  # which would keep alive whoever asks
    start_zygote()  # while this process may be forked
    return method, None

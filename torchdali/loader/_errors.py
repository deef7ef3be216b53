"""What went wrong in a worker, in the words of torch's DataLoader, with the sample added."""

from __future__ import annotations

import signal
import warnings
from typing import Any, NoReturn

from torch._utils import ExceptionWrapper

from torchdali.errors import WorkerDiedError, WorkerError, WorkerTraceback
from torchdali.loader._fetch import note

__all__ = ["raise_as_stock", "timed_out", "warn_of_stop"]


def raise_as_stock(error: BaseException, worker: int) -> NoReturn:
    """Raise what a worker raised: of its type, with torch's text and the worker's traceback in it.

    The exception as it was in the worker, attributes and all, is the ``__cause__``.

    Args:
        error: what the pool gave in the place of a batch.
        worker: index of the worker.
    """
    if isinstance(error, WorkerDiedError):
        raise _died(error) from None
    trace = error.__cause__
    if isinstance(error, WorkerError) or not isinstance(trace, WorkerTraceback):
        raise error
    notes = _notes(error)
    wrapper = ExceptionWrapper.__new__(ExceptionWrapper)
    wrapper.exc_type = type(error)
    wrapper.exc_msg = f"{trace.frames}\n"
    wrapper.where = f"in DataLoader worker process {worker}"
    if isinstance(error, StopIteration):
        warn_of_stop(error)
    try:
        wrapper.reraise()
    except Exception as again:
        for text in notes:
            note(again, text)
        raise again from error
    raise AssertionError("unreachable")


def _notes(error: BaseException) -> list[str]:
    """Which sample it was, without what the pool says of its item."""
    return [text for text in getattr(error, "__notes__", []) if not text.startswith("raised for (")]


def warn_of_stop(error: StopIteration) -> None:
    """Say that a map-style dataset has ended an epoch: a loop takes it for the end, as it does with torch's DataLoader."""
    warnings.warn(
        f"the dataset raised StopIteration ({'; '.join(_notes(error))}), which ends the epoch here; raise IndexError or "
        "another exception if that is not meant",
        RuntimeWarning,
        stacklevel=5,
    )


def _died(error: WorkerDiedError) -> WorkerDiedError:
    code = error.exitcode
    if code is not None and code < 0:
        said = f"DataLoader worker (pid {error.pid}) is killed by signal: {signal.strsignal(-code)}. "
    else:
        said = f"DataLoader worker (pid(s) {error.pid}) exited unexpectedly: "
    indices = tuple(_index(item) for item in error.items)
    return WorkerDiedError(f"{said}{error}", worker=error.worker, pid=error.pid, exitcode=code, items=indices)


def _index(item: Any) -> Any:
    """What a request was for; the number before it is of no use to anybody else."""
    return item[1] if isinstance(item, tuple) and len(item) == 2 else item


def timed_out(seconds: float, error: TimeoutError) -> RuntimeError:
    """What is raised when a batch does not come in time."""
    return RuntimeError(f"DataLoader timed out after {seconds} seconds: {error}")

"""What went wrong in a worker, in the words of torch's DataLoader, with the sample added."""

from __future__ import annotations

import signal
import warnings
from typing import Any, NoReturn

from torch._utils import ExceptionWrapper

from torchdali.errors import WorkerDiedError, WorkerError, WorkerTraceback
from torchdali.loader._fetch import note, show_indices

__all__ = ["raise_as_stock", "take_snapshot", "timed_out", "warn_of_stop"]


def raise_as_stock(error: BaseException, worker: int, index: Any) -> NoReturn:
    """Raise what a worker raised: of its type, with torch's text and the worker's traceback in it.

    The exception as it was in the worker, attributes and all, is the ``__cause__``.

    Args:
        error: what the pool gave in the place of a batch.
        worker: number of the worker.
        index: of the batch, as the sampler gave it.
    """
    if isinstance(error, WorkerDiedError):
        raise _died(error, index) from None
    trace = error.__cause__
    if isinstance(error, WorkerError) or not isinstance(trace, WorkerTraceback):
        raise error
    notes = _notes(error)
    wrapper = ExceptionWrapper.__new__(ExceptionWrapper)
    wrapper.exc_type = type(error)
    wrapper.exc_msg = f"{_without(trace.frames, notes)}\n"
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


def _without(frames: str, notes: list[str]) -> str:
    """A traceback without the notes at its end, which are told of the exception that is raised here."""
    for text in reversed(notes):
        frames = frames.removesuffix(f"\n{text}")
    return frames


def take_snapshot(error: BaseException) -> bytes | None:
    """The state of its worker after the batch that raised, which came with the exception."""
    snapshot: bytes | None = vars(error).pop("_torchdali_snapshot", None) if hasattr(error, "__dict__") else None
    return snapshot


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


def _died(error: WorkerDiedError, index: Any) -> WorkerDiedError:
    """Of several batches that were lost with a worker each is raised in its turn, and names its own samples."""
    code = error.exitcode
    if code is not None and code < 0:
        said = f"DataLoader worker (pid {error.pid}) is killed by signal: {signal.strsignal(-code)}. "
    else:
        said = f"DataLoader worker (pid(s) {error.pid}) exited unexpectedly: "
    return WorkerDiedError(
        f"{said}The batch of samples {show_indices(index)} is lost with it: {error}",
        worker=error.worker,
        pid=error.pid,
        exitcode=code,
        items=(index,),
    )


def timed_out(seconds: float, error: TimeoutError) -> RuntimeError:
    """What is raised when a batch does not come in time."""
    return RuntimeError(f"DataLoader timed out after {seconds} seconds: {error}")

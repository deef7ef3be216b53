"""The exceptions that torchdali raises by itself.

What a user's source raises arrives with its own type (see :class:`WorkerTraceback` for what is attached to it);
these are for what goes wrong around it.
"""

from __future__ import annotations

import functools
from typing import Any

__all__ = [
    "CudaInitializedError",
    "DecodeError",
    "PipelineStateError",
    "WorkerDiedError",
    "WorkerError",
    "WorkerTraceback",
]


class WorkerTraceback(Exception):
    """What happened in a worker process: the ``__cause__`` of an exception that crossed to the parent.

    Its text holds the worker, the item and the worker's own traceback, so that an uncaught exception prints all of it.

    Attributes:
        where: the worker, and the item it was called for.
        frames: the worker's traceback.
    """

    def __init__(self, where: str, frames: str) -> None:
        super().__init__(f"{where}\n\n{frames}")
        self.where = where
        self.frames = frames

    def __reduce__(self) -> tuple[type[WorkerTraceback], tuple[str, str]]:
        return type(self), (self.where, self.frames)


class WorkerError(RuntimeError):
    """Stands for an exception of a worker whose type cannot be sent to the parent; the message names the type."""


class WorkerDiedError(RuntimeError):
    """A worker process ended while it was needed: killed by a signal, out of memory, or ``os._exit``.

    Attributes:
        worker: index of the worker in its pool.
        pid: its process id.
        exitcode: its exit code, negative for the number of the signal that killed it.
        items: what it held: the arguments of the calls that are lost with it.
    """

    def __init__(
        self,
        message: str,
        *,
        worker: int | None = None,
        pid: int | None = None,
        exitcode: int | None = None,
        items: tuple[object, ...] = (),
    ) -> None:
        super().__init__(message)
        self.worker = worker
        self.pid = pid
        self.exitcode = exitcode
        self.items = items


class CudaInitializedError(RuntimeError):
    """Workers were to be forked although CUDA is already initialised in this process."""


class PipelineStateError(RuntimeError):
    """A pipeline was used before it was started or after it was closed."""


class DecodeError(RuntimeError):
    """Data that was to be decoded is no complete image.

    Attributes:
        position: position of the bad image in its batch.
        index: index of its sample in the epoch, None outside a pipeline.
        name: of its file, None where the decoder was not told.
    """

    def __init__(self, message: str, *, position: int, index: int | None = None, name: str | None = None) -> None:
        super().__init__(message)
        self.position = position
        self.index = index
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        # By default a copy is made of the message alone, and the position has no default.
        return functools.partial(type(self), position=self.position), self.args, self.__dict__

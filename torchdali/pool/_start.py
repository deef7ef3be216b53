"""How a worker's process begins: by fork, which inherits everything, or somewhere else, with a few descriptors and a pickle.

A process that inherits nothing gets three descriptors: the pool's memory, its task channel and the result channel; and
what it is to do, pickled by value (cloudpickle), so that functions and classes of a notebook's cell pass: in a memory file
from the zygote, among the arguments of a process of multiprocessing.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import os
import pickle
import signal
import socket
import sys
import threading
from collections import ChainMap
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any, ClassVar

import torch

from torchdali.pool._by_value import ByValue, dumps
from torchdali.pool._channel import Receiver, Sender, content_of, file_of
from torchdali.pool._claims import Claims
from torchdali.pool._memory import Memory
from torchdali.pool._worker import Bench, Setup, end_interpreter, work

__all__ = ["Shipment", "forked", "pack_setup", "rebuild_bench", "spawned", "tie_to_parent"]

QUEUE_SECONDS = 1.0
"""How long a spawned worker that ends may go on sending what is in the user's queues; a living parent waits for less."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_prctl: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl  # looked up before any fork


def may_tie() -> bool:
    """Whether children that are started now can be killed by the kernel when this process dies.

    The kernel ties them to the thread that forks, so only the main thread's can be.
    """
    return threading.current_thread() is threading.main_thread()


def tie_to_parent(parent: int | None) -> None:
    """In a child: be killed when the parent dies; ``parent`` is its pid, None does nothing."""
    if parent is not None:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(0)


def forked(bench: Bench, index: int, generation: int, parent: int | None, collects: bool) -> None:
    """The body of a forked worker; ``collects``: whether the process that it was forked from collects garbage."""
    tie_to_parent(parent)
    gc.freeze()  # work() does it for all workers, which here would be too late: what is enabled may collect at once
    if collects:
        gc.enable()
    work(bench, index, generation)


def pack_setup(setup: Setup, memory: Memory) -> int:
    """A memory file for :func:`rebuild_bench`; its descriptor is the caller's to close.

    Raises:
        TypeError: something of it cannot be pickled, not even by value.
    """
    try:
        data = dumps((tuple(setup), memory.size))
    except Exception as error:
        raise _cannot_be_sent(setup, error) from error
    return file_of(data)


def _cannot_be_sent(setup: Setup, error: Exception) -> TypeError:
    return TypeError(
        f"what the workers of {setup.name} are to do has to be sent to a process that does not inherit it, but "
        f"cannot be pickled: {type(error).__name__}: {error}. Open files, locks and connections in the worker, on first use"
    )


def rebuild_bench(setup_fd: int, memory_fd: int, tasks_fd: int, results_fd: int) -> Bench:
    """What a worker needs, from descriptors, which it owns from then on."""
    parts, size = pickle.loads(content_of(setup_fd))
    return _bench(Setup(*parts), Memory(size, memory_fd), tasks_fd, results_fd)


def _bench(setup: Setup, memory: Memory, tasks_fd: int, results_fd: int) -> Bench:
    return Bench(
        setup,
        memory,
        Claims(memory, setup.num_workers),
        Receiver(socket.socket(fileno=tasks_fd)),
        Sender(socket.socket(fileno=results_fd)),
        [],
    )


class _Descriptor:
    """A descriptor on its way to a process that multiprocessing starts."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> Any:
        return _detach, (DupFd(self.fd),)


def _detach(duplicate: Any) -> int:
    return int(duplicate.detach())


def descriptors(*fds: int) -> list[Any]:
    """Arguments for :func:`spawned`."""
    return [_Descriptor(fd) for fd in fds]


class _ShipmentPickler(ByValue):
    # The tables themselves, as more may be registered later.
    dispatch_table: ClassVar[Any] = ChainMap(
        ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
        *ByValue.dispatch_table.maps,
    )


class Shipment:
    """A setup on its way to a process that multiprocessing starts: pickled by value while that process is started.

    What can be passed on only then (queues, locks and shared values of multiprocessing, shared tensors) can be in it.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def __reduce__(self) -> Any:
        stream = io.BytesIO()
        try:
            _ShipmentPickler(stream, protocol=5).dump(tuple(self._setup))
        except Exception as error:
            raise _cannot_be_sent(self._setup, error) from error
        return _unpack_setup, (stream.getvalue(),)


def _unpack_setup(data: bytes) -> Setup:
    return Setup(*pickle.loads(data))


def spawned(index: int, generation: int, parent: int | None, setup: Any, size: int, fds: list[int]) -> None:
    """The body of a worker in a fresh interpreter.

    Args:
        index, generation: of the worker.
        parent: pid of the process to die with, if any.
        setup: what to do, sent as a :class:`Shipment`.
        size: of the pool's memory.
        fds: of the memory, the tasks and the results, sent as :func:`descriptors`.
    """
    tie_to_parent(parent)
    memory_fd, tasks_fd, results_fd = fds
    work(_bench(setup, Memory(size, memory_fd), tasks_fd, results_fd), index, generation)
    if torch.cuda.is_initialized():  # what it shared of the device's memory is in files that only its whole end removes
        end_interpreter()
        return
    # Not the interpreter's whole end, in which torch's own modules complain of each other; but multiprocessing's part of it: a
    # queue of the user's may still have something to send.
    end_interpreter()
    end = threading.Timer(QUEUE_SECONDS, os._exit, (0,))  # who reads the queue may be gone
    end.daemon = True
    end.start()
    with contextlib.suppress(Exception):
        util._exit_function()  # type: ignore[attr-defined]
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)

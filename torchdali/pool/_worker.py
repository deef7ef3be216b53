"""The body of a worker process: one loop, taking a task, calling the user's function, writing what it returned.

A worker ends when the task channel ends, which is when the parent closes the pool or dies. Since a worker may be deep in
the user's code then, a small thread watches the channel for that and ends the process; where the parent's main thread
forked it, the kernel also kills it with the parent, which helps when the user's code holds the interpreter or the worker
is stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import pickle
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from torchdali.pool._arena import Arena
from torchdali.pool._channel import INLINE_LIMIT, Receiver, Sender, memory_file, write_file
from torchdali.pool._codec import encode_all, layout
from torchdali.pool._failure import Failure, pack
from torchdali.pool._protocol import Claims, Result, Task

__all__ = ["Bench", "describe_item", "prepare_death_with_parent", "work"]

GRACE_SECONDS = 0.2
"""How long a worker may finish its call after the parent is gone: enough to notice the end by itself."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LONGEST_REPR = 200


class Bench(NamedTuple):
    """All that a worker needs; inherited by fork."""

    name: str
    functions: Sequence[Callable[[Any], Any]]
    arena: Arena
    tasks: Receiver
    results: Sender
    claims: Claims
    known_exceptions: list[type[BaseException]]


def describe_item(item: object) -> str:
    """``repr`` of an item, short enough for a message."""
    try:
        text = repr(item)
    except Exception as error:
        text = f"<{type(item).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _LONGEST_REPR else text[: _LONGEST_REPR - 3] + "..."


def prepare_death_with_parent() -> Callable[[int], None]:
    """Called before the fork; returns what the child calls with its parent's pid to be killed together with it.

    The kernel ties this to the thread that forked, so it is used only where that is the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda parent: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie(parent: int) -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(0)

    return tie


def _watch_for_end(tasks: Receiver) -> None:
    poll = select.poll()
    poll.register(tasks.fileno(), 0)  # a hang-up is reported without being asked for
    poll.poll()
    time.sleep(GRACE_SECONDS)
    os._exit(0)


def _prepare_process(tasks: Receiver) -> None:
    # Ctrl-C reaches the whole foreground group: the parent alone decides what it means. Other handlers were the parent's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    # Collecting what was inherited would copy its pages, one reference count at a time.
    gc.freeze()
    # Workers are the parallelism; and OpenMP's threads did not survive the fork.
    torch.set_num_threads(1)
    threading.Thread(target=_watch_for_end, args=(tasks,), name="torchdali-end", daemon=True).start()


def _call(bench: Bench, index: int, task: Task, items: list[Any]) -> list[Any]:
    function = bench.functions[task.function]
    outcomes: list[Any] = []
    for position, item in enumerate(items):
        bench.claims.advance(index, position)
        try:
            outcomes.append(function(item))
        except BaseException as error:
            outcomes.append(_fail(bench, index, item, error))
    return outcomes


def _fail(bench: Bench, index: int, item: object, error: BaseException) -> Failure:
    where = f"In worker {index} (pid {os.getpid()}) of {bench.name}, for {describe_item(item)}:"
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        # Raised again in the parent these would end the user's program in silence.
        substitute = RuntimeError(
            f"{type(error).__name__}({error}) was raised in a worker, where it cannot end the program"
        )
        error = substitute.with_traceback(error.__traceback__)
    return pack(error, bench.known_exceptions, where)


def _deliver(bench: Bench, index: int, task: Task, items: list[Any], outcomes: list[Any], seconds: float) -> None:
    encoded = encode_all(outcomes, lambda position, error: _fail(bench, index, items[position], error))
    pieces = list(encoded.pieces)
    description: bytes | tuple[int, int] = encoded.description
    if len(encoded.description) > INLINE_LIMIT // 2:
        pieces.append(memoryview(encoded.description))
    spans, size = layout(piece.nbytes for piece in pieces)
    if len(pieces) > len(encoded.pieces):
        description = spans[-1]
    result = Result(task.serial, index, seconds, size, description).pack()
    if size <= task.capacity:
        target = memoryview(bench.arena.memory)
        for piece, (offset, length) in zip(pieces, spans, strict=True):
            start = task.offset + offset
            target[start : start + length] = piece
        bench.results.send(result)
        return
    fd = memory_file(size)
    try:
        for piece, (offset, _) in zip(pieces, spans, strict=True):
            write_file(fd, piece, offset)
        bench.results.send(result, fd)
    finally:
        os.close(fd)


def _perform(bench: Bench, index: int, task: Task) -> None:
    start = time.perf_counter()
    try:
        items = pickle.loads(task.items)
    except BaseException as error:  # loading runs the user's code
        items = [_NotLoaded()] * task.size
        outcomes: list[Any] = [_fail(bench, index, item, error) for item in items]
    else:
        outcomes = _call(bench, index, task, items)
    seconds = time.perf_counter() - start
    try:
        _deliver(bench, index, task, items, outcomes, seconds)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except (OSError, MemoryError) as error:  # no memory, no descriptor: small failures still get through
        _deliver(bench, index, task, items, [_fail(bench, index, item, error) for item in items], seconds)


class _NotLoaded:
    def __repr__(self) -> str:
        return "an item that could not be loaded here"


def work(bench: Bench, index: int) -> None:
    """Take tasks until there are no more; the body of worker ``index``."""
    _prepare_process(bench.tasks)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent is gone, and so is the reader
        claim = functools.partial(bench.claims.take, index)
        while (message := bench.tasks.receive(taken=claim)) is not None:
            task = Task.unpack(message.payload)
            _perform(bench, index, task)
            bench.claims.drop(index)
            del task, message

"""The zygote: a small process that forks workers when the parent must not.

A process that has initialised CUDA cannot be forked any more, and one with many threads only with care. So the first start
of a pool, when the parent still may, also forks this: one thread, no CUDA, no descriptors but its own. It waits for requests
and forks a worker for each; what the worker is to do comes pickled by value. So pools can be started, and workers be
replaced, for as long as the parent lives.

It has the modules that the parent had imported when it was forked; workers import what came later by themselves, and take
over the parent's working directory, environment, import path and standard output as they are then.

The zygote ends with its parent: their connection ends, and the kernel kills it where the parent's main thread forked it.
Its workers end with it.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from torchdali.pool._channel import content_of, file_of, socket_pair
from torchdali.pool._child import STATUS, DistantChild, own_children
from torchdali.pool._forking import logging_at_rest
from torchdali.pool._interrupt import deferred_interrupt
from torchdali.pool._start import may_tie, rebuild_bench, tie_to_parent
from torchdali.pool._worker import work

__all__ = ["Zygote", "living_zygote", "start_zygote"]

ANSWER_SECONDS = 10.0
"""How long the zygote may take to fork; more than that, and something is wrong with it."""

END_SECONDS = 0.4
_FDS = 8


class _Request(NamedTuple):
    """A worker that is wanted; with it come its descriptors, see :meth:`Zygote.fork`."""

    name: str
    worker: int
    generation: int
    directory: str
    environment: dict[str, str]
    path: list[str]
    arguments: list[str]


class Zygote:
    """The zygote as its parent sees it. Making one forks it."""

    def __init__(self) -> None:
        ours, its = socket_pair()
        self._owner = os.getpid()
        parent = self._owner if may_tie() else None
        for stream in (sys.stdout, sys.stderr):  # else what waits in them would be there twice
            with contextlib.suppress(Exception):
                stream.flush()
        with deferred_interrupt(), logging_at_rest(), warnings.catch_warnings():
            # Python 3.12 warns of a fork beside threads; the child runs no code that could need their locks.
            warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
            self.pid = os.fork()
            if self.pid == 0:
                _live(its, parent)
        its.close()
        ours.settimeout(ANSWER_SECONDS)
        self._connection = ours
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _end, self.pid, ours, self._owner)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        if os.getpid() != self._owner or self._connection.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._connection.fileno(), 0)
        return not poll.poll(0)

    def fork(self, name: str, index: int, generation: int, fds: tuple[int, int, int, int]) -> DistantChild:
        """Have a worker forked.

        Args:
            name: of its process.
            index, generation: as of :func:`~torchdali.pool._worker.work`.
            fds: for :func:`~torchdali.pool._start.rebuild_bench`; they stay the caller's.

        Raises:
            RuntimeError: the zygote is gone or does not answer.
        """
        environment, arguments = dict(os.environ), list(sys.argv)
        request = _Request(name, index, generation, _directory(), environment, list(sys.path), arguments)
        with contextlib.ExitStack() as stack:
            file = file_of(pickle.dumps(tuple(request)))
            stack.callback(os.close, file)
            null = os.open(os.devnull, os.O_RDWR)
            stack.callback(os.close, null)
            reader, writer = os.pipe()
            stack.callback(os.close, writer)
            answer = self._ask([file, *fds, writer, *(fd if _is_open(fd) else null for fd in (1, 2))], reader)
        (pid,) = STATUS.unpack(answer)
        if pid < 0:
            os.close(reader)
            raise OSError(-pid, f"a worker cannot be forked: {os.strerror(-pid)}; ask for fewer, or see ulimit -u")
        return DistantChild(pid, reader)

    def _ask(self, fds: list[int], reader: int) -> bytes:
        try:
            with self._lock, deferred_interrupt():
                socket.send_fds(self._connection, [b"fork"], fds)
                answer = self._connection.recv(STATUS.size)
            if not answer:
                raise ConnectionResetError("it closed the connection")
        except OSError as error:
            os.close(reader)
            self.close()
            raise RuntimeError(
                f"the process that forks workers (pid {self.pid}) does not answer: {error}. It may have been killed. "
                'Start the workers before CUDA is used, in a new process, or pass start_method="spawn"'
            ) from error
        return answer

    def close(self) -> None:
        """End it and its workers."""
        self._finalizer()

    def leave_to_parent(self) -> None:
        """In a process forked from this one: it is not this process's."""
        self._finalizer.detach()
        self._connection.close()


def _directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  a string is sent
    except OSError:  # it was removed
        return "/"


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _end(pid: int, connection: socket.socket, owner: int) -> None:
    if os.getpid() != owner:
        return
    connection.close()
    with contextlib.suppress(ChildProcessError):
        for number in (signal.SIGKILL, None):
            deadline = time.monotonic() + END_SECONDS
            while time.monotonic() < deadline:
                if os.waitpid(pid, os.WNOHANG) != (0, 0):
                    return
                time.sleep(0.001)
            if number is not None:
                os.kill(pid, number)


# --- in the zygote ----------------------------------------------------------------------------------------------------


def _live(connection: socket.socket, parent: int | None) -> NoReturn:
    """All of the zygote's life."""
    try:
        tie_to_parent(parent)
        _forget_the_parent(connection)
        _serve(connection)
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(0)


def _forget_the_parent(connection: socket.socket) -> None:
    gc.disable()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    own_children().clear()
    # What the parent has open must not stay open here: a port would stay taken, a pipe never end. Each descriptor becomes
    # one of /dev/null instead of free, since some object here still believes it is its own and may close it some day.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for entry in list(Path("/proc/self/fd").iterdir()):
        fd = int(entry.name)
        if fd > 2 and fd not in (null, connection.fileno()):
            with contextlib.suppress(OSError):  # that of the listing itself
                os.fstat(fd)
                os.dup2(null, fd, inheritable=False)
    os.close(null)


def _serve(connection: socket.socket) -> None:
    children: dict[int, int] = {}  # pid -> writing end of its pipe
    woken, wakes = socket.socketpair()
    for end in (woken, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    poll = select.poll()
    for end in (connection, woken):
        poll.register(end.fileno(), select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if woken.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
            _reap(children)
        if connection.fileno() in ready:
            request, fds, _, _ = socket.recv_fds(connection, 16, _FDS, socket.MSG_CMSG_CLOEXEC)
            if not request:
                return
            if len(fds) == _FDS:
                _fork(connection, fds, children, (woken, wakes))


def _reap(children: dict[int, int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        pipe = children.pop(pid, None)
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe, STATUS.pack(os.waitstatus_to_exitcode(status)))
            os.close(pipe)


def _fork(
    connection: socket.socket,
    fds: list[int],
    children: dict[int, int],
    wakers: tuple[socket.socket, socket.socket],
) -> None:
    request, *needed, status, out, err = fds
    own = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        connection.send(STATUS.pack(-(error.errno or 1)))
        for fd in fds:
            os.close(fd)
        return
    if pid == 0:
        signal.set_wakeup_fd(-1)
        for end in (connection, *wakers):
            end.close()
        for fd in (status, *children.values()):
            os.close(fd)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        _become_worker(request, needed, own)
    children[pid] = status
    for fd in (request, *needed, out, err):
        os.close(fd)
    connection.send(STATUS.pack(pid))


def _become_worker(file: int, fds: list[int], parent: int) -> NoReturn:
    code = 1
    try:
        request = _Request(*pickle.loads(content_of(file)))
        process = multiprocessing.get_context("fork").Process(
            target=_run_worker, args=(request, fds, parent), name=request.name, daemon=True
        )
        # What multiprocessing runs in a child: it names the process, runs its exit functions and flushes its output.
        code = process._bootstrap()  # type: ignore[attr-defined]
    finally:
        os._exit(code)


def _run_worker(request: _Request, fds: list[int], parent: int) -> None:
    tie_to_parent(parent)
    gc.enable()
    with contextlib.suppress(OSError):
        os.chdir(request.directory)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.path[:] = request.path
    sys.argv[:] = request.arguments
    # What the parent has in their place, and had written into them, is the parent's.
    sys.stdout = sys.__stdout__ = _standard(1, "strict")  # type: ignore[misc, assignment]
    sys.stderr = sys.__stderr__ = _standard(2, "backslashreplace")  # type: ignore[misc, assignment]
    work(rebuild_bench(*fds), request.worker, request.generation)


def _standard(fd: int, errors: str) -> TextIO:
    return open(fd, "w", buffering=1, encoding="utf-8", errors=errors, closefd=False)


# --- in the parent ----------------------------------------------------------------------------------------------------

_zygote: Zygote | None = None
_zygote_lock = threading.Lock()


def living_zygote() -> Zygote | None:
    """The zygote of this process, if it has one."""
    global _zygote  # noqa: PLW0603  there is one for a process
    with _zygote_lock:
        if _zygote is not None and not _zygote.alive:
            _zygote.close()
            _zygote = None
        return _zygote


def start_zygote() -> Zygote:
    """Fork the zygote, if there is none: only while this process may be forked."""
    global _zygote  # noqa: PLW0603  there is one for a process
    with _zygote_lock:
        if _zygote is not None and not _zygote.alive:
            _zygote.close()
            _zygote = None
        if _zygote is None:
            _zygote = Zygote()
        return _zygote


def _after_fork_in_child() -> None:
    global _zygote, _zygote_lock  # noqa: PLW0603  another thread of the parent may have held the lock
    _zygote_lock = threading.Lock()
    if _zygote is not None:
        _zygote.leave_to_parent()
        _zygote = None


os.register_at_fork(after_in_child=_after_fork_in_child)

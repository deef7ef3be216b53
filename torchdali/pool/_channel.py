"""One-way message channels between processes.

A channel is a pair of connected ``SOCK_SEQPACKET`` sockets: the kernel delivers each message whole or not at all, also
when its sender or receiver is killed in the middle, and hands it to exactly one of several receivers. So no lock is
shared between processes that one of them could take to its grave.

A message is a tag byte, a key, a payload, and at most one file descriptor. What does not fit into a packet travels as an
anonymous memory file, so there is no limit on its size. The key is in the packet always: a receiver can say what it has
taken before it reads a large file, which takes a while.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "INLINE_LIMIT",
    "Message",
    "Receiver",
    "Sender",
    "channel",
    "content_of",
    "file_of",
    "memory_file",
    "read_file",
    "socket_pair",
    "write_file",
]

INLINE_LIMIT = 48 * 1024
"""Bytes of payload sent in the packet itself: well below Linux's default socket buffer (208 KiB), so several fit."""

CROWDED_SECONDS = 0.002
"""Pause before another try when too many descriptors are under way; the other side is a process at work."""

_STANDARD_ERROR = 2

_INLINE = b"\0"
_IN_FILE = b"\1"
_HEAD = struct.Struct("<cq")
_FD_SIZE = array.array("i").itemsize
_FD_SPACE = socket.CMSG_SPACE(_FD_SIZE)
_WAITING = int(socket.MSG_CMSG_CLOEXEC)  # as numbers: to combine members of an enumeration costs as much as to receive
_AT_ONCE = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)


class Message(NamedTuple):
    """A received payload, and the descriptor that came with it (the receiver closes it), if any."""

    payload: bytes
    fd: int | None


def memory_file(size: int) -> int:
    """Descriptor of an anonymous file in memory; it vanishes with its last descriptor and has no place in /dev/shm."""
    fd = os.memfd_create("torchdali", os.MFD_CLOEXEC)
    if fd <= _STANDARD_ERROR:
        low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STANDARD_ERROR + 1)
        os.close(low)
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_file(fd: int, target: memoryview) -> None:
    """Fill ``target`` from the start of the file."""
    offset = 0
    while offset < len(target):
        count = os.preadv(fd, [target[offset:]], offset)
        if count == 0:
            raise EOFError(
                f"a memory file of {len(target)} bytes ended after {offset} bytes; this is a bug in torchdali"
            )
        offset += count


def write_file(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset`` of the file."""
    while len(data):
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count


def file_of(data: bytes) -> int:
    """Descriptor of a memory file with this content; the caller closes it."""
    fd = memory_file(len(data))
    try:
        write_file(fd, memoryview(data), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def content_of(fd: int) -> bytes:
    """All that a memory file holds; its descriptor is closed."""
    try:
        content = bytearray(os.fstat(fd).st_size)
        read_file(fd, memoryview(content))
    finally:
        os.close(fd)
    return bytes(content)


class _End:
    """One end of a channel; closing it twice is allowed."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        """The descriptor, for ``poll``; -1 once closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this process's copy of the end."""
        self._socket.close()


class Sender(_End):
    """The sending end."""

    def send(self, payload: bytes, fd: int | None = None, *, key: int = 0, block: bool = True) -> bool:
        """Send one message; with ``block=False`` returns False if there is no room for it now.

        ``key`` is a number that the receiver learns first. At most one descriptor can go along, and none with a payload
        above :data:`INLINE_LIMIT`.

        Raises:
            BrokenPipeError, ConnectionResetError: the other side is gone.
        """
        own_fd = None
        if len(payload) > INLINE_LIMIT:
            if fd is not None:
                raise ValueError(
                    f"a payload of {len(payload)} bytes cannot be sent together with a descriptor; this is a bug in torchdali"
                )
            fd = own_fd = file_of(payload)
            payload = b""
        head = _HEAD.pack(_INLINE if own_fd is None else _IN_FILE, key)
        ancillary = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            while True:
                try:
                    self._socket.sendmsg([head, payload], ancillary, 0 if block else socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return False
                except OSError as error:
                    # The kernel lets an ordinary user have only so many descriptors under way.
                    if error.errno != errno.ETOOMANYREFS:
                        raise
                    if not block:
                        return False
                    time.sleep(CROWDED_SECONDS)
                else:
                    return True
        finally:
            if own_fd is not None:
                os.close(own_fd)


class Receiver(_End):
    """The receiving end; several processes may receive from the same one."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self._buffer = bytearray(INLINE_LIMIT + _HEAD.size)

    def receive(self, *, block: bool = True, taken: Callable[[int], None] | None = None) -> Message | None:
        """The next message; None once all senders are closed and everything sent was received.

        ``taken`` is called with the message's key as soon as nobody else can receive it.

        Raises:
            BlockingIOError: with ``block=False``, nothing is there now.
        """
        size, ancillary, _, _ = self._socket.recvmsg_into([self._buffer], _FD_SPACE, _WAITING if block else _AT_ONCE)
        if size == 0:
            return None
        tag, key = _HEAD.unpack_from(self._buffer)
        if taken is not None:
            taken(key)
        fd = None
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                (fd,) = array.array("i", data[:_FD_SIZE])
        payload = bytes(memoryview(self._buffer)[_HEAD.size : size])
        if tag == _IN_FILE and fd is not None:
            return Message(content_of(fd), None)
        return Message(payload, fd)


def channel() -> tuple[Sender, Receiver]:
    """A new channel's two ends."""
    sender, receiver = socket_pair()
    return Sender(sender), Receiver(receiver)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep the boundaries of messages."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return _above_standard(one), _above_standard(other)


def _above_standard(end: socket.socket) -> socket.socket:
    """The same socket with a descriptor above 2: where standard output is closed, a print must not go into it."""
    if end.fileno() > _STANDARD_ERROR:
        return end
    number = fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, _STANDARD_ERROR + 1)
    end.close()
    return socket.socket(fileno=number)

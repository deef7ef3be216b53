"""A pool's shared memory as pinned memory: host-to-device copies run straight from what a worker wrote.

``cudaHostRegister`` makes a segment's pages stay where they are and known to the driver, so that a copy from them can be
asynchronous. Nobody then waits for the copy, and the batch it reads may be dropped meanwhile; so memory that was let go of
is used again only once the streams that may read it have come as far as they were at that moment.

Source: CUDA Runtime API, "Memory Management" (cudaHostRegister) and "Event Management".
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import torch

from torchdali.pool import Memory

__all__ = ["PinnedMemory", "PinnedSegments"]

_PORTABLE = 1
"""cudaHostRegisterPortable: pinned for all devices, not only for the current one."""

_ALREADY_REGISTERED = 712


class PinnedSegments:
    """Pins segments of a pool's memory in another process than its parent, as they come into use; never undone.

    The parent must keep the memory's pages (``keep_memory``), and hold what is read until the reader has synchronised.

    Args:
        memory: as this process sees it.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._done: set[int] = set()
        self._refused = False

    def pin(self, start: int, nbytes: int) -> None:
        """Have a whole segment pinned, if CUDA agrees; without it copies are slower, no more.

        Less than a segment would not do: CUDA refuses to copy what is pinned only in part, or in two pieces.
        """
        if start in self._done or self._refused:
            return
        self._done.add(start)
        address = self._memory.view(start, nbytes).ctypes.data
        self._refused = _register(address, nbytes) not in (0, _ALREADY_REGISTERED)


class PinnedMemory:
    """A :class:`~torchdali.pool.MemoryHook` that pins segments once CUDA is initialised.

    A segment that is used before that is pinned when :meth:`pin` is called.

    Args:
        required: raise where CUDA refuses to pin; else warn, once, and go on with memory that is not pinned.

    Reuse waits for the current stream and the default stream of each device in use, for streams on which a batch was asked
    for, and for others that are given to :meth:`record_stream`: a batch that is copied on another stream has to be kept until
    that copy is done.
    """

    def __init__(self, *, required: bool = True) -> None:
        self._required = required
        self._refused = False
        self._waiting: dict[int, int] = {}
        self._pinned: dict[int, int] = {}
        self._streams: dict[tuple[int, int], torch.cuda.Stream] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that are pinned."""
        return sum(self._pinned.values())

    # --- the hook -----------------------------------------------------------------------------------------------------

    def register(self, address: int, nbytes: int) -> None:
        """Pin a segment, or note it where CUDA is not initialised."""
        self._waiting[address] = nbytes
        if torch.cuda.is_initialized():
            self.pin()

    def unregister(self, address: int, nbytes: int) -> None:
        """Undo it."""
        self._waiting.pop(address, None)
        if self._pinned.pop(address, None) is not None:
            try:
                with _used_device():
                    for stream in self._all_streams():  # which may still copy from there
                        stream.synchronize()
                    _cudart().cudaHostUnregister(address)
            except Exception:  # at the interpreter's end CUDA may be gone, and so may be what is imported
                return

    def fence(self) -> Callable[[], bool]:
        """What says whether all that was begun on the streams by now is done."""
        if not self._pinned:
            return _passed
        events = []
        for stream in self._all_streams():
            event = torch.cuda.Event()
            event.record(stream)
            events.append(event)
        return lambda: all(event.query() for event in events)

    # --- the device's side --------------------------------------------------------------------------------------------

    def pin(self) -> None:
        """Pin the segments that are used so far; CUDA has to be initialised.

        Raises:
            RuntimeError: CUDA refuses it, for example because too much is pinned already, and it is required.
        """
        while self._waiting:
            address, nbytes = self._waiting.popitem()
            status = _register(address, nbytes)
            if status in (0, _ALREADY_REGISTERED):
                self._pinned[address] = nbytes
            else:
                self._refuse(f"cudaHostRegister refuses to pin {nbytes} bytes (error {status})")

    def _refuse(self, text: str) -> None:
        if self._required:
            raise RuntimeError(f"{text}; pin_memory=False does without")
        if not self._refused:
            self._refused = True
            warnings.warn(f"{text}: what lies there is copied to be pinned", RuntimeWarning, stacklevel=3)

    def asked_for(self) -> None:
        """Have reuse wait for the stream that is current where a batch is asked for: it will be copied there, most likely."""
        if torch.cuda.is_initialized():
            self.record_stream(torch.cuda.current_stream())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Have reuse wait for this stream too."""
        self._streams[_key(stream)] = stream

    def _all_streams(self) -> list[torch.cuda.Stream]:
        found = dict(self._streams)
        for index in range(torch.cuda.device_count()):
            if _has_context(index):
                for stream in (torch.cuda.current_stream(index), torch.cuda.default_stream(index)):
                    found[_key(stream)] = stream
        return list(found.values())


def _key(stream: torch.cuda.Stream) -> tuple[int, int]:
    return stream.device_index, stream.cuda_stream


def _register(address: int, nbytes: int) -> int:
    """Pin memory; returns CUDA's error number."""
    with _used_device():
        return int(_cudart().cudaHostRegister(address, nbytes, _PORTABLE))


def _used_device() -> contextlib.AbstractContextManager[object]:
    """The current device is one that this process uses already.

    These calls are for no device in particular, and yet make a context on the current one: in a new thread that is the first
    GPU, on which a process that has another has no business, and its memory no room.
    """
    used = [index for index in range(torch.cuda.device_count()) if _has_context(index)]
    if not used or torch.cuda.current_device() in used:
        return contextlib.nullcontext()
    return torch.cuda.device(used[0])


def _has_context(index: int) -> bool:
    """Whether this process uses a device."""
    torch_c: Any = torch._C  # its stubs have not always had it
    return bool(torch_c._cuda_hasPrimaryContext(index))


def _cudart() -> Any:
    return torch.cuda.cudart()


def _passed() -> bool:
    return True

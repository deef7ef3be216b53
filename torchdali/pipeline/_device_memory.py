"""Memory of a CUDA device that two processes see: made and exported in one, opened in the other.

By the driver's own calls. torch can pass tensors between processes too, for any order of deaths and at the price of reference
counts in files of /dev/shm, which stay behind where a process is killed. Here the order is known: what is exported lives until
its process ends or the other side has got its successor, and nothing is left of it after any kind of death.

Source: CUDA Driver API, "Memory Management" (cuMemAlloc, cuIpcGetMemHandle, cuIpcOpenMemHandle, cuIpcCloseMemHandle).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from typing import Any

import torch

__all__ = ["ExportedMemory", "OpenedMemory"]

_HANDLE_BYTES = 64  # CU_IPC_HANDLE_SIZE
_LAZY_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS


class _Handle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * _HANDLE_BYTES)]


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: Any) -> None:
    status = getattr(_driver(), name)(*arguments)
    if status == 0:
        return
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(status, ctypes.byref(text))
    reason = (text.value or b"unknown error").decode()
    if status == 2:
        raise torch.OutOfMemoryError(
            f"{name}: {reason}; smaller batches, fewer gpu_workers or a smaller prefetch need less"
        )
    raise RuntimeError(f"{name} failed with error {status}: {reason}")


class _Span:
    """Bytes of a device, for ``torch.as_tensor``."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
            "strides": None,
        }


def _as_tensor(address: int, nbytes: int, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(_Span(address, nbytes), device=device)


class ExportedMemory:
    """Memory of this process on a device.

    Args:
        nbytes: how much.
        device: with an index; CUDA is initialised there.

    Attributes:
        bytes: it as a uint8 tensor (nbytes,), good until :meth:`free`.
        handle: by which another process opens it.

    Raises:
        torch.OutOfMemoryError: the device has not so much left.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        address = ctypes.c_uint64()
        with torch.cuda.device(device):
            _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(nbytes))
            self._address = address.value
            handle = _Handle()
            _call("cuIpcGetMemHandle", ctypes.byref(handle), address)
        self._device = device
        self.nbytes = nbytes
        self.handle = bytes(memoryview(handle))
        self.bytes = _as_tensor(self._address, nbytes, device)

    def free(self) -> None:
        """Give it back; nobody may use it any more, in any process."""
        with torch.cuda.device(self._device):
            _call("cuMemFree_v2", ctypes.c_uint64(self._address))


class OpenedMemory:
    """Memory of another process on a device.

    Args:
        handle: of an :class:`ExportedMemory`.
        nbytes: its length.
        device: of this process that is the same one.

    Raises:
        RuntimeError: processes cannot share memory of this device.
    """

    def __init__(self, handle: bytes, nbytes: int, device: torch.device) -> None:
        address = ctypes.c_uint64()
        with torch.cuda.device(device):
            _call(
                "cuIpcOpenMemHandle_v2",
                ctypes.byref(address),
                _Handle.from_buffer_copy(handle),
                ctypes.c_uint(_LAZY_PEER_ACCESS),
            )
        self._address: int | None = address.value
        self._device = device
        self.bytes = _as_tensor(address.value, nbytes, device)

    def close(self) -> None:
        """Let go of it; what this process had begun to do with it has to be done."""
        address, self._address = self._address, None
        if address is not None:
            with contextlib.suppress(Exception), torch.cuda.device(self._device):
                _call("cuIpcCloseMemHandle", ctypes.c_uint64(address))

    def __del__(self) -> None:
        """Of a pipeline that was dropped: the memory of processes that are gone would stay for as long as this one."""
        if getattr(self, "_address", None) is not None and not sys.is_finalizing():
            with contextlib.suppress(Exception):
                torch.cuda.synchronize(self._device)
                self.close()

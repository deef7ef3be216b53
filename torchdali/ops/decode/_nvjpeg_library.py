"""NVIDIA's nvJPEG, called as it is: the batched decoder of the JPEG engines that some GPUs have.

The library comes with torchvision's CUDA builds. Names and order of what is called: nvJPEG's documentation, "Batched image
decoding".

Not all of what nvJPEG does waits for what is pending on the stream that it is given: images decoded into memory to which kernels
there had yet to write were spoilt in 6 of 6 batches (H200, torchvision 0.26). So they come to be on a stream of their own, of
whose memory the allocator gives out only what everybody is done with.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision

from torchdali.ops._device import current

__all__ = ["Engine", "EngineError", "engine_of", "library_path"]

_HARDWARE = 3  # NVJPEG_BACKEND_HARDWARE
_FORMATS = {1: 2, 3: 3}  # channels -> NVJPEG_OUTPUT_Y, NVJPEG_OUTPUT_RGB
_STATUS = (
    "success",
    "not initialised",
    "invalid parameter",
    "bad JPEG",
    "JPEG not supported",
    "out of memory",
    "execution failed",
    "the GPU has no JPEG engine",
    "internal error",
    "not implemented",
    "incomplete file",
)
_ALLOCATOR_FAILURE = 5
_ALIGNMENT = 256  # of an image's first byte, as torch's own allocations have it


class EngineError(RuntimeError):
    """nvJPEG refused a call; which image of a batch it was about it does not say."""


@functools.cache
def library_path() -> str | None:
    """Where nvJPEG is: beside torchvision, in NVIDIA's own wheel, or where the system looks; None if it is in none of these."""
    packages = Path(torchvision.__file__).parent.parent
    for pattern in ("torchvision.libs/libnvjpeg*.so*", "nvidia/*/lib/libnvjpeg.so*"):
        found = sorted(packages.glob(pattern))
        if found:
            return str(found[-1])
    return ctypes.util.find_library("nvjpeg")


class Engine:
    """A decoder on one device, made of nvJPEG's handle and state, which are kept until the process ends.

    Args:
        library: nvJPEG's functions.
        device: with an index.
        stream: for this engine.

    Raises:
        EngineError: the device has no JPEG engine.
    """

    def __init__(self, library: Any, device: torch.device, stream: Any) -> None:
        self._library = library
        self._device = device
        self._stream = stream
        self._lock = threading.Lock()  # a state serves one thread at a time
        self._handle, self._state = ctypes.c_void_p(), ctypes.c_void_p()
        self._prepared: tuple[int, int] | None = None
        self._call("nvjpegCreateEx", _HARDWARE, None, None, 0, ctypes.byref(self._handle))
        self._call("nvjpegJpegStateCreate", self._handle, ctypes.byref(self._state))

    def decode(
        self,
        addresses: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        heights: npt.NDArray[np.int64],
        widths: npt.NDArray[np.int64],
        pitches: npt.NDArray[np.int64],
        channels: int,
    ) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
        """Decode a batch of JPEGs that the engine takes.

        Args:
            addresses, lengths: of at least one file in CPU memory, in bytes.
            heights, widths: as their headers say.
            pitches: bytes from a row to the next, at least the width.
            channels: 3 for RGB, 1 for luma.

        Returns:
            A uint8 buffer, complete, and where in it each image begins, (channels, H, pitch). Its memory is of the engine's
            stream: who uses it on another one tells the allocator (``record_stream``). The files are not needed any more.

        Raises:
            EngineError: one of them was refused, which may be any.
            torch.OutOfMemoryError: there is no memory for what the engine needs.
        """
        areas = heights * pitches
        ends = np.cumsum(-(-channels * areas // _ALIGNMENT) * _ALIGNMENT)
        starts = np.concatenate([[0], ends[:-1]])
        with self._on_stream():
            buffer = torch.empty(int(ends[-1]), dtype=torch.uint8, device=self._device)
        # nvjpegImage_t: four addresses of planes, then their pitches.
        destinations = np.zeros((len(addresses), 8), np.uint64)
        for channel in range(channels):
            destinations[:, channel] = buffer.data_ptr() + starts + channel * areas
            destinations[:, 4 + channel] = pitches
        tables = [addresses.astype(np.uint64), lengths.astype(np.uint64), destinations]
        with current(self._device), self._lock:  # which is not in the arguments
            # Others' kernels may be pending here too: torch has but 32 streams, and gives them out again; where it is to be
            # deterministic it fills new memory; other allocators put the end of the memory's last use here.
            self._stream.synchronize()
            try:
                self._begin(tables, channels)
            finally:
                self._stream.synchronize()  # the state, the files' bytes and the images are in use until then
        return buffer, starts

    def _begin(self, tables: Sequence[npt.NDArray[np.uint64]], channels: int) -> None:
        try:
            self._decode(tables, channels)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()  # nvJPEG's memory is not from torch's allocator, which may have kept all there is
            self._decode(tables, channels)

    def _on_stream(self) -> contextlib.AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream) if self._device.type == "cuda" else contextlib.nullcontext()

    def _decode(self, tables: Sequence[npt.NDArray[np.uint64]], channels: int) -> None:
        prepared, self._prepared = self._prepared, None  # what failed has to be prepared again
        wanted = len(tables[0]), channels
        if prepared != wanted:
            self._call("nvjpegDecodeBatchedInitialize", self._handle, self._state, wanted[0], 1, _FORMATS[channels])
        pointers = (ctypes.c_void_p(table.ctypes.data) for table in tables)
        self._call(
            "nvjpegDecodeBatched", self._handle, self._state, *pointers, ctypes.c_void_p(self._stream.cuda_stream)
        )
        self._prepared = wanted

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status == _ALLOCATOR_FAILURE:
            raise torch.OutOfMemoryError(
                f"nvJPEG has no memory left on {self._device} for {name}; take smaller batches, or leave it some: its memory "
                "is not torch's"
            )
        if status:
            why = _STATUS[status] if 0 < status < len(_STATUS) else "unknown"
            raise EngineError(f"{name}: nvJPEG's status {status}, {why}")


@functools.cache
def engine_of(device: torch.device) -> Engine | None:
    """The engine of a CUDA device with an index; None where it has none."""
    path = library_path()
    if path is None:
        return None
    with current(device):
        torch.cuda.current_stream(device).synchronize()  # the device's context is made before nvJPEG looks for it
        try:
            return Engine(ctypes.CDLL(path), device, torch.cuda.Stream(device))
        except (EngineError, OSError):
            return None

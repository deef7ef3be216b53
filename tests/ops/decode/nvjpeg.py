"""A stand-in for nvJPEG, which decodes on the CPU."""

import ctypes
import types

import numpy as np
import torch

__all__ = ["CPU", "STREAM", "Library"]

CPU = torch.device("cpu")


class Library:
    """Has the functions of nvJPEG that are called, and writes where it is told to, in the CPU's memory."""

    def __init__(self):
        self.batches, self.statuses, self.streams = [], [], []

    def nvjpegCreateEx(self, backend, dev_allocator, pinned_allocator, flags, handle):
        assert (backend, flags) == (3, 0)
        return 0

    def nvjpegJpegStateCreate(self, handle, state):
        return 0

    def nvjpegDecodeBatchedInitialize(self, handle, state, size, threads, output):
        self.prepared = size, output
        self.batches.append("prepared")
        return 0

    def nvjpegDecodeBatched(self, handle, state, files, lengths, destinations, stream):
        self.streams.append(stream.value)
        if self.statuses:
            return self.statuses.pop(0)
        size, output = self.prepared
        self.batches.append(size)
        numbers = ctypes.POINTER(ctypes.c_uint64)
        for n in range(size):
            where, length = ctypes.cast(files, numbers)[n], ctypes.cast(lengths, numbers)[n]
            data = np.frombuffer(ctypes.string_at(where, length), np.uint8)
            pixels = torch.ops.image.decode_jpeg(torch.from_numpy(data.copy()), {2: 1, 3: 3}[output], False)
            destination = ctypes.cast(destinations, numbers)[8 * n : 8 * n + 8]
            for plane, address, pitch in zip(pixels, destination[:4], destination[4:], strict=False):
                for row, values in enumerate(plane.numpy()):
                    ctypes.memmove(address + row * pitch, values.tobytes(), len(values))
        return 0


STREAM = types.SimpleNamespace(cuda_stream=7, synchronize=lambda: None)

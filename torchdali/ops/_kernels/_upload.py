"""Tables of parameters on their way to the device: one asynchronous copy a launch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["upload"]

_ALIGNMENT = 16


def upload(device: torch.device, *arrays: npt.NDArray[Any]) -> list[torch.Tensor]:
    """Copies of the arrays on a device, flat and of the same types.

    They go through pinned memory of torch's own cache, which does not use it again before the copy is done.
    """
    starts = [0]
    for array in arrays:
        starts.append(-(-(starts[-1] + array.nbytes) // _ALIGNMENT) * _ALIGNMENT)
    host = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    data = host.numpy()
    for start, array in zip(starts, arrays, strict=False):
        data[start : start + array.nbytes] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    there = host.to(device, non_blocking=True)
    return [
        there[start : start + array.nbytes].view(torch.from_numpy(array[:0].reshape(-1)).dtype)
        for start, array in zip(starts, arrays, strict=False)
    ]

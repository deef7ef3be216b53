"""One file to pixels on the CPU: what :class:`~torchdali.ops.DecodeImage` does with each on a CPU device."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from torchdali.ops._decoded import DecodeSettings
from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._exif import turn_upright
from torchdali.ops.decode._inspect import inspect
from torchdali.ops.decode._interface import CannotDecodeError, Mode

__all__ = ["decode_file"]


def decode_file(file: torch.Tensor, settings: DecodeSettings, max_bytes: int | None = None) -> torch.Tensor:
    """Inspect and decode a file in this thread.

    Args:
        file: its bytes, one-dimensional uint8 on the CPU.
        settings: as of the operator.
        max_bytes: of the pixels.

    Returns:
        uint8, (C, H, W), turned upright if that is wanted.

    Raises:
        CannotDecodeError: it is no image of a kind that is decoded, or one of more than ``max_bytes``.
    """
    mode = cast("Mode", settings.mode)
    info = inspect(np.ascontiguousarray(file.numpy()).data, settings.max_pixels)
    claimed = info.channels_in(mode) * info.height * info.width
    if max_bytes is not None and claimed > max_bytes:
        raise CannotDecodeError(f"its pixels would be {claimed} bytes", info)
    image = CpuDecoder(settings.library).decode_one(file, info, mode)
    return turn_upright(image, info.orientation) if settings.apply_exif_orientation else image

"""What becomes of an image that cannot be decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from torchdali.ops.decode._interface import ImageInfo, Mode
from torchdali.tensorlist import TensorList

__all__ = ["DecodeStatistics", "OnError", "check_policy", "substitute", "take"]

OnError: TypeAlias = Literal["raise", "skip", "replace"]


@dataclass
class DecodeStatistics:
    """Counters of a decoding operator since it was made."""

    images: int = 0
    """That it was given."""
    bad_images: int = 0
    """That could not be decoded, whatever was done about them."""
    given_images: int = 0
    """That workers of the pipeline had decoded already (``cpu_share``)."""


def check_policy(on_error: str, replacement: torch.Tensor | int | None, mode: Mode) -> None:
    """See that the policy makes sense.

    Raises:
        ValueError: there is no such policy, or the replacement does not fit it or the mode.
        TypeError: the replacement is no uint8 image.
    """
    if on_error not in ("raise", "skip", "replace"):
        raise ValueError(f'on_error is {on_error!r}; it is "raise", "skip" or "replace"')
    if replacement is None:
        return
    if on_error != "replace":
        raise ValueError(f'a replacement was given, but on_error is {on_error!r}; it is used with on_error="replace"')
    if isinstance(replacement, torch.Tensor):
        if replacement.dtype != torch.uint8 or replacement.dim() != 3:
            raise TypeError(
                f"replacement is a {replacement.dtype} tensor of shape {tuple(replacement.shape)}; it is a uint8 image of "
                "shape (C, H, W), also where layout is HWC"
            )
        expected = {"RGB": 3, "GRAY": 1}.get(mode)
        if expected is not None and replacement.shape[0] != expected:
            raise ValueError(f"replacement has {replacement.shape[0]} channels; images have {expected} in mode {mode}")
    elif isinstance(replacement, bool) or not isinstance(replacement, int):
        raise TypeError(f"replacement is {replacement!r}; it is a uint8 image, a value of 0 to 255, or None for zeros")
    elif not 0 <= replacement <= 255:
        raise ValueError(f"replacement is {replacement}; as a value of uint8 images it is 0 to 255")


def substitute(
    replacement: torch.Tensor | int | None,
    size: tuple[int, int] | None,
    info: ImageInfo | None,
    mode: Mode,
    device: torch.device,
) -> torch.Tensor:
    """The image (C, H, W) in the place of a bad one.

    Args:
        replacement: an image as it is; a number, or None for 0, fills one.
        size: height and width that the image would have had; None where not even its header could be read: 1 by 1.
        info: what the header says, None likewise.
        mode: that says how many channels there are.
        device: of the result.
    """
    if isinstance(replacement, torch.Tensor):
        return replacement.to(device, copy=True)  # each its own: who writes to one changes no other
    channels = info.channels_in(mode) if info is not None else 1 if mode == "GRAY" else 3
    return torch.full((channels, *(size or (1, 1))), replacement or 0, dtype=torch.uint8, device=device)


def take(batch: Any, kept: list[int]) -> Any:
    """The entries of a batch at some positions, as a batch of the same kind; None stays None."""
    if batch is None:
        return None
    if isinstance(batch, TensorList):
        if not kept:
            return batch[:0]
        if batch.block is not None:
            return TensorList.from_batch(batch.block[kept], batch.layout)
        return TensorList([batch[n] for n in kept], batch.layout, dtype=batch.dtype, device=batch.device)
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return batch[kept]
    return [batch[n] for n in kept]

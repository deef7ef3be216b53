"""The current device: where libraries beside torch work, whatever device their arguments lie on."""

from __future__ import annotations

import contextlib

import torch

__all__ = ["current"]


def current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Context in which a CUDA device is the current one of this thread; of another device nothing is changed."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()

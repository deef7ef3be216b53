"""How many samples there are in a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from torchdali.tensorlist import TensorList

__all__ = ["length_of"]


def length_of(value: Any, default: int) -> int:
    """Samples in a batch, as its first tensor or TensorList has them."""
    if isinstance(value, TensorList):
        return len(value)
    if isinstance(value, torch.Tensor):
        return default if value.is_nested or not value.dim() else len(value)
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return next((length_of(entry, default) for entry in entries), default)

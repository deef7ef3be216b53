"""Operators on any tensors, with DALI's names and arguments.

Inputs are outputs of other functions. ``device`` is where it is done, ``"cpu"`` or ``"gpu"``; by default where they are.
"""

from __future__ import annotations

import torch

from torchdali.fn._call import Device, add_call
from torchdali.ops._cast import Cast
from torchdali.ops._one_hot import OneHot
from torchdali.pipeline import DataNode

__all__ = ["cast", "one_hot"]


def cast(values: DataNode, *, dtype: torch.dtype, device: Device | None = None) -> DataNode:
    """Convert to another type, rounded and clamped: see :class:`torchdali.ops.Cast`.

    Args:
        values: of any shape.
        dtype: of the results.
        device: see the module.
    """
    return add_call("cast", Cast(dtype), values, device, {})


def one_hot(
    classes: DataNode,
    *,
    num_classes: int,
    axis: int | None = None,
    axis_name: str | None = None,
    off_value: float = 0.0,
    on_value: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: Device | None = None,
) -> DataNode:
    """Encode numbers of classes as vectors: see :class:`torchdali.ops.OneHot`.

    Args:
        classes: integers.
        num_classes, axis, axis_name, off_value, on_value, dtype: as there.
        device: see the module.
    """
    module = OneHot(num_classes, on_value, off_value, dtype, axis=axis, axis_name=axis_name)
    return add_call("one_hot", module, classes, device, {})

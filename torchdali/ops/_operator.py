"""The base of operators on batches."""

from __future__ import annotations

from torch import nn

__all__ = ["Operator"]


class Operator(nn.Module):
    """A module whose ``forward`` takes and returns batches: a :class:`~torchdali.TensorList`, or a tensor (N, ...).

    A pipeline hands batches to operators as they are; to any other module it hands tensors.
    """

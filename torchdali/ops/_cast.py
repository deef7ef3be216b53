"""Values as another type: rounded and clamped, never rescaled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from torchdali.ops._colour import Colour
from torchdali.ops._execute import has_kernels
from torchdali.ops._operator import ImageOperator
from torchdali.ops._steps import FLOATS, INTEGERS, Sizes, Step, convert
from torchdali.tensorlist import TensorList

__all__ = ["Cast"]

_TYPES = (torch.bool, *INTEGERS, *FLOATS)


def _convert_any(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.bool:
        return values != 0
    if values.dtype == torch.bool or dtype.is_floating_point:
        return values.to(dtype)
    if values.dtype.is_floating_point:
        return convert(values, dtype)
    limits, own = torch.iinfo(dtype), torch.iinfo(values.dtype)
    if limits.min > own.min or limits.max < own.max:
        values = values.clamp(max(limits.min, own.min), min(limits.max, own.max))
    return values.to(dtype)


class Cast(ImageOperator):
    """Convert to a type, as DALI's ``fn.cast``.

    What becomes an integer is rounded half to even and clamped to what the type can hold; what becomes floating point is
    rounded to its precision, and infinite beyond its range; bool is whether a value differs from 0. A NaN has no integer that
    it becomes.

    Args:
        dtype: of the results: bool, integer or floating point.

    Raises:
        ValueError: ``dtype`` is none of these.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        if dtype not in _TYPES:
            raise ValueError(f"dtype is {dtype!r}; it is one of {', '.join(map(str, _TYPES))}")
        self.dtype = dtype

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return str(self.dtype)

    def step(self, sizes: Sizes, dtype: torch.dtype, **arguments: Any) -> Step:
        """A change of colour that changes nothing, but for the type.

        Raises:
            ValueError: the type is bool, which images in :class:`Fused` cannot have.
        """
        if self.dtype == torch.bool:
            raise ValueError("Cast to torch.bool cannot be fused with other operators; call it after them")
        return Colour(np.ones(len(sizes)), np.zeros(len(sizes)), self.dtype)

    def forward(self, images: TensorList | torch.Tensor, **arguments: Any) -> TensorList | torch.Tensor:
        """Convert a batch.

        Args:
            images: N tensors of any shapes, or a tensor (N, ...); bool, integers or floating point.
            arguments: none.

        Returns:
            The same kind of batch of the same shapes, layout and device; itself if it has the type already.

        Raises:
            TypeError: the batch is of another type, such as complex.
        """
        if arguments:
            raise TypeError(
                f"Cast has no argument {next(iter(arguments))!r} in a call; the type is given when it is made: Cast(dtype)"
            )
        batch = TensorList.from_batch(images)
        if batch.dtype not in _TYPES:
            raise TypeError(f"values of type {batch.dtype} cannot be cast; bool, integers and floating point can")
        if batch.dtype == self.dtype:
            return images
        results = self._one_launch(batch)
        if results is None:
            batch = batch._packed_if_faster(batch.device)
            results = batch._whole(lambda values: _convert_any(values, self.dtype), self.dtype, batch.device)
        return results if isinstance(images, TensorList) else results.as_tensor()

    def _one_launch(self, batch: TensorList) -> TensorList | None:
        """Images that lie apart on the GPU: one launch for all of them instead of some for each."""
        apart = len(batch) > 1 and batch.block is None and batch.flat is None
        if not apart or not has_kernels(batch.device.type) or batch.layout not in ("", "CHW", "HWC"):
            return None
        if torch.bool in (batch.dtype, self.dtype) or torch.int64 in (batch.dtype, self.dtype):
            return None  # the step computes in floating point
        if any(tensor.dim() != 3 for tensor in batch):
            return None
        results = super().forward(batch)
        assert isinstance(results, TensorList)
        return results

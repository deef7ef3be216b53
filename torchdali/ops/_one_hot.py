"""Numbers of classes to vectors that are zero but for one place, by the rules of NVIDIA DALI's ``fn.one_hot``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from torchdali.ops._arguments import check_dtype
from torchdali.ops._operator import Operator
from torchdali.ops._steps import INTEGERS
from torchdali.tensorlist import TensorList

__all__ = ["OneHot"]


def _as_type(value: float, dtype: torch.dtype, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise ValueError(f"{name} is {value!r}; it is a finite number")
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        if value != int(value) or not limits.min <= value <= limits.max:
            raise ValueError(
                f"{name} is {value!r}, which {dtype} cannot hold; it holds whole numbers from {limits.min} to {limits.max}"
            )
    return value


class OneHot(Operator):
    """Replace each number of a class by a vector: ``on_value`` at the place of that number, ``off_value`` elsewhere.

    Args:
        num_classes: length of the vectors.
        on_value, off_value: what is in them.
        dtype: of the results, integers or floating point.
        axis: of a sample's dimensions, which one the vectors become; -1: the last. None: the last, but where each sample of
            the batch has one element only, whatever its number of dimensions, that is one class, and the results are of shape
            (num_classes,).
        axis_name: a letter for the new dimension in the layout. Without it the results have no layout.

    A number below 0 or from ``num_classes`` on has its place nowhere: all of its vector is ``off_value``.

    Raises:
        ValueError: ``num_classes`` is not a whole number of at least 1; a value does not fit the type; ``axis`` is below -1;
            ``axis_name`` is not one letter.
    """

    def __init__(
        self,
        num_classes: int,
        on_value: float = 1,
        off_value: float = 0,
        dtype: torch.dtype = torch.float32,
        *,
        axis: int | None = None,
        axis_name: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes is {num_classes!r}; it is the number of classes, at least 1")
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int) or axis < -1):
            raise ValueError(f"axis is {axis!r}; it is a dimension of the results, counted from 0, or -1 for the last")
        if axis_name is not None and (not isinstance(axis_name, str) or len(axis_name) != 1):
            raise ValueError(f"axis_name is {axis_name!r}; it is a single letter")
        check_dtype(dtype)
        self.num_classes = num_classes
        self.on_value = _as_type(on_value, dtype, "on_value")
        self.off_value = _as_type(off_value, dtype, "off_value")
        self.dtype = dtype
        self.axis = axis
        self.axis_name = axis_name

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        defaults: dict[str, Any] = {
            "on_value": 1,
            "off_value": 0,
            "dtype": torch.float32,
            "axis": None,
            "axis_name": None,
        }
        shown = [f"{name}={vars(self)[name]!r}" for name, value in defaults.items() if vars(self)[name] != value]
        return ", ".join([str(self.num_classes), *shown])

    def forward(self, classes: TensorList | torch.Tensor) -> TensorList | torch.Tensor:
        """Encode.

        Args:
            classes: N tensors of integers, of any shapes with the same number of dimensions, or a tensor (N, ...).

        Returns:
            The same kind of batch with one dimension more; on the device of the input.

        Raises:
            TypeError: the classes are no integers.
            ValueError: there is no such axis.
        """
        batch = TensorList.from_batch(classes)
        if batch.dtype not in INTEGERS:
            raise TypeError(f"classes of type {batch.dtype} have no place among {self.num_classes}; they are integers")
        if not len(batch) and batch.is_dense_tensor():
            block = batch.as_tensor()
            none = self.forward(TensorList.from_batch(block.new_zeros((1, *block.shape[1:])), batch.layout))[:0]
            return none if isinstance(none, torch.Tensor) or isinstance(classes, TensorList) else none.as_tensor()
        if self.axis is None and len(batch) and bool((batch.sizes.prod(1) == 1).all()):
            batch, axis = self._as_scalars(batch), 0
        else:
            dim = batch.sizes.shape[1]
            axis = dim if self.axis in (None, -1) else int(self.axis or 0)
            if axis > dim:
                raise ValueError(f"axis is {axis}; with samples of {dim} dimensions it is -1 or from 0 to {dim}")
        layout = self._layout(batch, axis)
        if batch.block is not None:
            results = TensorList.from_batch(self._encode(batch.block, axis + 1), layout)
        else:
            results = self._encode_buffer(batch.pack(), axis, layout)
        return results if isinstance(classes, TensorList) else results.as_tensor()

    @staticmethod
    def _as_scalars(batch: TensorList) -> TensorList:
        if batch.block is not None:
            return TensorList.from_batch(batch.block.reshape(-1))
        packed = batch.pack()
        assert packed.flat is not None
        return TensorList.from_batch(packed.flat)

    def _layout(self, batch: TensorList, axis: int) -> str:
        if self.axis_name is None:
            return ""
        if len(batch.layout) != batch.sizes.shape[1]:
            raise ValueError(
                f"axis_name={self.axis_name!r} names one dimension of the results, but the classes have no layout that names "
                f"the other {batch.sizes.shape[1]}; leave it out"
            )
        return batch.layout[:axis] + self.axis_name + batch.layout[axis:]

    def _encode(self, classes: torch.Tensor, axis: int) -> torch.Tensor:
        shape = [1] * (classes.dim() + 1)
        shape[axis] = self.num_classes
        numbers = torch.arange(self.num_classes, device=classes.device).view(shape)
        here = classes.unsqueeze(axis) == numbers
        return torch.full(here.shape, self.off_value, dtype=self.dtype, device=here.device).masked_fill_(
            here, self.on_value
        )

    def _encode_buffer(self, batch: TensorList, axis: int, layout: str) -> TensorList:
        """All samples at once: in memory the new dimension is the fastest, wherever it stands."""
        assert batch.flat is not None
        assert batch.offsets is not None
        assert batch.order is not None
        order = (*(old + (old >= axis) for old in batch.order), axis)
        return TensorList.from_flat(
            self._encode(batch.flat, 1).view(-1),
            np.insert(batch.sizes, axis, self.num_classes, axis=1),
            layout,
            offsets=batch.offsets * self.num_classes,
            order=order,
        )

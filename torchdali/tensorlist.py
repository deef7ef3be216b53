"""The ragged batch: one tensor a sample, of equal type and device, of any shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["TensorList"]


class TensorList:
    """A batch of tensors whose shapes may differ.

    It behaves as a sequence of tensors. Where all shapes agree it can stand for one tensor with the batch first: torch
    functions that get a ``TensorList`` take it as that (``torch.nn.functional.cross_entropy(logits, labels)``), and say
    so where shapes differ.

    Args:
        tensors: one for each sample, of one dtype on one device.
        layout: what the dimensions of a sample are, one letter each, such as ``"HWC"``; empty when unknown.
        dtype, device: of an empty list, which has no tensor to take them from.

    Raises:
        TypeError: something is no tensor, or dtypes differ.
        ValueError: devices differ, or the layout has not one letter for each dimension.
    """

    __slots__ = ("_block", "_device", "_dtype", "_layout", "_tensors")

    def __init__(
        self,
        tensors: Sequence[torch.Tensor],
        layout: str = "",
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._tensors = list(tensors)
        self._block: torch.Tensor | None = None
        self._layout = layout
        self._dtype, self._device = dtype, torch.device(device)
        for index, tensor in enumerate(self._tensors):
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"sample {index} of a TensorList is a {type(tensor).__name__}, not a tensor")
            if index == 0:
                self._dtype, self._device = tensor.dtype, tensor.device
            elif tensor.dtype != self._dtype:
                raise TypeError(f"sample {index} is {tensor.dtype} but the ones before are {self._dtype}")
            elif tensor.device != self._device:
                raise ValueError(f"sample {index} is on {tensor.device} but the ones before are on {self._device}")
            if layout and tensor.dim() != len(layout):
                raise ValueError(
                    f"sample {index} has shape {tuple(tensor.shape)}, which does not fit layout {layout!r}"
                )

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Element type of all samples."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where all samples are."""
        return self._device

    @property
    def layout(self) -> str:
        """Meaning of a sample's dimensions, such as ``"CHW"``; empty when unknown."""
        return self._layout

    def shape(self) -> list[tuple[int, ...]]:
        """The shape of each sample."""
        return [tuple(tensor.shape) for tensor in self._tensors]

    @property
    def block(self) -> torch.Tensor | None:
        """The tensor of shape (N, ...) whose parts the samples are, if they lie in one."""
        return self._block

    def is_dense_tensor(self) -> bool:
        """True when all shapes agree, so that :meth:`as_tensor` works."""
        return len(self._tensors) > 0 and all(tensor.shape == self._tensors[0].shape for tensor in self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._tensors)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> TensorList: ...

    def __getitem__(self, index: int | slice) -> torch.Tensor | TensorList:
        if isinstance(index, slice):
            if self._block is not None and (index.step is None or index.step > 0):
                return TensorList.from_batch(self._block[index], self._layout)
            return self._like(self._tensors[index])
        return self._tensors[index]

    def __repr__(self) -> str:
        shapes = ", ".join(str(shape) for shape in self.shape()[:4]) + (", ..." if len(self) > 4 else "")
        layout = f", layout={self._layout!r}" if self._layout else ""
        return f"TensorList({len(self)} x {self._dtype} on {self._device}{layout}, shapes [{shapes}])"

    # --- one sample ---------------------------------------------------------------------------------------------------

    def at(self, index: int) -> npt.NDArray[Any]:
        """Sample ``index`` as a NumPy array that shares its memory.

        Raises:
            TypeError: the batch is not in CPU memory; ``as_cpu()`` brings it there.
        """
        return self._on_cpu("at")._tensors[index].numpy()

    # --- the whole batch ----------------------------------------------------------------------------------------------

    def as_cpu(self) -> TensorList:
        """The batch in CPU memory; itself when it is there already."""
        return self if self._device.type == "cpu" else self.to("cpu")

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> TensorList:
        """The batch on another device; itself when it is there already."""
        target = torch.device(device)
        if target == self._device:
            return self
        if self._block is not None:  # one copy instead of one for each sample
            return TensorList.from_batch(self._block.to(target, non_blocking=non_blocking), self._layout)
        moved = [tensor.to(target, non_blocking=non_blocking) for tensor in self._tensors]
        return TensorList(moved, self._layout, dtype=self._dtype, device=target)

    def as_tensor(self) -> torch.Tensor:
        """One tensor of shape (N, ...).

        Where the samples lie in one block already, as those of equal shape that workers wrote do, it is that block; else a
        copy.

        Raises:
            ValueError: the batch is empty or its shapes differ.
        """
        if self._block is not None:
            return self._block
        if not self._tensors:
            raise ValueError("an empty TensorList has no shape to make a tensor of")
        if not self.is_dense_tensor():
            first = tuple(self._tensors[0].shape)
            other = next(index for index, shape in enumerate(self.shape()) if shape != first)
            raise ValueError(
                f"shapes differ: sample 0 has {first}, sample {other} has {self.shape()[other]}. Take samples one by "
                "one (`at(i)`, iteration), or resize or crop them to one size first"
            )
        return torch.stack(self._tensors)

    stack = as_tensor

    def as_array(self) -> npt.NDArray[Any]:
        """One NumPy array of shape (N, ...), as :meth:`as_tensor`.

        Raises:
            TypeError: the batch is not in CPU memory.
            ValueError: the batch is empty or its shapes differ.
        """
        return self._on_cpu("as_array").as_tensor().numpy()

    def map(self, function: Callable[[torch.Tensor], torch.Tensor], layout: str | None = None) -> TensorList:
        """Apply ``function`` to each sample.

        ``layout`` is that of the results, by default the same where the number of dimensions is.
        """
        results = [function(tensor) for tensor in self._tensors]
        if layout is None:
            layout = self._layout if all(result.dim() == len(self._layout) for result in results) else ""
        return TensorList(results, layout, dtype=self._dtype, device=self._device)

    def _like(self, tensors: Sequence[torch.Tensor]) -> TensorList:
        return TensorList(tensors, self._layout, dtype=self._dtype, device=self._device)

    def _on_cpu(self, method: str) -> TensorList:
        if self._device.type != "cpu":
            raise TypeError(f"the batch is on {self._device}: write `.as_cpu().{method}(...)`")
        return self

    # --- in the place of a tensor -------------------------------------------------------------------------------------

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a TensorList cannot become an array without a copy")
        return np.asarray(self.as_array(), dtype)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        keywords: dict[str, Any] | None = None,
    ) -> Any:
        def dense(value: Any) -> Any:
            if isinstance(value, TensorList):
                return value.as_tensor()
            if isinstance(value, (list, tuple)) and any(isinstance(entry, TensorList) for entry in value):
                return type(value)(dense(entry) for entry in value)
            return value

        if function in (torch.stack, torch.cat) and arguments and isinstance(arguments[0], TensorList):
            return function(list(arguments[0]), *arguments[1:], **(keywords or {}))
        return function(*map(dense, arguments), **{key: dense(value) for key, value in (keywords or {}).items()})

    @staticmethod
    def from_batch(batch: torch.Tensor | TensorList, layout: str = "") -> TensorList:
        """A TensorList of a tensor of shape (N, ...), which shares its memory; a TensorList as it is."""
        if isinstance(batch, TensorList):
            return batch
        if batch.dim() == 0:
            raise ValueError("a 0-dimensional tensor has no batch dimension")
        made = TensorList(batch.unbind(0), layout, dtype=batch.dtype, device=batch.device)
        if len(made):
            made._block = batch
        return made

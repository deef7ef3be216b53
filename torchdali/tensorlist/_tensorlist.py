"""The public type: what can be done with a ragged batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch

from torchdali.tensorlist._metadata import counts_of, overlap
from torchdali.tensorlist._packing import gather_flat, is_packed, padded, padded_shape
from torchdali.tensorlist._stand_in import StandIn
from torchdali.tensorlist._storage import Storage
from torchdali.tensorlist._targets import parse_target

__all__ = ["TensorList"]

_SMALL = 1 << 16  # bytes of a sample
_EMPTY = "an empty TensorList has no shape to make a tensor of; see len() first"


class TensorList(Storage, StandIn):
    """A batch of tensors whose shapes may differ.

    It behaves as a sequence of tensors; a slice, a list or array of positions, or a mask of bools takes some of them, which
    share the memory. Where all shapes agree it can stand for one tensor with the batch first: torch functions and
    arithmetic operators that get a ``TensorList`` take it as that (``torch.nn.functional.cross_entropy(logits, labels)``,
    ``batch / 255``), and say so where shapes differ; not so ``==`` (``torch.eq(labels, 3)``) and ``table[labels.as_tensor()]``.

    Args:
        tensors: one for each sample, of one dtype on one device.
        layout: what the dimensions of a sample are, one letter each, such as ``"HWC"``; empty when unknown.
        dtype, device: of an empty list, which has no tensor to take them from.

    Raises:
        TypeError: something is no tensor, or dtypes differ.
        ValueError: devices differ, or the layout has not one letter for each dimension.
    """

    __slots__ = ()

    def __init__(
        self,
        tensors: Sequence[torch.Tensor],
        layout: str = "",
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        own, device = list(tensors), torch.device(device)
        for index, tensor in enumerate(own):
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"sample {index} of a TensorList is a {type(tensor).__name__}, not a tensor")
            if index == 0:
                dtype, device = tensor.dtype, tensor.device
            elif tensor.dtype != dtype:
                raise TypeError(
                    f"sample {index} is {tensor.dtype} but the ones before are {dtype}; convert them to one type first"
                )
            elif tensor.device != device:
                raise ValueError(f"sample {index} is on {tensor.device} but the ones before are on {device}; move them")
            if layout and tensor.dim() != len(layout):
                raise ValueError(
                    f"sample {index} has shape {tuple(tensor.shape)}, which does not fit layout {layout!r}"
                )
        self._set(own, layout, dtype, device)

    def __repr__(self) -> str:
        shapes = ", ".join(str(shape) for shape in self.shape()[:4]) + (", ..." if len(self) > 4 else "")
        layout = f", layout={self._layout!r}" if self._layout else ""
        return f"TensorList({len(self)} x {self._dtype} on {self._device}{layout}, shapes [{shapes}])"

    def __reduce__(self) -> Any:
        if self._block is not None:
            return TensorList._of_block, (self._block, self._layout)
        if self._flat is not None:
            return TensorList._of_buffer, (self._flat, self._offsets, self._shapes, self._order, self._layout)
        if self._sample is not None:
            return TensorList._empty, (self._sample, self._layout, self._dtype, self._device)
        return TensorList._trusted, (self._all(), self._layout, self._dtype, self._device)

    # --- one sample ---------------------------------------------------------------------------------------------------

    def at(self, index: int) -> npt.NDArray[Any]:
        """Sample ``index`` as a NumPy array that shares its memory.

        Raises:
            TypeError: the batch is not in CPU memory; ``as_cpu()`` brings it there.
        """
        return self._on_cpu("at")[index].numpy()

    # --- from and to other types --------------------------------------------------------------------------------------

    @staticmethod
    def from_batch(batch: torch.Tensor | TensorList, layout: str = "") -> TensorList:
        """A TensorList of a tensor of shape (N, ...), which shares its memory; a TensorList as it is."""
        if isinstance(batch, TensorList):
            return batch
        if not isinstance(batch, torch.Tensor):
            raise TypeError(
                f"a {type(batch).__name__} is no batch; a batch is a TensorList or a tensor (N, ...): TensorList(tensors) makes "
                "one of a list of tensors, torch.from_numpy(array) a tensor of an array"
            )
        if batch.is_nested:
            raise TypeError("a nested tensor is no tensor (N, ...); TensorList.from_nested(batch) makes a batch of it")
        if batch.dim() == 0:
            raise ValueError("a 0-dimensional tensor has no batch dimension; a batch is (N, ...)")
        if layout and batch.dim() != len(layout) + 1:
            raise ValueError(f"samples have shape {tuple(batch.shape[1:])}, which does not fit layout {layout!r}")
        return TensorList._of_block(batch, layout)

    @staticmethod
    def from_numpy(arrays: Sequence[npt.NDArray[Any]], layout: str = "") -> TensorList:
        """A TensorList of arrays of one type, which shares their memory; read-only ones are copied.

        Raises:
            TypeError: types differ, or torch has none such.
        """
        tensors = []
        for array in arrays:
            backwards = any(stride < 0 or stride % array.itemsize for stride in array.strides)
            tensors.append(torch.from_numpy(array if array.flags.writeable and not backwards else array.copy()))
        return TensorList(tensors, layout)

    @staticmethod
    def from_nested(nested: torch.Tensor, layout: str = "") -> TensorList:
        """A TensorList of a nested tensor, which shares its memory.

        Raises:
            TypeError: it is no nested tensor.
        """
        if not (isinstance(nested, torch.Tensor) and nested.is_nested):
            raise TypeError(f"a {type(nested).__name__} that is no nested tensor: `from_batch` takes tensors (N, ...)")
        return TensorList(nested.unbind(), layout, dtype=nested.dtype, device=nested.device)

    def to_nested(self, layout: torch.layout = torch.strided) -> torch.Tensor:
        """A nested tensor with a copy of the samples.

        Args:
            layout: ``torch.strided``, or ``torch.jagged`` for samples that differ in one dimension only.
        """
        return torch.nested.as_nested_tensor(list(self), layout=layout)

    def numpy(self) -> list[npt.NDArray[Any]]:
        """The samples as NumPy arrays that share their memory.

        Raises:
            TypeError: the batch is not in CPU memory.
        """
        return [tensor.numpy() for tensor in self._on_cpu("numpy")]

    def as_tensor(self) -> torch.Tensor:
        """One tensor of shape (N, ...).

        Where the samples lie at equal distances in one memory already, as those of equal shape that workers wrote do, it
        shares that; else it is a copy.

        Raises:
            ValueError: its shapes differ, or the batch is empty and nobody knows which shape samples would have.
        """
        if self._block is not None:
            return self._block
        if not len(self):
            sample = [extent for extent in self._sample or () if extent is not None]
            if self._sample is None or len(sample) < len(self._sample):
                raise ValueError(_EMPTY)
            return torch.empty((0, *sample), dtype=self._dtype, device=self._device)
        if not self.is_dense_tensor():
            shapes = self.shape()
            other = next(index for index, shape in enumerate(shapes) if shape != shapes[0])
            raise ValueError(
                f"shapes differ: sample 0 has {shapes[0]}, sample {other} has {shapes[other]}. Take samples one by one "
                "(`at(i)`, iteration), fill them up to one size (`pad()`), or resize or crop them to one size first"
            )
        if self._flat is not None and self._offsets is not None:
            steps = np.diff(self._offsets)
            # No less than a sample: else what is written to one of the rows would be in others as well.
            if len(steps) == 0 or (steps[0] >= np.prod(self.sizes[0]) and bool((steps == steps[0]).all())):
                step = int(steps[0]) if len(steps) else 1
                shape, strides = self.sizes[0].tolist(), self.strides[0].tolist()
                start = self._flat.storage_offset() + int(self._offsets[0])
                return self._flat.as_strided((len(self), *shape), (step, *strides), start)
        return torch.stack(self._all())

    def stack(self, dim: int = 0) -> torch.Tensor:
        """:meth:`as_tensor` with the batch as dimension ``dim`` of the result."""
        batch = self.as_tensor()
        return batch if dim == 0 else batch.movedim(0, dim)

    def as_array(self) -> npt.NDArray[Any]:
        """One NumPy array of shape (N, ...), as :meth:`as_tensor`.

        Raises:
            TypeError: the batch is not in CPU memory.
            ValueError: the batch is empty or its shapes differ.
        """
        return self._on_cpu("as_array").as_tensor().numpy()

    # --- the whole batch ----------------------------------------------------------------------------------------------

    def as_cpu(self) -> TensorList:
        """The batch in CPU memory; itself when it is there already."""
        return self if self._device.type == "cpu" else self.to("cpu")

    cpu = as_cpu

    def cuda(self, device: torch.device | str | int | None = None, *, non_blocking: bool = False) -> TensorList:
        """The batch on a CUDA device, by default the current one; itself when it is there already."""
        return self.to("cuda" if device is None else device, non_blocking=non_blocking)

    def to(self, *target: Any, non_blocking: bool = False, copy: bool = False, **named: Any) -> TensorList:
        """The batch on another device, of another type, or both: the forms of ``torch.Tensor.to``.

        Args:
            target: ``to(device)``, ``to(dtype)``, ``to(device, dtype)`` or ``to(other)``, a tensor or batch.
            non_blocking: from and to pinned memory without waiting for the copy.
            copy: also where it is there already.
            named: ``device`` and ``dtype`` by name.

        Returns:
            A batch; this one when nothing is to be done. What lies in one memory takes one copy.
        """
        device, dtype, non_blocking, copy = parse_target(self, target, named, non_blocking, copy)
        if device == self._device and dtype == self._dtype and not copy:
            return self
        batch = self._packed_if_faster(device)
        return batch._whole(
            lambda tensor: tensor.to(device, dtype, non_blocking=non_blocking, copy=copy), dtype, device
        )

    def clone(self) -> TensorList:
        """A copy, with the dimensions in the same order in memory."""
        return self._whole(torch.clone, self._dtype, self._device)

    def _whole(
        self, function: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, device: torch.device
    ) -> TensorList:
        """Apply something that goes element by element to as few tensors as hold the batch."""
        if self._block is not None:
            return TensorList._of_block(function(self._block), self._layout)
        if self._sample is not None:
            return TensorList._empty(self._sample, self._layout, dtype, device)
        if self._flat is not None and self._offsets is not None:
            joint = self._flat.numel() <= 2 * self.numel() and not overlap(self._offsets, counts_of(self.sizes))
            batch = self if joint else self.pack()
            assert batch._flat is not None
            assert batch._offsets is not None
            return TensorList._of_buffer(function(batch._flat), batch._offsets, self.sizes, batch._order, self._layout)
        done = [function(tensor) for tensor in self._all()]
        return TensorList._trusted(done, self._layout, dtype, done[0].device if done else device, self._shapes)

    def _packed_if_faster(self, target: torch.device) -> TensorList:
        """The batch in one buffer where one operation or copy for all samples beats one for each."""
        apart = self._block is None and self._flat is None and len(self) > 1
        if not apart or "cuda" not in (self._device.type, target.type) or len({t.dim() for t in self._all()}) > 1:
            return self
        # On the GPU packing is one quick launch. On the way to it, what is large goes better without one more copy.
        return self.pack() if self._device.type == "cuda" or self.nbytes < _SMALL * len(self) else self

    def pack(self, alignment: int = 1) -> TensorList:
        """The samples in one buffer (:attr:`flat`), one after another; itself when they are already.

        Args:
            alignment: each begins at a multiple of so many bytes from the buffer's beginning, which the allocator aligns to 64
                bytes on the CPU and to 512 on the GPU. What is between them is zero.

        Returns:
            A batch whose samples have their dimensions in memory in the order they have in this one, if that is the same for
            all and leaves no gaps; else in the order of their numbers.

        Raises:
            ValueError: the samples have different numbers of dimensions, or ``alignment`` does not go with the type.
        """
        item = self._dtype.itemsize
        if not isinstance(alignment, int) or alignment < 1 or (alignment % item and item % alignment):
            raise ValueError(f"alignment is {alignment!r}; it is 1, or a multiple of a {self._dtype}'s {item} bytes")
        step = max(alignment // item, 1)
        if is_packed(self, None, step):
            return self
        flat, offsets, order = gather_flat(self, None, step)
        return TensorList._of_buffer(flat, offsets, self.sizes, order, self._layout, self._sample)

    def contiguous(self) -> TensorList:
        """The samples in one buffer, one after another, each contiguous; itself when they are already.

        Raises:
            ValueError: the samples have different numbers of dimensions.
        """
        order = tuple(range(self.sizes.shape[1]))
        if is_packed(self, order, 1):
            return self
        if self._block is not None:
            return TensorList._of_block(self._block.contiguous(), self._layout)
        flat, offsets, order = gather_flat(self, order)
        return TensorList._of_buffer(flat, offsets, self.sizes, order, self._layout, self._sample)

    @overload
    def pad(
        self,
        value: float = 0,
        size: int | Sequence[int] | None = None,
        multiple_of: int | Sequence[int] = 1,
        *,
        return_lengths: Literal[False] = False,
        return_mask: Literal[False] = False,
    ) -> torch.Tensor: ...

    @overload
    def pad(
        self,
        value: float = 0,
        size: int | Sequence[int] | None = None,
        multiple_of: int | Sequence[int] = 1,
        *,
        return_lengths: bool = False,
        return_mask: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]: ...

    def pad(
        self,
        value: float = 0,
        size: int | Sequence[int] | None = None,
        multiple_of: int | Sequence[int] = 1,
        *,
        return_lengths: bool = False,
        return_mask: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """One tensor (N, ...) with each sample at its beginning and ``value`` after it.

        Args:
            value: of what is added.
            size: of the result, for each dimension of a sample; one number is for all but channels (the C of a layout). By
                default, or where it is None, the largest of the batch.
            multiple_of: sizes are rounded up to multiples of it, likewise.
            return_lengths: give the sizes before, too: int64 (N,) for one-dimensional samples, else (N, d).
            return_mask: give a bool tensor of the result's shape that is True on the samples, too.

        Returns:
            The tensor, or a tuple of it and what else is wanted, in this order.

        Raises:
            ValueError: the batch is empty, samples have different numbers of dimensions or are larger than ``size``.
        """
        if not len(self):
            raise ValueError(_EMPTY)
        shape = padded_shape(self.sizes, self._layout, size, multiple_of)
        flat = self.contiguous().flat if self._device.type == "cuda" else None
        result, mask = padded(self, flat, shape, value, want_mask=return_mask)
        extra = []
        if return_lengths:
            lengths = torch.from_numpy(self.sizes.copy()).to(self._device)
            extra.append(lengths[:, 0] if lengths.shape[1] == 1 else lengths)
        if return_mask and mask is not None:
            extra.append(mask)
        return (result, *extra) if extra else result

    def map(self, function: Callable[[torch.Tensor], torch.Tensor], layout: str | None = None) -> TensorList:
        """Apply ``function`` to each sample.

        ``layout`` is that of the results, by default the same where the number of dimensions is.
        """
        results = [function(tensor) for tensor in self]
        if layout is None:
            layout = self._layout if all(result.dim() == len(self._layout) for result in results) else ""
        return TensorList(results, layout, dtype=self._dtype, device=self._device)

    def _on_cpu(self, method: str) -> TensorList:
        if self._device.type != "cpu":
            raise TypeError(f"the batch is on {self._device}: write `.as_cpu().{method}(...)`")
        return self

    # --- memory -------------------------------------------------------------------------------------------------------

    def pin_memory(self, device: Any = None) -> TensorList:
        """The batch in pinned memory; itself when it is there already. Separate samples come into one buffer."""
        if self.is_pinned():
            return self
        if self._block is not None or self._flat is not None or len({tensor.dim() for tensor in self._all()}) != 1:
            return self._whole(lambda tensor: tensor.pin_memory(), self._dtype, self._device)
        flat, offsets, order = gather_flat(self, None, pin=True)
        return TensorList._of_buffer(flat, offsets, self.sizes, order, self._layout)

    def is_pinned(self) -> bool:
        """Whether all samples are in pinned memory."""
        return len(self) > 0 and all(tensor.is_pinned() for tensor in self._holders())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that the samples are used on a CUDA stream other than the one they were made on."""
        for tensor in self._holders():
            tensor.record_stream(stream)

    def _holders(self) -> list[torch.Tensor]:
        """The tensors that hold the memory of all samples."""
        if self._views is not None:
            return list(self._views.bases)
        whole = self._block if self._block is not None else self._flat
        return self._all() if whole is None else [whole]

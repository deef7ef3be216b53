"""How a ragged batch is kept: as separate tensors, as one tensor (N, ...), as one flat buffer with offsets, or as views.

Of the latter three the samples' tensors are views that are made when they are asked for, and kept then. What kernels need
to know, shapes, strides and addresses, is computed once, as NumPy arrays, and needs no such view.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import torch

from torchdali.tensorlist._metadata import (
    Integers,
    Order,
    as_offsets,
    as_shapes,
    common_order,
    counts_of,
    dense_strides,
    pointers_of,
    positions_of,
    rows_of,
    shapes_of,
    strides_of,
)
from torchdali.tensorlist._selection import select
from torchdali.tensorlist._views import Views

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Storage"]


class Storage:
    """What a ragged batch consists of, and where it lies."""

    __slots__ = (
        "__weakref__",
        "_block",
        "_complete",
        "_device",
        "_dtype",
        "_flat",
        "_layout",
        "_offsets",
        "_order",
        "_pointers",
        "_sample",
        "_shapes",
        "_strides",
        "_tensors",
        "_views",
    )

    _tensors: list[torch.Tensor | None]
    _complete: bool  # no entry of _tensors is None
    _layout: str
    _dtype: torch.dtype
    _device: torch.device
    _block: torch.Tensor | None
    _flat: torch.Tensor | None
    _offsets: Integers | None
    _order: Order | None
    _sample: tuple[int | None, ...] | None
    """Of an empty batch: the shape that a sample would have, where that is known; None for an extent that is not."""
    _shapes: Integers | None
    _strides: Integers | None
    _pointers: Integers | None
    _views: Views | None

    # --- making one -----------------------------------------------------------------------------------------------------

    def _set(
        self,
        tensors: list[Any],
        layout: str,
        dtype: torch.dtype,
        device: torch.device,
        *,
        complete: bool = True,
        shapes: Integers | None = None,
    ) -> None:
        self._tensors, self._complete = tensors, complete
        self._layout, self._dtype, self._device = layout, dtype, device
        self._shapes = shapes
        self._block = self._flat = self._offsets = self._order = self._strides = self._pointers = self._views = None
        self._sample = None

    @classmethod
    def _trusted(
        cls,
        tensors: list[torch.Tensor],
        layout: str,
        dtype: torch.dtype,
        device: torch.device,
        shapes: Integers | None = None,
    ) -> Self:
        """Of tensors that are known to fit each other: nothing is checked, and the list is not copied."""
        made = cls.__new__(cls)
        made._set(tensors, layout, dtype, device, shapes=shapes)
        return made

    @classmethod
    def _of_buffer(
        cls,
        flat: torch.Tensor,
        offsets: Integers,
        shapes: Integers,
        order: Order | None = None,
        layout: str = "",
        sample: tuple[int | None, ...] | None = None,
    ) -> Self:
        """As :meth:`from_flat`, of what is known to fit; with what is known of the samples of an empty batch."""
        made = cls.__new__(cls)
        made._set([None] * len(shapes), layout, flat.dtype, flat.device, complete=False, shapes=shapes)
        made._flat, made._offsets = flat, offsets
        made._order = tuple(range(shapes.shape[1])) if order is None else order
        made._sample = sample
        return made

    @classmethod
    def _of_block(cls, block: torch.Tensor, layout: str) -> Self:
        made, count = cls.__new__(cls), block.shape[0]
        if count == 0:
            return cls._empty(tuple(block.shape[1:]), layout, block.dtype, block.device)
        made._set([None] * count, layout, block.dtype, block.device, complete=False)
        made._block = block
        return made

    @classmethod
    def _empty(cls, sample: tuple[int | None, ...], layout: str, dtype: torch.dtype, device: torch.device) -> Self:
        made = cls._trusted([], layout, dtype, device, np.empty((0, len(sample)), np.int64))
        made._sample = sample
        return made

    @classmethod
    def _of_views(cls, views: Views, shapes: Integers, strides: Integers, layout: str) -> Self:
        """Of samples, at least one, that may have gaps between their elements."""
        made = cls.__new__(cls)
        base = views.bases[0]
        made._set([None] * len(shapes), layout, base.dtype, base.device, complete=False, shapes=shapes)
        made._views, made._strides = views, strides
        return made

    @classmethod
    def from_flat(
        cls,
        flat: torch.Tensor,
        shapes: Sequence[Sequence[int]] | npt.NDArray[Any] | torch.Tensor,
        layout: str = "",
        *,
        offsets: Sequence[int] | npt.NDArray[Any] | None = None,
        order: Sequence[int] | None = None,
    ) -> Self:
        """A batch of samples that lie in one buffer, which is not copied.

        Args:
            flat: one-dimensional and contiguous; a sample is some consecutive elements of it.
            shapes: N shapes of d dimensions.
            layout: as of a :class:`~torchdali.TensorList`.
            offsets: N, where each sample begins, in elements; by default each begins where the one before ends.
            order: d dimensions of a sample from the slowest to the fastest in memory; by default as they are numbered.
                (2, 0, 1) gives samples of shape (height, width, channels) whose channels lie in planes.

        Raises:
            TypeError: ``flat`` is no tensor, or something is no integer.
            ValueError: a sample does not lie within the buffer; ``order`` does not name each dimension once; shapes and
                layout do not fit.
        """
        if not isinstance(flat, torch.Tensor):
            raise TypeError(f"flat is a {type(flat).__name__}, not a tensor")
        if flat.dim() != 1 or not flat.is_contiguous():
            raise ValueError(
                f"flat has shape {tuple(flat.shape)} and strides {flat.stride()}; a buffer has one dimension and no gaps"
            )
        sizes = as_shapes(shapes, len(layout))
        if layout and sizes.shape[1] != len(layout):
            raise ValueError(f"the shapes have {sizes.shape[1]} dimensions, which does not fit layout {layout!r}")
        if order is not None and sorted(order) != list(range(sizes.shape[1])):
            raise ValueError(
                f"order is {tuple(order)}; it names each of the {sizes.shape[1]} dimensions once, the slowest first"
            )
        starts = as_offsets(offsets, counts_of(sizes), flat.numel())
        return cls._of_buffer(flat, starts, sizes, None if order is None else tuple(order), layout)

    # --- what it is -----------------------------------------------------------------------------------------------------

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

    @property
    def block(self) -> torch.Tensor | None:
        """The tensor of shape (N, ...) whose parts the samples are, if they lie in one."""
        return self._block

    @property
    def sizes(self) -> Integers:
        """The shapes as an int64 array (N, d), to be read only.

        Raises:
            ValueError: the samples have different numbers of dimensions.
        """
        if self._shapes is None:
            if self._block is not None:
                self._shapes = rows_of(self._block.shape[1:], len(self._tensors))
            else:
                self._shapes = shapes_of(self._all())
        return self._shapes

    @property
    def strides(self) -> Integers:
        """The strides in elements, an int64 array (N, d), to be read only.

        Raises:
            ValueError: the samples have different numbers of dimensions.
        """
        if self._strides is None:
            if self._block is not None:
                self._strides = rows_of(self._block.stride()[1:], len(self._tensors))
            elif self._flat is not None:
                self._strides = dense_strides(self.sizes, self._order)
            else:
                self._strides = strides_of(self._all(), self.sizes)
        return self._strides

    @property
    def pointers(self) -> Integers:
        """The address of each sample's first element, an int64 array (N,), to be read only."""
        if self._pointers is None:
            if self._block is not None:
                step = self._block.stride(0) * self._block.element_size()
                self._pointers = self._block.data_ptr() + np.arange(len(self._tensors), dtype=np.int64) * int(step)
            elif self._flat is not None and self._offsets is not None:
                self._pointers = self._flat.data_ptr() + self._offsets * self._flat.element_size()
            elif self._views is not None:
                self._pointers = self._views.pointers()
            else:
                self._pointers = pointers_of(self._all())
        return self._pointers

    @property
    def flat(self) -> torch.Tensor | None:
        """The one-dimensional buffer that all samples lie in, each without gaps; None where they lie apart.

        ``offsets`` tells where in it they begin, and ``order`` in which order their dimensions lie there. There may be
        more in it than the samples. :meth:`~torchdali.TensorList.pack` brings samples into one.
        """
        if self._flat is None and self._block is not None:
            self._find_buffer_of_block(self._block)
        return self._flat

    @property
    def offsets(self) -> Integers | None:
        """Where in :attr:`flat` each sample begins, in elements, an int64 array (N,); None without a buffer."""
        return self._offsets if self.flat is not None else None

    @property
    def order(self) -> Order | None:
        """Dimensions of the samples in :attr:`flat` from the slowest to the fastest; None without a buffer."""
        return self._order if self.flat is not None else None

    def _find_buffer_of_block(self, block: torch.Tensor) -> None:
        order = common_order(self.sizes[:1], self.strides[:1])
        if order is not None:
            length = int(np.prod(block.shape[1:], dtype=np.int64))
            step = int(block.stride(0)) if length else 0  # samples of nothing lie nowhere
            self._flat = block.as_strided(((len(block) - 1) * step + length,), (1,))
            self._offsets = np.arange(len(block), dtype=np.int64) * step
            self._order = order

    def shape(self) -> list[tuple[int, ...]]:
        """The shape of each sample."""
        if self._block is not None:
            return [tuple(self._block.shape[1:])] * len(self._tensors)
        if self._shapes is not None:
            return list(map(tuple, self._shapes.tolist()))
        return [tuple(tensor.shape) for tensor in self._all()]

    def is_dense_tensor(self) -> bool:
        """True when all shapes agree, so that :meth:`~torchdali.TensorList.as_tensor` works.

        Of an empty batch: when it is known which shape samples would have.
        """
        if self._block is not None:
            return True
        if self._sample is not None:
            return None not in self._sample
        if self._shapes is not None:
            return len(self._shapes) > 0 and bool((self._shapes == self._shapes[0]).all())
        tensors = self._all()
        return len(tensors) > 0 and all(tensor.shape == tensors[0].shape for tensor in tensors)

    def numel(self) -> int:
        """Number of elements of all samples."""
        if self._block is not None:
            return self._block.numel()
        if self._shapes is not None:
            return int(counts_of(self._shapes).sum())
        return sum(tensor.numel() for tensor in self._all())

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        return self.numel() * self._dtype.itemsize

    # --- the samples ----------------------------------------------------------------------------------------------------

    def _view(self, position: int) -> torch.Tensor:
        """The sample at a position that has no tensor yet."""
        if self._block is not None:
            return self._block[position]
        if self._views is not None:
            return self._views.one(position, self.sizes[position].tolist(), self.strides[position].tolist())
        assert self._flat is not None
        assert self._offsets is not None
        start = self._flat.storage_offset() + int(self._offsets[position])
        strides = tuple(self.strides[position].tolist())
        return self._flat.as_strided(tuple(self.sizes[position].tolist()), strides, start)

    def _all(self) -> list[torch.Tensor]:
        """The tensors of all samples; the list is the batch's own."""
        tensors: list[Any] = self._tensors
        if not self._complete:
            if self._block is not None:
                made: Sequence[torch.Tensor] = self._block.unbind(0)
            elif self._views is not None:
                made = self._views.all(self.sizes, self.strides)
            else:
                assert self._flat is not None
                assert self._offsets is not None
                starts = (self._offsets + int(self._flat.storage_offset())).tolist()
                as_strided, flat = torch.as_strided, self._flat
                made = [
                    as_strided(flat, shape, stride, start)
                    for shape, stride, start in zip(self.sizes.tolist(), self.strides.tolist(), starts, strict=True)
                ]
            # What was asked for before keeps its identity.
            tensors[:] = [new if old is None else old for old, new in zip(tensors, made, strict=True)]
            self._complete = True
        return tensors

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> torch.Tensor: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | npt.NDArray[Any] | torch.Tensor) -> Self: ...

    def __getitem__(self, index: Any) -> torch.Tensor | Self:
        if isinstance(index, slice):
            return select(self, index)
        if isinstance(index, list) or (isinstance(index, (np.ndarray, torch.Tensor)) and index.ndim > 0):
            return select(self, positions_of(index, len(self._tensors)))
        if isinstance(index, bool) or (isinstance(index, torch.Tensor) and index.dtype == torch.bool):
            raise TypeError("a TensorList is indexed by a number, a slice, a list, an array or a mask, not by a bool")
        try:
            position = operator.index(index)
        except TypeError:
            raise TypeError(
                f"a TensorList is indexed by a number, a slice, a list, an array or a mask, not by a {type(index).__name__}"
            ) from None
        count = len(self._tensors)
        if not -count <= position < count:
            raise IndexError(f"sample {position} is wanted of a batch of {count}; they are counted from 0")
        position %= count
        tensor = self._tensors[position]
        if tensor is None:
            tensor = self._tensors[position] = self._view(position)
        return tensor

"""The sources' memory in a stage worker: batches are views of it, which the parent holds as long as somebody there has one.

The stage may keep an input, for a queue of earlier samples for example. In the parent's process its memory would not be used
again before it lets go of it, and here it must not be either. Of a batch whose inputs are among the outputs, and not small, it is
held until the worker's next reply, as the worker cannot tell who has them before these have been sent.

The stage may also write to its inputs. Where what a worker has died of is done again, by another one and from the same memory,
that must not be seen by others: there, a view is of pages that are copied when they are written to.
"""

from __future__ import annotations

import weakref
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from torchdali.pool import Memory
from torchdali.tensorlist import TensorList

__all__ = ["LentMemory"]

Value = TypeVar("Value", torch.Tensor, TensorList)

_SMALL = 1 << 16

_MOST_MAPPINGS = 64
"""Of views that somebody has: each mapping costs the process a descriptor, of which it may have a thousand."""


class LentMemory:
    """A memory of which views are counted, batch by batch.

    Args:
        memory: as this process sees it.
        private: whether what is written to a view stays in this process.
    """

    def __init__(self, memory: Memory, *, private: bool = False) -> None:
        self.memory = memory
        self._private = private
        self._number = 0
        self._views: dict[int, list[weakref.ref[Any]]] = {}

    def prepare(self) -> None:
        """Once, in the process that views it."""
        if self._private:
            self.memory.reopen()

    def begin(self, number: int) -> None:
        """What is viewed from here on belongs to the batch of this number."""
        self._number = number

    def view(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """As :meth:`Memory.view`; who makes a tensor of it holds it."""
        if not self._private:
            return self.shared(offset, nbytes)
        if sum(map(len, self._views.values())) >= _MOST_MAPPINGS:
            return self.memory.view(offset, nbytes).copy()
        return self._count(self.memory.copy_on_write(offset, nbytes))

    def shared(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """As :meth:`view`, of the very pages that the workers wrote to: CUDA may have pinned them."""
        return self._count(self.memory.view(offset, nbytes))

    def _count(self, view: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        self._views.setdefault(self._number, []).append(weakref.ref(view))
        return view

    def held(self) -> tuple[int, ...]:
        """The numbers of the batches of which somebody has something."""
        living = {number: [view for view in views if view() is not None] for number, views in self._views.items()}
        self._views = {number: views for number, views in living.items() if views}
        return tuple(self._views)

    def own(self, value: Value) -> Value:
        """An output; small ones that are inputs, as labels often are, as a copy, so that no batch is held for their sake."""
        samples: list[torch.Tensor] = [value] if isinstance(value, torch.Tensor) else list(value)
        if not 0 < sum(sample.numel() * sample.element_size() for sample in samples) <= _SMALL:
            return value
        living = [view for views in self._views.values() for reference in views if (view := reference()) is not None]
        ranges = [(start := int(view.ctypes.data), start + view.nbytes) for view in living]
        lent = any(
            sample.layout == torch.strided and any(start <= sample.data_ptr() < end for start, end in ranges)
            for sample in samples
        )
        return value.clone() if lent else value

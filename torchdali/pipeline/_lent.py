"""The sources' memory in a stage worker: batches are views of it, which the parent holds as long as somebody there has one.

The stage may keep an input, for a queue of earlier samples for example. In the parent's process its memory would not be used
again before it lets go of it, and here it must not be either. Of a batch whose inputs are among the outputs, and not small, it is
held until the worker's next reply, as the worker cannot tell who has them before these have been sent.
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


class LentMemory:
    """A memory of which views are counted, batch by batch.

    Args:
        memory: as this process sees it.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._number = 0
        self._views: dict[int, list[weakref.ref[Any]]] = {}

    def begin(self, number: int) -> None:
        """What is viewed from here on belongs to the batch of this number."""
        self._number = number

    def view(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """As :meth:`Memory.view`; who makes a tensor of it holds it."""
        view = self.memory.view(offset, nbytes)
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
        lent = any(
            sample.layout == torch.strided and self.memory.offset_of(sample.data_ptr(), 1) is not None
            for sample in samples
        )
        return value.clone() if lent else value

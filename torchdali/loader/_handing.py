"""How a batch gets from an iterator to the consumer: once, also where Ctrl-C comes in between."""

from __future__ import annotations

import warnings
from typing import Any

from torch.autograd.profiler import record_function

__all__ = ["HandingOver"]


class HandingOver:
    """Part of an iterator: what torch's has in ``__next__``, with a batch that is kept until it has arrived.

    Its ``_next_data`` puts the batch into ``_handed``, and gives what it finds there.
    """

    _handed: tuple[Any] | None = None
    """The batch that is on its way to the consumer."""
    _next_data: Any
    _num_yielded: int
    _profile_name: str

    def __next__(self) -> Any:
        with record_function(self._profile_name):
            batch = self.take()
        self.taken(stacklevel=3)
        return batch

    def take(self) -> Any:
        """The next batch, the same again until :meth:`taken`: whoever is interrupted in between can ask again."""
        return self._next_data()

    def taken(self, *, stacklevel: int) -> None:
        """The batch has arrived."""
        self._handed = None
        self._num_yielded += 1
        itself: Any = self
        said = itself._IterableDataset_len_called
        if itself.progress.iterable and said is not None and self._num_yielded > said:
            # The beginning is torch's, as filters and tests look for it.
            text = (
                f"Length of IterableDataset {itself._dataset} was reported to be {said}(when accessing len(dataloader)), but "
                f"{self._num_yielded} samples have been fetched. "
            )
            if itself._num_workers:
                text += (
                    "For multiprocessing data-loading, this happens where `__iter__` gives all samples in each worker, which "
                    "has its own copy of the dataset, and not the part that belongs to "
                    "`torch.utils.data.get_worker_info().id`."
                )
            warnings.warn(text, stacklevel=stacklevel)

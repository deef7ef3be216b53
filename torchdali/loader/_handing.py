"""How a batch gets from an iterator to the consumer: once, also where Ctrl-C comes in between."""

from __future__ import annotations

import time
import warnings
from typing import Any

from torch.autograd.profiler import record_function

from torchdali import _spans
from torchdali.loader._length import length_of
from torchdali.loader._measure import Times
from torchdali.report import Causes, Meter

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
    _auto_collation: bool
    _meter: Meter
    _own: Any
    """Of the loader: what the meter asks."""
    _times: Times

    @property
    def waited(self) -> float:
        """Seconds that this process has waited for workers."""
        return 0.0

    def count_ready(self) -> int:
        """Further batches that have come."""
        return 0

    def __next__(self) -> Any:
        asked, waited = time.perf_counter(), self.waited
        try:
            with record_function(self._profile_name), _spans.labelled("wait"):
                batch = self.take()
        except StopIteration:
            self._meter.begin()
            raise
        except Exception:
            self._meter.delivered(asked, 0, self._causes(asked, waited))
            raise
        samples = length_of(batch, 1) if self._auto_collation else 1
        self._meter.delivered(asked, samples, self._causes(asked, waited), self.count_ready())
        self.taken(stacklevel=3)  # last, since Ctrl-C would lose the batch from here on
        return batch

    def _causes(self, asked: float, waited: float) -> Causes:
        spent, starved = time.perf_counter() - asked, self.waited - waited
        return Causes.of(spent, starved, spent - starved)

    def take(self) -> Any:
        """The next batch, the same again until :meth:`taken`: whoever is interrupted in between can ask again."""
        begin, waited, fetched = time.perf_counter(), self.waited, self._times.source
        try:
            return self._next_data()
        finally:
            elsewhere = self.waited - waited + self._times.source - fetched
            self._times.hand_over += max(0.0, time.perf_counter() - begin - elsewhere)

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

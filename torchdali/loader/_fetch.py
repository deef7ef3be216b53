"""From indices to a batch: what torch's fetchers do, and which sample it was that raised."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torchdali._items import Items
from torchdali._spans import tally

__all__ = ["Fetcher", "make_fetcher", "note", "show_indices"]

_MOST_SHOWN = 8


def note(error: BaseException, text: str) -> None:
    """Add a line to an exception; before Python 3.11 it is kept in the same place and printed by nobody."""
    if hasattr(error, "add_note"):
        error.add_note(text)
        return
    try:
        error.__notes__ = [*getattr(error, "__notes__", []), text]
    except AttributeError:  # a class with slots
        return


def show_indices(indices: Any) -> str:
    """What a sampler gave for a batch, short enough for a message."""
    if not isinstance(indices, (list, tuple)):
        return _show(indices)
    shown = [_show(index) for index in indices[:_MOST_SHOWN]]
    more = len(indices) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _show(index: object) -> str:
    try:
        return repr(index)
    except Exception as error:  # of the user's: an index can be anything
        return f"<{type(index).__name__} whose repr raises {type(error).__name__}>"


class Fetcher(ABC):
    """Makes batches of a dataset's samples, in one process.

    Args:
        dataset: of the user.
        auto_collation: an index stands for a batch, not for a sample.
        collate_fn: makes a batch of samples, or without automatic batching what is given of a sample.
        drop_last: an incomplete batch of an iterable dataset is dropped.
    """

    def __init__(self, dataset: Any, auto_collation: bool, collate_fn: Callable[[Any], Any], drop_last: bool) -> None:
        self.dataset = dataset
        self.iterator: Any = None
        """Over an iterable dataset."""
        self.batches = 0
        """How many were fetched or skipped."""
        self.over = False
        """The iterator has come to its end."""
        self._auto_collation = auto_collation
        self._collate_fn = collate_fn
        self._drop_last = drop_last

    skips_for_nothing = False
    """Nothing has to be done to skip a batch."""

    def begin(self) -> None:  # noqa: B027  not every kind has something to begin
        """Begin to iterate over the dataset."""

    def fetch(self, number: int, index: Any) -> Any:
        """Batch ``number`` of this fetcher, counted from 0; those between it and the one before are skipped.

        Whoever asked says when its :meth:`turn has ended <end_turn>`; until then, as after Ctrl-C, it can be had again.

        Raises:
            StopIteration: an iterable dataset has no more.
            Exception: of the user's code, with a note that names the sample.
        """
        if number < self.batches and not self.skips_for_nothing:
            raise RuntimeError(
                f"batch {number} was asked for after batch {self.batches - 1}; this is a bug in torchdali"
            )
        self.skip_to(number, index)
        samples = self._samples(index)
        start = time.perf_counter()
        try:
            return self._collate_fn(samples)
        except Exception as error:
            note(error, f"raised by collate_fn for {self._name(index)}")
            raise
        finally:
            tally.collated += time.perf_counter() - start

    def end_turn(self, number: int) -> None:
        """Batch ``number`` was handed out or raised; it is not asked for again."""
        self.batches = max(self.batches, number + 1)

    def skip_to(self, number: int, index: Any) -> None:
        """Go on to a batch without making those before it.

        Raises:
            StopIteration: an iterable dataset has no more.
        """
        while self.batches < number:
            try:
                self._skip(index)
            except (StopIteration, KeyboardInterrupt):
                raise
            except BaseException:  # was raised in its turn when that batch was made
                pass
            self.end_turn(self.batches)

    @abstractmethod
    def _skip(self, index: Any) -> None:
        """Go on by one batch, without making it."""

    @abstractmethod
    def _samples(self, index: Any) -> Any:
        """The samples of a batch, or the one sample without automatic batching."""

    @abstractmethod
    def _name(self, index: Any) -> str:
        """The samples, for messages."""


class MapFetcher(Fetcher):
    """Of a dataset with ``__getitem__``."""

    skips_for_nothing = True

    def _skip(self, index: Any) -> None:
        """The next batch has its own indices."""

    def _name(self, index: Any) -> str:
        return f"samples {show_indices(index)}" if self._auto_collation else f"sample {_show(index)}"

    def _samples(self, index: Any) -> Any:
        dataset = self.dataset
        if self._auto_collation and getattr(dataset, "__getitems__", None):
            try:
                return dataset.__getitems__(index)
            except Exception as error:
                note(error, f"raised by __getitems__ for samples {show_indices(index)}")
                raise
        keys = index if self._auto_collation else (index,)
        samples: list[Any] = []
        key: Any = None
        try:
            for key in keys:
                samples.append(dataset[key])
        except Exception as error:
            note(error, f"raised for sample {_show(key)}")
            raise
        return samples if self._auto_collation else samples[0]


class IterableFetcher(Fetcher):
    """Of a dataset with ``__iter__``."""

    def __init__(self, dataset: Any, auto_collation: bool, collate_fn: Callable[[Any], Any], drop_last: bool) -> None:
        super().__init__(dataset, auto_collation, collate_fn, drop_last)
        self._items: Items | None = None
        self._begun: list[Any] = []
        """Samples of the batch whose turn it is."""

    def begin(self) -> None:
        """Begin to iterate over the dataset."""
        self.iterator = iter(self.dataset)
        self._items = Items(self.iterator, f"{type(self.dataset).__name__}.__iter__")

    def _skip(self, index: Any) -> None:
        """Take a batch's samples, which are dropped when its turn ends."""
        self._samples(index)

    def _name(self, index: Any) -> str:
        assert self._items is not None
        return f"samples up to number {self._items.taken - 1} of this iterator"

    def _samples(self, index: Any) -> Any:
        assert self._items is not None
        count = len(index) if self._auto_collation else 1
        if not self.over:
            try:
                self.over = not self._items.fill(self._begun, count)
            except Exception as error:
                note(error, f"raised for sample number {self._items.taken} of this iterator")
                raise
        if not self._begun or (self._drop_last and len(self._begun) < count):
            raise StopIteration
        return self._begun.copy() if self._auto_collation else self._begun[0]

    def end_turn(self, number: int) -> None:
        """See :meth:`Fetcher.end_turn`."""
        super().end_turn(number)
        self._begun = []


def make_fetcher(
    dataset: Any, iterable: bool, auto_collation: bool, collate_fn: Callable[[Any], Any], drop_last: bool
) -> Fetcher:
    """The fetcher for a dataset's kind; to be begun."""
    kind = IterableFetcher if iterable else MapFetcher
    return kind(dataset, auto_collation, collate_fn, drop_last)

"""An iterable source, gone through once, or again and again."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

from torchdali.source._external import ExternalSource

__all__ = ["Cycle"]


class Cycle:
    """The items of an iterable or a generator function; with ``cycle="quiet"`` they begin again at their end."""

    def __init__(self, source: ExternalSource) -> None:
        self._source = source
        self._iterator: Iterator[Any] | None = None
        self._interrupted = False

    def begin(self) -> None:
        """Begin anew, as far as the source does."""
        self._iterator = None

    def _begin(self) -> Iterator[Any]:
        source: Any = self._source.source
        self._iterator = iter(source() if callable(source) else source)
        return self._iterator

    def __next__(self) -> Any:
        """The next item.

        Raises:
            StopIteration: there is none.
        """
        items: list[Any] = []
        if not self.fill(items, 1):
            raise StopIteration
        return items[0]

    def fill(self, items: list[Any], count: int) -> bool:
        """Add items to a list until it has so many; after Ctrl-C, those that were there before are in it.

        Returns:
            Whether there were so many.

        Raises:
            RuntimeError: Ctrl-C has ended a generator.
            Exception: of the iterable.
        """
        iterator = self._iterator if self._iterator is not None else self._begin()
        if self._extend(items, count, iterator):
            return True
        while self._source.cycle == "quiet":
            before = len(items)
            if self._extend(items, count, self._begin()):
                return True
            if len(items) == before:
                break  # an iterable that is empty ends the epoch even so
        return False

    def _extend(self, items: list[Any], count: int, iterator: Iterator[Any]) -> bool:
        try:
            # In one go: between a call of next() and another one that keeps what it gave, Ctrl-C would lose that.
            items.extend(map(next, itertools.repeat(iterator, count - len(items))))
        except KeyboardInterrupt:
            self._interrupted = True
            raise
        interrupted, self._interrupted = self._interrupted, False
        if len(items) == count:
            return True
        if interrupted and inspect.isgenerator(iterator):
            raise RuntimeError(
                f"Ctrl-C came while the source {self._source.name} was at work; it is a generator, which that has ended: what it "
                "would have given is lost to this epoch. Begin the next one (`pipeline.reset()`), or have the source return an "
                "object with __next__, which can go on"
            )
        return False

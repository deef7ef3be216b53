"""An iterable source, gone through once, or again and again."""

from __future__ import annotations

from typing import Any

from torchdali._items import Items
from torchdali.source._external import ExternalSource

__all__ = ["Cycle"]


class Cycle:
    """The items of an iterable or a generator function; with ``cycle="quiet"`` they begin again at their end."""

    def __init__(self, source: ExternalSource) -> None:
        self._source = source
        self._items: Items | None = None

    def begin(self) -> None:
        """Begin anew, as far as the source does."""
        self._items = None

    def _begin(self) -> Items:
        source: Any = self._source.source
        self._items = Items(iter(source() if callable(source) else source), f"the source {self._source.name}")
        return self._items

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
        """As :meth:`Items.fill`, of all iterators that follow each other."""
        if (self._items if self._items is not None else self._begin()).fill(items, count):
            return True
        while self._source.cycle == "quiet":
            before = len(items)
            if self._begin().fill(items, count):
                return True
            if len(items) == before:
                break  # an iterable that is empty ends the epoch even so
        return False

"""An iterable source, gone through once, or again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torchdali.source._external import ExternalSource

__all__ = ["Cycle"]


class Cycle:
    """The items of an iterable or a generator function; with ``cycle="quiet"`` they begin again at their end."""

    def __init__(self, source: ExternalSource) -> None:
        self._source = source
        self._iterator: Iterator[Any] | None = None

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
        try:
            return next(self._iterator if self._iterator is not None else self._begin())
        except StopIteration:
            if self._source.cycle != "quiet":
                raise
        return next(self._begin())  # an iterable that is empty ends the epoch even so

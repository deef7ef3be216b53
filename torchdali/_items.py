"""Items of an iterator, of which Ctrl-C loses none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

__all__ = ["Items"]


class Items:
    """Takes items from an iterator.

    Args:
        iterator: of the user.
        name: what it is of, for messages.
    """

    def __init__(self, iterator: Iterator[Any], name: str) -> None:
        self._iterator, self._name = iterator, name
        self._cut_off = False
        """Ctrl-C has ended it, and nobody was told."""
        self.taken = 0
        """How many items it has given."""

    def fill(self, items: list[Any], count: int) -> bool:
        """Add items to a list until it has so many; after Ctrl-C those that came before are in it.

        Returns:
            Whether it has so many; else the iterator is at its end.

        Raises:
            RuntimeError: Ctrl-C had ended a generator: this is not the end that it would have come to.
            Exception: of the iterator.
        """
        if self._cut_off:
            self._cut_off = False
            raise RuntimeError(
                f"Ctrl-C came while {self._name} was at work; it is a generator, which that has ended after {self.taken} items: "
                "what it would have given is lost to this epoch. Begin another one; an object with __next__ in place of the "
                "generator could have gone on"
            )
        before = len(items)
        try:
            # In one go: between a call of next() and another one that keeps what it gave, Ctrl-C would lose that. And next()
            # alone, as islice would call __iter__ too, where some begin anew.
            items.extend(map(next, itertools.repeat(self._iterator, count - before)))
        except KeyboardInterrupt as interrupt:
            self._cut_off = self._went_through(interrupt)
            raise
        finally:
            self.taken += len(items) - before
        return len(items) == count

    def _went_through(self, interrupt: KeyboardInterrupt) -> bool:
        """Whether it left a generator, which is at its end then; it may have come behind the call."""
        code, trace = getattr(self._iterator, "gi_code", None), interrupt.__traceback__
        while trace is not None and trace.tb_frame.f_code is not code:
            trace = trace.tb_next
        return trace is not None

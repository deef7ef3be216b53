"""What several measurements of one thing come to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Summary", "ratios"]


@dataclass(frozen=True)
class Summary:
    """Median and spread. Not the mean: a machine that was busy for a moment shall not count."""

    median: float
    min: float
    max: float
    rounds: list[float]
    """All values, in the order in which they were measured."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """The summary of at least one value."""
        return cls(statistics.median(values), min(values), max(values), list(values))


def ratios(above: Summary, below: Summary) -> Summary:
    """Round by round one divided by the other: what slowed both in a round does not count."""
    return Summary.of([a / b for a, b in zip(above.rounds, below.rounds, strict=True)])

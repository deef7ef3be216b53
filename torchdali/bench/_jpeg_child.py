"""The process of an engine: ``python -m torchdali.bench._jpeg_child``, started afresh for each measurement.

A line of JSON on stdin says what to do, a line on the first stdout says what was found: ``{"missing": ...}``, or
``{"found": ...}``. Then the engine stays as it is, so that the memory that it holds can be looked at, until stdin ends.
Whatever else is printed goes to stderr, an exception with its traceback too.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torchdali.bench._jpeg_feeds import Feed, FeedPlan, MissingEngineError, open_feed
from torchdali.bench._jpeg_tree import tree_cpu_seconds
from torchdali.bench._process import many_descriptors
from torchdali.pool._start import tie_to_parent

__all__ = ["Clock", "Found", "converse", "first_batch", "main"]


@dataclass
class Found:
    """What was measured once."""

    images: int
    seconds: float
    cpu_seconds: float
    """Of the process and all that it has started, user and system."""
    first_batch_seconds: float
    """From the start of the workers to the first batch on the device; modules were imported before."""
    output: str
    """What a batch is."""
    versions: dict[str, str]
    waited_seconds: float | None = None
    """For batches, where something is done with them."""
    stalled_seconds: float | None = None
    """The same as the engine counts it, where it does."""


class Clock:
    """Time, processor time and stalls of an engine from here on; the device has done all that it had to do.

    Args:
        feed: the engine.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        feed.synchronize()
        self._stalled = feed.stalled()
        self._cpu = tree_cpu_seconds(os.getpid())
        self.start = time.perf_counter()

    def stop(self) -> dict[str, Any]:
        """Fields of :class:`Found`."""
        self._feed.synchronize()
        seconds = time.perf_counter() - self.start
        cpu = tree_cpu_seconds(os.getpid()) - self._cpu
        stalled = self._feed.stalled()
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "stalled_seconds": None if stalled is None or self._stalled is None else stalled - self._stalled,
        }


def first_batch(feed: Feed) -> tuple[Iterator[tuple[Any, Any]], tuple[Any, Any], float]:
    """Start an engine: its batches, the first of them, and the seconds that it took."""
    start = time.perf_counter()
    feed.start()
    batches = feed.batches()
    batch = next(batches)
    feed.synchronize()
    return batches, batch, time.perf_counter() - start


def _measure(feed: Feed, seconds: float, warmup: int, warmup_seconds: float) -> Found:
    batches, batch, first = first_batch(feed)
    output = feed.describe(batch[0])
    start = time.perf_counter()
    count = 0
    while count < warmup or count % feed.turn or time.perf_counter() - start < warmup_seconds:
        batch = next(batches)
        count += 1
    clock = Clock(feed)
    for count in itertools.count(1):
        batch = next(batches)
        if count % feed.turn == 0 and time.perf_counter() - clock.start >= seconds:
            break
    times = clock.stop()
    del batch
    return Found(
        count * feed.plan.batch_size, first_batch_seconds=first, output=output, versions=feed.versions, **times
    )


def converse(measure: Callable[..., Found]) -> None:
    """Answer on stdout what stdin asks for; ``measure`` gets the engine, and the rest of what is asked for as keywords."""
    tie_to_parent(os.getppid())  # who is killed, or ended by SIGTERM, leaves nobody to measure for
    answers = os.fdopen(os.dup(1), "w", closefd=True)
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.readline())
    with many_descriptors():
        try:
            feed = open_feed(FeedPlan(**asked.pop("plan")))
        except MissingEngineError as error:
            print(json.dumps({"missing": str(error)}), file=answers, flush=True)
            return
        try:
            found = measure(feed, **asked)
            print(json.dumps({"found": vars(found)}), file=answers, flush=True)
            sys.stdin.read()
        finally:
            feed.close()


def main() -> None:
    """What this process is for."""
    converse(_measure)


if __name__ == "__main__":
    main()

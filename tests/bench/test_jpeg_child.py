"""The process of an engine: what it measures, and from when on."""

from types import SimpleNamespace

import pytest

from torchdali.bench import _jpeg_child as jpeg_child
from torchdali.bench._jpeg_child import _measure
from torchdali.bench._jpeg_feed_synthetic import SyntheticFeed
from torchdali.bench._jpeg_feeds import FeedPlan, open_feed, whole_turns
from torchdali.bench._jpeg_variants import CROPPED
from torchdali.source import PHOTOGRAPHS


def plan(engine: str, variant: str = "", workers: int = 1) -> FeedPlan:
    return FeedPlan(engine, "training", 2, str(PHOTOGRAPHS), "cpu", workers, variant, size=32)


def test_measurements_are_of_whole_turns_of_the_workers():
    assert [whole_turns(batches, 4) for batches in (0, 1, 4, 5)] == [0, 4, 4, 8]
    feed = open_feed(plan("torch", CROPPED, workers=3))
    assert feed.turn == 3
    try:
        assert _measure(feed, 0.0, warmup=0, warmup_seconds=0).images == 3 * 2
    finally:
        feed.close()


@pytest.mark.parametrize(
    ("warmup", "warmup_seconds", "before"),
    [(0, 0, 0), (3, 0, 4), (1, 7, 8), (9, 7, 10)],  # the feed's batches take a second, and come in pairs
)
def test_nothing_counts_before_as_many_batches_and_as_much_time(warmup, warmup_seconds, before, monkeypatch):
    now, handed_out = 0.0, []

    class SlowFeed(SyntheticFeed):
        turn = 2

        def batches(self):
            nonlocal now
            for batch in super().batches():
                now += 1
                handed_out.append(now)
                yield batch

    class Clock(jpeg_child.Clock):
        def __init__(self, feed):
            assert len(handed_out) == 1 + before
            super().__init__(feed)

    monkeypatch.setattr(jpeg_child, "Clock", Clock)
    monkeypatch.setattr(jpeg_child, "time", SimpleNamespace(perf_counter=lambda: now))
    found = _measure(SlowFeed(plan("synthetic")), 3.0, warmup, warmup_seconds)
    assert (found.seconds, found.images) == (4, 4 * 2)

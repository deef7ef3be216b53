"""A profile takes what comes within it, and lets go of it."""

import gc
import weakref

import pytest
import torch

import torchdali
from tests.report.support import BATCH, BATCHES, Source, Stages, consume
from torchdali import _spans


def test_only_what_comes_within_counts():
    with Stages(Source()) as pipeline:
        consume(pipeline)
        with torchdali.profile() as p:
            consume(pipeline)
        consume(pipeline)
        assert p.report().images == BATCH * BATCHES
        assert pipeline.report().images == 3 * BATCH * BATCHES


def test_all_that_is_used_within_is_reported_on_and_nothing_else():
    unused = torchdali.DataLoader(torch.arange(12), batch_size=BATCH)
    consume(unused)
    loader = torchdali.DataLoader(torch.arange(12), batch_size=BATCH)
    with Stages(Source(), name="Train") as pipeline, torchdali.profile() as p:
        consume(pipeline)
        consume(loader)
    assert [(report.name, report.images) for report in p.reports] == [("Train", BATCH * BATCHES), ("DataLoader", 12)]
    assert p.report("DataLoader") is p.reports[1]
    with pytest.raises(KeyError, match="there are Train, DataLoader"):
        p.report("Test")


def test_what_was_dropped_within_is_reported_on_and_freed_at_the_end():
    with torchdali.profile() as p:
        pipeline = Stages(Source())
        gone = weakref.ref(pipeline)
        consume(pipeline)
        del pipeline
        for _ in torchdali.DataLoader(torch.arange(12), batch_size=BATCH):
            pass
    assert [report.images for report in p.reports] == [BATCH * BATCHES, 12]
    gc.collect()
    assert gone() is None


def test_nothing_is_recorded_outside():
    with torchdali.profile() as p:
        assert _spans.recorder is not None
    assert _spans.recorder is None
    consume(torchdali.DataLoader(torch.arange(12), batch_size=BATCH))
    with pytest.raises(RuntimeError, match="no batch of a torchdali Pipeline"):
        p.report()


def test_an_exception_ends_it_too():
    p = torchdali.profile()

    def train():
        with p:
            for _ in torchdali.DataLoader(torch.arange(12), batch_size=BATCH):
                raise ValueError("of the user")

    with pytest.raises(ValueError, match="of the user"):
        train()
    assert _spans.recorder is None
    assert p.report().batches == 1


def test_a_second_one_at_a_time_is_refused():
    with torchdali.profile(), pytest.raises(RuntimeError, match="one at a time"):
        torchdali.profile().__enter__()
    assert _spans.recorder is None

"""One stage after the other is made slow, and the report has to say so."""

import time

import numpy as np
import pytest
import torch

import torchdali
from tests.report.support import (
    BATCH,
    BATCHES,
    SLOW,
    SlowDecode,
    SlowModule,
    Source,
    Stages,
    consume,
    report_of,
    slowest,
)
from torchdali import ExternalSource, JpegFolder
from torchdali.pool._writer import RaggedRun, StackedRun


def check(report, name):
    assert report.bound == name, report
    assert slowest(report) == name
    assert report.wait_share > 0.5
    assert report.sentence.startswith(
        {
            "source callback": "The source callback bounds you at ",
            "file read": "Reading files bounds you at ",
            "collation": "Putting samples together (collate_fn) bounds you at ",
            "transfer to shared memory": "The transfer to shared memory bounds you at ",
            "decode": "Decoding bounds you at ",
            "augment": "Augmentation bounds you at ",
            "hand-over": "Handing batches over bounds you at ",
        }[name]
    )
    bound = next(stage for stage in report.stages if stage.name == name)
    assert 0.6 < bound.rate / report.rate < 3  # about that much arrives, and others could make more
    assert all(stage.rate > bound.rate for stage in report.stages if stage is not bound)


# --- a pipeline -------------------------------------------------------------------------------------------------------


def test_a_slow_source_callback_is_found():
    with Stages(Source(SLOW / BATCH)) as pipeline:
        check(report_of(pipeline), "source callback")


def test_slow_files_are_told_from_the_code_around_them(monkeypatch):
    monkeypatch.setattr(np, "fromfile", _slowly(np.fromfile))
    source = ExternalSource(JpegFolder(torchdali.source.PHOTOGRAPHS), num_outputs=2)
    with torchdali.Pipeline(source, batch_size=BATCH, device="cpu", num_workers=1) as pipeline:
        check(report_of(pipeline), "file read")


def test_writing_to_shared_memory_is_told_from_the_code_that_makes_the_sample(monkeypatch):
    for kind in (RaggedRun, StackedRun):
        monkeypatch.setattr(kind, "add", _slowly(kind.add))
    with Stages(Source()) as pipeline:
        report = report_of(pipeline)
    check(report, "transfer to shared memory")
    assert "uint8 in place of float32" in report.sentence


def _slowly(function):
    def slow(*arguments):
        time.sleep(SLOW / BATCH)
        return function(*arguments)

    return slow


@pytest.mark.parametrize("options", [{}, {"placement": "workers", "gpu_workers": 1}, {"stage_thread": False}], ids=str)
def test_a_slow_decoder_is_found(options):
    with Stages(Source(), decode=SlowDecode(), **options) as pipeline:
        report = report_of(pipeline)
    check(report, "decode")
    assert report.operators["decode"] >= SLOW * BATCHES * 0.9


@pytest.mark.parametrize("options", [{}, {"placement": "workers", "gpu_workers": 1}, {"stage_thread": False}], ids=str)
def test_a_slow_operator_is_found_and_named(options):
    with Stages(Source(), quick=torch.nn.Identity(), twist=SlowModule(), **options) as pipeline:
        report = report_of(pipeline)
    check(report, "augment")
    assert "twist" in report.sentence or options.get("placement")


def test_a_consumer_that_is_slower_than_all_bounds_itself():
    with Stages(Source()) as pipeline:
        report = report_of(pipeline, SLOW)
    assert report.bound == "step"
    assert report.sentence.startswith("Your training step bounds you: the data is ready ")
    assert report.step_rate == pytest.approx(BATCH / SLOW, rel=0.2)
    assert report.workers_needed is None


def test_a_source_that_keeps_a_slow_stage_waiting_bounds_more_than_the_stage():
    # Two thirds of each wait the stage is at work, and still nothing is gained by making it faster.
    with Stages(Source(1.5 * SLOW / BATCH), twist=SlowModule()) as pipeline:
        assert report_of(pipeline).bound == "source callback"


def test_a_source_in_the_main_process_is_to_be_moved_to_workers():
    with Stages(ExternalSource(Source(SLOW / BATCH), parallel=False)) as pipeline:
        report = report_of(pipeline, SLOW / 3)
    check(report, "source callback")
    assert "parallel=True" in report.sentence
    assert not report.workers


# --- a loader ---------------------------------------------------------------------------------------------------------


class Dataset(torch.utils.data.Dataset):
    def __init__(self, seconds=0.0, value=None):
        self.seconds, self.value = seconds, torch.zeros(4) if value is None else value

    def __len__(self):
        return BATCH * BATCHES

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return self.value


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        for number in range(BATCH * BATCHES):
            time.sleep(SLOW / BATCH)
            yield number


class Unwilling:
    """It takes its time to be unpickled."""

    def __getstate__(self):
        return {"a": 1}

    def __setstate__(self, state):
        time.sleep(SLOW)


def slow_collate(samples):
    time.sleep(SLOW)
    return torch.stack(samples)


LOADERS = {
    "dataset": (Dataset(SLOW / BATCH), {}, "source callback"),
    "stream": (Stream(), {}, "source callback"),
    "collate": (Dataset(), {"collate_fn": slow_collate}, "collation"),
    "stage": (Dataset(), {"pipeline": SlowModule()}, "augment"),
    "function": (Dataset(), {"pipeline": lambda batch: (time.sleep(SLOW), batch)[1]}, "augment"),
    "decode": (Dataset(), {"pipeline": SlowDecode()}, "decode"),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("which", sorted(LOADERS))
def test_what_is_slow_in_a_loader_is_found(which, workers):
    dataset, options, expected = LOADERS[which]
    loader = torchdali.DataLoader(dataset, batch_size=BATCH, num_workers=workers, **options)
    report = report_of(loader)
    check(report, expected)
    if not workers and expected in ("source callback", "collation"):
        assert "num_workers" in report.sentence


def test_what_has_to_be_unpickled_in_the_main_process_is_found():
    loader = torchdali.DataLoader(Dataset(), batch_size=BATCH, num_workers=1, collate_fn=lambda samples: Unwilling())
    check(report_of(loader), "hand-over")


# --- what is advised helps --------------------------------------------------------------------------------------------


def test_as_many_workers_as_it_says_are_enough_and_the_step_bounds_then():
    source = Source(SLOW / BATCH, batches=14)
    with Stages(source) as pipeline:
        before = report_of(pipeline, SLOW / 2)
    assert f"{before.workers_needed} would do" in before.sentence
    assert 2 <= before.workers_needed <= 6
    with Stages(source, num_workers=before.workers_needed) as pipeline:
        after = report_of(pipeline, SLOW / 2)
    assert after.bound == "step" or after.wait_share < before.wait_share / 2
    assert after.rate > 1.3 * before.rate


def test_stage_workers_as_it_says_make_more_of_a_slow_operator():
    with Stages(Source(), twist=SlowModule()) as pipeline:
        before = report_of(pipeline)
    assert 'placement="workers"' in before.sentence
    with Stages(Source(), twist=SlowModule(), placement="workers", gpu_workers=2) as pipeline:
        consume(pipeline)  # until they are warm
        after = report_of(pipeline)
    assert after.rate > 1.3 * before.rate

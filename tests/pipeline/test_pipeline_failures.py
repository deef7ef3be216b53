"""When things go wrong: what is said, and that nothing else is lost."""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

import torchdali
from tests.pipeline.placing import WORKERS
from tests.pipeline.support import WAYS, Plain, Training, count_to, folder_source, numbers, outcomes, plain
from torchdali import ExternalSource, JpegFolder, Pipeline, PipelineStateError, WorkerDiedError


class SourceProblemError(Exception):
    def __init__(self, sample, why):
        super().__init__(f"{why} at {sample}")
        self.sample = sample


def test_an_exception_of_the_source_arrives_at_its_batch_and_the_next_batch_follows():
    def source(info):
        if info.idx_in_epoch == 5:
            raise SourceProblemError(5, "broken")
        return count_to(12)(info)

    with plain(source) as pipeline:
        assert numbers(pipeline.run()[0]) == [0, 1, 2, 3]
        with pytest.raises(SourceProblemError, match="broken at 5") as caught:
            pipeline.run()
        assert caught.value.sample == 5
        assert "idx_in_epoch=5" in str(caught.value.__cause__)
        assert 'raise SourceProblemError(5, "broken")' in str(caught.value.__cause__)
        assert numbers(pipeline.run()[0]) == [8, 9, 10, 11]
        pipeline.reset()
        assert numbers(pipeline.run()[0]) == [0, 1, 2, 3]


def test_an_exception_of_the_stage_costs_its_batch_alone():
    class Fails(Pipeline):
        def forward(self, batch):
            if numbers(batch)[0] == 4:
                raise ZeroDivisionError("in the stage")
            return batch

    with Fails(count_to(12), batch_size=4, device="cpu") as pipeline:
        assert numbers(pipeline.run()[0]) == [0, 1, 2, 3]
        with pytest.raises(ZeroDivisionError):
            pipeline.run()
        assert numbers(pipeline.run()[0]) == [8, 9, 10, 11]


class OddError(BaseException):
    """None that ``except Exception`` catches, as asyncio's CancelledError."""


@pytest.mark.parametrize("where", ["source", "stage"])
@pytest.mark.parametrize(
    "options", [*WAYS, WORKERS, {**WORKERS, "parallel": False}, {**WORKERS, "cpu_share": 0.5}], ids=str
)
def test_an_exception_of_no_common_kind_arrives_at_its_batch_and_costs_no_other(where, options):
    class Odd(Pipeline):
        def forward(self, batch):
            if where == "stage" and 9 in numbers(batch):
                raise OddError("nine")
            return batch

    def source(info):
        if where == "source" and info.idx_in_epoch == 9:
            raise OddError("nine")
        return count_to(20)(info)

    parallel = options.get("parallel", True)
    options = {name: value for name, value in options.items() if name != "parallel"}
    with Odd(ExternalSource(source, batch=False, parallel=parallel), batch_size=4, device="cpu", **options) as pipeline:
        assert outcomes(pipeline, 6, OddError) == [0, 4, "nine", 12, 16, "the end"]


def test_a_cut_jpeg_names_its_sample_and_nothing_else_is_lost(photographs):
    files = JpegFolder(photographs)

    def source(info):
        data, label = files(info)
        return (data[: len(data) // 2] if info.idx_in_epoch == 6 else data), label

    with Training(ExternalSource(source, num_outputs=2)) as pipeline:
        assert len(pipeline.run()[0]) == 4
        with pytest.raises(torchdali.DecodeError, match="sample 6 of epoch 0 .*cut off"):
            pipeline.run()
        assert [int(label) for label in pipeline.run()[1]] == files.labels[8:12]


def test_images_that_could_not_be_decoded_are_counted(photographs):
    class Forgiving(Pipeline):
        def __init__(self):
            super().__init__(ExternalSource(source), batch_size=4, device="cpu")
            self.first = torchdali.ops.DecodeImage(on_error="replace")

        def forward(self, files):
            return self.first(files)

    def source(info):
        if info.idx_in_epoch >= 12:
            raise StopIteration
        data = np.fromfile(photographs / "cat.jpg", np.uint8)
        return data[:1000] if info.idx_in_epoch in (3, 8, 9) else data

    with Forgiving() as pipeline:
        assert [len(batch) for batch in pipeline] == [4, 4, 4]
        assert pipeline.statistics().bad_images == 3


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ((1, 2, 3), ValueError, "returned 3 outputs, but num_outputs=2"),
        (7, TypeError, "returned a int, but with num_outputs=2"),
        ((np.array([object()]), 1), TypeError, "output 0 .*dtype"),
        ((1, None), TypeError, "output 1 .*is None"),
        ((torch.zeros(2, device="meta"), 1), TypeError, "tensor on meta"),
    ],
)
def test_wrong_outputs_are_named_with_their_sample(returned, error, message):
    source = ExternalSource(lambda info: returned, num_outputs=2, name="wrong")
    with plain(source) as pipeline, pytest.raises(error, match=message) as caught:
        pipeline.run()
    assert "source wrong for SampleInfo(idx_in_epoch=0" in str(caught.value)


def test_a_killed_worker_is_named_at_once_and_reset_replaces_it():
    def source(info):
        if info.idx_in_epoch == 6 and info.epoch_idx == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return count_to(20)(info)

    with plain(source) as pipeline:
        numbers(pipeline.run()[0])
        start = time.monotonic()
        with pytest.raises(
            WorkerDiedError, match=r"worker \d of Plain \(pid \d+\) was killed by SIGKILL.*idx_in_epoch=6"
        ):
            pipeline.run()
        assert time.monotonic() - start < 5, "a dead worker is noticed at once"
        assert len(pipeline.worker_pids) == 1
        assert numbers(pipeline.run()[0]) == [8, 9, 10, 11]
        pipeline.reset()
        assert len(pipeline.worker_pids) == 2
        assert [number for batch in pipeline for number in numbers(batch)] == list(range(20))


def test_ctrl_c_in_run_loses_nothing():
    def source(info):
        time.sleep(0.05)
        return count_to(12)(info)

    with plain(source, batch_size=6) as pipeline:
        pipeline.build()
        timer = threading.Timer(0.08, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            pipeline.run()
        timer.join()
        assert [number for _ in range(2) for number in numbers(pipeline.run()[0])] == list(range(12))


def test_ctrl_c_in_the_stage_loses_nothing():
    class Interrupted(Pipeline):
        interrupts = 2

        def forward(self, batch):
            if numbers(batch)[0] == 4 and self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            return batch

    with Interrupted(count_to(12), batch_size=4, device="cpu") as pipeline:
        seen = []
        for _ in range(5):
            with contextlib.suppress(KeyboardInterrupt):
                seen += numbers(pipeline.run()[0])
        assert seen == list(range(12))


def test_a_pipeline_can_be_started_after_another_ran_on_the_cpu(photographs):
    with Training(folder_source(photographs)) as first:
        first.run()
        with Training(folder_source(photographs)) as second:
            assert len(second.run()[0]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": 1, "num_workers": 0}, "num_workers is 0"),
        ({"batch_size": 1, "num_threads": 0}, "num_threads is 0"),
        ({"batch_size": 1, "prefetch": 0}, "prefetch is 0"),
        ({"batch_size": 1, "last_batch": "keep"}, "last_batch is 'keep'"),
        ({"batch_size": 1, "device": "tpu:0"}, "device is 'tpu:0'"),
        ({"batch_size": 1, "device": -1}, "device is -1"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Plain(count_to(1), **options)


def test_a_source_that_is_none_is_named():
    with pytest.raises(TypeError, match="this is a int"):
        Plain(5, batch_size=1)  # type: ignore[arg-type]


def test_a_closed_pipeline_says_so_and_its_batches_stay():
    pipeline = plain(count_to(8, 5000))
    (batch,) = pipeline.run()
    pipeline.close()
    pipeline.close()
    for use in (pipeline.run, pipeline.reset, pipeline.start_py_workers, pipeline.build, lambda: iter(pipeline)):
        with pytest.raises(PipelineStateError, match="closed"):
            use()
    assert numbers(batch) == [0, 1, 2, 3]


def test_a_pipeline_that_is_dropped_ends_its_workers():
    pipeline = plain(count_to(8))
    pipeline.run()
    pids = pipeline.worker_pids
    assert len(pids) == 2
    del pipeline  # the fixture sees whether they are gone


def test_after_cuda_workers_are_refused_with_the_reason_and_the_way_out(monkeypatch, no_zygote):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    pipeline = plain(count_to(3))
    with pytest.raises(torchdali.CudaInitializedError) as caught:
        pipeline.start_py_workers()
    text = str(caught.value)
    assert "already initialised" in text
    assert "Why it matters" in text
    assert "start_py_workers()" in text
    assert pipeline.worker_pids == []


def test_the_device_of_a_pipeline_is_checked_when_it_is_built():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with plain(count_to(3), device="cuda") as pipeline, pytest.raises(RuntimeError, match="CUDA is not available"):
        pipeline.build()

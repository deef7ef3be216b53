"""Pipelines that are defined when CUDA is up already: their workers come from the zygote."""

import os
import signal
import time

import numpy as np
import pytest
import torch

from tests.pipeline.support import Training, count_to, folder_source, numbers, plain
from tests.pool.support import all_gone
from torchdali import CudaInitializedError
from torchdali.pipeline import _staff


def forbid():
    raise CudaInitializedError("CUDA is already initialised")


@pytest.fixture
def cuda_up(no_zygote, monkeypatch):
    """Starts a pipeline, as one has to, and then initialises CUDA, or where there is none pretends to."""
    with plain(count_to(4)) as first:
        assert numbers(first.run()[0]) == [0, 1, 2, 3]
        if torch.cuda.is_available():
            torch.zeros(1, device="cuda")
        else:
            monkeypatch.setattr(_staff, "forbid_fork_after_cuda", forbid)
        yield


def test_a_pipeline_that_is_defined_after_cuda_is_up_gets_workers(cuda_up):
    class Source:  # of a notebook's cell: no worker can import it
        def __init__(self, step):
            self.step = step

        def __call__(self, info):
            if info.idx_in_epoch >= 8:
                raise StopIteration
            return np.array([info.idx_in_epoch * self.step, os.getpid()])

    for step in (1, 10, 100):  # the cell is changed and run again
        with plain(Source(step), device="auto") as pipeline:
            batch = pipeline.run()[0].as_cpu()
            assert numbers(batch) == [0, step, 2 * step, 3 * step]
            assert {int(sample[1]) for sample in batch} <= set(pipeline.worker_pids)


def test_photographs_are_read_and_decoded_by_a_pipeline_that_is_defined_after_cuda_is_up(cuda_up, photographs):
    def epoch(**options):
        with Training(folder_source(photographs), seed=3, device="auto", **options) as pipeline:
            return [image.cpu() for images, _ in pipeline for image in images]

    first, second = epoch(), epoch(num_workers=4)
    assert len(first) == 14
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_worker_that_dies_after_cuda_is_up_is_replaced_and_nothing_is_lost(cuda_up):
    counted = count_to(100)

    def source(info):
        time.sleep(0.005)  # the epoch goes on for long enough for the death to be reported within it
        return counted(info)

    with plain(source, device="auto", on_worker_death="restart") as pipeline:
        seen = []
        with pytest.warns(RuntimeWarning, match="another one was started in its place"):
            for number, batch in enumerate(pipeline):
                seen += numbers(batch.as_cpu())
                if number % 8 == 2:
                    victim = pipeline.worker_pids[0]
                    os.kill(victim, signal.SIGKILL)
                    assert all_gone([victim])
        assert seen == list(range(100))
        assert pipeline.statistics().worker_deaths > 0


def test_where_a_source_cannot_be_sent_the_error_says_both_reasons(cuda_up):
    import threading

    lock = threading.Lock()

    def source(info):
        with lock:
            return np.zeros(1)

    with pytest.raises(RuntimeError, match="CUDA is already initialised") as caught:
        plain(source).start()
    assert "cannot be pickled" in str(caught.value)
    assert "lock" in str(caught.value)


def test_without_an_earlier_start_it_is_refused(no_zygote, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(CudaInitializedError, match="One is enough"):
        plain(count_to(4)).start()


def test_new_interpreters_can_always_be_started(no_zygote, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with plain(count_to(8), start_method="spawn", num_workers=1) as pipeline:
        assert [numbers(batch) for batch in pipeline] == [[0, 1, 2, 3], [4, 5, 6, 7]]

import psutil
import pytest
import torch

from tests.bench.support import blobs, vectors
from torchdali.bench._engines import LoaderEngine, PoolEngine, StockEngine
from torchdali.bench._workloads import Samples, Workload


class Broken(Samples):
    """Raises for one index."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            raise LookupError("no sample 5")
        return torch.ones(2000)

    def nbytes(self, index):
        return 8000


@pytest.fixture(params=[StockEngine, PoolEngine, LoaderEngine])
def kind(request):
    return request.param


@pytest.mark.parametrize("make", [blobs, vectors])
def test_epochs_have_all_samples_in_order_and_whole(kind, make):
    workload = make()
    with kind(workload, 2) as engine:
        for number in range(3):
            order = workload.order(5, number)
            batches = list(engine.epoch(order))
            assert [len(batch) for batch in batches] == [5, 5, 5, 5, 4]
            for indices, batch in zip(order, batches, strict=True):
                for index, sample in zip(indices, batch, strict=True):
                    assert torch.equal(sample, workload.samples[index])


def test_batches_of_vectors_are_tensors_and_those_of_blobs_lists(kind):
    for workload, expected in ((vectors(), torch.Tensor), (blobs(), list)):
        with kind(workload, 2) as engine:
            for number in range(2):  # the pool learns in the first
                assert {type(batch) for batch in engine.epoch(workload.order(6, number))} == {expected}


def test_it_names_its_workers(kind):
    workload = blobs()
    with kind(workload, 3) as engine:
        list(engine.epoch(workload.order(4, 0)))
        parents = [psutil.Process(pid).ppid() for pid in engine.pids]
        list(engine.epoch(workload.order(4, 1)))
        assert len(set(engine.pids)) == 3
    assert parents == [psutil.Process().pid] * 3


def test_its_workers_are_gone_when_it_is_closed_amid_an_epoch(kind):
    workload = blobs()
    with kind(workload, 2) as engine:
        batches = engine.epoch(workload.order(2, 0))
        next(batches)
        pids = engine.pids
        assert all(map(psutil.pid_exists, pids))
    assert not any(map(psutil.pid_exists, pids))


def test_what_a_sample_raises_is_raised(kind):
    workload = Workload("broken", Broken(), stacked=True, bar=1.0)
    with kind(workload, 2) as engine, pytest.raises(LookupError, match="no sample 5"):
        list(engine.epoch(workload.order(4, 0)))

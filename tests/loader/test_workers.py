"""Workers in a program's eyes: datasets of every make, what a worker knows, start methods, and what is left."""

import gc
import multiprocessing
import os
import pickle

import pytest
import torch
from torch.utils.data import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    get_worker_info,
)
from torch.utils.data import DataLoader as StockLoader

from tests.loader.shipped import Squares, Stream, Tallying, doubled, method_of_worker
from tests.loader.support import LOADERS, Made, Shards, as_is, identical, seed_all
from tests.pool.support import all_gone
from torchdali import DataLoader

CONTEXTS = ["fork", "spawn", "forkserver"]


# --- datasets of torch --------------------------------------------------------------------------------------------------------

PARTS = {
    "Subset": lambda: Subset(Squares(), [3, 1, 5]),
    "ConcatDataset": lambda: ConcatDataset([Squares(3), Squares(2)]),
    "StackDataset": lambda: StackDataset(a=Squares(3), b=[1, 2, 3]),
    "TensorDataset": lambda: TensorDataset(torch.arange(1000).view(5, 200), torch.rand(5).round()),
    "ChainDataset": lambda: ChainDataset([Shards((3,)), Shards((2,))]),
    "a list": lambda: [1, 2, 3, 4, 5],
    "a tensor": lambda: torch.arange(600).view(3, 200),
    "a dict": lambda: dict(enumerate("abcde")),
    "text": lambda: "abcde",
}


@pytest.mark.parametrize("kind", PARTS)
def test_datasets_of_every_make_give_the_batches_of_torch(kind):
    made = []
    for cls in LOADERS.values():
        seed_all(3)
        made.append([list(cls(PARTS[kind](), 2, num_workers=n)) for n in (0, 1)])
    assert identical(made[1], made[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shuffle", [None, True, False])
@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}], ids=str)
def test_data_pipes_are_sharded_and_shuffled_as_by_torch(options, shuffle):
    from torch.utils.data.datapipes.iter import IterableWrapper

    made = []
    for cls in LOADERS.values():
        torch.manual_seed(3)
        pipe = IterableWrapper(list(range(20))).shuffle().sharding_filter().map(as_is)
        loader = cls(pipe, 3, shuffle, **options)
        made.append([list(loader) for _ in range(3)] + [torch.rand(1)])
    assert identical(made[1], made[0])


# --- workers ------------------------------------------------------------------------------------------------------------------


class Telling(Dataset):
    """Tells what a worker knows of itself."""

    extra = None

    def __len__(self):
        return 4

    def __getitem__(self, index):
        info = get_worker_info()
        return {
            "info": (info.id, info.num_workers, info.worker_method, info.rng, info.seed == torch.initial_seed()),
            "same dataset": info.dataset is self,
            "extra": self.extra,
            "process": (os.getppid(), multiprocessing.current_process().daemon, multiprocessing.parent_process().pid),
            "threads": torch.get_num_threads(),
        }


def mark(worker):
    get_worker_info().dataset.extra = f"by {worker}"


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_know_of_themselves_what_workers_of_torch_do(persistent):
    assert get_worker_info() is None
    made = []
    for cls in LOADERS.values():
        options = {"num_workers": 2, "worker_init_fn": mark, "persistent_workers": persistent, "batch_size": None}
        loader = cls(Telling(), **options)
        made.append([list(loader) for _ in range(2)])
    assert identical(made[1], made[0])
    assert get_worker_info() is None


def test_the_process_objects_are_those_of_multiprocessing():
    loader = DataLoader(Squares(), num_workers=2, persistent_workers=True)
    workers = iter(loader)._workers
    assert [worker.is_alive() for worker in workers] == [True, True]
    assert all(isinstance(worker, multiprocessing.process.BaseProcess) and worker.daemon for worker in workers)
    assert len({worker.pid for worker in workers} | {os.getpid()}) == 3
    del loader
    gc.collect()
    assert all_gone([worker.pid for worker in workers])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("context", "as_text", "dataset"),
    [("fork", True, Squares()), ("fork", False, Stream()), ("spawn", True, Stream()), ("forkserver", False, Squares())],
)
def test_every_start_method_gives_the_batches_of_torch(context, as_text, dataset):
    given = context if as_text else multiprocessing.get_context(context)
    expected = list(StockLoader(dataset, 2, num_workers=2))
    loader = DataLoader(dataset, 2, num_workers=2, multiprocessing_context=given)
    assert loader.multiprocessing_context is multiprocessing.get_context(context)
    assert identical(list(loader), expected)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn"])
def test_functions_are_called_in_workers_of_every_start_method(context):
    options = {"collate_fn": doubled, "worker_init_fn": method_of_worker, "multiprocessing_context": context}
    loader = DataLoader(Squares(), 3, num_workers=1, persistent_workers=True, **options)
    for _ in range(2):
        assert [len(batch) for batch in loader] == [3, 3, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTEXTS)
def test_a_dataset_may_hold_what_multiprocessing_shares(name):
    context = multiprocessing.get_context(name)
    dataset = Tallying(context)
    loader = DataLoader(dataset, 2, num_workers=2, multiprocessing_context=context)
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    assert dataset.value.value == 15
    assert dataset.tensor.tolist() == [1] * 6
    assert dataset.event.is_set()
    assert sorted(dataset.queue.get(timeout=5) for _ in range(6)) == [0, 1, 2, 3, 4, 5]
    dataset.queue.close()
    dataset.queue.join_thread()


def test_what_workers_do_not_inherit_and_cannot_be_sent_raises_here():
    dataset = Made(number for number in range(3))
    with pytest.raises((TypeError, pickle.PicklingError), match="pickle"):
        iter(DataLoader(dataset, num_workers=1, multiprocessing_context="spawn"))


# --- what is left -----------------------------------------------------------------------------------------------------------


def epoch(persistent, left_early):
    loader = DataLoader(
        Made(lambda index: torch.full((500,), index), 12), 2, num_workers=2, persistent_workers=persistent
    )
    kept = []
    for _ in range(2):
        for batch in loader:
            kept.append(batch)
            if left_early:
                break
    return kept


@pytest.mark.parametrize("left_early", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
def test_no_descriptor_and_no_process_is_left(persistent, left_early):
    epoch(persistent, left_early)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        epoch(persistent, left_early)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert multiprocessing.active_children() == []


class Nothing(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_iterator_at_its_end_stays_there(num_workers):
    iterator = iter(DataLoader(Nothing(), num_workers=num_workers))
    assert [next(iterator, "end") for _ in range(3)] == ["end"] * 3

"""torchdali's loader in accelerate."""

import pytest
import torch

from tests.ranks import run_program
from torchdali import DataLoader

pytest.importorskip("accelerate", reason="needs the extra 'accelerate'")
from accelerate import Accelerator, skip_first_batches

from torchdali.accelerate import keep_engine


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, index):
        return {"number": torch.tensor([float(index)])}


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(torch.arange(10.0))


class Doubled(torch.nn.Module):
    def forward(self, batch):
        return {"number": batch["number"] * 2}


def numbers(loader):
    return [batch["number"].flatten().tolist() for batch in loader]


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def test_what_is_prepared_is_read_by_torchdali_with_all_arguments_and_the_workers_that_were_started(accelerator):
    loader = DataLoader(Items(), batch_size=2, num_workers=2, pipeline=Doubled(), on_worker_death="restart", prefetch=3)
    loader.start()
    pids = loader._torchdali.crew.pool.pids
    prepared = accelerator.prepare(loader)
    inside = prepared.base_dataloader
    assert type(inside) is DataLoader
    assert (inside.pipeline, inside.on_worker_death, inside.prefetch) == (loader.pipeline, "restart", 3)
    assert inside.device == accelerator.device
    assert inside._torchdali.crew.pool.pids == pids
    assert numbers(prepared) == [[4.0 * i, 4.0 * i + 2] for i in range(5)] + [[20.0]]


def test_skipping_batches_keeps_the_engine_and_does_not_read_their_samples(accelerator):
    read = []

    class Noting(Items):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    prepared = accelerator.prepare(DataLoader(Noting(), batch_size=2, on_worker_death="restart"))
    rest = skip_first_batches(prepared, 4)
    assert type(rest.base_dataloader) is DataLoader
    assert rest.base_dataloader.on_worker_death == "restart"
    assert numbers(rest) == [[8, 9], [10]]
    assert read == [8, 9, 10]


def test_iterable_datasets_keep_the_engine(accelerator):
    prepared = accelerator.prepare(DataLoader(Endless(), batch_size=4))
    assert type(prepared.base_dataloader) is DataLoader
    assert [batch.tolist() for batch in prepared] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_loaders_of_torchs_stay_what_they_are_unless_they_are_given_the_engine(accelerator):
    prepared = accelerator.prepare(torch.utils.data.DataLoader(Items(), batch_size=2))
    assert type(prepared.base_dataloader) is torch.utils.data.DataLoader
    assert keep_engine(prepared, on_worker_death="restart") is prepared
    assert type(prepared.base_dataloader) is DataLoader
    assert prepared.base_dataloader.on_worker_death == "restart"
    assert type(skip_first_batches(prepared, 1).base_dataloader) is DataLoader
    with pytest.raises(TypeError, match=r"accelerator\.prepare"):
        keep_engine(DataLoader(Items()))


def test_a_loader_that_says_that_it_is_prepared_is_left_alone(accelerator):
    loader = DataLoader(Items())
    loader._is_accelerate_prepared = True
    assert accelerator.prepare(loader) is loader


PROGRAM = """
from importlib.util import find_spec
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration
from tests.test_accelerate import Items, DataLoader, numbers

accelerator = Accelerator(cpu=True)
torch.manual_seed(3)
prepared = accelerator.prepare(DataLoader(Items(), batch_size=2, shuffle=True, num_workers=1))
assert type(prepared.base_dataloader) is DataLoader
mine = numbers(prepared)
assert len(mine) == len(prepared) == 3
whole = [number for batch in prepared for number in accelerator.gather_for_metrics(batch["number"]).flatten().tolist()]
assert sorted(whole) == list(range(11)), whole
others = accelerator.gather(torch.tensor(mine[:2])).flatten().tolist()
assert len(set(others)) == 8, others
assert len(numbers(skip_first_batches(prepared, 2))) == 1
for dispatch in ({"split_batches": True}, {"dispatch_batches": True}, {"even_batches": False}):
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**dispatch))
    prepared = accelerator.prepare(DataLoader(Items(), batch_size=2, num_workers=1))
    assert type(prepared.base_dataloader) is DataLoader
    if "even_batches" in dispatch:
        lengths = accelerator.gather(torch.tensor([len(numbers(prepared))])).tolist()
        assert lengths == [3, 3], lengths
        continue
    whole = [number for batch in prepared for number in accelerator.gather_for_metrics(batch["number"]).flatten().tolist()]
    assert sorted(whole) == list(range(11)), (dispatch, whole)

if find_spec("transformers") is not None:
    from tests.test_transformers import check_on_ranks

    check_on_ranks()
"""


def test_two_processes_read_disjoint_parts_and_metrics_see_each_sample_once_by_accelerate_and_by_trainer(tmp_path):
    run_program(tmp_path, PROGRAM)

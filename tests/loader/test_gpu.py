"""The DataLoader beside CUDA: pinned batches, the device stage, and workers that are forked when CUDA is up."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as Stock
from torch.utils.data import Dataset

import torchdali
from tests.helpers import decode_serially, read_bytes
from torchdali import DataLoader, TensorList, ops

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(100)]

CUDA = torch.device("cuda", 0)


class Rows(Dataset):
    """A tensor that its index fills, a small one, a number and a text."""

    def __init__(self, count=64, elements=100_000):
        self.count, self.elements = count, elements

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.full((self.elements,), float(index)), torch.tensor([index]), index, str(index)


class Files(Dataset):
    def __init__(self, folder):
        self.paths = sorted(folder.glob("*.jpg"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return read_bytes(self.paths[index]), index


def copies(loader):
    """An epoch's tensors, on the CPU."""
    return [[part.cpu() if isinstance(part, torch.Tensor) else part for part in batch] for batch in loader]


def same(one, other):
    assert len(one) == len(other)
    for batch, another in zip(one, other, strict=True):
        for part, twin in zip(batch, another, strict=True):
            assert torch.equal(part, twin) if isinstance(part, torch.Tensor) else part == twin
    return True


# --- without a stage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_without_pinning_and_stage_nothing_touches_cuda(workers):
    for _ in range(2):
        assert len(list(DataLoader(Rows(8, 10), batch_size=4, num_workers=workers))) == 2
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_are_those_of_torch(workers, persistent):
    if persistent and not workers:
        pytest.skip("no workers to persist")
    options = {"batch_size": 8, "num_workers": workers, "pin_memory": True, "persistent_workers": persistent}
    ours, stock = DataLoader(Rows(), **options), Stock(Rows(), **options)
    for _ in range(3):
        batches = list(ours)
        assert all(part.is_pinned() for batch in batches for part in batch[:3])
        same(batches, list(stock))


def test_large_tensors_are_pinned_where_the_workers_wrote_them():
    loader = DataLoader(Rows(), batch_size=8, num_workers=2, pin_memory=True, persistent_workers=True)
    for _ in range(3):
        for rows, *_ in loader:
            assert rows.is_pinned()
    pool, hook = loader._iterator._pool, loader._iterator._crew.hook
    assert hook.nbytes == pool.statistics().committed_bytes > 0
    kept = [batch[0] for batch in loader]
    memory = pool._arena._memory  # where the batches lie
    start = torch.frombuffer(memory.map, dtype=torch.uint8).data_ptr()
    assert all(start <= rows.data_ptr() < start + memory.size for rows in kept)


def test_a_pinned_batch_that_is_dropped_while_it_is_copied_arrives_whole():
    loader = DataLoader(Rows(256), batch_size=8, num_workers=2, pin_memory=True, persistent_workers=True)
    for _ in range(2):
        arrived = []
        for rows, *_ in loader:
            torch.cuda._sleep(20_000_000)
            arrived.append((rows.to(CUDA, non_blocking=True), rows[:, 0].clone()))
            del rows
        torch.cuda.synchronize()
        assert all((copy == first.to(CUDA)[:, None]).all() for copy, first in arrived)


def test_an_object_s_own_pin_memory_is_called():
    class Batch:
        def __init__(self, samples):
            self.rows = torch.stack([sample[0] for sample in samples])
            self.pinned = False

        def pin_memory(self):
            self.rows, self.pinned = self.rows.pin_memory(), True
            return self

    (batch,) = DataLoader(Rows(4), batch_size=4, num_workers=1, pin_memory=True, collate_fn=Batch)
    assert batch.pinned
    assert batch.rows.is_pinned()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_may_be_started_when_cuda_is_up(method):
    torch.zeros(1, device=CUDA)
    options = {"batch_size": 8, "num_workers": 2, "multiprocessing_context": method}
    assert same(list(DataLoader(Rows(), **options)), list(Stock(Rows(), batch_size=8)))


def test_start_forks_before_cuda_and_says_so_when_it_is_too_late():
    loader = DataLoader(Rows(), batch_size=8, num_workers=2)
    torchdali.start(loader)
    torch.zeros(1, device=CUDA)
    assert len(list(loader)) == 8
    with pytest.warns(RuntimeWarning, match="CUDA is initialised already"):
        loader.start()
    assert len(list(loader)) == 8


class OnDevice(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((3,), float(index), device="cuda")


def test_spawned_workers_may_hand_over_tensors_on_the_device():
    torch.zeros(1, device=CUDA)
    loader = DataLoader(OnDevice(), num_workers=1, multiprocessing_context="spawn")
    for index, batch in enumerate(loader):
        assert batch.device.type == "cuda"
        assert batch.tolist() == [[index] * 3]
        del batch


# --- the stage ----------------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, rows, small, index, text):
        with torch.no_grad():
            return rows * self.factor, small + 1, index, text


@pytest.mark.parametrize("pin_memory", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_on_the_device_as_the_module_makes_them(workers, pin_memory):
    loader = DataLoader(
        Rows(), batch_size=8, num_workers=workers, pin_memory=pin_memory, pipeline=Twice(), device="cuda", prefetch=3
    )
    for _ in range(2):
        kept = list(loader)
        assert all(part.device == CUDA for batch in kept for part in batch[:3])
        for number, (rows, small, index, text) in enumerate(kept):
            expected = torch.arange(8 * number, 8 * number + 8, device=CUDA)
            assert torch.equal(rows, (2.0 * expected)[:, None].expand_as(rows))
            assert torch.equal(small[:, 0], expected + 1)
            assert torch.equal(index, expected)
            assert list(text) == [str(value) for value in expected.tolist()]


def test_without_a_module_batches_are_brought_to_the_device():
    loader = DataLoader(Rows(), batch_size=8, num_workers=2, device="cuda")
    batches = list(loader)
    assert all(part.device == CUDA for batch in batches for part in batch[:3])
    same(copies(batches), list(Stock(Rows(), batch_size=8)))


def test_what_the_consumer_does_on_its_stream_sees_whole_batches():
    loader = DataLoader(Rows(128), batch_size=8, num_workers=2, pipeline=Twice(), device="cuda", prefetch=2)
    sums = []
    for _ in range(3):
        for rows, *_ in loader:
            sums.append(rows.sum(1))
            del rows
            torch.empty(8, 100_000, device=CUDA).fill_(-1)  # takes the memory, if it is free too early
        torch.cuda._sleep(1_000_000)
    torch.cuda.synchronize()
    expected = torch.arange(128.0, device=CUDA).mul(200_000).repeat(3)
    assert torch.equal(torch.cat(sums), expected)


def test_pinned_batches_may_be_dropped_while_they_are_copied_on_the_stream_on_which_they_were_asked_for():
    loader = DataLoader(Rows(1024), batch_size=8, num_workers=2, pin_memory=True)
    streams = [torch.cuda.Stream() for _ in range(3)]
    for _ in range(2):
        copied, iterator = [], iter(loader)
        for number in range(128):
            with torch.cuda.stream(streams[number % 3]):
                rows, *_ = next(iterator)
                torch.cuda._sleep(20_000_000)  # about 10 ms of clock cycles
                copied.append(rows.to("cuda", non_blocking=True))
                del rows
        torch.cuda.synchronize()
        assert torch.equal(torch.cat(copied)[:, 0].cpu(), torch.arange(1024.0))


class Noise(nn.Module):
    def forward(self, rows, *rest):
        return torch.rand(len(rows), device=rows.device), torch.rand(len(rows))


def test_draws_of_the_stage_depend_on_seed_and_batch_alone():
    def epochs(**options):
        torch.manual_seed(3)
        loader = DataLoader(Rows(), batch_size=8, pipeline=Noise(), device="cuda", **options)
        return [copies(loader) for _ in range(2)]

    expected = epochs(num_workers=0)
    first, second = expected
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], second[0][0])
    for options in ({"num_workers": 2}, {"num_workers": 2, "prefetch": 5}):
        for epoch, another in zip(epochs(**options), expected, strict=True):
            same(epoch, another)


def test_the_user_s_generators_are_left_alone():
    torch.manual_seed(1)
    torch.zeros(1, device=CUDA)
    loader = DataLoader(Rows(), batch_size=8, pipeline=Noise(), device="cuda", generator=torch.Generator())
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    assert len(list(loader)) == 8
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


class Decoding(nn.Module):
    def __init__(self):
        super().__init__()
        self.decode = ops.DecodeImage()

    def forward(self, jpegs, index):
        return self.decode(jpegs), index


def test_jpegs_are_decoded_on_the_device(photographs):
    dataset = Files(photographs)
    loader = DataLoader(
        dataset, batch_size=4, num_workers=2, collate_fn=torchdali.ragged_collate, pipeline=Decoding(), device="cuda"
    )
    differences = []
    for images, indices in loader:
        assert isinstance(images, TensorList)
        assert images.device == CUDA
        assert indices.device == CUDA
        for image, index in zip(images.as_cpu(), indices.tolist(), strict=True):
            expected = decode_serially(dataset.paths[index])
            assert image.shape == expected.shape
            differences.append((image.int() - expected.int()).abs().float().mean())
    assert len(differences) == len(dataset)
    assert max(differences) < 3  # chroma is upsampled in another way


def test_a_batch_that_raises_on_the_device_s_side_is_raised_in_its_turn():
    def stage(rows, *rest):
        if 16 in rest[1]:
            raise LookupError("no 16")
        return rows

    iterator = iter(DataLoader(Rows(), batch_size=8, num_workers=2, pipeline=stage, device="cuda", prefetch=4))
    seen = []
    for _ in range(8):
        try:
            seen.append(int(next(iterator)[0, 0]))
        except LookupError as error:
            seen.append(str(error))
    assert seen == [0, 8, "no 16", 24, 32, 40, 48, 56]


def test_a_state_counts_what_was_handed_out_and_not_what_is_ahead():
    def make():
        return DataLoader(
            Rows(), batch_size=8, shuffle=True, num_workers=2, pipeline=Twice(), device="cuda", prefetch=3
        )

    torch.manual_seed(5)
    loader = make()
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    rest = copies(iterator)
    again = make()
    again.load_state_dict(state)
    assert len(rest) == 5
    same(copies(again), rest)

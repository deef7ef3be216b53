"""Batches that are kept, large, or more than there is memory for: whole, never overwritten, without a descriptor each."""

import gc
import os
import warnings

import pytest
import torch

from tests.loader.support_faults import Numbers, batches, ints
from torchdali import DataLoader

pytestmark = pytest.mark.timeout(60)


class Blobs(Numbers):
    """Sample i: bytes of its own length, all of them i."""

    def __getitem__(self, index):
        super().__getitem__(index)
        return torch.full((1000 + 37 * (index % 50),), index % 251, dtype=torch.uint8)


class Blocks(Numbers):
    """Sample i: ``width`` times i."""

    width = 1000

    def __getitem__(self, index):
        return super().__getitem__(index).expand(self.width).clone()


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def whole(blobs, first):
    return all(
        blob.shape == (1000 + 37 * (number % 50),) and bool((blob == number % 251).all())
        for number, blob in enumerate(blobs, first)
    )


def test_kept_batches_cost_no_descriptors_and_are_never_overwritten():
    loader = DataLoader(Blobs(64 * 30), batch_size=64, num_workers=2, collate_fn=list)
    iterator = iter(loader)
    kept = [next(iterator)]
    before = descriptors()
    kept += [next(iterator) for _ in range(19)]
    assert descriptors() <= before + 4
    rest = [whole(batch, 64 * number) for number, batch in enumerate(iterator, 20)]
    assert rest == [True] * 10
    assert [whole(batch, 64 * number) for number, batch in enumerate(kept)] == [True] * 20
    del iterator
    gc.collect()
    assert [whole(batch, 64 * number) for number, batch in enumerate(kept)] == [True] * 20


def test_kept_batches_live_on_after_their_loader_and_may_be_written_to():
    kept = list(DataLoader(Blocks(60), batch_size=3, num_workers=2))
    for batch in kept[::2]:
        batch += 1000
    gc.collect()
    assert [ints(batch[:, 0]) for batch in kept[1::2]] == batches(60, 3)[1::2]
    assert [ints(batch[:, -1] - 1000) for batch in kept[0::2]] == batches(60, 3)[0::2]


def test_loaders_leave_no_descriptor_open():
    list(DataLoader(Blocks(12), batch_size=3, num_workers=2))
    before = descriptors()
    for _ in range(3):
        list(DataLoader(Blocks(60), batch_size=3, num_workers=2, persistent_workers=True))
        for _ in DataLoader(Blocks(60), batch_size=3, num_workers=2, memory_limit=1 << 16):
            break
        DataLoader(Blocks(60), num_workers=2).start()
        gc.collect()
    assert descriptors() <= before


@pytest.mark.parametrize("limit", [1, 1 << 16, 1 << 20])
def test_where_memory_ends_batches_are_copied_with_one_warning_and_right(limit):
    loader = DataLoader(Blocks(180), batch_size=3, num_workers=2, memory_limit=limit, persistent_workers=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kept = [batch for _ in range(2) for batch in loader]
    texts = [str(warning.message) for warning in told if "results are copied" in str(warning.message)]
    assert len(texts) == 1
    assert "memory_limit" in texts[0]
    for batch, expected in zip(kept, batches(180, 3) * 2, strict=True):
        assert batch.shape == (3, 1000)
        assert torch.equal(batch, torch.tensor(expected)[:, None].expand(3, 1000))


def test_no_warning_where_batches_are_let_go():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count = sum(len(batch) for batch in DataLoader(Blocks(600), batch_size=3, num_workers=2))
    assert count == 600


def test_batches_larger_than_the_first_guess_arrive_and_stay_whole():
    class Large(Blocks):
        width = 4_000_000  # 96 MB a batch of three

    found = []
    for batch in DataLoader(Large(15), batch_size=3, num_workers=1, prefetch_factor=1):
        assert bool((batch == batch[:, :1]).all())
        found.append(ints(batch[:, 0]))
        last = batch
    assert found == batches(15, 3)
    assert ints(last[:, -1]) == [12, 13, 14]


def test_batches_of_changing_size_arrive_whole():
    class Changing(Numbers):
        def __getitem__(self, index):
            return torch.full((10 ** (index % 7),), index)

    kept = list(DataLoader(Changing(42), batch_size=None, num_workers=2))
    for index, sample in enumerate(kept):
        assert sample.shape == (10 ** (index % 7),)
        assert bool((sample == index).all())


@pytest.mark.parametrize("options", ["", "memory_limit=1 << 16", "persistent_workers=True"])
def test_a_small_limit_on_open_files_is_enough(program, options):
    running = program(
        f"""
import json, os, resource, warnings
import torch, torchdali

class Blobs(torch.utils.data.Dataset):
    def __len__(self):
        return 64 * 20
    def __getitem__(self, index):
        return torch.full((1000 + index,), index % 251, dtype=torch.uint8)

warnings.simplefilter("ignore")
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, used + 40))
kept = list(torchdali.DataLoader(Blobs(), batch_size=64, num_workers=2, collate_fn=list, {options}))
right = all(bool((blob == (64 * n + i) % 251).all()) and len(blob) == 1000 + 64 * n + i
            for n, batch in enumerate(kept) for i, blob in enumerate(batch))
print(json.dumps([len(kept), right]), flush=True)
""",
        abrupt=True,
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert running.line() == [20, True]


def test_no_room_for_another_descriptor_is_an_error_and_no_hang(program):
    running = program(
        """
import json, os, resource
import torch, torchdali

used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, used + 4))  # for more than that even of one worker
try:
    list(torchdali.DataLoader(range(10), num_workers=2))
except OSError as error:
    print(json.dumps(error.errno), flush=True)
"""
    )
    ended = running.wait()
    assert ended.code == 0
    assert running.line() == 24  # EMFILE
    assert "Traceback" not in ended.err


def test_many_workers_and_little_memory_are_no_reason_to_copy():
    loader = DataLoader(Numbers(64), batch_size=2, num_workers=4, prefetch_factor=4, memory_limit=8 << 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*will create 4 worker processes")
        iterator = iter(loader)
        assert [ints(batch) for batch in iterator] == batches(64, 2)
    assert iterator._pool.statistics().copied_bytes == 0

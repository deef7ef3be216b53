"""Pinned memory: copies to the device run straight from what workers wrote, and nothing writes there meanwhile."""

import types

import numpy as np
import pytest
import torch

from tests.pipeline.support import count_to, numbers, plain
from torchdali.pipeline import _pinned
from torchdali.pipeline._pinned import PinnedMemory
from torchdali.pool import Raised, Stacked, WorkerPool

SIZE = 1_000_000


def filled(item):
    return torch.full((SIZE,), item, dtype=torch.uint8)


def collect(pool, value, count=4):
    result = pool.collect(pool.submit(0, [value] * count, stack=True), timeout=30)
    assert not any(isinstance(entry, Raised) for entry in result)
    return result.value if isinstance(result, Stacked) else torch.stack(result)


# --- without a device ---------------------------------------------------------------------------------------------------


def test_before_cuda_is_initialised_nothing_is_pinned_and_memory_is_used_again():
    hook = PinnedMemory()
    with WorkerPool([filled], 2, memory_hook=hook) as pool:
        for value in range(5):
            assert (collect(pool, value) == value).all()
        if not torch.cuda.is_initialized():
            assert hook.nbytes == 0
        assert pool.statistics().growth == 1


def test_on_the_cpu_pinning_has_no_effect():
    with plain(count_to(8), pin_memory=True) as pipeline:
        assert [numbers(batch) for batch in pipeline] == [[0, 1, 2, 3], [4, 5, 6, 7]]


class Refusing:
    """A runtime that pins nothing."""

    def cudaHostRegister(self, address, nbytes, flags):
        return 2


def test_a_refusal_raises_or_is_told_of_once(monkeypatch):
    monkeypatch.setattr(_pinned, "_cudart", Refusing)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match=r"refuses to pin 64 bytes \(error 2\); pin_memory=False does without"):
        PinnedMemory().register(4096, 64)
    hook = PinnedMemory(required=False)
    with pytest.warns(RuntimeWarning, match="refuses to pin 64 bytes") as caught:
        for address in (4096, 8192):
            hook.register(address, 64)
    assert len(caught) == 1
    assert hook.nbytes == 0
    hook.unregister(4096, 64)
    assert hook.fence()()


def test_memory_waits_for_the_streams_on_which_batches_were_asked_for(monkeypatch):
    def stream(number):
        return types.SimpleNamespace(device_index=0, cuda_stream=number)

    hook = PinnedMemory()
    hook.asked_for()
    if not torch.cuda.is_initialized():
        assert hook._streams == {}, "where CUDA is not in use nothing is copied"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for number in (5, 7, 5):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda number=number: stream(number))
        hook.asked_for()
    assert sorted(hook._streams) == [(0, 5), (0, 7)]


# --- on a device --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pinned_pool():
    """A pool whose workers were forked before CUDA, with its memory pinned after."""
    hook = PinnedMemory()
    with WorkerPool([filled], 2, memory_hook=hook) as pool:
        for _ in range(3):  # the shape is learnt
            collect(pool, 0)
        torch.cuda.init()
        hook.pin()
        yield pool, hook


def overwritten(pool):
    """Copy a batch behind a kernel that takes a while, drop it, let workers write others; what has arrived then."""
    batch = collect(pool, 1)
    assert batch.is_pinned()
    torch.cuda._sleep(1_000_000_000)  # about half a second of clock cycles
    copy = batch.to("cuda", non_blocking=True)
    assert not torch.cuda.current_stream().query(), "the copy is not asynchronous"
    del batch
    for value in range(2, 12):
        collect(pool, value)
    torch.cuda.synchronize()
    return copy


@pytest.mark.gpu
def test_a_batch_that_is_being_copied_is_not_written_to(pinned_pool):
    pool, _ = pinned_pool
    copied = pool.statistics().copied_bytes  # of the first batch, whose size was not known
    for _ in range(5):
        assert (overwritten(pool) == 1).all()
    assert pool.statistics().copied_bytes == copied


@pytest.mark.gpu
def test_without_the_guard_it_would_be(pinned_pool, monkeypatch):
    pool, hook = pinned_pool
    monkeypatch.setattr(hook, "fence", lambda: lambda: True)
    spoilt = sum(bool((overwritten(pool) != 1).any()) for _ in range(5))
    print(f"without the guard {spoilt} of 5 batches are spoilt")
    assert spoilt > 0


@pytest.mark.gpu
def test_a_copy_on_another_stream_is_waited_for_once_that_is_recorded(pinned_pool):
    pool, hook = pinned_pool
    stream = torch.cuda.Stream()
    hook.record_stream(stream)
    for _ in range(3):
        with torch.cuda.stream(stream):
            batch = collect(pool, 1)
            torch.cuda._sleep(1_000_000_000)
            copy = batch.to("cuda", non_blocking=True)
        del batch
        for value in range(2, 12):
            collect(pool, value)
        torch.cuda.synchronize()
        assert (copy == 1).all()


@pytest.mark.gpu
def test_memory_is_unpinned_before_it_is_given_back(pinned_pool, monkeypatch):
    pool, hook = pinned_pool
    kept = collect(pool, 7)
    pool.close()
    assert kept.is_pinned()
    assert hook.nbytes > 0
    pool._arena = pool._workforce = None  # what the pool's owner does by letting go of it
    assert (kept.cuda() == 7).all()


@pytest.mark.gpu
def test_a_pipeline_with_pinned_memory_delivers_the_right_batches():
    def source(info):
        if info.idx_in_epoch >= 400:
            raise StopIteration
        return np.full(200_000, info.idx_in_epoch, np.float32)

    with plain(source, device="cuda", pin_memory=True, batch_size=16, prefetch=3) as pipeline:
        for _ in range(2):
            kept = []
            for batch in pipeline:
                torch.cuda._sleep(5_000_000)
                kept.append(batch)
            values = [float(sample[0]) for batch in kept for sample in batch]
            assert values == list(range(400))
            assert all((sample == sample[0]).all() for batch in kept for sample in batch)
        assert pipeline._staff.pinned.nbytes > 0


@pytest.mark.gpu
def test_the_last_segment_is_unpinned_when_the_last_view_is_gone():
    hook = PinnedMemory()
    torch.cuda.init()
    from torchdali.pool._arena import Arena
    from torchdali.pool._memory import Memory

    arena = Arena(Memory(1 << 27), hook=hook)
    lease = arena.reserve(1 << 20).lease()
    view = torch.from_numpy(lease)
    assert view.is_pinned()
    del arena, lease
    assert hook.nbytes > 0
    del view
    assert hook.nbytes == 0

"""Bytes of a pool's memory that workers are told of by their place: nothing is sent to them."""

import os

import numpy as np
import psutil
import pytest
import torch

from torchdali.pool import Memory, Raised, WorkerPool, worker_memory


def address_of(value: np.ndarray | torch.Tensor) -> int:
    return value.data_ptr() if isinstance(value, torch.Tensor) else value.ctypes.data


def work(item):
    """Makes an array of so many bytes, or sums those at (offset, length)."""
    if isinstance(item, int):
        return np.random.default_rng(item).integers(0, 256, item, np.uint8)
    memory = worker_memory()
    assert memory is not None
    return int(memory.view(*item).sum(dtype=np.int64))


@pytest.mark.parametrize("method", ["fork", "zygote", "spawn"])
def test_a_worker_reads_what_the_parent_holds_wherever_it_has_the_memory(method):
    with WorkerPool([work], 2, start_method=method) as pool:
        held = pool.collect(pool.submit(0, [5000, 70_001]))
        places = [pool.memory.offset_of(address_of(array), array.nbytes) for array in held]
        parts = [pool.memory.offset_of(address_of(array[17:999]), 982) for array in held]
        items = [*zip(places, [5000, 70_001], strict=True), *((place, 982) for place in parts)]
        assert pool.collect(pool.submit(0, items)) == [
            *(int(array.sum(dtype=np.int64)) for array in held),
            *(int(array[17:999].sum(dtype=np.int64)) for array in held),
        ]


def test_what_lies_elsewhere_has_no_place(make_pool):
    pool = make_pool(work)
    (held,) = pool.collect(pool.submit(0, [5000]))
    memory = pool.memory
    start = memory.offset_of(address_of(held), 5000)
    first = address_of(held) - start
    assert memory.offset_of(address_of(np.zeros(5000)), 100) is None
    assert memory.offset_of(first - 1, 1) is None
    assert memory.offset_of(first, memory.size) == 0
    assert memory.offset_of(first, memory.size + 1) is None
    assert memory.offset_of(first + memory.size - 1, 1) == memory.size - 1
    assert memory.offset_of(first + memory.size, 1) is None
    assert memory.offset_of(first + memory.size, 0) == memory.size
    assert memory.offset_of(first, -1) is None


@pytest.mark.filterwarnings("ignore:.*results are copied from here on")
def test_a_copied_result_has_no_place(make_pool):
    pool = make_pool(work, memory_limit=1)
    (copied,) = pool.collect(pool.submit(0, [5000]))
    assert pool.memory.offset_of(address_of(copied), 5000) is None


def test_a_view_is_of_the_bytes_themselves():
    memory = Memory(1 << 16)
    memory.view(100, 4)[:] = [1, 2, 3, 4]
    assert memory.view(98, 8).tolist() == [0, 0, 1, 2, 3, 4, 0, 0]
    assert memory.offset_of(address_of(memory.view(98, 8)), 8) == 98
    assert memory.view(memory.size, 0).tolist() == []
    memory.close()


@pytest.mark.parametrize("start", [0, 100, 4096, 40_000])
@pytest.mark.parametrize("closed", [False, True], ids=["", "without a descriptor"])
def test_what_is_written_to_a_view_that_copies_on_write_is_seen_by_nobody_else(start, closed):
    memory = Memory(1 << 16)
    content = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8)
    memory.view(start, 20_000)[:] = content
    if closed:
        memory.close()
    one, other = (memory.copy_on_write(start, 20_000) for _ in range(2))
    assert np.array_equal(one, content)
    one[:] += 1
    assert np.array_equal(one, content + 1)
    assert np.array_equal(other, content)
    assert np.array_equal(memory.view(start, 20_000), content)
    assert memory.copy_on_write(memory.size, 0).tolist() == []
    memory.close()
    del memory
    assert np.array_equal(one, content + 1)


def test_it_costs_no_copy():
    memory = Memory(1 << 24)
    memory.view(0, 1 << 24)[:] = 1
    kept = [memory.copy_on_write(4096 * number, 1 << 23) for number in range(100)]
    before = psutil.Process().memory_info().rss
    assert [int(view[-1]) for view in kept] == [1] * 100
    assert psutil.Process().memory_info().rss - before < 1 << 25  # of 100 << 23
    memory.close()


def test_a_forked_process_can_have_a_descriptor_again():
    memory = Memory(1 << 16)
    memory.view(5000, 3)[:] = [1, 2, 3]
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        memory.close()
        memory.reopen()
        view = memory.copy_on_write(5000, 3)
        view += 1
        os.write(writer, bytes([*view, *memory.view(5000, 3), memory.fd >= 0]))
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    assert list(os.read(reader, 100)) == [2, 3, 4, 1, 2, 3, True]
    os.close(reader)
    memory.close()


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 1), (0, 1 << 40), (1 << 40, 1), (0, -1)])
def test_a_view_beyond_the_memory_is_refused(make_pool, offset, nbytes):
    pool = make_pool(work, workers=1)
    for view in (pool.memory.view, pool.memory.copy_on_write):
        with pytest.raises(ValueError, match="do not lie in a memory of"):
            view(offset, nbytes)
    (raised,) = pool.collect(pool.submit(0, [(offset, nbytes)]))
    assert isinstance(raised, Raised)
    assert isinstance(raised.exception, ValueError)


def test_only_a_worker_has_a_worker_memory_and_a_pool_has_one_once_started():
    assert worker_memory() is None
    pool = WorkerPool([work], 1)
    assert pool.memory is None
    with pool:
        assert pool.memory is not None
    pool.close()

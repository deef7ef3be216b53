"""Shared memory as a user sees it: no copies, never overwritten while kept, used again once dropped."""

import random
import zlib

import numpy as np
import pytest
import torch

from tests.pool.support import Tally
from torchdali.pool import WorkerPool
from torchdali.pool._arena import Arena

KIB = 1024

copies = pytest.mark.filterwarnings("ignore:.*results are copied from here on")


def arena(pool: WorkerPool) -> Arena:
    assert pool._arena is not None
    return pool._arena


def is_shared(pool: WorkerPool, value) -> bool:
    array = value.numpy() if isinstance(value, torch.Tensor) else value
    return np.may_share_memory(array, np.frombuffer(arena(pool)._memory.map, np.uint8))


def content(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("kind", [np.zeros, torch.zeros])
def test_large_results_are_views_of_shared_memory_and_small_ones_are_not(make_pool, kind):
    pool = make_pool(lambda size: kind(size))
    small, large = pool.collect(pool.submit(0, [10, 10_000]))
    assert is_shared(pool, large)
    assert not is_shared(pool, small)
    assert pool.statistics().copied_bytes == 0


def test_what_a_worker_writes_later_into_its_own_result_is_not_seen(make_pool):
    own = np.zeros(5000)

    def call(item):
        own[:] = item
        return own

    pool = make_pool(call, workers=1)
    one = pool.submit(0, [1, 2])
    two = pool.submit(0, [3])
    assert [result[0] for result in [*pool.collect(one), *pool.collect(two)]] == [1, 2, 3]


@pytest.mark.parametrize(
    "keep", [lambda a: a, lambda a: a[5:7], lambda a: a.reshape(10, -1).T, torch.from_numpy, memoryview]
)
def test_memory_is_held_until_the_last_view_dies(make_pool, keep):
    pool = make_pool(lambda item: np.full(100_000, item, np.uint8))
    job = pool.submit(0, range(4))
    results = pool.collect(job)
    view = keep(results[2])
    del results, job
    assert arena(pool).in_use > 0
    pool.collect(pool.submit(0, [9] * 20))
    assert np.asarray(view).max() == np.asarray(view).min() == 2
    del view
    assert arena(pool).in_use == 0


def test_a_view_of_a_tensor_holds_the_memory_too(make_pool):
    pool = make_pool(lambda item: torch.full((10_000,), item))
    view = pool.collect(pool.submit(0, [3]))[0][10:20].view(2, 5)
    assert arena(pool).in_use > 0
    pool.collect(pool.submit(0, [9] * 20))
    assert view.tolist() == [[3] * 5] * 2
    del view
    assert arena(pool).in_use == 0


def test_a_small_result_that_is_kept_holds_no_shared_memory(make_pool):
    pool = make_pool(lambda item: (np.zeros(100_000), np.int64(item), torch.tensor([item])))
    labels = [(label, tensor) for _, label, tensor in pool.collect(pool.submit(0, range(5)))]
    assert arena(pool).in_use == 0
    assert labels == [(number, torch.tensor([number])) for number in range(5)]


def test_results_stay_valid_after_the_pool_is_gone():
    with WorkerPool([lambda item: content(item, 50_000)], 2) as pool:
        results = pool.collect(pool.submit(0, range(6)))
    del pool
    assert all(np.array_equal(result, content(seed, 50_000)) for seed, result in enumerate(results))


@pytest.mark.parametrize("limit", [None, 3_000 * KIB])
def test_a_batch_that_is_kept_is_never_overwritten(make_pool, limit):
    """Batches are dropped and kept at random, so that slots between kept ones are used again and again."""
    draw = random.Random(11)
    pool = make_pool(lambda item: content(*item), workers=3, memory_limit=limit)
    kept: dict[int, tuple[list[np.ndarray], int]] = {}
    pending = []
    for number in range(120):
        size = draw.choice([2_000, 20_000, 60_000])
        pending.append(pool.submit(0, [(10 * number + place, size) for place in range(4)]))
        if len(pending) > 3:
            batch = pool.collect(pending.pop(0))
            kept[number] = batch, zlib.crc32(b"".join(batch))
        while len(kept) > 25 or (kept and draw.random() < 0.2):
            batch, checksum = kept.pop(draw.choice(list(kept)))
            assert zlib.crc32(b"".join(batch)) == checksum
    for batch, checksum in kept.values():
        assert zlib.crc32(b"".join(batch)) == checksum
    if limit is not None:
        assert pool.statistics().copied_bytes > 0
    assert pool.statistics().shared_bytes > 0


def test_what_arrives_is_what_was_made_in_each_of_many_batches(make_pool):
    pool = make_pool(lambda item: content(item, 30_000), workers=3)
    jobs = [pool.submit(0, range(8 * number, 8 * number + 8)) for number in range(25)]
    for number, job in enumerate(jobs):
        for place, array in enumerate(pool.collect(job)):
            assert np.array_equal(array, content(8 * number + place, 30_000))


def test_memory_is_used_again_once_batches_are_dropped(make_pool):
    pool = make_pool(lambda item: np.zeros(50_000, np.uint8))

    def run(count):
        pending = [pool.submit(0, range(8)) for _ in range(3)]
        for _ in range(count):
            pool.collect(pending.pop(0))
            pending.append(pool.submit(0, range(8)))
        for job in pending:
            pool.collect(job)

    run(20)
    mark = pool.statistics().peak_bytes
    run(100)
    assert pool.statistics().peak_bytes == mark
    assert arena(pool).in_use == 0
    assert pool.statistics().copied_bytes == 0


def test_beyond_the_limit_results_are_copied_and_right(make_pool):
    pool = make_pool(lambda item: content(item, 50_000), memory_limit=1000 * KIB, bytes_per_item=60_000)
    with pytest.warns(UserWarning, match="no shared memory left, results are copied from here on") as warned:
        kept = [pool.collect(pool.submit(0, [2 * number, 2 * number + 1])) for number in range(30)]
    assert len(warned) == 1
    numbers = pool.statistics()
    assert numbers.shared_bytes > 0
    assert numbers.copied_bytes > 0
    assert numbers.shared_bytes + numbers.copied_bytes >= 60 * 50_000
    assert numbers.peak_bytes <= 1000 * KIB
    for number, batch in enumerate(kept):
        assert np.array_equal(batch[0], content(2 * number, 50_000))
        assert np.array_equal(batch[1], content(2 * number + 1, 50_000))


@copies
def test_after_the_limit_memory_is_shared_again_once_it_is_free(make_pool):
    pool = make_pool(lambda item: np.zeros(50_000, np.uint8), memory_limit=500 * KIB)
    kept = [pool.collect(pool.submit(0, [0])) for _ in range(20)]
    assert not is_shared(pool, kept[-1][0])
    kept.clear()
    assert is_shared(pool, pool.collect(pool.submit(0, [0]))[0])


def test_a_result_larger_than_its_slot_arrives_by_copy_and_the_next_one_fits(make_pool):
    pool = make_pool(lambda item: content(item, 300_000), bytes_per_item=1000)
    (first,) = pool.collect(pool.submit(0, [1]))
    assert not is_shared(pool, first)
    assert np.array_equal(first, content(1, 300_000))
    assert pool.statistics().copied_bytes >= 300_000
    (second,) = pool.collect(pool.submit(0, [2]))
    assert is_shared(pool, second)
    assert np.array_equal(second, content(2, 300_000))


def test_one_outlier_does_not_make_all_later_results_be_copied(make_pool):
    pool = make_pool(lambda size: np.zeros(size, np.uint8), memory_limit=64 << 20)
    pool.collect(pool.submit(0, [4_000_000]))
    for _ in range(100):
        pool.collect(pool.submit(0, [10_000] * 16))
    before = pool.statistics().copied_bytes
    pool.collect(pool.submit(0, [10_000] * 16))
    assert pool.statistics().copied_bytes == before


def test_a_long_description_lies_in_shared_memory_or_in_the_copy(make_pool):
    values = [list(range(20_000)), "text" * 50_000]
    for limit in (None, 1):
        pool = make_pool(lambda number: values[number], memory_limit=limit, bytes_per_item=1 << 20)
        assert pool.collect(pool.submit(0, [0, 1])) == values
        assert (pool.statistics().copied_bytes == 0) == (limit is None)


def test_one_result_of_many_megabytes_arrives(make_pool):
    size = 40 << 20
    pool = make_pool(lambda item: np.arange(size // 8))
    (result,) = pool.collect(pool.submit(0, [0]))
    assert int(result.sum()) == (size // 8) * (size // 8 - 1) // 2


def test_results_nobody_collects_take_no_memory_once_their_job_is_cancelled(make_pool):
    done = Tally(1)
    pool = make_pool(lambda item: done.add(0) or np.zeros(50_000), workers=1)
    for number in range(1, 6):
        job = pool.submit(0, [0])
        assert done.wait(0, number)
        pool.cancel(job)
    del job
    pool.collect(pool.submit(0, [0]))
    assert arena(pool).in_use == 0

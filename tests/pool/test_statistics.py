"""The counters, each in a scenario that is small enough to be counted by hand."""

import time

import numpy as np
import pytest
import torch

from tests.pool.support import die
from torchdali.pool import PoolStatistics, Raised, Stacked, WorkerPool
from torchdali.pool._arena import SEGMENT
from torchdali.pool._memory import PAGE

copies = pytest.mark.filterwarnings("ignore:.*results are copied from here on")


def collect(pool, items, **options):
    return pool.collect(pool.submit(0, items, **options), timeout=20)


def test_before_the_start_and_before_any_job_all_counters_are_zero():
    pool = WorkerPool([str], 2)
    assert pool.statistics() == PoolStatistics()
    with pool:
        assert pool.statistics() == PoolStatistics()


def test_what_is_returned_is_a_copy(make_pool):
    pool = make_pool(str)
    collect(pool, range(5))
    taken = pool.statistics()
    taken.items += 100
    taken.items_by_worker.clear()
    assert pool.statistics().items == 5
    assert sum(pool.statistics().items_by_worker.values()) == 5
    before = pool.statistics()
    collect(pool, range(5))
    assert (before.items, pool.statistics().items) == (5, 10)


@pytest.mark.parametrize("stack", [False, True])
def test_each_call_that_came_back_is_counted_failures_included(make_pool, stack):
    def call(item):
        if item == 3:
            raise ValueError
        return item

    pool = make_pool(call, workers=3)
    for count in (10, 1, 0, 25):
        collect(pool, range(count), stack=stack)
    numbers = pool.statistics()
    assert numbers.items == sum(numbers.items_by_worker.values()) == 36
    assert 3 <= numbers.runs <= 36
    assert set(numbers.items_by_worker) <= {0, 1, 2}
    assert numbers.deaths == numbers.restarts == 0


def test_calls_are_counted_for_the_worker_that_made_them(make_pool):
    pool = make_pool(lambda item: item, workers=3, dedicated=2)
    for worker, count in ((0, 7), (1, 4), (None, 9), (1, 2)):
        collect(pool, range(count), worker=worker)
    assert pool.statistics().items_by_worker == {0: 7, 1: 6, 2: 9}


def test_calls_that_take_long_come_back_one_by_one_and_short_ones_together(make_pool):
    pool = make_pool(lambda seconds: time.sleep(seconds), workers=1)
    collect(pool, [0.01] * 10)
    before = pool.statistics().runs
    collect(pool, [0.01] * 10)
    assert pool.statistics().runs == before + 10
    before = pool.statistics().runs
    for _ in range(100):
        collect(pool, [0] * 10)
    assert pool.statistics().runs < before + 900


def test_cancelled_calls_that_were_not_begun_are_not_counted(make_pool):
    pool = make_pool(lambda item: time.sleep(item), workers=1)
    first = pool.submit(0, [0.05])
    job = pool.submit(0, [0] * 30)
    pool.cancel(job)
    pool.collect(first)
    collect(pool, [0])
    assert pool.statistics().items == 2


# --- times ------------------------------------------------------------------------------------------------------------


def test_busy_seconds_are_those_of_the_calls_on_all_workers(make_pool):
    pool = make_pool(lambda seconds: time.sleep(seconds), workers=2)
    before = time.perf_counter()
    collect(pool, [0.05] * 6)
    elapsed = time.perf_counter() - before
    busy = pool.statistics().busy_seconds
    assert 0.3 <= busy <= 2 * elapsed
    collect(pool, [0])
    assert busy < pool.statistics().busy_seconds < busy + elapsed


def test_a_worker_without_work_is_idle(make_pool):
    pool = make_pool(lambda item: item, workers=1)
    start = time.perf_counter()
    collect(pool, [0])
    before = pool.statistics()
    time.sleep(0.1)
    collect(pool, [0])
    elapsed = time.perf_counter() - start
    idle = pool.statistics().idle_seconds - before.idle_seconds
    assert 0.1 <= idle <= elapsed
    assert pool.statistics().busy_seconds - before.busy_seconds < idle


def test_a_worker_that_has_enough_queued_is_not_idle(make_pool):
    pool = make_pool(lambda item: time.sleep(0.02), workers=1)
    collect(pool, [0])
    before = pool.statistics()
    collect(pool, range(15))
    after = pool.statistics()
    assert after.idle_seconds - before.idle_seconds < (after.busy_seconds - before.busy_seconds) / 2


def test_the_parent_waits_for_what_is_not_there_and_not_for_what_is(make_pool):
    pool = make_pool(lambda seconds: time.sleep(seconds), workers=2)
    assert pool.statistics().wait_seconds == 0
    start = time.perf_counter()
    job = pool.submit(0, [0.1])
    assert pool.statistics().wait_seconds == 0
    pool.collect(job)
    waited = pool.statistics().wait_seconds
    assert 0 < waited <= time.perf_counter() - start
    pool.collect(job)
    assert pool.statistics().wait_seconds - waited < waited / 2
    late = pool.submit(0, [0.3])
    with pytest.raises(TimeoutError):
        pool.collect(late, timeout=0.1)
    assert pool.statistics().wait_seconds - waited >= 0.1


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_shared_bytes_are_those_of_the_large_pieces(make_pool, make):
    pool = make_pool(lambda size: (make(size), make(3), "text"), bytes_per_item=1 << 20)
    item = make(8 * 1000).nbytes
    assert item % 64 == 0
    collect(pool, [8 * 1000] * 10)
    assert pool.statistics().shared_bytes == 10 * item
    collect(pool, [3] * 10)
    assert pool.statistics().shared_bytes == 10 * item
    assert pool.statistics().copied_bytes == 0


def test_stacked_bytes_are_those_of_the_blocks(make_pool):
    pool = make_pool(lambda item: (torch.zeros(1000, 4), item, np.zeros(5, np.int16)))
    collect(pool, range(8), stack=True)
    before = pool.statistics().shared_bytes
    assert isinstance(collect(pool, range(12), stack=True), Stacked)
    assert pool.statistics().shared_bytes - before == 12 * (16_000 + 8 + 10)
    assert pool.statistics().copied_bytes == 0


def test_stacked_bytes_leave_out_what_did_not_agree(make_pool):
    pool = make_pool(lambda item: torch.zeros(4000) if item else None)
    collect(pool, [1] * 8, stack=True)
    before = pool.statistics().shared_bytes
    assert isinstance(collect(pool, [1, 0, 1, 1], stack=True), list)
    assert pool.statistics().shared_bytes - before == 3 * 16_000


@copies
def test_copied_bytes_are_those_that_had_no_place_and_the_jobs_are_counted(make_pool):
    pool = make_pool(lambda size: np.zeros(size, np.uint8), memory_limit=1)
    for count in (3, 0, 2):
        collect(pool, [64_000] * count)
    numbers = pool.statistics()
    assert numbers.copied_bytes == 5 * 64_000
    assert numbers.shared_bytes == 0
    assert numbers.refused == 2
    assert numbers.slots == numbers.bytes_in_use == numbers.peak_bytes == numbers.committed_bytes == numbers.growth == 0


def test_a_slot_that_was_too_small_counts_as_copied_and_not_as_refused(make_pool):
    pool = make_pool(lambda size: np.zeros(size, np.uint8), bytes_per_item=1000, workers=1)
    collect(pool, [640_000])
    numbers = pool.statistics()
    assert (numbers.copied_bytes, numbers.shared_bytes, numbers.refused) == (640_000, 0, 0)
    collect(pool, [640_000])
    numbers = pool.statistics()
    assert (numbers.copied_bytes, numbers.shared_bytes) == (640_000, 640_000)


# --- slots ------------------------------------------------------------------------------------------------------------


def test_slots_are_those_of_jobs_under_way_and_of_results_that_are_held(make_pool):
    pool = make_pool(lambda item: np.full(50_000, item, np.uint8), bytes_per_item=16 * PAGE, workers=1)
    jobs = [pool.submit(0, [number, number]) for number in range(3)]
    numbers = pool.statistics()
    assert (numbers.slots, numbers.bytes_in_use) == (3, 3 * 2 * 16 * PAGE)
    held = [pool.collect(job) for job in jobs]
    del jobs
    assert pool.statistics().slots == 3
    view = held[1][0][3:9]
    del held
    numbers = pool.statistics()
    assert numbers.slots == 1
    assert numbers.bytes_in_use > 0
    del view
    numbers = pool.statistics()
    assert (numbers.slots, numbers.bytes_in_use) == (0, 0)
    assert numbers.peak_bytes == 3 * 2 * 16 * PAGE


def test_a_job_without_items_needs_no_slot(make_pool):
    pool = make_pool(lambda item: item)
    job = pool.submit(0, [])
    assert pool.statistics().slots == 0
    assert pool.collect(job) == []
    assert pool.statistics().refused == 0


def test_a_cancelled_job_gives_its_slot_back(make_pool):
    pool = make_pool(lambda item: time.sleep(item), workers=1)
    first = pool.submit(0, [0.05])
    pool.cancel(pool.submit(0, [0] * 5))
    assert pool.statistics().slots == 1
    pool.collect(first)
    del first
    assert pool.statistics().slots == 0


def test_memory_is_committed_a_segment_at_a_time_and_growth_counts_them(make_pool):
    pool = make_pool(lambda item: np.full(100, item), bytes_per_item=SEGMENT // 2, memory_limit=8 * SEGMENT)
    held = [pool.submit(0, [0])]
    numbers = pool.statistics()
    assert (numbers.committed_bytes, numbers.growth) == (SEGMENT, 1)
    held += [pool.submit(0, [0]) for _ in range(3)]
    numbers = pool.statistics()
    assert (numbers.committed_bytes, numbers.growth, numbers.peak_bytes) == (2 * SEGMENT, 2, 2 * SEGMENT)
    for job in held:
        pool.collect(job)
    held.clear()
    del job
    numbers = pool.statistics()
    assert (numbers.bytes_in_use, numbers.committed_bytes, numbers.peak_bytes) == (0, 2 * SEGMENT, 2 * SEGMENT)


# --- deaths -----------------------------------------------------------------------------------------------------------


def test_deaths_are_counted_and_what_was_lost_is_not_among_the_items(make_pool):
    pool = make_pool(lambda item: item or die(), workers=2)
    (lost,) = collect(pool, [0])
    assert isinstance(lost, Raised)
    numbers = pool.statistics()
    assert (numbers.deaths, numbers.restarts, numbers.items) == (1, 0, 0)
    pool.start()
    assert collect(pool, [5] * 20) == [5] * 20
    numbers = pool.statistics()
    assert (numbers.deaths, numbers.restarts, numbers.items) == (1, 0, 20)


@pytest.mark.filterwarnings("ignore:.*another one was started:RuntimeWarning")
def test_restarts_are_counted(make_pool):
    pool = make_pool(lambda item: item or die(), workers=2, on_worker_death="restart", tries=2)
    found = collect(pool, [1, 2, 0, 3])
    assert [entry for entry in found if not isinstance(entry, Raised)] == [1, 2, 3]
    numbers = pool.statistics()
    assert (numbers.deaths, numbers.restarts, numbers.items) == (2, 2, 3)
    assert sum(numbers.items_by_worker.values()) == 3


def test_after_the_end_the_counters_can_still_be_read(make_pool):
    pool = make_pool(lambda item: np.zeros(50_000, np.uint8), workers=1)
    held = collect(pool, range(4))
    pool.close()
    numbers = pool.statistics()
    assert (numbers.items, numbers.slots) == (4, 1)
    del held
    assert pool.statistics().slots == 0

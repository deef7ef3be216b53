"""Calls go out, results come back: in order, once, whatever the workers do."""

import os
import random
import sys
import threading
import time

import pytest

from tests.pool.support import Tally, wait_until
from torchdali.pool import PoolStatistics, Raised, WorkerPool

pytestmark = pytest.mark.timeout(30)


def slow_runs(pool, function=0):
    """Teach the pool that items take longer than a run may, so that each of the next is a run of its own."""
    pool.collect(pool.submit(function, [0.004] * 16))


@pytest.mark.parametrize("number", [0, -1])
def test_a_pool_needs_a_worker(number):
    with pytest.raises(ValueError, match=f"num_workers is {number}; a pool needs at least 1 worker"):
        WorkerPool([str], number)


def test_a_result_has_at_least_one_byte():
    with pytest.raises(ValueError, match="bytes_per_item is 0"):
        WorkerPool([str], 1, bytes_per_item=0)


def test_a_pool_that_is_not_started_says_so():
    pool = WorkerPool([str], 1)
    assert not pool.started
    assert pool.pids == []
    with pytest.raises(RuntimeError, match=r"not started; call start\(\) first"):
        pool.submit(0, [1])


def test_a_closed_pool_says_that_it_is_closed(make_pool):
    pool = make_pool(str)
    assert pool.started
    job = pool.submit(0, [1])
    pool.close()
    assert not pool.started
    with pytest.raises(RuntimeError, match="is closed"):
        pool.submit(0, [1])
    with pytest.raises(RuntimeError, match="is closed"):
        pool.collect(job)
    with pytest.raises(RuntimeError, match="is closed; make a new one"):
        pool.start()


def test_a_pool_that_was_closed_before_it_started_stays_closed():
    pool = WorkerPool([str], 1)
    pool.close()
    with pytest.raises(RuntimeError, match="is closed; make a new one"):
        pool.start()


def test_what_was_collected_stays_there_after_close(make_pool):
    pool = make_pool(lambda item: item)
    job = pool.submit(0, [1, 2])
    results = pool.collect(job)
    pool.close()
    assert pool.collect(job) is results
    assert results == [1, 2]


def test_start_does_nothing_while_all_workers_live(make_pool):
    pool = make_pool(str)
    pids = pool.pids
    pool.start()
    assert pool.pids == pids


def test_before_fork_may_forbid_the_fork(no_zygote):
    def forbid():
        raise PermissionError("not now")

    pool = WorkerPool([str], 1, before_fork=forbid)
    with pytest.raises(PermissionError, match="not now"):
        pool.start()
    assert not pool.started
    assert pool.pids == []


def test_calls_run_in_the_workers_and_not_here(make_pool):
    pool = make_pool(lambda item: os.getpid(), workers=3)
    slow = pool.collect(pool.submit(0, range(100)))
    assert set(slow) <= set(pool.pids)


def test_each_function_is_called_by_its_number(make_pool):
    pool = make_pool(lambda item: ("first", item), lambda item: ("second", item))
    jobs = [pool.submit(1, [1]), pool.submit(0, [2]), pool.submit(1, [3])]
    assert [pool.collect(job) for job in jobs] == [[("second", 1)], [("first", 2)], [("second", 3)]]


@pytest.mark.parametrize("number", [1, -1])
def test_a_function_that_is_not_there_is_refused_at_once(make_pool, number):
    pool = make_pool(lambda item: item)
    with pytest.raises((IndexError, ValueError)):
        pool.submit(number, [1])
    assert pool.collect(pool.submit(0, [1])) == [1]
    assert pool.statistics().deaths == 0


def test_no_items_give_no_results(make_pool):
    pool = make_pool(str)
    assert pool.collect(pool.submit(0, [])) == []


def test_items_of_any_sequence_are_taken(make_pool):
    pool = make_pool(lambda item: item)
    for items in (range(3), (0, 1, 2), [0, 1, 2]):
        assert pool.collect(pool.submit(0, items)) == [0, 1, 2]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_results_come_in_the_order_of_items_whoever_is_first(make_pool, workers, count):
    def wait_and_return(item):
        time.sleep(random.Random(item).choice([0, 0.0005, 0.003]))
        return item, os.getpid()

    pool = make_pool(wait_and_return, workers=workers)
    jobs = [pool.submit(0, range(100 * job, 100 * job + count)) for job in range(5)]
    order = random.Random(count).sample(range(5), 5)  # jobs are collected in any order, too
    for number in order:
        assert [item for item, _ in pool.collect(jobs[number])] == list(range(100 * number, 100 * number + count))


def test_a_slow_item_holds_up_no_other(make_pool):
    done = Tally(64)

    def call(item):
        if item == "last of all":
            done.add(63)
            return wait_until(lambda: sum(done.counts(40)) == 40)
        if isinstance(item, float):
            time.sleep(item)
            return None
        done.add(item)
        return os.getpid()

    pool = make_pool(call)
    slow_runs(pool)
    before = pool.statistics().items_by_worker
    results = pool.collect(pool.submit(0, ["last of all", *range(40)]))
    assert results[0] is True
    assert len(set(results[1:])) == 1
    after = pool.statistics().items_by_worker
    assert sorted(after[worker] - before.get(worker, 0) for worker in after) == [1, 40]


def test_a_slow_job_holds_up_no_other(make_pool):
    release = Tally(1)
    pool = make_pool(lambda item: release.wait(0) if item == "wait" else item)
    slow, fast = pool.submit(0, ["wait"]), pool.submit(0, range(10))
    assert pool.collect(fast) == list(range(10))
    release.add(0)
    assert pool.collect(slow) == [True]


def test_quick_items_travel_together(make_pool):
    pool = make_pool(lambda item: item)
    for _ in range(5):
        pool.collect(pool.submit(0, range(64)))
    before = pool.statistics().runs
    pool.collect(pool.submit(0, range(64)))
    assert pool.statistics().runs - before < 64


def test_more_tasks_than_the_channel_holds_are_all_done_once(make_pool):
    count = 1500
    calls = Tally(count)

    def call(item):
        if isinstance(item, float):
            time.sleep(item)
        else:
            calls.add(item)
        return item

    pool = make_pool(call)
    slow_runs(pool)
    job = pool.submit(0, range(count))
    assert len(job.runs) == count
    assert pool._dispatch is not None
    assert pool._dispatch.waits_for_room
    assert pool.collect(job) == list(range(count))
    assert calls.counts(count) == [1] * count


def test_a_job_collected_twice_gives_the_same(make_pool):
    pool = make_pool(lambda item: [item])
    job = pool.submit(0, [1, 2])
    results = pool.collect(job)
    assert results == [[1], [2]]
    assert pool.collect(job) is results


def test_a_result_that_cannot_be_loaded_is_reported_for_its_item(make_pool):
    pool = make_pool(lambda item: Unloadable() if item == 1 else item)
    job = pool.submit(0, range(3))
    first, bad, last = pool.collect(job)
    assert (first, last) == (0, 2)
    assert isinstance(bad, Raised)
    assert "does not load" in str(bad.exception)
    assert isinstance(pool.collect(job)[1], Raised)


class Unloadable:
    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise ValueError("this does not load")


def test_an_item_that_cannot_be_loaded_is_reported_and_kills_nobody(make_pool):
    pool = make_pool(lambda item: item)
    first, bad, last = pool.collect(pool.submit(0, [0, Unloadable(), 2]))
    assert isinstance(bad, Raised)
    assert "does not load" in str(bad.exception)
    assert (first, last) == (0, 2) or (isinstance(first, Raised) and isinstance(last, Raised))
    assert pool.statistics().deaths == 0


class Exiting:
    """Loading it would end the program."""

    def __reduce__(self):
        return sys.exit, (3,)


def test_an_item_or_a_result_whose_loading_exits_ends_neither_worker_nor_program(make_pool):
    pool = make_pool(lambda item: Exiting() if item == "make one" else item)
    for item in (Exiting(), "make one"):
        job = pool.submit(0, [item])
        for _ in range(2):
            (result,) = pool.collect(job)
            assert isinstance(result, Raised)
            assert isinstance(result.exception, Exception)
    assert pool.statistics().deaths == 0


def test_an_item_that_cannot_be_sent_is_refused_and_leaves_nothing(make_pool):
    pool = make_pool(lambda item: item)
    with pytest.raises(Exception, match="pickle"):
        pool.submit(0, [1, 2, 3, threading.Lock()])
    assert pool.collect(pool.submit(0, [1, 2])) == [1, 2]
    assert pool._arena is not None
    assert pool._arena.in_use == 0


def test_threads_share_a_pool(make_pool):
    pool = make_pool(lambda item: item)
    results: dict[int, list[list[int]]] = {}

    def use(number):
        items = [range(number * 1000 + step, number * 1000 + step + 7) for step in range(30)]
        results[number] = [pool.collect(pool.submit(0, part)) == list(part) for part in items]

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {number: [True] * 30 for number in range(4)}


def test_pools_may_be_started_by_several_threads_at_once(make_pool):
    barrier = threading.Barrier(4)
    pools: list[WorkerPool] = []

    def start():
        barrier.wait()
        pools.append(make_pool(lambda item: item, workers=3))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [pool.collect(pool.submit(0, range(9))) for pool in pools] == [list(range(9))] * 4
    assert [pool.statistics().deaths for pool in pools] == [0] * 4


def test_statistics_count_items_runs_workers_and_time(make_pool):
    pool = make_pool(lambda item: time.sleep(0.01) or item, workers=2)
    assert pool.statistics() == PoolStatistics()
    pool.collect(pool.submit(0, range(10)))
    pool.collect(pool.submit(0, range(5)))
    numbers = pool.statistics()
    assert numbers.items == 15
    assert numbers.items == sum(numbers.items_by_worker.values())
    assert set(numbers.items_by_worker) <= {0, 1}
    assert 2 <= numbers.runs <= 15
    assert numbers.busy_seconds >= 0.15
    assert numbers.wait_seconds > 0
    assert numbers.deaths == numbers.copied_bytes == 0


def test_statistics_are_a_copy(make_pool):
    pool = make_pool(lambda item: item)
    before = pool.statistics()
    before.items_by_worker[0] = 77
    before.items = 99
    pool.collect(pool.submit(0, [1]))
    assert pool.statistics().items == 1
    assert sum(pool.statistics().items_by_worker.values()) == 1

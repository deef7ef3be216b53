"""Who does what, and when: nothing waits for what is slow, the urgent goes first, and what is dedicated stays so."""

import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch

from tests.pool.file_tally import FileTally
from tests.pool.support import BOUND, Tally, all_gone, wait_until
from torchdali.pool import WorkerPool, worker_info

pytestmark = pytest.mark.timeout(60)


class Order:
    """Notes, in memory that workers share, in which order calls begin; one worker at a time may do so."""

    def __init__(self, size=256):
        self._begun, self._count = Tally(size), Tally(1)

    def note(self, number):
        self._count.add(0)
        self._begun._map[number] = self._count[0]

    def of(self, numbers):
        """These numbers, in the order in which they were begun; those that were not are not there."""
        return sorted((n for n in numbers if self._begun[n]), key=lambda n: self._begun[n])


class Gate:
    """Calls with a negative number wait there until it is opened; the others are noted as they begin."""

    def __init__(self):
        self.order, self.held, self.open = Order(), Tally(16), Tally(1)

    def __call__(self, number):
        if number < 0:
            self.held.add(-number)
            while not self.open[0]:
                time.sleep(0.001)
        else:
            self.order.note(number)
        return number


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.add(0)


def who(item):
    info = worker_info()
    assert info is not None
    time.sleep(item)
    return info.id


# --- slow among quick ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "zygote"])
def test_a_slow_item_holds_up_nothing_but_its_own_job(make_pool, tmp_path, method):
    """It ends only when all other jobs have come: nothing here depends on how fast anything is."""
    go = FileTally(tmp_path / "go", 1)

    def call(item):
        if item == "slow":
            while not go[0]:
                time.sleep(0.001)
        else:
            time.sleep(0.01)
        return item

    pool = make_pool(call, workers=2, start_method=method)
    pool.collect(pool.submit(0, range(8)))  # how long items take is known
    jobs = {number: pool.submit(0, range(8 * number, 8 * number + 8)) for number in range(3)}
    slow = pool.submit(0, [*range(3), "slow", *range(3)])
    jobs |= {number: pool.submit(0, range(8 * number, 8 * number + 8)) for number in range(3, 6)}
    try:
        for number, job in jobs.items():
            assert pool.collect(job, timeout=30) == list(range(8 * number, 8 * number + 8))
        with pytest.raises(TimeoutError, match="works on 'slow'"):
            pool.collect(slow, timeout=0.05)
    finally:
        go.add(0)
    assert pool.collect(slow) == [0, 1, 2, "slow", 0, 1, 2]


def test_quick_jobs_are_complete_before_a_slow_one_in_front_of_them(make_pool, gate):
    pool = make_pool(gate, workers=3)
    pool.collect(pool.submit(0, range(8)))
    held = pool.submit(0, [-1])
    assert gate.held.wait(1)
    jobs = [pool.submit(0, range(10)) for _ in range(20)]
    assert [pool.collect(job, timeout=30) for job in jobs] == [list(range(10))] * 20
    assert not held.complete
    gate.open.add(0)
    assert pool.collect(held) == [-1]


def test_jobs_may_be_collected_in_any_order(make_pool):
    pool = make_pool(lambda item: item, workers=3)
    jobs = {number: pool.submit(0, range(number, number + 20)) for number in range(50)}
    for number in random.Random(3).sample(range(50), 50):
        assert pool.collect(jobs[number]) == list(range(number, number + 20))


# --- priorities ---------------------------------------------------------------------------------------------------------


def waiting_behind_the_gate(pool, gate):
    """A pool of one worker that does nothing until the gate is opened."""
    job = pool.submit(0, [-1])
    assert gate.held.wait(1)
    return job


def finish(pool, gate, jobs):
    gate.open.add(0)
    return [pool.collect(job) for job in jobs]


def test_what_is_more_urgent_is_begun_before_what_waits(make_pool, gate):
    pool = make_pool(gate, workers=1)
    waiting_behind_the_gate(pool, gate)
    jobs = [pool.submit(0, [number], priority=priority) for number, priority in enumerate([5, 0, 3, -2, 5, 0, 3, -2])]
    assert finish(pool, gate, jobs) == [[number] for number in range(8)]
    assert gate.order.of(range(8)) == [3, 7, 1, 5, 2, 6, 0, 4]


def test_equal_priorities_are_begun_in_order(make_pool, gate):
    pool = make_pool(gate, workers=1)
    waiting_behind_the_gate(pool, gate)
    jobs = [pool.submit(0, range(3 * number, 3 * number + 3), priority=2) for number in range(20)]
    finish(pool, gate, jobs)
    assert gate.order.of(range(60)) == list(range(60))


def test_random_priorities_beyond_what_the_channel_takes(make_pool, gate):
    """Items so large that most tasks do not fit into the channel, and wait in the parent."""
    pool = make_pool(lambda item: gate(item[0]), workers=1)
    job = pool.submit(0, [(-1, b"")])
    assert gate.held.wait(1)
    draw, jobs = random.Random(7), []
    order = [(draw.randrange(-3, 4), number) for number in range(120)]
    for priority, number in order:
        jobs.append(pool.submit(0, [(number, bytes(20_000))], priority=priority))
    finish(pool, gate, [job, *jobs])
    assert gate.order.of(range(120)) == [number for _, number in sorted(order)]


def test_priorities_hold_after_a_death_and_after_a_cancelled_job(make_pool, gate):
    pool = make_pool(gate, workers=1, on_worker_death="restart", tries=5)
    first = waiting_behind_the_gate(pool, gate)
    jobs = [pool.submit(0, [number], priority=number % 3) for number in range(12)]
    dropped = pool.submit(0, range(100, 110), priority=-5)
    (pid,) = pool.pids
    with pytest.warns(RuntimeWarning, match="was killed by SIGKILL"):
        os.kill(pid, signal.SIGKILL)
        assert all_gone([pid])
        assert wait_until(lambda: restarted(pool, first))
        assert gate.held.wait(1, 2)  # its second worker has it in hand
    pool.cancel(dropped)
    jobs += [pool.submit(0, [number], priority=number % 3) for number in range(12, 24)]
    finish(pool, gate, [first, *jobs])
    assert gate.order.of(range(24)) == sorted(range(24), key=lambda number: (number % 3, number))
    assert len(gate.order.of(range(100, 110))) <= 10


def restarted(pool, job):
    try:
        pool.collect(job, timeout=0.05)
    except TimeoutError:
        return pool.statistics().restarts == 1
    return True


@pytest.mark.parametrize("priority", [0, 9, -9])
def test_a_job_without_items_is_complete_whatever_its_priority(make_pool, priority):
    pool = make_pool(lambda item: item)
    pool.collect(pool.submit(0, [1], priority=5))
    assert pool.collect(pool.submit(0, [], priority=priority)) == []
    assert pool.collect(pool.submit(0, [1], priority=priority)) == [1]


# --- dedicated workers --------------------------------------------------------------------------------------------------


def test_a_dedicated_worker_does_its_own_and_only_that(make_pool):
    pool = make_pool(who, workers=4, dedicated=2)
    own = [pool.submit(0, [0.001] * 5, worker=number % 2) for number in range(6)]
    shared = [pool.submit(0, [0.001] * 40) for _ in range(4)]
    assert [set(pool.collect(job)) for job in own] == [{number % 2} for number in range(6)]
    done = [index for job in shared for index in pool.collect(job)]
    assert set(done) == {2, 3}
    by_worker = pool.statistics().items_by_worker
    assert (by_worker[0], by_worker[1], by_worker[2] + by_worker[3]) == (15, 15, 160)


def test_work_for_a_busy_dedicated_worker_waits_for_it_while_the_others_go_on(make_pool, gate):
    pool = make_pool(gate, workers=2, dedicated=1)
    held, queued = pool.submit(0, [-1], worker=0), pool.submit(0, [1], worker=0)
    assert gate.held.wait(1)
    assert pool.collect(pool.submit(0, range(2, 50))) == list(range(2, 50))
    with pytest.raises(TimeoutError):
        pool.collect(queued, timeout=0.05)
    assert gate.order.of([1]) == []
    assert finish(pool, gate, [held, queued]) == [[-1], [1]]


def test_where_all_are_dedicated_the_first_does_what_is_for_nobody(make_pool):
    pool = make_pool(who, workers=2, dedicated=2)
    assert pool.collect(pool.submit(0, [0] * 10)) == [0] * 10
    assert pool.collect(pool.submit(0, [0] * 10, worker=1)) == [1] * 10


def test_priorities_count_among_the_jobs_of_one_dedicated_worker(make_pool, gate):
    pool = make_pool(gate, workers=2, dedicated=2)
    held = pool.submit(0, [-1], worker=1)
    assert gate.held.wait(1)
    jobs = [pool.submit(0, [number], worker=1, priority=-number) for number in range(10)]
    assert pool.collect(pool.submit(0, [50], worker=0, priority=100)) == [50]
    finish(pool, gate, [held, *jobs])
    assert gate.order.of(range(10)) == list(range(9, -1, -1))


# --- wrong arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dedicated": -1}, "dedicated is -1"),
        ({"dedicated": 3}, "dedicated is 3"),
        ({"on_worker_death": "ignore"}, "on_worker_death is 'ignore'"),
        ({"tries": 0}, "tries is 0"),
        ({"stopped_seconds": 0}, "stopped_seconds is 0"),
        ({"stopped_seconds": -1.0}, "stopped_seconds is -1"),
        ({"stopped_seconds": float("nan")}, "stopped_seconds is nan"),
        ({"start_method": "threads"}, "start_method is 'threads'"),
        ({"bytes_per_item": 0}, "bytes_per_item is 0"),
    ],
)
def test_options_out_of_range_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        WorkerPool([len], 2, **options)


@pytest.mark.parametrize("worker", [-1, 1, 2, 99])
def test_a_worker_that_is_not_dedicated_cannot_be_asked_for(make_pool, worker):
    pool = make_pool(who, workers=3, dedicated=1)
    with pytest.raises(ValueError, match=f"worker is {worker}; pool has 1 dedicated workers"):
        pool.submit(0, [0], worker=worker)
    assert pool.collect(pool.submit(0, [0], worker=0)) == [0]


@pytest.mark.parametrize("function", [-1, 2])
def test_a_function_that_there_is_not_cannot_be_called(make_pool, function):
    pool = make_pool(len, who)
    with pytest.raises(IndexError, match=f"there is no {function}"):
        pool.submit(function, ["x"])
    assert pool.collect(pool.submit(0, ["x"])) == [1]


def test_items_that_cannot_be_pickled_leave_nothing_behind(make_pool):
    pool = make_pool(who)
    for priority in (3, 0):
        with pytest.raises(TypeError, match="pickle"):
            pool.submit(0, [0, threading.Lock()], priority=priority)
    assert pool.statistics().slots == 0
    assert set(pool.collect(pool.submit(0, [0] * 4))) <= {0, 1}


# --- seeds --------------------------------------------------------------------------------------------------------------


def drawn(item):
    time.sleep(0.002)
    info = worker_info()
    assert info is not None
    return info.id, info.seed


def first_numbers(index):
    global _first  # noqa: PLW0603  of this worker, before anything else draws
    _first = random.random(), float(np.random.random()), float(torch.rand(()))


_first = (0.0, 0.0, 0.0)


def told(item):
    time.sleep(0.002)
    return worker_info().id, _first  # type: ignore[union-attr]


def streams(make_pool, **options):
    """What each worker's generators give first, by its index."""
    pool = make_pool(told, workers=3, initialize=first_numbers, **options)
    seen: dict[int, tuple[float, float, float]] = {}
    assert wait_until(lambda: seen.update(pool.collect(pool.submit(0, range(30)))) or len(seen) == 3, BOUND)
    return seen


def test_generators_differ_between_workers_and_are_the_same_for_the_same_seed(make_pool):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    first, again, other = (streams(make_pool, seed=seed) for seed in (11, 11, 12))
    assert first == again
    for numbers in (first, other):
        for kind in range(3):
            assert len({numbers[index][kind] for index in range(3)}) == 3
    assert not {x for entry in first.values() for x in entry} & {x for entry in other.values() for x in entry}
    assert streams(make_pool) != streams(make_pool)


def test_generators_do_not_depend_on_the_start_method(make_pool):
    assert streams(make_pool, seed=5, start_method="zygote") == streams(make_pool, seed=5)


def test_seeding_workers_leaves_the_parents_generators_alone(make_pool):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    pool = make_pool(drawn)
    pool.collect(pool.submit(0, range(10)))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_jobs_submitted_together_are_begun_at_the_end(make_pool):
    begun = Tally(4)
    pool = make_pool(lambda item: begun.add(item), workers=1)
    with pool.together():
        jobs = [pool.submit(0, [item]) for item in range(3)]
        with pool.together():
            jobs.append(pool.submit(0, [3], priority=-1))
        time.sleep(0.05)
        assert begun.counts(4) == [0] * 4
    for job in jobs:
        pool.collect(job)
    assert begun.counts(4) == [1] * 4


def test_an_error_among_jobs_submitted_together_does_not_hold_back_the_others(make_pool):
    pool = make_pool(str)
    jobs = []

    def submit():
        with pool.together():
            jobs.append(pool.submit(0, [1, 2]))
            pool.submit(9, [0])

    with pytest.raises(IndexError):
        submit()
    (job,) = jobs
    assert pool.collect(job, timeout=BOUND) == ["1", "2"]


def test_waiting_inside_for_a_job_that_is_held_back_is_no_deadlock(make_pool):
    pool = make_pool(str)
    with pool.together():
        assert pool.collect(pool.submit(0, [1]), timeout=BOUND) == ["1"]

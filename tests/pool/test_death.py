"""A worker that dies: what it held is named, all else arrives, the pool goes on."""

import ctypes
import faulthandler
import os
import signal
import time

import numpy as np
import psutil
import pytest

from tests.pool.support import BOUND, Tally, all_gone, die, wait_until
from torchdali.errors import WorkerDiedError
from torchdali.pool import Raised

pytestmark = pytest.mark.timeout(30)


def deaths(results) -> list[WorkerDiedError]:
    """The exceptions among results, all of which have to be deaths."""
    found = [result.exception for result in results if isinstance(result, Raised)]
    assert all(type(error) is WorkerDiedError for error in found)
    return found  # type: ignore[return-value]


def one_by_one(pool):
    """Teach the pool that items take long, so that each of the next is a run of its own."""
    pool.collect(pool.submit(0, ["slow"] * 10))


def perform(item):
    """What the workers of these tests do."""
    if item == "slow":
        time.sleep(0.004)
    if item == "kill":
        die()
    if item in ("crash", "abort"):
        faulthandler.disable()  # the test runner's, which would print
        ctypes.string_at(0) if item == "crash" else os.abort()
    if item == "exit":
        os._exit(3)
    return item


@pytest.mark.parametrize(
    ("item", "exitcode", "how"),
    [
        ("kill", -signal.SIGKILL, "was killed by SIGKILL (by hand, or by the kernel because memory ran out)"),
        ("crash", -signal.SIGSEGV, "was killed by SIGSEGV"),
        ("abort", -signal.SIGABRT, "was killed by SIGABRT"),
        ("exit", 3, "ended with exit code 3"),
    ],
)
def test_a_dead_worker_is_named_with_its_pid_its_end_and_its_item(make_pool, item, exitcode, how):
    pool = make_pool(perform, name="reading")
    pids = pool.pids
    before = time.monotonic()
    (error,) = deaths(pool.collect(pool.submit(0, [item])))
    assert time.monotonic() - before < BOUND
    assert error.pid in pids
    assert error.worker == pids.index(error.pid)
    assert error.exitcode == exitcode
    assert error.items == (item,)
    told, remedy = str(error).split("; ")
    assert told == f"worker {error.worker} of reading (pid {error.pid}) {how} while it worked on {item!r}"
    assert remedy.startswith('on_worker_death="restart"')
    assert pool.pids == [pid for pid in pids if pid != error.pid]
    assert pool.statistics().deaths == 1


def test_all_items_of_the_run_are_named_and_the_one_in_hand_first(make_pool):
    pool = make_pool(perform, workers=1)
    pool.collect(pool.submit(0, range(1000)))  # quick: the next items travel in one run
    job = pool.submit(0, [10, 11, "kill", 13])
    assert len(job.runs) == 1
    errors = deaths(pool.collect(job))
    assert len(errors) == 4
    assert errors[0].items == (10, 11, "kill", 13)
    assert "while it worked on 'kill' (4 calls are lost, from 10 to 13)" in str(errors[0])


def test_only_what_the_dead_worker_held_is_lost(make_pool):
    pool = make_pool(perform, workers=3)
    one_by_one(pool)
    jobs = [pool.submit(0, [1, 2, 3]), pool.submit(0, [4, "kill", 6]), pool.submit(0, list(range(7, 40)))]
    first, second, third = (pool.collect(job) for job in jobs)
    assert first == [1, 2, 3]
    assert second[::2] == [4, 6]
    assert deaths(second)[0].items == ("kill",)
    assert third == list(range(7, 40))


def test_work_goes_on_with_fewer_workers(make_pool):
    pool = make_pool(perform, workers=3)
    one_by_one(pool)
    assert len(deaths(pool.collect(pool.submit(0, ["kill", "kill"])))) == 2
    assert len(pool.pids) == 1
    assert pool.collect(pool.submit(0, range(50))) == list(range(50))


def test_when_all_are_dead_what_was_queued_is_lost_and_the_next_call_says_so(make_pool):
    pool = make_pool(perform, name="reading")
    one_by_one(pool)
    job, other = pool.submit(0, ["kill", "kill", 1, 2]), pool.submit(0, [3])
    errors = deaths([*pool.collect(job), *pool.collect(other)])
    assert len(errors) == 5
    assert pool.pids == []
    with pytest.raises(WorkerDiedError, match=r"no worker is left; the last one died: .*start\(\)") as caught:
        pool.submit(0, [1])
    assert caught.value.exitcode == -signal.SIGKILL
    assert caught.value.pid is not None


def test_start_gives_new_workers_and_the_pool_goes_on(make_pool):
    pool = make_pool(perform)
    one_by_one(pool)
    before = pool.pids
    for number in range(1, 4):
        deaths(pool.collect(pool.submit(0, ["kill", "kill"])))
        assert pool.pids == []
        pool.start()
        assert len(set(pool.pids) - set(before)) == 2
        before += pool.pids
        assert pool.collect(pool.submit(0, range(20))) == list(range(20))
        assert pool.statistics().deaths == 2 * number


def test_start_replaces_only_the_dead(make_pool):
    pool = make_pool(perform, workers=3)
    one_by_one(pool)
    before = pool.pids
    (error,) = deaths(pool.collect(pool.submit(0, ["kill"])))
    pool.start()
    assert len(pool.pids) == 3
    assert set(before) - set(pool.pids) == {error.pid}
    assert pool.collect(pool.submit(0, range(20))) == list(range(20))


def test_what_was_lost_is_not_done_after_a_new_start(make_pool):
    calls = Tally(50)

    def call(item):
        if isinstance(item, int):
            calls.add(item)
        return perform(item)

    pool = make_pool(call)
    one_by_one(pool)
    lost = pool.collect(pool.submit(0, ["kill", "kill", *range(50)]))
    assert len(deaths(lost)) == 52
    pool.start()
    assert pool.collect(pool.submit(0, ["slow"] * 20)) == ["slow"] * 20
    assert calls.counts(50) == [0] * 50


def test_what_was_lost_does_not_write_into_what_comes_after_a_new_start(make_pool):
    """Work that outlived its job would be done by the new workers, into memory that is another job's by now."""
    late = Tally(2)

    def call(item):
        if item == "late":
            late.add(0)
            late.wait(1)
            return np.full(50_000, 7, np.uint8)
        perform(item)
        return np.full(50_000, 1, np.uint8)

    pool = make_pool(call)
    one_by_one(pool)
    assert len(deaths(pool.collect(pool.submit(0, ["kill", "kill", "late", 0])))) == 4
    pool.start()
    kept = [pool.collect(pool.submit(0, [0] * 4)) for _ in range(3)]
    late.add(1)
    if late[0]:  # somebody is at it: let it come to its end
        pool.collect(pool.submit(0, ["slow"] * 100))
    assert {int(array.max()) for batch in kept for array in batch} == {1}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_worker_killed_while_idle_costs_nothing(make_pool, number):
    ignored = signal.getsignal(number) is signal.SIG_IGN  # as SIGHUP is below nohup; workers do as their parent does
    if ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        pool = make_pool(perform)
    finally:
        if ignored:
            signal.signal(number, signal.SIG_IGN)
    victim, other = pool.pids
    os.kill(victim, number)
    assert all_gone([victim])
    assert pool.collect(pool.submit(0, range(30))) == list(range(30))
    assert wait_until(lambda: bool(pool.collect(pool.submit(0, [1]))) and pool.pids == [other])
    assert pool.statistics().deaths == 1


def test_all_workers_killed_while_idle_is_an_error_instead_of_a_hang(make_pool):
    pool = make_pool(perform)
    pids = pool.pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert all_gone(pids)
    try:
        results = pool.collect(pool.submit(0, [1, 2, 3]))
    except WorkerDiedError as error:
        assert error.pid in pids
    else:
        assert len(deaths(results)) == 3
    with pytest.raises(WorkerDiedError, match="no worker is left"):
        pool.submit(0, [1])


def test_start_replaces_workers_that_were_killed_while_idle(make_pool):
    pool = make_pool(perform)
    victims = pool.pids
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    assert all_gone(victims)
    pool.start()
    assert not set(pool.pids) & set(victims)
    assert len(pool.pids) == 2
    assert pool.collect(pool.submit(0, [1, 2, 3])) == [1, 2, 3]
    assert pool.statistics().deaths == 2


def test_a_worker_killed_while_it_works_is_noticed_while_the_parent_waits(make_pool):
    begun = Tally(1)

    def call(item):
        begun.add(0)
        time.sleep(100)

    pool = make_pool(call, workers=1)
    job = pool.submit(0, ["long"])
    assert begun.wait(0)
    os.kill(pool.pids[0], signal.SIGTERM)
    before = time.monotonic()
    (error,) = deaths(pool.collect(job))
    assert time.monotonic() - before < BOUND
    assert "was killed by SIGTERM while it worked on 'long'" in str(error)


def test_a_stopped_worker_is_no_dead_one(make_pool):
    pool = make_pool(perform)
    stopped, other = pool.pids
    os.kill(stopped, signal.SIGSTOP)
    assert wait_until(lambda: psutil.Process(stopped).status() == psutil.STATUS_STOPPED)
    try:
        assert pool.collect(pool.submit(0, [1])) == [1]
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert pool.pids == [stopped, other]


def test_deaths_are_noticed_where_child_signals_are_ignored(make_pool):
    """With SIGCHLD ignored the kernel takes exit codes away; the deaths are seen all the same."""
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        pool = make_pool(perform)
        results = pool.collect(pool.submit(0, ["kill"]))
        assert len(deaths(results)) == 1
        pool.close()
    finally:
        signal.signal(signal.SIGCHLD, previous)


def test_a_death_in_a_cancelled_job_disturbs_no_other(make_pool):
    begun, go = Tally(1), Tally(1)

    def call(item):
        if item == "kill":
            begun.add(0)
            go.wait(0)
        return perform(item)

    pool = make_pool(call)
    job = pool.submit(0, ["kill"])
    assert begun.wait(0)
    pool.cancel(job)
    go.add(0)
    assert wait_until(lambda: pool.collect(pool.submit(0, [1, 2])) == [1, 2] and len(pool.pids) == 1)
    assert pool._arena is not None
    assert pool._arena.in_use == 0


def test_results_made_before_the_death_stay_whole(make_pool):
    pool = make_pool(lambda item: die() if item == "kill" else np.full(50_000, item, np.uint8), workers=1)
    kept = [pool.collect(pool.submit(0, [number] * 3)) for number in range(5)]
    deaths(pool.collect(pool.submit(0, ["kill"])))
    pool.start()
    pool.collect(pool.submit(0, [99] * 30))
    for number, batch in enumerate(kept):
        assert [(array.min(), array.max()) for array in batch] == [(number, number)] * 3


def test_an_item_taken_but_slow_to_load_is_done_once_when_another_worker_dies(make_pool):
    calls = Tally(1)

    def call(item):
        if item == "kill":
            time.sleep(0.1)
            die()
        calls.add(0)
        return item

    pool = make_pool(call)
    results = pool.collect(pool.submit(0, ["kill", SlowToLoad()]))
    assert len(deaths(results)) == 1
    assert results[1] == "loaded"
    pool.close()
    assert calls[0] == 1


def test_what_a_dead_worker_took_without_saying_so_is_done_by_another(make_pool):
    """A worker that dies between taking a task and claiming it leaves this: the task is nowhere."""
    calls, go = Tally(4), Tally(1)

    def call(item):
        if isinstance(item, int):
            calls.add(item)
            if item < 2:
                go.wait(0)
        return perform(item)

    pool = make_pool(call)
    workforce = pool._workforce
    assert workforce is not None
    one_by_one(pool)
    hold = pool.submit(0, [0, 1])
    assert calls.wait(0)
    assert calls.wait(1)
    job, last = pool.submit(0, [2]), pool.submit(0, [3])
    assert workforce.lanes[0].tasks_out.receive(block=False) is not None  # as a worker does, which then dies
    victim = pool.pids[0]
    os.kill(victim, signal.SIGKILL)
    assert all_gone([victim])
    go.add(0)
    assert [pool.collect(job), pool.collect(last)] == [[2], [3]]
    assert len(deaths(pool.collect(hold))) == 1
    assert calls.counts(4) == [1] * 4


class SlowToLoad:
    def __reduce__(self):
        return _load, ()


def _load():
    time.sleep(0.4)
    return "loaded"


def test_a_worker_started_anew_loses_only_what_it_holds(make_pool, monkeypatch):
    """The new worker begins while the parent is still busy starting it."""
    from multiprocessing.context import ForkProcess

    calls, go = Tally(4), Tally(1)

    def call(item):
        if item == "hold":
            calls.add(1)
            go.wait(0)
        if item == "last words":
            calls.add(2)
            go.wait(0)
            die()
        return perform(item)

    pool = make_pool(call)
    one_by_one(pool)
    deaths(pool.collect(pool.submit(0, ["kill"])))
    hold = pool.submit(0, ["hold"])
    assert calls.wait(1)
    job = pool.submit(0, ["last words", 1, 2])
    start = ForkProcess.start

    def start_and_rest(self):
        start(self)
        assert calls.wait(2)

    with monkeypatch.context() as patch:
        patch.setattr(ForkProcess, "start", start_and_rest)
        pool.start()
    go.add(0)
    results = pool.collect(job)
    assert [error.items for error in deaths(results)] == [("last words",)]
    assert results[1:] == [1, 2]
    assert calls[2] == 1
    assert pool.collect(hold) == ["hold"]

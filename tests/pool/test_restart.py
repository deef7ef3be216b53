"""With ``on_worker_death="restart"`` a dead worker costs nothing but time: each item arrives once, in order."""

import contextlib
import ctypes
import faulthandler
import os
import re
import signal
import threading
import time
import warnings

import numpy as np
import pytest

from tests.pool.support import BOUND, Tally, all_gone, die, wait_until
from torchdali.errors import WorkerDiedError
from torchdali.pool import Raised, worker_info
from torchdali.pool._channel import Sender
from torchdali.pool._claims import Claims

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore:worker .* of:RuntimeWarning")]


def restarting(make_pool, *functions, **options):
    return make_pool(*functions, on_worker_death="restart", **options)


def one_by_one(pool, items=range(12)):
    """Teach the pool that items take long, so that each of the next is a run of its own."""
    pool.collect(pool.submit(0, [("slow", number) for number in items]))


def end(how):
    """End this worker."""
    faulthandler.disable()  # the test runner's, which would print
    if how == "segv":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(3)
    die(getattr(signal, how.upper()))


class Once:
    """A function that ends its worker for some items: as often as it is told, over all workers."""

    def __init__(self, times=1):
        self.deaths, self.times, self.calls = Tally(256), times, Tally(256)

    def __call__(self, item):
        how, number = item
        self.calls.add(number)
        if how == "slow":
            time.sleep(0.004)
        elif how != "well" and self.deaths[number] < self.times:
            self.deaths.add(number)
            end(how)
        return number


def exceptions(results):
    return [result.exception for result in results if isinstance(result, Raised)]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("sigkill", r"was killed by SIGKILL \(by hand, or by the kernel because memory ran out\)"),
        ("sigterm", "was killed by SIGTERM"),
        ("segv", "was killed by SIGSEGV"),
        ("exit", "ended with exit code 3"),
    ],
)
def test_an_item_that_kills_once_is_read_again_and_the_warning_tells_of_it(make_pool, how, words):
    call = Once()
    pool = restarting(make_pool, call, workers=3, name="reading")
    one_by_one(pool)
    before = pool.pids
    items = [("well", number) for number in range(20, 60)]
    items[17] = (how, 37)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert pool.collect(pool.submit(0, items)) == list(range(20, 60))
    (gone,) = set(before) - set(pool.pids)
    (message,) = [str(warning.message) for warning in told if warning.category is RuntimeWarning]
    assert re.search(rf"^worker {before.index(gone)} of reading \(pid {gone}\) {words} while it worked on", message)
    assert repr((how, 37)) in message
    assert "another one was started in its place" in message
    assert call.calls.counts(60)[20:37] == [1] * 17
    assert call.calls[37] == 2
    numbers = pool.statistics()
    assert (numbers.deaths, numbers.restarts, len(pool.pids)) == (1, 1, 3)
    assert pool.collect(pool.submit(0, items)) == list(range(20, 60))


def test_a_death_while_idle_is_replaced_and_nothing_is_read_again(make_pool):
    call = Once()
    pool = restarting(make_pool, call)
    victim, other = pool.pids
    os.kill(victim, signal.SIGKILL)
    assert all_gone([victim])
    assert pool.collect(pool.submit(0, [("well", number) for number in range(50)])) == list(range(50))
    assert wait_until(lambda: pool.collect(pool.submit(0, [("well", 60)])) == [60] and victim not in pool.pids)
    assert wait_until(lambda: pool.collect(pool.submit(0, [("well", 60)])) == [60] and len(pool.pids) == 2)
    assert other in pool.pids
    assert call.calls.counts(50) == [1] * 50
    assert pool.statistics().restarts == 1


def test_all_workers_killed_while_idle_are_replaced(make_pool):
    pool = restarting(make_pool, Once(), workers=3)
    victims = pool.pids
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    assert all_gone(victims)
    assert pool.collect(pool.submit(0, [("well", number) for number in range(50)])) == list(range(50))
    assert wait_until(lambda: pool.collect(pool.submit(0, [("well", 0)])) == [0] and len(pool.pids) == 3)
    assert not set(pool.pids) & set(victims)
    assert pool.statistics().deaths == 3


# --- deaths at each step of a task --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*results are copied from here on:UserWarning")
@pytest.mark.parametrize("limit", [None, 1 << 16], ids=["in shared memory", "in a memory file"])
def test_a_death_in_the_middle_of_writing_a_large_result(make_pool, limit):
    """The kernel's alarm goes off while the result is on its way, which takes far longer than that."""
    size, alarms = 48 << 20, Tally(1)

    def call(item):
        array = np.full(size, item, np.uint8)
        if item % 2 and alarms[0] < 4:
            alarms.add(0)
            signal.setitimer(signal.ITIMER_REAL, 0.001 * alarms[0])
        return array

    pool = restarting(make_pool, call, memory_limit=limit, bytes_per_item=size, tries=9)
    results = pool.collect(pool.submit(0, range(4)))
    assert [(array.size, array.min(), array.max()) for array in results] == [(size, item, item) for item in range(4)]
    assert alarms[0] == 4
    assert pool.statistics().deaths >= 3  # two alarms may go off in workers of one and the same moment
    assert (pool.statistics().copied_bytes > 0) == (limit is not None)


def own_index():
    """A counter of this worker's own: two that count at the same time would lose one."""
    info = worker_info()
    assert info is not None
    return info.id


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_death_around_sending_a_result(make_pool, monkeypatch, moment):
    """After sending, the result counts; before, the item is done again."""
    call, deaths, parent, send = Once(), Tally(2), os.getpid(), Sender.send

    def dying(self, *args, **options):
        due = os.getpid() != parent and call.calls[30] and sum(deaths.counts(2)) < 3
        if due and moment == "before":
            deaths.add(own_index())
            die()
        send(self, *args, **options)
        if due:
            deaths.add(own_index())
            die()
        return True

    monkeypatch.setattr(Sender, "send", dying)
    pool = restarting(make_pool, call, tries=9)
    one_by_one(pool)
    assert pool.collect(pool.submit(0, [("slow", number) for number in range(20, 60)])) == list(range(20, 60))
    assert sum(deaths.counts(2)) >= 3
    assert wait_until(lambda: pool.collect(pool.submit(0, [("well", 0)])) == [0] and len(pool.pids) == 2)
    assert pool.statistics().deaths == sum(deaths.counts(2))
    if moment == "after":
        assert call.calls.counts(60)[20:] == [1] * 40


@pytest.mark.parametrize("step", ["taking", "take", "drop"])
def test_a_death_between_two_lines_of_the_loop(make_pool, monkeypatch, step):
    """``taking``: before the task is taken; ``take``: taken and not yet claimed; ``drop``: sent, still claimed."""
    call, deaths, parent, original = Once(), Tally(2), os.getpid(), getattr(Claims, step)

    def dying(self, *args):
        if os.getpid() != parent and call.calls[30] and sum(deaths.counts(2)) < 3:
            deaths.add(own_index())
            die()
        original(self, *args)

    monkeypatch.setattr(Claims, step, dying)
    pool = restarting(make_pool, call, tries=2)
    one_by_one(pool)
    assert pool.collect(pool.submit(0, [("slow", number) for number in range(20, 60)])) == list(range(20, 60))
    assert call.calls.counts(60)[20:] == [1] * 40
    assert sum(deaths.counts(2)) >= 3
    assert wait_until(lambda: pool.collect(pool.submit(0, [("well", 0)])) == [0] and len(pool.pids) == 2)
    assert pool.statistics().deaths == sum(deaths.counts(2))


@pytest.mark.parametrize("policy", ["raise", "restart"])
def test_what_was_sent_before_a_death_counts_also_when_start_finds_the_dead(make_pool, monkeypatch, policy):
    call, parent, drop = Once(), os.getpid(), Claims.drop

    def dying(self, *args):
        if os.getpid() != parent and call.calls[30]:
            die()
        drop(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Claims, "drop", dying)
        pool = make_pool(call, workers=1, on_worker_death=policy)
        pids = pool.pids
        job = pool.submit(0, [("well", 30)])
        assert all_gone(pids)
    pool.start()
    assert pool.collect(job) == [30]
    assert call.calls[30] == 1
    assert pool.statistics().deaths == 1


def test_a_worker_that_takes_a_task_and_never_claims_it_keeps_nothing_from_the_others(make_pool, monkeypatch, tmp_path):
    """It lives, but hangs between two lines: what it took is found out when another one dies, and done."""
    call, parent, take = Once(), os.getpid(), Claims.take

    def hanging(self, *args):
        if os.getpid() != parent and call.calls[30]:
            with contextlib.suppress(FileExistsError):
                (tmp_path / "hung").mkdir()  # by one of them, also where two come here at the same time
                time.sleep(100)
        take(self, *args)

    monkeypatch.setattr(Claims, "take", hanging)
    pool = restarting(make_pool, call, tries=3)
    one_by_one(pool)
    items = [("slow", number) for number in range(20, 60)]
    items[20] = ("sigkill", 40)
    assert pool.collect(pool.submit(0, items)) == list(range(20, 60))
    assert (tmp_path / "hung").exists()
    assert call.calls.counts(60)[20:] == [2 if number == 40 else 1 for number in range(20, 60)]


def test_results_that_are_kept_stay_whole_while_workers_are_replaced(make_pool):
    def call(item):
        if item == "kill":
            die()
        return np.full(50_000, item, np.uint8)

    pool = restarting(make_pool, call, tries=1)
    kept = []
    for number in range(6):
        kept.append(pool.collect(pool.submit(0, [number, "kill", number])))
        assert type(kept[-1].pop(1).exception) is WorkerDiedError
    assert [{int(array.min()) for array in batch} for batch in kept] == [{number} for number in range(6)]
    assert [{int(array.max()) for array in batch} for batch in kept] == [{number} for number in range(6)]


# --- items that kill each time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tries", [1, 2, 4])
def test_an_item_that_kills_each_time_is_given_up_alone(make_pool, tries):
    call = Once(times=100)
    pool = restarting(make_pool, call, tries=tries, name="reading")
    items = [("well", number) for number in range(24)]
    items[7] = ("sigkill", 7)
    results = pool.collect(pool.submit(0, items))
    (error,) = exceptions(results)
    assert results[:7] + results[8:] == [*range(7), *range(8, 24)]
    assert type(error) is WorkerDiedError
    assert "while it worked on ('sigkill', 7)" in str(error)
    assert "given up" in str(error)
    assert error.items == (("sigkill", 7),)
    assert call.calls[7] == call.deaths[7] == pool.statistics().deaths == tries
    assert pool.collect(pool.submit(0, items[8:])) == list(range(8, 24))
    assert len(pool.pids) == 2


def test_tries_are_counted_for_each_item_by_itself(make_pool):
    """Each of these kills as often as an item may: together they kill far more often."""
    call = Once(times=2)
    pool = restarting(make_pool, call, tries=3)
    items = [("sigkill" if number % 3 == 0 else "well", number) for number in range(30)]
    assert pool.collect(pool.submit(0, items)) == list(range(30))
    assert pool.statistics().deaths == pool.statistics().restarts == 20


def test_many_items_that_kill_each_time_are_all_given_up_and_the_pool_goes_on(make_pool):
    call = Once(times=100)
    pool = restarting(make_pool, call, tries=3)
    errors = exceptions(pool.collect(pool.submit(0, [("sigkill", number) for number in range(8)])))
    assert [error.items for error in errors] == [(("sigkill", number),) for number in range(8)]
    assert call.deaths.counts(8) == [3] * 8
    assert pool.collect(pool.submit(0, [("well", 9)])) == [9]


def test_an_item_that_is_given_up_is_not_said_to_be_done_again(make_pool):
    pool = restarting(make_pool, Once(times=100), tries=2)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert len(exceptions(pool.collect(pool.submit(0, [("sigkill", 1)])))) == 1
    first, last = [str(warning.message) for warning in told if warning.category is RuntimeWarning]
    assert "done again" in first
    assert "given up" not in first
    assert "given up" in last
    assert "done again" not in last


def test_a_cancelled_job_that_kills_does_not_kill_again(make_pool):
    call = Once(times=100)
    pool = restarting(make_pool, call)
    job = pool.submit(0, [("sigkill", 1)])
    assert call.deaths.wait(1)
    pool.cancel(job)
    assert wait_until(lambda: pool.collect(pool.submit(0, [("well", 2)])) == [2] and pool.statistics().restarts == 1)
    assert pool.collect(pool.submit(0, [("slow", number) for number in range(20)])) == list(range(20))
    assert call.deaths[1] == 1
    assert pool.statistics().bytes_in_use == 0


def test_warnings_that_are_errors_lose_nothing(make_pool):
    """As under ``-W error``: collect raises the warning, and the results are there when it is called again."""
    pool = restarting(make_pool, Once(times=2), workers=1)
    job = pool.submit(0, [("well", 0), ("sigkill", 1), ("well", 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for _ in range(2):
            with pytest.raises(RuntimeWarning, match="was killed by SIGKILL"):
                pool.collect(job, timeout=BOUND)
        assert pool.collect(job, timeout=BOUND) == [0, 1, 2]


def test_a_worker_may_be_replaced_while_another_thread_waits(make_pool):
    call = Once()
    pool = restarting(make_pool, call)
    results: list[object] = []
    job = pool.submit(0, [("slow", 1), ("sigkill", 2), ("segv", 3), *[("slow", number) for number in range(4, 30)]])
    thread = threading.Thread(target=lambda: results.extend(pool.collect(job)))
    thread.start()
    thread.join(20)
    assert results == list(range(1, 30))
    # Those that were started by a thread which has ended live on.
    assert pool.collect(pool.submit(0, [("slow", number) for number in range(20)])) == list(range(20))
    assert pool.statistics().deaths == 2


def test_a_replaced_worker_has_the_same_number_and_another_seed(make_pool):
    def call(item):
        if item == "kill":
            die()
        info = worker_info()
        assert info is not None
        time.sleep(0.002)
        return info.id, info.num_workers, info.name, info.seed, os.getpid()

    pool = restarting(make_pool, call, workers=3, name="reading", tries=1, seed=5)
    before = {entry[0]: entry for entry in pool.collect(pool.submit(0, range(60)))}
    assert sorted(before) == [0, 1, 2]
    for _ in range(4):
        (error,) = exceptions(pool.collect(pool.submit(0, ["kill"])))
        after: dict[int, tuple[int, int, str, int, int]] = {}
        assert wait_until(
            lambda after=after: (
                after.update((e[0], e) for e in pool.collect(pool.submit(0, range(60)))) or len(after) == 3
            )
        )
        changed = {index for index in after if after[index] != before[index]}
        assert changed == {error.worker}
        assert after[error.worker][:3] == before[error.worker][:3]
        assert after[error.worker][3] != before[error.worker][3]
        before = after

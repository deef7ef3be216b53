"""Who takes a dead worker's place: from where it is started, what it goes on with, and when no more are started."""

import os
import signal
import threading
import time
import warnings

import pytest

from tests.pool.support import BOUND, Tally, all_gone, die, wait_until
from torchdali.errors import WorkerDiedError
from torchdali.pool import Raised, WorkerPool, worker_info
from torchdali.pool._zygote import living_zygote

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore:.*workers? :RuntimeWarning")]

MANY = 40
"""Deaths of which nobody would say that it is worth another try."""


def exceptions(results):
    return [result.exception for result in results if isinstance(result, Raised)]


def who(item):
    """The index of the worker; some items end it first."""
    if item == "kill":
        die()
    if item == "slow":
        time.sleep(0.004)
    info = worker_info()
    assert info is not None
    return info.id


class Forbidding:
    """A ``before_fork`` that forbids it once it is told to."""

    forbids = False

    def __call__(self):
        if self.forbids:
            raise PermissionError("the parent must not be forked")


# --- workers that die before they do anything -------------------------------------------------------------------------


def test_workers_that_die_at_each_start_are_given_up(make_pool):
    starts = Tally(1)

    def initialize(index):
        starts.add(0)
        os._exit(4)

    pool = make_pool(who, on_worker_death="restart", initialize=initialize)
    with pytest.raises(WorkerDiedError, match="exit code 4"):
        raise exceptions(pool.collect(pool.submit(0, range(10)), timeout=30))[0]
    with pytest.raises(WorkerDiedError, match="no worker is left"):
        pool.submit(0, [1])
    assert 2 < pool.statistics().deaths <= MANY
    assert starts[0] <= MANY
    assert pool.pids == []


def test_one_worker_that_dies_at_each_start_is_given_up_while_the_others_go_on(make_pool):
    def initialize(index):
        if index == 0:
            os._exit(4)

    pool = make_pool(who, on_worker_death="restart", initialize=initialize, workers=3)
    for _ in range(60):
        assert set(pool.collect(pool.submit(0, ["slow"] * 8))) <= {1, 2}
    deaths = pool.statistics().deaths
    for _ in range(20):
        assert set(pool.collect(pool.submit(0, ["slow"] * 8))) <= {1, 2}
    assert pool.statistics().deaths == deaths <= MANY
    assert len(pool.pids) == 2


def test_a_dedicated_worker_that_dies_at_each_start_fails_its_own_jobs_while_the_others_go_on(make_pool):
    def initialize(index):
        if index == 0:
            os._exit(4)

    pool = make_pool(who, on_worker_death="restart", initialize=initialize, workers=3, dedicated=1)
    job = pool.submit(0, [1, 2], worker=0)
    for _ in range(150):
        assert set(pool.collect(pool.submit(0, ["slow"] * 8))) <= {1, 2}
        if job.complete:
            break
    assert job.complete, f"{pool.statistics().deaths} deaths, and the job still waits"
    assert [type(error) for error in exceptions(pool.collect(job))] == [WorkerDiedError] * 2
    with pytest.raises(WorkerDiedError, match="exit code 4"):
        pool.submit(0, [1], worker=0)
    assert len(pool.pids) == 2


def test_start_gives_workers_that_were_given_up_another_chance(make_pool):
    healed = Tally(1)

    def initialize(index):
        if not healed[0]:
            os._exit(4)

    pool = make_pool(who, on_worker_death="restart", initialize=initialize)
    assert len(exceptions(pool.collect(pool.submit(0, range(4))))) == 4
    healed.add(0)
    pool.start()
    assert len(pool.pids) == 2
    assert set(pool.collect(pool.submit(0, range(4)))) <= {0, 1}


def test_a_worker_that_is_killed_idle_is_replaced_though_items_have_one_try(make_pool):
    """``tries`` is what an item may cost; here none costs anything."""
    pool = make_pool(who, on_worker_death="restart", tries=1)
    victim = pool.pids[0]
    os.kill(victim, signal.SIGKILL)
    assert all_gone([victim])
    assert wait_until(lambda: len(pool.collect(pool.submit(0, ["slow"]))) == 1 and victim not in pool.pids)
    assert wait_until(lambda: len(pool.collect(pool.submit(0, ["slow"]))) == 1 and len(pool.pids) == 2)


def test_of_several_that_die_at_once_each_is_told_of(make_pool):
    pool = make_pool(who, workers=3, on_worker_death="restart", name="reading")
    pool.collect(pool.submit(0, ["slow"] * 40))
    victims = pool.pids
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    assert all_gone(victims)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert len(pool.collect(pool.submit(0, ["slow"] * 40))) == 40
    words = "\n".join(str(warning.message) for warning in told)
    assert [pid for pid in victims if f"of reading (pid {pid}) was killed by SIGKILL" in words] == victims


# --- the other policy -------------------------------------------------------------------------------------------------


def test_where_the_policy_is_to_raise_nobody_is_replaced_and_nothing_read_again(make_pool):
    calls = Tally(40)

    def call(item):
        calls.add(item)
        time.sleep(0.004)
        if item == 17:
            die()
        return item

    pool = make_pool(call, workers=3)
    pool.collect(pool.submit(0, [0] * 12))
    calls.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = pool.collect(pool.submit(0, range(40)))
    (error,) = exceptions(results)
    assert error.items == (17,)
    assert error.exitcode == -signal.SIGKILL
    assert results[:17] + results[18:] == [*range(17), *range(18, 40)]
    assert calls.counts(40) == [1] * 40
    numbers = pool.statistics()
    assert (numbers.deaths, numbers.restarts, len(pool.pids)) == (1, 0, 2)


# --- dedicated workers ------------------------------------------------------------------------------------------------


def test_a_dedicated_worker_is_replaced_and_its_queue_is_kept(make_pool):
    calls, go = Tally(60), Tally(1)

    def call(item):
        calls.add(item)
        if item == 0:
            go.wait(0)
        if item == 5 and calls[5] == 1:
            die()
        assert worker_info() is not None
        return item, who(item)

    pool = make_pool(call, workers=3, dedicated=2, on_worker_death="restart")
    jobs = [pool.submit(0, [number], worker=1) for number in range(40)]
    other = [pool.submit(0, [number], worker=0) for number in range(40, 50)]
    shared = pool.submit(0, range(50, 60))
    assert calls.wait(0)
    victim = pool.pids[1]
    os.kill(victim, signal.SIGKILL)
    assert all_gone([victim])
    go.add(0)
    assert [pool.collect(job) for job in jobs] == [[(number, 1)] for number in range(40)]
    assert [pool.collect(job) for job in other] == [[(number, 0)] for number in range(40, 50)]
    assert pool.collect(shared) == [(number, 2) for number in range(50, 60)]
    again = {0: 2, 5: 2}
    assert calls.counts(60) == [again.get(number, 1) for number in range(60)]
    numbers = pool.statistics()
    assert (numbers.deaths, numbers.restarts) == (2, 2)


def test_where_dedicated_workers_are_not_replaced_only_their_own_jobs_are_lost(make_pool):
    pool = make_pool(who, workers=3, dedicated=1)
    lost = [pool.submit(0, [item], worker=0) for item in ("kill", 1, 2)]
    kept = pool.submit(0, ["slow"] * 20)
    assert [type(error) for job in lost for error in exceptions(pool.collect(job))] == [WorkerDiedError] * 3
    assert set(pool.collect(kept)) <= {1, 2}
    with pytest.raises(WorkerDiedError):
        pool.submit(0, [1], worker=0)
    assert set(pool.collect(pool.submit(0, ["slow"] * 20))) <= {1, 2}
    pool.start()
    assert pool.collect(pool.submit(0, [1], worker=0)) == [0]


def test_shared_workers_that_die_leave_dedicated_ones_alone(make_pool):
    pool = make_pool(who, workers=2, dedicated=1)
    assert len(exceptions(pool.collect(pool.submit(0, ["kill"])))) == 1
    assert pool.collect(pool.submit(0, [1, 2], worker=0)) == [0, 0]
    with pytest.raises(WorkerDiedError):
        pool.submit(0, [1])


# --- where they come from ---------------------------------------------------------------------------------------------


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        return int(file.read().rpartition(")")[2].split()[1])


def test_replacements_come_from_the_zygote_once_the_parent_must_not_be_forked(make_pool):
    forbid = Forbidding()
    pool = make_pool(who, workers=3, before_fork=forbid, on_worker_death="restart", tries=1)
    zygote = living_zygote()
    assert zygote is not None
    assert {parent_of(pid) for pid in pool.pids} == {os.getpid()}
    forbid.forbids = True
    for number in range(1, 8):
        assert len(exceptions(pool.collect(pool.submit(0, ["slow", "kill", "slow"])))) == 1
        assert wait_until(lambda: len(pool.collect(pool.submit(0, [1]))) == len(pool.pids) - 2)
        assert pool.statistics().restarts == number
        assert zygote.pid in {parent_of(pid) for pid in pool.pids}
    while os.getpid() in {parent_of(pid) for pid in pool.pids}:
        victim = next(pid for pid in pool.pids if parent_of(pid) == os.getpid())
        os.kill(victim, signal.SIGKILL)
        assert wait_until(lambda victim=victim: bool(pool.collect(pool.submit(0, [1]))) and victim not in pool.pids)
    assert set(pool.collect(pool.submit(0, ["slow"] * 40))) == {0, 1, 2}


def test_a_worker_of_the_zygote_that_dies_is_told_of_as_any_other(make_pool):
    pool = make_pool(who, start_method="zygote", name="reading")
    pids = pool.pids
    (error,) = exceptions(pool.collect(pool.submit(0, ["kill"])))
    assert error.pid in pids
    assert error.worker == pids.index(error.pid)
    assert error.exitcode == -signal.SIGKILL
    assert "was killed by SIGKILL" in str(error)
    assert pool.collect(pool.submit(0, [1])) == [1 - error.worker]


def test_where_nobody_can_be_started_the_others_go_on_and_a_warning_says_why(make_pool):
    forbid, lock = Forbidding(), threading.Lock()

    def call(item):
        assert lock is not None  # what it refers to cannot be pickled
        return who(item)

    pool = make_pool(call, workers=3, before_fork=forbid, on_worker_death="restart", tries=2)
    forbid.forbids = True
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        results = pool.collect(pool.submit(0, ["slow", "kill", *["slow"] * 20]))
    assert len(exceptions(results)) == 1
    assert len(pool.pids) == 1
    messages = [str(warning.message) for warning in told if warning.category is RuntimeWarning]
    assert len(messages) == 2
    assert "cannot be replaced, 2 workers go on" in messages[0]
    assert "must not be forked" in messages[0]
    assert "cannot be pickled" in messages[0]
    assert len(pool.collect(pool.submit(0, range(30)))) == 30
    job, queued = pool.submit(0, ["kill", 1, 2]), pool.submit(0, [3])
    errors = [*exceptions(pool.collect(job, timeout=BOUND)), *exceptions(pool.collect(queued, timeout=BOUND))]
    assert [type(error) for error in errors] == [WorkerDiedError] * 4
    with pytest.raises(WorkerDiedError, match="no worker is left"):
        pool.submit(0, [1])
    assert pool.statistics().restarts == 0
    forbid.forbids = False
    pool.start()
    assert len(pool.collect(pool.submit(0, range(30)))) == 30
    assert len(pool.pids) == 3


def test_warnings_that_are_errors_do_not_hide_that_nobody_is_left(make_pool):
    forbid, lock = Forbidding(), threading.Lock()
    pool = make_pool(
        lambda item: who(item) if lock else 0, workers=1, before_fork=forbid, on_worker_death="restart", tries=2
    )
    forbid.forbids = True
    job, queued = pool.submit(0, ["kill"]), pool.submit(0, [1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(RuntimeWarning, match="cannot be replaced"):
            pool.collect(job, timeout=BOUND)
        assert len(exceptions(pool.collect(job, timeout=BOUND))) == 1
        assert len(exceptions(pool.collect(queued, timeout=BOUND))) == 1


def test_a_hook_that_forbids_from_the_beginning_leaves_nothing(make_pool):
    living = living_zygote()
    if living is not None:
        living.close()
    forbid = Forbidding()
    forbid.forbids = True
    pool = WorkerPool([who], 2, before_fork=forbid)
    with pytest.raises(PermissionError, match="must not be forked"):
        pool.start()
    assert living_zygote() is None
    forbid.forbids = False
    pool.start()
    assert set(pool.collect(pool.submit(0, range(4)))) <= {0, 1}
    pool.close()

"""A worker that is stopped (SIGSTOP) is waited for, and killed when that takes too long; whoever waits is told for what."""

import os
import signal
import threading
import time
import warnings

import psutil
import pytest

from tests.pool.file_tally import FileTally
from tests.pool.support import BOUND, Tally, alive, all_gone, wait_until
from torchdali.errors import WorkerDiedError
from torchdali.pool import Raised, _waiting

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore:.*workers? :RuntimeWarning")]

LIMIT = 0.5
"""What these tests set for ``stopped_seconds``."""

LONG = 60.0
"""A ``stopped_seconds`` that no test lasts for."""


class Holding:
    """A function that stays at the item 7 until it is let go."""

    def __init__(self, folder):
        self.begun, self.go = (FileTally(folder / name, 1) for name in ("begun", "go"))
        self.calls = FileTally(folder / "calls", 64)

    def __call__(self, item):
        self.calls.add(item)
        if item == 7 and not self.go[0]:
            self.begun.add(0)
            while not self.go[0]:
                time.sleep(0.001)
        else:
            time.sleep(0.003)
        return item


def one_by_one(pool):
    """Teach the pool that items take long, so that each of the next is a run of its own."""
    pool.collect(pool.submit(0, [0] * 12))


def stop(pid):
    os.kill(pid, signal.SIGSTOP)
    assert wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


@pytest.fixture
def call(tmp_path):
    holding = Holding(tmp_path)
    yield holding
    holding.go.add(0)


@pytest.mark.parametrize("method", ["fork", "zygote"])
def test_a_worker_stopped_with_an_item_in_hand_is_killed_and_the_item_read_again(make_pool, call, method):
    pool = make_pool(
        call, workers=1, name="reading", stopped_seconds=LIMIT, on_worker_death="restart", start_method=method
    )
    one_by_one(pool)
    call.calls.clear()
    (pid,) = pool.pids
    job = pool.submit(0, range(1, 20))
    assert call.begun.wait(0)
    stop(pid)
    call.go.add(0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert pool.collect(job, timeout=30) == list(range(1, 20))
    (message,) = [str(warning.message) for warning in told if warning.category is RuntimeWarning]
    assert message.startswith(
        f"worker 0 of reading (pid {pid}) was stopped (SIGSTOP) for {LIMIT:g} s, and killed, while it worked on 7"
    )
    assert not alive(pid)
    assert call.calls.counts(20)[1:] == [2 if number == 7 else 1 for number in range(1, 20)]
    numbers = pool.statistics()
    assert (numbers.deaths, numbers.restarts) == (1, 1)
    assert pool.collect(pool.submit(0, range(1, 20))) == list(range(1, 20))


def test_where_the_policy_is_to_raise_only_its_item_is_lost(make_pool, call):
    pool = make_pool(call, workers=2, stopped_seconds=LIMIT)
    one_by_one(pool)
    before = pool.pids
    job, other = pool.submit(0, [7]), pool.submit(0, range(20, 40))
    assert call.begun.wait(0)
    assert pool.collect(other) == list(range(20, 40))
    claims = pool._workforce.claims
    # What is sent is still claimed for a moment.
    assert wait_until(lambda: sum(claims.of(i)[0] > 0 for i in range(2)) == 1)
    (index,) = [i for i in range(2) if claims.of(i)[0] > 0]
    stop(before[index])
    (result,) = pool.collect(job, timeout=30)
    assert isinstance(result, Raised)
    error = result.exception
    assert isinstance(error, WorkerDiedError)
    assert (error.worker, error.pid, error.items) == (index, before[index], (7,))
    assert "was stopped (SIGSTOP)" in str(error)
    assert pool.collect(pool.submit(0, range(20, 40))) == list(range(20, 40))
    assert pool.pids == [before[1 - index]]


def test_an_idle_worker_that_is_stopped_holds_up_nobody_and_is_replaced(make_pool, call):
    pool = make_pool(call, workers=2, stopped_seconds=LIMIT, on_worker_death="restart")
    one_by_one(pool)
    victim, other = pool.pids
    stop(victim)
    assert wait_until(
        lambda: (
            pool.collect(pool.submit(0, range(20, 40)), timeout=30) == list(range(20, 40)) and victim not in pool.pids
        )
    )
    assert all_gone([victim])
    assert wait_until(lambda: pool.collect(pool.submit(0, [1])) == [1] and len(pool.pids) == 2)
    assert other in pool.pids
    assert pool.statistics().deaths == 1


def test_all_workers_stopped_at_once_are_replaced(make_pool, call):
    pool = make_pool(call, workers=3, stopped_seconds=LIMIT, on_worker_death="restart")
    one_by_one(pool)
    job = pool.submit(0, range(10, 40))
    victims = pool.pids
    for pid in victims:
        stop(pid)
    assert pool.collect(job, timeout=30) == list(range(10, 40))
    assert all_gone(victims)
    assert pool.statistics().deaths == 3


def test_a_worker_that_goes_on_before_the_limit_loses_nothing(make_pool, call):
    pool = make_pool(call, workers=2, stopped_seconds=LONG, on_worker_death="restart")
    one_by_one(pool)
    call.calls.clear()
    before = pool.pids
    job = pool.submit(0, range(1, 40))
    assert call.begun.wait(0)
    for pid in before:
        stop(pid)
    call.go.add(0)
    with pytest.raises(TimeoutError):
        pool.collect(job, timeout=1.2)  # it has looked at the workers more than once by then
    for pid in before:
        os.kill(pid, signal.SIGCONT)
    assert pool.collect(job, timeout=30) == list(range(1, 40))
    assert call.calls.counts(40)[1:] == [1] * 39
    assert pool.pids == before
    assert pool.statistics().deaths == 0


@pytest.mark.slow
def test_stops_that_are_short_do_not_add_up(make_pool, call):
    """Together they last longer than the limit, none of them does."""
    pool = make_pool(call, workers=1, stopped_seconds=1.5)
    (pid,) = pool.pids
    job = pool.submit(0, [7])
    assert call.begun.wait(0)
    for _ in range(3):
        stop(pid)
        with pytest.raises(TimeoutError):
            pool.collect(job, timeout=0.6)
        os.kill(pid, signal.SIGCONT)
        with pytest.raises(TimeoutError):
            pool.collect(job, timeout=0.6)
    call.go.add(0)
    assert pool.collect(job, timeout=30) == [7]
    assert pool.pids == [pid]


def test_a_worker_that_is_only_slow_is_not_killed(make_pool, call):
    pool = make_pool(call, workers=1, stopped_seconds=0.05)
    job = pool.submit(0, [7])
    assert call.begun.wait(0)
    with pytest.raises(TimeoutError):
        pool.collect(job, timeout=1.5)
    call.go.add(0)
    assert pool.collect(job, timeout=30) == [7]
    assert pool.statistics().deaths == 0


# --- waiting with a bound ---------------------------------------------------------------------------------------------


def test_a_timeout_names_worker_and_item_and_collect_may_be_called_again(make_pool, call):
    pool = make_pool(call, workers=1)
    one_by_one(pool)
    (pid,) = pool.pids
    job, queued = pool.submit(0, [3, 7, 9]), pool.submit(0, [11])
    assert call.begun.wait(0)
    for _ in range(3):
        with pytest.raises(TimeoutError, match=rf"worker 0 \(pid {pid}\) works on 7$"):
            pool.collect(job, timeout=0.05)
    with pytest.raises(TimeoutError, match="not begun"):
        pool.collect(queued, timeout=0.05)
    stop(pid)
    with pytest.raises(TimeoutError, match=rf"worker 0 \(pid {pid}\) is stopped at 7$"):
        pool.collect(job, timeout=0.05)
    os.kill(pid, signal.SIGCONT)
    call.go.add(0)
    assert pool.collect(job, timeout=30) == [3, 7, 9]
    assert pool.collect(queued, timeout=30) == [11]
    assert call.calls[7] == 1


def test_a_timeout_that_does_not_wait_gives_what_is_there(make_pool, call):
    pool = make_pool(call, workers=2)
    job, other = pool.submit(0, [7]), pool.submit(0, [9])
    assert call.begun.wait(0)
    with pytest.raises(TimeoutError):
        pool.collect(job, timeout=0)

    def there():
        try:
            return pool.collect(other, timeout=0) == [9]
        except TimeoutError:
            return False

    assert wait_until(there)
    call.go.add(0)
    assert pool.collect(job, timeout=30) == [7]
    assert pool.collect(job, timeout=0) == [7]


def test_what_is_beyond_the_timeout_is_done_by_whoever_asks_next(make_pool, call):
    pool = make_pool(call, workers=1)
    job = pool.submit(0, [7])
    with pytest.raises(TimeoutError):
        pool.collect(job, timeout=0.05)
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(pool.collect(job, timeout=30)))
    thread.start()
    call.go.add(0)
    thread.join(BOUND)
    assert answers == [[7]]


def test_a_wait_that_lasts_says_what_it_waits_for(make_pool, monkeypatch):
    monkeypatch.setattr(_waiting, "SILENT_SECONDS", 0.3)
    go = Tally(1)
    pool = make_pool(lambda item: go.wait(0) if item == "slow" else item)
    job = pool.submit(0, ["quick", "slow"])
    threading.Timer(1.5, lambda: go.add(0)).start()
    with pytest.warns(UserWarning, match=r"pool has waited for \d+ s; worker \d \(pid \d+\) works on 'slow'") as told:
        assert pool.collect(job) == ["quick", True]
    assert len(told) == 1

"""A job that is cancelled: what was not begun is not begun, and nothing of it stays."""

import signal

import pytest

from tests.pool.support import Tally, wait_until
from torchdali.pool import WorkerPool
from torchdali.pool._dispatch import Dispatch

GATE, BEGUN = 0, 1


@pytest.fixture
def tally():
    return Tally(200)


@pytest.fixture
def pool(make_pool, tally):
    """One worker, which "wait" holds until the gate is opened; other items are counted."""

    def call(item):
        if item == "wait":
            tally.add(BEGUN)
            assert tally.wait(GATE)
            return bytes(3000)
        tally.add(item)
        return item

    return make_pool(call, workers=1)


def in_use(pool: WorkerPool) -> int:
    assert pool._arena is not None
    return pool._arena.in_use


def test_queued_work_of_a_cancelled_job_is_never_begun(pool, tally):
    first, unwanted, third = pool.submit(0, ["wait"]), pool.submit(0, range(10, 20)), pool.submit(0, range(20, 30))
    assert tally.wait(BEGUN)
    pool.cancel(unwanted)
    tally.add(GATE)
    assert pool.collect(first) == [bytes(3000)]
    assert pool.collect(third) == list(range(20, 30))
    assert tally.counts(30)[10:] == [0] * 10 + [1] * 10


def test_a_cancelled_job_with_an_item_in_hand_gives_its_memory_back_when_that_is_done(pool, tally):
    unwanted = pool.submit(0, ["wait", *range(10, 20)])
    assert tally.wait(BEGUN)
    pool.cancel(unwanted)
    assert in_use(pool) > 0  # the worker may still write there
    tally.add(GATE)
    assert pool.collect(pool.submit(0, [50])) == [50]
    assert in_use(pool) == 0


def test_a_cancelled_job_that_is_complete_gives_its_memory_back(pool):
    unwanted, wanted = pool.submit(0, [10]), pool.submit(0, [11])
    pool.collect(wanted)
    assert unwanted.complete
    pool.cancel(unwanted)
    del wanted
    assert in_use(pool) == 0


def test_a_cancelled_job_cannot_be_collected(pool):
    job = pool.submit(0, [10])
    pool.cancel(job)
    with pytest.raises(RuntimeError, match="was cancelled"):
        pool.collect(job)


def test_cancelling_twice_is_cancelling_once(pool):
    job = pool.submit(0, [10])
    pool.cancel(job)
    pool.cancel(job)
    assert pool.collect(pool.submit(0, [11])) == [11]


def test_cancelling_what_was_collected_changes_nothing(pool):
    job = pool.submit(0, [10])
    assert pool.collect(job) == [10]
    pool.cancel(job)
    assert pool.collect(job) == [10]


def test_a_job_may_be_cancelled_after_close(pool):
    job = pool.submit(0, [10])
    pool.close()
    pool.cancel(job)


def test_a_submit_that_is_interrupted_leaves_nothing(pool, monkeypatch):
    send = Dispatch.send

    def send_and_interrupt(self):
        send(self)
        signal.raise_signal(signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Dispatch, "send", send_and_interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.submit(0, range(10, 20))
    finally:
        signal.signal(signal.SIGINT, previous)
    assert wait_until(lambda: pool.collect(pool.submit(0, [50])) == [50] and in_use(pool) == 0)


def test_cancelling_keeps_the_others_whole_while_workers_are_busy(make_pool):
    calls = Tally(100 * 100)
    pool = make_pool(lambda item: calls.add(item) or item, workers=3)
    kept = {}
    for number in range(100):
        items = range(100 * number, 100 * number + 20)
        job = pool.submit(0, items)
        if number % 3 == 1:
            pool.cancel(job)
        else:
            kept[job] = list(items)
    for job, items in kept.items():
        assert pool.collect(job) == items
        assert [calls[item] for item in items] == [1] * 20
    kept.clear()
    del job
    assert wait_until(lambda: pool.collect(pool.submit(0, [0])) == [0] and in_use(pool) == 0)
    assert pool._dispatch is not None
    assert not pool._dispatch.outstanding

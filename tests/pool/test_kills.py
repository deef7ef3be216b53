"""Workers killed at random: each item arrives once, in order, or is named as lost."""

import os
import random
import signal
import threading
import time

import numpy as np
import pytest

from tests.pool.support import Tally, all_gone, die
from torchdali.errors import WorkerDiedError
from torchdali.pool import Raised, WorkerPool

pytestmark = pytest.mark.timeout(60)

WORKERS = 3
ITEMS = 90
KILLER = 200


def make_call(calls: Tally):
    def call(item):
        kind, number = item
        if kind == "fast":
            calls.add(number)
        elif kind == "slow":
            calls.add(number)
            time.sleep(0.0015)
        elif kind == "kill":
            calls.add(number)
            die()
        return number, np.full(2000, number, np.int16)

    return call


def check(items, results, calls: Tally) -> set[int]:
    """Each item is there or lost, and was called once or, when lost, at most once; returns the lost ones."""
    lost: set[int] = set()
    named: set[int] = set()
    assert len(results) == len(items)
    for (kind, number), result in zip(items, results, strict=True):
        if isinstance(result, Raised):
            assert isinstance(result.exception, WorkerDiedError)
            lost.add(number)
            named.update(other for _, other in result.exception.items)
            assert calls[number] <= 1
        else:
            assert kind != "kill"
            assert result[0] == number
            assert result[1].tolist() == [number] * 2000
            assert calls[number] == 1
    assert named == lost
    return lost


def rounds(pool: WorkerPool, calls: Tally, seed: int, disturb=None) -> int:
    """One round: three jobs with up to two killers in them; returns the number of lost items."""
    draw = random.Random(seed)
    kinds = [draw.choice(["fast", "slow"]) for _ in range(ITEMS)]
    for victim in draw.sample(range(ITEMS), draw.randrange(WORKERS)) if disturb is None else ():
        kinds[victim] = "kill"
    items = list(zip(kinds, range(ITEMS), strict=True))
    cuts = sorted(draw.sample(range(1, ITEMS), 2))
    parts = [items[: cuts[0]], items[cuts[0] : cuts[1]], items[cuts[1] :]]
    calls.clear()
    jobs = [pool.submit(0, part) for part in parts]
    disturbance = None if disturb is None else disturb(pool, draw)
    if draw.random() < 0.5:
        pool.start()
    order = draw.sample(range(3), 3)
    results = {number: pool.collect(jobs[number]) for number in order}
    lost = check(items, [result for number in range(3) for result in results[number]], calls)
    if disturbance is not None:
        disturbance.join()
    killers = {number for kind, number in items if kind == "kill"}
    assert killers <= lost
    return len(lost)


def run(make_pool, seeds, disturb=None):
    calls = Tally(ITEMS)
    pool = make_pool(make_call(calls), workers=WORKERS)
    lost = 0
    for seed in seeds:
        lost += rounds(pool, calls, seed, disturb)
        assert pool.collect(pool.submit(0, [("fast", 5)]))[0][0] == 5
        pool.start()
        assert len(pool.pids) == WORKERS
    assert pool.statistics().deaths > len(seeds) // 4
    if disturb is None:
        assert lost > 0


def kill_one(pool, draw) -> threading.Thread:
    """Kill one worker from outside a little later, wherever it is then."""
    pid = draw.choice(pool.pids)
    delay = draw.random() * 0.02

    def kill():
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        all_gone([pid])

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_items_that_kill_their_worker_lose_themselves_and_no_others(make_pool):
    run(make_pool, range(20))


def test_workers_killed_at_any_moment_lose_what_they_held_and_nothing_else(make_pool):
    run(make_pool, range(100, 120), kill_one)


@pytest.mark.slow
def test_many_more_kills_from_inside(make_pool):
    run(make_pool, range(1000, 1025))


@pytest.mark.slow
def test_many_more_kills_from_outside(make_pool):
    run(make_pool, range(2000, 2025), kill_one)

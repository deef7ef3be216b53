"""Workers killed at random moments while others are started in their place: every sample complete, in order, once."""

import os
import random
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pool.support import all_gone, wait_until
from torchdali.pool import Ragged, Raised, Stacked, WorkerPool

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*workers? :RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*results are copied from here on:UserWarning"),
]

TINY, MIDDLE, LARGE = 8, 100_000, 700_000
"""Bytes of a result; the last is beyond what is set aside for it, so that it comes through a memory file."""

STALLED = 60.0
"""Seconds after which a job that does not come fails the test, instead of hanging it."""

TRIES = 1000
"""No item kills: whatever dies of an item here was killed from outside, and that may happen to one item often."""

KILLS_WITHOUT_WORK = 3
"""So many workers are killed at most before one gets to a call: after five in a row a pool gives up, and rightly so."""


@pytest.fixture
def begun(tmp_path):
    """A file that grows with each call that is begun."""
    path = tmp_path / "begun"
    path.touch()
    return path


def content(number, size):
    """What the sample of this number holds: no two of them agree in any stretch of it."""
    return np.random.default_rng(number).integers(0, 256, size, np.uint8)


def read(begun, item):
    number, size = item
    with begun.open("ab") as file:
        file.write(b"x")
    if number % 7 == 0:
        time.sleep(0.002)
    return {"number": number, "data": content(number, size), "half": content(-number - 1 & 0xFFFF, size // 2)}


def check(results: Any, items):
    if isinstance(results, Stacked):
        assert results.size == len(items)
        value = results.value
        results = [{key: value[key][place] for key in value} for place in range(len(items))]
    if isinstance(results, Ragged):
        results = results.items()
    for result in results:
        if isinstance(result, Raised):
            raise result.exception
    assert [int(result["number"]) for result in results] == [number for number, _ in items]
    for result, (number, size) in zip(results, items, strict=True):
        assert np.array_equal(np.asarray(result["data"]), content(number, size)), f"sample {number} is damaged"
        assert np.array_equal(np.asarray(result["half"]), content(-number - 1 & 0xFFFF, size // 2))


class Killer(threading.Thread):
    """Kills workers of a pool, one after the other, until it is told to end."""

    def __init__(self, pool: WorkerPool, begun: Path, seed: int, pause: float) -> None:
        super().__init__(daemon=True)
        self._begun = begun
        self._pool, self._draw, self._pause = pool, random.Random(seed), pause
        self._end = threading.Event()
        self.killed: set[int] = set()

    def run(self):
        begun, killed = -1, 0
        while not self._end.wait(self._draw.uniform(0, self._pause)):
            before, begun = begun, self._begun.stat().st_size
            killed = 0 if begun > before else killed
            if killed == KILLS_WITHOUT_WORK:
                continue
            try:
                pids = set(self._pool.pids) - self.killed
            except RuntimeError:  # they change while they are listed
                continue
            if pids:
                victim = self._draw.choice(sorted(pids))
                os.kill(
                    victim, signal.SIGKILL
                )  # not waited for: its number is not free before the parent has buried it
                self.killed.add(victim)
                killed += 1

    def end(self):
        self._end.set()
        self.join()


def batches(draw, count):
    """Jobs of mixed sizes: some of one size, as stacked ones have to be, others of all."""
    numbers = iter(range(1, 1_000_000))
    made = []
    for _ in range(count):
        size = draw.choice([TINY, TINY, MIDDLE, MIDDLE, LARGE, None])
        length = draw.randrange(1, 12) if size in (LARGE, None) else draw.randrange(1, 40)
        made.append([(next(numbers), size or draw.choice([TINY, MIDDLE, LARGE])) for _ in range(length)])
    return made


def one_round(pool: WorkerPool, draw: random.Random) -> int:
    """Some jobs at once, collected in any order; returns how many items they had."""
    parts = batches(draw, 8)
    jobs = [(part, pool.submit(0, part, stack=draw.random() < 0.5)) for part in parts]
    for part, job in draw.sample(jobs, len(jobs)):
        check(pool.collect(job, timeout=STALLED), part)
    return sum(map(len, parts))


def run(pool: WorkerPool, begun: Path, seed: int, kills: int, pause=0.05) -> int:
    """Work under fire until at least so many workers were killed; returns how many there were."""
    draw = random.Random(seed)
    before = pool.statistics()
    killer = Killer(pool, begun, seed, pause)
    killer.start()
    items = 0
    try:
        while len(killer.killed) < kills:
            items += one_round(pool, draw)
    finally:
        killer.end()
    assert all_gone(list(killer.killed))

    def buried() -> bool:
        pool.start()
        return pool.statistics().deaths - before.deaths == len(killer.killed)

    assert wait_until(buried)  # the zygote has to tell of its children first, for which a busy machine takes its time
    check(pool.collect(pool.submit(0, [(1, TINY)])), [(1, TINY)])
    after = pool.statistics()
    assert after.items - before.items == items + 1
    assert after.deaths - before.deaths == len(killer.killed) >= kills  # none counts twice
    assert len(pool.pids) == pool.num_workers
    assert after.bytes_in_use == 0
    return len(killer.killed)


@pytest.mark.parametrize("workers", [2, 4])
def test_nothing_is_lost_or_damaged_while_workers_are_killed(make_pool, begun, workers):
    pool = make_pool(partial(read, begun), workers=workers, on_worker_death="restart", tries=TRIES, bytes_per_item=4096)
    run(pool, begun, workers, 20)
    assert pool.statistics().restarts >= 15


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "zygote"])
@pytest.mark.parametrize(("workers", "limit"), [(2, None), (3, 1 << 20), (4, None)])
def test_many_more_kills(make_pool, begun, method, workers, limit):
    pool = make_pool(
        partial(read, begun),
        workers=workers,
        start_method=method,
        on_worker_death="restart",
        tries=TRIES,
        bytes_per_item=4096,
        memory_limit=limit,
    )
    assert run(pool, begun, 1, 20) >= 20
    assert pool.statistics().deaths >= 20
    assert pool.statistics().copied_bytes > 0


def test_a_descriptor_is_not_lost_with_each_kill(make_pool, begun):
    pool = make_pool(partial(read, begun), on_worker_death="restart", tries=TRIES, bytes_per_item=4096)
    run(pool, begun, 5, 3)
    before = len(os.listdir("/proc/self/fd"))
    run(pool, begun, 6, 10)
    assert len(os.listdir("/proc/self/fd")) <= before

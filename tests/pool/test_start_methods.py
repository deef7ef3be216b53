"""Whatever way workers are started, they do the same."""

import multiprocessing
import os
import random
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch

from tests.pool.support import all_gone, same
from torchdali.errors import WorkerDiedError, WorkerTraceback
from torchdali.pool import Raised, Stacked, WorkerPool, worker_info

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore:.*workers? :RuntimeWarning")]

METHODS = [
    "fork",
    "zygote",
    pytest.param("spawn", marks=pytest.mark.slow),
    pytest.param("forkserver", marks=pytest.mark.slow),
]


class Unreadable(Exception):
    def __init__(self, path, code):
        super().__init__(f"{path}: {code}")
        self.path, self.code = path, code


def at_module_level(item):
    return -item


def sample(item):
    """Results of mixed sizes, after mixed times."""
    draw = random.Random(item)
    if item % 9 == 0:
        time.sleep(0.003)
    size = draw.choice([1, 100, 30_000, 400_000])
    return item, np.full(size, item % 251, np.uint8), torch.full((size // 4,), float(item))


def is_sample(result, item):
    number, array, tensor = result
    return (
        number == item
        and same(array, np.full(array.size, item % 251, np.uint8))
        and same(tensor, torch.full((array.size // 4,), float(item)))
    )


@pytest.mark.parametrize("method", METHODS)
def test_work_is_done_in_order_with_every_method(make_pool, method):
    offset = 7

    def local(item):
        return item + offset

    def failing(item):
        if item == 3:
            raise Unreadable("a.jpg", item)
        return item

    def which(item):
        info = worker_info()
        assert info is not None
        return info.id, os.getpid()

    pool = make_pool(
        at_module_level,
        local,
        sample,
        failing,
        which,
        lambda item: {"x": np.full(3000, item)},
        start_method=method,
        name="reading",
    )
    pids = pool.pids
    # one task, none, many; of functions from anywhere
    assert pool.collect(pool.submit(0, [4])) == [-4]
    assert pool.collect(pool.submit(0, [])) == []
    assert pool.collect(pool.submit(1, range(1000))) == list(range(7, 1007))
    jobs = [(first, pool.submit(2, range(first, first + 40))) for first in range(0, 400, 40)]
    kept = []
    for first, job in random.Random(1).sample(jobs, len(jobs)):
        results = pool.collect(job)
        assert all(is_sample(result, first + place) for place, result in enumerate(results))
        kept.append((first, results))
    # exceptions
    results = pool.collect(pool.submit(3, range(6)))
    assert results[:3] + results[4:] == [0, 1, 2, 4, 5]
    error = results[3].exception
    assert type(error) is Unreadable
    assert (error.path, error.code, str(error)) == ("a.jpg", 3, "a.jpg: 3")
    assert type(error.__cause__) is WorkerTraceback
    assert "in failing" in str(error.__cause__)
    assert "of reading, for 3" in str(error.__cause__).splitlines()[0]
    # who they are
    assert set(pool.collect(pool.submit(4, range(40)))) <= set(enumerate(pids))
    # stacked
    for start in range(0, 80, 8):
        stacked = pool.collect(pool.submit(5, range(start, start + 8), stack=True))
    assert isinstance(stacked, Stacked)
    assert same(np.asarray(stacked.value["x"]), np.repeat(np.arange(72, 80), 3000).reshape(8, 3000))
    # what was kept is still what it was
    for first, results in kept:
        assert all(is_sample(result, first + place) for place, result in enumerate(results))
    assert pool.pids == pids
    pool.close()
    assert all_gone(pids, 0)
    assert all(is_sample(result, first + place) for place, result in enumerate(kept[0][1]) for first in [kept[0][0]])


@pytest.mark.parametrize("method", METHODS)
def test_the_dead_are_told_of_and_replaced_with_every_method(make_pool, method):
    def call(item):
        if item == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(5)
        return item

    def initialize(index):
        os.environ["TORCHDALI_TEST_INDEX"] = str(index)

    pool = make_pool(
        call,
        lambda item: (worker_info().id, os.environ["TORCHDALI_TEST_INDEX"]),  # type: ignore[union-attr]
        start_method=method,
        on_worker_death="restart",
        tries=1,
        initialize=initialize,
    )
    before = pool.pids
    results = pool.collect(pool.submit(0, [0, 1, "kill", 3, 4]))
    assert results[:2] + results[3:] == [0, 1, 3, 4]
    assert isinstance(results[2], Raised)
    error = results[2].exception
    assert isinstance(error, WorkerDiedError)
    assert error.exitcode == -signal.SIGKILL
    assert error.pid == before[error.worker]
    assert len(pool.pids) == 2
    assert set(pool.collect(pool.submit(1, range(60)))) <= {(0, "0"), (1, "1")}
    pids = pool.pids
    assert set(before) - set(pids) == {error.pid}
    pool.close()
    assert all_gone([*before, *pids], 0)


@pytest.mark.parametrize("method", METHODS)
def test_many_pools_at_once_with_every_method(make_pool, method):
    count = 5 if method in ("fork", "zygote") else 2
    pools = [
        make_pool(lambda item, shift=shift: np.full(2000, item + shift), workers=1 + shift % 2, start_method=method)
        for shift in range(count)
    ]
    jobs = [[pool.submit(0, range(start, start + 20)) for start in (0, 100)] for pool in pools]
    for shift in reversed(range(count)):
        for start, job in zip((0, 100), jobs[shift], strict=True):
            results = pools[shift].collect(job)
            assert [(array.min(), array.max()) for array in results] == [
                (n + shift,) * 2 for n in range(start, start + 20)
            ]
        pools[shift].close()


@pytest.mark.slow
def test_a_context_of_multiprocessing_is_a_method_too(make_pool):
    for name in ("fork", "spawn"):
        pool = make_pool(at_module_level, start_method=multiprocessing.get_context(name))
        assert pool.collect(pool.submit(0, range(5))) == [0, -1, -2, -3, -4]


@pytest.mark.slow
def test_a_spawned_worker_ends_with_its_parent(program, tmp_path):
    running = program(
        """
import json, os, time
import torchdali.pool
if __name__ == "__main__":
    pool = torchdali.pool.WorkerPool([time.sleep], 2, start_method="spawn")
    pool.start()
    assert pool.collect(pool.submit(0, [0])) == [None]
    pool.submit(0, [100] * 4)
    print(json.dumps(pool.pids), flush=True)
    time.sleep(100)
"""
    )
    pids = running.line(seconds=40)
    running.signal(signal.SIGKILL)
    running.wait()
    assert all_gone(pids)


@pytest.mark.parametrize("method", ["thread", "", None, 3])
def test_a_method_that_there_is_not_is_named(method):
    with pytest.raises(ValueError, match=f"start_method is {method!r}"):
        WorkerPool([len], 1, start_method=method)


@pytest.mark.parametrize("default", ["spawn", "forkserver"])
def test_the_default_of_multiprocessing_does_not_matter(program, default):
    running = program(
        f"""
        import multiprocessing
        multiprocessing.set_start_method({default!r})
        from torchdali.pool import WorkerPool
        inherited = (value for value in "cannot be pickled")
        with WorkerPool([lambda item: next(inherited) + item], 1) as pool:
            print(pool.collect(pool.submit(0, ["!"])), flush=True)
        """,
        abrupt=True,
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.strip() == "['c!']"


class Slow:
    """Takes a while to be pickled, which a queue does in a thread of its own."""

    def __reduce__(self):
        time.sleep(0.2)
        return int, (7,)


def put(queue, item):
    queue.put(Slow())
    return item


@pytest.mark.slow
def test_what_a_spawned_worker_has_put_into_a_queue_arrives_although_it_ends(make_pool):
    queue = multiprocessing.get_context("spawn").Queue()
    pool = make_pool(partial(put, queue), workers=1, start_method="spawn")
    assert pool.collect(pool.submit(0, range(1))) == [0]
    pool.close()
    assert queue.get(timeout=5) == 7
    queue.close()
    queue.join_thread()

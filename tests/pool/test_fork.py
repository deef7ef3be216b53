"""A user's own fork: the child leaves its parent's pool alone, and is told so."""

import os

import pytest

from tests.pool.support import alive, all_gone

START = """
import json, os, sys, time
import numpy
from torchdali.pool import WorkerPool

def say(value):
    print(json.dumps(value), flush=True)

def attempt(call):
    try:
        return repr(call())
    except Exception as error:
        return f"{type(error).__name__}: {error}"

pool = WorkerPool([lambda item: numpy.full(5000, item)], 2)
pool.start()
job = pool.submit(0, [1, 2])

def works():
    results = [int(array[0]) for array in pool.collect(pool.submit(0, range(20)))]
    return results == list(range(20)) and pool.statistics().deaths == 0

def wait_for(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.mark.parametrize(
    "end",
    ["os._exit(0)", "pass", "sys.exit(0)", "pool.close()", "del pool, job"],
    ids=["at once", "as a program ends", "sys.exit", "after close", "after the pool is garbage"],
)
def test_a_child_of_the_user_ends_without_disturbing_the_pool(program, end):
    running = program(
        START
        + f"""
pid = os.fork()
if pid == 0:
    {end}
else:
    say(wait_for(pid))
    time.sleep(0.1)  # a signal to the workers would have come by now
    say([works(), pool.pids])
    pool.close()
    os._exit(0)
"""
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert running.line(0) == 0
    working, pids = running.line(1)
    assert working
    assert len(pids) == 2
    assert all_gone(pids, 0)


def test_the_pool_of_the_parent_says_in_a_child_whose_it_is(program):
    running = program(
        START
        + """
kept = pool.collect(pool.submit(0, [7]))
job = pool.submit(0, range(5))
pid = os.fork()
if pid == 0:
    say([
        attempt(lambda: pool.submit(0, [1])),
        attempt(lambda: pool.collect(job)),
        attempt(lambda: pool.start()),
        pool.started,
        pool.pids,
        int(kept[0].sum()),
    ])
    os._exit(0)
say(wait_for(pid))
say(works())
""",
        abrupt=True,
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    submit, collect, start, started, pids, kept = running.line(0)
    for answer in (submit, collect, start):
        assert answer.startswith("RuntimeError: pool ")
        assert "forked" in answer
    assert (started, pids, kept) == (False, [], 35000)
    assert running.line(1) == 0
    assert running.line(2) is True


def test_a_child_may_have_a_pool_of_its_own(program):
    running = program(
        START
        + """
pid = os.fork()
if pid == 0:
    with WorkerPool([lambda item: -item], 2) as own:
        say([own.collect(own.submit(0, [1, 2])), own.pids])
    os._exit(0)
say(wait_for(pid))
say([works(), pool.pids])
""",
        abrupt=True,
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    results, pids = running.line(0)
    assert results == [-1, -2]
    assert all_gone(pids)
    assert running.line(1) == 0
    assert running.line(2)[0] is True
    assert all_gone(running.line(2)[1])


def test_workers_end_with_their_parent_though_a_child_of_it_lives_on(program):
    running = program(
        START
        + """
pid = os.fork()
if pid == 0:
    time.sleep(100)
say([pid, pool.pids])
os._exit(0)
""",
        abrupt=True,
    )
    child, pids = running.line(0)
    try:
        assert running.wait().code == 0
        assert all_gone(pids)
        assert alive(child)
    finally:
        os.kill(child, 9)


def test_workers_of_another_thread_end_with_their_parent_though_a_child_of_it_lives_on(program):
    """No death signal of the kernel here: the end of the channel alone has to be seen, and the child must not hold it."""
    running = program(
        START
        + """
import threading
other = WorkerPool([lambda item: time.sleep(100)], 2)
thread = threading.Thread(target=other.start)
thread.start()
thread.join()
other.submit(0, [0, 0])
pid = os.fork()
if pid == 0:
    time.sleep(100)
say([pid, other.pids])
os._exit(0)
""",
        abrupt=True,
    )
    child, pids = running.line(0)
    try:
        assert running.wait().code == 0
        assert all_gone(pids)
    finally:
        os.kill(child, 9)


def test_children_of_multiprocessing_leave_the_pool_alone(program):
    running = program(
        START
        + """
import multiprocessing
context = multiprocessing.get_context("fork")
process = context.Process(target=lambda: say(attempt(lambda: pool.submit(0, [1]))))
process.start()
process.join()
say([process.exitcode, works()])
""",
        abrupt=True,
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert "RuntimeError" in running.line(0)
    assert running.line(1) == [0, True]


def test_a_worker_may_fork(make_pool):
    def call(item):
        pid = os.fork()
        if pid == 0:
            os._exit(item)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    pool = make_pool(call)
    assert pool.collect(pool.submit(0, range(6))) == list(range(6))
    assert pool.statistics().deaths == 0

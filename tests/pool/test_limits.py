"""Little room: few descriptors, no files in /dev/shm, little address space, no privileges."""

import os

import pytest

START = """
import json, os, resource, sys, time, warnings
warnings.simplefilter("ignore")  # that results are copied from here on
import numpy
from torchdali.pool import Raised, WorkerPool

def say(value):
    print(json.dumps(value), flush=True)

def unprivileged():
    '''As most users are: the kernel counts the descriptors that are under way.'''
    with WorkerPool([str], 1):
        pass  # imports what may not be readable later
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

def limit(what, number):
    resource.setrlimit(what, (number, number))

def results(pool, items):
    found = pool.collect(pool.submit(0, items))
    failed = [repr(result) for result in found if isinstance(result, Raised)]
    return failed or [len(result) for result in found]
"""


def test_64_descriptors_are_enough(program):
    running = program(
        START
        + """
limit(resource.RLIMIT_NOFILE, 64)
with WorkerPool([lambda item: bytes(item)], 8, memory_limit=4096) as pool:
    for size in (10, 60_000, 3_000_000):
        say(results(pool, [size] * 50) == [size] * 50)
    say(pool.statistics().copied_bytes > 0)
""",
        abrupt=True,
    )
    ended = running.wait(30)
    assert (ended.code, ended.err) == (0, "")
    assert [running.line(number) for number in range(4)] == [True] * 4


@pytest.mark.parametrize("privileged", [True, False])
def test_many_large_tasks_wait_for_room_where_descriptors_are_few(program, privileged):
    running = program(
        START
        + f"""
{"" if privileged else "unprivileged()"}
limit(resource.RLIMIT_NOFILE, 64)
def slow(item):
    time.sleep(0.004)
    return item
with WorkerPool([slow], 2) as pool:
    results(pool, [b"x"] * 10)  # items are slow: one a task from now on
    say(results(pool, [bytes(60_000)] * 200) == [60_000] * 200)
""",
        abrupt=True,
    )
    ended = running.wait(30)
    assert (ended.code, ended.err) == (0, "")
    assert running.line() is True


@pytest.mark.slow
def test_many_large_results_wait_for_room_where_descriptors_are_few(program):
    running = program(
        START
        + """
unprivileged()
limit(resource.RLIMIT_NOFILE, 64)
def slow(item):
    time.sleep(0.004)
    return bytes(30_000)
with WorkerPool([slow], 2, memory_limit=4096) as pool:
    results(pool, range(10))
    job = pool.submit(0, range(200))
    time.sleep(3)  # nobody takes results meanwhile
    found = pool.collect(job)
    failed = {repr(result) for result in found if isinstance(result, Raised)}
    say(sorted(failed) or {len(result) for result in found} == {30_000})
""",
        abrupt=True,
    )
    ended = running.wait(30)
    assert (ended.code, ended.err) == (0, "")
    assert running.line() is True


def test_nothing_is_put_into_dev_shm(make_pool):
    before = set(os.listdir("/dev/shm"))
    pool = make_pool(lambda item: bytes(200_000), memory_limit=1 << 20)
    jobs = [pool.submit(0, [bytes(100_000)] * 10) for _ in range(3)]
    assert set(os.listdir("/dev/shm")) == before
    assert [len(pool.collect(job)) for job in jobs] == [10] * 3
    assert set(os.listdir("/dev/shm")) == before


def test_an_address_space_that_is_limited_makes_the_arena_smaller(program):
    running = program(
        START
        + """
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit(resource.RLIMIT_AS, used + (600 << 20))
with WorkerPool([lambda item: bytes(item)], 2, memory_limit=64 << 30) as pool:
    say(results(pool, [100_000] * 20) == [100_000] * 20)
    say(pool._arena._memory.size < 1 << 30)
""",
        abrupt=True,
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert [running.line(number) for number in range(2)] == [True, True]


def test_a_result_for_which_there_is_no_memory_fails_alone(program):
    running = program(
        START
        + """
def call(item):
    if item == "huge":
        soft = resource.getrlimit(resource.RLIMIT_FSIZE)
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, soft[1]))  # a memory file may not become larger
        return bytes(3 << 20)
    return item
with WorkerPool([call], 2, memory_limit=4096) as pool:
    found = pool.collect(pool.submit(0, ["huge"]))
    say([isinstance(found[0], Raised) and isinstance(found[0].exception, OSError), pool.statistics().deaths])
    say(pool.collect(pool.submit(0, [1, 2, 3])))
""",
        abrupt=True,
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert running.line(0) == [True, 0]
    assert running.line(1) == [1, 2, 3]

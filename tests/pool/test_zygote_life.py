"""The zygote as a process: it holds nothing of its parent's, ends with it, and is nobody else's."""

import os
import signal
import time

import psutil
import pytest

from tests.pool.support import alive, all_gone, wait_until

pytestmark = pytest.mark.timeout(60)

START = """
import json, os, re, select, signal, sys, threading, time
import numpy
from torchdali.pool import WorkerPool
from torchdali.pool._zygote import living_zygote

def say(value):
    os.write(told, (json.dumps(value) + chr(10)).encode())

told = os.dup(1)

def body(item):
    if item == "sleep":
        time.sleep(100)
    if item == "busy":  # holds the interpreter: no thread of the worker gets to run
        re.match("(a+)+$", "a" * 60 + "b")
    return item

class Hook:
    forbids = False
    def __call__(self):
        if self.forbids:
            raise PermissionError("the parent must not be forked")

hook = Hook()

def new_pool(function=body, workers=2, **options):
    pool = WorkerPool([function], workers, before_fork=hook, **options)
    pool.start()
    return pool

def away(function=body, workers=2, **options):
    '''A pool whose workers the zygote forks.'''
    new_pool().close()
    hook.forbids = True
    pool = new_pool(function, workers, **options)
    hook.forbids = False
    return pool

def works(pool):
    return pool.collect(pool.submit(0, range(20)), timeout=10) == list(range(20))

def wait_for(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

STARTED = START + "pool = away()\nassert works(pool)\nsay([living_zygote().pid, *pool.pids])\n"
FOREVER = "say(0)\ntime.sleep(100)\n"


def descriptors(pid):
    """What a process has open."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")  # noqa: PTH115
        except FileNotFoundError:
            continue
    return found


# --- what it holds ------------------------------------------------------------------------------------------------------


def test_it_is_one_thread_and_holds_no_descriptor_of_its_parents(program):
    running = program(
        START
        + """
reader, writer = os.pipe()
other = WorkerPool([body], 2)
other.start()
mine = {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{name}")}
pool = away()
assert works(pool) and works(other)
say([living_zygote().pid, pool.pids, sorted(mine)])
other.close()
os.close(writer)
poll = select.poll()
poll.register(reader, select.POLLIN)
say(bool(poll.poll(5000)) and os.read(reader, 1) == b"")
time.sleep(100)
"""
    )
    zygote, pids, its_parents = running.line(0)
    assert psutil.Process(zygote).num_threads() == 1
    held = set(descriptors(zygote).values()) - {"/dev/null"}
    assert not held & set(its_parents), held
    assert all(name.startswith(("socket:", "pipe:")) for name in held)
    assert running.line(1), "the pipe did not end: somebody holds its writing end"
    assert not all_gone(pids, 0)


def test_it_holds_no_memory_of_pools_that_are_closed(program):
    """Shared memory is free when its pool is gone, though others were forked while it was there."""
    running = program(
        START
        + """
import gc

def shared():
    return int(re.search(r"Shmem: *([0-9]+) kB", open("/proc/meminfo").read())[1]) >> 10

first = WorkerPool([lambda item: numpy.ones(item, numpy.uint8)], 1)
first.start()
empty = shared()
kept = [first.collect(first.submit(0, [100 << 20])) for _ in range(4)]
full = shared()
pool = away(workers=1)
other = WorkerPool([body], 1)
other.start()
first.close()
del first, kept
gc.collect()
deadline = time.monotonic() + 5
while shared() > empty + 150 and time.monotonic() < deadline:
    time.sleep(0.01)
say([empty, full, shared(), works(pool), works(other)])
""",
        abrupt=True,
    )
    empty, full, after, *working = running.line()
    assert working == [True, True]
    assert full > empty + 250
    assert after < empty + 150


@pytest.mark.parametrize("closed", ["sys.stdout.close()", "os.close(1)", "[os.close(fd) for fd in (0, 1)]"])
def test_workers_start_and_go_on_where_the_parent_has_closed_its_output(program, closed):
    """A descriptor that is free is the next to be given out: nothing of the pool's may become somebody's output."""
    running = program(
        START
        + f"""
{closed}

def call(item):
    try:
        os.write(1, b"into nothing")
    except OSError:
        pass
    return item

for options in ({{}}, {{"start_method": "zygote"}}):
    for _ in range(3):
        pool = away(call, **options)
        assert works(pool)
        pool.close()
forked = WorkerPool([call], 2)
forked.start()
assert works(forked)
say([living_zygote() is not None, living_zygote().alive])
""",
        abrupt=True,
    )
    ended = running.wait()
    assert ended.code == 0, ended.err
    assert ended.out.endswith("[true, true]\n")


def test_what_the_parent_had_not_yet_printed_is_printed_once(program):
    running = program(
        START
        + """
sys.stdout = open(1, "w", buffering=8192, closefd=False)  # whatever the environment says of buffering
print("once")
pool = away()
assert works(pool)
pool.close()
"""
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("once") == 1


# --- its end ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code", "traceback", "work"),
    [
        ("pass", 0, "", "idle"),
        ("pass", 0, "", "sleep"),
        ("pool.close()", 0, "", "idle"),
        ("sys.exit(3)", 3, "", "sleep"),
        ("os._exit(7)", 7, "", "sleep"),
        ("raise LookupError('the end')", 1, "LookupError: the end", "sleep"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "", "idle"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "", "sleep"),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, "", "sleep"),
        ("del pool", 0, "", "idle"),
    ],
)
def test_however_its_parent_ends_it_ends_too_and_so_do_its_workers(program, end, code, traceback, work):
    queue = "" if work == "idle" else "job = pool.submit(0, ['sleep'] * 4)\ntime.sleep(0.1)\n"
    running = program(STARTED + queue + end + "\n")
    pids = running.line()
    ended = running.wait()
    assert ended.code == code
    assert ended.err.count("Traceback") == bool(traceback)
    assert ended.err.strip().endswith(traceback)
    assert traceback or ended.err == ""
    assert len(pids) == 3
    assert all_gone(pids)


def test_workers_that_hold_the_interpreter_end_too(program):
    running = program(STARTED + "pool.submit(0, ['busy'] * 4)\ntime.sleep(0.1)\n" + FOREVER)
    pids = running.line()
    assert running.line(1) == 0
    running.signal(signal.SIGKILL)
    running.wait()
    assert all_gone(pids)


@pytest.mark.parametrize("whole_group", [False, True])
def test_ctrl_c_shows_one_traceback_and_ends_all(program, whole_group):
    running = program(STARTED + "job = pool.submit(0, ['sleep'] * 4)\nsay(0)\npool.collect(job)\n")
    pids = running.line()
    assert running.line(1) == 0
    (os.killpg if whole_group else os.kill)(running.pid, signal.SIGINT)
    ended = running.wait()
    assert ended.code in (-signal.SIGINT, 1)
    assert ended.err.count("Traceback") == 1
    assert "KeyboardInterrupt" in ended.err
    assert all_gone(pids)


def test_ctrl_c_that_is_caught_disturbs_neither_zygote_nor_workers(program):
    running = program(
        STARTED
        + """
for _ in range(5):
    try:
        os.killpg(0, signal.SIGINT)
        time.sleep(1)
    except KeyboardInterrupt:
        pass
    assert works(pool)
say([living_zygote().pid, *pool.pids])
""",
        abrupt=True,
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert running.line(1) == running.line(0)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_zygote_that_another_thread_started_outlives_the_thread_and_ends_with_the_parent(program, end):
    running = program(
        START
        + """
made = []
thread = threading.Thread(target=lambda: made.append(away()))
thread.start()
thread.join()
time.sleep(0.1)
assert works(made[0])
made[0].submit(0, ["sleep"] * 4)
say([living_zygote().pid, *made[0].pids])
time.sleep(100)
"""
    )
    pids = running.line()
    running.signal(end)
    running.wait()
    assert all_gone(pids)


def test_a_stopped_zygote_ends_with_its_parent(program):
    running = program(STARTED + FOREVER)
    pids = running.line()
    os.kill(pids[0], signal.SIGSTOP)
    running.signal(signal.SIGKILL)
    running.wait()
    assert all_gone(pids)


# --- whose it is --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["os._exit(0)", "pass"])
def test_a_child_of_the_parent_neither_uses_nor_ends_it(program, end):
    running = program(
        STARTED
        + f"""
pid = os.fork()
if pid == 0:
    mine = living_zygote()
    own = away()
    say([mine is None, living_zygote().pid, *own.pids, works(own)])
    {end}
else:
    say(wait_for(pid))
    time.sleep(0.2)  # a signal to the parent's would have come by now
    say([living_zygote().pid, *pool.pids, works(pool)])
    hook.forbids = True
    again = new_pool()
    say(works(again))
    pool.close()
    again.close()
    os._exit(0)
"""
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    zygote, *pids = running.line(0)
    none, its_own, *its_workers, worked = running.line(1)
    assert none
    assert worked
    assert its_own != zygote
    assert running.line(2) == 0
    assert running.line(3) == [zygote, *pids, True]
    assert running.line(4) is True
    assert all_gone([its_own, *its_workers, zygote, *pids])


def test_it_ends_with_its_parent_though_a_child_of_that_lives_on(program):
    running = program(
        STARTED
        + """
pid = os.fork()
if pid == 0:
    time.sleep(100)
say(pid)
os._exit(0)
"""
    )
    pids, child = running.line(0), running.line(1)
    try:
        running.wait()
        assert all_gone(pids)
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_it_is_started_once_however_many_pools_there_are(program):
    running = program(
        START
        + """
pools = [away() for _ in range(4)]
assert all(map(works, pools))
say([living_zygote().pid, *[pid for pool in pools for pid in pool.pids]])
time.sleep(100)
"""
    )
    zygote, *pids = running.line()
    assert len(set(pids)) == 8
    assert {psutil.Process(pid).ppid() for pid in pids} == {zygote}
    assert [child.pid for child in psutil.Process(running.pid).children()] == [zygote]


def test_it_does_not_collect_dead_workers(program):
    running = program(
        STARTED
        + """
for _ in range(10):
    away().close()
say(0)
time.sleep(100)
"""
    )
    zygote, *pids = running.line(0)
    assert running.line(1) == 0
    assert wait_until(lambda: sorted(child.pid for child in psutil.Process(zygote).children()) == sorted(pids))
    before = len(descriptors(zygote))
    time.sleep(0.01)
    assert len(descriptors(zygote)) == before

"""However a program ends, its workers end with it, and nothing is printed that does not belong there."""

import gc
import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from tests.pool.support import BOUND, Tally, all_gone, wait_until
from torchdali.pool import WorkerPool

START = """
import json, os, re, signal, sys, threading, time
from torchdali.pool import WorkerPool

def say(value):
    print(json.dumps(value), flush=True)

def body(item):
    if item == "sleep":
        time.sleep(100)
    if item == "busy":  # holds the interpreter: no thread of the worker gets to run
        re.match("(a+)+$", "a" * 60 + "b")
    return item

pool = WorkerPool([body], 2)
"""
STARTED = START + "pool.start()\nassert pool.collect(pool.submit(0, [1, 2, 3])) == [1, 2, 3]\nsay(pool.pids)\n"
FOREVER = STARTED + "time.sleep(100)\n"


def test_close_ends_the_workers(make_pool):
    pool = make_pool(lambda item: item, workers=3)
    pids = pool.pids
    assert len(set(pids)) == 3
    assert not all_gone(pids, 0)
    pool.close()
    assert all_gone(pids, 0)
    assert pool.pids == []


def test_close_may_be_called_twice(make_pool):
    pool = make_pool(lambda item: item)
    pool.close()
    pool.close()


def test_a_with_block_ends_the_workers_also_after_an_exception():
    pids: list[int] = []

    def use():
        with WorkerPool([lambda item: item], 2) as pool:
            pids.extend(pool.pids)
            raise KeyError("from the block")

    with pytest.raises(KeyError, match="from the block"):
        use()
    assert len(pids) == 2
    assert all_gone(pids, 0)


def test_close_does_not_wait_for_work_that_is_queued_or_in_hand(make_pool):
    begun = Tally(1)

    def sleep_long(item):
        begun.add(0)
        time.sleep(100)

    pool = make_pool(sleep_long)
    pool.submit(0, range(1000))
    assert begun.wait(0)
    pids = pool.pids
    pool.close()
    assert all_gone(pids, 0)


def test_what_is_queued_is_not_begun_after_close(make_pool):
    calls = Tally(50)

    def call(item):
        calls.add(item)
        time.sleep(0.05)

    pool = make_pool(call, workers=1)
    jobs = [pool.submit(0, [number]) for number in range(50)]
    assert calls.wait(0)
    pool.close()
    assert calls.counts(50) == [1] + [0] * 49
    assert len(jobs) == 50


def test_close_ends_a_worker_that_is_stopped(make_pool):
    pool = make_pool(lambda item: item)
    pids = pool.pids
    os.kill(pids[0], signal.SIGSTOP)
    pool.close()
    assert all_gone(pids, 0)


def test_close_ends_workers_that_are_blocked_by_results_nobody_takes(make_pool):
    pool = make_pool(lambda item: bytes(20_000))
    jobs = [pool.submit(0, [0]) for _ in range(300)]
    pids = pool.pids
    pool.close()
    assert all_gone(pids, 0)
    assert len(jobs) == 300


def test_a_pool_that_is_collected_as_garbage_ends_its_workers():
    pool = WorkerPool([lambda item: item], 2)
    pool.start()
    job = pool.submit(0, [1, 2])
    assert pool.collect(job) == [1, 2]
    pids, alive = pool.pids, weakref.ref(pool)
    del pool
    gc.collect()
    assert alive() is None
    assert all_gone(pids)


def test_a_pool_in_a_reference_cycle_with_its_functions_ends_too():
    class Owner:
        def __init__(self):
            self.pool = WorkerPool([self.double], 2)
            self.pool.start()

        def double(self, item):
            return 2 * item

    owner = Owner()
    assert owner.pool.collect(owner.pool.submit(0, [4])) == [8]
    pids = owner.pool.pids
    del owner
    gc.collect()
    assert all_gone(pids)


def test_a_program_that_never_closes_its_pool_ends_in_silence(program):
    running = program(STARTED)
    pids = running.line()
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert len(pids) == 2
    assert all_gone(pids)


@pytest.mark.slow
def test_a_new_interpreter_that_never_closes_its_pool_ends_in_silence(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(STARTED)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert all_gone([int(pid) for pid in ended.stdout.strip("[]\n").split(",")])


def test_a_program_that_ends_with_work_in_hand_ends_in_silence(program):
    running = program(STARTED + "job = pool.submit(0, ['sleep'] * 50)\ntime.sleep(0.05)\n")
    pids = running.line()
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert all_gone(pids)


def test_a_program_that_ends_while_it_holds_results_ends_in_silence(program):
    running = program(
        START
        + """
import numpy, torch
pool = WorkerPool([lambda item: (numpy.zeros(100_000), torch.zeros(100_000))], 2)
pool.start()
kept = [pool.collect(pool.submit(0, range(10))) for _ in range(3)]
say(pool.pids)
"""
    )
    pids = running.line()
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert all_gone(pids)


def test_a_program_that_ends_by_an_exception_shows_that_one_alone(program):
    running = program(STARTED + "raise LookupError('the end')\n")
    pids = running.line()
    ended = running.wait()
    assert ended.code == 1
    assert ended.err.count("Traceback") == 1
    assert ended.err.endswith("LookupError: the end\n")
    assert all_gone(pids)


def test_a_program_that_ends_by_os_exit_takes_its_workers_along(program):
    running = program(STARTED + "pool.submit(0, ['sleep', 'busy'])\ntime.sleep(0.1)\nos._exit(7)\n")
    pids = running.line()
    assert running.wait().code == 7
    assert all_gone(pids)


@pytest.mark.parametrize("work", ["idle", "sleep", "busy"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_their_parent_is_killed(program, number, work):
    queue = "" if work == "idle" else f"pool.submit(0, ['{work}'] * 4)\n"
    running = program(STARTED + queue + "time.sleep(0.1)\nsay(0)\ntime.sleep(100)\n")
    pids = running.line()
    assert running.line(1) == 0
    running.signal(number)
    ended = running.wait()
    assert (ended.code, ended.err) == (-number, "")
    assert all_gone(pids)


def test_workers_that_another_thread_started_end_when_the_program_is_killed(program):
    running = program(
        START
        + """
thread = threading.Thread(target=pool.start)
thread.start()
thread.join()
assert pool.collect(pool.submit(0, [1])) == [1]  # the end of the thread that forked them ends nobody
say(pool.pids)
pool.submit(0, ["sleep"] * 4)
time.sleep(100)
"""
    )
    pids = running.line()
    running.signal(signal.SIGKILL)
    running.wait()
    assert all_gone(pids)


@pytest.mark.parametrize("whole_group", [False, True])
def test_an_interrupted_program_shows_one_traceback_and_takes_its_workers_along(program, whole_group):
    running = program(STARTED + "job = pool.submit(0, ['sleep'] * 4)\nsay(0)\npool.collect(job)\n")
    pids = running.line()
    assert running.line(1) == 0
    (os.killpg if whole_group else os.kill)(running.pid, signal.SIGINT)
    ended = running.wait()
    assert ended.code in (-signal.SIGINT, 1)
    assert ended.err.count("Traceback") == 1
    assert "KeyboardInterrupt" in ended.err
    assert all_gone(pids)


def test_workers_ignore_ctrl_c(make_pool):
    pool = make_pool(lambda item: item)
    pids = pool.pids
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    assert pool.collect(pool.submit(0, range(50))) == list(range(50))
    assert pool.pids == pids
    assert pool.statistics().deaths == 0


def test_two_pools_are_independent_of_each_other(make_pool):
    first, second = make_pool(lambda item: item + 1), make_pool(lambda item: item + 2)
    assert first.collect(first.submit(0, [1])) == [2]
    first.close()
    assert second.collect(second.submit(0, [1])) == [3]
    third = make_pool(lambda item: item + 3)
    pids = second.pids
    second.close()
    assert all_gone(pids, 0)
    assert third.collect(third.submit(0, [1])) == [4]


def test_a_pool_leaves_no_descriptor_open():
    def count():
        return len(os.listdir("/proc/self/fd"))

    WorkerPool([lambda item: item], 2).close()
    before = count()
    for _ in range(3):
        with WorkerPool([lambda item: bytes(item)], 3, memory_limit=4096) as pool:
            assert [len(result) for result in pool.collect(pool.submit(0, [100_000] * 9))] == [100_000] * 9
        del pool
        gc.collect()
    assert wait_until(lambda: count() == before, BOUND), f"{count()} descriptors are open, before it was {before}"

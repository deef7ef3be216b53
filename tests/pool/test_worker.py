"""The process that a function is called in."""

import gc
import os
import signal
import sys
import threading

import pytest
import torch

from tests.pool.support import Tally
from torchdali.pool._child import describe_exit
from torchdali.pool._worker import describe_item


class Shy:
    def __repr__(self):
        raise LookupError("no")


def test_an_item_is_described_by_its_repr_as_far_as_that_is_short():
    assert describe_item(("a.jpg", 3)) == "('a.jpg', 3)"
    assert describe_item("x" * 198) == repr("x" * 198)
    assert len(describe_item("x" * 199)) == 200
    assert describe_item("x" * 199).endswith("x...")
    assert describe_item(Shy()) == "<Shy whose repr raises LookupError>"


@pytest.mark.parametrize(
    ("exitcode", "text"),
    [
        (None, "ended, how is not known (SIGCHLD is ignored, or somebody else waited for it)"),
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-signal.SIGKILL, "was killed by SIGKILL (by hand, or by the kernel because memory ran out)"),
        (-77, "was killed by signal 77"),
    ],
)
def test_an_exit_is_described_for_people(exitcode, text):
    assert describe_exit(exitcode) == text


def run(make_pool, function):
    pool = make_pool(function, workers=1)
    return pool.collect(pool.submit(0, [0]))[0]


def test_torch_uses_one_thread(make_pool):
    assert run(make_pool, lambda item: torch.get_num_threads()) == 1


def test_workers_do_not_preempt_their_parent_when_they_wake_up(make_pool):
    assert run(make_pool, lambda item: os.sched_getscheduler(0)) == os.SCHED_BATCH


def test_torch_computes_in_a_worker_after_it_has_computed_here(make_pool):
    torch.ones(500, 500) @ torch.ones(500, 500)
    assert run(make_pool, lambda item: float((torch.ones(500, 500) @ torch.ones(500, 500)).sum())) == 500.0**3


def test_the_handlers_of_the_parent_are_not_those_of_its_workers(make_pool):
    numbers = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD]
    previous = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        found = run(make_pool, lambda item: [signal.getsignal(number) for number in [*numbers, signal.SIGINT]])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert found == [signal.SIG_DFL] * 4 + [signal.SIG_IGN]


def test_a_worker_has_a_name_a_parent_and_a_pid_of_its_own(make_pool):
    import multiprocessing

    pool = make_pool(lambda item: (os.getpid(), os.getppid(), multiprocessing.current_process().name), name="reading")
    for pid, parent, name in pool.collect(pool.submit(0, range(10))):
        assert pid in pool.pids
        assert parent == os.getpid()
        assert name in ("torchdali-reading-0", "torchdali-reading-1")


def test_functions_are_inherited_and_need_not_be_pickled(make_pool):
    lock = threading.Lock()
    table = {"key": lambda number: number + 1}
    assert run(make_pool, lambda item: (lock.locked(), table["key"](1))) == (False, 2)


def test_a_change_made_before_the_start_is_seen_and_a_later_one_is_not(make_pool):
    state = {"value": 1}
    pool = make_pool(lambda item: state["value"])
    state["value"] = 2
    assert pool.collect(pool.submit(0, [0])) == [1]
    assert make_pool(lambda item: state["value"]).submit(0, [0])
    late = make_pool(lambda item: state["value"])
    assert late.collect(late.submit(0, [0])) == [2]


def test_a_worker_keeps_its_own_state_between_calls(make_pool):
    seen = []

    def call(item):
        seen.append(item)
        return list(seen)

    pool = make_pool(call, workers=1)
    assert pool.collect(pool.submit(0, [1, 2])) == [[1], [1, 2]]
    assert pool.collect(pool.submit(0, [3])) == [[1, 2, 3]]
    assert seen == []


def test_garbage_collection_works_in_a_worker(make_pool):
    class Cycle:
        pass

    def call(item):
        import weakref

        cycle = Cycle()
        cycle.itself = cycle  # type: ignore[attr-defined]
        alive = weakref.ref(cycle)
        del cycle
        gc.collect()
        return alive() is None, gc.isenabled()

    assert run(make_pool, call) == (True, gc.isenabled())


LET_GO = Tally(1)


class Watched:
    """Counts its deaths in other processes than the one it was made in."""

    def __init__(self):
        self.made_in = os.getpid()

    def __del__(self):
        if os.getpid() != self.made_in:
            LET_GO.add(0)


def test_an_item_is_let_go_once_its_result_is_sent(make_pool):
    LET_GO.clear()
    pool = make_pool(lambda item: 0, workers=1)
    pool.collect(pool.submit(0, [Watched()]))
    assert LET_GO.wait(0)


def test_output_of_a_worker_is_shown_once(program):
    ended = program("""
        import sys
        from torchdali.pool import WorkerPool

        print("before", end=" ")  # still in the buffer when the workers are forked
        with WorkerPool([lambda item: print("item", flush=True)], 3) as pool:
            pool.collect(pool.submit(0, [1]))
        print("after")
    """).wait()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.split() == ["before", "item", "after"]


def test_a_worker_that_starts_a_program_does_not_keep_it_open(make_pool):
    import subprocess

    def call(item):
        return subprocess.run(
            [sys.executable, "-S", "-c", f"print({item})"], capture_output=True, text=True, check=True
        ).stdout

    pool = make_pool(call)
    assert pool.collect(pool.submit(0, [1, 2])) == ["1\n", "2\n"]

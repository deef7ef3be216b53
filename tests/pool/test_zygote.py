"""Workers that the zygote forks: they know what the functions know, and see the parent as it is now."""

import collections
import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import torch

from tests.pool.file_tally import FileTally
from tests.pool.support import BOUND, Point, alive, all_gone, same, wait_until
from torchdali.errors import WorkerDiedError
from torchdali.pool import Raised, WorkerPool, worker_info
from torchdali.pool._zygote import living_zygote

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore:.*workers? :RuntimeWarning")]


class Hook:
    """A ``before_fork`` that forbids it once it is told to."""

    def __init__(self):
        self.forbids = False

    def __call__(self):
        if self.forbids:
            raise PermissionError("the parent must not be forked")


@pytest.fixture
def from_zygote(make_pool):
    """Makes pools whose workers the zygote has forked, since the parent must not be."""

    def make(*functions, **options):
        hook = Hook()
        with WorkerPool([len], 1, before_fork=hook, name="first"):
            pass
        hook.forbids = True
        pool = make_pool(*functions, before_fork=hook, **options)
        zygote = living_zygote()
        assert zygote is not None
        assert {psutil.Process(pid).ppid() for pid in pool.pids} == {zygote.pid}
        return pool

    return make


def only(pool, item) -> Any:
    (result,) = pool.collect(pool.submit(0, [item]))
    return result


# --- what functions and results may be --------------------------------------------------------------------------------


def test_functions_may_be_closures_lambdas_and_methods_of_local_objects(from_zygote):
    table = {"offset": 100}

    class Scale:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, item):
            return self.factor * item

        def shifted(self, item):
            return helper(self.factor * item)

    def helper(item):
        return item + table["offset"]

    pool = from_zygote(helper, lambda item: helper(item) + 1, Scale(3), Scale(5).shifted)
    answers = [pool.collect(pool.submit(number, range(20))) for number in range(4)]
    assert answers == [
        [item + 100 for item in range(20)],
        [item + 101 for item in range(20)],
        [3 * item for item in range(20)],
        [5 * item + 100 for item in range(20)],
    ]


def test_objects_of_local_classes_arrive_as_of_the_parents_own(from_zygote):
    class Sample:
        def __init__(self, number):
            self.number = number

    class Typed(NamedTuple):
        image: Any
        label: int

    pair = collections.namedtuple("pair", "left right")

    def call(item):
        return Sample(item), Typed(np.full(5000, item), item), pair(item, torch.full((3000,), item)), Point(item, 2)

    pool = from_zygote(call)
    for item, (sample, typed, both, point) in enumerate(pool.collect(pool.submit(0, range(6)))):
        assert (type(sample), sample.number) == (Sample, item)
        assert type(typed) is Typed
        assert same(typed.image, np.full(5000, item))
        assert type(both) is pair
        assert same(both.right, torch.full((3000,), item))
        assert type(point) is Point


def test_items_of_local_classes_arrive_whole(from_zygote):
    class Request:
        def __init__(self, number):
            self.number = number

    pool = from_zygote(lambda request: (request.number, request))
    requests = [Request(number) for number in range(5)]
    for number, (answer, again) in enumerate(pool.collect(pool.submit(0, requests))):
        assert (answer, type(again), again.number) == (number, Request, number)


def test_a_local_exception_arrives_as_the_parents_own_class(from_zygote):
    class Unreadable(Exception):
        def __init__(self, path, code):
            super().__init__(f"{path}: {code}")
            self.path, self.code = path, code

    def call(item):
        raise Unreadable(item, 7)

    error = only(from_zygote(call, name="reading"), "a.jpg").exception
    assert type(error) is Unreadable
    assert (error.path, error.code, str(error)) == ("a.jpg", 7, "a.jpg: 7")
    assert "in call" in str(error.__cause__)
    assert "of reading, for 'a.jpg'" in str(error.__cause__).splitlines()[0]


def test_what_cannot_be_pickled_is_named_and_no_worker_is_started(make_pool):
    hook = Hook()
    make_pool(len, before_fork=hook)
    hook.forbids = True
    lock = threading.Lock()
    pool = WorkerPool([lambda item: (item, lock)], 1, before_fork=hook, name="reading")
    with pytest.raises(RuntimeError, match="must not be forked.*workers of reading.*cannot be pickled"):
        pool.start()
    assert pool.pids == []
    pool.close()


def test_each_worker_knows_which_it_is_and_is_seeded(from_zygote):
    def call(item):
        time.sleep(0.002)
        info = worker_info()
        assert info is not None
        return info.id, info.num_workers, info.name, info.seed

    pool = from_zygote(call, workers=3, name="reading", seed=1)
    told = set(pool.collect(pool.submit(0, range(60))))
    assert {entry[:3] for entry in told} == {(index, 3, "reading") for index in range(3)}
    assert len({entry[3] for entry in told}) == 3
    again = from_zygote(call, workers=3, name="reading", seed=1)
    assert set(again.collect(again.submit(0, range(60)))) == told


# --- the parent as it is now --------------------------------------------------------------------------------------------


def test_what_workers_print_appears_where_the_parent_prints(from_zygote, capfd):
    def call(item):
        print(f"printed {item}")
        print(f"complained {item}", file=sys.stderr)
        os.write(1, f"written {item}\n".encode())

    pool = from_zygote(call, workers=1)
    pool.collect(pool.submit(0, [1, 2]))
    pool.close()  # which flushes what they have printed
    told = capfd.readouterr()
    assert sorted(told.out.splitlines()) == ["printed 1", "printed 2", "written 1", "written 2"]
    assert sorted(told.err.splitlines()) == ["complained 1", "complained 2"]


def test_directory_environment_path_and_arguments_are_the_current_ones(from_zygote, tmp_path, monkeypatch):
    def call(item):
        return Path.cwd(), os.environ.get("TORCHDALI_TEST_NEW"), "HOME" in os.environ, sys.path[0], sys.argv

    from_zygote(call)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHDALI_TEST_NEW", "ü = 1")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.syspath_prepend("/nowhere/at/all")
    monkeypatch.setattr(sys, "argv", ["script", "an argument"])
    answer = only(from_zygote(call), 0)
    assert answer == (tmp_path, "ü = 1", False, "/nowhere/at/all", ["script", "an argument"])


def test_a_directory_that_was_removed_stops_nobody(from_zygote, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert only(from_zygote(lambda item: item), 5) == 5


def test_modules_that_are_newer_than_the_zygote_can_be_imported(from_zygote, tmp_path, monkeypatch):
    from_zygote(len)
    (tmp_path / "newer_module.py").write_text("class Found(Exception): pass\ndef answer(item):\n    return item + 40\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import newer_module  # type: ignore[import-not-found]

    def call(item):
        import newer_module as again

        if item == 0:
            raise again.Found("here")
        return again.answer(item)

    try:
        assert only(from_zygote(newer_module.answer), 2) == 42
        pool = from_zygote(call)
        assert only(pool, 2) == 42
        assert type(only(pool, 0).exception) is newer_module.Found
    finally:
        del sys.modules["newer_module"]


# --- its death ------------------------------------------------------------------------------------------------------------


def test_when_the_zygote_is_killed_its_workers_die_and_the_pool_says_so(from_zygote, tmp_path):
    begun = FileTally(tmp_path / "begun", 1)

    def call(item):
        if item == "long":
            begun.add(0)
            time.sleep(100)
        return item

    pool = from_zygote(call)
    pids = pool.pids
    job = pool.submit(0, ["long"])
    assert begun.wait(0)
    zygote = living_zygote()
    assert zygote is not None
    os.kill(zygote.pid, signal.SIGKILL)
    assert all_gone(pids)
    (result,) = pool.collect(job, timeout=BOUND)
    assert isinstance(result, Raised)
    assert type(result.exception) is WorkerDiedError
    assert result.exception.pid in pids
    assert wait_until(lambda: pool.pids == [] or bool(refused(pool)))
    with pytest.raises(WorkerDiedError, match="no worker is left"):
        pool.submit(0, [1])
    assert living_zygote() is None
    with pytest.raises(PermissionError, match="must not be forked"):
        pool.start()


def refused(pool):
    try:
        pool.collect(pool.submit(0, [1]), timeout=BOUND)
    except WorkerDiedError:
        return True
    return False


def test_after_the_zygotes_death_the_next_start_of_a_clean_parent_makes_a_new_one(from_zygote, make_pool):
    pool = from_zygote(lambda item: -item)
    first = living_zygote()
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    assert all_gone([first.pid, *pool.pids])
    other = from_zygote(lambda item: item + 1)
    second = living_zygote()
    assert second is not None
    assert second.pid != first.pid
    assert other.collect(other.submit(0, range(10))) == list(range(1, 11))
    assert refused(pool) or wait_until(lambda: refused(pool))
    pool._before_fork.forbids = False
    pool.start()
    assert pool.collect(pool.submit(0, range(3))) == [0, -1, -2]


def test_a_restarting_pool_survives_the_zygotes_death_where_the_parent_may_be_forked(make_pool):
    pool = make_pool(lambda item: -item, start_method="zygote", on_worker_death="restart")
    zygote = living_zygote()
    assert zygote is not None
    old = pool.pids
    os.kill(zygote.pid, signal.SIGKILL)
    assert all_gone(old)
    assert pool.collect(pool.submit(0, range(30)), timeout=BOUND) == [-item for item in range(30)]
    assert not set(old) & set(pool.pids)


def test_a_killed_zygote_is_no_zombie_once_there_is_a_new_one(from_zygote):
    from_zygote(len)
    zygote = living_zygote()
    assert zygote is not None
    os.kill(zygote.pid, signal.SIGKILL)
    assert wait_until(lambda: not alive(zygote.pid))
    from_zygote(len)
    assert not psutil.pid_exists(zygote.pid)


@pytest.mark.filterwarnings("ignore:.*results are copied from here on:UserWarning")
def test_starting_from_the_zygote_leaves_no_descriptor_open():
    with WorkerPool([len], 2, start_method="zygote"):
        pass
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with WorkerPool([bytes], 3, start_method="zygote", memory_limit=4096) as pool:
            assert [len(result) for result in pool.collect(pool.submit(0, [100_000] * 9))] == [100_000] * 9
    del pool
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before

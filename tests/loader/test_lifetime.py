"""However an iterator or a program ends, the workers end with it, and nothing is printed that does not belong there."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.utils.data import get_worker_info

from tests.loader.support_faults import Numbers, Stream, batches, children, ints, pids_of
from tests.pool.support import Tally, all_gone, wait_until
from torchdali import DataLoader

pytestmark = pytest.mark.timeout(60)

START = """
import json, os, signal, sys, threading, time
import torch, torchdali

def say(value):
    print(json.dumps(value), flush=True)

class Numbers(torch.utils.data.Dataset):
    seconds = 0.0
    def __len__(self):
        return 60
    def __getitem__(self, index):
        time.sleep(self.seconds)
        return torch.tensor([index])

def loader(**options):
    return torchdali.DataLoader(Numbers(), **{"batch_size": 3, "num_workers": 2, **options})

def pids(iterator):
    return [process.pid for process in iterator._workers]
"""
KINDS = ["", "persistent_workers=True", "pipeline=torch.neg"]


# --- within a program -------------------------------------------------------------------------------------------------


def test_breaking_out_of_a_loop_ends_the_workers():
    before = children()
    for batch in DataLoader(Numbers(60, seconds=0.001), batch_size=3, num_workers=2):
        assert ints(batch) == [0, 1, 2]
        assert len(children() - before) == 2
        break
    assert wait_until(lambda: children() == before)


@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}, {"pipeline": torch.neg}], ids=str)
def test_workers_end_when_nobody_holds_the_iterator_any_more(options):
    loader = DataLoader(Numbers(60), batch_size=3, num_workers=2, **options)
    iterator = iter(loader)
    next(iterator)
    pids = pids_of(iterator)
    assert len(pids) == 2
    del loader
    next(iterator)  # which lives on without its loader
    assert not all_gone(pids, 0)
    del iterator
    assert all_gone(pids)


def test_the_end_of_an_epoch_ends_the_workers_unless_they_persist():
    loader = DataLoader(Numbers(12), batch_size=3, num_workers=2)
    iterator = iter(loader)
    pids = pids_of(iterator)
    assert len(list(iterator)) == 4
    assert all_gone(pids)
    with pytest.raises(StopIteration):
        next(iterator)
    persistent = DataLoader(Numbers(12), batch_size=3, num_workers=2, persistent_workers=True)
    iterator = iter(persistent)
    pids = pids_of(iterator)
    assert len(list(iterator)) == 4
    assert not all_gone(pids, 0)
    assert pids_of(iter(persistent)) == pids


def test_an_exception_of_the_consumer_s_ends_the_workers_once_it_is_dealt_with():
    pids = []

    def consume():
        iterator = iter(DataLoader(Numbers(60), batch_size=3, num_workers=2))
        pids.extend(pids_of(iterator))
        for batch in iterator:
            raise LookupError(batch)

    with pytest.raises(LookupError):
        consume()
    assert wait_until(lambda: bool(gc.collect()) or all_gone(pids, 0))


def test_iterators_in_reference_cycles_are_collected():
    iterator = iter(DataLoader(Numbers(60), batch_size=3, num_workers=2))
    pids = pids_of(iterator)
    iterator.itself = iterator
    del iterator
    gc.collect()
    assert all_gone(pids)


def test_a_sampler_that_raises_leaves_no_worker():
    def sampler():
        yield [0, 1]
        raise LookupError("of the sampler")

    class Sampler:
        def __iter__(self):
            return sampler()

    before = children()
    loader = DataLoader(Numbers(60), batch_sampler=Sampler(), num_workers=2)
    with pytest.raises(LookupError, match="of the sampler"):
        iter(loader)
    gc.collect()
    assert wait_until(lambda: children() == before)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_workers_are_processes_that_have_ended_well_after_a_shutdown(seconds):
    iterator = iter(DataLoader(Numbers(60, seconds=seconds), batch_size=3, num_workers=2))
    workers = list(iterator._workers)
    assert [worker.is_alive() for worker in workers] == [True, True]
    assert len({worker.pid for worker in workers}) == 2
    next(iterator)
    iterator._shutdown_workers()
    for worker in [*workers, *iterator._workers]:
        worker.join(5)
        assert not worker.is_alive()
        assert worker.exitcode == 0
    assert len(iterator._workers) == 2


def test_after_an_epoch_the_workers_are_told_to_have_ended_well():
    iterator = iter(DataLoader(Numbers(12), batch_size=3, num_workers=3))
    list(iterator)
    assert [worker.exitcode for worker in iterator._workers] == [0, 0, 0]


def test_shutting_down_twice_and_going_on_afterwards_is_no_crash():
    iterator = iter(DataLoader(Numbers(12), batch_size=3, num_workers=2))
    next(iterator)
    iterator._shutdown_workers()
    iterator._shutdown_workers()
    with pytest.raises((StopIteration, RuntimeError)):
        next(iterator)


@pytest.mark.parametrize("options", [{}, {"num_workers": 0}, {"pipeline": torch.neg}], ids=str)
def test_iterators_refuse_to_be_pickled(options):
    iterator = iter(DataLoader(Numbers(12), batch_size=3, **{"num_workers": 2, **options}))
    with pytest.raises(NotImplementedError, match="cannot be pickled"):
        pickle.dumps(iterator)
    assert len(list(iterator)) == 4


def test_an_iterator_may_be_used_from_another_thread_than_the_one_that_made_it():
    made = []
    thread = threading.Thread(target=lambda: made.append(iter(DataLoader(Numbers(60), batch_size=3, num_workers=2))))
    thread.start()
    thread.join()
    (iterator,) = made
    time.sleep(0.05)  # the end of the thread that forked them ends no worker
    found = []

    def take():
        found.extend(ints(next(iterator)) for _ in range(10))

    found.extend(ints(next(iterator)) for _ in range(5))
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    found.extend(map(ints, iterator))
    assert found == batches(60, 3)


def test_two_threads_that_share_an_iterator_under_a_lock_get_each_batch_once():
    iterator, lock, found = iter(DataLoader(Numbers(240), batch_size=3, num_workers=2)), threading.Lock(), []

    def take():
        while True:
            with lock:
                try:
                    found.append(ints(next(iterator)))
                except StopIteration:
                    return

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == batches(240, 3)


def test_two_loaders_and_two_iterators_of_one_do_not_disturb_each_other():
    one, other = (DataLoader(Numbers(size), batch_size=3, num_workers=2) for size in (60, 90))
    found = [[], [], []]
    first, second, third = iter(one), iter(one), iter(other)
    for turn in range(20):
        for number, iterator in enumerate((first, second, third)):
            found[number].append(ints(next(iterator)))
        if turn == 10:
            for _ in other:
                break
    del first, second
    found[2] += map(ints, third)
    assert found == [batches(60, 3), batches(60, 3), batches(90, 3)]


def test_a_worker_may_use_a_loader_without_workers():
    class Outer(Numbers):
        def __getitem__(self, index):
            assert get_worker_info().num_workers == 2
            inner = DataLoader(Numbers(index + 1), batch_size=2, pipeline=torch.neg)
            return -torch.cat([batch.flatten() for batch in inner]).sum().reshape(1)

    loader = DataLoader(Outer(12), batch_size=3, num_workers=2)
    assert [ints(batch) for batch in loader] == [[sum(range(i + 1)) for i in batch] for batch in batches(12, 3)]


def test_a_worker_that_starts_workers_is_told_as_by_torch_that_it_cannot():
    class Outer(Numbers):
        def __getitem__(self, index):
            return next(iter(DataLoader(Numbers(4), num_workers=1)))

    with pytest.raises(AssertionError, match="daemonic"):
        next(iter(DataLoader(Outer(4), num_workers=1)))


@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_a_persistent_loader_begun_again_while_batches_are_under_way_gives_whole_epochs(kind):
    dataset = Numbers(60, seconds=0.001) if kind == "map" else Stream(60, seconds=0.001)
    workers = 2 if kind == "map" else 1
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, prefetch_factor=4, persistent_workers=True)
    pids = pids_of(iter(loader))
    for taken in (0, 1, 5, 19, 20):
        iterator = iter(loader)
        assert [ints(next(iterator)) for _ in range(taken)] == batches(60, 3)[:taken]
        assert pids_of(iterator) == pids
    assert [ints(batch) for batch in loader] == batches(60, 3)


def test_a_worker_init_fn_that_raises_is_raised_here_and_no_worker_is_left():
    begun = Tally(2)

    def init(index):
        begun.add(index)
        raise LookupError(f"of worker {index}")

    loader = DataLoader(Numbers(12), batch_size=3, num_workers=2, worker_init_fn=init)
    iterator = iter(loader)
    pids = pids_of(iterator)
    for number in range(4):
        with pytest.raises(LookupError, match=f"of worker {number % 2}") as caught:
            next(iterator)
        assert f"in DataLoader worker process {number % 2}" in str(caught.value)
    with pytest.raises(StopIteration):
        next(iterator)
    assert all_gone(pids)


def test_no_thread_is_made():
    before = threading.enumerate()
    loader = DataLoader(Numbers(60), batch_size=3, num_workers=2, pipeline=torch.neg, pin_memory=False)
    iterator = iter(loader)
    next(iterator)
    assert threading.enumerate() == before
    assert len(list(iterator)) == 19
    assert threading.enumerate() == before


def test_a_time_out_is_a_runtime_error_in_torch_s_words_and_nothing_is_lost():
    go = Tally(1)

    class Slow(Numbers):
        def __getitem__(self, index):
            if index == 4:
                go.wait(0)
            return super().__getitem__(index)

    iterator = iter(DataLoader(Slow(12), batch_size=3, num_workers=2, timeout=0.2))
    assert ints(next(iterator)) == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"DataLoader timed out after 0\.2 seconds"):
            next(iterator)
    go.add(0)
    assert [ints(batch) for batch in iterator] == batches(12, 3)[1:]


@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}, {"pipeline": torch.neg}], ids=str)
def test_a_fork_of_the_user_s_leaves_the_iterator_alone(options):
    iterator = iter(DataLoader(Numbers(60), batch_size=3, num_workers=2, **options))
    sign = -1 if "pipeline" in options else 1
    found = [ints(sign * next(iterator))]
    for _ in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                own = DataLoader(Numbers(12), batch_size=3, num_workers=1)
                code = 0 if [ints(batch) for batch in own] == batches(12, 3) else 2
                iterator = None
                gc.collect()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        found.append(ints(sign * next(iterator)))
    found += [ints(sign * batch) for batch in iterator]
    assert found == batches(60, 3)


# --- whole programs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", KINDS)
def test_a_program_that_ends_with_a_living_iterator_ends_in_silence(program, options):
    running = program(
        START + f"it = iter(loader({options}))\nkept = [next(it) for _ in range(5)]\nsay(pids(it))\n", abrupt=False
    )
    pids = running.line()
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert len(pids) == 2
    assert all_gone(pids)


def test_a_program_that_ends_with_busy_workers_or_before_it_took_anything_ends_in_silence(program):
    running = program(START + "Numbers.seconds = 100\nit = iter(loader())\nsay(pids(it))\n")
    pids = running.line()
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert all_gone(pids)


def test_a_program_that_ends_by_an_exception_in_its_loop_shows_that_one_alone(program):
    running = program(START + "l = loader()\nfor b in l:\n    raise LookupError('the end')\n")
    ended = running.wait()
    assert ended.code == 1
    assert ended.err.count("Traceback") == 1
    assert ended.err.endswith("LookupError: the end\n")


@pytest.mark.slow
def test_a_new_interpreter_that_ends_with_a_living_iterator_ends_in_silence(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(START + "it = iter(loader(persistent_workers=True))\nnext(it)\nsay(pids(it))\n")
    path = os.pathsep.join(sys.path)
    ended = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert all_gone([int(pid) for pid in ended.stdout.strip("[]\n").split(",")])


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_workers_end_soon_after_their_parent_is_killed(program, seconds):
    running = program(START + f"Numbers.seconds = {seconds}\nit = iter(loader())\nsay(pids(it))\ntime.sleep(100)\n")
    pids = running.line()
    running.signal(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    assert all_gone(pids)

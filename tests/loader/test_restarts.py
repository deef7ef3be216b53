"""With ``on_worker_death="restart"`` a death costs time and a warning: each batch comes once, in order."""

import os
import random
import signal
import threading
import time
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from tests.loader.support_faults import (
    Bomb,
    Numbers,
    Stream,
    batches,
    drain,
    end,
    ints,
    only_batches,
    only_deaths,
    pids_of,
    told_of_deaths,
)
from tests.pool.support import Tally, all_gone
from torchdali import DataLoader, WorkerDiedError

pytestmark = [pytest.mark.timeout(90), pytest.mark.filterwarnings("ignore:worker . of DataLoader:RuntimeWarning")]


def restarting(dataset, **options):
    return DataLoader(dataset, **{"batch_size": 3, "num_workers": 2, "on_worker_death": "restart", **options})


def streams(size, batch_size, workers, in_turn=True):
    """What a loader gives of Stream: the workers' batches in turn, those that have ended passed over."""
    parts = [list(range(worker, size, workers)) for worker in range(workers)]
    lists = [[part[i : i + batch_size] for i in range(0, len(part), batch_size)] for part in parts]
    found = []
    for turn in range(max(map(len, lists))):
        found += [of_one[turn] for of_one in lists if turn < len(of_one)]
    return found if in_turn else sorted(found)


@pytest.mark.parametrize("how", ["sigkill", "sigsegv", "os._exit"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_batch_that_kills_once_is_made_again_and_a_warning_tells(how, workers):
    dataset = Numbers(30, Bomb(how, times=1), {13})
    with told_of_deaths() as told:
        found = drain(iter(restarting(dataset, num_workers=workers)))
    assert found == batches(30, 3)
    (text,) = told
    assert "another one was started in its place" in text
    assert "[12, 13, 14]" in text
    assert dataset.reads.counts(30) == [1] * 12 + [2, 2, 1] + [1] * 15


def test_several_deaths_in_several_epochs_of_a_persistent_loader():
    dataset = Numbers(60, Bomb(times=2), {7, 31, 44, 59})
    loader = restarting(dataset, persistent_workers=True)
    with told_of_deaths() as told:
        for _ in range(3):
            assert drain(iter(loader)) == batches(60, 3)
    assert len(told) == 8


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("at", [{0}, {9}, {38, 39}, {5, 20}])
def test_an_iterable_dataset_is_read_again_to_the_same_place(at, persistent):
    bomb = Bomb(times=1)
    loader = restarting(Stream(40, bomb, at), persistent_workers=persistent)
    for _ in range(3):
        assert drain(iter(loader)) == streams(40, 3, 2)
    assert all(bomb.set_off[number] == 1 for number in at)


def test_an_iterable_dataset_with_a_state_is_not_read_again():
    class Counter(IterableDataset):
        def __init__(self):
            self.position, self.reads, self.bomb = 0, Tally(40), Bomb(times=1)

        def state_dict(self):
            return {"position": self.position}

        def load_state_dict(self, state):
            self.position = state["position"]

        def __iter__(self):
            while self.position < 40:
                self.position += 1
                self.reads.add(self.position - 1)
                if self.position == 30:
                    self.bomb(30)
                yield self.position - 1
            self.position = 0

    loader = restarting(Counter(), num_workers=1, batch_size=4)
    assert drain(iter(loader)) == batches(40, 4)


def test_out_of_order_each_batch_comes_once():
    loader = restarting(Numbers(90, Bomb(times=1), {13, 40, 77}), in_order=False, num_workers=3)
    assert sorted(drain(iter(loader))) == batches(90, 3)
    stream = restarting(Stream(90, Bomb(times=1), {13, 40, 77}), in_order=False, num_workers=3)
    assert sorted(drain(iter(stream))) == streams(90, 3, 3, in_turn=False)


def test_a_batch_that_always_kills_is_given_up_and_raised_and_all_others_come():
    bomb = Bomb()
    found = drain(iter(restarting(Numbers(30, bomb, {13}))))
    assert [entry for number, entry in enumerate(found) if number != 4] == batches(30, 3)[:4] + batches(30, 3)[5:]
    assert isinstance(found[4], WorkerDiedError)
    assert found[4].items == ([12, 13, 14],)
    assert "given up after 3 tries" in str(found[4])
    assert bomb.set_off[13] == 3


def test_a_sample_of_an_iterable_dataset_that_always_kills_raises_and_the_epoch_ends():
    found = drain(iter(restarting(Stream(40, Bomb(), {9}))), most=200)
    assert only_deaths(found)
    assert [batch for batch in only_batches(found) if batch[0] % 2 == 0] == streams(40, 3, 2)[0::2]
    assert [batch for batch in only_batches(found) if batch[0] % 2 == 1] == [[1, 3, 5]]


def test_workers_killed_while_idle_are_replaced_within_the_epoch_and_nothing_is_missing():
    loader = restarting(Numbers(90), persistent_workers=True)
    for _ in range(2):
        iterator = iter(loader)
        found = [ints(next(iterator)) for _ in range(5)]
        victims = pids_of(iterator)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        assert all_gone(victims)
        found += drain(iterator)
        assert found == batches(90, 3)


def test_a_worker_init_fn_that_kills_once_costs_nothing():
    bomb = Bomb("os._exit", times=1)
    assert drain(iter(restarting(Numbers(30), worker_init_fn=bomb))) == batches(30, 3)


def test_a_worker_init_fn_that_always_kills_is_an_error_and_no_hang():
    loader = restarting(Numbers(12), worker_init_fn=lambda index: end("os._exit"))
    found = drain(iter(loader))
    assert len(found) == 4
    assert len(only_deaths(found)) == 4


def test_another_worker_s_init_fn_that_always_kills_costs_only_its_batches():
    loader = restarting(Numbers(30), worker_init_fn=lambda index: index and end("os._exit"))
    found = drain(iter(loader))
    assert found[0::2] == batches(30, 3)[0::2]
    assert len(found) == 10


def test_a_replaced_worker_is_told_of_itself_and_initialised_again():
    class Told(Numbers):
        def __getitem__(self, index):
            super().__getitem__(index)
            info = torch.utils.data.get_worker_info()
            return torch.tensor([info.id, info.num_workers, initialised[0]])

    initialised = [-1]

    def init(index):
        initialised[0] = index

    loader = restarting(Told(12, Bomb(times=1), {4, 7}), worker_init_fn=init, batch_size=1)
    assert [ints(batch) for batch in loader] == [[number % 2, 2, number % 2] for number in range(12)]


@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_a_death_at_work_for_an_epoch_that_was_left_does_not_reach_into_the_next(kind):
    """What is still queued of the old epoch is done by a worker that begins with the new one."""
    dataset = Numbers(60, seconds=0.01) if kind == "map" else Stream(60, seconds=0.01)
    loader = restarting(dataset, num_workers=1, prefetch_factor=6, persistent_workers=True)
    for taken in (1, 2, 3):
        iterator = iter(loader)
        assert [ints(next(iterator)) for _ in range(taken)] == batches(60, 3)[:taken]
        (victim,) = pids_of(iterator)
        os.kill(victim, signal.SIGKILL)
        assert all_gone([victim])
        assert drain(iter(loader)) == batches(60, 3)


@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_a_death_that_comes_after_the_next_epoch_has_begun_does_not_mix_the_two(kind):
    dataset = Numbers(60, seconds=0.01) if kind == "map" else Stream(60, seconds=0.01)
    loader = restarting(dataset, num_workers=1, prefetch_factor=6, persistent_workers=True)
    for _ in range(3):
        iterator = iter(loader)
        assert ints(next(iterator)) == [0, 1, 2]
        (victim,) = pids_of(iterator)
        iterator = iter(loader)  # the worker still is at what was asked before
        os.kill(victim, signal.SIGKILL)
        assert drain(iterator) == batches(60, 3)


def test_the_device_stage_gets_each_batch_once():
    loader = restarting(Numbers(60, Bomb(times=1), {7, 31, 44}), pipeline=torch.neg)
    with told_of_deaths() as told:
        assert [ints(-batch) for batch in loader] == batches(60, 3)
    assert len(told) == 3


def test_a_warning_that_is_an_error_loses_no_batch():
    import warnings

    iterator = iter(restarting(Numbers(30, Bomb(times=1), {13})))
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            try:
                found.append(ints(next(iterator)))
            except RuntimeWarning:
                continue
            except StopIteration:
                break
    assert found == batches(30, 3)


@pytest.mark.slow
def test_workers_that_were_not_forked_are_replaced_too(tmp_path):
    dataset = KillOnce(tmp_path)
    loader = restarting(dataset, multiprocessing_context="spawn", num_workers=1)
    assert drain(iter(loader)) == batches(12, 3)


class KillOnce(torch.utils.data.Dataset):
    def __init__(self, folder):
        self.flag = folder / "killed"

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 4 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([index])


class Killer:
    """Kills workers of an iterator at random moments; never so many in a row that the pool would give up."""

    def __init__(self, seed, reads):
        self.draw, self.reads, self.kills, self.iterator, self.over = random.Random(seed), reads, 0, None, False
        self.killed_of: tuple[Any, int] = (None, 0)
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()

    def run(self):
        seen = 0
        while not self.over:
            time.sleep(self.draw.uniform(0.005, 0.06))
            # The tries of a batch are counted wherever a kill comes from: let some work be done between two of them.
            if self.iterator is None or (self.reads[0] - seen) % 256 < 40:
                continue
            if self.killed_of[0] is not self.iterator.progress:  # another epoch
                self.killed_of = self.iterator.progress, 0
            if self.killed_of[1] == 2:  # three would be the tries of one batch
                continue
            seen = self.reads[0]
            pids = self.iterator._pool.pids
            if pids:
                try:
                    os.kill(self.draw.choice(pids), signal.SIGKILL)
                    self.kills += 1
                    self.killed_of = self.killed_of[0], self.killed_of[1] + 1
                except ProcessLookupError:
                    continue


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["map", "iterable", "out of order"])
def test_random_kills_during_several_epochs_lose_nothing(kind):
    progress = Tally(1)

    class Busy(Stream if kind == "iterable" else Numbers):
        def _see(self):
            progress._map[0] = (progress._map[0] + 1) % 256
            time.sleep(0.0005)

        def __getitem__(self, index):
            self._see()
            return super().__getitem__(index)

        def __iter__(self):
            for number in super().__iter__():
                self._see()
                yield number

    loader = restarting(
        Busy(300), batch_size=5, num_workers=3, persistent_workers=True, in_order=kind != "out of order"
    )
    expected = streams(300, 5, 3) if kind == "iterable" else batches(300, 5)
    with Killer(len(kind), progress) as killer:
        epochs = 0
        while epochs < 3 or (killer.kills < 8 and epochs < 40):
            iterator = killer.iterator = iter(loader)
            found = drain(iterator)
            if kind == "out of order":
                found.sort()
            assert found == expected
            epochs += 1
    assert killer.kills >= 8

"""A worker that dies: its batches raise and name their samples, or are made again; all else comes, in order, once."""

import os
import signal
import time

import pytest
import torch

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
from tests.pool.support import Tally, all_gone, wait_until
from torchdali import DataLoader, WorkerDiedError

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("sigkill", r"DataLoader worker \(pid (\d+)\) is killed by signal: Killed\. "),
        ("sigsegv", r"DataLoader worker \(pid (\d+)\) is killed by signal: Segmentation fault\. "),
        ("sigterm", r"DataLoader worker \(pid (\d+)\) is killed by signal: Terminated\. "),
        ("os._exit", r"DataLoader worker \(pid\(s\) (\d+)\) exited unexpectedly"),
    ],
)
def test_a_death_is_a_runtime_error_in_the_words_of_torch_that_names_its_samples(how, text):
    loader = DataLoader(Numbers(24, Bomb(how), {10}), batch_size=3, num_workers=2)
    iterator = iter(loader)
    pids = pids_of(iterator)
    assert [ints(next(iterator)) for _ in range(3)] == batches(9, 3)
    with pytest.raises(RuntimeError, match=text) as caught:
        next(iterator)
    assert type(caught.value) is WorkerDiedError
    assert caught.value.items == ([9, 10, 11],)
    assert caught.value.worker == 1
    assert caught.value.pid == pids[1]
    assert str(pids[1]) in str(caught.value)
    assert caught.value.exitcode == (3 if how == "os._exit" else -getattr(signal, how.upper()))


def test_sys_exit_in_a_dataset_is_a_runtime_error_and_ends_neither_the_program_nor_the_epoch():
    iterator = iter(DataLoader(Numbers(12, Bomb("sys.exit"), {4}), batch_size=3, num_workers=2))
    assert ints(next(iterator)) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="SystemExit"):
        next(iterator)
    assert list(map(ints, iterator)) == batches(12, 3)[2:]


def test_the_other_worker_s_batches_still_come_and_each_lost_one_raises_in_its_turn():
    loader = DataLoader(Numbers(60, Bomb(), {15}), batch_size=3, num_workers=2)
    found = drain(iter(loader))
    assert len(found) == len(loader)
    assert found[0::2] == batches(60, 3)[0::2]
    assert found[1:5:2] == batches(60, 3)[1:5:2]
    assert isinstance(found[5], WorkerDiedError)
    assert all(entry in batches(60, 3) for entry in only_batches(found))


def test_every_lost_batch_names_its_own_samples():
    found = drain(iter(DataLoader(Numbers(24, Bomb(), {9}), batch_size=3, num_workers=2, prefetch_factor=3)))
    lost = [number for number, entry in enumerate(found) if isinstance(entry, WorkerDiedError)]
    assert lost[0] == 3  # what waited behind it may be lost too, or come from the other worker
    assert [entry for entry in found if isinstance(entry, list)] == [
        batch for number, batch in enumerate(batches(24, 3)) if number not in lost
    ]
    assert [found[number].items for number in lost] == [(batches(24, 3)[number],) for number in lost]


def test_pairs_of_indices_are_named_as_they_are():
    pairs = [(number, number + 1) for number in range(0, 20, 2)]
    loader = DataLoader(Numbers(20, Bomb(), {2}), batch_sampler=pairs, num_workers=1)
    found = drain(iter(loader))
    assert found[0] == [0, 1]
    assert [error.items for error in found[1:]] == [(pair,) for pair in pairs[1:]]


def test_without_automatic_batching_the_sample_is_named():
    found = drain(iter(DataLoader(Numbers(6, Bomb(), {2}), batch_size=None, num_workers=1)))
    assert found[:2] == [[0], [1]]
    assert [error.items for error in found[2:]] == [(2,), (3,), (4,), (5,)]


def test_a_death_while_idle_between_batches_is_raised_and_names_what_is_lost():
    dataset = Numbers(40)
    iterator = iter(DataLoader(dataset, batch_size=4, num_workers=2))
    first = [ints(next(iterator)), ints(next(iterator))]
    victim = pids_of(iterator)[1]
    assert wait_until(lambda: dataset.reads[23] == 1)  # all that was asked for is done
    time.sleep(0.05)
    os.kill(victim, signal.SIGKILL)
    assert all_gone([victim])
    found = first + drain(iterator)
    assert len(found) == 10
    assert found[0::2] == batches(40, 4)[0::2]
    for number in range(1, 10, 2):
        entry = found[number]
        if isinstance(entry, WorkerDiedError):
            assert (entry.pid, entry.items) == (victim, (batches(40, 4)[number],))
        else:
            assert entry == batches(40, 4)[number]
    assert found[1] == [4, 5, 6, 7]


def test_all_workers_killed_while_idle_are_errors_and_no_hang():
    iterator = iter(DataLoader(Numbers(40), batch_size=4, num_workers=2))
    assert ints(next(iterator)) == [0, 1, 2, 3]
    victims = pids_of(iterator)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    assert all_gone(victims)
    found = drain(iterator)
    assert len(found) == 9
    assert {error.pid for error in only_deaths(found)} <= set(victims)
    assert len(only_deaths(found)) >= 5  # at most the four that were under way were made before


@pytest.mark.parametrize("persistent", [False, True])
def test_a_later_epoch_of_the_same_loader_is_whole(persistent):
    loader = DataLoader(Numbers(24, Bomb(times=1), {10}), batch_size=3, num_workers=2, persistent_workers=persistent)
    assert only_deaths(drain(iter(loader)))
    for _ in range(2):
        assert drain(iter(loader)) == batches(24, 3)


@pytest.mark.parametrize("persistent", [False, True])
def test_an_epoch_that_is_left_at_its_death_does_not_spoil_the_next(persistent):
    loader = DataLoader(Numbers(24, Bomb(times=1), {4}), batch_size=3, num_workers=2, persistent_workers=persistent)
    with pytest.raises(WorkerDiedError):
        for _ in loader:
            pass
    assert [ints(batch) for batch in loader] == batches(24, 3)


def test_workers_killed_between_the_epochs_of_a_persistent_loader_are_replaced():
    loader = DataLoader(Numbers(24), batch_size=3, num_workers=2, persistent_workers=True)
    assert [ints(batch) for batch in loader] == batches(24, 3)
    for victims in ([0], [1], [0, 1]):
        pids = [pids_of(loader._iterator)[victim] for victim in victims]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert all_gone(pids)
        assert [ints(batch) for batch in loader] == batches(24, 3)
        assert not set(pids_of(loader._iterator)) & set(pids)


@pytest.mark.parametrize("in_order", [True, False])
def test_an_iterable_dataset_s_death_is_raised_and_the_epoch_ends(in_order):
    loader = DataLoader(Stream(40, Bomb(), {9}), batch_size=2, num_workers=2, in_order=in_order)
    found = drain(iter(loader), most=200)
    assert only_deaths(found)
    other = [list(range(first, first + 4, 2)) for first in range(0, 40, 4)]
    assert [batch for batch in only_batches(found) if batch[0] % 2 == 0] == other


def test_a_death_out_of_order_loses_nothing_unseen():
    loader = DataLoader(Numbers(40, Bomb(), {14}), batch_size=2, num_workers=2, in_order=False)
    found = drain(iter(loader))
    assert len(found) == len(loader)
    lost = [list(error.items[0]) for error in only_deaths(found)]
    assert sorted(only_batches(found) + lost) == batches(40, 2)


def test_a_death_out_of_order_costs_no_more_than_that_worker_s_share():
    loader = DataLoader(Numbers(200, Bomb(), {2}, seconds=0.002), batch_size=2, num_workers=2, in_order=False)
    found = drain(iter(loader))
    assert len(found) == len(loader)
    assert len(only_batches(found)) >= len(loader) // 2


@pytest.mark.parametrize("how", ["sigkill", "os._exit", "sys.exit"])
def test_a_collate_function_that_ends_its_worker_is_a_runtime_error(how):
    bomb = Bomb(how)

    def collate(samples):
        if samples[0] == 6:
            bomb()
        return torch.cat(samples)

    iterator = iter(DataLoader(Numbers(12), batch_size=3, num_workers=2, collate_fn=collate))
    assert [ints(next(iterator)) for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        next(iterator)
    assert ints(next(iterator)) == [9, 10, 11]


@pytest.mark.parametrize("how", ["sigkill", "os._exit"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_init_fn_that_ends_its_worker_is_told_and_no_batch_is_missing_in_silence(how, workers):
    def init(index):
        if index == workers - 1:
            end(how)

    with told_of_deaths() as told:
        found = drain(iter(DataLoader(Numbers(12), batch_size=3, num_workers=workers, worker_init_fn=init)))
    assert len(found) == 4
    for number, entry in enumerate(found):
        assert entry == batches(12, 3)[number] or entry.items == (batches(12, 3)[number],)
    assert only_deaths(found) or told  # that a worker is missing
    if workers == 1:
        assert only_batches(found) == []


def test_sys_exit_in_worker_init_fn_is_a_runtime_error():
    iterator = iter(DataLoader(Numbers(6), batch_size=3, num_workers=2, worker_init_fn=lambda index: end("sys.exit")))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            next(iterator)


def test_a_keyboard_interrupt_that_is_raised_in_a_worker_interrupts_nobody_here():
    class Interrupted(Numbers):
        def __getitem__(self, index):
            if index == 4:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    iterator = iter(DataLoader(Interrupted(9), batch_size=3, num_workers=1))
    assert ints(next(iterator)) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        next(iterator)


def test_a_worker_that_is_stopped_for_a_while_costs_nothing():
    iterator = iter(DataLoader(Numbers(60, seconds=0.001), batch_size=3, num_workers=2))
    found = [ints(next(iterator))]
    for pid in pids_of(iterator):
        os.kill(pid, signal.SIGSTOP)
    goes_on = Tally(1)
    child = os.fork()
    if child == 0:  # somebody lets them go on while this process waits for them
        goes_on.add(0)
        time.sleep(0.3)
        for process in iterator._processes:
            os.kill(process.pid, signal.SIGCONT)
        os._exit(0)
    found += drain(iterator)
    os.waitpid(child, 0)
    assert goes_on[0] == 1
    assert found == batches(60, 3)


@pytest.mark.parametrize("policy", ["raise", "restart"])
@pytest.mark.filterwarnings("ignore:worker . of DataLoader:RuntimeWarning")
def test_a_worker_that_stays_stopped_is_killed_and_counts_as_dead(policy):
    iterator = iter(DataLoader(Numbers(60, seconds=0.001), batch_size=3, num_workers=2, on_worker_death=policy))
    iterator._pool._recovery._stopped_seconds = 0.3  # it is 10
    found = [ints(next(iterator))]
    victim = pids_of(iterator)[0]
    os.kill(victim, signal.SIGSTOP)
    found += drain(iterator)
    assert len(found) == 20
    if policy == "restart":
        assert found == batches(60, 3)
    else:
        assert {error.pid for error in only_deaths(found)} <= {victim}  # none, if it had nothing in hand
        assert len(only_deaths(found)) <= 1
        assert [batch for batch in found if batch in batches(60, 3)] == [
            batch for batch, said in zip(batches(60, 3), found, strict=True) if not isinstance(said, WorkerDiedError)
        ]
    assert all_gone([victim])


def test_batches_that_came_before_the_death_stay_whole():
    class Large(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index).to(torch.uint8).expand(100_000)

    loader = DataLoader(Large(60, Bomb(times=1), {20, 40}), batch_size=4, num_workers=2, persistent_workers=True)
    kept = []
    for _ in range(3):
        iterator = iter(loader)
        for _ in range(len(loader)):
            try:
                kept.append(next(iterator))
            except WorkerDiedError:
                continue
    for batch in kept:
        first = int(batch[0, 0])
        assert first % 4 == 0
        assert torch.equal(batch, torch.arange(first, first + 4, dtype=torch.uint8)[:, None].expand(4, 100_000))
    assert [int(batch[0, 0]) for batch in kept[-15:]] == list(range(0, 60, 4))

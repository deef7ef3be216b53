"""What goes wrong in a source or around it, and how a reader goes on."""

import os
import signal

import numpy as np
import pytest

from tests.pool.support import Tally, all_gone, die, wait_until
from tests.source.support import epoch, firsts, numbers
from torchdali.errors import WorkerDiedError, WorkerTraceback
from torchdali.source import ExternalSource, SampleInfo

pytestmark = pytest.mark.timeout(30)


class Unreadable(Exception):
    def __init__(self, path, index):
        super().__init__(f"{path} cannot be read")
        self.path, self.index = path, index


def failing(bad, length=20):
    good = numbers(length)

    def source(info):
        if length <= info.idx_in_epoch < length + 1:
            raise StopIteration
        if info.idx_in_epoch in bad:
            raise Unreadable("a.jpg", info.idx_in_epoch)
        return good(info)

    return source


def outcome(reader):
    """All of an epoch: the first numbers of each batch, or what it raised."""
    found = []
    while True:
        try:
            found.append(firsts([reader.next()]))
        except StopIteration:
            return found
        except (Unreadable, WorkerDiedError) as error:
            found.append(error)


@pytest.mark.parametrize("prefetch", [1, 3])
@pytest.mark.parametrize("parallel", [True, False])
def test_an_exception_comes_in_the_place_of_its_batch_and_the_next_batch_follows(make_reader, parallel, prefetch):
    reader = make_reader(ExternalSource(failing({5, 13}), parallel=parallel), prefetch=prefetch)
    for _ in range(2):
        first, second, third, fourth, fifth = outcome(reader)
        assert (first, third, fifth) == ([0, 1, 2, 3], [8, 9, 10, 11], [16, 17, 18, 19])
        assert [(type(error), error.path, error.index) for error in (second, fourth)] == [
            (Unreadable, "a.jpg", 5),
            (Unreadable, "a.jpg", 13),
        ]
        reader.reset()


def test_an_exception_of_a_worker_shows_where_it_was_raised(make_reader):
    reader = make_reader(failing({1}))
    with pytest.raises(Unreadable, match=r"a\.jpg cannot be read") as caught:
        reader.next()
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "SampleInfo(idx_in_epoch=1, " in str(caught.value.__cause__)
    assert "in source" in str(caught.value.__cause__)


def test_the_first_exception_of_a_batch_is_raised(make_reader):
    with pytest.raises(Unreadable) as caught:
        make_reader(failing({2, 1, 3})).next()
    assert caught.value.index == 1


@pytest.mark.parametrize("parallel", [True, False])
def test_an_exception_beyond_the_end_is_not_seen(make_reader, parallel):
    assert outcome(make_reader(ExternalSource(failing({7, 9}, length=6), parallel=parallel))) == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("number", [0, 1])
def test_an_exception_of_one_source_drops_the_batch_of_all(make_reader, number):
    sources = [numbers(12), numbers(12)]
    sources[number] = failing({5}, 12)
    reader = make_reader(*sources)
    first, second, third = outcome(reader)
    assert isinstance(second, Unreadable)
    assert (first, third) == ([0, 1, 2, 3], [8, 9, 10, 11])


def killing(victims, length=40):
    """A source that kills its worker, once for each of some samples."""
    good, killed = numbers(length), Tally(length)

    def source(info):
        if info.idx_in_epoch in victims and not killed[info.idx_in_epoch]:
            killed.add(info.idx_in_epoch)
            die()
        return good(info)

    return source


def test_the_batch_of_a_dead_worker_raises_and_the_others_come(make_reader):
    reader = make_reader(killing({9}), num_workers=3)
    found = outcome(reader)
    dead = [position for position, batch in enumerate(found) if isinstance(batch, WorkerDiedError)]
    assert dead == [2]
    error = found[2]
    assert isinstance(error, WorkerDiedError)
    assert 9 in [info.idx_in_epoch for info in error.items]  # type: ignore[attr-defined]
    assert error.exitcode == -signal.SIGKILL
    assert [batch for batch in found if batch is not error] == [
        list(range(first, first + 4)) for first in range(0, 40, 4) if first != 8
    ]


def test_reset_replaces_dead_workers_and_the_epoch_is_whole(make_reader):
    reader = make_reader(killing({9, 30}), num_workers=3)
    before = reader.pids
    outcome(reader)
    assert len(reader.pids) == 1
    reader.reset()
    assert len(reader.pids) == 3
    assert len(set(reader.pids) & set(before)) == 1
    assert firsts(epoch(reader)) == list(range(40))
    assert reader.statistics().deaths == 2


def test_with_all_workers_dead_the_reader_says_so_until_reset_revives_it(make_reader):
    reader = make_reader(killing({2}), num_workers=1)
    for _ in range(3):
        with pytest.raises(WorkerDiedError):
            reader.next()
    reader.reset()
    assert firsts(epoch(reader)) == list(range(40))


def test_reset_replaces_workers_that_were_killed_between_epochs(make_reader):
    reader = make_reader(numbers(12))
    assert firsts(epoch(reader)) == list(range(12))
    victims = reader.pids
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    assert all_gone(victims)
    reader.reset()
    assert firsts(epoch(reader)) == list(range(12))
    assert not set(reader.pids) & set(victims)


def test_a_batch_that_was_ready_is_delivered_though_all_workers_died_since(make_reader):
    ready = Tally(2)

    def source(info):
        if info.idx_in_epoch >= 4:
            ready.add(1)
            die()
        ready.add(0)
        return np.array([info.idx_in_epoch])

    reader = make_reader(source, num_workers=1)
    reader.prefetch()
    pids = reader.pids
    assert ready.wait(1)
    assert all_gone(pids)
    assert firsts([reader.next()]) == [0, 1, 2, 3]
    with pytest.raises(WorkerDiedError, match="while it worked on SampleInfo.idx_in_epoch=4") as caught:
        reader.next()
    assert SampleInfo(4, 0, 1, 0) in caught.value.items


def test_where_forking_is_no_longer_allowed_a_reader_goes_on_with_who_is_left(make_reader):
    allowed = [True]

    def before_fork():
        if not allowed[0]:
            raise RuntimeError("forking is over")

    reader = make_reader(killing({9}), before_fork=before_fork)
    allowed[0] = False
    outcome(reader)
    with pytest.warns(UserWarning, match="going on with 1 workers, others have died: forking is over"):
        reader.reset()
    assert firsts(epoch(reader)) == list(range(40))


def test_where_forking_is_no_longer_allowed_and_nobody_is_left_reset_says_why(make_reader):
    allowed = [True]

    def before_fork():
        if not allowed[0]:
            raise RuntimeError("forking is over")

    reader = make_reader(killing({0}), num_workers=1, before_fork=before_fork)
    allowed[0] = False
    with pytest.raises(WorkerDiedError):
        reader.next()
    with pytest.raises(RuntimeError, match="forking is over"):
        reader.reset()


@pytest.mark.parametrize("parallel", [True, False])
def test_a_closed_reader_gives_no_batches_but_those_delivered_stay(make_reader, parallel):
    reader = make_reader(ExternalSource(numbers(100), parallel=parallel))
    batch = reader.next()
    pids = reader.pids
    reader.close()
    reader.close()
    assert all_gone(pids, 0)
    assert reader.pids == []
    assert firsts([batch]) == [0, 1, 2, 3]
    if parallel:
        with pytest.raises(RuntimeError, match="is closed"):
            reader.next()


def test_batches_that_are_kept_are_never_overwritten(make_reader):
    def source(info):
        if info.idx_in_epoch >= 400:
            raise StopIteration
        return np.full(3000, info.idx_in_epoch)

    reader = make_reader(source, prefetch=3)
    kept = []
    for number, batch in enumerate(epoch(reader)):
        if number % 3 == 0:
            kept.append(batch)
    reader.reset()
    epoch(reader)
    for batch in kept:
        for index, tensor in zip(batch.indices, batch.outputs[0], strict=True):
            assert tensor.min() == tensor.max() == index


def test_dropped_epochs_leave_no_memory_behind(make_reader):
    reader = make_reader(lambda info: np.zeros(5000), prefetch=3)
    for _ in range(20):
        reader.next()
        reader.reset()
    pool = reader._pool
    assert pool is not None
    reader._end()

    def idle():
        pool.collect(pool.submit(0, [SampleInfo(0, 0, 0, 0)]))
        return pool._arena.in_use == 0

    assert wait_until(idle)

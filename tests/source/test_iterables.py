"""Iterables: of batches in workers of their own, of samples and batches in this process."""

import contextlib
import itertools
import os
import random
import signal

import numpy as np
import pytest
import torch

from tests.helpers import through_interrupts
from tests.pool.support import Tally, wait_until
from tests.source.support import epoch, firsts, numbers, values
from torchdali import worker_info
from torchdali.source import BatchInfo, ExternalSource, Reader, _feed


class Batches:
    """Batches of four numbers from 0 on, each with the process that made it."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        for batch in range(self.count):
            yield [np.array([4 * batch + position, os.getpid()]) for position in range(4)]


def in_a_worker(source, **options):
    return ExternalSource(source, batch=True, **options)


def test_an_iterable_keeps_its_worker(make_reader):
    reader = make_reader(in_a_worker(Batches(20)), numbers(80), num_workers=3)
    batches = epoch(reader)
    makers = {int(sample[1]) for batch in batches for sample in batch.outputs[0]}
    assert len(makers) == 1
    assert makers < set(reader.pids)
    assert firsts(batches) == list(range(80))


def test_iterables_alone_have_no_more_processes_than_there_are_of_them(make_reader):
    reader = make_reader(in_a_worker(Batches(3)), in_a_worker(Batches(3)), num_workers=5)
    assert len(reader.pids) == 2
    batches = epoch(reader)
    assert [int(batch.outputs[0][0][1]) for batch in batches] != [int(batch.outputs[1][0][1]) for batch in batches]


@pytest.mark.parametrize("workers", [1, 2])
def test_more_iterables_than_workers_share_them(make_reader, workers):
    reader = make_reader(*(in_a_worker(Batches(5)) for _ in range(3)), num_workers=workers)
    assert len(reader.pids) == workers
    for batch in epoch(reader):
        assert [[int(sample[0]) for sample in output] for output in batch.outputs] == [
            list(range(4 * batch.iteration, 4 * batch.iteration + 4))
        ] * 3


def test_one_worker_serves_iterables_and_callables(make_reader):
    reader = make_reader(in_a_worker(Batches(5)), numbers(20), num_workers=1)
    batches = epoch(reader)
    assert firsts(batches) == list(range(20))
    assert [int(value[0]) for batch in batches for value in batch.outputs[1]] == list(range(20))


def test_an_iterable_begins_anew_in_each_epoch_and_also_in_the_middle_of_one(make_reader):
    reader = make_reader(in_a_worker(Batches(5)))
    for _ in range(3):
        assert firsts(epoch(reader)) == list(range(20))
        reader.reset()
    assert int(reader.next().outputs[0][0][0]) == 0
    assert int(reader.next().outputs[0][0][0]) == 4
    reader.reset()
    assert firsts(epoch(reader)) == list(range(20))


@pytest.mark.parametrize("make", [lambda source: (batch for batch in source), iter], ids=["generator", "iterator"])
def test_what_cannot_begin_anew_goes_on_where_it_is_and_loses_nothing(make_reader, make):
    reader = make_reader(in_a_worker(make(Batches(10))), prefetch=4)
    seen = [int(reader.next().outputs[0][0][0]) for _ in range(3)]
    reader.reset()  # four more had been asked for
    seen += [int(batch.outputs[0][0][0]) for batch in epoch(reader)]
    assert seen == list(range(0, 40, 4))
    reader.reset()
    assert epoch(reader) == []


@pytest.mark.parametrize("kind", ["an iterable", "a generator"])
def test_after_a_death_the_next_worker_goes_on_where_the_last_one_was(make_reader, kind):
    source = Batches(40) if kind == "an iterable" else iter(Batches(40))
    reader = make_reader(in_a_worker(source), pool_options={"on_worker_death": "restart"})
    seen, makers = [], set()
    with pytest.warns(RuntimeWarning, match="another one was started in its place"):
        for number in range(40):
            for sample in reader.next().outputs[0]:
                seen.append(int(sample[0]))
                makers.add(int(sample[1]))
            if number in (3, 17, 18):
                os.kill(reader.pids[0], signal.SIGKILL)
    assert seen == list(range(160))
    assert len(makers) > 1


def test_an_exception_of_an_iterable_arrives_once_and_its_generator_is_then_at_its_end(make_reader):
    def generate():
        yield [np.zeros(2)]
        raise LookupError("no more of these")

    reader = make_reader(in_a_worker(generate), batch_size=1)
    reader.next()
    with pytest.raises(LookupError, match="no more of these"):
        reader.next()
    assert epoch(reader) == []


def test_the_generators_are_seeded_by_seed_and_epoch(make_reader):
    def generate():
        for _ in range(3):
            yield [np.array([random.random(), np.random.random(), float(torch.rand(()))])]

    def draws(seed):
        reader = make_reader(in_a_worker(generate), batch_size=1, seed=seed)
        first = values(epoch(reader))
        reader.reset()
        return first, values(epoch(reader))

    one, two = draws(1), draws(2)
    assert one == draws(1)
    assert len({str(value) for run in (one, two) for value in [*run[0], *run[1]]}) == 12


def test_each_source_is_asked_ahead_as_far_as_it_wants(make_reader):
    calls = Tally(2)

    def count(number):
        def source(info):
            calls.add(number)
            return np.array([info.idx_in_epoch, 0])

        return ExternalSource(source, prefetch_queue_depth=number * 4 + 1)

    reader = make_reader(count(0), count(1), batch_size=2, num_workers=1, prefetch=3)
    reader.prefetch()
    assert wait_until(lambda: calls.counts(2) == [2, 10])
    reader.next()
    assert wait_until(lambda: calls.counts(2) == [4, 12])


def test_worker_info_tells_the_worker_and_is_nothing_here(make_reader):
    reader = make_reader(lambda info: np.array([worker_info().id, worker_info().num_workers]))
    assert {tuple(sample.tolist()) for sample in reader.next().outputs[0]} <= {(0, 2), (1, 2)}
    assert worker_info() is None


def test_samples_of_equal_shape_lie_in_one_block_and_others_do_not(make_reader):
    reader = make_reader(lambda info: np.full(300 if info.epoch_idx == 0 else info.idx_in_batch + 1, info.idx_in_epoch))
    reader.next()  # from which the shape is learnt
    batches = [reader.next().outputs[0] for _ in range(6)]
    block = batches[-1].block
    assert block is not None
    assert batches[-1].as_tensor() is block
    assert block.shape == (4, 300)
    assert [int(sample[0]) for batch in batches for sample in batch] == list(range(4, 28))
    reader.reset()
    ragged = [reader.next().outputs[0] for _ in range(3)][-1]
    assert ragged.block is None
    assert [len(sample) for sample in ragged] == [1, 2, 3, 4]


class Raising:
    """Goes on behind what it raises."""

    def __init__(self, item=lambda number: [np.array([number])] * 4):
        self.item = item

    def __iter__(self):
        return map(self.checked, range(6))

    def checked(self, number):
        if number == 1:
            raise LookupError("the second")
        return self.item(number)


@pytest.mark.parametrize("parallel", [True, False])
def test_what_was_raised_before_the_place_that_is_gone_to_is_not_raised_again(make_reader, parallel):
    reader = make_reader(in_a_worker(Raising(), parallel=parallel))
    assert int(reader.next().outputs[0][0][0]) == 0
    with pytest.raises(LookupError):
        reader.next()
    assert int(reader.next().outputs[0][0][0]) == 2
    reader.reset(BatchInfo(3, 1))
    assert [int(batch.outputs[0][0][0]) for batch in epoch(reader)] == [3, 4, 5]


def test_a_batch_that_raised_used_up_what_it_had_read_until_then(make_reader):
    def seen(reader):
        found = []
        while True:
            try:
                found.append([int(sample) for sample in reader.next().outputs[0]])
            except LookupError:
                found.append("raised")
            except StopIteration:
                return found

    reader = make_reader(ExternalSource(Raising(np.array), batch=False, parallel=False), batch_size=2)
    assert seen(reader) == ["raised", [2, 3], [4, 5]]
    for first in range(1, 3):
        reader.reset(BatchInfo(first, 1))
        assert seen(reader) == [[2, 3], [4, 5]][first - 1 :]


class Interrupted:
    """Numbers, during the making of some of which Ctrl-C comes, once each; it goes on behind that."""

    def __init__(self, count, *places):
        self.count, self.places = count, list(places)

    def __iter__(self):
        return map(self.checked, itertools.chain.from_iterable(map(self.again, range(self.count))))

    def again(self, number):
        return [number] * (2 if number in self.places else 1)

    def checked(self, number):
        if number in self.places:
            self.places.remove(number)
            raise KeyboardInterrupt
        return np.array(number)


@pytest.mark.parametrize("cycle", [False, "quiet"])
def test_an_interrupt_in_an_iterable_that_goes_on_loses_no_sample(make_reader, cycle):
    source = ExternalSource(Interrupted(9, 1, 4, 7), batch=False, parallel=False, cycle=cycle)
    reader = make_reader(source, batch_size=2)
    if cycle:  # it has no end
        batches = []
        while len(batches) < 9:
            with contextlib.suppress(KeyboardInterrupt):
                batches.append(reader.next())
        expected = [*range(9), *range(9)]
    else:
        batches, interrupts = through_interrupts(reader.next)
        assert interrupts == 3
        expected = [*range(9)]
    assert values(batches) == expected


def test_an_interrupt_while_a_batch_is_made_of_what_an_iterable_gave_loses_nothing(make_reader, monkeypatch):
    reader = make_reader(ExternalSource(Interrupted(6), batch=False, parallel=False), batch_size=2)
    check, calls = _feed.check_sample, itertools.count(1)

    def interrupted(*of):
        if next(calls) in (2, 4):
            raise KeyboardInterrupt
        return check(*of)

    monkeypatch.setattr(_feed, "check_sample", interrupted)
    batches, interrupts = through_interrupts(reader.next)
    assert interrupts == 2
    assert values(batches) == [*range(6)]


@pytest.mark.parametrize("batch", [False, True])
def test_a_generator_that_an_interrupt_has_ended_is_no_end_of_the_epoch_in_silence(make_reader, batch):
    interrupts = 1

    def numbers():
        nonlocal interrupts
        for number in range(6):
            if number == 3 and interrupts:
                interrupts -= 1
                raise KeyboardInterrupt
            yield [np.array(number)] if batch else np.array(number)

    reader = make_reader(ExternalSource(numbers, batch=batch, parallel=False), batch_size=1)
    assert [int(reader.next().outputs[0][0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyboardInterrupt):
        reader.next()
    with pytest.raises(RuntimeError, match=r"Ctrl-C came while the source .*numbers.* was at work; it is a generator"):
        reader.next()
    assert epoch(reader) == []
    reader.reset()
    assert values(epoch(reader)) == [*range(6)]


def test_an_epoch_of_an_iterable_under_fire_is_whole(make_reader):
    """Ctrl-C again and again, wherever the reader is at work."""
    reader = make_reader(
        ExternalSource([np.array(n) for n in range(20_000)], batch=False, parallel=False), batch_size=3
    )
    raised = 0

    def handle(number, frame):
        nonlocal raised
        del number
        while frame is not None:
            if frame.f_code is Reader.next.__code__:
                raised += 1
                raise KeyboardInterrupt
            frame = frame.f_back

    before = signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGVTALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0001, 0.0001)
    try:
        batches, interrupts = through_interrupts(reader.next)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, before)
    assert interrupts == raised > 0
    assert values(batches) == [*range(20_000)]

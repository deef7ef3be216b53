"""Readers beside the order of epochs: what results depend on, what is prepared ahead, looking before taking."""

import functools
import random

import numpy as np
import pytest
import torch

from tests.pool.support import Tally, wait_until
from tests.source.support import epoch, firsts, numbers, values
from torchdali.pool import PoolStatistics
from torchdali.source import ExternalSource, Reader


def draws(info):
    """What a source draws from the three generators that it finds."""
    if info.iteration >= 4:
        raise StopIteration
    return np.array([random.random(), np.random.random(), torch.rand(()).item(), np.random.randint(1000)])


def draw_epochs(make_reader, source, count=2, **options):
    reader = make_reader(source, **options)
    found = []
    for _ in range(count):
        found.append(values(epoch(reader)))
        reader.reset()
    reader.close()
    return found


@functools.cache
def expected_draws():
    """What one worker without prefetching gives."""
    reader = Reader(
        [ExternalSource(draws)],
        batch_size=4,
        num_workers=1,
        prefetch=1,
        seed=1,
        last_batch="partial",
        name="expected",
    )
    reader.start()
    found = []
    for _ in range(2):
        found.append(values(epoch(reader)))
        reader.reset()
    reader.close()
    return found


@pytest.mark.parametrize("prefetch", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_random_numbers_depend_neither_on_workers_nor_on_prefetching(make_reader, workers, prefetch):
    assert draw_epochs(make_reader, draws, num_workers=workers, prefetch=prefetch) == expected_draws()


def test_random_numbers_differ_between_samples_epochs_and_seeds(make_reader):
    one, two = draw_epochs(make_reader, draws)
    (other,) = draw_epochs(make_reader, draws, count=1, seed=2)
    for column in range(3):
        assert len({sample[column] for sample in [*one, *two, *other]}) == 48


def test_random_numbers_of_batch_sources_depend_on_the_batch_alone(make_reader):
    source = ExternalSource(lambda info: [draws(info)] * 2, batch=True, batch_info=True)
    one, two = (draw_epochs(make_reader, source, num_workers=workers) for workers in (1, 3))
    assert one == two
    assert one[0] != one[1]


def test_the_generators_of_this_process_are_left_alone(make_reader):
    torch.manual_seed(4)
    np.random.seed(4)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    epoch(make_reader(draws))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_the_prefetch_of_a_source_deepens_that_of_the_reader(make_reader):
    reader = make_reader(ExternalSource(numbers(100), prefetch_queue_depth=6))
    reader.next()
    assert len(reader._pending) == 6


def test_statistics_are_those_of_the_pool(make_reader):
    reader = make_reader(numbers(8), prefetch=1)
    epoch(reader)
    assert reader.statistics().items >= 8
    serial = make_reader(ExternalSource(numbers(8), parallel=False))
    epoch(serial)
    assert serial.statistics() == PoolStatistics()
    assert serial.pids == []


def test_batches_are_prepared_ahead_and_no_further(make_reader):
    done = Tally(40)

    def source(info):
        done.add(info.idx_in_epoch)
        return np.zeros(1)

    reader = make_reader(source, prefetch=3)
    reader.prefetch()
    assert wait_until(lambda: done.counts(12) == [1] * 12)
    reader.next()
    assert wait_until(lambda: done.counts(16) == [1] * 16)
    assert done.counts(40)[16:] == [0] * 24


def test_the_hint_makes_room_for_the_first_samples(make_reader):
    def source(info):
        return np.zeros(500_000, np.uint8)

    for hint, copied in ((None, True), (600_000, False)):
        reader = make_reader(ExternalSource(source, bytes_per_sample_hint=hint), prefetch=1)
        reader.next()
        assert (reader.statistics().copied_bytes > 0) == copied


@pytest.mark.parametrize("parallel", [True, False])
def test_peek_gives_the_same_batch_until_advance(make_reader, parallel):
    reader = make_reader(ExternalSource(numbers(6), parallel=parallel))
    batch = reader.peek()
    assert reader.peek() is batch
    reader.advance()
    assert firsts([reader.peek()]) == [4, 5]
    assert firsts([reader.next()]) == [4, 5]
    with pytest.raises(StopIteration):
        reader.peek()
    reader.advance()
    with pytest.raises(StopIteration):
        reader.next()


def test_reset_forgets_the_batch_that_was_looked_at(make_reader):
    reader = make_reader(numbers(12))
    assert values([reader.peek()])[0] == [0, 0]
    reader.reset()
    assert values([reader.peek()])[0] == [0, 1]
    assert values(epoch(reader)) == [[index, 1] for index in range(12)]
